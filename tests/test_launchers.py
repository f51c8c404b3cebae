"""The launchers of scripts/, run as they stand where SLURM and Jobs are a few lines of shell."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from hub_server import LocalHub
from test_processes import free_port

from ad_hf.recipes import load_recipe
from ad_hf.runs import Destination, push_dataset, run_collect, run_train

Launch = Callable[..., "subprocess.Popen[str]"]

# srun: the command once per node, all at the same time; a node that is broken fails once. scontrol: what the
# scripts use of it; before a job is queued again its tasks are told to end.
SRUN = """
if [[ -e "$STATE/broken" ]]; then rm "$STATE/broken" && exit 1; fi
while [[ $1 == --* ]]; do shift; done
for ((node = 0; node < SLURM_NNODES; node++)); do
    SLURM_NODEID=$node SLURM_PROCID=$node "$@" &
    tasks+=($!)
done
echo "${tasks[@]}" > "$STATE/tasks"
for task in "${tasks[@]}"; do wait "$task" || status=$?; done
exit "${status:-0}"
"""
SCONTROL = """
case "$*" in
    "show hostnames $SLURM_JOB_NODELIST") printf '127.0.0.1\\n127.0.0.2\\n' ;;
    "requeue $SLURM_JOB_ID") touch "$STATE/requeued" && kill -TERM $(cat "$STATE/tasks") ;;
    *) exit 1 ;;
esac
"""

# hf: jobs are written down instead of started; all else is done.
HF = f"""
if [[ $1 == jobs ]]; then
    printf '%s\\0' "$@" > "$(mktemp "$STATE/job-XXXXXX")"
else
    exec {Path(sys.executable).parent}/hf "$@"
fi
"""
# accelerate: where the name of the first job leads to this machine, and where it is only written down.
ACCELERATE = f"""
arguments=("${{@/#group-main/127.0.0.1}}")
exec {Path(sys.executable).parent}/accelerate "${{arguments[@]/#29500/$PORT}}"
"""
WRITTEN_DOWN = 'printf "%s " "$@"'


def settings(*changes: str) -> list[str]:
    return [word for change in (*TINY, *changes) for word in ("--set", change)]


def losses(model: Path) -> list[float]:
    log = model / "training_log.jsonl"
    return [json.loads(line)["loss"] for line in log.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts a command: `launch(*words, stubs={name: shell}, cwd=ROOT, **environment)`.

    Commands in `stubs` are found before all others; STATE is a folder for them. Nothing outlives the test.
    """
    started = []

    def start(
        *words: object, stubs: dict[str, str], cwd: Path = ROOT, **environment: object
    ) -> subprocess.Popen[str]:
        commands = tmp_path / f"commands-{len(started)}"  # what runs cannot be written anew
        commands.mkdir()
        for name, shell in stubs.items():
            (commands / name).write_text(f"#!/usr/bin/env bash\n{shell}")
            (commands / name).chmod(0o755)
        path = f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"PATH": path, "PYTHONPATH": ROOT, "STATE": tmp_path, **environment}
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=cwd,
            env=os.environ | {name: str(value) for name, value in own.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def output_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_the_tasks_of_an_array_collect_what_one_process_does(launch: Launch, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "histories"
    run_collect(load_recipe("dark-room", (*TINY, "collect.lockstep=16")), alone, lambda done, total: None)

    shared = tmp_path / "shared" / "histories"  # of the same name, which is on the card
    arguments = ("dark-room", "--output", shared, *settings("collect.lockstep=16"))
    collect = ("bash", "scripts/slurm/collect.sh", *arguments)
    tasks = [
        launch(*collect, stubs={}, SLURM_ARRAY_TASK_ID=number, SLURM_ARRAY_TASK_COUNT=3)
        for number in (1, 2, 3)
    ]
    for task in tasks:
        output_of(task)
    files = [path.relative_to(alone) for path in alone.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert {path for path in shared.rglob("*") if path.is_file()} == {shared / path for path in files}
    assert [path for path in files if (alone / path).read_bytes() != (shared / path).read_bytes()] == []


@pytest.mark.slow
def test_a_time_limit_interrupts_two_machines_and_the_queue_goes_on(
    launch: Launch, dataset_folder: Path, tmp_path: Path
) -> None:
    changes = ("train.updates=100", "train.batch_size=128", "train.checkpoint_every=0")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    run_train(load_recipe("dark-room", (*TINY, *changes)), str(dataset_folder), alone)

    def submit() -> subprocess.Popen[str]:
        return launch(
            *("bash", "scripts/slurm/train.sh", "dark-room"),
            *("--dataset", dataset_folder, "--output", shared, *settings(*changes)),
            stubs={"srun": SRUN, "scontrol": SCONTROL},
            ACCELERATE_USE_CPU="true",
            PROCESSES=1,
            PORT=free_port(),
            SLURM_NNODES=2,
            SLURM_JOB_ID=7,
            SLURM_JOB_NODELIST="node[1-2]",
        )

    job = submit()
    while not (shared / "training_log.jsonl").exists() or not losses(shared):
        assert job.poll() is None, job.communicate()[0][-3000:]
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)  # to the shell that runs the script, as --signal=B: says
    said = job.communicate(timeout=240)[0]
    assert (tmp_path / "requeued").exists()
    assert "stopped after update" in said, said[-3000:]
    assert 0 < len(losses(shared)) < 100

    (tmp_path / "broken").touch()
    assert "try 1 of 3 has failed" in output_of(submit())
    assert losses(shared) == pytest.approx(losses(alone), abs=1e-5)


def test_jobs_that_train_as_one_differ_in_their_number_alone(hub: LocalHub, launch: Launch) -> None:
    words = ("train", "dark-room", "org/ad-histories", "org/ad-darkroom", "--updates", 4)
    process = launch(
        *("bash", "scripts/hf_jobs.sh", *words), stubs={}, DRY_RUN=1, JOBS=2, PROCESSES=4, GROUP="ours"
    )
    jobs = re.split(r"^Job configuration:$", output_of(process), flags=re.MULTILINE)[1:]
    assert [re.findall(r"MACHINE=(.*)", job) for job in jobs] == [["0"], ["1"]]
    assert [re.findall(r"network_aliases +(.*)", job) for job in jobs] == [["main"], []]
    same = [re.sub(r"MACHINE=.*|network_aliases.*|name=.*", "", job).split() for job in jobs]
    assert same[0] == same[1]
    assert {"ours", "MACHINES=2", "PROCESSES=8", "a10g-small", "HF_TOKEN=***"} <= {*same[0]}
    assert "(dry run) Job not submitted." in jobs[1]
    assert {request.method for request in hub.requests} <= {"GET"}  # nothing is made


@pytest.fixture
def start_jobs(launch: Launch, tmp_path: Path) -> Callable[..., list[subprocess.Popen[str]]]:
    """Starts what was submitted, each job on an empty disk: `start_jobs(attempt, accelerate)`."""

    def start(attempt: int, accelerate: str) -> list[subprocess.Popen[str]]:
        port, started = free_port(), []
        for job in tmp_path.glob("job-*"):
            words = job.read_text().split("\0")[:-1]
            image = words.index("python:3.12.12-bookworm")
            environment = dict(words[i + 1].split("=", 1) for i in range(image) if words[i] == "--env")
            disk = tmp_path / f"disk-{environment['MACHINE']}-{attempt}"
            disk.mkdir()
            started.append(
                launch(
                    *words[image + 1 :],
                    stubs={"pip": "", "accelerate": accelerate},
                    cwd=disk,
                    PORT=port,
                    HF_NETWORK_GROUP_PREFIX="group-",
                    **environment,
                )
            )
        return started

    return start


@pytest.mark.slow
def test_jobs_begin_alone_and_go_on_from_what_they_have_pushed(
    hub: LocalHub, dataset_folder: Path, launch: Launch, start_jobs: Callable, tmp_path: Path
) -> None:
    push_dataset(dataset_folder, Destination("org/ad-histories"))
    submit = ("scripts/hf_jobs.sh", "train", "dark-room", "org/ad-histories", "org/ad-darkroom", *settings())
    output_of(launch("bash", *submit, stubs={"hf": HF}, FLAVOR="cpu-basic"))
    first = [output_of(job) for job in start_jobs(1, WRITTEN_DOWN)]
    assert ["-m ad_hf train dark-room --output" in words for words in first] == [True, True]

    to, recipe = Destination("org/ad-darkroom"), load_recipe("dark-room", TINY)
    run_train(recipe, "org/ad-histories", tmp_path / "model", streaming=True, push_to=to, push_every=2)
    pushed = json.loads(hub.files("model", "org/ad-darkroom")["training_state.json"])["update"]

    for job in start_jobs(2, ACCELERATE):
        output_of(job)
    files = hub.files("model", "org/ad-darkroom")
    assert json.loads(files["training.json"])["processes"] == 2
    assert "evaluation.json" in files
    assert "training_state.json" not in files
    log = (tmp_path / "disk-0-2" / "runs" / "model" / "training_log.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["update"] for line in log.splitlines()] == list(range(pushed + 1, 7))
