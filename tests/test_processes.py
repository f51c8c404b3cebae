"""Several processes of one run: they do what one process does, whatever becomes of them on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from hub_server import LocalHub
from safetensors.torch import load_file
from test_cli import assert_one_line, contents, invoke, sets

from ad_hf.checkpoints import STATE, last_checkpoint
from ad_hf.cli.processes import part_of_run
from ad_hf.histories import Histories, collect, concatenate
from ad_hf.models import ADConfig
from ad_hf.tasks import load_task_family
from ad_hf.training import LOG, TrainSettings
from ad_hf.training import train as train_model
from ad_hf.windows import WindowSettings

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "scripts" / "accelerate"
ON_CPU = {"ACCELERATE_USE_CPU": "true"}
LIKE_WITH_GPUS = ROOT / "tests" / "accelerator_on_cpu.py"
DECODER = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def accelerate(config: str, *arguments: Any) -> list[str]:
    """The command that a user types, for two processes on this machine."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / f"{config}.yaml"]
    return [str(word) for word in (*launch, "--main_process_port", free_port(), *arguments)]


def run(command: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": str(ROOT),
        **(env or {}),
    }
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=240)


def log(output: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / LOG).read_text().splitlines()]
    return [{**line, "transitions_per_second": None} for line in lines]


def assert_alike(ours: Path, theirs: Path, apart: float = 1e-5) -> None:
    """That two runs had the same losses and end with the same weights, but for the order of sums.

    Over hundreds of updates that makes losses drift apart by 5e-5, and weights that do not matter by 5e-4, as
    the biases of keys.
    """
    assert [line["update"] for line in log(ours)] == [line["update"] for line in log(theirs)]
    for line, expected in zip(log(ours), log(theirs), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], abs=apart)
    weights, expected = (load_file(path / "model.safetensors") for path in (ours, theirs))
    assert weights.keys() == expected.keys()
    for name, values in weights.items():
        torch.testing.assert_close(values, expected[name], atol=apart, rtol=0)
    assert (ours / "config.json").read_bytes() == (theirs / "config.json").read_bytes()


@pytest.fixture
def train(dataset_folder: Path, tiny: tuple[str, ...]) -> list[Any]:
    changes = ("train.keep_checkpoints=99", "train.evaluate_every=4", "train.evaluate_episodes=1")
    return ["train", "dark-room", "--dataset", dataset_folder, *sets((*tiny, *changes))]


def died_after(update: int, run: Path, to: Path) -> Path:
    """What a run would have left that died after an update."""
    shutil.copytree(run, to)
    (to / "config.json").unlink()
    (to / "model.safetensors").unlink()
    for checkpoint in to.glob("checkpoints/update-*"):
        if checkpoint.name > f"update-{update:08d}":
            shutil.rmtree(checkpoint)
    assert last_checkpoint(to / "checkpoints").name == f"update-{update:08d}"
    return to


# Training


@pytest.mark.parametrize(
    ("config", "kind"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("zero2", "DEEPSPEED")]
)
def test_configurations_say_what_accelerate_knows(config: str, kind: str) -> None:
    read = load_config_from_file(str(CONFIGS / f"{config}.yaml"))
    assert (read.distributed_type, read.num_processes, read.mixed_precision) == (kind, 2, "no")
    section = {"fsdp2": read.fsdp_config, "zero2": read.deepspeed_config}.get(config, {})
    known = vars(launch_command_parser().parse_args(["script.py"]))  # of others it says nothing
    assert section.keys() <= known.keys()
    assert section.get("fsdp_version", 2) == section.get("zero_stage", 2) == 2


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "fsdp2", "zero2"])
def test_two_processes_go_on_from_one_and_one_from_two(config: str, train: list[Any], tmp_path: Path) -> None:
    if config == "zero2" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("pip install 'ad-hf[deepspeed]'")
    assert invoke(*train, "--output", tmp_path / "one").exit_code == 0
    two = died_after(2, tmp_path / "one", tmp_path / "two")
    program, env = (["-m", "ad_hf"], ON_CPU) if config == "ddp" else ([LIKE_WITH_GPUS], {})
    done = run(accelerate(config, *program, *train, "--output", two, "--resume"), env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((two / "training.json").read_text())["processes"] == 2
    assert done.stdout.splitlines().count(str(two)) == 1  # one of them speaks; DeepSpeed does as well
    assert done.stderr.count("next: ad-hf evaluate") == 1
    assert_alike(two, tmp_path / "one")
    state = load_file(last_checkpoint(two / "checkpoints") / STATE)
    assert len(state["random"]) == 2  # both draw dropout
    one = died_after(4, two, tmp_path / "one again")
    assert invoke(*train, "--output", one, "--resume").exit_code == 0
    assert_alike(one, tmp_path / "one")


@pytest.mark.slow
def test_a_process_that_dies_and_a_run_that_is_told_to_end_change_nothing(
    train: list[Any], tmp_path: Path
) -> None:
    changes = ("updates=300", "checkpoint_every=10", "log_every=10", "evaluate_every=0")
    longer = [*train, *(f"--set=train.{change}" for change in changes)]
    assert invoke(*longer, "--output", tmp_path / "one").exit_code == 0
    output = tmp_path / "two"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*torchrun, "--max-restarts", "3", "-m", "ad_hf", *longer, "--output", output]
    with (tmp_path / "said").open("w") as said:
        launcher = psutil.Popen(
            [str(word) for word in command],
            stderr=said,
            stdout=said,
            env={**os.environ, **ON_CPU, "PYTHONPATH": str(ROOT)},
        )
        try:
            reached = wait_for_checkpoint(launcher, output, 20)
            workers = launcher.children()
            workers[1].kill()
            psutil.wait_procs(workers, timeout=60)
            wait_for_checkpoint(launcher, output, reached + 20)
            launcher.terminate()
            launcher.wait(timeout=60)
        finally:
            with suppress(psutil.NoSuchProcess):  # it has ended by now, and they with it
                for process in [*launcher.children(), launcher]:
                    process.kill()
    stopped = last_checkpoint(output / "checkpoints")
    words = f"stopped after update {int(stopped.name[7:])}, which is saved in {output}: go on with --resume"
    assert f"ad-hf: {words}\n" in (tmp_path / "said").read_text()
    assert invoke(*longer, "--output", output, "--resume").exit_code == 0
    assert_alike(output, tmp_path / "one", apart=1e-3)


def wait_for_checkpoint(launcher: psutil.Popen, output: Path, update: int) -> int:
    """Until a checkpoint of this update or a later one is there; the update of the last."""
    deadline = time.monotonic() + 120
    while True:
        last = last_checkpoint(output / "checkpoints")
        if last is not None and (reached := int(last.name[7:])) >= update:
            return reached
        assert launcher.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, f"no checkpoint of update {update}"
        time.sleep(0.01)


@pytest.mark.slow
def test_processes_that_stream_from_the_hub_go_on_in_the_middle_of_an_epoch(
    train: list[Any], dataset_folder: Path, hub: LocalHub, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(dataset_folder, tmp_path / "histories"))
    assert invoke("push", folder, "org/ad-histories").exit_code == 0
    changes = ("train.updates=36", 'windows={"pool": 16}', "train.checkpoint_every=20")
    streamed = [*train, "--dataset", "org/ad-histories", "--streaming", *sets(changes), "--output"]
    done = run(accelerate("ddp", "-m", "ad_hf", *streamed, tmp_path / "whole"), ON_CPU)
    assert done.returncode == 0, done.stderr[-3000:]
    again = died_after(20, tmp_path / "whole", tmp_path / "again")
    done = run(accelerate("ddp", "-m", "ad_hf", *streamed, again, "--resume"), ON_CPU)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_alike(again, tmp_path / "whole")


def test_histories_of_unequal_lengths_weigh_alike_however_a_batch_is_shared(
    histories_of_unequal_lengths: Histories, tmp_path: Path
) -> None:
    # Windows of 60 transitions, of histories that have 20 to 100: what is missing is not predicted.
    config = ADConfig(context_length=60, decoder=DECODER)
    for passes in (1, 4):
        settings = TrainSettings(updates=6, batch_size=4, accumulation=passes, warmup=2, log_every=1)
        output = tmp_path / f"run-{passes}"
        train_model(histories_of_unequal_lengths, config, WindowSettings(), settings, output)
    assert_alike(tmp_path / "run-4", tmp_path / "run-1")


@pytest.fixture
def histories_of_unequal_lengths() -> Histories:
    tasks = load_task_family("dark-room")["train"]
    return concatenate([collect(tasks[n : n + 1], "q-learning", num_episodes=n, seed=n) for n in range(1, 6)])


# Collecting


@pytest.fixture(scope="module")
def collect_command(tiny: tuple[str, ...]) -> list[Any]:
    """81 histories in 11 lockstep runs."""
    return ["collect", "dark-room", *sets((*tiny, "collect.lockstep=8")), "--output"]


@pytest.fixture(scope="module")
def whole(collect_command: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process collects."""
    folder = tmp_path_factory.mktemp("whole") / "histories"
    assert invoke(*collect_command, folder).exit_code == 0
    return folder


def test_parts_in_any_order_make_the_dataset_of_one_process(
    collect_command: list[Any], whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "histories"
    for part in (3, 1, 2):
        result = invoke(*collect_command, output, "--shard", f"{part}/3")
        assert result.exit_code == 0
        if part != 2:
            assert result.stdout == ""
            words = f"part {part} of 3 is in {output}; the dataset is whole when all are in one folder"
            assert result.stderr == f"{words}\n"
    assert result.stdout == f"{output}\n"
    assert result.stderr.startswith("next: ad-hf train dark-room ")
    assert contents(output) == contents(whole)


def test_parts_of_machines_that_share_no_disk_are_put_together_by_copying(
    collect_command: list[Any], whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "histories"
    for part in (1, 2):
        there = tmp_path / f"machine-{part}" / "histories"
        assert invoke(*collect_command, there, "--shard", f"{part}/2").exit_code == 0
        shards = {shard.name for shard in there.rglob("*.parquet")}
        assert not shards & {shard.name for shard in output.rglob("*.parquet")}
        shutil.copytree(there, output, dirs_exist_ok=True)
    assert invoke(*collect_command, output).exit_code == 0
    assert contents(output) == contents(whole)


def test_a_part_that_died_is_collected_again(collect_command: list[Any], whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "histories"
    for part in (1, 2):
        assert invoke(*collect_command, output, "--shard", f"{part}/2").exit_code == 0
    lost = sorted(output.rglob("*.parquet"))[3]
    lost.unlink()
    lost.with_suffix(".partial").write_bytes(b"PAR1 and not the rest")
    for part in (1, 2):
        assert invoke(*collect_command, output, "--shard", f"{part}/2").exit_code == 0
    assert contents(output) == contents(whole)


def test_more_parts_than_there_is_work_are_told_and_do_no_harm(
    collect_command: list[Any], whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "histories"))
    for part in (12, 1):
        assert invoke(*collect_command, output, "--shard", f"{part}/12").exit_code == 0
    assert "part 12 of 12 is empty, for there are 11 lockstep runs: take fewer parts" in caplog.text
    assert contents(output) == contents(whole)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/", "/2", "a/b", "-1/2", "1/0", "1.5/2", ""])
def test_what_is_no_part_is_refused(shard: str, collect_command: list[Any], tmp_path: Path) -> None:
    line = assert_one_line(invoke(*collect_command, tmp_path / "histories", f"--shard={shard}"))
    assert f"--shard is {shard!r}, but must be I/N with I from 1 to N, for example 1/8" in line
    assert not (tmp_path / "histories").exists()


def test_a_launcher_says_which_part_a_process_is_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert part_of_run(None) == (0, 1)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert part_of_run(None) == (5, 8)
    with pytest.raises(ValueError, match="--shard 1/2 is for one process, but 8 were launched"):
        part_of_run("1/2")


@pytest.mark.slow
def test_launched_processes_collect_the_dataset_of_one(
    collect_command: list[Any], whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "histories"
    done = run(accelerate("ddp", "-m", "ad_hf", *collect_command, output), ON_CPU)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{output}\n" in done.stdout
    assert contents(output) == contents(whole)


# What is refused


@pytest.mark.slow  # for starting interpreters
def test_one_process_in_place_of_several_is_refused() -> None:
    trap = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes"]
    program = ["-m", "ad_hf", "env", "--json"]
    refused = run([*trap, "2", *program])
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "ad-hf: accelerate launch was asked for several processes and started one, as" in refused.stderr
    assert run([*trap, "1", *program]).returncode == 0


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_what_accelerate_would_silently_leave_out_is_refused(
    kind: str, train: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**ON_CPU, f"ACCELERATE_USE_{kind}": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    line = assert_one_line(invoke(*train, "--output", tmp_path / "model"))
    if kind == "FSDP" or importlib.util.find_spec("deepspeed"):
        assert f"{kind} was asked for, but on this cpu Accelerate silently trains without: use" in line
    else:
        assert "DeepSpeed is not installed" in line
    assert not (tmp_path / "model").exists()
