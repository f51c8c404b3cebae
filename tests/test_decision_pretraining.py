"""Decision pretraining (DPT): a query first, then the context as a set, in play as in training.

B = environments, L = transitions, A = actions.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from test_generation import ROOM, Life, played_by_hand, rooms
from test_models import assert_close, lively_model
from transformers import AutoModel

from ad_hf.evaluation import history_prompt
from ad_hf.histories import Histories, collect
from ad_hf.models import ADConfig, ADContext, ADModel
from ad_hf.tasks import load_task_family
from ad_hf.windows import decision_batch

NUM_ACTIONS = 5


class SetLife(Life):
    """The same, with its inputs as DPT is to see them."""

    def inputs(self, row: int, length: int) -> dict[str, torch.Tensor]:
        """A query for the last observation, and all of the last `length` transitions but the first."""
        past = self.rows[row][-length:]
        query = [(past[-1][0], torch.tensor(NUM_ACTIONS), torch.tensor(0.0), torch.tensor(False))]
        told = [
            (observation, before[1], reward, begins)
            for before, (observation, _, reward, begins) in itertools.pairwise(past)
        ]
        columns = [torch.stack(column)[None] for column in zip(*query, *told, strict=True)]
        names = ("observation", "previous_action", "previous_reward", "episode_start")
        return dict(zip(names, columns, strict=True))


def dpt_model(decoder: str = "llama", **settings: Any) -> ADModel:
    return lively_model(decoder, unordered_context=True, **({"context_length": 9} | settings))


@pytest.fixture(scope="module")
def histories() -> Histories:
    """Two learners in Dark Room, with what the optimal policy would have done."""
    tasks = load_task_family("dark-room")["train"][:2]
    return collect(tasks, "q-learning", 3, seed=0, expert_actions=True)


# What is seen


@pytest.mark.parametrize(
    ("decoder", "settings"),
    [
        ("llama", {}),
        ("llama", {"tokens_per_transition": 3}),
        ("llama", {"attn_implementation": "eager"}),
        ("llama", {"context_length": 2}),
        ("llama", {"observation_space": {"type": "Box", "shape": [44, 36, 3], "dtype": "uint8"}}),
        ("gpt2", {}),
        ("gpt2", {"tokens_per_transition": 3}),
        ("qwen3", {"attn_implementation": "sdpa"}),
        ("mistral", {}),
        ("mamba", {}),
        ("gpt_neo", {}),
    ],
)
def test_every_step_is_a_full_pass_over_the_query_and_the_set(decoder: str, settings: dict[str, Any]) -> None:
    model = dpt_model(decoder, **settings)
    life, context = SetLife(model, num_envs=2), model.start(2)
    lengths = []
    for _ in range(26):
        logits = life.live(context)
        lengths.append(context.length)
        for row in range(2):
            assert_close(logits[row], life.full_pass(row, context.length))
    assert lengths.count(model.config.context_length) >= 3, "it never forgot: the test has lost its point"


@pytest.mark.parametrize(("decoder", "tokens"), [("llama", 1), ("gpt2", 3)])
def test_a_row_that_sits_out_knows_what_it_lived_and_nothing_else(decoder: str, tokens: int) -> None:
    model = dpt_model(decoder, tokens_per_transition=tokens)
    life, context = SetLife(model, num_envs=4, seed=3), model.start(4)
    chance = torch.Generator().manual_seed(1)
    busy = torch.tensor([1.0, 0.9, 0.5, 0.2])  # the last row sits out most of the time, the first never
    late = []  # whether an episode began where a row lived through its first step after others
    for step in range(40):
        active = torch.rand(4, generator=chance) < busy
        active[3] &= step > 12  # and has lived nothing when the first context is cut
        logits = life.live(context, active)
        real = torch.ones(4, context.length) if context.is_real is None else context.is_real
        lengths = real[:, : context.length].sum(dim=1).int().tolist()
        for row in active.nonzero()[:, 0].tolist():
            if lengths[row] == 1 < context.length:
                late.append(bool(life.rows[row][-1][3]))
            assert_close(logits[row], life.full_pass(row, lengths[row]))
    assert any(late), "no row began late, or none with an episode: the test has lost its point"


def test_a_context_is_a_set() -> None:
    # Positions and a second layer would tell an order; without them there is none left.
    decoder = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 4}
    model = ADModel(ADConfig(decoder=decoder, unordered_context=True)).eval()
    with torch.no_grad():
        model.decoder.wpe.weight.zero_()
    contexts = [model.start(1), model.start(1)]
    for context in contexts:
        life = Life(model, num_envs=1)
        for _ in range(8):
            life.live(context)
    for values in contexts[1].tokens.values():
        values[:, 1:8] = values[:, [5, 3, 1, 7, 2, 6, 4]]
        values[:, 0] = values[:, 9]  # nothing is known of how the first came about, so it is not shown
    one, other = (model.next_action_logits(context, np.ones((1, 2)), np.ones(1)) for context in contexts)
    assert_close(one, other)
    contexts[1].tokens["previous_reward"][:, 3] += 1
    assert (model.next_action_logits(contexts[1], np.ones((1, 2)), np.ones(1)) - one).abs().max() > 1e-4


def test_what_is_played_is_what_was_trained_on(histories: Histories) -> None:
    model, L = dpt_model(context_length=30), 30
    steps = np.arange(7, 7 + L)[None]  # over two episodes
    begins = np.isin(steps, histories.episode_offsets) | (steps == 7)
    batch = decision_batch(histories, steps, begins, NUM_ACTIONS, np.arange(1, L)[None], steps[:, -1])
    with torch.no_grad():
        wanted = model(**batch).logits[:, -1]
    context = model.start(1)
    for step, begin in zip(steps[0], begins[0], strict=True):
        reward = histories.reward[step - 1 : step]
        logits = model.next_action_logits(context, histories.observation[[step]], reward, begin[None])
        context.action[:] = int(histories.action[step])
    assert_close(logits, wanted)


def test_act_takes_its_actions_from_these_logits() -> None:
    model = dpt_model()
    told, acting = model.start(2), model.start(2)
    for step in range(20):
        observation, reward = torch.tensor([[step % 9, 3], [4, step % 7]]), torch.tensor([step % 3, 0.5])
        likeliest = model.next_action_logits(told, observation, reward).argmax(dim=-1)
        action, acting = model.act(acting, observation, reward, do_sample=False)
        assert torch.equal(action, likeliest)
        told.action[:] = action


def test_nothing_is_cached() -> None:
    assert dpt_model().start(1).cache is None
    assert lively_model().start(1).cache is not None


# Episodes


def room_model(**settings: Any) -> ADModel:
    return dpt_model(observation_space=ROOM, **({"context_length": 12, "seed": 8} | settings))


def test_generate_equals_a_loop_written_by_hand() -> None:
    model = room_model()
    output = model.generate(rooms(), num_episodes=6, seed=3)
    assert torch.equal(output.episode_returns, played_by_hand(model, 6, seed=3))


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_every_autoreset_mode_gives_the_same_episodes(mode: AutoresetMode, ragged: bool) -> None:
    model = room_model(
        context_length=60
    )  # before a context is cut, for a row that waits brings the cut forward
    wanted, output = (
        model.generate(rooms(each, ragged), num_episodes=5, seed=1, do_sample=False)
        for each in (AutoresetMode.DISABLED, mode)
    )
    assert torch.equal(output.episode_lengths, wanted.episode_lengths)
    assert torch.equal(output.episode_returns, wanted.episode_returns)


def test_a_prompt_is_part_of_the_set(histories: Histories) -> None:
    model = dpt_model(context_length=20)
    prompt = history_prompt(histories, 1, 10)
    context: ADContext = model.start(1, prompt)
    logits = model.next_action_logits(context, np.array([[4, 4]]))
    seen = torch.cat([prompt["observation"], torch.tensor([[[4, 4]]])], dim=1)[:, [10, *range(1, 11)]]
    none, zero, no = torch.tensor([[NUM_ACTIONS]]), torch.zeros(1, 1), torch.tensor([[False]])
    begins = torch.cat([no, prompt["episode_start"][:, 1:], torch.tensor([[True]])], dim=1)
    with torch.no_grad():
        wanted = model(
            observation=seen,
            previous_action=torch.cat([none, prompt["action"]], dim=1),
            previous_reward=torch.cat([zero, prompt["reward"]], dim=1),
            episode_start=begins,
        ).logits[:, -1]
    assert_close(logits, wanted)


# On disk


def test_a_saved_model_still_takes_sets(tmp_path: Path) -> None:
    model = dpt_model()
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert again.config.unordered_context
    one, other = SetLife(model, 1), SetLife(again, 1)
    contexts = model.start(1), again.start(1)
    for _ in range(5):
        assert_close(one.live(contexts[0]), other.live(contexts[1]))
