"""Safety: what others put onto the Hub runs nothing, takes no memory, writes nowhere, and is told in a line.

The organisation "evil" has planted what the real Hub would mostly refuse. Whatever runs leaves a file behind.
"""

from __future__ import annotations

import builtins
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_repos import Commit, Repo
from hub_server import LocalHub
from safetensors.torch import load_file, save_file
from test_cli import assert_one_line, contents, invoke, sets
from transformers import AutoModel, modeling_utils

from ad_hf.loading import load_model
from ad_hf.models import ADConfig, ADModel

MODEL, DATASET = "evil/model", "evil/histories"
Harm = Callable[[Path], None]


@pytest.fixture(autouse=True)
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing asks, nothing runs what it brings along, nothing takes long or much memory."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        (tmp_path / "pwned").touch()
        raise AssertionError("this must not be called")

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(builtins, "input", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", refuse)  # fetches kernels
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert not (tmp_path / "pwned").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB
    assert time.monotonic() - started < 60


@pytest.fixture
def code(tmp_path: Path) -> str:
    """Python that tells when it has run."""
    return f"open({str(tmp_path / 'pwned')!r}, 'w')\n"


@pytest.fixture
def pickled(tmp_path: Path) -> bytes:
    """A pickle that tells when it has been loaded, by calling `open`."""
    return f"cbuiltins\nopen\n(S{str(tmp_path / 'pwned')!r}\nS'w'\ntR.".encode()


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A model of ours, to do harm to."""
    path = tmp_path / "model"
    ignore = shutil.ignore_patterns("checkpoints", "training_log.jsonl")
    return Path(shutil.copytree(checkpoint, path, ignore=ignore))


def set_json(name: str, **changes: Any) -> Harm:
    """Change entries of a JSON file, with two underscores between those inside one another."""

    def harm(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        for path, value in changes.items():
            *sections, last = path.split("__")
            inner = values
            for section in sections:
                inner = inner[section]
            inner[last] = value
        (folder / name).write_text(json.dumps(values))

    return harm


def config(**changes: Any) -> Harm:
    return set_json("config.json", **changes)


def write(name: str, text: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / name).write_text(text)

    return harm


def change_weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path)

    return harm


def shards(name: str) -> Harm:
    """Weights of which an index says that they are in another file."""

    def harm(folder: Path) -> None:
        names = load_file(folder / "model.safetensors").keys()
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return harm


# Models


MODELS: dict[str, tuple[Harm, str]] = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    "index to a parent": (shards("../model.safetensors"), "names the file '../model.safetensors'"),
    "index to the root": (shards("/etc/passwd"), "names the file '/etc/passwd'"),
    "index to a pickle": (shards("pytorch_model-1.bin"), "names the file 'pytorch_model-1.bin'"),
    "index to nothing": (shards("model-9.safetensors"), "model-9.safetensors"),
    "other model": (config(model_type="llama"), "it holds a 'llama' model"),
    "unknown decoder": (config(decoder__model_type="abacus"), "the decoder is 'abacus', which is no causal"),
    "decoder that sees": (config(decoder__model_type="detr"), "the decoder is 'detr', which is no causal"),
    "itself inside": (config(decoder__model_type="algorithm_distillation"), "which is no causal model"),
    "decoder is a number": (config(decoder=5), "cannot be loaded"),
    "decoder is a list": (config(decoder=["llama"]), "cannot be loaded"),
    "code for the decoder": (
        config(decoder__auto_map={"AutoModel": "evil/model--evil.Evil"}),
        "the decoder sets auto_map, which may bring code",
    ),
    "kernel for the decoder": (
        config(decoder__attn_implementation="evil/kernel"),
        "the decoder sets attn_implementation, which may bring code",
    ),
    "hidden kernel for the decoder": (
        config(decoder___attn_implementation={"": "evil/kernel"}),
        "the decoder sets _attn_implementation, which may bring code",
    ),
    "kernel deep inside": (
        config(decoder__text_config={"attn_implementation": "evil/kernel"}),
        "the decoder sets attn_implementation, which may bring code",
    ),
    "experts from elsewhere": (
        config(decoder__experts_implementation="evil/kernel"),
        "the decoder sets experts_implementation, which may bring code",
    ),
    "quantized from elsewhere": (
        config(decoder__quantization_config={"quant_method": "mxfp4"}),
        "the decoder sets quantization_config, which may bring code",
    ),
    "wide": (config(decoder__hidden_size=2**28), "declares"),
    "wider": (config(decoder__hidden_size=2**60), "the decoder has hidden_size="),
    "deep": (config(decoder__num_hidden_layers=10**9), "the decoder has num_hidden_layers=1000000000"),
    "rather deep": (config(decoder__num_hidden_layers=10**4), "declares far more than 22 weights"),
    "deep by another name": (
        config(decoder={"model_type": "gpt2", "n_layer": 10**4, "n_embd": 16, "n_head": 1}),
        "declares far more than 22 weights",
    ),
    "deep in its lists": (
        config(decoder={"model_type": "qwen2", "num_hidden_layers": 10**9}),
        "the decoder has num_hidden_layers=1000000000",
    ),
    "buffers": (
        config(decoder={"model_type": "gpt2", "n_positions": 10**9, "n_embd": 16, "n_head": 1}),
        "cannot be loaded",
    ),
    "long": (config(context_length=10**9, decoder__max_position_embeddings=10**9), "a context of 1000000000"),
    "endlessly long": (config(context_length=10**300), "cannot be loaded"),
    "vast": (
        config(observation_space={"type": "MultiDiscrete", "nvec": [10**12, 9]}),
        "from 1 to 2147483647",
    ),
    "many numbers": (config(observation_space={"type": "MultiDiscrete", "nvec": [2] * 200_000}), "declares"),
    "many actions": (config(action_space={"type": "Discrete", "n": 10**12}), "from 1 to 2147483647"),
    "more actions": (config(action_space={"type": "Discrete", "n": 10**40}), "cannot be loaded"),
    "fewer than no actions": (config(action_space={"type": "Discrete", "n": -1}), "cannot be loaded"),
    "words for sizes": (config(decoder__hidden_size="big"), "expected int, got str"),
    "words for spaces": (config(observation_space={"type": "MultiDiscrete", "nvec": "99"}), "cannot be"),
    "nothing for spaces": (config(action_space={}), "the type supported is 'Discrete'"),
    "list for spaces": (config(action_space=[5]), "cannot be loaded"),
    "words for the context": (config(context_length="long"), "cannot be loaded"),
    "negative context": (config(context_length=-5), "context_length is -5 transitions"),
    "unknown activation": (config(decoder__hidden_act="evil/kernel"), "cannot be loaded"),
    "unknown numbers": (config(dtype="load"), "cannot be loaded"),
    "tuples": (config(decoder__return_dict=False), "cannot be loaded"),
    "other file": (write("config.json", "[]"), "it holds a None model"),
    "null": (write("config.json", "null"), "cannot be loaded"),
    "depths of JSON": (write("config.json", "[" * 100_000), "cannot be loaded"),
    "much JSON": (write("config.json", "{" + " " * 2**20 + "}"), "config.json has more than 1048576 bytes"),
    "cut generation settings": (write("generation_config.json", "{"), "cannot be loaded"),
    "list of generation settings": (write("generation_config.json", "[]"), "cannot be loaded"),
    "many episodes": (set_json("generation_config.json", num_episodes="many"), "a setting of the wrong type"),
    "perhaps sampled": (set_json("generation_config.json", do_sample="yes"), "a setting of the wrong type"),
    "hot": (set_json("generation_config.json", temperature="hot"), "cannot be loaded"),
    "no temperature": (set_json("generation_config.json", temperature=float("nan")), "cannot be loaded"),
    "cold": (set_json("generation_config.json", temperature=-1.0), "cannot be loaded"),
    "long memory": (set_json("generation_config.json", context_length=10**9), "context_length is 1000000000"),
    "no number": (
        change_weights(lambda w: {n: v / 0 if v.is_floating_point() else v for n, v in w.items()}),
        "hold NaN or infinity",
    ),
    "other names": (
        change_weights(lambda w: {name.replace("head.", "tail."): v for name, v in w.items()}),
        "are not of one model (head.",
    ),
    "other shapes": (
        change_weights(lambda w: {n: v.T.contiguous() if n == "head.weight" else v for n, v in w.items()}),
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_does_not_fit_or_wants_too_much_is_refused_in_one_line(kind: str, folder: Path) -> None:
    harm, reason = MODELS[kind]
    before = contents(folder)
    harm(folder)
    assert contents(folder) != before
    line = assert_one_line(invoke("generate", folder))
    assert line.startswith(f"ad-hf: the checkpoint in {folder} cannot be loaded: ")
    assert reason in line
    assert len(line) < 600


def test_weights_that_unpickle_are_neither_fetched_nor_loaded(
    hub: LocalHub, folder: Path, pickled: bytes
) -> None:
    files = contents(folder) | dict.fromkeys(("pytorch_model.bin", "a/x.pkl", "model.pt"), pickled)
    hub.add_repo("model", MODEL, files)
    assert invoke("generate", MODEL, "--num-episodes", 1).exit_code == 0
    del files["model.safetensors"]
    hub.add_repo("model", MODEL, files)
    assert "has no model.safetensors" in assert_one_line(invoke("generate", MODEL))
    hub.add_repo("model", MODEL, files | {"model.safetensors": pickled})
    assert "cannot be loaded" in assert_one_line(invoke("generate", MODEL))
    assert not [seen.path for seen in hub.requests if seen.path.endswith((".bin", ".pkl", ".pt"))]


def test_what_else_a_model_names_or_brings_along_is_ignored(
    hub: LocalHub, folder: Path, code: str, pickled: bytes
) -> None:
    played = invoke("generate", folder, "--num-episodes", 2).stdout
    config(
        auto_map={"AutoConfig": "evil/other--evil.Config", "AutoModel": "evil/other--evil.Model"},
        attn_implementation="evil/kernel",
        _attn_implementation="evil/kernel",
        experts_implementation="evil/kernel",
        quantization_config={"quant_method": "mxfp4"},
        transformers_weights="other.safetensors",
        custom_pipelines={"text-generation": {"impl": "evil.Pipeline"}},
    )(folder)
    set_json("generation_config.json", custom_generate="evil/other", trust_remote_code=True)(folder)
    brought = {
        "evil.py": code,
        "modeling_ad.py": code,
        "custom_generate/generate.py": code,
        "adapter_config.json": '{"base_model_name_or_path": "evil/other", "peft_type": "LORA"}',
        "other.safetensors": pickled,
        "shard-00000-model-00001-of-00001.safetensors": pickled,
    }
    hub.add_repo("model", MODEL, contents(folder) | brought)
    hub.add_repo("model", "evil/other", {"evil.py": code, "config.json": "{}"})
    hub.add_repo("model", "evil/kernel", {"build/kernel/__init__.py": code})
    result = invoke("generate", MODEL, "--num-episodes", 2)
    assert (result.exit_code, result.stdout) == (0, played)
    assert not [seen.path for seen in hub.requests if "evil/other" in seen.path or "evil/kernel" in seen.path]


def test_auto_classes_take_our_code_and_not_that_of_a_repository(
    hub: LocalHub, folder: Path, code: str
) -> None:
    config(auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})(folder)
    hub.add_repo("model", MODEL, contents(folder) | {"evil.py": code})
    assert type(AutoModel.from_pretrained(MODEL)) is ADModel
    assert type(AutoModel.from_pretrained(MODEL, trust_remote_code=True)) is ADModel


@pytest.mark.parametrize("kind", ["gpt2", "opt", "mamba", "mixtral", "gemma2", "gpt_neo", "qwen3"])
def test_models_with_other_decoders_come_back_as_they_were_saved(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
    more = {
        "opt": {"ffn_dim": 16, "word_embed_proj_dim": 16},
        "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    }
    decoder = {"model_type": kind, **sizes, "intermediate_size": 16, "num_key_value_heads": 2}
    saved = ADModel(ADConfig(context_length=20, decoder={**decoder, **more.get(kind, {})}))
    saved.save_pretrained(tmp_path / kind)
    loaded = load_model(str(tmp_path / kind))
    for name, values in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], values)


# Recipes and reports


RECIPES: dict[str, tuple[Harm, str]] = {
    "unknown setting": (set_json("recipe.json", train__shell="id"), "there is no setting train.shell"),
    "terminal codes": (set_json("recipe.json", **{"\x1b[2J": 1}), "there is no setting ?[2J"),
    "unknown tasks": (set_json("recipe.json", family__name="os:system"), "unknown environment 'os:system'"),
    "tasks of a kind": (set_json("recipe.json", family__name=["dark-room"]), "there are no tasks with"),
    "unknown source": (set_json("recipe.json", collect__source="os:system"), "unknown source 'os:system'"),
    "a list": (write("recipe.json", "[]"), "must hold settings"),
    "depths": (write("recipe.json", "[" * 100_000), "recipe.json is not JSON"),
    "wide": (set_json("recipe.json", model__decoder__hidden_size=2**24), "takes"),
    "deep": (set_json("recipe.json", model__decoder__num_hidden_layers=10**9), "the decoder has num_hidden"),
    "kernel": (
        set_json("recipe.json", model__decoder__attn_implementation="evil/kernel"),
        "the decoder sets attn_implementation, which may bring code",
    ),
    "code": (
        set_json("recipe.json", model__decoder__auto_map={"AutoModel": "x"}),
        "the decoder sets auto_map",
    ),
    "batch": (set_json("recipe.json", train__batch_size=10**12), "train.batch_size is 1000000000000 windows"),
    "context": (set_json("recipe.json", model__context_length=10**9), "a context of 1000000000 transitions"),
    "tracker": (set_json("recipe.json", train__trackers=["wandb"]), "the tracker 'wandb' is not one of"),
    "root": (set_json("recipe.json", dataset="/etc"), "/etc/dark-room holds no Parquet files"),
    "no histories": (set_json("recipe.json", dataset="evil/none"), "there is no such repository"),
    "out of the cache": (
        set_json("recipe.json", dataset="evil/x@../../../y"),
        "no repository on the Hub can",
    ),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_training_by_the_recipe_of_others_is_refused_in_one_line(
    kind: str, hub: LocalHub, folder: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    harm, reason = RECIPES[kind]
    set_json("recipe.json", dataset=str(dataset_folder))(folder)
    harm(folder)
    line = assert_one_line(invoke("train", folder, "--output", tmp_path / "trained"))
    assert reason in line
    assert len(line) < 600
    assert not list(tmp_path.glob("trained/*"))


@pytest.mark.parametrize("setting", ["num_episodes", "rollouts_per_task", "bootstrap_samples"])
def test_judging_for_ever_is_refused_in_one_line(setting: str, folder: Path) -> None:
    set_json("recipe.json", **{f"evaluate__{setting}": 10**12})(folder)
    assert "GiB at least: ask for fewer" in assert_one_line(invoke("evaluate", folder, "--no-ed"))


def curve(*values: Any) -> dict[str, list[Any]]:
    return {key: [*values] for key in ("return_per_episode", "low", "high")}


REPORTS: dict[str, Harm] = {
    "a list": write("evaluation.json", "[]"),
    "nothing": write("evaluation.json", "{}"),
    "no protocol": set_json("evaluation.json", protocol=None),
    "no model": set_json("evaluation.json", agents={"source": curve(0.0, 0.0, 0.0)}),
    "words": set_json("evaluation.json", agents__ad=curve("1", "2", "3")),
    "no numbers": set_json("evaluation.json", agents__ad=curve(0.0, float("nan"), 0.0)),
    "too few": set_json("evaluation.json", agents__ad=curve(0.0)),
    "many episodes": set_json("evaluation.json", protocol__num_episodes=10**12),
    "a formula": set_json("evaluation.json", environment=r"$\frac"),
    "an endless optimum": set_json("evaluation.json", optimum=float("inf")),
    "a number of tasks": set_json("evaluation.json", protocol__test_tasks=10**12),
}


@pytest.fixture(scope="session")
def evaluation(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("evaluated")
    assert invoke("evaluate", checkpoint, "--no-ed", "--output", output).exit_code == 0
    return (output / "evaluation.json").read_text()


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_of_another_kind_is_refused_in_one_line(
    kind: str, hub: LocalHub, folder: Path, evaluation: str, tmp_path: Path
) -> None:
    (folder / "evaluation.json").write_text(evaluation)
    REPORTS[kind](folder)
    hub.add_repo("model", MODEL, contents(folder))
    line = assert_one_line(invoke("report", MODEL, "--output", tmp_path / "report"))
    assert line == f"ad-hf: the evaluation.json in {MODEL} is no report of `ad-hf evaluate`: run it again\n"
    assert not (tmp_path / "report").exists()


STATES: dict[str, str] = {
    "a list": "[]",
    "elsewhere": '{"update": "../../../../pwned", "made_with": {}}',
    "less than nothing": '{"update": -1, "made_with": {}}',
    "true": '{"update": true, "made_with": {}}',
    "of nothing": '{"update": 2}',
}


@pytest.mark.parametrize("kind", STATES)
def test_a_training_that_is_none_is_not_resumed(
    kind: str, hub: LocalHub, folder: Path, tmp_path: Path
) -> None:
    hub.add_repo("model", MODEL, contents(folder) | {"training_state.json": STATES[kind]})
    line = assert_one_line(invoke("train", "--resume", MODEL))
    assert line.startswith(f"ad-hf: the training_state.json in {MODEL} is none of ours")
    assert list(Path().iterdir()) == []


# Names of files


@pytest.mark.parametrize(
    "name",
    ["../../evil.json", "a/../../../evil.json", "..\\evil.json", "/evil.json", "C:/evil.json", "C:evil.json"],
)
@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_names_that_lead_out_of_a_repository_are_refused(
    repo_type: str, name: str, hub: LocalHub, folder: Path, tmp_path: Path
) -> None:
    hub.add_repo(repo_type, MODEL, contents(folder) | {name: "{}"})
    line = assert_one_line(invoke("pull", MODEL, "--type", repo_type, "--output", tmp_path / "pulled"))
    assert line == f"ad-hf: {MODEL}: a file of it is called {name!r}, which leads out of its folder\n"
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "model"}


@pytest.mark.parametrize("name", ["../../../../evil.json", "more.json", "a" * 5000 + ".json", "nul\0.json"])
def test_files_that_a_repository_hides_are_not_taken(
    name: str, hub: LocalHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = Repo.describe

    def hide(repo: Repo, commit: Commit, details: bool = False) -> dict[str, Any]:
        about = describe(repo, commit, details)
        return about | {"siblings": [file for file in about["siblings"] if file["rfilename"] != name]}

    hub.add_repo("model", MODEL, contents(folder) | {name: "{}"})
    monkeypatch.setattr(Repo, "describe", hide)
    line = assert_one_line(invoke("pull", MODEL, "--output", tmp_path / "pulled"))
    assert line.startswith(f"ad-hf: {MODEL}: ")
    assert len(line) < 600
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "model"}


# Histories


def train(dataset: str | Path, output: Path, tiny: tuple[str, ...], *more: str) -> Any:
    return invoke("train", "dark-room", "--dataset", dataset, "--output", output, *more, *sets(tiny))


@pytest.mark.parametrize("streaming", [(), ("--streaming",)])
def test_histories_come_from_their_repository_whatever_its_card_names(
    streaming: tuple[str, ...],
    hub: LocalHub,
    dataset_folder: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    code: str,
    pickled: bytes,
) -> None:
    files = contents(dataset_folder)
    elsewhere = ["/etc/passwd", f"{hub.url}/org/other/x.parquet", "hf://datasets/org/other/x.parquet"]
    card = files["README.md"].decode().replace("dark-room/train-*.parquet", json.dumps(elsewhere))
    assert files["README.md"] != card.encode()
    files |= {"README.md": card.encode(), "dark-room/train.pkl": pickled}
    files |= dict.fromkeys(("histories.py", "evil_histories.py"), code.encode())
    hub.add_repo("dataset", DATASET, files)
    assert train(DATASET, tmp_path / "m", tiny, *streaming).exit_code == 0
    asked = [seen.path for seen in hub.requests]
    assert not [path for path in asked if path.endswith((".py", ".pkl")) or "/org/" in path]


@pytest.mark.parametrize(
    ("kind", "streaming"),
    [
        ("declares more than there is", ()),
        *((kind, options) for kind in ("is cut", "is something else") for options in ((), ("--streaming",))),
    ],
)
def test_histories_that_are_none_are_refused_in_one_line(
    streaming: tuple[str, ...],
    kind: str,
    hub: LocalHub,
    dataset_folder: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shard = next(dataset_folder.glob("dark-room/train-*"))
    table = pq.read_table(shard)
    data = {"is cut": shard.read_bytes()[:-9], "is something else": b"PAR1" * 500}.get(kind, b"")
    if not data:  # a few kilobytes that stand for a quarter of a gigabyte
        zeros = pa.ListArray.from_arrays(pa.array([0, 1_000_000]), np.zeros(1_000_000))
        table = table.slice(0, 1).set_column(table.schema.get_field_index("reward"), "reward", zeros)
        with pq.ParquetWriter(tmp_path / "bomb", table.schema) as writer:
            for _ in range(32):
                writer.write_table(table)
        data = (tmp_path / "bomb").read_bytes()
        free = psutil.virtual_memory()._replace(available=2**27)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert len(data) < 100_000
    name = f"{shard.parent.name}/{shard.name}"
    hub.add_repo("dataset", DATASET, contents(dataset_folder) | {name: data})
    line = assert_one_line(train(DATASET, tmp_path / "m", tiny, *streaming))
    assert shard.name in line
    assert len(line) < 600


CARDS: dict[str, str] = {
    "code": "a: !!python/object/apply:os.system [touch pwned]",
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1 or str()}'] * 10)}]" for i in range(1, 12)),
    "a snake": "a: &a [*a]",
    "depths": "a: " + "[" * 50_000,
    "gulf": "a: 1" + "\n" * 500_000,
    "100 MB": "#" * 100_000_000,
    "a newer format": "ad_hf: {format_version: '99.0'}",
    "half of how": "ad_hf: {configs: {dark-room: {complete: true}}}",
    "words for how": "ad_hf: {configs: {dark-room: {task_family: {name: dark-room, seed: 0}, "
    "source: q-learning, num_episodes: many, learners_per_task: 1, lockstep: 1, seed: 0, settings: {}}}}",
}


@pytest.mark.parametrize("kind", CARDS)
def test_the_card_of_others_is_refused_in_one_line(
    kind: str, dataset_folder: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    histories = tmp_path / "histories"  # as pulled
    shutil.copytree(dataset_folder, histories)
    (histories / "README.md").write_text(f"---\n{CARDS[kind]}\n---\n# Histories\n")
    line = assert_one_line(train(histories, tmp_path / "m", tiny))
    assert str(histories) in line
    assert len(line) < 600
    assert not (tmp_path / "m").exists()


def test_words_on_the_card_of_others_are_never_evaluated(
    hub: LocalHub, dataset_folder: Path, tmp_path: Path
) -> None:
    # Ours are added to a card that is there, and the template is filled with what it tells of the others.
    words = "{{ 7 * 191 }}{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}"
    theirs = {"configs": {words: {"settings": words, "command": words, "source": words}}}
    card = f"---\n{json.dumps({'ad_hf': theirs, 'title': words})}\n---\n"
    hub.add_repo("dataset", "org/histories", {"README.md": card})
    result = invoke("push", dataset_folder, "org/histories")
    assert result.exit_code == 0, result.stderr
    text = hub.files("dataset", "org/histories")["README.md"].decode().split("---\n")[2]
    assert text.count(words) > 3
    assert "1337" not in text
