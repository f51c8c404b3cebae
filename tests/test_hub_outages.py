"""Commands while the Hub is away: no work is lost, and one line says what to do later."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hub_haste import contents, forget, haste  # noqa: F401  # haste is on in every test
from hub_server import LocalHub
from huggingface_hub import constants
from safetensors.torch import load_file
from typer.testing import CliRunner

from ad_hf import hub as client
from ad_hf.cli import app

TRAIN = ["train", "dark-room", "--push-to-hub", "--hub-model-id", "org/m", "--push-every", "2"]
COLLECT = ["collect", "dark-room", "--push-to-hub", "org/m"]


def all_but_one_slow(values: Iterable[Any], quick: Any) -> list[Any]:
    return [value if value == quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


Press = Callable[..., tuple[float, str]]


def invoke(*arguments: Any) -> Any:
    """What `ad-hf` with these arguments does: its `stdout`, `stderr` and `exit_code`."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def sets(changes: tuple[str, ...]) -> list[str]:
    return [f"--set={change}" for change in changes]


def assert_pushed_later(hub: LocalHub, result: Any, folder: Path, name: str = "org/m: ") -> None:
    """That the command ended well, and that the one it named at the end works."""
    assert result.exit_code == 0, result.stderr
    assert str(folder) in result.stdout.splitlines()
    *_, reason, command, _ = result.stderr.splitlines()
    assert re.match(rf"ad-hf: not pushed: {name}.+\. All is whole in {folder}; push it later:$", reason), (
        result.stderr
    )
    assert shlex.split(command)[:2] == ["ad-hf", "push"]
    hub.heal()
    forget()
    assert invoke(*shlex.split(command)[1:]).exit_code == 0


# Training

DEATHS: dict[str, Callable[[LocalHub], None]] = {  # after the repository has been made
    "connections are reset": lambda hub: hub.fail("*", "reset", None, skip=2),
    "500 for ever": lambda hub: hub.fail("*", 500, None, skip=2),
    "silence": lambda hub: hub.fail("*", "stall", None, skip=2),
    "lies": lambda hub: hub.fail("*", "lie", None, skip=2),
    "the token is revoked": lambda hub: hub.fail("*", 401, None, skip=2),
    "no commit is accepted": lambda hub: hub.fail("commit", 503, None),
    "uploads come to nothing": lambda hub: hub.fail("xorb", "reset", None),
    "the repository is gone": lambda hub: hub.fail("info", 404, None),
}


def assert_same_training(output: Path, checkpoint: Path) -> None:
    """That the model, its log and its checkpoints are those of a training that pushes nothing."""
    beside = {"README.md", "evaluation.json", "learning_curves.png"}
    found = {name: what for name, what in contents(output).items() if name not in beside}
    wanted = contents(checkpoint)
    assert found.keys() == wanted.keys()
    logs = [files.pop("training_log.jsonl").splitlines() for files in (found, wanted)]
    ours, theirs = ([(json.loads(line)["update"], json.loads(line)["loss"]) for line in log] for log in logs)
    assert ours == theirs
    assert found == wanted


@pytest.fixture
def training(dataset_folder: Path, tiny: tuple[str, ...], tmp_path: Path) -> list[str]:
    """A command, whose output is the folder `model`."""
    return [*TRAIN, "--dataset", str(dataset_folder), "--output", str(tmp_path / "model"), *sets(tiny)]


@pytest.mark.parametrize("death", all_but_one_slow(DEATHS, "the token is revoked"))
def test_training_ends_as_if_nothing_were_pushed_when_the_hub_dies(
    death: str, hub: LocalHub, training: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    DEATHS[death](hub)
    result = invoke(*training)
    assert_same_training(tmp_path / "model", checkpoint)
    lines = result.stderr.splitlines()
    warnings = [line for line in lines if "was not pushed; training goes on" in line]
    assert 1 <= len(warnings) <= 2  # a second one is due when the first is over
    for line in warnings:
        assert re.match(r"ad-hf: update [24] was not pushed; training goes on: org/m: .+", line)
    assert len(lines) == len(warnings) + 3
    assert_pushed_later(hub, result, tmp_path / "model")
    pushed = hub.files("model", "org/m")
    assert pushed["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    assert "evaluation.json" in pushed


def test_training_ends_as_if_nothing_were_pushed_where_there_is_no_hub(
    training: list[str], checkpoint: Path, tmp_path: Path, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    result = invoke(*training)
    first = f"ad-hf: org/m: the Hub at {address} cannot be reached (ConnectError): try again later"
    assert result.stderr.splitlines()[0] == f"{first}; the push is tried at the end"
    assert_same_training(tmp_path / "model", checkpoint)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    assert_pushed_later(hub, result, tmp_path / "model")


@pytest.mark.slow
def test_what_could_not_be_pushed_in_between_is_pushed_at_the_end(
    hub: LocalHub, training: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    hub.fail("commit", 503, client.TRIES)  # of the first push
    result = invoke(*training)
    assert result.exit_code == 0
    assert f"{hub.url}/org/m" in result.stdout.splitlines()
    assert "not pushed:" not in result.stderr
    assert_same_training(tmp_path / "model", checkpoint)
    assert hub.files("model", "org/m")["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_push_under_way_at_the_end_of_training_comes_first(
    hub: LocalHub, training: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 3.0)  # longer than the training
    monkeypatch.setattr(client, "PERSISTENCE", 30.0)
    hub.fail("commit", "stall", seconds=2)
    result = invoke(*training)
    assert result.exit_code == 0
    titles = [commit.title for commit in hub.commits("model", "org/m")]
    assert titles == ["Add dark-room, 6 updates", "Add dark-room, 2 updates", "initial commit"]
    assert "training_state.json" not in hub.files("model", "org/m"), "the finished model is there in the end"


def test_a_checkpoint_that_cannot_be_staged_does_not_end_the_training(
    hub: LocalHub, training: list[str], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree = shutil.copytree

    def on_a_full_disk(source: Path, target: Path, *args: Any, **kwargs: Any) -> Path:
        if target.name == "pushing":
            raise OSError(28, "No space left on device", str(target))
        return copytree(source, target, *args, **kwargs)

    monkeypatch.setattr(shutil, "copytree", on_a_full_disk)
    result = invoke(*training)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("was not pushed; training goes on: [Errno 28] No space left on device") == 2
    assert_same_training(tmp_path / "model", checkpoint)
    assert "evaluation.json" in hub.files("model", "org/m")


@pytest.mark.parametrize("what", [KeyError("a bug"), MemoryError()])
def test_whatever_prevents_the_last_push_does_not_fail_the_command(
    what: Exception,
    hub: LocalHub,
    tiny: tuple[str, ...],
    dataset_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object) -> None:
        raise what

    output = tmp_path / dataset_folder.name
    with monkeypatch.context() as patched:
        patched.setattr("ad_hf.runs.push_dataset", fail)
        result = invoke(*COLLECT, "--output", output, *sets(tiny))
    assert_pushed_later(hub, result, output, "")


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize("fault", all_but_one_slow(["lost", "cut", "lie", 500], "lost"))
def test_an_answer_that_is_lost_makes_no_second_commit(
    fault: int | str, kind: str, hub: LocalHub, checkpoint: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint if kind == "model" else dataset_folder, tmp_path / "folder")
    hub.fail("commit", fault)
    for _ in range(2):
        assert invoke("push", folder, "org/m").exit_code == 0
        assert len(hub.commits(kind, "org/m")) == 2  # the Hub makes the first one


# Refused before any work


@pytest.fixture(params=["train", "collect"])
def command(
    request: pytest.FixtureRequest, training: list[str], tiny: tuple[str, ...], tmp_path: Path
) -> list[str]:
    if request.param == "train":
        return training
    return [*COLLECT, "--output", str(tmp_path / "model"), *sets(tiny)]


@pytest.mark.parametrize(
    ("token", "more", "there", "reason"),
    [
        ("hf_of_nobody", [], False, "the Hub does not accept your token: log in with `hf auth login`"),
        ("hf_of_nobody", [], True, "the Hub does not accept your token: log in with `hf auth login`"),
        ("hf_bob_write", [], False, "your token may not do this"),
        ("hf_ada_read", [], True, "your token may not do this"),
        ("hf_ada_write", ["--private"], True, "it exists and is public: make it private first"),
        ("hf_ada_write", ["--revision", "no..branch"], True, ""),
    ],
    ids=["unknown", "unknown, there", "of a stranger", "to read, there", "public", "no branch"],
)
def test_what_can_never_be_pushed_is_refused_before_any_work(
    token: str,
    more: list[str],
    there: bool,
    reason: str,
    hub: LocalHub,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    for kind in ("model", "dataset") if there else ():
        hub.add_repo(kind, "org/m", {"README.md": "# Mine\n"})
    result = invoke(*command, *more)
    assert result.exit_code == 1
    assert re.match(rf"ad-hf: (org/m: )?.*{re.escape(reason)}.*\n$", result.stderr)
    assert not (tmp_path / "model").exists()
    assert "hf_" not in result.stderr


# Collecting


@pytest.mark.parametrize(
    "death",
    all_but_one_slow(
        ["connections are reset", "the token is revoked", "no commit is accepted"], "connections are reset"
    ),
)
def test_collecting_ends_well_when_the_hub_dies(
    death: str, hub: LocalHub, tiny: tuple[str, ...], dataset_folder: Path, tmp_path: Path
) -> None:
    DEATHS[death](hub)
    output = tmp_path / dataset_folder.name
    result = invoke(*COLLECT, "--output", output, *sets(tiny))
    shards = {name: what for name, what in contents(dataset_folder).items() if name.endswith(".parquet")}
    assert shards.items() <= contents(output).items()
    assert_pushed_later(hub, result, output)
    assert shards.items() <= hub.files("dataset", "org/m").items()


# Ctrl-C


@pytest.fixture
def press_ctrl_c(hub: LocalHub, tmp_path: Path) -> Iterator[Press]:
    """Presses Ctrl-C once a command has asked for a route; the seconds it took to end, and what it said.

    The command is a process of its own, as patient as it ever is.
    """
    processes = []

    def run(route: str, *arguments: object) -> tuple[float, str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "ad_hf", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # as in the foreground
            cwd=tmp_path,
        )
        processes.append(process)
        while not hub.tries(route):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (1, "")
        return time.monotonic() - began, stderr

    yield run
    for process in processes:
        process.kill()


SAID = "ad-hf: interrupted: what was written whole is kept; run it again to go on, train with --resume\n"


@pytest.mark.slow
@pytest.mark.parametrize("route", ["xet-token", "shard", "commit"])
def test_ctrl_c_ends_a_push_soon(
    route: str,
    hub: LocalHub,
    press_ctrl_c: Press,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    model = shutil.copytree(checkpoint, tmp_path / "model")
    hub.fail(route, "stall", None)
    seconds, said = press_ctrl_c(route, "push", model, "org/m")
    assert said == SAID
    assert seconds < 10
    assert contents(checkpoint).items() <= contents(model).items()


@pytest.mark.slow
@pytest.mark.parametrize("route", ["resolve", "content"])
def test_ctrl_c_ends_a_pull_soon(
    route: str,
    hub: LocalHub,
    press_ctrl_c: Press,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    hub.add_repo("model", "org/m", contents(checkpoint))
    hub.fail(route, "stall", None)
    seconds, said = press_ctrl_c(route, "pull", "org/m", "--output", "out")
    assert said == SAID
    assert seconds < 10
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_in_a_push_beside_the_training_leaves_checkpoints_whole(
    hub: LocalHub, press_ctrl_c: Press, training: list[str], tmp_path: Path
) -> None:
    hub.fail("commit", "stall", None)
    seconds, said = press_ctrl_c("commit", *training, "--set", "train.updates=100000")
    assert said == SAID
    assert seconds < 10
    found = sorted((tmp_path / "model" / "checkpoints").glob("update-*"))
    assert found
    for folder in found:
        assert json.loads((folder / "training_state.json").read_text())["update"] == int(folder.name[-8:])
        for file in folder.glob("*.safetensors"):
            assert load_file(file)


# Offline

WARM = """
import sys
from ad_hf import hub
hub.fetch("org/m", "model", hub.MODEL_FILES)
hub.fetch("org/d", "dataset", hub.DATASET_FILES)
"""
OFFLINE = """
import json, sys
from typer.testing import CliRunner
from ad_hf.cli import app
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, arguments)
    print(json.dumps([result.exit_code, result.stdout, result.stderr]))
"""
FORBIDDEN = r"ad-hf: [^\n]*HF_HUB_OFFLINE=1[^\n]*unset it[^\n]*\n$"


@pytest.mark.slow
def test_offline_all_works_but_the_hub(
    hub: LocalHub,
    run_python: Callable[..., str],
    checkpoint: Path,
    dataset_folder: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
) -> None:
    hub.add_repo("model", "org/m", {k: v for k, v in contents(checkpoint).items() if "/" not in k})
    hub.add_repo("dataset", "org/d", contents(dataset_folder))
    env = {"HF_HOME": str(tmp_path / "home")}
    run_python(WARM, env=env)
    hub.requests.clear()
    few = ("--num-episodes", "2", "--rollouts-per-task", "1")
    works = [
        ["collect", "dark-room", "--output", "histories", *sets(tiny)],
        ["train", "dark-room", "--dataset", "histories", "--output", "model", *sets(tiny)],
        ["evaluate", "model", *few],
        ["report", "model", "--output", "report"],
        ["generate", "model", "--num-episodes", "1"],
        ["env"],
        # from the cache
        ["generate", "org/m", "--num-episodes", "1"],
        ["evaluate", "org/m", "--no-ed", *few],
        ["train", "dark-room", "--dataset", "org/d", "--output", "from-cache", *sets(tiny)],
        ["pull", "org/m", "--output", "pulled"],
    ]
    forbidden = [
        ["push", "model", "org/new"],
        ["push", "histories", "org/new"],
        ["pull", "org/other"],
        ["pull", "org/m", "--revision", "next"],
        ["list", "org"],
        ["generate", "org/other"],
        ["evaluate", "org/other"],
        ["report", "org/other", "--output", "never"],
        ["collect", "dark-room", "--output", "never", "--push-to-hub", "org/new", *sets(tiny)],
        [*TRAIN, "--dataset", "histories", "--output", "never", *sets(tiny)],
        ["train", "dark-room", "--dataset", "org/other", "--output", "never", *sets(tiny)],
        ["train", "dark-room", "--dataset", "org/d", "--streaming", "--output", "never", *sets(tiny)],
        ["train", "org/other", "--resume"],
    ]
    env["HF_HUB_OFFLINE"] = "1"
    said = run_python(OFFLINE, json.dumps(works + forbidden), env=env)
    done = [json.loads(line) for line in said.splitlines()]
    for arguments, (code, _, stderr) in zip(works, done, strict=False):
        assert code == 0, (arguments, stderr)
        assert "ad-hf:" not in stderr, (arguments, stderr)
    for arguments, (code, stdout, stderr) in zip(forbidden, done[len(works) :], strict=True):
        assert (code, stdout) == (1, ""), (arguments, stderr)
        assert re.match(FORBIDDEN, stderr), (arguments, stderr)
    assert not list(tmp_path.rglob("never"))
    assert hub.requests == []
