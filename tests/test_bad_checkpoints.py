"""Bad checkpoints: recipes, configurations, weights and unfinished trainings, damaged or another's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_bad_input import filled
from test_cli import assert_one_line, contents, invoke, sets

Harm = Callable[[Path], Any]


def write(name: str, text: str | bytes) -> Harm:
    """Another file of that name."""
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def edit(name: str, **changes: Any) -> Harm:
    """Other entries in a JSON file, `section__entry=value`; ... takes one out."""

    def harm(folder: Path) -> None:
        whole = json.loads((folder / name).read_text())
        for path, value in changes.items():
            *sections, last = path.split("__")
            entry = whole
            for section in sections:
                entry = entry[section]
            if value is ...:
                del entry[last]
            else:
                entry[last] = value
        (folder / name).write_text(json.dumps(whole))

    return harm


def weights(change: Callable[[dict[str, torch.Tensor]], Any], name: str = "model.safetensors") -> Harm:
    """Other tensors in a file of them."""

    def harm(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name, {"format": "pt"})

    return harm


def recipe(**changes: Any) -> Harm:
    return edit("recipe.json", **changes)


def config(**changes: Any) -> Harm:
    return edit("config.json", **changes)


def playing(**changes: Any) -> Harm:
    return edit("generation_config.json", **changes)


NAN, HUGE = float("nan"), 10**18
LOAD = "the checkpoint in {model} cannot be loaded"
DISCRETE = 'for example {"type": "Discrete", "n": 5}'
# What is done to a model's folder -> what `ad-hf evaluate` says of it.
MODELS: dict[str, tuple[Harm, str, str]] = {
    "recipe empty": (write("recipe.json", ""), "{model}/recipe.json is not JSON", "cut short or edited"),
    "recipe cut": (write("recipe.json", '{"name": "dark-'), "{model}/recipe.json is not JSON", "cut short"),
    "recipe no text": (write("recipe.json", b"\xff\xfe{}"), "{model}/recipe.json is not JSON", "cut short"),
    "recipe deep": (write("recipe.json", "[" * 100_000), "{model}/recipe.json is not JSON", "cut short"),
    "recipe a list": (write("recipe.json", "[]"), "the recipe is []", "must hold settings"),
    "recipe null": (write("recipe.json", "null"), "the recipe is None", "must hold settings"),
    "recipe of nothing": (write("recipe.json", "{}"), "the recipe is not whole", "'name' and 'family'"),
    "recipe a folder": (
        lambda folder: ((folder / "recipe.json").unlink(), (folder / "recipe.json").mkdir()),
        "{model} holds no recipe.json",
        "ad-hf train",
    ),
    "recipe with more": (recipe(colour="red"), "no setting colour", "choose one of name, family"),
    "recipe with more inside": (recipe(train__speed=1), "no setting train.speed", "choose one of updates"),
    "recipe without a family": (recipe(family=...), "the recipe is not whole", "'family'"),
    "recipe of no family": (recipe(family={}), "no tasks with {}", "missing 1 required positional"),
    "recipe of a family's name": (
        recipe(family="dark-room"),
        "family is 'dark-room'",
        "must be of type dict",
    ),
    "recipe of an unknown family": (recipe(family__name="attic"), "environment 'attic'", "choose one of"),
    "recipe of a list of families": (recipe(family__name=["x"]), "no tasks with", "unhashable"),
    "recipe of many updates": (recipe(train__updates="6"), "train.updates is '6'", "of type int"),
    "recipe of a NaN rate": (recipe(train__learning_rate=NAN), "learning_rate is nan", "a finite number"),
    "recipe of no rate": (recipe(train__learning_rate=None), "learning_rate is None", "of type float"),
    "recipe of no training": (recipe(train=7), "train is 7", "must hold settings"),
    "recipe of trackers": (recipe(train__trackers=[7]), "train.trackers is 7", "of type str"),
    "recipe of no source": (recipe(collect__source="dreams"), "source 'dreams'", "choose one of"),
    "recipe of a NaN source": (
        recipe(collect__settings__discount=NAN),
        "discount of q-learning is nan",
        "a number from 0 to 1",
    ),
    "recipe of an objective": (recipe(objective="win"), "objective is 'win'", "one of ad, ed, dpt"),
    "recipe of a numbered dataset": (recipe(dataset=7), "dataset is 7", "must be of type str"),
    "recipe of no episodes": (recipe(evaluate__num_episodes=0), "num_episodes is 0", "at least 1"),
    "recipe of a split": (recipe(evaluate__split="x"), "no split 'x'", "choose one of"),
    "recipe of another room": (
        recipe(family={"name": "dark-room-hard"}),
        "observation space is {'type': 'MultiDiscrete', 'nvec': [17, 17]}",
        "this model was made for",
    ),
    "config empty": (write("config.json", ""), LOAD, "Expecting value"),
    "config a list": (write("config.json", "[1]"), LOAD, ""),
    "config large": (write("config.json", " " * 2**21), LOAD, "more than 1048576 bytes"),
    "config of BERT": (
        config(model_type="bert"),
        "holds a 'bert' model",
        "not an 'algorithm_distillation' one",
    ),
    "config of none": (config(model_type=...), "holds a None model", "not an 'algorithm_distillation' one"),
    "no action space": (config(action_space={}), "action_space is {}", "supported is 'Discrete'"),
    "action space of text": (
        config(action_space="Discrete"),
        "action_space is 'Discrete'",
        "a space as JSON",
    ),
    "actions without a number": (config(action_space={"type": "Discrete"}), "action_space is", DISCRETE),
    "no actions": (config(action_space__n=0), "'n': 0", DISCRETE),
    "actions below 0": (config(action_space__n=-5), "'n': -5", DISCRETE),
    "actions of halves": (config(action_space__n=2.5), "'n': 2.5", DISCRETE),
    "actions as text": (config(action_space__n="5"), "'n': '5'", DISCRETE),
    "huge actions": (config(action_space__n=HUGE), f"'n': {HUGE}", DISCRETE),
    "actions of a Box": (
        config(action_space={"type": "Box", "shape": [2]}),
        "'Box'",
        "supported is 'Discrete'",
    ),
    "one action more": (config(action_space__n=6), "config.json declares", "not of one model"),
    "no observation space": (config(observation_space={}), "observation_space is {}", "types supported are"),
    "no components": (config(observation_space__nvec=[]), "'nvec': []", DISCRETE),
    "components below 1": (config(observation_space__nvec=[9, 0]), "'nvec': [9, 0]", DISCRETE),
    "nested components": (config(observation_space__nvec=[[9], [9]]), "'nvec': [[9], [9]]", DISCRETE),
    "huge components": (config(observation_space__nvec=[HUGE]), f"'nvec': [{HUGE}]", DISCRETE),
    "other components": (
        config(observation_space__nvec=[17, 17]),
        "config.json declares",
        "not of one model",
    ),
    "a Box without a shape": (
        config(observation_space={"type": "Box"}),
        "observation_space is",
        '"shape": [4]',
    ),
    "a Box below 0": (
        config(observation_space={"type": "Box", "shape": [-1], "dtype": "float32"}),
        "'shape': [-1]",
        '"shape": [4]',
    ),
    "a Box of text": (
        config(observation_space={"type": "Box", "shape": [2], "dtype": "str"}),
        "'dtype': 'str'",
        '"dtype": "float32"',
    ),
    "no context": (config(context_length=0), "context_length is 0", "at least 2"),
    "context below 0": (config(context_length=-30), "context_length is -30", "at least 2"),
    "context of text": (config(context_length="30"), "context_length is '30'", "must be a whole number"),
    "huge context": (config(context_length=HUGE), f"context_length of {HUGE}", "set max_position_embeddings"),
    "context beyond positions": (
        config(context_length=31),
        "context_length of 31",
        "max_position_embeddings=31",
    ),
    "two tokens": (config(tokens_per_transition=2), "tokens_per_transition is 2", "must be 1 or 3"),
    "smoothing NaN": (config(label_smoothing=NAN), "label_smoothing is nan", "from 0 up to"),
    "no decoder": (config(decoder=7), LOAD, ""),
    "decoder that sees": (config(decoder__model_type="vit"), "the decoder is 'vit'", "no causal model"),
    "decoder of magic": (config(decoder__hidden_act="magic"), LOAD, "magic"),
    "decoder without width": (config(decoder__hidden_size=0), "hidden_size=0", "must have at least 1"),
    "decoder below 0": (config(decoder__hidden_size=-16), "hidden_size=-16", "must have at least 1"),
    "huge decoder": (config(decoder__hidden_size=HUGE), f"hidden_size={HUGE}", "at most 2147483648"),
    "deep decoder": (config(decoder__num_hidden_layers=10**6), "num_hidden_layers=1000000", "at most 10000"),
    "wide decoder": (config(decoder__hidden_size=32), "config.json declares", "not of one model"),
    "shallow decoder": (config(decoder__num_hidden_layers=0), "num_hidden_layers=0", "at least 1"),
    "deeper decoder": (config(decoder__num_hidden_layers=2), "config.json declares", "not of one model"),
    "decoder from elsewhere": (config(decoder__auto_map={"AutoModel": "x"}), "auto_map", "from elsewhere"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), LOAD, "no model.safetensors"),
    "empty weights": (write("model.safetensors", b""), LOAD, "header"),
    "foreign weights": (write("model.safetensors", b"GGUF" * 100), LOAD, "header"),
    "cut weights": (
        lambda folder: write("model.safetensors", (folder / "model.safetensors").read_bytes()[:-4])(folder),
        LOAD,
        "",
    ),
    "a weight lost": (weights(lambda all: all.pop("head.bias")), "config.json declares", "not of one model"),
    "a weight more": (
        weights(lambda all: all.update(x=torch.ones(2))),
        "config.json declares",
        "not of one model",
    ),
    "a weight renamed": (
        weights(lambda all: all.update({"head.bent": all.pop("head.bias")})),
        "not of one model",
        "head.b",
    ),
    "weights of another shape": (
        weights(lambda all: all.update({"head.weight": all["head.weight"].T.contiguous()})),
        "not of one model",
        "head.weight",
    ),
    "NaN weights": (weights(lambda all: all["head.weight"].fill_(NAN)), "head.weight hold NaN", "anew"),
    "one NaN that no trial meets": (
        weights(lambda all: all["embedding.observation.rows.weight"][7].fill_(NAN)),
        "embedding.observation.rows.weight hold NaN",
        "train it anew, or get it anew",
    ),
    "infinite weights": (
        weights(lambda all: all["head.bias"].fill_(-torch.inf)),
        "head.bias hold NaN",
        "anew",
    ),
    "playing cut": (write("generation_config.json", "{"), LOAD, ""),
    "playing a list": (write("generation_config.json", "[]"), LOAD, ""),
    "playing no context": (playing(context_length=1), "context_length is 1", "takes 2 to 30"),
    "playing a long context": (playing(context_length=31), "context_length is 31", "takes 2 to 30"),
    "playing by text": (playing(num_episodes="100"), LOAD, "wrong type"),
    "playing no temperature": (playing(temperature=0.0), LOAD, "strictly positive"),
    "playing at NaN": (playing(temperature=NAN), LOAD, ""),
    "playing hot as text": (playing(temperature="hot"), LOAD, ""),
    "playing below the top": (playing(top_k=-1), LOAD, "top_k"),
    "playing above the top": (playing(top_p=-0.5), LOAD, "top_p"),
    "playing by a word": (playing(do_sample="yes"), LOAD, "wrong type"),
}

LAST = "update-00000006"
DAMAGED = f"checkpoints/{LAST} is damaged"
NOT_OURS = f"checkpoints/{LAST} is not of this model and run"
STATE, PROGRESS = "training_state.safetensors", "training_state.json"
# What is done to the last checkpoint of an interrupted training -> what `ad-hf train --resume` says of it.
TRAININGS: dict[str, tuple[Harm, str, str]] = {
    "no progress": (
        lambda folder: (folder / PROGRESS).unlink(),
        DAMAGED,
        "remove it to resume from the one before",
    ),
    "empty progress": (write(PROGRESS, ""), DAMAGED, "remove it to resume"),
    "progress a list": (write(PROGRESS, "[]"), NOT_OURS, "remove it"),
    "progress null": (write(PROGRESS, "null"), NOT_OURS, "remove it"),
    "progress of nothing": (write(PROGRESS, "{}"), NOT_OURS, "remove it"),
    "updates as text": (edit(PROGRESS, update="6"), NOT_OURS, "remove it"),
    "updates below 0": (edit(PROGRESS, update=-1), NOT_OURS, "remove it"),
    "updates NaN": (edit(PROGRESS, update=NAN), NOT_OURS, "remove it"),
    "no settings": (edit(PROGRESS, made_with=7), NOT_OURS, "remove it"),
    "settings of a list": (edit(PROGRESS, made_with__train=[]), NOT_OURS, "remove it"),
    "settings of more": (edit(PROGRESS, made_with__weather={"sun": 1}), NOT_OURS, "remove it"),
    "other settings": (
        edit(PROGRESS, made_with__train__seed=9),
        "train.seed=9, not 0",
        "choose another --output",
    ),
    "other histories": (
        edit(PROGRESS, made_with__histories__crc32=1),
        "histories.crc32=1",
        "another --output",
    ),
    "no schedule": (edit(PROGRESS, schedule=...), NOT_OURS, "remove it"),
    "schedule of text": (edit(PROGRESS, schedule__last_epoch="6"), NOT_OURS, "remove it"),
    "empty state": (write(STATE, b""), DAMAGED, "remove it to resume"),
    "cut state": (
        lambda folder: write(STATE, (folder / STATE).read_bytes()[:-8])(folder),
        DAMAGED,
        "remove it to resume",
    ),
    "state without random numbers": (weights(lambda all: all.pop("random"), STATE), NOT_OURS, "remove it"),
    "random numbers cut": (
        weights(lambda all: all.update(random=all["random"][:, :9].contiguous()), STATE),
        NOT_OURS,
        "remove it",
    ),
    "state of more": (
        weights(lambda all: all.update({"optimizer.x.step": torch.ones(1)}), STATE),
        NOT_OURS,
        "remove",
    ),
    "state of another shape": (
        weights(lambda all: all.update({"optimizer.0.exp_avg": torch.ones(3)}), STATE),
        NOT_OURS,
        "remove it",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), DAMAGED, "remove it to resume"),
    "other weights": (weights(lambda all: all.pop("head.bias")), NOT_OURS, "remove it"),
    "weights of another shape": (
        weights(lambda all: all.update({"head.bias": torch.ones(7)})),
        NOT_OURS,
        "remove it",
    ),
}


@pytest.mark.parametrize("damage", MODELS)
def test_a_model_that_is_damaged_or_put_together_is_refused(
    damage: str, checkpoint: Path, tmp_path: Path
) -> None:
    harm, said, way_out = MODELS[damage]
    places = {"model": tmp_path / "model", "output": tmp_path / "output"}
    shutil.copytree(checkpoint, places["model"], ignore=shutil.ignore_patterns("checkpoints"))
    harm(places["model"])
    before = contents(places["model"])
    line = assert_one_line(invoke("evaluate", places["model"], "--no-ed", "--output", places["output"]))
    assert filled(said, places) in line
    assert filled(way_out, places) in line
    assert len(line) < 700
    assert contents(places["model"]) == before
    assert not places["output"].exists()


@pytest.mark.parametrize("damage", TRAININGS)
def test_an_unfinished_training_that_is_damaged_is_not_resumed(
    damage: str, checkpoint: Path, dataset_folder: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    harm, said, way_out = TRAININGS[damage]
    output = shutil.copytree(checkpoint, tmp_path / "model")
    (output / "model.safetensors").unlink()
    harm(output / "checkpoints" / LAST)
    before = contents(output)
    command = ["train", "dark-room", "--dataset", dataset_folder, "--output", output, "--resume"]
    line = assert_one_line(invoke(*command, *sets(tiny)))
    assert said in line
    assert way_out in line
    assert contents(output) == before
