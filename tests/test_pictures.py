"""Boxes: pictures and vectors are seen, remembered, saved and played like everything that can be counted.

B = windows or environments, L = transitions, D = width.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from huggingface_hub.errors import StrictDataclassError
from test_generation import Life, assert_every_step_is_exact
from test_models import DECODERS, assert_close, lively_model, logits_of, random_observations, random_windows
from transformers import AutoModel

from ad_hf import evaluation
from ad_hf.evaluation import history_prompt, history_prompts, in_context_returns
from ad_hf.histories import collect
from ad_hf.loading import check_memory, load_model
from ad_hf.models import ADConfig, ADModel
from ad_hf.models.embedding_ad import PICTURES_AT_ONCE
from ad_hf.recipes import Recipe
from ad_hf.report import model_card
from ad_hf.tasks import Task, make_vec

VECTOR = {"type": "Box", "shape": [2, 3], "dtype": "float64"}
PICTURE = {"type": "Box", "shape": [44, 36, 3], "dtype": "uint8"}  # taller than wide
FRAME = {"type": "Box", "shape": [72, 96, 3], "dtype": "uint8"}
BOXES = [pytest.param(VECTOR, id="vector"), pytest.param(PICTURE, id="picture")]
POOLS = [  # with platforms so near that who swims anywhere reaches them every other time
    Task("ad_hf/Watermaze-v0", {"platform": platform, "horizon": 6})
    for platform in ([150, 0], [0, 150], [-150, 0])
]


def pool_model(**settings: Any) -> ADModel:
    """For Watermaze, with a context of two short episodes."""
    actions = {"type": "Discrete", "n": 8}
    return lively_model(observation_space=FRAME, action_space=actions, context_length=12, **settings)


# What is refused


@pytest.mark.parametrize(
    ("space", "complaint"),
    [
        ({"shape": [31, 40, 3], "dtype": "uint8"}, "at least 32 x 32 pixels: give smaller ones as a Box of"),
        ({"shape": [40, 7, 3], "dtype": "uint8"}, "at least 32 x 32 pixels: give smaller ones as a Box of"),
        ({}, "but a Box has a shape and a dtype, for example"),
        ({"shape": [4]}, "but a Box has a shape and a dtype, for example"),
        ({"shape": 4, "dtype": "float32"}, "but a Box has a shape and a dtype, for example"),
        ({"shape": [4, 0], "dtype": "float32"}, "but a Box has a shape and a dtype, for example"),
        ({"shape": [4], "dtype": "nn"}, "but a Box has a shape and a dtype, for example"),
        ({"shape": [4], "dtype": None}, "but a Box has a shape and a dtype, for example"),
    ],
)
def test_boxes_that_cannot_be_seen_are_refused(space: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StrictDataclassError, match=complaint):
        ADConfig(observation_space={"type": "Box", **space})


@pytest.mark.parametrize(
    "space", [{"shape": [7, 7, 3], "dtype": "float32"}, {"shape": [9], "dtype": "uint8"}]
)
def test_small_pictures_can_be_given_as_vectors(space: dict[str, Any]) -> None:
    model = lively_model(observation_space={"type": "Box", **space})
    assert not model.config.sees_pictures
    assert logits_of(model, random_windows(model, 2, 3)).shape == (2, 3, 5)


def test_pictures_of_another_size_are_refused() -> None:
    model = pool_model()
    assert model.generate(make_vec(POOLS), num_episodes=1).episode_returns.shape == (3, 1)
    smaller = lively_model(observation_space=PICTURE)
    with pytest.raises(ValueError, match=r"space is .*\[72, 96, 3\].* made for .*\[44, 36, 3\]"):
        smaller.generate(make_vec(POOLS))
    with pytest.raises(ValueError, match=r"space is .*\[4\].*'float32'.* made for .*\[72, 96, 3\].*'uint8'"):
        model.generate(gym.make_vec("CartPole-v1", num_envs=2))


def test_the_memory_for_pictures_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ADConfig(observation_space=PICTURE, decoder=DECODERS["llama"], context_length=100)
    weights = sum(weight.nbytes for weight in ADModel(config).parameters())
    context = 100 * 44 * 36 * 3
    for free, fits in ((weights, False), (weights + context // 2, False), (weights + 9 * context, True)):
        free_memory = SimpleNamespace(available=free)
        monkeypatch.setattr("ad_hf.loading.psutil.virtual_memory", lambda found=free_memory: found)
        if fits:
            check_memory(config, 100)
        else:
            with pytest.raises(ValueError, match=r"context of 100 transitions takes .* lower its sizes"):
                check_memory(config, 100)


# What is seen


def test_every_place_of_a_picture_counts() -> None:
    model = lively_model(observation_space=PICTURE)
    black = torch.zeros(1, 1, 44, 36, 3, dtype=torch.uint8)
    looks = []
    for y in range(0, 44, 4):
        for x in range(0, 36, 4):
            for colour in range(3):
                picture = black.clone()
                picture[..., y : y + 4, x : x + 4, colour] = 255
                looks.append(picture)
    vectors = model.embedding.observation(torch.cat([black, *looks], dim=1))[0]  # (1 + 11 * 9 * 3, D)
    assert (torch.cdist(vectors, vectors) + torch.eye(len(vectors)) > 1e-2).all()


def test_pictures_are_seen_in_shades_from_minus_to_plus_a_half() -> None:
    model = lively_model(observation_space=PICTURE)
    eye = model.embedding.observation
    pictures = random_observations(model, 2, 3, generator=torch.Generator().manual_seed(0))
    shades = (pictures.flatten(0, 1).permute(0, 3, 1, 2) / 255).float() - 0.5
    wanted = eye.project(eye.second(eye.first(shades).relu()).relu().flatten(1)).view(2, 3, -1)
    assert_close(eye(pictures), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(eye(pictures).float(), wanted, atol=0.02)


def test_many_pictures_are_seen_as_one_by_one() -> None:
    model = lively_model(observation_space=PICTURE)
    pictures = random_observations(model, 3, 100, generator=torch.Generator().manual_seed(0))
    assert PICTURES_AT_ONCE < 3 * 100, "the test has lost its point"
    together = model.embedding.observation(pictures)
    alone = torch.cat([model.embedding.observation(pictures[:, t : t + 1]) for t in range(100)], dim=1)
    assert_close(together, alone)


def test_a_vector_is_seen_as_it_is() -> None:
    model = lively_model(observation_space=VECTOR)
    vectors = torch.tensor([[[-1.5, 0, 3], [0, 0, 1e-3]]], dtype=torch.float64)[None]  # (B, L, 2, 3)
    weight, bias = model.embedding.observation.project.parameters()
    wanted = vectors.float().flatten(2) @ weight.T + bias
    assert_close(model.embedding.observation(vectors), wanted)


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("space", BOXES)
def test_every_part_of_a_transition_counts_and_nothing_later_does(space: dict[str, Any], tokens: int) -> None:
    model = lively_model(observation_space=space, tokens_per_transition=tokens)
    batch, other = random_windows(model, 2, 8), random_windows(model, 2, 8, seed=1)
    other["previous_action"] = (batch["previous_action"] + 1) % 5
    other["episode_start"] = ~batch["episode_start"]
    before = logits_of(model, batch)
    for part in ("observation", "previous_action", "previous_reward", "episode_start"):
        changed = {name: values.clone() for name, values in batch.items()}
        changed[part][:, 5] = other[part][:, 5]
        after = logits_of(model, changed)
        assert_close(after[:, :5], before[:, :5], atol=1e-6)
        assert (after[:, 5] - before[:, 5]).abs().max() > 1e-3, part


@pytest.mark.parametrize("space", BOXES)
def test_every_parameter_gets_a_gradient(space: dict[str, Any]) -> None:
    model = lively_model(observation_space=space).train()
    model(**random_windows(model, 2, 6)).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("space", BOXES)
def test_a_model_in_bfloat16_sees_about_the_same(space: dict[str, Any]) -> None:
    model = lively_model(observation_space=space)
    batch = random_windows(model, 2, 6)
    before = logits_of(model, batch)
    assert_close(logits_of(model.bfloat16(), batch).float(), before, atol=0.2)


# What is remembered


@pytest.mark.parametrize(("decoder", "tokens"), [("llama", 1), ("gpt2", 3), ("mamba", 1)])
@pytest.mark.parametrize("space", BOXES)
def test_cached_steps_equal_full_passes(space: dict[str, Any], decoder: str, tokens: int) -> None:
    model = lively_model(decoder, observation_space=space, context_length=9, tokens_per_transition=tokens)
    assert_every_step_is_exact(model, 26)


@pytest.mark.parametrize("space", BOXES)
def test_a_context_holds_what_the_space_holds(space: dict[str, Any]) -> None:
    model = lively_model(observation_space=space)
    life, context = Life(model, 2), model.start(2)
    life.live(context)
    seen = context.transitions()["observation"]
    assert (str(seen.dtype), list(seen.shape)) == (f"torch.{space['dtype']}", [2, 1, *space["shape"]])


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_pictures_are_played_alike_in_every_autoreset_mode(mode: AutoresetMode) -> None:
    model = pool_model()
    wanted, output = (
        model.generate(make_vec(POOLS, each), num_episodes=3, seed=5, do_sample=False)
        for each in (AutoresetMode.DISABLED, mode)
    )
    assert torch.equal(output.episode_lengths, wanted.episode_lengths)
    assert torch.equal(output.episode_returns, wanted.episode_returns)


def test_vectors_of_any_gymnasium_environment_are_played() -> None:
    space, actions = {"type": "Box", "shape": [4], "dtype": "float32"}, {"type": "Discrete", "n": 2}
    model = lively_model(observation_space=space, action_space=actions, context_length=40)
    envs = gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
    output = model.generate(envs, num_episodes=4, seed=0)
    assert torch.equal(output.episode_returns, output.episode_lengths.double())
    assert output.episode_returns.min() >= 8  # the pole does not fall sooner


def test_histories_of_poses_are_prompts_of_pictures() -> None:
    histories = collect(POOLS, "noise", 3, seed=1, settings={"epsilon_start": 1.0, "epsilon_end": 1.0})
    prompt = history_prompt(histories, 1, 8)
    assert prompt["observation"].shape == (1, 8, 72, 96, 3)
    assert prompt["observation"].dtype == torch.uint8
    model = pool_model()
    prompted, played = model.start(1, prompt), model.start(1)
    reward = np.zeros(1)
    for step in range(2, 8):  # those that a context of 12 keeps
        seen, begins = prompt["observation"][:, step], prompt["episode_start"][:, step]
        model.next_action_logits(played, seen, reward, begins)
        played.action[:], reward = prompt["action"][:, step], prompt["reward"][:, step]
    begins, seen = np.ones(1, dtype=bool), np.full((1, 72, 96, 3), 99, dtype=np.uint8)
    logits = model.next_action_logits(played, seen, reward, begins)
    assert_close(model.next_action_logits(prompted, seen, reward, begins), logits)


@pytest.mark.parametrize(("at_once", "parts"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3]), (9, [3])])
def test_what_does_not_fit_side_by_side_is_played_in_parts(
    at_once: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sizes, ended = pool_model(), [], []
    generate = model.generate

    def watched(envs: Any, **settings: Any) -> Any:
        sizes.append(envs.num_envs)
        return generate(envs, **settings)

    monkeypatch.setattr(model, "generate", watched)
    monkeypatch.setattr(evaluation, "CONTEXTS", at_once * 12 * 72 * 96 * 3)
    prompt = history_prompts(collect(POOLS, "noise", 6, seed=1), 1.0, 6)
    returns = in_context_returns(model, POOLS, 2, 1, seed=3, on_progress=ended.append, prompt=prompt)
    assert sizes == parts
    assert set(returns.flatten()) == {0.0, 1.0}, "the pools have lost their point"
    assert ended == [1, 2, 3, 4, 5, 6]
    first = 0
    for size in parts:  # each as if it were played alone, from a seed of its own
        part = {name: values[first : first + size] for name, values in prompt.items()}
        alone = generate(make_vec(POOLS[first : first + size]), num_episodes=2, seed=3 + first, prompt=part)
        np.testing.assert_array_equal(returns[first : first + size, 0], alone.episode_returns)
        first += size


# On disk


@pytest.mark.parametrize("space", BOXES)
def test_a_saved_model_is_bit_equal(space: dict[str, Any], tmp_path: Path) -> None:
    model = lively_model(observation_space=space, context_length=9)
    model.save_pretrained(tmp_path)
    batch = random_windows(model, 2, 6)
    for again in (AutoModel.from_pretrained(tmp_path), load_model(str(tmp_path)).cpu()):
        assert again.config.observation_space == space
        assert torch.equal(logits_of(again, batch), logits_of(model, batch))


@pytest.mark.parametrize("space", BOXES)
def test_the_card_shows_how_to_act_on_them(space: dict[str, Any], tmp_path: Path) -> None:
    model = lively_model(observation_space=space, context_length=9)
    recipe = {**asdict(Recipe("mine", {"name": "watermaze"})), "dataset": "org/h"}
    card, _ = model_card("org/m", None, recipe, {}, None, model.config.to_dict())
    snippet = re.findall(r"^```python\n(.*?)^```", card.text, re.M | re.S)[1]
    assert snippet.startswith("import numpy as np\nfrom transformers import AutoModel\n")
    model.save_pretrained(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet.replace('"org/m"', repr(str(tmp_path))), names)
    assert names["action"].shape == (1,)
    assert names["context"].length == 2
