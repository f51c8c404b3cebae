"""Recipes: every setting has one path, and no misspelt one goes unnoticed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ad_hf.dataset import load_histories
from ad_hf.hub import HubError
from ad_hf.models import ADConfig, ADModel, space_to_json
from ad_hf.recipes import RECIPES, load_recipe
from ad_hf.runs import load_evaluation, load_task, run_train, train_expert_distillation
from ad_hf.training import LOG, train
from ad_hf.windows import expert_part


@pytest.fixture
def saved(checkpoint: Path, tmp_path: Path) -> Path:
    """The saved recipe of the tiny model, in a folder of its own."""
    (tmp_path / "saved").mkdir()
    return Path(shutil.copy(checkpoint / "recipe.json", tmp_path / "saved")).parent


def losses(output: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / LOG).read_text().splitlines()]


# Changing settings


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_loaded_and_names_tasks(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.task_family()["test"]


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ("train.updates=7", "train.updates", 7),
        ("train.learning_rate=1e-3", "train.learning_rate", 1e-3),
        ("train.learning_rate=1", "train.learning_rate", 1.0),
        ("train.mixed_precision=no", "train.mixed_precision", "no"),
        ('train.trackers=["tensorboard"]', "train.trackers", ("tensorboard",)),
        ("train.trackers=tensorboard", "train.trackers", ("tensorboard",)),
        ("windows.token_mask=0.3", "windows.token_mask", 0.3),
        ("model.context_length=50", "model.context_length", 50),
        ("model.decoder.hidden_size=32", "model.decoder.hidden_size", 32),
        ("model.decoder.model_type=gpt2", "model.decoder.model_type", "gpt2"),
        ("family.fold=2", "family.fold", 2),
        ("objective=ed", "objective", "ed"),
        ("objective=dpt", "objective", "dpt"),
        ("evaluate.split=even", "evaluate.split", "even"),
        ("evaluate.prompt=1", "evaluate.prompt", 1.0),
    ],
)
def test_a_change_reaches_its_setting_and_no_other(change: str, path: str, value: Any) -> None:
    changed: Any = dataclasses.asdict(load_recipe("dark-room", [change]))
    original: Any = dataclasses.asdict(load_recipe("dark-room"))
    *sections, last = path.split(".")
    for section in sections:
        other_sections = changed.keys() - {section}
        assert {name: changed[name] for name in other_sections} == {n: original[n] for n in other_sections}
        changed, original = changed[section], original[section]
    found = changed.pop(last)
    assert (found, type(found)) == (value, type(value))
    original.pop(last, None)
    assert changed == original


def test_a_sources_settings_are_its_own() -> None:
    changes = ["collect.source=q-learning", "collect.settings={}", "collect.settings.discount=0.5"]
    assert load_recipe("dark-room", changes).collect.settings == {"discount": 0.5}


def test_another_source_starts_from_its_own_defaults(saved: Path) -> None:
    assert load_recipe(str(saved)).collect.settings  # those of q-learning, which a2c would refuse
    assert load_recipe(str(saved), ["collect.source=a2c"]).collect.settings == {}
    kept = load_recipe(str(saved), ["collect.source=q-learning"]).collect
    assert kept == load_recipe(str(saved)).collect


def test_the_last_change_wins() -> None:
    assert load_recipe("dark-room", ["train.updates=7", "train.updates=8"]).train.updates == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("bogus=1", "there is no setting 'bogus': choose one of name, family, collect"),
        ("trian.updates=1", r"there is no setting 'trian\.updates': 'trian' is not one of"),
        ("train.update=1", r"there is no setting 'train\.update': choose one of updates"),
        ("train.updates.more=1", r"there is no setting 'train\.updates\.more': 'updates' is not one of"),
        ("train.updates", r"'train\.updates' is not of the form section\.setting=value"),
        ("train.updates=many", r"train\.updates is 'many', but must be of type int"),
        ("train.updates=1.5", r"train\.updates is 1\.5, but must be of type int"),
        ("train.updates=true", r"train\.updates is True, but must be of type int"),
        ("train.learning_rate=fast", r"train\.learning_rate is 'fast', but must be of type float"),
        ("train.mixed_precision=fp8", "mixed_precision is 'fp8', but must be 'no' or 'bf16'"),
        ("train=5", "train is 5, but must hold settings"),
        ('train={"update": 1}', r"there is no setting train\.update: choose one of"),
        ("model.decoder=5", r"model\.decoder is 5, but must be of type dict"),
        ("collect.source=dreams", "unknown source 'dreams': choose one of"),
        ("collect.settings.bogus=1", "source '.*' has no setting 'bogus': choose one of"),
        ("objective=best", "objective is 'best', but must be one of ad, ed, dpt"),
    ],
)
def test_a_change_that_cannot_be_is_refused(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe("dark-room", [change])


def test_a_sources_settings_have_types_too() -> None:
    changes = ["collect.source=q-learning", "collect.settings={}", "collect.settings.discount=high"]
    with pytest.raises(ValueError, match=r"discount of q-learning is 'high', but must be a number from 0"):
        load_recipe("dark-room", changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("family.fold=7", "fold is 7, but there are 5: choose 0 to 4"),
        ("family.fold=two", "fold is 'two', but must be a whole number"),
        ("family.bogus=1", "there are no tasks with .*unexpected keyword argument 'bogus'"),
        ("family.name=dark-hall", "unknown environment 'dark-hall': choose one of"),
        ("family={}", "there are no tasks with {}"),
    ],
)
def test_tasks_that_are_not_there_are_refused(change: str, message: str) -> None:
    recipe = load_recipe("dark-room", [change])
    with pytest.raises(ValueError, match=message):
        recipe.task_family()


# Saved recipes


def test_a_saved_recipe_is_the_recipe_that_was_run(
    saved: Path, tiny: tuple[str, ...], dataset_folder: Path
) -> None:
    again, original = load_recipe(str(saved)), load_recipe("dark-room", tiny)
    assert again.dataset == str(dataset_folder)
    for section in ("name", "model", "windows", "train", "evaluate", "objective"):
        assert getattr(again, section) == getattr(original, section)
    assert load_recipe(str(saved), ["train.updates=9"]).train.updates == 9


def test_a_recipe_saved_before_there_were_splits_and_prompts_is_read_as_it_was_meant(saved: Path) -> None:
    now = load_recipe(str(saved))
    values = json.loads((saved / "recipe.json").read_text())
    for name in ("split", "prompt"):
        del values["evaluate"][name]
    (saved / "recipe.json").write_text(json.dumps(values))
    assert load_recipe(str(saved)) == now
    assert (now.evaluate.split, now.evaluate.prompt) == ("test", 0.0)


def test_a_folder_that_was_fetched_is_not_taken_for_what_its_name_says(saved: Path) -> None:
    assert load_recipe("dark-room", folder=saved) == load_recipe(str(saved)) != load_recipe("dark-room")
    with pytest.raises(ValueError, match=r"org/m holds no recipe\.json"):
        load_recipe("org/m", folder=saved.parent)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "dark-', r"recipe\.json is not JSON .*: it was cut short or edited"),
        ("5", "the recipe is 5, but must hold settings"),
        ('{"name": "x"}', "the recipe is not whole: .*'family'"),
        ('{"name": "x", "family": {}, "bogus": 1}', "there is no setting bogus: choose one of"),
    ],
)
def test_a_damaged_recipe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(str(tmp_path))


def test_what_is_no_recipe_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither an environment \(.*dark-room.*\) nor a folder"):
        load_recipe("dark-hall")
    with pytest.raises(ValueError, match=r"holds no recipe\.json, which `ad-hf train` leaves beside a model"):
        load_recipe(str(tmp_path))


# Training


def test_a_recipe_trains_what_train_does(checkpoint: Path, dataset_folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(checkpoint))
    family = recipe.task_family()
    env = family["train"][0].make()
    config = ADConfig(
        observation_space=space_to_json(env.observation_space),
        action_space=space_to_json(env.action_space),
        **dataclasses.asdict(recipe.model),
    )
    histories = load_histories(str(dataset_folder), "dark-room")
    train(histories, config, recipe.windows, recipe.train, tmp_path / "ad")
    assert losses(tmp_path / "ad") == losses(checkpoint)

    # Expert distillation: the same on the last quarter of each history, with nothing skipped.
    run_train(dataclasses.replace(recipe, objective="ed"), str(dataset_folder), tmp_path / "recipe")
    windows = dataclasses.replace(recipe.windows, episode_stride=1)
    train(expert_part(histories, 0.25), config, windows, recipe.train, tmp_path / "ed")
    assert losses(tmp_path / "recipe") == losses(tmp_path / "ed") != losses(checkpoint)
    assert load_recipe(str(tmp_path / "recipe")).objective == "ed"


@pytest.mark.parametrize("model_type", ["gpt2", "opt"])
def test_any_decoder_can_be_named(
    model_type: str, tiny: tuple[str, ...], dataset_folder: Path, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "model_type": model_type}
    recipe = load_recipe("dark-room", [*tiny, f"model.decoder={json.dumps(sizes)}", "train.updates=1"])
    run_train(recipe, str(dataset_folder), tmp_path)
    assert ADModel.from_pretrained(tmp_path).config.decoder.model_type == model_type


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.decoder.hiden_size=32", r"there is no setting model\.decoder\.hiden_size: choose one of"),
        ("model.decoder.hidden_size=wide", "expected int, got str"),
        ("model.decoder.num_attention_heads=3", "hidden size is not divisible by .* heads"),
        ("model.decoder.model_type=abacus", "abacus"),
        ("model.label_smoothing=2", r"label_smoothing is 2\.0, but must be from 0"),
        ("model.context_length=241", "a window has 241 transitions, but the longest history has 240"),
    ],
)
def test_a_model_that_cannot_be_is_refused_before_anything_is_written(
    change: str, message: str, tiny: tuple[str, ...], dataset_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run_train(load_recipe("dark-room", [*tiny, change]), str(dataset_folder), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_dataset_says_which_source_it_is_of(
    tiny: tuple[str, ...], dataset_folder: Path, tmp_path: Path
) -> None:
    # Otherwise the model would be compared with a source that it has never seen.
    changes = [*tiny, "collect.source=a2c", "collect.num_episodes=99", "train.updates=1"]
    run_train(load_recipe("dark-room", changes), str(dataset_folder), tmp_path)
    collect = load_recipe(str(tmp_path)).collect
    assert (collect.source, collect.num_episodes) == ("q-learning", 12)
    assert collect.settings["learning_rate"] == 0.5


def test_a_dataset_of_other_tasks_is_refused(
    tiny: tuple[str, ...], dataset_folder: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("dark-room", [*tiny, "family.fold=2"])
    with pytest.raises(ValueError, match=r"was collected with family\.fold=None, not 2"):
        run_train(recipe, str(dataset_folder), tmp_path / "model")


def test_held_out_tasks_are_not_trained_on(
    tiny: tuple[str, ...], dataset_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(dataset_folder, tmp_path / "histories")
    (tmp_path / "histories" / "README.md").unlink()  # nothing but the tasks themselves can tell
    recipe = load_recipe("dark-room", [*tiny, "family.fold=2"])
    with pytest.raises(ValueError, match=r"holds histories of held-out tasks.*name the split"):
        run_train(recipe, str(tmp_path / "histories"), tmp_path / "model")
    run_train(load_recipe("dark-room", [*tiny]), str(tmp_path / "histories"), tmp_path / "model")


def test_expert_distillation_needs_the_histories(saved: Path) -> None:
    recipe = dataclasses.replace(load_recipe(str(saved)), dataset="/nowhere/histories")
    with pytest.raises(HubError, match=r"there is no folder /nowhere/histories"):
        train_expert_distillation(recipe, saved / "ed")
    assert not (saved / "ed").exists()


# Tasks and evaluations of a checkpoint


def test_the_default_task_is_held_out(saved: Path) -> None:
    assert load_task(str(saved), None) == load_recipe(str(saved)).task_family()["test"][0]
    assert load_task(str(saved), {"goal": [7, 2]}).params == {"goal": [7, 2]}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"goal": [9, 0]}, r"goal is \[9, 0\], but must be \(x, y\) with both from 0 to 8"),
        ({"goal": "there"}, "goal is 'there', but must be"),
        ({"bogus": 1}, r"ad_hf/DarkRoom-v0 cannot be made with {'bogus': 1}"),
        ({"render_mode": "human"}, "cannot be made with"),
    ],
)
def test_a_task_that_cannot_be_is_refused(params: dict[str, Any], message: str, saved: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_task(str(saved), params)


def test_an_evaluation_that_is_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has not been evaluated: run `ad-hf evaluate"):
        load_evaluation(str(tmp_path))
    (tmp_path / "evaluation.json").write_text('{"environment": ')
    with pytest.raises(ValueError, match=r"evaluation\.json is not JSON"):
        load_evaluation(str(tmp_path))
