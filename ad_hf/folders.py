"""Folders: what a run leaves in one is whole or not there, and one run at a time writes it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

LOCK = ".lock"  # the file whose bytes stand for the pieces of a folder
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)  # of a file system that has none

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to be written so that whoever reads it, whenever that is, finds the old one or the new one.

    It takes the place of a link, and leaves alone what that leads to.
    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file of this content; see `whole_file`."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def put(partial: Path, path: Path) -> None:
    """Give a file or a folder, written to its end, its name: on the disk, not only in memory."""
    if partial.is_dir():
        for file in partial.iterdir():
            _sync(file)
        _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems do not sync folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def claimed(folder: Path, pieces: Iterable[int] | None = None, wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing a folder, or some pieces of it, until the end of the block.

    The kernel keeps the claim, on this machine and on those that share the disk, and ends it with the
    process, however that ends.

    Args:
        folder: made if need be, and removed in the end if it is empty.
        pieces: numbers of what is claimed; None is all of it.
        wait: until nobody else has a claim, instead of refusing.

    Raises:
        ValueError: if another process has a claim on any of them.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    descriptor = _open(path, how, None if pieces is None else sorted(pieces))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # others have claims, or locks are none here
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()  # nobody can have opened it and still believe in it: see `_open`
            if is_new:
                folder.rmdir()
        os.close(descriptor)


def _open(path: Path, how: int, pieces: list[int] | None) -> int:
    """The lock file, with the bytes of all pieces locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            for first, length in [(0, 0)] if pieces is None else _runs(pieces):  # a length of 0 is all
                fcntl.lockf(descriptor, how, length, first)
        except OSError as error:
            if error.errno in NO_LOCKS:
                logger.warning("%s is on a disk without locks: let no other run write it", path.parent)
                return descriptor
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise ValueError(
                f"another run is writing {path.parent} just now: wait for it, or choose another --output"
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # whoever had it removed it meanwhile


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Sorted numbers as runs of consecutive ones: the first of each, and how many they are."""
    borders = [n for n, (low, high) in enumerate(pairwise(numbers), 1) if high > low + 1]
    for start, end in pairwise([0, *borders, len(numbers)]):
        if end > start:
            yield numbers[start], end - start
