"""Repositories of a local Hub: files, commits, references, and how the Hub describes them in JSON."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from typing import Any

import yaml  # comes with huggingface_hub

LARGE_SIZE = 10 * 2**20  # bytes from which any file is large
LARGE_NAMES = ("*.safetensors", "*.parquet", "*.arrow", "*.bin", "*.npz", "*.png", "*.jpg", "*.gif", "*.mp4")
ATTRIBUTES = "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in LARGE_NAMES).encode()
POINTER_SIZE = 134  # bytes that git keeps in place of a large file


@dataclass(frozen=True)
class File:
    """A file of a commit."""

    data: bytes
    xet: str = ""  # its hash there; only large files have one

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.xet else self.git_oid

    def entry(self, path: str) -> dict[str, Any]:
        """Its line in a listing."""
        size = len(self.data)
        entry = {"type": "file", "path": path, "size": size, "oid": self.git_oid}
        if self.xet:
            lfs = {"oid": self.sha256, "size": size, "pointerSize": POINTER_SIZE}
            entry |= {"lfs": lfs, "xetHash": self.xet}
        return entry

    def sibling(self, path: str, details: bool) -> dict[str, Any]:
        """Its line in the description of a repository."""
        size = len(self.data)
        about: dict[str, Any] = {"rfilename": path}
        if details:
            about |= {"size": size, "blobId": self.git_oid}
        if details and self.xet:
            about["lfs"] = {"sha256": self.sha256, "size": size, "pointerSize": POINTER_SIZE}
        return about


@dataclass(frozen=True)
class Commit:
    """A snapshot of all files."""

    id: str
    parent: Commit | None
    title: str
    message: str
    author: str
    date: str
    files: Mapping[str, File]

    def history(self) -> Iterator[Commit]:
        """This commit and all before it, newest first."""
        commit: Commit | None = self
        while commit:
            yield commit
            commit = commit.parent

    def line(self) -> dict[str, Any]:
        """Its line in a history."""
        about = {"id": self.id, "title": self.title, "message": self.message, "date": self.date}
        return {**about, "authors": [{"user": self.author}]}

    def card(self) -> dict[str, Any]:
        """Metadata of its README.md, empty if there is none that can be read."""
        try:
            return front_matter(self.files["README.md"].data.decode())
        except (KeyError, UnicodeDecodeError, yaml.YAMLError):
            return {}

    def entries(self, expand: bool = False) -> dict[str, dict[str, Any]]:
        """Lines of files and folders by path."""
        entries: dict[str, dict[str, Any]] = {}
        last = {"lastCommit": {"id": self.id, "title": self.title, "date": self.date}} if expand else {}
        for path, file in sorted(self.files.items()):
            for folder in (path[: slash.start()] for slash in re.finditer("/", path)):
                oid = hashlib.sha1(f"{self.id} {folder}".encode()).hexdigest()
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": oid, **last}
            entries[path] = {**file.entry(path), **last}
        return entries

    def is_large(self, path: str, size: int, sample: bytes) -> bool:
        """Whether a new file is large: by .gitattributes, by its size, or because it is binary."""
        rules = self.files.get(".gitattributes", File(ATTRIBUTES)).data.decode().splitlines()
        names = [rule.split()[0] for rule in rules if "filter=lfs" in rule]
        by_name = any(fnmatch(path.rpartition("/")[2], name) for name in names)
        return size > 0 and (by_name or size > LARGE_SIZE or b"\0" in sample)


EMPTY = Commit("", None, "", "", "", "", {})


@dataclass
class Repo:
    """A model, dataset or Space."""

    type: str
    id: str
    private: bool = False
    gated: str | bool = False  # "auto" or "manual"
    downloads: int = 0
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    all_commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.partition("/")[0]

    @property
    def path(self) -> str:
        """Where its page is."""
        return f"/{self.id}" if self.type == "model" else f"/{self.type}s/{self.id}"

    def find(self, revision: str) -> Commit | None:
        """The commit behind a branch, a tag or an id."""
        return self.branches.get(revision) or self.tags.get(revision) or self.all_commits.get(revision)

    def refs(self) -> dict[str, list[dict[str, str]]]:
        """Branches and tags as the Hub lists them."""
        listed = {
            kind: [
                {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": commit.id}
                for name, commit in refs.items()
            ]
            for kind, folder, refs in (("branches", "heads", self.branches), ("tags", "tags", self.tags))
        }
        return {**listed, "converts": [], "pullRequests": []}

    def describe(self, commit: Commit, details: bool = False) -> dict[str, Any]:
        """Everything about it at a commit; `details` are those of files."""
        card = commit.card()
        about = {
            "id": self.id,
            "author": self.namespace,
            "sha": commit.id,
            "createdAt": next(iter(self.all_commits.values())).date,
            "lastModified": commit.date,
            "private": self.private,
            "gated": self.gated,
            "disabled": False,
            "downloads": self.downloads,
            "likes": 0,
            "tags": card_tags(card),
            "siblings": [file.sibling(path, details) for path, file in sorted(commit.files.items())],
            "usedStorage": sum(len(file.data) for file in commit.files.values()),
            "cardData": card or None,
        }
        known = {"model": ("pipeline_tag", "library_name"), "dataset": (), "space": ("sdk",)}[self.type]
        return about | {key: card[key] for key in known if key in card}


def front_matter(readme: str) -> dict[str, Any]:
    """The metadata at the top of a README.md.

    Raises:
        yaml.YAMLError: if it cannot be read.
    """
    match = re.match(r"---[ \t]*\r?\n(.*?)\n---\s", readme + "\n", re.DOTALL)
    values = (yaml.safe_load(match[1]) if match else None) or {}
    if not isinstance(values, dict):
        raise yaml.YAMLError("the metadata is not a mapping")
    return values


def card_tags(card: Mapping[str, Any]) -> list[str]:
    """Tags that repositories are found by."""
    prefixes = {
        "tags": "",
        "library_name": "",
        "pipeline_tag": "",
        "license": "license:",
        "datasets": "dataset:",
    }
    prefixes |= {name: f"{name}:" for name in ("task_categories", "task_ids", "size_categories", "language")}
    tags = []
    for name, prefix in prefixes.items():
        values = card.get(name) or []
        tags += [f"{prefix}{value}" for value in (values if isinstance(values, list) else [values])]
    return tags
