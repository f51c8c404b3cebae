"""Watermaze's frames against two other renderers: rays traced by Intel Embree, triangles drawn by OpenGL.

Both get a mesh that is built here from the numbers of the geometry; they share no line with the environment
but the paint: pictures and colours. N = poses, T = triangles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from ad_hf.envs.watermaze_view import FLOOR, HEIGHT, PICTURES, SKY, WALLS, WIDTH, render_poses

NUM_POSES = 128


class Scene(NamedTuple):
    """T triangles with what is painted on them."""

    corners: np.ndarray  # (T, 3, 3), x, y and z
    texture_corners: np.ndarray  # (T, 3, 2), from (0, 0) at a picture's upper left to (1, 1)
    picture: np.ndarray  # (T,), which picture, or -1
    colour: np.ndarray  # (T, 3), where there is none


def build_scene() -> Scene:
    """The pool: a regular polygon of 16 walls, 760 units from the centre, a picture on every other one."""
    corners: list[Any] = []
    texture_corners: list[Any] = []
    picture, colour = [], []

    def quad(
        upper_left: Any, upper_right: Any, lower_right: Any, lower_left: Any, which: int, paint: Any
    ) -> None:
        corners.extend([[upper_left, upper_right, lower_right], [upper_left, lower_right, lower_left]])
        texture_corners.extend([[(0, 0), (1, 0), (1, 1)], [(0, 0), (1, 1), (0, 1)]])
        picture.extend([which] * 2)
        colour.extend([paint] * 2)

    def at(degrees: float, distance: float, aside: float, height: float) -> tuple[float, float, float]:
        """A point `distance` from the centre and `aside` to the right of who looks there."""
        x, y = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return distance * x + aside * y, distance * y - aside * x, height

    half = 760 * np.tan(np.radians(11.25))  # half a wall's length
    for wall in range(16):
        degrees = wall * 22.5
        left, right = (at(degrees, 760, side, 0)[:2] for side in (-half, half))
        quad((*left, 192), (*right, 192), (*right, 0), (*left, 0), -1, WALLS[wall % 2])
        for height, paint in ((0, FLOOR), (192, SKY)):
            corners.append([(0, 0, height), (*left, height), (*right, height)])
            texture_corners.append(np.zeros((3, 2)))
            picture.append(-1)
            colour.append(paint)
    for which in range(8):  # 0.02 in front of their walls: a hundred thousandth of the pool
        upper_left, upper_right, lower_right, lower_left = (
            at(which * 45, 759.98, aside, height)
            for aside, height in ((-87.5, 174), (87.5, 174), (87.5, 18), (-87.5, 18))
        )
        quad(upper_left, upper_right, lower_right, lower_left, which, (0, 0, 0))
    return Scene(*(np.array(part) for part in (corners, texture_corners, picture, colour)))


SCENE = build_scene()


def some_poses() -> np.ndarray:
    """Poses (N, 3) all over the pool, some of them close to a wall, and the eight starts at the rim."""
    rng = np.random.default_rng(0)
    poses = np.zeros((NUM_POSES, 3), dtype=np.float32)
    radius, angle = 744 * np.sqrt(rng.random(NUM_POSES)), rng.uniform(-np.pi, np.pi, NUM_POSES)
    radius[8:16] = 744
    poses[:, 0], poses[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
    poses[:, 2] = rng.uniform(-np.pi, np.pi, NUM_POSES)
    rim = np.arange(8) * np.pi / 4
    poses[:8] = np.stack([712 * np.cos(rim), 712 * np.sin(rim), rim - np.pi], axis=1)
    return poses


def share_that_agrees(frames: np.ndarray, others: np.ndarray) -> float:
    """The share of pixels that differ by at most 2 of 255 levels in each channel."""
    differences = np.abs(frames.astype(int) - others.astype(int)).max(axis=-1)
    return float((differences <= 2).mean())


def trace(poses: np.ndarray) -> np.ndarray:
    """Frames (N, 72, 96, 3) of SCENE, a ray through the centre of each pixel."""
    scene_module = pytest.importorskip("embreex.rtcore_scene", reason="embreex has no wheel for this machine")
    from embreex.mesh_construction import TriangleMesh

    world = scene_module.EmbreeScene()
    TriangleMesh(world, SCENE.corners.astype(np.float32))
    x, y, heading = poses.astype(np.float64).T
    # 90 degrees across the width, 2 atan(3/4) = 73.7 across the height, from 50 units above the floor.
    across = np.tan(np.radians(45)) * (2 * np.arange(WIDTH) + 1 - WIDTH) / WIDTH
    up = 0.75 * (HEIGHT - 1 - 2 * np.arange(HEIGHT)) / HEIGHT
    directions = np.empty((len(poses), HEIGHT, WIDTH, 3))
    cos, sin = np.cos(heading)[:, None, None], np.sin(heading)[:, None, None]
    directions[..., 0], directions[..., 1] = cos + across * sin, sin - across * cos
    directions[..., 2] = up[:, None]
    origins = np.broadcast_to(
        np.stack([x, y, np.full_like(x, 50)], axis=-1)[:, None, None], directions.shape
    ).reshape(-1, 3)
    hits = world.run(origins.astype(np.float32), directions.reshape(-1, 3).astype(np.float32), output=1)
    triangle = hits["primID"]
    assert (triangle >= 0).all(), "a ray has left the pool"
    weights = np.stack([1 - hits["u"] - hits["v"], hits["u"], hits["v"]], axis=-1)  # barycentric, (rays, 3)
    u, v = np.einsum("rc,rct->tr", weights, SCENE.texture_corners[triangle])
    rows, columns = PICTURES.shape[1:3]
    which = SCENE.picture[triangle]
    row, column = np.clip(v * rows, 0, rows - 1).astype(int), np.clip(u * columns, 0, columns - 1).astype(int)
    colours = np.where(which[:, None] >= 0, PICTURES[which, row, column], SCENE.colour[triangle])
    return colours.reshape(directions.shape).astype(np.uint8)


SHADERS = {
    "vertex_shader": """
        #version 330
        in vec3 corner; in vec2 texture_corner; in float picture; in vec3 colour;
        uniform mat4 camera;
        out vec2 place; flat out float layer; flat out vec3 paint;
        void main() {
            gl_Position = camera * vec4(corner, 1.0);
            place = texture_corner; layer = picture; paint = colour;
        }
    """,
    "fragment_shader": """
        #version 330
        in vec2 place; flat in float layer; flat in vec3 paint;
        uniform sampler2DArray pictures;
        out vec4 pixel;
        void main() { pixel = vec4(layer < 0.0 ? paint : texture(pictures, vec3(place, layer)).rgb, 1.0); }
    """,
}


def rasterise(poses: np.ndarray) -> np.ndarray:
    """Frames (N, 72, 96, 3) of SCENE by OpenGL, without a screen."""
    moderngl = pytest.importorskip("moderngl", reason="OpenGL needs `pip install moderngl`")
    try:
        context = moderngl.create_context(standalone=True, backend="egl")
    except Exception as error:  # whatever the driver says
        pytest.skip(f"there is no OpenGL without a screen here: {error}")
    with context:
        program = context.program(**SHADERS)
        layers, rows, columns = PICTURES.shape[:3]
        pictures = context.texture_array((columns, rows, layers), 3, PICTURES.tobytes(), alignment=1)
        pictures.filter = (moderngl.NEAREST, moderngl.NEAREST)
        pictures.use()
        flat = np.concatenate([SCENE.picture[:, None], SCENE.colour / 255], axis=1)[:, None].repeat(3, axis=1)
        vertices = np.concatenate([SCENE.corners, SCENE.texture_corners, flat], axis=2).astype("f4")
        names = ("corner", "texture_corner", "picture", "colour")
        triangles = context.vertex_array(
            program, [(context.buffer(vertices.tobytes()), "3f 2f 1f 3f", *names)]
        )
        screen = context.framebuffer([context.renderbuffer((WIDTH, HEIGHT), 3)])
        screen.use()  # no depths: the pool is convex, only pictures hide something, and these come last
        frames = []
        near, far = 1.0, 2000.0
        for x, y, heading in poses.astype(np.float64):
            screen.clear()
            cos, sin = np.cos(heading), np.sin(heading)
            view = np.array([[sin, -cos, 0], [0, 0, 1], [-cos, -sin, 0]])  # to the right, up, and backwards
            lens = np.zeros((4, 4))
            lens[0, 0], lens[1, 1] = 1 / np.tan(np.radians(45)), 4 / 3
            lens[2, 2:], lens[3, 2] = [(near + far) / (near - far), 2 * near * far / (near - far)], -1
            camera = lens @ np.block([[view, -view @ [[x], [y], [50]]], [np.zeros((1, 3)), np.ones((1, 1))]])
            program["camera"].write(camera.T.astype("f4").tobytes())  # OpenGL reads columns first
            triangles.render()
            pixels = np.frombuffer(screen.read(components=3, alignment=1), dtype=np.uint8)
            frames.append(pixels.reshape(HEIGHT, WIDTH, 3)[::-1])  # and rows from below
        return np.stack(frames)


def test_frames_are_those_of_a_ray_tracer() -> None:
    poses = some_poses()
    assert share_that_agrees(render_poses(poses), trace(poses)) >= 0.999


def test_frames_are_those_of_opengl() -> None:
    poses = some_poses()
    assert share_that_agrees(render_poses(poses), rasterise(poses)) >= 0.999


def test_a_frame_is_a_matter_of_its_pose_alone() -> None:
    poses = some_poses()
    frames = render_poses(poses)
    shuffled = np.random.default_rng(0).permutation(NUM_POSES)
    np.testing.assert_array_equal(render_poses(poses[shuffled]), frames[shuffled])
    for i in (0, 7, 100):
        np.testing.assert_array_equal(render_poses(poses[i]), frames[i])
    np.testing.assert_array_equal(render_poses(poses[:70].astype(np.float64)), frames[:70])
    np.testing.assert_array_equal(render_poses(poses[::3]), frames[::3])


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 5), (3, 0, 2)])
def test_frames_have_the_shape_of_their_poses(shape: tuple[int, ...]) -> None:
    frames = render_poses(np.zeros((*shape, 3), dtype=np.float32))
    assert frames.shape == (*shape, 72, 96, 3)
    assert frames.dtype == np.uint8


def test_frames_are_drawn_where_they_are_wanted() -> None:
    poses = some_poses()[:20].reshape(4, 5, 3)
    out = np.zeros((4, 5, 72, 96, 3), dtype=np.uint8)
    assert render_poses(poses, out=out) is out
    np.testing.assert_array_equal(out, render_poses(poses))


def colours_of(pixels: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, pixels.reshape(-1, 3).tolist()))


def test_eight_pictures_hang_around_counter_clockwise_and_none_is_like_another() -> None:
    headings = np.arange(8) * np.pi / 4
    frames = render_poses(np.stack([np.zeros(8), np.zeros(8), headings], axis=1))
    plain = {FLOOR, SKY, *WALLS}
    seen = [colours_of(frame[:, 40:56]) - plain for frame in frames]
    assert seen == [colours_of(picture) for picture in PICTURES]
    assert all(len(colours) == 2 for colours in seen)
    assert len(set.union(*seen)) == 16


def test_every_heading_shows_a_picture_from_the_centre_and_no_two_look_the_same() -> None:
    headings = np.linspace(-np.pi, np.pi, 72, endpoint=False)
    frames = render_poses(np.stack([np.zeros(72), np.zeros(72), headings], axis=1))
    assert all(colours_of(frame) - {FLOOR, SKY, *WALLS} for frame in frames)
    assert len({frame.tobytes() for frame in frames}) == 72


@pytest.mark.parametrize("pose", [(759.99999, 0, 0), (-500, -600, 1), (0, np.nan, 0), (0, 0, np.inf)])
def test_poses_outside_the_pool_are_refused(pose: tuple[float, ...]) -> None:
    # As float32, the first is on the wall.
    with pytest.raises(ValueError, match=r"pose \[.*is not in the pool: keep .* within 760"):
        render_poses(np.array([(0, 0, 0), pose]))
