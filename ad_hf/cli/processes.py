"""What the command knows of processes: those beside it in the same run, and whoever wants it to end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import typer

INTERRUPTED = "interrupted: what was written whole is kept; run it again to go on, train with --resume"
GRACE = 3.0  # seconds to tidy up after Ctrl-C

failed = threading.Event()
_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


class Terminated(BaseException):
    """SIGTERM has come, as before a preemption or at a time limit."""


class _Termination:
    """What SIGTERM does: it ends the command, or where that ends by itself when asked, is what it is told."""

    def __init__(self) -> None:
        self.is_asked_for = False
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.is_asked_for:
            raise Terminated
        self.came = True  # once or more often: a launcher passes on what SLURM sends to all


_termination = _Termination()


def end_soon_when_asked() -> None:
    """Let SIGTERM raise `Terminated`, and Ctrl-C end the command also where it does not get to Python.

    That is so where clients of the Hub wait for an answer.
    """
    signal.signal(signal.SIGTERM, _termination)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)  # Python writes there whatever the main thread does

    def watch() -> None:
        while os.read(reading, 1) != bytes([signal.SIGINT]):
            pass
        time.sleep(GRACE)
        if not failed.is_set():
            typer.echo(f"ad-hf: {INTERRUPTED}", err=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come, for what saves itself and ends when asked.

    Until the first time that it asks, SIGTERM raises `Terminated` as elsewhere.
    """

    def stop() -> bool:
        _termination.is_asked_for = True
        return _termination.came

    try:
        yield stop
    finally:
        _termination.is_asked_for = _termination.came = False


def is_main() -> bool:
    """Whether this is the only process, or the first of many."""
    return os.environ.get("RANK", "0") == "0"


def speaks_for_machine() -> bool:
    """Whether this is the first process of a run on its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def is_restart() -> bool:
    """Whether `torchrun --max-restarts`, or `accelerate launch --max_restarts`, has started this run anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def meet_elsewhere() -> None:
    """After a restart, let the processes meet at another port.

    Where they met before, the launcher still tells the addresses of those that have died (torch 2.13).
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    from torch.distributed import TCPStore

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"ad_hf/port/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    if is_main():
        with socket.socket() as free:
            free.bind(("", 0))
            store.set(key, str(free.getsockname()[1]))
    os.environ |= {"MASTER_PORT": store.get(key).decode(), "TORCHELASTIC_USE_AGENT_STORE": "False"}


def part_of_run(shard: str | None) -> tuple[int, int]:
    """Which part of how many this process is to do: (i, n) with i from 0.

    Args:
        shard: "i/n" with i from 1; None takes the numbers that a launcher has given.

    Raises:
        ValueError: if it says something else.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if shard is None:
        return rank, world
    if world > 1:
        raise ValueError(
            f"--shard {shard} is for one process, but {world} were launched: take one or the other"
        )
    index, slash, parts = shard.partition("/")
    if not slash or not index.isdecimal() or not parts.isdecimal() or not 1 <= int(index) <= int(parts):
        raise ValueError(f"--shard is {shard!r}, but must be I/N with I from 1 to N, for example 1/8")
    return int(index) - 1, int(parts)


def check_launch() -> None:
    """Refuse to be the only one of several processes that were asked for.

    `accelerate launch --cpu --num_processes 2` starts a single process and says nothing (accelerate 1.15). It
    can be told by the address at which the others would have met, without a number among them.

    Raises:
        ValueError: if that is so.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if launched and not any(name in os.environ for name in _RANKS):
        raise ValueError(
            "accelerate launch was asked for several processes and started one, as it does with --cpu: put "
            "ACCELERATE_USE_CPU=true before it and --multi_gpu in place of --cpu, or say --num_processes 1"
        )


def is_loss_of_peer(error: Exception) -> bool:
    """Whether this is how gloo or NCCL say that another process has gone."""
    if "torch" not in sys.modules or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, sys.modules["torch"].distributed.DistError) or "gloo" in str(error).lower()
