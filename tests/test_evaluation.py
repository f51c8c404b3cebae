"""Evaluation: what a curve is, how sure it is, and what it is compared with."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from ad_hf.dataset import load_histories
from ad_hf.evaluation import (
    EvaluateSettings,
    bootstrap_interval,
    evaluate,
    history_prompt,
    history_prompts,
    in_context_returns,
    source_returns,
)
from ad_hf.histories import Histories, collect
from ad_hf.loading import load_model
from ad_hf.models import ADConfig, ADContext, ADModel
from ad_hf.tasks import Task, TaskFamily, load_task_family, make_vec

DECODER = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
SETTINGS = EvaluateSettings(num_episodes=3, rollouts_per_task=2, bootstrap_samples=20)
GOALS = ([0, 0], [4, 4], [4, 6])  # 8, 0 and 2 steps from the centre: the optimum is 13, 20 and 19


@pytest.fixture(scope="module")
def model() -> ADModel:
    torch.manual_seed(0)
    return ADModel(ADConfig(context_length=30, decoder=DECODER)).eval()


@pytest.fixture(scope="module")
def family() -> TaskFamily:
    whole = load_task_family("dark-room")
    tasks = {tuple(t.params["goal"]): t for split in ("train", "test") for t in whole[split]}
    chosen = tuple(tasks.pop(tuple(goal)) for goal in GOALS)
    return TaskFamily("dark-room", {"train": tuple(tasks.values()), "test": chosen})


def test_the_lower_the_temperature_the_likelier_the_actions(model: ADModel, family: TaskFamily) -> None:
    tasks = family["test"]

    def played(temperature: float | None) -> np.ndarray:
        return in_context_returns(model, tasks, 3, 2, seed=0, temperature=temperature)

    greedy = model.generate(
        make_vec([task for task in tasks for _ in range(2)]), num_episodes=3, seed=0, do_sample=False
    )
    assert np.array_equal(played(1e-6).reshape(-1, 3), greedy.episode_returns)
    assert np.array_equal(played(None), played(1.0))
    report = evaluate({"ad": model}, family, "q-learning", 3, {}, replace(SETTINGS, temperature=1e-6))
    assert report["protocol"]["temperature"] == 1e-6
    assert report["agents"]["ad"]["return_per_episode"] == pytest.approx(greedy.episode_returns.mean(dim=0))


# The interval


def test_an_interval_covers_the_mean() -> None:
    returns = np.random.default_rng(0).normal(5, 2, size=(16, 8, 4))
    low, high = bootstrap_interval(returns, 500, seed=0)
    mean = returns.mean(axis=(0, 1))
    assert low.shape == high.shape == (4,)
    assert (low < mean).all()
    assert (mean < high).all()


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    returns = rng.normal(size=(100, 16, 1, 1)) + rng.normal(size=(100, 16, 8, 1))  # experiments first
    intervals = [bootstrap_interval(experiment, 200, seed=0) for experiment in returns]
    assert 80 <= sum(low[0] < 0 < high[0] for low, high in intervals) <= 100


def test_an_interval_shrinks_with_more_tasks_but_not_with_more_rollouts_of_the_same() -> None:
    task_means = np.random.default_rng(0).normal(size=(64, 1, 1))

    def width(num_tasks: int, num_rollouts: int) -> float:
        returns = np.broadcast_to(task_means[:num_tasks], (num_tasks, num_rollouts, 1))
        low, high = bootstrap_interval(returns, 1000, seed=0)
        return float(high[0] - low[0])

    assert width(64, 4) < 0.7 * width(16, 4)
    assert width(16, 64) == pytest.approx(width(16, 4), rel=0.1)  # rollouts repeat a task, they are not new


def test_where_nothing_varies_the_interval_is_the_value() -> None:
    returns = np.broadcast_to([1.0, 7.0], (5, 3, 2))
    low, high = bootstrap_interval(returns, 50, seed=0)
    assert low.tolist() == high.tolist() == [1.0, 7.0]


def test_two_tasks_give_the_interval_that_can_be_worked_out_by_hand() -> None:
    # Resampled means are 0, 1/2 and 1 with probability 1/4, 1/2, 1/4: 95 % of them reach from end to end.
    low, high = bootstrap_interval(np.array([0.0, 1.0]).reshape(2, 1, 1), 1000, seed=0)
    assert (low[0], high[0]) == (0.0, 1.0)


def test_an_interval_is_a_matter_of_its_seed() -> None:
    returns = np.random.default_rng(0).normal(size=(4, 4, 2))
    once, again, other = (bootstrap_interval(returns, 50, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


# The agents


def test_a_source_starts_from_scratch_on_every_task(family: TaskFamily) -> None:
    returns = source_returns("q-learning", family["test"], 200, 16, seed=0)
    assert returns.shape == (3, 16, 200)
    # On the goal at the centre even beginners earn; 8 steps off only who has learnt does.
    assert returns[0, :, :5].mean() < 0.5
    assert returns[0, :, -5:].mean() > 5


def test_a_sources_returns_are_those_of_its_histories_task_by_task(family: TaskFamily) -> None:
    returns = source_returns("q-learning", family["test"], 20, 2, seed=3, settings={"epsilon_start": 0.5})
    learners = [task for task in family["test"] for _ in range(2)]
    histories = collect(learners, "q-learning", 20, 3, {"epsilon_start": 0.5})
    np.testing.assert_array_equal(returns.reshape(6, 20), histories.return_matrix())


def test_rollouts_are_independent_and_task_after_task(model: ADModel, family: TaskFamily) -> None:
    ended: list[int] = []
    returns = in_context_returns(model, family["test"], 4, 3, seed=0, on_progress=ended.append)
    assert returns.shape == (3, 3, 4)
    assert ended == list(range(1, 3 * 3 * 4 + 1))
    envs = make_vec([task for task in family["test"] for _ in range(3)])
    same = model.generate(envs, num_episodes=4, seed=0).episode_returns.numpy()
    np.testing.assert_array_equal(returns.reshape(9, 4), same)
    assert (returns[1, 0] != returns[1, 1]).any()


def test_playing_leaves_a_model_in_training_as_it_was(family: TaskFamily) -> None:
    torch.manual_seed(0)
    model = ADModel(ADConfig(context_length=30, decoder={**DECODER, "attention_dropout": 0.5})).train()
    once, again = (in_context_returns(model, family["test"], 2, 2, seed=0) for _ in range(2))
    assert model.training
    np.testing.assert_array_equal(once, again)  # no dropout while it plays


# The report


@pytest.fixture(scope="module")
def report(model: ADModel, family: TaskFamily) -> dict[str, Any]:
    return evaluate({"ad": model, "ed": model}, family, "q-learning", 10, {"epsilon_end": 0.1}, SETTINGS)


def test_a_report_has_a_curve_with_its_interval_for_every_agent(report: dict[str, Any]) -> None:
    assert report.keys() == {"environment", "optimum", "agents", "source_history", "protocol"}
    assert report["environment"] == "ad_hf/DarkRoom-v0"
    assert report["agents"].keys() == {"ad", "ed", "source", "random", "posterior_sampling"}
    for agent in report["agents"].values():
        assert agent.keys() == {"return_per_episode", "low", "high"}
        assert len(agent["return_per_episode"]) == len(agent["low"]) == len(agent["high"]) == 3
        assert (np.array(agent["low"]) <= agent["high"]).all()


def test_a_report_is_json_as_it_stands(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report)) == report


def test_the_optimum_is_that_of_the_test_tasks(report: dict[str, Any]) -> None:
    # An episode has 20 steps, and the goal pays from the step that reaches it: 21 - distance, at most 20.
    distances = [abs(x - 4) + abs(y - 4) for x, y in GOALS]
    assert report["optimum"] == np.mean([21 - max(1, distance) for distance in distances])


def test_references_play_as_they_are_named(report: dict[str, Any]) -> None:
    curves = {name: agent["return_per_episode"] for name, agent in report["agents"].items()}
    assert max(curves["random"]) < report["optimum"] / 2
    assert max(map(max, curves.values())) <= report["optimum"]


def test_the_sources_whole_history_is_kept_but_only_its_beginning_compared(report: dict[str, Any]) -> None:
    assert len(report["source_history"]) == 10
    assert report["source_history"][:3] == report["agents"]["source"]["return_per_episode"]


def test_a_report_says_how_it_was_made(report: dict[str, Any], model: ADModel) -> None:
    protocol = report["protocol"]
    assert protocol["task_family"]["name"] == "dark-room"
    assert [task["goal"] for task in protocol["test_tasks"]] == [list(goal) for goal in GOALS]
    assert protocol["source"] == {
        "name": "q-learning",
        "num_episodes": 10,
        "settings": {"epsilon_end": 0.1},
    }
    assert {name: protocol[name] for name in ("num_episodes", "rollouts_per_task", "seed")} == {
        "num_episodes": 3,
        "rollouts_per_task": 2,
        "seed": 1,
    }
    assert protocol["parameters"]["ad"] == sum(p.numel() for p in model.parameters())
    assert protocol["context_length"] == {"ad": 30, "ed": 30}
    assert protocol["actions"] == {"ad": "sampled", "ed": "sampled"}


def test_a_report_is_a_matter_of_its_seed(report: dict[str, Any], model: ADModel, family: TaskFamily) -> None:
    settings = {"epsilon_end": 0.1}
    again = evaluate({"ad": model, "ed": model}, family, "q-learning", 10, settings, SETTINGS)
    assert again == report
    other = EvaluateSettings(num_episodes=3, rollouts_per_task=2, bootstrap_samples=20, seed=2)
    different = evaluate({"ad": model}, family, "q-learning", 10, settings, other)
    assert different["agents"]["ad"] != report["agents"]["ad"]


def test_every_stage_is_announced(model: ADModel, family: TaskFamily) -> None:
    calls: list[tuple[str, int, int]] = []

    def note(stage: str, done: int, total: int) -> None:
        calls.append((stage, done, total))

    evaluate({"ad": model}, family, "q-learning", 3, {}, SETTINGS, on_progress=note)
    stages = list(dict.fromkeys(stage for stage, _, _ in calls))
    assert len(stages) == 3
    assert stages[0] == "ad on 3 held-out tasks"
    assert "q-learning" in stages[1]
    counted = [(done, total) for stage, done, total in calls if stage == stages[0]]
    assert counted == [(done, 18) for done in range(19)]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"action_space": {"type": "Discrete", "n": 3}}, "the environment's action space is .*5.*3"),
        (
            {"observation_space": {"type": "Discrete", "n": 81}},
            "the environment's observation space is .*9, 9.*81",
        ),
    ],
)
def test_a_model_for_other_spaces_is_refused_in_one_line(
    space: dict[str, Any], message: str, family: TaskFamily
) -> None:
    model = ADModel(ADConfig(context_length=30, decoder=DECODER, **space))
    with pytest.raises(ValueError, match=f"{message}") as caught:
        evaluate({"ad": model}, family, "q-learning", 3, {}, SETTINGS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["num_episodes", "rollouts_per_task", "bootstrap_samples"])
def test_nothing_is_judged_on_nothing(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, but must be at least 1"):
        EvaluateSettings(**{name: 0})


# Loading a model


def test_a_checkpoint_is_loaded_ready_to_act(checkpoint: Path) -> None:
    model = load_model(str(checkpoint))
    assert isinstance(model, ADModel)
    assert not model.training


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no checkpoint .*train one with `ad-hf train"):
        load_model(str(tmp_path))


def test_a_checkpoint_of_another_kind_is_refused_by_its_kind(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    LlamaModel(LlamaConfig(vocab_size=2, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a 'llama' model, not an 'algorithm_distillation' one"):
        load_model(str(tmp_path))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("model.safetensors", truncate),
        ("model.safetensors", Path.unlink),
        ("config.json", truncate),
        ("config.json", lambda path: path.write_text(path.read_text().replace(": 30,", ': "thirty",'))),
        ("config.json", lambda path: path.write_text(path.read_text().replace(": 16,", ": 32,"))),
    ],
    ids=["truncated", "missing", "not JSON", "wrong type", "wrong shape"],
)
def test_a_damaged_checkpoint_is_refused(name: str, harm: Any, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "model")
    before = (tmp_path / "model" / name).read_bytes()
    harm(tmp_path / "model" / name)
    assert not (tmp_path / "model" / name).exists() or (tmp_path / "model" / name).read_bytes() != before
    with pytest.raises(ValueError, match=r"the checkpoint in .*model cannot be loaded: \S"):
        load_model(str(tmp_path / "model"))


# Prompts


def test_a_prompt_is_the_end_of_a_history(dataset_folder: Path) -> None:
    histories = load_histories(str(dataset_folder), "dark-room")
    prompt = history_prompt(histories, 1, 45)
    end = histories.episode_offsets[histories.history_offsets[2]]
    for name in ("observation", "action", "reward"):
        np.testing.assert_array_equal(prompt[name][0], getattr(histories, name)[end - 45 : end])
    assert prompt["episode_start"].shape == (1, 45)
    assert prompt["episode_start"][0].nonzero()[:, 0].tolist() == [5, 25]


def test_a_prompt_never_reaches_into_another_history(dataset_folder: Path) -> None:
    histories = load_histories(str(dataset_folder), "dark-room")
    prompt = history_prompt(histories, 1, 10**6)
    assert prompt["action"].shape == (1, 12 * 20)
    assert prompt["episode_start"].sum() == 12


def test_a_model_goes_on_from_a_prompt(model: ADModel, family: TaskFamily, dataset_folder: Path) -> None:
    prompt = history_prompt(load_histories(str(dataset_folder), "dark-room"), 0, 40)
    envs = make_vec(family["test"])
    assert model.generate(envs, num_episodes=2, seed=0, prompt=prompt).episode_returns.shape == (3, 2)


# Other splits


def test_other_held_out_splits_can_be_played_but_not_what_was_trained_on(
    model: ADModel, family: TaskFamily
) -> None:
    corner, *rest = family["train"]
    whole = TaskFamily("dark-room", {"train": tuple(rest), "test": family["test"], "corner": (corner,)})
    report = evaluate({"ad": model}, whole, "q-learning", 3, {}, replace(SETTINGS, split="corner"))
    assert report["protocol"]["test_tasks"] == [dict(corner.params)]
    assert report["protocol"]["split"] == "corner"
    x, y = corner.params["goal"]
    assert report["optimum"] == 21 - max(1, abs(x - 4) + abs(y - 4))
    with pytest.raises(ValueError, match="the split 'train' was trained on: choose another, for example"):
        evaluate({"ad": model}, whole, "q-learning", 3, {}, replace(SETTINGS, split="train"))
    with pytest.raises(ValueError, match=r"no split 'even': choose one of \['train', 'test', 'corner'\]"):
        evaluate({"ad": model}, whole, "q-learning", 3, {}, replace(SETTINGS, split="even"))


@pytest.mark.parametrize("objective", ["ed", "dpt"])
def test_a_report_is_about_the_first_agent(objective: str, model: ADModel, family: TaskFamily) -> None:
    report = evaluate({objective: model}, family, "q-learning", 3, {}, SETTINGS)
    assert report["protocol"]["objective"] == objective
    assert report["agents"].keys() == {objective, "source", "random", "posterior_sampling"}
    assert report["protocol"]["parameters"].keys() == {objective}


# Prompts from the way of a history


def climbing_histories(num_histories: int = 3, num_episodes: int = 40, seed: int = 0) -> Histories:
    """Ragged episodes of noisy, rising returns; an observation is the number of its step."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, size=num_histories * num_episodes)
    ends = np.cumsum(lengths)
    climb = np.linspace(0, [[10.0], [6.0], [3.0]], num_episodes, axis=1)[:num_histories, :, 0]  # (N, E)
    reward = np.zeros(ends[-1], dtype=np.float32)
    reward[ends - 1] = (climb + rng.normal(size=climb.shape)).ravel()
    steps = np.arange(ends[-1])
    return Histories(
        observation=steps,
        action=steps % 5,
        reward=reward,
        final_observation=ends,
        terminated=np.ones(len(ends), dtype=bool),
        truncated=np.zeros(len(ends), dtype=bool),
        episode_offsets=np.concatenate([[0], ends]),
        history_offsets=np.arange(num_histories + 1) * num_episodes,
        tasks=tuple(Task("ad_hf/DarkRoom-v0", {"goal": [0, n]}) for n in range(num_histories)),
    )


def first_reached(returns: np.ndarray, level: float) -> int:
    """Episodes of one history up to where the mean over a twentieth of it is high enough, or highest."""
    width = len(returns) // 20
    means = {end: returns[end - width : end].mean() for end in range(width, len(returns) + 1)}
    enough = [end for end, mean in means.items() if mean >= level]
    return enough[0] if enough else max(means, key=lambda end: means[end])


@pytest.mark.parametrize("level", [3.0, 5.0, 8.0, 99.0])
def test_prompts_end_with_the_episode_at_which_their_history_is_first_that_good(level: float) -> None:
    histories, L = climbing_histories(), 12
    prompts = history_prompts(histories, level, L)
    assert {values.shape for values in prompts.values()} == {(3, L)}
    for n, returns in enumerate(histories.return_matrix()):
        end = histories.episode_offsets[40 * n + first_reached(returns, level)]
        steps = np.arange(end - L, end)
        np.testing.assert_array_equal(prompts["observation"][n], steps)
        np.testing.assert_array_equal(prompts["action"][n], steps % 5)
        np.testing.assert_array_equal(prompts["reward"][n], histories.reward[steps])
        np.testing.assert_array_equal(prompts["episode_start"][n], np.isin(steps, histories.episode_offsets))
    reached = [first_reached(returns, level) for returns in histories.return_matrix()]
    assert reached != sorted(reached, reverse=True) or level == 99, "the histories have lost their point"


def test_a_prompt_from_early_on_goes_on_until_it_is_long_enough_to_an_episodes_end() -> None:
    histories = climbing_histories()
    for L in (1, 20, 50):
        prompts = history_prompts(histories, -99.0, L)  # a level that the first two episodes reach
        for n in range(3):
            start, last = histories.episode_offsets[40 * n], int(prompts["observation"][n, -1])
            assert last + 1 in histories.episode_offsets
            assert prompts["observation"][n].tolist() == list(range(last + 1 - L, last + 1))
            earliest = max(start + L, histories.episode_offsets[40 * n + 2])
            assert last + 1 == min(end for end in histories.episode_offsets if end >= earliest)


def test_a_prompt_may_be_a_whole_history_but_no_more() -> None:
    histories = climbing_histories(num_histories=1)
    whole = len(histories.action)
    assert history_prompts(histories, 1.0, whole)["observation"].tolist() == [list(range(whole))]
    for each in (histories, climbing_histories()):  # where another one follows, too
        with pytest.raises(ValueError, match=r"a prompt has \d+ transitions, but a history has fewer"):
            history_prompts(each, 1.0, len(each.action) if len(each) > 1 else whole + 1)


class CopyCat(ADModel):
    """Does what was last done on the same observation, and anything where that is not in its context."""

    def next_action_logits(self, context: ADContext, *args: Any, **kwargs: Any) -> torch.Tensor:
        logits = torch.zeros_like(super().next_action_logits(context, *args, **kwargs))
        seen, done = context.transitions()["observation"], context.transitions()["previous_action"]
        for row, column in zip(*(seen[:, :-1] == seen[:, -1:]).all(dim=2).nonzero().T.tolist(), strict=True):
            logits[row] = 0
            logits[row, done[row, column + 1]] = 99
        return logits


def test_a_model_that_copies_starts_where_its_prompt_ends(family: TaskFamily) -> None:
    model = CopyCat(ADConfig(context_length=80, decoder=DECODER)).eval()
    settings = EvaluateSettings(num_episodes=2, rollouts_per_task=2, bootstrap_samples=20, prompt=1.0)
    calls: list[str] = []

    noise = {"epsilon_start": 1.0, "epsilon_end": 0.0}  # from clumsy to perfect
    skilled = evaluate(
        {"ad": model}, family, "noise", 20, noise, settings, lambda stage, done, total: calls.append(stage)
    )
    assert "ad from prompts" in calls
    assert skilled["protocol"]["prompt"] == 1.0
    assert skilled["agents"]["prompted"]["return_per_episode"] == [skilled["optimum"]] * 2
    assert skilled["agents"]["ad"]["return_per_episode"][0] < skilled["optimum"] / 2
    unprompted = evaluate({"ad": model}, family, "noise", 20, {}, replace(settings, prompt=0.0))
    assert "prompted" not in unprompted["agents"]
    assert unprompted["agents"]["ad"] == skilled["agents"]["ad"]


@pytest.mark.parametrize("prompt", [-0.1, 1.1])
def test_a_prompt_is_a_share_of_the_optimum(prompt: float) -> None:
    with pytest.raises(ValueError, match=f"prompt is {prompt}, but must be a share of the optimum, from 0"):
        EvaluateSettings(prompt=prompt)
