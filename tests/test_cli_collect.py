"""`ad-hf collect --num-proc`: whatever happens to the processes, the histories are those of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from test_cli import INTERRUPTED, assert_one_line, contents, file_size_limit, invoke, sets


def wait_until(happened: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; nobody may be there to ask what became of the others."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def running(command: list[str]) -> Iterator[tuple[subprocess.Popen, list[psutil.Process]]]:
    """A command and the processes that it has started; in the end none of them is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ad_hf", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # also where pytest runs with `&`
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        children = psutil.Process(process.pid).children
        wait_until(lambda: len(children()) == 3, "no processes were started")  # and multiprocessing's own
        started = children()
        yield process, started
        process.wait(timeout=60)
        wait_until(lambda: not living(started), "processes stayed without the one that started them", 10)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_however_a_collection_by_two_processes_is_stopped_it_goes_on(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    output = tmp_path / "stopped"
    changes = sets((*tiny, "collect.lockstep=8", "collect.num_episodes=60"))  # 11 runs
    command = ["collect", "dark-room", *changes, "--output"]

    def shards() -> list[Path]:
        return list(output.rglob("*.parquet"))

    with running([*command, str(output), "--num-proc", "2"]) as (process, workers):
        time.sleep(0.5)  # they are importing now, which takes seconds
        for worker in workers:
            worker.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None or bool(shards()), "nothing was written")
        assert process.poll() is None, "a process did not leave Ctrl-C to the one that started it"
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C goes to all processes of a terminal
        assert process.stderr is not None
        assert process.stderr.read() == INTERRUPTED
    before = len(shards())
    with running([*command, str(output), "--num-proc", "2"]) as (process, _):
        wait_until(lambda: process.poll() is not None or len(shards()) > before, "nothing was written")
        process.kill()
    kept = {shard.name: shard.read_bytes() for shard in shards()}
    assert invoke(*command, output).exit_code == 0
    assert invoke(*command, tmp_path / "whole").exit_code == 0
    whole = contents(tmp_path / "whole" / "dark-room")
    assert 0 < len(kept) < len(whole)
    assert kept.items() <= whole.items()
    assert contents(output / "dark-room") == whole


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_said_as_if_it_were_in_this_one(
    tiny: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "histories"
    changes = sets((*tiny, "collect.lockstep=24", "collect.num_episodes=100"))
    command = ("collect", "dark-room", *changes, "--output", output, "--num-proc", 2)
    refused = assert_one_line(invoke(*command, "--set=collect.source=thompson"))
    assert refused == assert_one_line(invoke(*command, "--set=collect.source=thompson", "--num-proc", 1))
    assert "needs" in refused
    assert not output.exists()
    with file_size_limit(10_000):  # more than a card, less than a shard
        line = assert_one_line(invoke(*command))
    assert line == "ad-hf: File too large: what was written whole is kept\n"
    assert not list(output.rglob("*.parquet"))
    assert capfd.readouterr() == ("", "")  # of the processes themselves
    assert invoke(*command, "--num-proc", 1).exit_code == 0


def test_no_process_at_all_is_refused(tmp_path: Path) -> None:
    result = invoke("collect", "dark-room", "--output", tmp_path / "histories", "--num-proc", 0)
    assert result.exit_code == 2
    assert "--num-proc" in result.stderr
    assert not (tmp_path / "histories").exists()
