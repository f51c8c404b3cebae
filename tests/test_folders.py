"""Folders: whole files, and one writer at a time, whatever becomes of it."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ad_hf import folders
from ad_hf.folders import LOCK, claimed, put, write_whole

# Claims are of processes, so the other one has to be another.
OTHER = """
import sys
from pathlib import Path
from ad_hf.folders import claimed
pieces = [int(word) for word in sys.argv[2:]] or None
try:
    with claimed(Path(sys.argv[1]), pieces):
        print("claimed", flush=True)
        sys.stdin.read()
except ValueError as error:
    print(error)
"""
ROOT = Path(__file__).parent.parent


def other(folder: Path, *pieces: int) -> subprocess.Popen:
    """Another process that claims a folder, or pieces of it, until its stdin is closed."""
    command = [sys.executable, "-c", OTHER, str(folder), *map(str, pieces)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)


def said(process: subprocess.Popen) -> str:
    return process.communicate()[0].strip()


def refusal(folder: Path) -> str:
    return f"another run is writing {folder} just now: wait for it, or choose another --output"


def test_a_folder_is_claimed_by_one_process_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with claimed(folder):
        assert said(other(folder)) == refusal(folder)
        assert said(other(folder, 3)) == refusal(folder)
    assert not folder.exists()
    assert said(other(folder)) == "claimed"


def test_pieces_are_claimed_one_by_one(tmp_path: Path) -> None:
    with claimed(tmp_path, [0, 1, 2, 5, 9]):
        for piece in (0, 2, 5, 9):
            assert said(other(tmp_path, piece)) == refusal(tmp_path)
        assert said(other(tmp_path)) == refusal(tmp_path)
        assert said(other(tmp_path, 3, 4, 6, 10)) == "claimed"
        assert said(other(tmp_path, 3, 4, 5)) == refusal(tmp_path)  # also after another's claim has ended
    with claimed(tmp_path, []):
        assert said(other(tmp_path)) == "claimed"


def test_a_claim_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    process = other(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    with pytest.raises(ValueError, match="another run is writing"), claimed(tmp_path):
        pass
    process.kill()
    process.wait()
    assert (tmp_path / LOCK).exists()
    with claimed(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_claim_can_be_waited_for(tmp_path: Path) -> None:
    process = other(tmp_path)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "claimed\n"
    process.stdin.close()  # which lets it go, sooner or later
    with claimed(tmp_path, wait=True):
        assert said(other(tmp_path)) == refusal(tmp_path)
    process.wait()


def test_a_claim_leaves_what_was_written_and_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with claimed(folder):
        (folder / "kept").touch()
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_where_there_are_no_locks_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with claimed(tmp_path):
        pass
    assert f"{tmp_path} is on a disk without locks: let no other run write it" in caplog.text


def test_a_file_is_the_old_one_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    write_whole(path, "old")

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_file_takes_the_place_of_a_link_and_leaves_alone_what_it_led_to(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("theirs")
    (tmp_path / "link").symlink_to("cache")
    write_whole(tmp_path / "link", "ours")
    assert (tmp_path / "cache").read_text() == "theirs"
    assert (tmp_path / "link").read_text() == "ours"


def test_what_is_given_its_name_is_on_the_disk_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / "weights").write_bytes(b"1")
    synced: list[str] = []
    monkeypatch.setattr(
        folders.os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    put(partial, tmp_path / "whole")
    assert synced == [str(partial / "weights"), str(partial), str(tmp_path)]
    assert (tmp_path / "whole" / "weights").read_bytes() == b"1"
