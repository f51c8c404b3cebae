"""What all verbs share: one way to fail, to talk, to show progress, and some options."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import platform
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from ad_hf.cli.processes import (
    INTERRUPTED,
    Terminated,
    check_launch,
    failed,
    is_loss_of_peer,
    is_main,
    speaks_for_machine,
)

app = typer.Typer(
    name="ad-hf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Algorithm Distillation: collect learning histories, train on them, watch in-context learning.",
)


def _use_token(token: str | None) -> None:
    if token is not None:  # where every client of the Hub looks for it
        os.environ["HF_TOKEN"] = token


Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]
Branch = Annotated[str | None, typer.Option("--revision", help="Branch to push to. Default: main.")]
OverwriteCard = Annotated[
    bool, typer.Option("--overwrite-card", help="Replace the repository's card, even if it was edited.")
]
Token = Annotated[
    str | None,
    typer.Option(
        callback=_use_token,
        expose_value=False,
        help="Access token of the Hub. Better kept by `hf auth login` or in HF_TOKEN.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def command(examples: str, saves: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a verb with examples in its help, and turn known errors into one line and exit code 1.

    Args:
        examples: command lines.
        saves: whether it goes on where it stopped, so that SIGTERM is no failure.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        name = function.__name__.rstrip("_")

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                check_launch()
                _prepare_libraries(shows_transfers=name in ("push", "pull"))
                function(*args, **kwargs)
            except KeyboardInterrupt:
                _fail(INTERRUPTED)
            except Terminated:
                say_that_it_was_told()
                raise typer.Exit(0 if saves else 128 + signal.SIGTERM) from None
            except BrokenPipeError:  # as in `ad-hf generate ... | head`; typer ends quietly
                raise
            except Exception as error:
                if is_debugging() or not _is_known(error):
                    raise
                _fail(one_line(error))

        return app.command(
            name, epilog="\n\n".join(["[bold]Examples[/bold]", *examples.strip().splitlines()])
        )(run)

    return register


def is_debugging() -> bool:
    """Whether to show tracebacks and what libraries say."""
    return os.environ.get("AD_HF_DEBUG") == "1"


def _is_known(error: Exception) -> bool:
    from gymnasium.error import Error as GymnasiumError
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError  # what a full disk looks like to a checkpoint

    known = (OSError, ValueError, GymnasiumError, StrictDataclassError, SafetensorError)
    return isinstance(error, known) or is_loss_of_peer(error)


def one_line(error: Exception) -> str:
    """What went wrong; of a long message its two ends, where the value and the way out stand."""
    if is_loss_of_peer(error):
        return "another process of this run has ended: see what it said; train with --resume goes on"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"there is no {error.filename}: check the path"
    if isinstance(error, NotADirectoryError | FileExistsError) and error.filename:
        return f"{error.filename} cannot be made: a file is where a folder should be, so choose another"
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}: what was written whole is kept"
    # Names and values from the Hub may hold what a terminal would obey.
    message = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))
    if token := os.environ.get("HF_TOKEN"):
        message = message.replace(token, "***")
    return message if len(message) <= 500 else f"{message[:300]} ... {message[-180:]}"


def _fail(message: str) -> None:
    failed.set()
    if speaks_for_machine():  # for each has its own disk
        typer.echo(f"ad-hf: {message}", err=True)
    raise typer.Exit(1)


def say_that_it_was_told() -> None:
    """Say that SIGTERM has ended the command."""
    failed.set()
    if speaks_for_machine():
        typer.echo(f"ad-hf: ended by SIGTERM; {INTERRUPTED.partition(': ')[2]}", err=True)


def say(message: str) -> None:
    """Talk, on stderr, and from the main process only."""
    if is_main():
        typer.echo(message, err=True)


def _prepare_libraries(shows_transfers: bool) -> None:
    """Keep the libraries from waiting for ever, and unless somebody looks for a mistake, from talking.

    Args:
        shows_transfers: leave huggingface_hub its progress bars, on a terminal.
    """
    if not is_debugging():
        _quieten()
        if shows_transfers and sys.stderr.isatty():
            from huggingface_hub.utils import enable_progress_bars

            enable_progress_bars()
    keep_freed_memory()
    from ad_hf.hub import be_patient_but_not_for_ever

    be_patient_but_not_for_ever()


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to gigabytes, where the C library is glibc.

    By default large tensors are handed back to the system and asked for again at every operation, page by
    page: on a CPU a tenth to a fifth of a training step. What `MALLOC_MMAP_THRESHOLD_` and
    `MALLOC_TRIM_THRESHOLD_` do in the environment.
    """
    if platform.libc_ver()[0] == "glibc":
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # Arrow's columns too
        mallopt, trim_threshold, mmap_threshold = ctypes.CDLL(None).mallopt, -1, -3  # as in malloc.h
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def _quieten() -> None:
    """Keep the libraries' progress bars and warnings, and threads, out of the way."""
    # For models this small a second thread gains 1.2x at best, and beside other work it costs up to 25x: it
    # waits at every operation. Two processes use two cores better. Read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore")
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # and huggingface_hub's with it
    warn = logging.StreamHandler()
    warn.setFormatter(logging.Formatter("ad-hf: %(message)s"))
    logging.getLogger("ad_hf").handlers = [warn]


@contextlib.contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, of the main process only; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    disable = not console.is_terminal or not is_main()
    with Progress(*columns, console=console, disable=disable) as progress:
        bar = progress.add_task(label, total=None)

        def update(done: int, total: int, note: str = "") -> None:
            progress.update(bar, completed=done, total=total, description=f"{label} {note}".strip())

        yield update
