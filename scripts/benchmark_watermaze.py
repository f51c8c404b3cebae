"""What a frame of Watermaze costs, drawn and stored: why histories keep poses and draw frames when read.

Steps the vector environment and single environments at random, and encodes and decodes the same frames as
PNG, in turn in one process on one core, and prints the median of the repeats, in its CPU time: other work on
the machine counts less.

    python scripts/benchmark_watermaze.py
"""

from __future__ import annotations

from benchmarking import interleaved  # isort: skip  # before NumPy

import io
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

import ad_hf.envs  # noqa: F401 (registers the environments)

K, STEPS, REPEATS = 64, 50, 9  # environments in the vector, their steps in a repeat, repeats


def main() -> None:
    """Measure and print."""
    envs: Any = gym.make_vec("ad_hf/Watermaze-v0", num_envs=K)
    env = gym.make("ad_hf/Watermaze-v0")
    envs.action_space.seed(0)
    frames, _ = envs.reset(seed=0)
    env.reset(seed=0)
    for _ in range(10):  # away from the centre
        frames = envs.step(envs.action_space.sample())[0]
    poses = envs.unwrapped.recorded()
    pngs = [encode(frame) for frame in frames]

    def step_vector() -> int:
        for _ in range(STEPS):
            envs.step(envs.action_space.sample())
        return K * STEPS

    def step_single() -> int:
        for _ in range(STEPS):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
        return STEPS

    measured = {  # each returns the frames it made
        f"step, {K} environments in a vector": step_vector,
        "step, a single environment": step_single,
        f"draw from poses, {K} at once": lambda: len(envs.unwrapped.observe_recorded(poses)),
        "decode PNG": lambda: len([np.asarray(Image.open(io.BytesIO(png))) for png in pngs]),
        "encode PNG": lambda: len([encode(frame) for frame in frames]),
    }
    for name, rate in interleaved(measured, REPEATS).items():
        print(f"{name:36} {rate:8.0f} frames/s")
    png_bytes = sum(map(len, pngs)) / K
    print(f"bytes per step: pose {poses[0].nbytes}, PNG {png_bytes:.0f}, raw {frames[0].nbytes}")


def encode(frame: np.ndarray) -> bytes:
    """A frame as PNG, as `datasets.Image` would store it."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
