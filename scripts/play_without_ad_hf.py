"""Play Dark Room with a model from the Hub where ad_hf is not there: torch, transformers and gymnasium only.

    python scripts/play_without_ad_hf.py org/ad-darkroom

The room is written out below, so nothing of ad_hf's environment can help; the goals are those on which the
repository says it was evaluated, which no training history was collected on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from huggingface_hub import hf_hub_download
from transformers import AutoModel

MOVES = np.array([[-1, 0], [1, 0], [0, 1], [0, -1], [0, 0]])  # left, right, up, down, stay


class DarkRooms(VectorEnv):
    """A 9x9 room for each goal (K, 2), 20 steps an episode; 1 for every step on the goal."""

    def __init__(self, goals: np.ndarray) -> None:
        self.goals, self.num_envs = goals, len(goals)
        self.single_observation_space = spaces.MultiDiscrete([9, 9])
        self.single_action_space = spaces.Discrete(5)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.positions, self.steps = np.full((self.num_envs, 2), 4), np.zeros(self.num_envs, dtype=int)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        rows = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        self.positions[rows], self.steps[rows] = 4, 0
        return self.positions.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        self.positions = np.clip(self.positions + MOVES[actions], 0, 8)
        self.steps += 1
        reward = (self.positions == self.goals).all(axis=1).astype(float)
        return self.positions.copy(), reward, np.zeros_like(self.steps, dtype=bool), self.steps >= 20, {}


def main() -> None:
    """Play and print the learning curve."""
    sys.modules["ad_hf"] = None  # type: ignore[assignment]  # to import it now fails
    model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
    evaluation = json.loads(Path(hf_hub_download(sys.argv[1], "evaluation.json")).read_text(encoding="utf-8"))
    goals = np.array([task["goal"] for task in evaluation["protocol"]["test_tasks"]])
    output = model.generate(DarkRooms(np.repeat(goals, 8, axis=0)), num_episodes=40, seed=0)
    curve = output.episode_returns.mean(dim=0).tolist()
    for episode in (1, 5, 10, 20, 30, 40):
        print(f"episode {episode:3}  mean return {curve[episode - 1]:5.2f} on {len(goals)} held-out goals")


if __name__ == "__main__":
    main()
