"""What a step of in-context reinforcement learning costs: environment steps per second on one core.

A model of 0.8 M parameters (4 layers, width 128) with a full context of 80 transitions plays Dark Room by
`ADModel.generate`, in 1, 64 and 256 environments, against a full forward pass over the last 80 transitions at
every step, as published implementations do, and against a decoder written by hand with a key-value cache that
is re-encoded like ours. The limit is the time of the matrix products alone: those with the weights, for the
new token and the re-encoded one, at the speed of a product of 1024 x 1024. Before that, every logit of
200 steps is compared with a full forward pass over the same transitions.

    python scripts/benchmark_generate.py [--compile]

--compile adds `generate(..., compile=True)` in 1 and in 256, which takes two minutes to begin.
"""

from __future__ import annotations

from benchmarking import Row, finish, interleaved, parser  # isort: skip  # before NumPy and torch

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch
from handwritten_decoder import CONTEXT as W
from handwritten_decoder import HEADS, LAYERS, SIZE, WIDTH, HandWrittenDecoder, benchmark_model, product

import ad_hf.envs  # noqa: F401 (registers the environments)
from ad_hf.models import ADModel

HORIZON = 20  # steps of an episode


def main() -> None:
    """Check, measure, print."""
    command_line = parser(__doc__)
    command_line.add_argument("--compile", action="store_true", help="also by torch.compile")
    command_line.add_argument("--repeats", type=int, default=3)
    arguments = command_line.parse_args()
    model = benchmark_model().eval()
    print(f"largest difference of a logit from a full forward pass: {largest_difference(model):.1e}")
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        playing, name = copy.deepcopy(model).to(dtype), str(dtype).removeprefix("torch.")
        for num_envs in (1, 64, 256):
            sides = {
                "ours": ours(playing, num_envs),
                "full forward": full_forwards(playing, num_envs),
                "by hand": by_hand(playing, num_envs),
                "product": product(dtype),
            }
            compiles = arguments.compile and num_envs != 64
            if compiles:
                sides["compiled"] = ours(playing, num_envs, compile=True)
            measured = interleaved(sides, arguments.repeats)
            weights = sum(p.numel() for p in playing.decoder.parameters() if p.ndim > 1)
            limit = (f"{SIZE}^2 product", measured.pop("product") / (2 * 2 * weights))
            what = f"generate, {num_envs} environment{'s' * (num_envs > 1)}, {name}"
            compared = ("full forward", "by hand") if dtype == torch.float32 else ("full forward",)
            references = [(side, measured[side]) for side in compared]
            rows += [Row(what, "steps/s", measured["ours"], reference, limit) for reference in references]
            if compiles:
                name_compiled = f"{what}, compiled"
                rows.append(Row(name_compiled, "steps/s", measured["compiled"], references[0], limit))
    finish(rows, arguments)


def rooms(num_envs: int) -> Any:
    """Dark rooms that all pay somewhere else."""
    return gym.make_vec("ad_hf/DarkRoom-v0", num_envs=num_envs)


def ours(model: ADModel, num_envs: int, compile: bool = False) -> Callable[[], int]:
    """Play by `generate`: the context is full after four episodes, and half of them are spent so."""
    envs, episodes = rooms(num_envs), 20 if num_envs == 1 else 8

    def play() -> int:
        output = model.generate(envs, num_episodes=episodes, seed=0, compile=compile)
        assert output.num_steps is not None
        return output.num_steps

    return play


def full_forwards(model: ADModel, num_envs: int) -> Callable[[], int]:
    """Play with a plain forward pass over the last W transitions at every step."""
    envs, agent = rooms(num_envs), Loop(model, num_envs)
    steps = 20 if num_envs == 1 else 4

    @torch.no_grad()
    def play() -> int:
        return agent.play(envs, steps, lambda window: model(**window, logits_to_keep=1).logits[:, -1])

    return play


def by_hand(model: ADModel, num_envs: int) -> Callable[[], int]:
    """Play with the hand-written decoder and a cache; as in `generate`, half of the context is re-encoded."""
    envs, agent, decoder = rooms(num_envs), Loop(model, num_envs), HandWrittenDecoder(model)
    shape = (num_envs, HEADS, W, WIDTH // HEADS)
    cache = [
        (torch.zeros(shape, dtype=model.dtype), torch.zeros(shape, dtype=model.dtype)) for _ in range(LAYERS)
    ]
    filled = 0

    def predict(window: dict[str, torch.Tensor]) -> torch.Tensor:
        nonlocal filled
        new = 1
        if filled in (0, W):
            filled, new = 0, W // 2 + 1
        logits = decoder({name: values[:, -new:] for name, values in window.items()}, cache, filled)
        filled += new
        return logits[:, -1]

    @torch.no_grad()
    def play() -> int:
        return agent.play(envs, W - W // 2, predict)  # from one re-encoding to the next

    return play


class Loop:
    """An agent-environment loop that keeps the last W transitions and never counts the first."""

    def __init__(self, model: ADModel, num_envs: int) -> None:
        self.window = {
            "observation": torch.zeros(num_envs, W, 2, dtype=torch.long),
            "previous_action": torch.zeros(num_envs, W, dtype=torch.long),
            "previous_reward": torch.zeros(num_envs, W),
            "episode_start": torch.zeros(num_envs, W, dtype=torch.bool),
        }
        self.steps = 0

    def play(self, envs: Any, steps: int, predict: Callable[[dict[str, torch.Tensor]], torch.Tensor]) -> int:
        """Take `steps` steps in every environment; returns how many that is."""
        observation, reward = envs.reset(seed=0)[0], torch.zeros(envs.num_envs)
        action = torch.zeros(envs.num_envs, dtype=torch.long)
        for _ in range(steps):
            new = {
                "observation": torch.as_tensor(observation),
                "previous_action": action,
                "previous_reward": reward,
                "episode_start": torch.full((envs.num_envs,), self.steps % HORIZON == 0),
            }
            for name, values in self.window.items():
                values[:, :-1] = values[:, 1:].clone()
                values[:, -1] = new[name]
            action = torch.multinomial(predict(self.window).float().softmax(-1), 1)[:, 0]
            observation, earned, _, _, _ = envs.step(action.numpy())
            reward = torch.as_tensor(earned).float()
            self.steps += 1
        return steps * envs.num_envs


@torch.no_grad()
def largest_difference(model: ADModel, steps: int = 200) -> float:
    """Between the logits of `act` and those of a forward pass over the same transitions."""
    envs = rooms(8)
    context, generator = model.start(8), torch.Generator().manual_seed(0)
    observation, reward, largest = envs.reset(seed=0)[0], None, 0.0
    for step in range(steps):
        begins = torch.full((8,), step % (HORIZON + 1) == 0)
        logits = model.next_action_logits(context, observation, reward, begins)
        full = model(**context.transitions(), logits_to_keep=1).logits[:, -1]
        largest = max(largest, float((logits - full).abs().max()))
        context.action = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        observation, earned, _, _, _ = envs.step(context.action.numpy())
        reward = torch.as_tensor(earned)
    assert largest < 1e-5, f"logits differ by {largest}"
    return largest


if __name__ == "__main__":
    main()
