"""Whenever a command is killed, told to end, or out of disk, nothing that was whole is lost or torn.

The moments are drawn at random over the whole time that a command takes, a hundred in all for `kill -9`.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_commands import ForkedCommands
from hub_server import LocalHub
from safetensors.torch import load_file
from test_cli import contents, sets

from ad_hf.checkpoints import last_checkpoint, read_checkpoint
from ad_hf.folders import claimed
from ad_hf.training import LOG

pytestmark = pytest.mark.slow

KILLS = 25  # of each verb
UPDATES = 30
GONE = -signal.SIGKILL
STARTING = 128 + signal.SIGTERM  # where nothing can have been saved
TOLD = "ad-hf: ended by SIGTERM; what was written whole is kept; run it again to go on, train with --resume\n"


@pytest.fixture(scope="module")
def ad_hf(running_hub: LocalHub) -> Iterator[ForkedCommands]:
    with ForkedCommands({"HF_TOKEN": "hf_ada_write"}) as commands:
        yield commands


@pytest.fixture(scope="module")
def collect(tiny: tuple[str, ...]) -> list[Any]:
    """81 histories in 11 lockstep runs."""
    return ["collect", "dark-room", *sets((*tiny, "collect.lockstep=8")), "--output"]


@pytest.fixture(scope="module")
def train(tiny: tuple[str, ...], dataset_folder: Path) -> list[Any]:
    changes = sets((*tiny, f"train.updates={UPDATES}", "model.decoder.attention_dropout=0.3"))
    return ["train", "dark-room", "--dataset", dataset_folder, *changes, "--output"]


def timed(ad_hf: ForkedCommands, *arguments: Any) -> float:
    """The seconds that a command takes if nobody kills it, after a first time that fills the caches."""
    assert ad_hf.run(*arguments).code == 0
    shutil.rmtree(arguments[-1])
    ended = ad_hf.run(*arguments)
    assert ended.code == 0, ended.stderr
    return ended.seconds


def losses(output: Path) -> list[dict[str, Any]]:
    """The log without its speed, and without a last line that a kill cut short."""
    whole = (output / LOG).read_text().splitlines(keepends=True) if (output / LOG).exists() else []
    lines = [json.loads(line) for line in whole if line.endswith("\n")]
    return [{**line, "transitions_per_second": None} for line in lines]


def published(hub: LocalHub, name: str) -> set[str]:
    """The files of a model's repository; none where there is none."""
    try:
        return set(hub.files("model", name))
    except (KeyError, IndexError):
        return set()


def assert_same_model(ours: Path, theirs: Path) -> None:
    weights, expected = (load_file(path / "model.safetensors") for path in (ours, theirs))
    assert all(torch.equal(values, expected[name]) for name, values in weights.items())


# Kills


def test_a_collection_killed_at_any_moments_ends_as_if_it_had_not_been(
    ad_hf: ForkedCommands, collect: list[Any], tmp_path: Path
) -> None:
    output = tmp_path / "histories"
    seconds = timed(ad_hf, *collect, output)
    whole, rng, kills = contents(output), np.random.default_rng(0), 0
    while kills < KILLS:
        if (output / "README.md").exists() and contents(output) == whole:
            shutil.rmtree(output)
        code = ad_hf.run(*collect, output, after=rng.uniform(0, seconds)).code
        assert code in (0, GONE)
        kills += code == GONE
        for shard in output.rglob("*.parquet"):
            assert shard.read_bytes() == whole[str(shard.relative_to(output))]
    assert ad_hf.run(*collect, output).code == 0
    assert contents(output) == whole


def test_training_killed_at_any_moments_has_the_same_losses_bit_for_bit(
    ad_hf: ForkedCommands, train: list[Any], tmp_path: Path
) -> None:
    seconds = timed(ad_hf, *train, tmp_path / "whole")
    whole, rng, kills = losses(tmp_path / "whole"), np.random.default_rng(1), 0
    assert len(whole) == UPDATES
    output = tmp_path / "killed"
    while kills < KILLS or not (output / "config.json").exists():
        if (output / "config.json").exists():
            shutil.rmtree(output)
        before = last_checkpoint(output / "checkpoints")
        after = rng.uniform(0, seconds) if kills < KILLS else None
        ended = ad_hf.run(*train, output, "--resume", after=after)
        assert ended.code in (0, GONE), ended.stderr
        kills += ended.code == GONE
        for checkpoint in output.glob("checkpoints/update-*"):
            assert "state.random" in read_checkpoint(checkpoint)
        assert before is None or last_checkpoint(output / "checkpoints") >= before
        logged = losses(output)
        assert logged == whole[: len(logged)]
        if (output / "config.json").exists():  # which comes last
            assert logged == whole
            assert_same_model(output, tmp_path / "whole")


def test_a_push_killed_at_any_moment_has_published_all_or_nothing(
    ad_hf: ForkedCommands, checkpoint: Path, hub: LocalHub, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    assert ad_hf.run("push", folder, "org/first").code == 0
    whole = ad_hf.run("push", folder, "org/whole")
    names, rng = hub.files("model", "org/whole").keys(), np.random.default_rng(2)
    assert {"config.json", "model.safetensors", "README.md"} <= names
    kills = pushes = nothing = 0
    while kills < KILLS or nothing in (0, pushes):
        name = f"org/killed-{pushes}"
        killed = ad_hf.run("push", folder, name, after=rng.uniform(0, 1.2 * whole.seconds))
        there = published(hub, name)
        assert there <= {".gitattributes"} or there == names
        assert killed.code in (0, GONE)
        kills, pushes, nothing = kills + (killed.code == GONE), pushes + 1, nothing + (there != names)
        if pushes % 5 == 0:
            again = ad_hf.run("push", folder, name)
            assert again.code == 0, again.stderr
            assert hub.files("model", name).keys() == names
            weights = (folder / "model.safetensors").read_bytes()
            assert hub.files("model", name)["model.safetensors"] == weights
    assert_same_model(folder, checkpoint)


def test_an_evaluation_killed_at_any_moment_leaves_the_old_report_or_the_new(
    ad_hf: ForkedCommands, checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    before, report = contents(folder), folder / "evaluation.json"
    evaluate = ("evaluate", folder, "--no-ed", "--num-episodes", 6)
    assert ad_hf.run(*evaluate).code == 0
    ended = ad_hf.run(*evaluate)
    new, rng, kills = report.read_bytes(), np.random.default_rng(3), 0
    while kills < KILLS:
        report.write_bytes(b"{}")
        code = ad_hf.run(*evaluate, after=rng.uniform(0, ended.seconds)).code
        assert code in (0, GONE)
        kills += code == GONE
        assert report.read_bytes() == new or (code == GONE and report.read_bytes() == b"{}")
        kept = {name: data for name, data in contents(folder).items() if name in before}
        assert kept == before
    assert ad_hf.run(*evaluate).code == 0
    assert contents(folder).keys() <= {*before, "evaluation.json", "evaluation.partial"}


# SIGTERM, as before a preemption or at a time limit


def test_training_that_is_told_to_end_saves_and_goes_on_bit_for_bit(
    ad_hf: ForkedCommands, train: list[Any], tmp_path: Path
) -> None:
    # All that is saved on the way is saved because of the signal.
    train = [*train[:-1], "--set=train.updates=200", "--set=train.checkpoint_every=0", train[-1]]
    seconds = timed(ad_hf, *train, tmp_path / "whole")
    output, rng, saved = tmp_path / "told", np.random.default_rng(4), 0
    while saved < 5:
        if (output / "config.json").exists():
            shutil.rmtree(output)
        ended = ad_hf.run(*train, output, "--resume", after=rng.uniform(0, seconds), number=signal.SIGTERM)
        assert ended.code in (0, STARTING), ended.stderr
        if (output / "config.json").exists():
            continue
        last = last_checkpoint(output / "checkpoints")
        update = 0 if last is None else int(last.name.removeprefix("update-"))
        stopped = f"ad-hf: stopped after update {update}, which is saved in {output}: go on with --resume\n"
        assert ended.stderr in (stopped, TOLD)  # before the first update there is nothing to be saved
        saved += ended.stderr == stopped
    assert ad_hf.run(*train, output, "--resume").code == 0
    assert losses(output) == losses(tmp_path / "whole")
    assert_same_model(output, tmp_path / "whole")


def test_a_collection_that_is_told_to_end_goes_on(
    ad_hf: ForkedCommands, collect: list[Any], tmp_path: Path
) -> None:
    output, rng, told = tmp_path / "histories", np.random.default_rng(5), 0
    seconds = timed(ad_hf, *collect, output)
    whole = contents(output)
    while told < 5:
        if contents(output) == whole:
            shutil.rmtree(output)
        ended = ad_hf.run(*collect, output, after=rng.uniform(0, seconds), number=signal.SIGTERM)
        assert ended.code in (0, STARTING), ended.stderr
        told += ended.stderr == TOLD
        shards = {name: data for name, data in contents(output).items() if name.endswith(".parquet")}
        assert shards.items() <= whole.items()
    assert ad_hf.run(*collect, output).code == 0
    assert contents(output) == whole


def test_what_saves_nothing_says_that_it_has_not_ended_well(ad_hf: ForkedCommands, checkpoint: Path) -> None:
    play = ("generate", checkpoint, "--num-episodes", 100_000, "--json")
    ended = ad_hf.run(*play, after=2, number=signal.SIGTERM)
    assert (ended.code, ended.stderr) == (STARTING, TOLD)


# A full disk


@contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[Callable[[int], object]]:
    """A disk of its own; what it yields makes it larger."""
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place])
    if mount.returncode:
        pytest.skip("only root can mount a disk")
    try:
        yield lambda size: subprocess.check_call(["mount", "-o", f"remount,size={size}k", place])
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_leaves_the_last_checkpoint_and_training_goes_on(
    ad_hf: ForkedCommands, train: list[Any], tmp_path: Path
) -> None:
    assert ad_hf.run(*train, tmp_path / "whole").code == 0
    whole = losses(tmp_path / "whole")
    with disk(tmp_path / "disk", 250) as enlarge:
        output = tmp_path / "disk" / "model"
        ended = ad_hf.run(*train, output)
        assert ended.code == 1
        assert "No space left on device" in ended.stderr
        assert ended.stderr.count("\n") == 1
        last = last_checkpoint(output / "checkpoints")
        assert "state.random" in read_checkpoint(last)
        enlarge(10_000)
        ended = ad_hf.run(*train, output, "--resume")
        assert ended.code == 0, ended.stderr
        assert losses(output) == whole
        assert_same_model(output, tmp_path / "whole")


def test_a_full_disk_leaves_whole_shards_and_the_collection_goes_on(
    ad_hf: ForkedCommands, collect: list[Any], tmp_path: Path
) -> None:
    assert ad_hf.run(*collect, tmp_path / "whole" / "histories").code == 0
    whole = contents(tmp_path / "whole" / "histories")
    kilobytes = sum(map(len, whole.values())) // 2048
    with disk(tmp_path / "disk", kilobytes) as enlarge:
        output = tmp_path / "disk" / "histories"
        ended = ad_hf.run(*collect, output)
        assert (ended.code, ended.stderr.count("\n")) == (1, 1)
        assert "No space left on device" in ended.stderr
        shards = {name: data for name, data in contents(output).items() if name.endswith(".parquet")}
        assert shards
        assert shards.items() < whole.items()
        enlarge(20 * kilobytes)
        assert ad_hf.run(*collect, output).code == 0
        assert contents(output) == whole


# Two runs


@pytest.mark.parametrize("verb", ["collect", "train", "evaluate"])
def test_two_runs_do_not_write_one_folder(
    verb: str, ad_hf: ForkedCommands, collect: list[Any], train: list[Any], checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model")) if verb == "evaluate" else tmp_path / "new"
    command = {"collect": collect, "train": train, "evaluate": ["evaluate", "--no-ed"]}[verb]
    written = folder / "dark-room" if verb == "collect" else folder
    with claimed(written):
        before = {
            path: path.stat().st_mtime_ns for path in folder.rglob("*")
        }  # to read them would end a claim
        ended = ad_hf.run(*command, folder)
        assert ended.code == 1
        line = f"another run is writing {written} just now: wait for it, or choose another --output"
        assert ended.stderr == f"ad-hf: {line}\n"
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    ended = ad_hf.run(*command, folder)
    assert ended.code == 0, ended.stderr
