"""Watermaze's eye: what is seen from a pose in the pool, drawn with NumPy alone.

N = poses, S = 16 walls, H = 72 rows and W = 96 columns of a frame. A pose is (x, y, heading): units from the
centre of the pool, and radians counter-clockwise from the x axis.

The camera is level, so each column of a frame meets one wall, at one depth, and height grows by the same
amount from row to row. A frame is W depths, and after that one look into a table of colours for each pixel.
"""

from __future__ import annotations

import numpy as np

NUM_WALLS, APOTHEM, WALL_HEIGHT, EYE_HEIGHT = 16, 760.0, 192.0, 50.0
HEIGHT, WIDTH = 72, 96  # of a frame, in pixels
# Many poses are drawn in parts, whose intermediate arrays are small enough for the memory allocator to keep:
# larger ones go back to the system and are paged in again, which makes a frame twice as dear.
POSES_AT_ONCE, FRAMES_AT_ONCE = 64, 8

# A wall is WALL_ROWS texels high. Pictures hang on every other wall, from 18 to 174 units above the floor.
TEXEL_WIDTH, TEXEL_HEIGHT = 7.0, 6.0
PICTURE_COLUMNS, PICTURE_ROWS, ROWS_BELOW = 25, 26, 3
WALL_ROWS = int(WALL_HEIGHT / TEXEL_HEIGHT)

FLOOR, SKY = (32, 84, 120), (186, 214, 232)
WALLS = ((168, 160, 148), (128, 122, 114))  # those with a picture, and those between: corners stay visible

WALL_ANGLES = np.arange(NUM_WALLS) * (2 * np.pi / NUM_WALLS)  # where a wall's middle lies; wall 0 is at x > 0
NORMALS = np.stack([np.cos(WALL_ANGLES), np.sin(WALL_ANGLES)])  # (2, S), outwards


def draw_pictures() -> np.ndarray:
    """The eight pictures as a viewer sees them, (8, PICTURE_ROWS, PICTURE_COLUMNS, 3) uint8.

    Picture i hangs at i * 45 degrees. No two share a shape or a pair of colours: from across the room they
    are six pixels wide, and have to be told apart all the same.
    """
    down, right = np.mgrid[:PICTURE_ROWS, :PICTURE_COLUMNS]
    x, y = (right + 0.5) / PICTURE_COLUMNS * 2 - 1, 1 - (down + 0.5) / PICTURE_ROWS * 2  # -1 to 1, y upwards
    radius = np.hypot(x, y)
    designs = [  # a shape, its colour, the colour around it
        (radius < 0.75, (214, 40, 40), (250, 250, 245)),  # a disc
        (np.floor((x + 1) * 3) % 2 == 0, (246, 200, 40), (30, 50, 160)),  # upright stripes
        ((y > -0.7) & (y < 0.9 - 1.9 * np.abs(x)), (40, 190, 80), (20, 20, 24)),  # a triangle
        ((np.abs(x) < 0.25) | (np.abs(y) < 0.25), (250, 250, 250), (190, 30, 150)),  # a cross
        (np.floor(x * 2) % 2 == np.floor(y * 2) % 2, (244, 122, 20), (24, 36, 72)),  # a chessboard
        ((radius > 0.45) & (radius < 0.85), (60, 220, 230), (70, 20, 110)),  # a ring
        (np.floor((y + 1) * 3.5) % 2 == 0, (16, 16, 16), (236, 226, 190)),  # lying stripes
        (np.abs(x) + np.abs(y) < 0.9, (255, 150, 190), (10, 96, 60)),  # a diamond
    ]
    return np.array([np.where(shape[..., None], paint, ground) for shape, paint, ground in designs], np.uint8)


def outwards(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far points (...) lie from the centre in the direction of each wall, (..., S).

    Written out: the last bit of a matrix product depends on how many points there are.
    """
    return x[..., None] * NORMALS[0] + y[..., None] * NORMALS[1]


PICTURES = draw_pictures()


def draw_texture() -> np.ndarray:
    """All colours a pixel can have, (columns * (WALL_ROWS + 2),) uint32: red, green, blue and a byte unused.

    A column goes from the floor over the texels of a wall up to the sky. Columns 0 to 15 are plain walls;
    those of picture p begin at NUM_WALLS + p * PICTURE_COLUMNS.
    """
    shades = [wall % 2 for wall in range(NUM_WALLS)] + [0] * (len(PICTURES) * PICTURE_COLUMNS)
    texture = np.zeros((len(shades), WALL_ROWS + 2, 4), dtype=np.uint8)
    texture[:, :, :3] = np.array(WALLS)[shades][:, None]
    texture[:, 0, :3], texture[:, -1, :3] = FLOOR, SKY
    upwards = PICTURES[:, ::-1].swapaxes(1, 2).reshape(-1, PICTURE_ROWS, 3)
    texture[NUM_WALLS:, ROWS_BELOW + 1 : ROWS_BELOW + 1 + PICTURE_ROWS, :3] = upwards
    return texture.view(np.uint32).ravel()


TEXTURE = draw_texture()

# The ray of a pixel's centre goes one unit ahead, ASIDE to the right and UP: 90 degrees are seen across the
# width, and pixels are square, so 73.7 degrees across the height. UP is in rows of texels.
ASIDE = ((np.arange(WIDTH) + 0.5) / (WIDTH / 2) - 1).astype(np.float32)  # (W,)
UP = ((1 - (np.arange(HEIGHT) + 0.5) / (HEIGHT / 2)) * (HEIGHT / WIDTH) / TEXEL_HEIGHT).astype(np.float32)
EYE_ROW = np.float32(1 + EYE_HEIGHT / TEXEL_HEIGHT)  # in a column of the texture, whose row 0 is the floor


def render_poses(poses: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """What is seen from `poses` (..., 3), as frames (..., H, W, 3) uint8; in `out`, where it is given.

    A frame depends on its own pose alone, read as float32, so histories can keep poses, 1728 times smaller
    than frames, and have these drawn when they are read.

    Raises:
        ValueError: if a pose lies outside the pool.
    """
    flat = np.asarray(poses, dtype=np.float32).reshape(-1, 3)
    if out is None:
        out = np.empty((*np.shape(poses)[:-1], HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames = out.reshape(-1, HEIGHT, WIDTH, 3)
    for first in range(0, len(flat), POSES_AT_ONCE):
        part = slice(first, first + POSES_AT_ONCE)
        fill(frames[part], *look_along_columns(flat[part]))
    return out


def look_along_columns(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each column of a frame meets: its depth, and where its colours begin in TEXTURE; both (N, W).

    Depth is measured along the heading, so it is the same for all pixels of a column.

    Raises:
        ValueError: if a pose of `poses` (N, 3) lies outside the pool.
    """
    x, y, headings = poses.astype(np.float64).T
    gaps = APOTHEM - outwards(x, y)  # (N, S), to the walls
    inside = (gaps > 0).all(axis=1) & np.isfinite(headings)
    if not inside.all():
        wrong = poses[~inside][0].tolist()
        raise ValueError(f"pose {wrong} is not in the pool: keep (x, y) within {APOTHEM:.0f} of its centre")
    # A wall's normal, as the viewer sees it, points this far ahead and to the right.
    turned = headings[:, None] - WALL_ANGLES  # (N, S)
    ahead, right = np.cos(turned), np.sin(turned)
    # 1 / depth of each wall's plane is linear in ASIDE; the nearest wall has the largest.
    nearness = np.multiply((right / gaps).astype(np.float32)[..., None], ASIDE)  # (N, S, W)
    nearness += (ahead / gaps).astype(np.float32)[..., None]
    wall, depth = nearness.argmax(axis=1), 1 / nearness.max(axis=1)  # (N, W)

    def of_wall(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values.astype(np.float32), wall, axis=1)  # (N, W)

    # Where the ray meets the wall, from the wall's middle to the viewer's right.
    along = of_wall(outwards(-y, x)) + depth * (ASIDE * of_wall(ahead) - of_wall(right))
    texel = np.floor(along / np.float32(TEXEL_WIDTH) + np.float32(PICTURE_COLUMNS / 2))
    pictured = (wall % 2 == 0) & (texel >= 0) & (texel < PICTURE_COLUMNS)
    column = np.where(pictured, NUM_WALLS + wall // 2 * PICTURE_COLUMNS + texel, wall)
    return depth, (column * (WALL_ROWS + 2)).astype(np.float32)


def fill(frames: np.ndarray, depth: np.ndarray, begin: np.ndarray) -> None:
    """Colour `frames` (N, H, W, 3) from the depths and columns (N, W) that `look_along_columns` found."""
    size = (min(len(frames), FRAMES_AT_ONCE), HEIGHT, WIDTH)
    rows, entries = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.intp)
    colours = np.empty((*size, 4), dtype=np.uint8)
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        part = slice(first, first + FRAMES_AT_ONCE)
        n = len(frames[part])
        row = np.multiply(UP[:, None], depth[part, None], out=rows[:n])  # (n, H, W), texels above the eye
        # Floor and sky are cut off in the middle of their rows, so that rounding does not leave the column.
        np.clip(row, 0.5 - EYE_ROW, WALL_ROWS + 1.5 - EYE_ROW, out=row)
        row += (begin[part] + EYE_ROW)[:, None]
        entries[:n] = row
        TEXTURE.take(entries[:n], out=colours[:n].view(np.uint32)[..., 0], mode="clip")
        for channel in range(3):  # one by one, five times as fast as all at once
            frames[part, ..., channel] = colours[:n, ..., channel]
