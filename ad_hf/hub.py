"""The Hub: repositories out and in, each in one piece.

Nothing here or after it unpickles: only the kinds of files in `MODEL_FILES` and `DATASET_FILES` are fetched.
The clients repeat some of the requests that fail in passing; around what they do not repeat, `_persist` is.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import random
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

import httpx2  # comes with huggingface_hub
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    RepoCard,
    constants,
    hf_hub_download,
    set_client_factory,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils._http import default_client_factory
from huggingface_hub.utils._xet import abort_xet_session

from ad_hf.cards import TAG, load_card

MODEL_FILES = ("*.json", "*.safetensors", "*.py", "*.png", "README.md", ".eval_results/*.yaml")
DATASET_FILES = ("*.parquet", "*.png", "README.md")
NO_REVISION = r"\.\.|//|@\{|[\0-\x20\x7f~^:?*\[\\]|^[/.-]|[/.]$"  # names that git refuses, too
TRIES = 5  # of a request that fails in passing
CONFLICTS = 20  # of a commit while others commit to the same repository
FIRST_WAIT = 0.5  # seconds, then twice as long each time
PATIENCE = 60.0  # seconds that a server may say nothing; the client of huggingface_hub would wait for ever
PERSISTENCE = 300.0  # seconds after which what failed in passing is not tried again
SLOWEST = 50_000.0  # bytes per second that an upload has to make, apart from ten times the patience
# An answer that can be no Hub's: where a proxy answers in its place, or something in it was changed.
NO_JSON = json.JSONDecodeError | UnicodeDecodeError
T = TypeVar("T")
logger = logging.getLogger(__name__)


class HubError(OSError):
    """What went wrong with a repository, in one line that says what to do about it.

    Args:
        message: the line.
        passing: whether the same may succeed later, as when the Hub cannot be reached.
    """

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class _ConflictError(Exception):
    """Somebody else committed in between."""


def split_reference(name: str) -> tuple[str, str | None]:
    """A repository's id and its revision, from `org/name` or `org/name@revision`.

    Raises:
        HubError: if it is neither.
    """
    repo_id, _, revision = name.partition("@")
    with contextlib.suppress(HFValidationError):
        validate_repo_id(repo_id)
        if repo_id.count("/") == 1 and not re.search(NO_REVISION, revision):
            return repo_id, revision or None
    raise HubError(f"{name!r} is not a repository, which looks like org/name or org/name@revision")


def is_reference(name: str) -> bool:
    """Whether a name can be a repository's: it is one if there is no folder of that name."""
    if Path(name).exists() or name.startswith((".", "/", "~")):
        return False
    try:
        split_reference(name)
    except HubError:
        return False
    return True


def folder_of(name: str, repo_type: str = "model", patterns: tuple[str, ...] = MODEL_FILES) -> Path:
    """The folder of this name, or where the files of the repository of this name are put.

    Raises:
        HubError: if there is neither.
    """
    if not name:
        raise HubError("the name is empty: name a folder, or a repository as org/name")
    if Path(name).is_dir():
        return Path(name)
    if not is_reference(name):
        raise HubError(f"there is no folder {name}, and no repository on the Hub can have this name")
    try:
        return fetch(name, repo_type, patterns)
    except HubError as error:
        raise HubError(f"there is no folder {name}, and on the Hub {error}", error.passing) from error


def be_patient_but_not_for_ever() -> None:
    """Let requests of the clients that set no limit give up after `PATIENCE` seconds of silence.

    One does not, with which hf_xet ends an upload; `publish` sees to that.
    """

    def limit(request: httpx2.Request) -> None:
        # Not as the client's own limit, for `repo_info` and others explicitly ask for none.
        limits = request.extensions["timeout"]
        request.extensions["timeout"] = {k: PATIENCE if v is None else v for k, v in limits.items()}

    def client() -> httpx2.Client:
        made = default_client_factory()
        made.event_hooks = {"request": [*made.event_hooks["request"], limit]}
        return made

    set_client_factory(client)
    os.environ.setdefault("HF_XET_CLIENT_READ_TIMEOUT", f"{PATIENCE * 1000:.0f}ms")


def fetch(name: str, repo_type: str, patterns: tuple[str, ...], output: Path | None = None) -> Path:
    """Bring a repository's files onto this machine, each checked against the hash the Hub has for it.

    Args:
        name: `org/name` or `org/name@revision`.
        repo_type: "model" or "dataset".
        patterns: of the files wanted.
        output: a folder to copy them into, empty or not there yet; None leaves them in the cache of
            huggingface_hub.

    Returns:
        The folder they are in. Where the Hub cannot be reached that is what the cache holds, if it is whole.

    Raises:
        HubError: if they cannot be had whole.
    """
    repo_id, revision = split_reference(name)
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise HubError(f"{output} is not empty: choose another --output, or remove it")
    with in_one_line(name):
        folder = _fetch(repo_id, repo_type, revision or "main", patterns)
        if output is None:
            return folder
        place = output if output.exists() else output.parent
        place.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=place))
        try:
            for file in _names(folder, patterns):  # the cache may hold others
                (partial / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / file, partial / file)  # not as the links that the cache holds
            if output.exists():  # perhaps somebody stands in it, or it is a disk of its own
                for item in list(partial.iterdir()):
                    item.rename(output / item.name)
            else:
                partial.chmod(0o755)
                partial.rename(output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return output


def _fetch(repo_id: str, repo_type: str, revision: str, patterns: tuple[str, ...]) -> Path:
    """Bring files into the cache, or find them there."""
    download = functools.partial(
        snapshot_download,
        repo_id,
        repo_type=repo_type,
        revision=revision,
        allow_patterns=list(patterns),
    )
    if constants.HF_HUB_OFFLINE:
        return Path(download(local_files_only=True))

    def find(error: Exception) -> Path:
        with contextlib.suppress(LocalEntryNotFoundError):
            folder = Path(download(local_files_only=True))
            _warn_once(f"{repo_id}: {_explain(error)}; until then, what the cache holds is used")
            return folder
        raise error

    def fetch_once() -> Path:
        try:
            info: Any = HfApi().repo_info(
                repo_id, repo_type=repo_type, revision=revision, files_metadata=True
            )
        except (httpx2.ConnectError, httpx2.TimeoutException) as error:
            return find(error)  # at once, for most likely there is no network
        for file in info.siblings or []:
            _check_name(file.rfilename)
        wanted = [f for f in info.siblings or [] if any(fnmatch(f.rfilename, p) for p in patterns)]
        if not wanted:
            raise HubError(f"it is a {repo_type} without {' or '.join(patterns)}")
        folder = Path(download())
        if folder.name != info.sha:  # an older one, as the cache has it
            raise HubError("its files cannot be listed, or change just now: try again later", passing=True)
        _check_contents(folder, wanted)
        known = {file.rfilename for file in wanted}
        for name in _names(folder, patterns):
            if name not in known:
                raise HubError(f"it is described as without {name!r}, which it has")
        return folder

    try:
        return _persist(fetch_once)
    except Exception as error:
        if _is_passing(error):
            return find(error)
        raise


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _names(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """The files in a folder whose paths in it are like one of the patterns."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def list_repositories(author: str) -> list[dict[str, Any]]:
    """The models and datasets of a user or an organisation that were made with ad-hf.

    Raises:
        HubError: if the Hub cannot be reached, or nobody can have that name.
    """
    if not re.fullmatch(r"[A-Za-z0-9]([\w.-]{0,94}[A-Za-z0-9])?", author, re.ASCII):
        raise HubError(f"{author!r} is no user or organisation: give the part of org/name before the slash")
    api = HfApi()
    with in_one_line(author):
        models = list(api.list_models(author=author, filter=TAG, full=True))
        datasets = list(api.list_datasets(author=author, filter=TAG, full=True))
    return [
        {
            "type": repo_type,
            "id": info.id,
            "private": bool(info.private),
            "downloads": info.downloads,
            "updated": info.last_modified.isoformat() if info.last_modified else None,
        }
        for repo_type, infos in (("model", models), ("dataset", datasets))
        for info in infos
    ]


def list_files(name: str, repo_type: str) -> tuple[str, list[str]]:
    """A repository's place, down to the commit, and the names of its files.

    Args:
        name: `org/name` or `org/name@revision`.
        repo_type: "model" or "dataset".

    Returns:
        For example `datasets/org/name@0123...` and the names.

    Raises:
        HubError: if the Hub cannot be reached, or has no such repository.
    """
    repo_id, revision = split_reference(name)
    with in_one_line(name):
        info: Any = _persist(lambda: HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision))
        names = [file.rfilename for file in info.siblings or []]
        for file in names:
            _check_name(file)
    return f"{'' if repo_type == 'model' else f'{repo_type}s/'}{repo_id}@{info.sha}", names


def open_remote(place: str) -> BinaryIO:
    """A file on the Hub, of which only what is read is fetched: `datasets/org/name@commit/file`.

    Raises:
        HubError: if it cannot be opened.
    """
    with in_one_line(place):
        return _persist(lambda: HfFileSystem().open(place, "rb", block_size=2**20))


def _check_name(name: str) -> None:
    """Refuse names that lead out of the repository's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or re.search(r"[\0\\]|^[A-Za-z]:", name):
        raise HubError(f"a file of it is called {name!r}, which leads out of its folder")


def _check_contents(folder: Path, files: Iterable[Any]) -> None:
    """Refuse, and forget, files that are not what the Hub says; the clients check only how long they are."""
    damaged = [file.rfilename for file in files if not _is_whole(folder / file.rfilename, file)]
    for name in damaged:
        (folder / name).resolve().unlink(missing_ok=True)  # what it links to
        (folder / name).unlink(missing_ok=True)
    if damaged:
        others = f", and {len(damaged) - 1} more with it" if len(damaged) > 1 else ""
        raise HubError(f"{damaged[0]} arrives damaged{others}: try again later", passing=True)


def _is_whole(path: Path, file: Any) -> bool:
    """Whether a file has the hash that the Hub has for it."""
    if not path.is_file():
        return False
    with path.open("rb") as content:
        if file.lfs is not None:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.lfs.sha256
        header = f"blob {path.stat().st_size}\0".encode()  # as git has it
        return hashlib.sha1(header + content.read(), usedforsecurity=False).hexdigest() == file.blob_id


def publish(
    repo_id: str,
    repo_type: str,
    files: Mapping[str, Path | bytes],
    card: Callable[[RepoCard | None], RepoCard],
    message: str,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    delete: tuple[str, ...] = (),
    check: Callable[[RepoCard | None, set[str]], None] = lambda card, names: None,
) -> str:
    """Bring files and a card into a repository, made if need be, in one commit.

    The commit names the one it was made for. If somebody else commits first, it is made again, with a card
    that tells of both; so any number of processes can publish into one repository.

    Args:
        repo_id: `org/name`.
        repo_type: "model" or "dataset".
        files: name in the repository -> file, or its content.
        card: called with the card that is there; returns the one to have.
        message: of the commit.
        private: whether a new repository is; an existing public one is refused.
        revision: the branch, made if need be; None is main.
        tag: set to the new head of main, wherever it was before.
        delete: patterns of files to remove where they are there and not in `files`.
        check: called with the card and the names of the files that are there; raises to leave them alone.

    Returns:
        The address of the repository.

    Raises:
        HubError: if it cannot be done. Nothing is half done then, but for the tag, which may still be where
            it was, or nowhere: publish again.
    """
    api = HfApi()
    branch = revision or "main"
    with in_one_line(repo_id):
        size = sum(len(what) if isinstance(what, bytes) else what.stat().st_size for what in files.values())
        prepare(repo_id, repo_type, private, revision)

        def commit() -> None:
            info: Any = api.repo_info(repo_id, repo_type=repo_type, revision=branch, files_metadata=True)
            names = {file.rfilename: file for file in info.siblings or []}
            theirs = None
            if "README.md" in names:
                path = Path(hf_hub_download(repo_id, "README.md", repo_type=repo_type, revision=info.sha))
                _check_contents(path.parent, [names["README.md"]])
                theirs = load_card(path)
            check(theirs, set(names))
            content = {**files, "README.md": str(card(theirs)).encode()}
            operations: list[Any] = [
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=what) for name, what in content.items()
            ]
            operations += [
                CommitOperationDelete(name)
                for name in sorted(names.keys() - content.keys())
                if any(fnmatch(name, pattern) for pattern in delete)
            ]
            try:
                with _not_longer_than(10 * PATIENCE + size / SLOWEST):
                    api.create_commit(
                        repo_id,
                        operations,
                        commit_message=message,
                        repo_type=repo_type,
                        revision=branch,
                        parent_commit=info.sha,
                    )
            except HfHubHTTPError as error:
                if error.response.status_code in (409, 412):
                    raise _ConflictError from error
                raise

        _persist(commit)
        if tag is not None and branch == "main":

            def move_tag() -> None:
                refs = api.list_repo_refs(repo_id, repo_type=repo_type)
                heads = {ref.name: ref.target_commit for ref in (*refs.branches, *refs.tags)}
                if heads.get(tag) == heads["main"]:
                    return
                with contextlib.suppress(RevisionNotFoundError):
                    api.delete_tag(repo_id, tag=tag, repo_type=repo_type)
                api.create_tag(repo_id, tag=tag, repo_type=repo_type, exist_ok=True)

            _persist(move_tag)
    kind = "" if repo_type == "model" else f"{repo_type}s/"
    return f"{constants.ENDPOINT}/{kind}{repo_id}"


def prepare(repo_id: str, repo_type: str, private: bool = False, revision: str | None = None) -> None:
    """Make a repository, and a branch of it, unless they are there.

    Raises:
        HubError: if that is refused, or the Hub cannot be reached.
    """
    if split_reference(repo_id)[1] is not None:
        raise HubError(f"{repo_id!r} is not org/name alone: name the branch with --revision")
    if revision is not None:
        split_reference(f"{repo_id}@{revision}")
    api = HfApi()
    with in_one_line(repo_id):

        def make() -> None:
            with contextlib.suppress(RepositoryNotFoundError):
                # Not create_repo(exist_ok=True), which is content with a repository that one may not write.
                api.auth_check(repo_id, repo_type=repo_type, write=True)
                return
            try:
                # None, not False, leaves the choice to the organisation's default.
                api.create_repo(repo_id, repo_type=repo_type, private=private or None)
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
                # Somebody else made it in between, if it can be seen when it is looked for again.
                hidden = "it exists, but your token may not see it: use another one (`hf auth login`)"
                raise HubError(hidden, passing=True) from error

        _persist(make)
        if private and not _persist(lambda: api.repo_info(repo_id, repo_type=repo_type)).private:
            raise HubError("it exists and is public: make it private first, or leave out --private")
        if revision is not None:
            _persist(lambda: api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True))


@contextlib.contextmanager
def _not_longer_than(seconds: float) -> Iterator[None]:
    """Cancel what hf_xet does here after that time; it would wait for ever for the end of an upload."""
    timer = threading.Timer(seconds, abort_xet_session)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _persist(call: Callable[[], T]) -> T:
    """Call again what failed in passing: a bounded number of times, and for a bounded time."""
    failures = conflicts = 0
    start = time.monotonic()
    while True:
        try:
            return call()
        except _ConflictError as error:
            conflicts += 1
            if conflicts >= CONFLICTS:
                raise HubError(f"others change it ({conflicts} times by now): try again later") from error
            time.sleep(FIRST_WAIT * random.random() * min(conflicts, 8))
        except Exception as error:
            failures += 1
            if failures >= TRIES or time.monotonic() - start > PERSISTENCE or not _is_passing(error):
                raise
            time.sleep(FIRST_WAIT * 2 ** (failures - 1))


def _cause(error: Exception) -> Exception:
    """What is wrong at bottom: huggingface_hub wraps it, and hf_xet only tells of it."""
    wrappers = RuntimeError | LocalEntryNotFoundError
    while isinstance(error, wrappers) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    told = re.search(r"IO Error: .*\(os error (\d+)\)", str(error)) if type(error) is RuntimeError else None
    return OSError(int(told[1]), os.strerror(int(told[1]))) if told else error


def _status(error: Exception) -> int | None:
    """The HTTP status that an error is about, if it is about one."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code
    told = re.search(r"HTTP status \w+ error \((\d+)", str(error)) if _is_of_xet(error) else None
    return int(told[1]) if told else None


def _is_of_xet(error: Exception) -> bool:
    """Whether hf_xet may have raised it: the one kind while it uploads, the other while it downloads."""
    return isinstance(error, ConnectionError) or type(error) is RuntimeError


def _is_passing(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    error = _cause(error)
    if isinstance(error, HubError):
        return error.passing
    status = _status(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    if isinstance(error, OfflineModeIsEnabled):
        return False
    return isinstance(error, HTTPError | NO_JSON) or _is_of_xet(error)


@contextlib.contextmanager
def in_one_line(name: str) -> Iterator[None]:
    """Turn whatever the clients raise into a `HubError` that says what to do."""
    try:
        yield
    except HubError as error:
        if str(error).startswith((name, repr(name))):
            raise
        raise HubError(f"{name}: {error}", error.passing) from error
    except (HTTPError, EntryNotFoundError, OfflineModeIsEnabled, RuntimeError, OSError, ValueError) as error:
        raise HubError(f"{name}: {_explain(error)}", _is_passing(error)) from error


def _explain(error: Exception) -> str:
    """What an error of the clients means for whoever typed the command."""
    error = _cause(error)
    status = _status(error)
    if status is not None:
        return _explain_status(error, status)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE=1 forbids to ask the Hub: unset it and try again"
    if isinstance(error, LocalEntryNotFoundError):
        return "it is not in the cache, and HF_HUB_OFFLINE=1 forbids to fetch it: unset it and try again"
    hub = f"the Hub at {constants.ENDPOINT}"
    if isinstance(error, NO_JSON):
        return f"{hub} does not answer as a Hub does: check HF_ENDPOINT and the network, or try again later"
    if isinstance(error, HTTPError):
        return f"{hub} cannot be reached ({type(error).__name__}): try again later"
    if _is_of_xet(error):
        what = re.split(r",| for url", _first_line(error))[0].rpartition(": ")[2]  # without the address
        return f"the storage of {hub} cannot be reached ({what}): try again later"
    if isinstance(error, OSError) and error.strerror:
        place = error.filename2 or error.filename or constants.HF_HUB_CACHE
        return f"{error.strerror} ({place}): check the space and the permissions there"
    return _first_line(error) or type(error).__name__


def _explain_status(error: Exception, status: int) -> str:
    """What an answer other than success means."""
    if isinstance(error, GatedRepoError):
        return "it is gated: ask for access on its page, then log in with `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision: check its branches and tags"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private: check the name, or log in with `hf auth login`"
    if status == 401:
        return "the Hub does not accept your token: log in with `hf auth login`"
    if status == 403:
        return "your token may not do this: use one that may (`hf auth login`)"
    if isinstance(error, BadRequestError):
        return f"the Hub refuses it: {_first_line(error)}"
    way_out = "check HF_ENDPOINT and the name" if status == 404 else "try again later"
    return f"the Hub at {constants.ENDPOINT} answers {status}: {way_out}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]
