"""The command line: data on stdout, talk on stderr, one line for what went wrong, and nothing lost by it."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pyarrow.parquet as pq
import pytest
from hub_server import LocalHub
from typer.testing import CliRunner

from ad_hf.cli import app

COMMANDS = ("collect", "train", "evaluate", "report", "generate", "push", "pull", "list", "env")
TRAIN = ("train", "dark-room", "--dataset")


def invoke(*arguments: Any, env: dict[str, str] | None = None) -> Any:
    """What `ad-hf` with these arguments does: its `stdout`, `stderr`, `exit_code` and `exception`."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


def sets(changes: tuple[str, ...]) -> list[str]:
    return [f"--set={change}" for change in changes]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_one_line(result: Any) -> str:
    """That a command failed as it should; what it said."""
    assert result.exit_code == 1, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("ad-hf: ")
    return result.stderr


@pytest.fixture
def model(checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny model, to do with as one likes."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples_that_can_be_copied(command: str) -> None:
    result = invoke(command, "--help", env={"COLUMNS": "80", "TERMINAL_WIDTH": "80", "NO_COLOR": "1"})
    assert result.exit_code == 0
    _, _, examples = result.stdout.partition(" Examples")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert lines
    for line in lines:  # a command that wraps would continue here
        assert f"{line} ".startswith((f"ad-hf {command} ", f"accelerate launch -m ad_hf {command} ")), line


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_name_options_that_exist(command: str) -> None:
    text = invoke(command, "--help", env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).stdout
    options, _, examples = text.partition(" Examples")
    for line in filter(str.strip, examples.splitlines()):
        words = shlex.split(line.partition("|")[0])
        for option in (word for word in words if word.startswith("--")):
            assert f"{option} " in options, f"{line}: {option}"


def test_help_waits_for_none_of_the_heavy_libraries() -> None:
    code = f"""
import sys
from ad_hf.cli import main
for command in {(*COMMANDS, "")!r}:
    sys.argv = ["ad-hf", *command.split(), "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0
heavy = {{"torch", "transformers", "datasets", "numpy", "gymnasium", "matplotlib"}}
print(heavy & sys.modules.keys(), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "set()"
    assert all(command in result.stdout for command in COMMANDS)


# The route


def test_every_command_leads_to_the_next(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def follow(command: str, *more: str) -> tuple[str, str]:
        """Run a command line; what it printed, and the command it names next."""
        result = invoke(*shlex.split(command)[1:], *more)
        assert result.exit_code == 0, result.stderr
        *_, last = result.stderr.splitlines()
        return result.stdout, last.removeprefix("next: ")

    printed, command = follow("ad-hf collect dark-room --output runs/histories", *sets(tiny))
    assert printed == "runs/histories\n"
    assert command == "ad-hf train dark-room --dataset runs/histories --output runs/model"
    printed, command = follow(command, *sets(tiny))
    assert printed == "runs/model\n"
    assert command == "ad-hf evaluate runs/model"
    printed, command = follow(command)
    agents = ("algorithm distillation", "expert distillation", "source from scratch", "random", "optimum")
    assert all(f"\n{agent} " in printed for agent in agents)
    assert printed.startswith("ad_hf/DarkRoom-v0, 16 held-out tasks: mean return\n")
    assert command == "ad-hf report runs/model --output runs/report"
    printed, command = follow(command)
    assert printed == "runs/report/report.md\n"
    assert Path(printed.strip()).is_file()
    assert json.loads(Path("runs/report/report.json").read_text())["agents"].keys() >= {"ad", "ed"}
    assert command == "ad-hf generate runs/model"
    printed, last = follow(command, "--num-episodes", "2")
    assert len(printed.splitlines()) == 2
    assert "the weights never changed" in last
    assert sorted(path.name for path in Path("runs").iterdir()) == ["histories", "model", "report"]


def test_evaluate_prints_its_whole_report_as_json(model: Path) -> None:
    result = invoke("evaluate", model, "--no-ed", "--num-episodes", 2, "--seed", 5, "--json")
    report = json.loads(result.stdout)
    assert report["protocol"]["num_episodes"] == 2
    assert report["protocol"]["seed"] == 5
    assert report["agents"].keys() == {"ad", "source", "random", "posterior_sampling"}
    assert json.loads((model / "evaluation.json").read_text()) == report


def test_evaluate_trains_expert_distillation_once(model: Path) -> None:
    assert invoke("evaluate", model).exit_code == 0
    weights = model / "ed" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert invoke("evaluate", model).exit_code == 0
    assert weights.stat().st_mtime_ns == written
    assert invoke("evaluate", model, "--ed", model / "ed").exit_code == 0


def test_generate_shows_every_episode_with_its_walk(model: Path) -> None:
    result = invoke("generate", model, "--goal", "7,2", "--num-episodes", 3)
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["episode", "1"], ["episode", "2"], ["episode", "3"]]
    for line in lines:
        walk = line.split()[-1]
        assert len(walk) == 20
        assert set(walk) <= set("←→↑↓·")
    assert '{"goal": [7, 2]}' in result.stderr


def test_generate_prints_every_episode_as_json(model: Path) -> None:
    result = invoke("generate", model, "--task", '{"goal": [4, 4]}', "--num-episodes", 2, "--json")
    episodes = [json.loads(line) for line in result.stdout.splitlines()]
    assert [episode["episode"] for episode in episodes] == [0, 1]
    assert all(len(episode["actions"]) == 20 for episode in episodes)


def test_generate_is_a_matter_of_its_seed_and_temperature(model: Path) -> None:
    def play(*options: Any) -> str:
        return invoke("generate", model, "--num-episodes", 2, *options).stdout

    assert play("--seed", 1) == play("--seed", 1)
    assert play("--seed", 1) != play("--seed", 2)
    assert play("--seed", 1, "--temperature", 0) == play("--seed", 2, "--temperature", 0)


def test_only_the_first_process_of_several_speaks(model: Path) -> None:
    others = {"RANK": "1", "LOCAL_RANK": "1"}
    result = invoke("evaluate", "nowhere", env=others)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")


def test_env_tells_a_bug_report_everything_but_secrets(hub: LocalHub) -> None:
    facts = json.loads(invoke("env", "--json").stdout)
    assert {"ad-hf", "python", "platform", "torch", "transformers", "huggingface-hub", "GPU"} <= facts.keys()
    assert facts["Hub"] == hub.url
    assert facts["Hub token"] is True
    shown = invoke("env").stdout
    assert re.search(rf"^torch +{re.escape(facts['torch'])}$", shown, re.M)
    assert re.search(r"^Hub token +yes$", shown, re.M)
    assert os.environ["HF_TOKEN"] not in shown + json.dumps(facts)


# What goes wrong


BAD: dict[str, tuple[list[str], str]] = {  # {dataset}, {model} and {output} are folders
    "environment": (
        ["collect", "dark-hall", "--output", "{output}"],
        "'dark-hall' is neither an environment",
    ),
    "source": (["collect", "dark-room", "--source", "dreams", "--output", "{output}"], "source 'dreams'"),
    "fold": (["collect", "dark-room", "--fold", "7", "--output", "{output}"], "fold is 7, but there are 5"),
    "no episodes": (
        ["collect", "dark-room", "--num-episodes", "0", "--output", "{output}"],
        "num_episodes is 0, but must be at least 1",
    ),
    "other dataset": (
        ["collect", "dark-room", "--seed", "5", "--output", "{dataset}"],
        "choose another --output",
    ),
    "no dataset": (
        [*TRAIN, "/nowhere", "--output", "{output}"],
        "there is no folder /nowhere, and no repository",
    ),
    "empty dataset": ([*TRAIN, "{empty}", "--output", "{output}"], "holds no Parquet files"),
    "window": (
        [*TRAIN, "{dataset}", "--output", "{output}", "--context-length", "241"],
        "a window has 241 transitions, but the longest history has 240",
    ),
    "other run": ([*TRAIN, "{dataset}", "--output", "{model}"], "is not empty: go on with --resume"),
    "precision": (
        [*TRAIN, "{dataset}", "--output", "{output}", "--mixed-precision", "fp8"],
        "mixed_precision is 'fp8'",
    ),
    "tracker": (
        [*TRAIN, "{dataset}", "--output", "{output}", "--trackers", "abacus"],
        "the tracker 'abacus' is not one of those installed",
    ),
    "decoder": (
        [*TRAIN, "{dataset}", "--output", "{output}", "--set", "model.decoder.model_type=abacus"],
        "abacus",
    ),
    "unknown setting": (
        [*TRAIN, "{dataset}", "--output", "{output}", "--set", "train.update=1"],
        "there is no setting 'train.update'",
    ),
    "wrong type": (
        [*TRAIN, "{dataset}", "--output", "{output}", "--set", "train.updates=many"],
        "train.updates is 'many', but must be of type int",
    ),
    "no value": (
        [*TRAIN, "{dataset}", "--output", "{output}", "--set", "train.updates"],
        "'train.updates' is not of the form",
    ),
    "no checkpoint": (["evaluate", "/nowhere"], "there is no folder /nowhere, and no repository"),
    "a recipe for a checkpoint": (["evaluate", "dark-room"], "there is no folder dark-room, and no rep"),
    "no expert": (
        ["evaluate", "{model}", "--ed", "/nowhere"],
        "there is no folder /nowhere, and no repository",
    ),
    "no rollouts": (
        ["evaluate", "{model}", "--rollouts-per-task", "0"],
        "rollouts_per_task is 0, but must be at least 1",
    ),
    "no evaluation": (
        ["report", "{model}", "--output", "{output}"],
        "has not been evaluated: run `ad-hf evalu",
    ),
    "no model to watch": (["generate", "/nowhere"], "there is no folder /nowhere, and no repository"),
    "no share": (["evaluate", "{model}", "--prompt", "1.5"], "prompt is 1.5, but must be a share of the"),
    "goal": (["generate", "{model}", "--goal", "x"], "--goal is 'x', but must be X,Y, for example 7,2"),
    "far goal": (
        ["generate", "{model}", "--goal", "9,9"],
        "goal is [9, 9], but must be (x, y) with both from",
    ),
    "JSON": (["generate", "{model}", "--task", "{"], "--task is '{', but must be a JSON object"),
    "no JSON object": (["generate", "{model}", "--task", "7"], "--task is '7', but must be a JSON object"),
    "argument": (
        ["generate", "{model}", "--task", '{"gaol": [1, 1]}'],
        "cannot be made with {'gaol': [1, 1]}",
    ),
    "nowhere to push": (
        [*TRAIN, "{dataset}", "--output", "{output}", "--push-to-hub"],
        "--push-to-hub needs --hub-model-id, for example",
    ),
    "place without push": (
        [*TRAIN, "{dataset}", "--output", "{output}", "--hub-model-id", "org/model"],
        "--revision and --overwrite-card need --push-to-hub",
    ),
    "pushes without push": (
        [*TRAIN, "{dataset}", "--output", "{output}", "--push-every", "2"],
        "--push-every, --private, --revision and --overwrite-card need --push-to-hub",
    ),
    "private without push": (
        ["collect", "dark-room", "--output", "{output}", "--private"],
        "--private, --revision and --overwrite-card need --push-to-hub",
    ),
    "no repository's name": (
        [*TRAIN, "{dataset}", "--output", "{output}", "--push-to-hub", "--hub-model-id", "model"],
        "'model' is not a repository, which looks like org/name",
    ),
    "no repository to pull": (["pull", "model"], "'model' is not a repository, which looks like org/name"),
    "revision to pull": (["pull", "org/model@../../x"], "is not a repository, which looks like org/name"),
    "type to pull": (["pull", "org/model", "--type", "space"], "--type is 'space', but must be model or"),
    "nothing to push": (["push", "{empty}", "org/model"], "holds no learning histories"),
    "unfinished": (["push", "{unfinished}", "org/model"], "has not ended: go on with `ad-hf train --resume`"),
    "no folder to push": (["push", "/nowhere", "org/model"], "there is no folder /nowhere"),
    "nothing to resume": (["train", "/nowhere", "--resume"], "'/nowhere' is neither"),
    "no dataset named": (["train", "dark-room", "--output", "{output}"], "name them with --dataset"),
    "no folder named": (["train", "dark-room", "--dataset", "{dataset}"], "with --output, for example"),
    "other room": (
        ["generate", "{model}", "--task", '{"size": 17, "goal": [1, 1]}'],
        "the environment's observation space is",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_goes_wrong_is_said_in_one_line(
    kind: str, dataset_folder: Path, model: Path, tmp_path: Path
) -> None:
    folders = {
        "dataset": dataset_folder,
        "model": model,
        "output": tmp_path / "output",
        "empty": tmp_path / "e",
        "unfinished": tmp_path / "u",
    }
    folders["empty"].mkdir()
    (folders["unfinished"] / "checkpoints").mkdir(parents=True)
    before = contents(dataset_folder), contents(model)
    arguments, message = BAD[kind]
    for name, folder in folders.items():
        arguments = [argument.replace(f"{{{name}}}", str(folder)) for argument in arguments]
    line = assert_one_line(invoke(*arguments))
    assert message in line
    assert len(line) < 600
    assert (contents(dataset_folder), contents(model)) == before
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "model", "--num-episodes", "0"],
        ["generate", "model", "--temperature", "-1"],
        ["collect", "dark-room"],
        ["collect", "dark-room", "--output", "x", "--num-episodes", "many"],
        ["distil"],
    ],
)
def test_what_the_parser_refuses_exits_with_two(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def harm(path: Path, length: int = 100) -> None:
    path.write_bytes(path.read_bytes()[:length])


def test_a_truncated_shard_is_named(dataset_folder: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    shutil.copytree(dataset_folder, tmp_path / "histories")
    shard = sorted(tmp_path.glob("histories/dark-room/train-*"))[1]
    harm(shard)
    command = (*TRAIN, tmp_path / "histories", "--output", tmp_path / "model")
    assert f"{shard} (100 bytes) is truncated" in assert_one_line(invoke(*command, *sets(tiny)))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "recipe.json"])
def test_a_damaged_model_is_refused(name: str, model: Path) -> None:
    harm(model / name)
    for command in (["evaluate", model, "--no-ed"], ["generate", model]):
        line = assert_one_line(invoke(*command))
        assert f"the checkpoint in {model} cannot be loaded" in line or "recipe.json is not JSON" in line
    assert not (model / "evaluation.json").exists()


def test_a_model_for_other_actions_is_refused(model: Path) -> None:
    from ad_hf.models import ADConfig, ADModel

    decoder = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    action_space = {"type": "Discrete", "n": 3}
    ADModel(ADConfig(context_length=30, decoder=decoder, action_space=action_space)).save_pretrained(model)
    for command in (["evaluate", model, "--no-ed"], ["generate", model]):
        line = invoke(*command).stderr.splitlines()[-1]
        assert line.startswith("ad-hf: the environment's action space is {'type': 'Discrete', 'n': 5}")


@pytest.mark.parametrize("dataset", ["/nowhere/histories", None])
def test_without_the_histories_a_model_is_judged_without_expert_distillation(
    dataset: str | None, model: Path
) -> None:
    recipe = json.loads((model / "recipe.json").read_text()) | {"dataset": dataset}
    (model / "recipe.json").write_text(json.dumps(recipe))
    result = invoke("evaluate", model, "--json")
    assert result.exit_code == 0
    said, _ = result.stderr.splitlines()
    assert said.startswith("ad-hf: without expert distillation, for the histories to train it on are gone: ")
    assert str(dataset or "names no histories") in said
    assert json.loads(result.stdout)["agents"].keys() == {"ad", "source", "random", "posterior_sampling"}
    assert not (model / "ed").exists()


def test_expert_distillation_of_another_model_is_not_compared_with(model: Path) -> None:
    assert invoke("evaluate", model).exit_code == 0
    recipe = json.loads((model / "recipe.json").read_text())
    recipe["train"]["seed"] = 1
    (model / "recipe.json").write_text(json.dumps(recipe))
    line = assert_one_line(invoke("evaluate", model))
    assert f"{model / 'ed'} holds expert distillation trained otherwise: choose another --output" in line


def raising(error: Exception) -> Callable[..., NoReturn]:
    def function(*args: Any, **kwargs: Any) -> NoReturn:
        raise error

    return function


def known_errors() -> dict[str, tuple[Exception, str]]:
    from gymnasium.error import NameNotFound
    from huggingface_hub.errors import StrictDataclassFieldValidationError
    from safetensors import SafetensorError

    return {
        "no such file": (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"),
            "ad-hf: there is no a/b: check the path\n",
        ),
        "full disk": (
            OSError(errno.ENOSPC, "No space left on device"),
            "ad-hf: No space left on device: what was written whole is kept\n",
        ),
        "full disk for weights": (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "ad-hf: Error while serializing: I/O error: No space left on device (os error 28)\n",
        ),
        "gymnasium": (
            NameNotFound("Environment `X` doesn't exist."),
            "ad-hf: Environment `X` doesn't exist.\n",
        ),
        "strict dataclass": (
            StrictDataclassFieldValidationError(field="size", cause=TypeError("expected int, got str")),
            "ad-hf: Validation error for field 'size': TypeError: expected int, got str\n",
        ),
    }


@pytest.mark.parametrize(
    "kind", ["no such file", "full disk", "full disk for weights", "gymnasium", "strict dataclass"]
)
def test_known_errors_show_a_traceback_only_to_those_who_ask(
    kind: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, line = known_errors()[kind]
    monkeypatch.setattr("ad_hf.runs.load_evaluation", raising(error))
    command = ("report", model, "--output", model / "report")
    assert assert_one_line(invoke(*command)) == line
    assert invoke(*command, env={"AD_HF_DEBUG": "1"}).exception is error


def test_our_own_mistakes_show_a_traceback(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = KeyError("agents")
    monkeypatch.setattr("ad_hf.runs.load_evaluation", raising(error))
    assert invoke("report", model, "--output", model / "report").exception is error


@pytest.mark.slow
def test_a_pipe_that_closes_early_ends_quietly(model: Path) -> None:
    pipe = f"{sys.executable} -m ad_hf generate {model} --num-episodes 60 --json | head -1"
    result = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True)
    assert json.loads(result.stdout)["episode"] == 0
    assert "ad-hf:" not in result.stderr
    assert "Traceback" not in result.stderr


# What is interrupted


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The disk is full for every file that would get larger."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_whole_shards_and_the_collection_goes_on(
    dataset_folder: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    sizes = sorted(path.stat().st_size for path in dataset_folder.rglob("*.parquet"))
    output = tmp_path / "histories"
    command = ("collect", "dark-room", "--output", output, *sets(tiny))
    with file_size_limit(sizes[-1] - 1):
        line = assert_one_line(invoke(*command))
    assert line == "ad-hf: File too large: what was written whole is kept\n"
    shards = list(output.rglob("*.parquet"))
    assert len(shards) < len(sizes)
    for shard in shards:
        assert shard.read_bytes() == (dataset_folder / shard.relative_to(output)).read_bytes()
    assert not list(output.rglob("*.partial"))
    assert invoke(*command).exit_code == 0
    assert contents(output / "dark-room") == contents(dataset_folder / "dark-room")


def test_a_full_disk_in_training_is_one_line(
    dataset_folder: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    command = (*TRAIN, dataset_folder, "--output", tmp_path / "model", *sets(tiny))
    with file_size_limit(4000):
        assert "File too large" in assert_one_line(invoke(*command))
    assert not list(tmp_path.glob("model/checkpoints/update-*"))
    assert invoke(*command, "--resume").exit_code == 0


def interrupt(command: list[str], written: Callable[[], bool]) -> str:
    """Run a command, press Ctrl-C once something is written; what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ad_hf", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # also where pytest runs with `&`
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not written():
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode in (1, 130)
    assert stdout == ""
    return stderr


INTERRUPTED = (
    "ad-hf: interrupted: what was written whole is kept; run it again to go on, train with --resume\n"
)


@pytest.mark.slow
def test_an_interrupted_collection_goes_on(tiny: tuple[str, ...], tmp_path: Path) -> None:
    output = tmp_path / "interrupted"
    changes = sets((*tiny, "collect.lockstep=8", "collect.num_episodes=60"))
    command = ["collect", "dark-room", *changes, "--output"]
    said = interrupt([*command, str(output)], lambda: bool(list(output.rglob("*.parquet"))))
    assert said == INTERRUPTED
    kept = contents(output / "dark-room")
    assert all(pq.read_metadata(output / "dark-room" / name).num_rows for name in kept)
    assert invoke(*command, output).exit_code == 0
    assert invoke(*command, tmp_path / "whole").exit_code == 0
    whole = contents(tmp_path / "whole" / "dark-room")
    assert 0 < len(kept) < len(whole)
    assert contents(output / "dark-room") == whole


@pytest.mark.slow
def test_an_interrupted_training_goes_on(dataset_folder: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    output = tmp_path / "model"
    changes = sets((*tiny, "train.updates=200", "train.checkpoint_every=10"))
    command = [*TRAIN, str(dataset_folder), "--output", str(output), *changes]
    assert interrupt(command, lambda: bool(list(output.glob("checkpoints/update-*")))) == INTERRUPTED
    assert not (output / "model.safetensors").exists()
    assert invoke(*command, "--resume").exit_code == 0
    updates = [
        json.loads(line)["update"] for line in (output / "training_log.jsonl").read_text().splitlines()
    ]
    assert updates == list(range(1, 201))
