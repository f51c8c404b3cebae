"""Push and pull under faults: all or nothing, with a bounded number of tries, and one line on what to do.

A *stage* is a route of the local Hub that a push or a pull passes; every fault is injected at every stage.
The route "resolve" is passed twice, to be told of a file and then to get it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import httpx2  # comes with huggingface_hub
import pytest
from hub_haste import FAULTS, contents, forget, haste  # noqa: F401  # haste is on in every test
from hub_server import LocalHub
from huggingface_hub import HfApi, RepoCard, constants

from ad_hf import hub as client

ANY_WAY_OUT = r"(again later|log in with `hf auth login`|\(`hf auth login`\)|check [\w/]+)"
# What becomes of a push or a pull.
DONE, GIVEN_UP, REFUSED, INTERRUPTED = "done", "given up, for the moment", "refused", "interrupted"


def expected(fault: str, exceptions: dict[str, str]) -> str:
    """What becomes of it, where no exception is named."""
    if fault in exceptions:
        return exceptions[fault]
    if fault == "Ctrl-C":
        return INTERRUPTED
    if fault.endswith("for ever"):
        return GIVEN_UP
    return REFUSED if fault in ("401", "403", "404", "409 once", "412 once") else DONE


def outcome(call: Callable[[], object], stage: str, fault: str, hub: LocalHub) -> str:
    """Do it with the fault; what became of it, once its message and its number of tries have proved right."""
    try:
        if fault == "Ctrl-C":
            with pressing_ctrl_c(lambda: "stall" in [seen.outcome for seen in hub.requests]):
                call()
        else:
            call()
    except client.HubError as error:
        message = str(error)
        assert message.startswith("org/m: ")
        assert re.search(ANY_WAY_OUT, message), message
        assert "\n" not in message
        assert len(message) < 250
        assert not re.search(r"https?://(?!127)", message), "addresses of content may be secrets"
        return GIVEN_UP if error.passing else REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


@contextlib.contextmanager
def pressing_ctrl_c(happened: Callable[[], bool]) -> Iterator[None]:
    """Send this process a SIGINT once something has happened."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            if happened():
                os.kill(os.getpid(), signal.SIGINT)
                return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not over.is_set():
            raise KeyboardInterrupt

    old = signal.signal(signal.SIGINT, interrupt)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGINT, old)


def cases(stages: dict[str, dict[str, str]], quick: set[tuple[str, str]]) -> list[Any]:
    """Every fault at every stage, with what has to become of it; all but a few are slow together."""
    assert quick <= set(itertools.product(stages, FAULTS))
    return [
        pytest.param(
            stage,
            fault,
            expected(fault, stages[stage]),
            id=f"{stage}, {fault}",
            marks=[] if (stage, fault) in quick else [pytest.mark.slow],
        )
        for stage, fault in itertools.product(stages, FAULTS)
    ]


# Push

NOISE = random.Random(0).randbytes(100_000)
CONFLICT = {"409 once": DONE, "412 once": DONE}  # as if somebody else had just committed
NO_BODY = {"lie once": DONE, "lie for ever": DONE}
AGAIN = {"lie for ever": DONE}  # it is done, and found to be so
PUSH = {
    "auth-check": NO_BODY,
    "create": AGAIN | {"409 once": DONE},  # as if somebody else had just made it
    "branch": NO_BODY,
    "info": {},
    "resolve": {},
    "resolve, then": {},
    "validate-yaml": CONFLICT,
    "preupload": CONFLICT,
    "xet-token": {},
    "xorb": {},
    "shard": {},
    "lfs-batch": CONFLICT,
    "lfs-put": NO_BODY,
    "lfs-verify": NO_BODY
    | {"503 for ever": DONE, "reset for ever": DONE, "stall for ever": DONE},  # a second try needs it not
    "commit": CONFLICT | AGAIN,
    "refs": {},
    "tag": NO_BODY,
}
QUICK_PUSH = {
    ("auth-check", "401"),
    ("create", "lost answer"),
    ("info", "stall once"),
    ("resolve", "lie for ever"),
    ("preupload", "503 for ever"),
    ("xorb", "reset for ever"),
    ("shard", "500 once"),
    ("lfs-put", "403"),
    ("commit", "500 once"),
    ("commit", "lost answer"),
    ("commit", "412 once"),
    ("commit", "Ctrl-C"),
    ("tag", "503 for ever"),
}
# Requests that a client makes of one try of ours: hf_xet makes 3 here, huggingface_hub 6 of some.
REQUESTS = {"resolve": 8, "preupload": 6, "tree": 6, "lfs-batch": 6, "lfs-put": 6, "lfs-verify": 6}
REQUESTS |= {"xet-token": 6, "xorb": 3, "shard": 3, "reconstruction": 4, "content": 7, "tag": 2, "info": 2}
OLD = {
    ".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n",
    "README.md": b"---\nlicense: mit\n---\n# By hand\n",
    "data/old.parquet": NOISE[:1000],
    "notes.txt": b"of others",
}


def card(theirs: RepoCard | None) -> RepoCard:
    """Theirs, with a word of ours."""
    made = theirs or RepoCard("---\nlicense: mit\n---\n# Made\n")
    made.data["pretty_name"] = "ours"
    return made


@pytest.mark.parametrize(("stage", "fault", "fate"), cases(PUSH, QUICK_PUSH))
def test_a_push_is_done_as_a_whole_or_not_at_all(
    stage: str, fault: str, fate: str, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", stage.startswith("lfs"))
    stage, _, then = stage.partition(", ")
    branch = "next" if stage == "branch" else "main"
    before = 1
    if stage != "create":
        hub.add_repo("dataset", "org/m", OLD)
        HfApi().create_tag("org/m", tag="v1", repo_type="dataset")
    data = tmp_path / "new.parquet"
    data.write_bytes(NOISE)
    files: dict[str, Path | bytes] = {"data/new.parquet": data, "config.json": b"{}"}

    def push() -> str:
        revision = None if branch == "main" else branch
        return client.publish("org/m", "dataset", files, card, "Add", False, revision, "v1", ("data/*",))

    def there() -> dict[str, bytes]:
        return hub.files("dataset", "org/m", branch)

    def assert_done() -> None:
        """Everything is there, in one commit."""
        found = there()
        assert found["data/new.parquet"] == NOISE
        assert found["config.json"] == b"{}"
        assert b"pretty_name: ours" in found["README.md"]
        assert set(found) - OLD.keys() == {"data/new.parquet", "config.json"}
        assert "data/old.parquet" not in found
        assert (b"# By hand" in found["README.md"], "notes.txt" in found) == (stage != "create",) * 2
        commits = hub.commits("dataset", "org/m", branch)
        assert len(commits) == before + 1
        if branch == "main":
            assert hub.refs("dataset", "org/m")["tags"] == {"v1": commits[0].id}

    hub.requests.clear()
    hub.fail(stage, *FAULTS[fault], skip=int(bool(then)))
    if fault == "stall for ever":
        monkeypatch.setattr(client, "TRIES", 3)  # up to eight requests of each wait, one after the other
    began = time.monotonic()
    assert outcome(push, stage, fault, hub) == fate
    assert time.monotonic() - began < 25, "it waits much longer than it has been told"

    bound = 1 if fate == REFUSED else client.TRIES * REQUESTS.get(stage, 1)
    assert 1 <= hub.tries(stage) <= bound + bool(then)
    after = stage in ("refs", "tag")  # the commit
    if fate == DONE:
        assert_done()
    elif after:
        assert there()["data/new.parquet"] == NOISE
    elif stage not in ("create", "branch"):
        assert len(hub.commits("dataset", "org/m")) == before
        assert there() == OLD
    assert data.read_bytes() == NOISE
    assert [path.name for path in tmp_path.iterdir()] == ["new.parquet"]

    hub.heal()
    forget()
    assert push() == f"{hub.url}/datasets/org/m"
    assert_done()


def test_a_push_that_finds_everything_there_adds_no_commit(hub: LocalHub) -> None:
    for _ in range(2):
        client.publish("org/m", "dataset", {"data.parquet": NOISE}, card, "Add", tag="v1")
        assert len(hub.commits("dataset", "org/m")) == 2  # the Hub makes the first one


def test_others_who_are_always_faster_are_given_way_to_in_the_end(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONFLICTS", 4)
    hub.add_repo("dataset", "org/m", OLD)
    numbers = itertools.count()

    def slow_card(theirs: RepoCard | None) -> RepoCard:
        hub.add_commit("dataset", "org/m", {f"{next(numbers)}.txt": "faster"})
        return card(theirs)

    with pytest.raises(client.HubError, match=r"^org/m: others change it .*: try again later$"):
        client.publish("org/m", "dataset", {"config.json": b"{}"}, slow_card, "Add")
    assert hub.tries("commit") == 4
    assert "config.json" not in hub.files("dataset", "org/m")
    assert len(hub.commits("dataset", "org/m")) == 5  # of others


def test_a_repository_that_exists_and_cannot_be_seen_is_said_to(hub: LocalHub) -> None:
    hub.fail("create", 409, None)
    with pytest.raises(
        client.HubError, match=r"^org/m: it exists, but your token may not see it: use another"
    ):
        client.prepare("org/m", "model")
    assert hub.tries("create") == client.TRIES


def test_a_list_is_asked_for_no_more_often_than_the_client_does(hub: LocalHub) -> None:
    hub.fail("list", 503, None)
    with pytest.raises(client.HubError, match=r"^org: the Hub at .* answers 503: try again later"):
        client.list_repositories("org")
    assert hub.tries("list") == 6


def test_a_try_begins_no_later_than_persistence_allows(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PERSISTENCE", 0.0)
    hub.fail("auth-check", 503, None)
    with pytest.raises(client.HubError, match="answers 503: try again later"):
        client.prepare("org/m", "model")
    assert hub.tries("auth-check") == 1


def test_patience_holds_for_requests_that_ask_for_none(hub: LocalHub) -> None:
    hub.add_repo("model", "org/m", {"config.json": "{}"})
    hub.fail("info", "stall")
    with pytest.raises(httpx2.ReadTimeout):
        HfApi().model_info("org/m", timeout=None)


def test_patience_holds_for_the_end_of_an_upload_where_hf_xet_has_none(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.05)
    monkeypatch.setattr(client, "PERSISTENCE", 0.0)
    hub.fail("shard", "stall")
    began = time.monotonic()
    with pytest.raises(client.HubError, match=r"^org/m: the storage of .* was cancelled\): try again later$"):
        client.publish("org/m", "dataset", {"data.parquet": NOISE}, card, "Add")
    assert time.monotonic() - began < 5


def test_patience_is_not_cut_to_whole_seconds(hub: LocalHub) -> None:
    """For hf_xet would take 0 s at its word."""
    assert os.environ["HF_XET_CLIENT_READ_TIMEOUT"] == "300ms"
    client.publish("org/m", "dataset", {"data.parquet": NOISE}, card, "Add")
    assert hub.tries("xorb") == 1


@pytest.mark.parametrize(
    ("token", "repository", "reason"),
    [
        ("hf_of_nobody", "org/m", "the Hub does not accept your token: log in with `hf auth login`"),
        ("hf_of_nobody", "org/new", "the Hub does not accept your token: log in with `hf auth login`"),
        ("hf_bob_write", "org/new", "your token may not do this"),
        ("hf_bob_write", "org/m", "your token may not do this"),
        ("hf_ada_read", "org/m", "your token may not do this"),
        ("hf_ada_read", "org/new", "your token may not do this"),
        ("", "org/new", "log in with `hf auth login`"),
        ("", "org/m", "log in with `hf auth login`"),
    ],
)
def test_who_may_not_write_is_told_before_any_work(
    token: str, repository: str, reason: str, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.add_repo("model", "org/m", {"config.json": "{}"})
    with pytest.raises(client.HubError, match=f"^{repository}: .*{re.escape(reason)}") as refused:
        client.prepare(repository, "model")
    assert not refused.value.passing
    with pytest.raises(KeyError):
        hub.repo("model", "org/new")


# Pull

PULL: dict[str, dict[str, str]] = {
    "info": {},
    "tree": {},
    "resolve": {},
    "resolve, then": {},
    "xet-token": NO_BODY,  # its headers are read
    "reconstruction": {},
    "content": {},
    "content without Xet": {},
}
QUICK_PULL = {
    ("info", "500 once"),
    ("tree", "cut once"),
    ("resolve", "404"),
    ("xet-token", "stall once"),
    ("reconstruction", "503 for ever"),
    ("content", "lie once"),
    ("content without Xet", "lie for ever"),
}
PATTERNS = ("*.parquet", "README.md")
WANTED = {"README.md": b"# New\n", "data/a.parquet": NOISE, "data/b.parquet": NOISE[::-1]}


@pytest.mark.parametrize(("stage", "fault", "fate"), cases(PULL, QUICK_PULL))
def test_a_pull_is_whole_or_nothing(
    stage: str, fault: str, fate: str, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, _, then = stage.partition(", ")
    stage, _, without = stage.partition(" without ")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", without == "Xet")
    hub.add_repo("dataset", "org/m", WANTED | {"run.exe": b"not wanted"})
    output = tmp_path / "here" / "out"

    def pull() -> None:
        client.fetch("org/m", "dataset", PATTERNS, output)

    hub.fail(stage, *FAULTS[fault], skip=int(bool(then)))
    if fault == "stall for ever":
        monkeypatch.setattr(client, "TRIES", 3)  # up to eight requests of each wait, one after the other
    began = time.monotonic()
    assert outcome(pull, stage, fault, hub) == fate
    assert time.monotonic() - began < 25, "it waits much longer than it has been told"

    files = 3 if stage in ("resolve", "content") else 2
    tries = 1 if fate == REFUSED else client.TRIES
    assert 1 <= hub.tries(stage) <= tries * REQUESTS.get(stage, 1) * files
    if fate == DONE:
        assert contents(output) == WANTED
    else:
        assert contents(tmp_path) == {}, "nothing half-written is left"
        assert not output.exists()

    hub.heal()
    forget()
    shutil.rmtree(output, ignore_errors=True)
    pull()
    assert contents(tmp_path) == {f"here/out/{name}": what for name, what in WANTED.items()}
