"""The Hub: repositories out and in, each in one piece, and the cards on them.

Nothing here or after it unpickles: only the kinds of files in `MODEL_FILES` and `DATASET_FILES` are fetched.
The clients of huggingface_hub already repeat most requests that fail in passing; where they do not, around
the creation of a repository, the commit and the first look at it, `_persist` does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

import yaml  # type: ignore[import-untyped]  # comes with huggingface_hub
from huggingface_hub import (
    CardData,
    CommitOperationAdd,
    CommitOperationDelete,
    EvalResultEntry,
    HfApi,
    HfFileSystem,
    RepoCard,
    constants,
    eval_result_entries_to_yaml,
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

TAG = "algorithm-distillation"  # on every card, so that our repositories can be found
MODEL_FILES = ("*.json", "*.safetensors", "*.py", "*.png", "README.md", ".eval_results/*.yaml")
DATASET_FILES = ("*.parquet", "*.png", "README.md")

TRIES = 5  # of a request that fails in passing
CONFLICTS = 20  # of a commit while others commit to the same repository
FIRST_WAIT = 0.5  # seconds, then twice as long each time
PATIENCE = 60.0  # seconds that a server may say nothing; the client of huggingface_hub would wait for ever

T = TypeVar("T")


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
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"{name!r} is not the id of a repository, which looks like org/name") from error
    if repo_id.count("/") != 1:
        raise HubError(f"{name!r} is not the id of a repository, which looks like org/name")
    return repo_id, revision or None


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
    if Path(name).is_dir():
        return Path(name)
    if not is_reference(name):
        raise HubError(f"there is no folder {name}, and no repository on the Hub can have this name")
    try:
        return fetch(name, repo_type, patterns)
    except HubError as error:
        raise HubError(f"there is no folder {name}, and on the Hub {error}", error.passing) from error


def be_patient_but_not_for_ever() -> None:
    """Let every request of huggingface_hub that sets no limit give up after `PATIENCE` seconds of silence."""

    def client() -> Any:
        made = default_client_factory()
        made.timeout = PATIENCE
        return made

    set_client_factory(client)
    os.environ.setdefault("HF_XET_CLIENT_READ_TIMEOUT", f"{PATIENCE:.0f}s")


def fetch(name: str, repo_type: str, patterns: tuple[str, ...], output: Path | None = None) -> Path:
    """Bring a repository's files onto this machine, each checked against the hash the Hub has for it.

    Args:
        name: `org/name` or `org/name@revision`.
        repo_type: "model" or "dataset".
        patterns: of the files wanted.
        output: a folder to copy them into, empty or not there yet; None leaves them in the cache of
            huggingface_hub.

    Returns:
        The folder they are in. Without a network that is what the cache holds.

    Raises:
        HubError: if they cannot be had whole.
    """
    repo_id, revision = split_reference(name)
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise HubError(f"{output} is not empty: choose another --output, or remove it")
    with in_one_line(name):
        folder = _persist(lambda: _fetch_once(repo_id, repo_type, revision or "main", patterns))
        if output is None:
            return folder
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
        try:
            shutil.copytree(folder, partial, dirs_exist_ok=True)  # out of the cache's links
            if output.exists():
                output.rmdir()
            partial.chmod(0o755)
            partial.rename(output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return output


def _fetch_once(repo_id: str, repo_type: str, revision: str, patterns: tuple[str, ...]) -> Path:
    download = functools.partial(
        snapshot_download,
        repo_id,
        repo_type=repo_type,
        revision=revision,
        allow_patterns=list(patterns),
    )
    if constants.HF_HUB_OFFLINE:
        return Path(download(local_files_only=True))
    try:
        info: Any = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision, files_metadata=True)
    except Exception as error:
        if _is_passing(error):
            with contextlib.suppress(LocalEntryNotFoundError):
                return Path(download(local_files_only=True))
        raise
    for file in info.siblings or []:
        _check_name(file.rfilename)
    wanted = [f for f in info.siblings or [] if any(fnmatch(f.rfilename, p) for p in patterns)]
    if not wanted:
        raise HubError(f"it is a {repo_type} without {' or '.join(patterns)}")
    folder = Path(download())
    if folder.name != info.sha:
        raise _ConflictError
    for file in wanted:
        _check_content(folder / file.rfilename, file)
    return folder


def list_repositories(author: str) -> list[dict[str, Any]]:
    """The models and datasets of a user or an organisation that were made with ad-hf.

    Raises:
        HubError: if the Hub cannot be reached.
    """
    api = HfApi()
    with in_one_line(author):
        models = _persist(lambda: list(api.list_models(author=author, filter=TAG, full=True)))
        datasets = _persist(lambda: list(api.list_datasets(author=author, filter=TAG, full=True)))
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
        return HfFileSystem().open(place, "rb", block_size=2**20)


def _check_name(name: str) -> None:
    """Refuse names that lead out of the repository's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise HubError(f"a file of it is called {name!r}, which leads out of its folder")


def _check_content(path: Path, file: Any) -> None:
    """Refuse, and forget, a file that is not what its hash says; the clients check only how long it is."""
    with path.open("rb") as content:
        if file.lfs is not None:
            expected, found = file.lfs.sha256, hashlib.file_digest(content, "sha256").hexdigest()
        else:
            expected = file.blob_id  # as git has it
            header = f"blob {path.stat().st_size}\0".encode()
            found = hashlib.sha1(header + content.read(), usedforsecurity=False).hexdigest()
    if found != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise HubError(
            f"{file.rfilename} arrives damaged ({found[:8]} instead of {expected[:8]}): try again later",
            passing=True,
        )


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

    Returns:
        The address of the repository.

    Raises:
        HubError: if it cannot be done; nothing is half done then.
    """
    api = HfApi()
    branch = revision or "main"
    with in_one_line(repo_id):
        prepare(repo_id, repo_type, private, revision)

        def commit() -> None:
            info: Any = api.repo_info(repo_id, repo_type=repo_type, revision=branch)
            if private and not info.private:
                raise HubError("it exists and is public: make it private first, or leave out --private")
            names = {file.rfilename for file in info.siblings or []}
            theirs = None
            if "README.md" in names:
                path = hf_hub_download(repo_id, "README.md", repo_type=repo_type, revision=info.sha)
                theirs = load_card(Path(path))
            content = {**files, "README.md": str(card(theirs)).encode()}
            operations: list[Any] = [
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=what) for name, what in content.items()
            ]
            operations += [
                CommitOperationDelete(name)
                for name in sorted(names - content.keys())
                if any(fnmatch(name, pattern) for pattern in delete)
            ]
            try:
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
        if tag is not None and revision is None:

            def move_tag() -> None:
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
    split_reference(repo_id)
    api = HfApi()
    with in_one_line(repo_id):
        # None, not False, leaves the choice to the organisation's default.
        _persist(
            lambda: api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True)
        )
        if revision is not None:
            _persist(lambda: api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True))


def _persist(call: Callable[[], T]) -> T:
    """Call again what failed in passing, a bounded number of times."""
    failures = conflicts = 0
    while True:
        try:
            return call()
        except Exception as error:
            if isinstance(error, _ConflictError):
                conflicts += 1
                if conflicts >= CONFLICTS:
                    raise HubError(f"others keep committing to it ({conflicts} times): try later") from error
                time.sleep(FIRST_WAIT * random.random() * min(conflicts, 8))
            else:
                failures += 1
                if failures >= TRIES or not _is_passing(error):
                    raise
                time.sleep(FIRST_WAIT * 2 ** (failures - 1))


def _is_passing(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, HubError):
        return error.passing
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    if isinstance(error, LocalEntryNotFoundError):  # raised for a Hub that cannot be reached
        return not isinstance(error.__cause__, OfflineModeIsEnabled) and not constants.HF_HUB_OFFLINE
    # What hf_xet raises is a RuntimeError.
    return isinstance(error, HTTPError | RuntimeError) and not isinstance(error, OfflineModeIsEnabled)


@contextlib.contextmanager
def in_one_line(name: str) -> Iterator[None]:
    """Turn whatever the clients raise into a `HubError` that says what to do."""
    try:
        yield
    except HubError as error:
        if str(error).startswith(name):
            raise
        raise HubError(f"{name}: {error}", error.passing) from error
    except (HTTPError, EntryNotFoundError, OfflineModeIsEnabled, RuntimeError, OSError, ValueError) as error:
        raise HubError(f"{name}: {_explain(error)}", _is_passing(error)) from error


def _explain(error: Exception) -> str:
    """What an error of the clients means for whoever typed the command."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return "it is gated: ask for access on its page, then log in with `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision: check its branches and tags"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private: check the name, or log in with `hf auth login`"
    if status == 401:
        return "the Hub does not accept your token: log in with `hf auth login`"
    if status == 403:
        return "your token may not do this: use one that may write here (`hf auth login`)"
    if isinstance(error, BadRequestError):
        return f"the Hub refuses it: {_first_line(error)}"
    if status is not None:
        return f"the Hub at {constants.ENDPOINT} answers {status}: try again later"
    if isinstance(error, OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return "it is not in the cache, and HF_HUB_OFFLINE=1 forbids to fetch it: unset it and try again"
    if isinstance(error, HTTPError | LocalEntryNotFoundError):
        cause = error.__cause__ or error
        return f"the Hub at {constants.ENDPOINT} cannot be reached ({type(cause).__name__}): try again later"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})"
    return _first_line(error) or type(error).__name__


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]


# Cards


def card_template(name: str) -> Path:
    """The template `name` of the cards/ folder: inside the installed package, or beside it in a checkout.

    Raises:
        FileNotFoundError: if the installation is incomplete.
    """
    package = Path(__file__).parent
    for folder in (package / "cards", package.parent / "cards"):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"the template {name} is missing beside {package}: install ad-hf again")


def make_card(template: str, metadata: CardData, **values: Any) -> RepoCard:
    """Fill a template of cards/.

    The entry `ad_hf` of the metadata is given the hash of the text, by which a later edit is noticed.

    Args:
        template: the file's name.
        metadata: the YAML at the top.
        values: what the template speaks of.
    """
    card = RepoCard.from_template(metadata, template_path=str(card_template(template)), **values)
    metadata["ad_hf"] = {**(metadata.get("ad_hf") or {}), "text": _hash(card.text)}
    card.data = metadata
    return card


def load_card(path: Path) -> RepoCard:
    """A README.md.

    Raises:
        ValueError: if the YAML at the top cannot be read.
    """
    try:
        return RepoCard.load(path, ignore_metadata_errors=False)
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the metadata at the top of {path} cannot be read: {reason}") from error


def save_card(card: RepoCard, path: Path) -> None:
    """Write a README.md: whole, or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(str(card), encoding="utf-8")
    partial.replace(path)


def about(card: RepoCard | None) -> dict[str, Any]:
    """What ad-hf has noted in a card's metadata; empty where it has not."""
    noted = None if card is None else card.data.to_dict().get("ad_hf")
    return noted if isinstance(noted, dict) else {}


def is_edited(card: RepoCard) -> bool:
    """Whether somebody has changed the text of a card since it was made, or made it by hand."""
    return about(card).get("text") != _hash(card.text)


def keep_edits(ours: RepoCard, theirs: RepoCard | None, fixed: tuple[str, ...]) -> RepoCard:
    """Our new card, with what others have changed in the one that is there.

    Args:
        ours: the new card.
        theirs: the card that is there. If its text was edited, it is kept.
        fixed: entries of the metadata that have to be ours; of all others theirs are kept.
    """
    if theirs is None:
        return ours
    metadata = {**ours.data.to_dict(), **theirs.data.to_dict()}
    metadata |= {name: value for name, value in ours.data.to_dict().items() if name in fixed}
    card = RepoCard(str(theirs if is_edited(theirs) else ours))
    card.data = CardData(**metadata)
    return card


def card_to_keep(local: RepoCard | None, remote: RepoCard | None, overwrite: bool) -> RepoCard | None:
    """Which of two cards a new one keeps the edits of: the repository's, unless only the local one has any.

    Args:
        local: the card in the folder to publish.
        remote: the card in the repository.
        overwrite: take the local one in any case.
    """
    if remote is None or overwrite:
        return local
    return local if local is not None and is_edited(local) and not is_edited(remote) else remote


def result_file(entries: list[EvalResultEntry]) -> str:
    """What a file in .eval_results/ has to hold."""
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def _hash(text: str) -> str:
    return hashlib.sha256("\n".join(text.split()).encode()).hexdigest()[:16]
