"""`ad-hf` again and again without its seconds of imports: a process that has imported it all, and forks.

Run as a program it reads commands as lines of JSON from stdin, `{"arguments", "after", "signal"}`, runs each
in a fork of its own, sends that the signal so many seconds later, and answers with `{"code", "seconds",
"stderr"}`. A fork is as good as a new process: no thread has been started, and nothing has been done yet.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal), its seconds, and what it said."""

    code: int
    seconds: float
    stderr: str


class ForkedCommands:
    """The side of the tests; a context manager.

    Args:
        environment: variables that differ from this process's.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )

    def __enter__(self) -> ForkedCommands:
        return self

    def __exit__(self, *args: object) -> None:
        self.process.communicate()

    def run(self, *arguments: Any, after: float | None = None, number: int = signal.SIGKILL) -> Ended:
        """Run `ad-hf` with these arguments, and send it a signal so many seconds after it began."""
        order = {"arguments": [str(argument) for argument in arguments], "after": after, "signal": number}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()))


def serve() -> None:
    """The side of the forks."""
    # All that any verb imports, and no work: threads would not survive a fork.
    import matplotlib.figure  # noqa: F401
    import pydantic  # noqa: F401

    import ad_hf.cli
    import ad_hf.envs.dark_room
    import ad_hf.runs
    import ad_hf.sources.q_learning

    gc.freeze()  # collections in a fork would copy its memory
    for line in sys.stdin:
        order = json.loads(line)
        with tempfile.TemporaryFile() as said:
            began = time.monotonic()
            child = os.fork()
            if child == 0:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(said.fileno(), 2)
                sys.argv = ["ad-hf", *order["arguments"]]
                code = 1
                try:
                    ad_hf.cli.main()
                except SystemExit as ended:
                    code = ended.code
                finally:
                    sys.stderr.flush()
                    os._exit(code)  # to tear all modules down takes longer than most commands
            code = wait(child, order["after"], order["signal"])
            ended = {"code": code, "seconds": time.monotonic() - began}
            said.seek(0)
            sys.stdout.write(json.dumps({**ended, "stderr": said.read().decode()}) + "\n")
            sys.stdout.flush()


def wait(child: int, after: float | None, number: int) -> int:
    """Until a child has ended, with a signal on the way; its exit code."""
    began = time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if after is not None and time.monotonic() - began >= after:
            os.kill(child, number)
            after = None
        time.sleep(0.001)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    serve()
