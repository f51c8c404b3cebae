"""What a frame of Watermaze costs, drawn and stored: why histories keep poses and draw frames when read.

Steps the vector environment and single environments at random, and encodes and decodes the same frames as
PNG, in turn in one process on one core, and prints the median of the repeats, in its CPU time: other work on
the machine counts less.

    python scripts/benchmark_watermaze.py
"""

from __future__ import annotations

import io
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported

import gymnasium as gym
import numpy as np
from PIL import Image

import ad_hf.envs  # noqa: F401 (registers the environments)

K, STEPS, REPEATS = 64, 50, 9  # environments in the vector, their steps in a repeat, repeats


def main() -> None:
    envs: Any = gym.make_vec("ad_hf/Watermaze-v0", num_envs=K)
    env = gym.make("ad_hf/Watermaze-v0")
    envs.action_space.seed(0)
    frames, _ = envs.reset(seed=0)
    env.reset(seed=0)
    for _ in range(10):  # away from the centre
        frames = envs.step(envs.action_space.sample())[0]
    poses = envs.unwrapped.recorded()
    pngs = [encode(frame) for frame in frames]

    def step_vector() -> None:
        for _ in range(STEPS):
            envs.step(envs.action_space.sample())

    def step_single() -> None:
        for _ in range(STEPS):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

    measured: dict[str, tuple[int, Callable[[], Any]]] = {  # name -> frames in a repeat, what is timed
        f"step, {K} environments in a vector": (K * STEPS, step_vector),
        "step, a single environment": (STEPS, step_single),
        f"draw from poses, {K} at once": (K, lambda: envs.unwrapped.observe_recorded(poses)),
        "decode PNG": (K, lambda: [np.asarray(Image.open(io.BytesIO(png))) for png in pngs]),
        "encode PNG": (K, lambda: [encode(frame) for frame in frames]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(REPEATS):
        for name, (_, run) in measured.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    for name, (count, _) in measured.items():
        print(f"{name:36} {count / statistics.median(seconds[name]):8.0f} frames/s")
    png_bytes = sum(map(len, pngs)) / K
    print(f"bytes per step: pose {poses[0].nbytes}, PNG {png_bytes:.0f}, raw {frames[0].nbytes}")


def encode(frame: np.ndarray) -> bytes:
    """A frame as PNG, as `datasets.Image` would store it."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
