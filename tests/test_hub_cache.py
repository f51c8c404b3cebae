"""What a pull leaves in the cache and what it makes of it: nothing damaged, nothing old taken for new."""

from __future__ import annotations

import errno
import os
import random
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_haste import FAULTS, contents, forget, haste  # noqa: F401  # haste is on in every test
from hub_server import LocalHub
from huggingface_hub import constants

from ad_hf import hub as client

NOISE = random.Random(0).randbytes(100_000)
PATTERNS = ("*.parquet", "README.md")

# Damage


@pytest.mark.parametrize("storage", ["xet", "plain"])
def test_any_number_of_damaged_files_is_fetched_anew(
    storage: str, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", storage == "plain")
    files = {f"{n}.parquet": NOISE[n:] for n in range(client.TRIES + 3)}
    hub.add_repo("dataset", "org/m", files)
    hub.fail("content", "lie", len(files))
    assert contents(client.fetch("org/m", "dataset", PATTERNS, tmp_path / "out")) == files


def test_damaged_files_of_the_same_content_are_fetched_anew(hub: LocalHub, tmp_path: Path) -> None:
    files = dict.fromkeys(("a.parquet", "b.parquet", "c.parquet"), NOISE)
    hub.add_repo("dataset", "org/m", files)
    hub.fail("content", "lie", 3)
    assert contents(client.fetch("org/m", "dataset", PATTERNS, tmp_path / "out")) == files


# The cache


@pytest.fixture
def older(hub: LocalHub) -> Path:
    """A repository whose first version is in the cache, while the Hub has a second one."""
    hub.add_repo("dataset", "org/m", {"README.md": "# First\n", "a.parquet": NOISE})
    folder = client.fetch("org/m", "dataset", PATTERNS)
    hub.add_commit("dataset", "org/m", {"README.md": "# Second\n"})
    forget()
    return folder


@pytest.mark.parametrize("fault", ["500 once", "429 once", "reset once", "cut once", "lie once"])
def test_a_hub_that_stumbles_is_not_taken_for_one_that_is_away(
    fault: str, older: Path, hub: LocalHub
) -> None:
    hub.fail("info", *FAULTS[fault])
    assert (client.fetch("org/m", "dataset", PATTERNS) / "README.md").read_text() == "# Second\n"


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        ("*", "503 for ever"),
        ("*", "reset for ever"),
        ("*", "stall for ever"),
        ("tree", "503 for ever"),
    ],
)
def test_what_the_cache_holds_is_used_while_the_hub_is_away_and_that_is_said(
    stage: str, fault: str, older: Path, hub: LocalHub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fail(stage, *FAULTS[fault])
    for _ in range(2):
        assert client.fetch("org/m", "dataset", PATTERNS) == older
    (line,) = [record.getMessage() for record in caplog.records if record.name == "ad_hf.hub"]
    assert re.match(r"org/m: the Hub at .*; until then, what the cache holds is used$", line)


def test_a_version_is_used_whole_or_not_at_all(older: Path, hub: LocalHub) -> None:
    hub.add_commit("dataset", "org/m", {"b.parquet": NOISE[::-1]})
    hub.fail("content", 503, None)
    with pytest.raises(client.HubError, match=r"^org/m: .*try again later$"):
        client.fetch("org/m", "dataset", PATTERNS)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_who_is_refused_is_not_given_what_the_cache_holds(status: int, older: Path, hub: LocalHub) -> None:
    hub.fail("info", status, None)
    with pytest.raises(client.HubError, match=r"^org/m: "):
        client.fetch("org/m", "dataset", PATTERNS)


# No Hub at all


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a Hub that is not running."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    return address


@pytest.mark.parametrize(
    "call",
    [
        lambda: client.prepare("org/m", "model"),
        lambda: client.publish("org/m", "model", {"config.json": b"{}"}, lambda card: card, "Add"),
        lambda: client.fetch("org/m", "model", client.MODEL_FILES),
        lambda: client.list_files("org/m", "dataset"),
        lambda: client.open_remote("datasets/org/m@0123/a.parquet"),
        lambda: client.list_repositories("org"),
    ],
    ids=["prepare", "publish", "fetch", "list files", "open", "list repositories"],
)
def test_a_hub_that_is_not_running_is_named(call: Callable[[], object], no_hub: str) -> None:
    with pytest.raises(client.HubError) as error:
        call()
    assert error.value.passing
    away = rf"org.*: the Hub at {no_hub} cannot be reached \(ConnectError\): try again later$"
    assert re.search(away, str(error.value))


def test_the_cache_is_used_at_once_where_there_is_no_network(
    older: Path, no_hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 2.0)
    began = time.monotonic()
    assert client.fetch("org/m", "dataset", PATTERNS) == older
    assert time.monotonic() - began < 2


# A full disk

PULL_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from ad_hf import hub
if sys.argv[1] != "cache":
    hub.fetch("org/m", "dataset", ("*.parquet",))
if sys.argv[1] == "output that is there":
    Path("out").mkdir()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    hub.fetch("org/m", "dataset", ("*.parquet",), Path("out"))
except hub.HubError as error:
    print(error.passing, error)
print(*(path for path in Path().rglob("*") if path.parts[0] != "hf"))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
hub.fetch("org/m", "dataset", ("*.parquet",), Path("out"))
print(sum(file.stat().st_size for file in Path("out").iterdir()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("xet", ["xet", "plain"])
@pytest.mark.parametrize("full", ["cache", "output", "output that is there"])
def test_a_full_disk_is_said_and_leaves_nothing_behind(
    full: str, xet: str, hub: LocalHub, run_python: Callable[..., str]
) -> None:
    """A limit on the size of files stands for the end of the disk, which a test cannot bring about."""
    hub.add_repo("dataset", "org/m", {"a.parquet": NOISE, "b.parquet": NOISE[::-1]})
    env = {"HF_HUB_DISABLE_XET": "1" if xet == "plain" else "0"}
    said, left, size = run_python(PULL_ON_A_FULL_DISK, full, env=env).splitlines()
    assert re.fullmatch(
        rf"False org/m: {os.strerror(errno.EFBIG)} \(.*\): check the space and the permissions there", said
    )
    assert left == ("out" if full == "output that is there" else "")
    assert size == "200000"


def test_what_hf_xet_tells_of_a_full_disk_is_not_taken_for_the_network() -> None:
    told = f"Task error: File reconstruction error: IO Error: whatever (os error {errno.ENOSPC})"
    with pytest.raises(client.HubError) as error, client.in_one_line("org/m"):
        raise RuntimeError(told)
    assert str(error.value).startswith(f"org/m: {os.strerror(errno.ENOSPC)} (")
    assert not error.value.passing
