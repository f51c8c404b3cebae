"""A Hugging Face Hub on loopback, in memory, for tests that drive the real clients over HTTP.

Like the real one it has two origins: `url` is the Hub, where a token says who is asking; `content_url` keeps
what is large and must never see that token. Large files travel as Xet if the client can, else as LFS objects.

    hub = LocalHub()
    os.environ["HF_ENDPOINT"] = hub.url  # before huggingface_hub is imported
    hub.start()

`LocalHub.routes` names all that it answers, and `LocalHub.fail` breaks a route by its name. To try the
commands without an account, run this file: it serves until Ctrl-C, to a user who may write to `org`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode

import yaml  # comes with huggingface_hub
from hub_http import Answer, LocalServer, Refused, Request, Route, answer_bytes, answer_json
from hub_repos import ATTRIBUTES, EMPTY, Commit, File, Repo, front_matter
from xet_server import ContentStore

XET_HEADERS = ("X-Xet-Cas-Url", "X-Xet-Access-Token", "X-Xet-Token-Expiration")
MAX_PREUPLOAD = 256  # files in one call
# What a listing says of each repository, and what it adds when asked for everything.
COMMON = {"id", "private", "downloads", "likes", "tags", "createdAt"}
LISTED = {
    "model": COMMON | {"pipeline_tag", "library_name"},
    "dataset": COMMON | {"author", "sha", "lastModified", "gated", "disabled"},
    "space": COMMON | {"author", "sha", "lastModified", "sdk"},
}
ALSO_LISTED = {"author", "sha", "lastModified", "gated", "siblings", "cardData"}


@dataclass(frozen=True)
class Account:
    """Who holds a token, and what it is good for."""

    name: str
    orgs: Mapping[str, str]  # name -> "read" or "write"
    role: str  # of the token: "read" or "write"

    def may(self, right: str, namespace: str) -> bool:
        granted = "write" if namespace == self.name else self.orgs.get(namespace)
        return granted == "write" == self.role if right == "write" else granted is not None


def pick(about: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: about[key] for key in about.keys() & keys}


def is_inside(path: str, folder: str) -> bool:
    return path.startswith(f"{folder.rstrip('/')}/")


class LocalHub(LocalServer):
    """The Hub.

    Attributes:
        url: of the Hub, which is the HF_ENDPOINT of clients.
        content_url: of large files.
        requests: everything that was asked, in order.
        leaks: requests that brought a token of the Hub to the content origin.
        page_size: entries in one page of a listing.
        private_by_default: organisations whose new repositories are private unless asked otherwise.
    """

    def __init__(self) -> None:
        super().__init__(num_origins=2)
        self.url, self.content_url = f"http://127.0.0.1:{self.ports[0]}", f"http://localhost:{self.ports[1]}"
        self._ids = itertools.count()  # goes on after a reset: clients remember files by commit
        self._store = ContentStore(self.content_url)
        self.route(self.routes(), self._store.routes())
        self.reset()

    def reset(self) -> None:
        """Forget repositories, accounts, faults and requests."""
        with self.lock:
            super().reset()
            self._store.reset()
            self._repos: dict[tuple[str, str], Repo] = {}
            self._accounts: dict[str, Account] = {}
            self.leaks: list[str] = []
            self.page_size = 1000
            self.private_by_default: set[str] = set()
            self.add_user("ada", "hf_ada_write", orgs={"org": "write"})
            self.add_user("ada", "hf_ada_read", orgs={"org": "write"}, role="read")
            self.add_user("bob", "hf_bob_write")

    def check(self, request: Request, origin: int) -> None:
        """Tokens have to be known to the Hub, and unknown to the content origin."""
        if origin == 0 and request.token and request.token not in self._accounts:
            raise Refused(401, "Invalid credentials in Authorization header")
        if origin == 1 and request.token in self._accounts:
            self.leaks.append(f"{request.method} {request.path}")
            raise Refused(400, "a token of the Hub arrived where content is kept")

    def routes(self) -> list[Route]:
        """What the Hub answers."""
        repo = r"/api/(?P<type>model|dataset|space)s/(?P<id>[^/]+(?:/[^/]+)?)"
        page = r"/(?:(?P<type>dataset|space)s/)?(?P<id>[^/]+(?:/[^/]+)?)"
        revision = r"/(?P<revision>[^/]+)"
        return [
            Route("whoami", "GET", r"/api/whoami-v2", self._whoami),
            Route("create", "POST", r"/api/repos/create", self._create),
            Route("delete", "DELETE", r"/api/repos/delete", self._delete),
            Route("move", "POST", r"/api/repos/move", self._move),
            Route("settings", "PUT", rf"{repo}/settings", self._settings),
            Route("validate-yaml", "POST", r"/api/validate-yaml", self._validate_yaml),
            Route("list", "GET", r"/api/(?P<type>model|dataset|space)s", self._list),
            Route("refs", "GET", rf"{repo}/refs", self._refs),
            Route("commits", "GET", rf"{repo}/commits{revision}", self._commits),
            Route("tree", "GET", rf"{repo}/tree{revision}(?:/(?P<path>.*))?", self._tree),
            Route("paths-info", "POST", rf"{repo}/paths-info{revision}", self._paths_info),
            Route("info", "GET", rf"{repo}(?:/revision{revision})?", self._info),
            Route("auth-check", "GET", rf"{repo}/auth-check(?P<write>/write)?", self._auth_check),
            Route("resolve", "GET", rf"{page}/resolve{revision}/(?P<path>.*)", self._resolve),
            Route("preupload", "POST", rf"{repo}/preupload{revision}", self._preupload),
            Route("lfs-batch", "POST", rf"{page}\.git/info/lfs/objects/batch", self._lfs_batch),
            Route("lfs-verify", "POST", rf"{page}\.git/info/lfs/verify", self._lfs_verify),
            Route("xet-token", "GET", rf"{repo}/xet-(?P<right>read|write)-token{revision}", self._xet_token),
            Route("commit", "POST", rf"{repo}/commit{revision}", self._commit),
            Route("branch", "POST", rf"{repo}/branch/(?P<name>[^/]+)", self._create_branch),
            Route("branch", "DELETE", rf"{repo}/branch/(?P<name>[^/]+)", self._delete_branch),
            Route("tag", "POST", rf"{repo}/tag{revision}", self._create_tag),
            Route("tag", "DELETE", rf"{repo}/tag/(?P<name>[^/]+)", self._delete_tag),
        ]

    # What tests put in

    def add_user(
        self, name: str, token: str, orgs: Mapping[str, str] | None = None, role: str = "write"
    ) -> None:
        """Make a token known; `orgs` says what its user may do there, `role` what the token is good for."""
        self._accounts[token] = Account(name, dict(orgs or {}), role)

    def add_repo(self, type: str, id: str, files: Mapping[str, bytes | str], **settings: Any) -> str:
        """Plant a repository, also one that a real Hub would refuse; the id of its only commit.

        `settings` are those of `Repo`: private, gated, downloads.
        """
        with self.lock:
            self._repos[type, id] = Repo(type, id, **settings)
            return self.add_commit(type, id, files)

    def add_commit(
        self, type: str, id: str, changes: Mapping[str, bytes | str | None], revision: str = "main"
    ) -> str:
        """Commit as somebody else would; None deletes a file. The commit's id."""
        with self.lock:
            repo = self._repos[type, id]
            head = repo.branches.get(revision, EMPTY)
            files = dict(head.files)
            for path, data in changes.items():
                if data is None:
                    del files[path]
                    continue
                data = data.encode() if isinstance(data, str) else data
                large = head.is_large(path, len(data), data[:512])
                files[path] = File(data, self._store.add(data) if large else "")
            return self._add_commit(repo, revision, files, repo.namespace, "planted").id

    # What tests look at

    def repo(self, type: str, id: str) -> Repo:
        """The repository itself; KeyError if there is none."""
        return self._repos[type, id]

    def commits(self, type: str, id: str, revision: str = "main") -> list[Commit]:
        """Newest first; empty if there is no such revision."""
        with self.lock:
            head = self._repos[type, id].find(revision)
            return list(head.history()) if head else []

    def files(self, type: str, id: str, revision: str = "main") -> dict[str, bytes]:
        """Contents by path."""
        head = self.commits(type, id, revision)[0]
        return {path: file.data for path, file in head.files.items()}

    def refs(self, type: str, id: str) -> dict[str, dict[str, str]]:
        """Commit ids of "branches" and "tags" by name."""
        with self.lock:
            repo = self._repos[type, id]
            kinds = {"branches": repo.branches, "tags": repo.tags}
            return {kind: {name: head.id for name, head in heads.items()} for kind, heads in kinds.items()}

    # Inside

    def _add_commit(
        self, repo: Repo, branch: str, files: Mapping[str, File], author: str, title: str, message: str = ""
    ) -> Commit:
        """Put a commit on top of a branch; this is the only place where repositories change."""
        date = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        name = hashlib.sha1(f"{self.url} {next(self._ids)}".encode()).hexdigest()
        commit = Commit(name, repo.branches.get(branch), title, message, author, date, dict(files))
        repo.branches[branch] = repo.all_commits[name] = commit
        return commit

    def _account(self, request: Request) -> Account:
        account = self._accounts.get(request.token)
        if account is None:
            raise Refused(401, "Invalid username or password.")
        return account

    def _writer(self, request: Request, namespace: str) -> Account:
        """The account, which may write there."""
        account = self._account(request)
        if not account.may("write", namespace):
            raise Refused(403, f"you don't have the rights to write to {namespace} with this token")
        return account

    def _is_member(self, request: Request, repo: Repo) -> bool:
        account = self._accounts.get(request.token)
        return account is not None and account.may("read", repo.namespace)

    def _repo(self, request: Request, right: str = "list") -> Repo:
        """The repository of a request; who may not see it is told that it does not exist.

        The right is to "list" what there is, to "read" files, which may be gated, or to "write".
        """
        return self._named_repo(request, request.args["type"] or "model", request.args["id"], right)

    def _named_repo(self, request: Request, type: str, id: str, right: str) -> Repo:
        repo = self._repos.get((type, id))
        stranger = 404 if request.token else 401
        if repo is None or (repo.private and not self._is_member(request, repo)):
            raise Refused(stranger, "Repository not found", "RepoNotFound")
        if right == "write":
            self._writer(request, repo.namespace)
        elif right == "read" and repo.gated and not self._is_member(request, repo):
            raise Refused(403 if request.token else 401, f"Access to {id} is restricted", "GatedRepo")
        return repo

    def _head(self, request: Request, repo: Repo) -> Commit:
        return self._find(repo, request.args["revision"] or "main")

    def _find(self, repo: Repo, revision: str) -> Commit:
        commit = repo.find(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _page(self, request: Request, items: list[Any]) -> Answer:
        """One page of a listing, with a link to the next."""
        start = int(request.query.get("cursor", ["0"])[0])
        end = start + self.page_size
        if end >= len(items):
            return answer_json(items[start:])
        query = urlencode({**request.query, "cursor": [str(end)]}, doseq=True)
        return answer_json(items[start:end], Link=f'<{self.url}{request.path}?{query}>; rel="next"')

    # The account and its repositories

    def _whoami(self, request: Request) -> Answer:
        account = self._account(request)
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in account.orgs.items()]
        token = {"displayName": "test", "role": account.role}
        auth = {"type": "access_token", "accessToken": token}
        return answer_json({"type": "user", "name": account.name, "orgs": orgs, "auth": auth})

    def _create(self, request: Request) -> Answer:
        wanted = request.json()
        namespace = wanted.get("organization") or self._account(request).name
        account = self._writer(request, namespace)
        kind, name = wanted.get("type", "model"), f"{namespace}/{wanted['name']}"
        if not re.fullmatch(r"[\w-][\w.-]{0,95}", wanted["name"]):
            raise Refused(400, f"Invalid repository name: {name}")
        visibility = wanted.get("visibility", "private" if namespace in self.private_by_default else "public")
        repo = Repo(kind, name, private=visibility == "private")
        about = {"url": f"{self.url}{repo.path}", "name": name}
        if (kind, name) in self._repos:
            return answer_json({"error": f"You already created this {kind} repo", **about}, 409)
        files = {".gitattributes": File(ATTRIBUTES)}
        if kind == "space":
            files["README.md"] = File(f"---\nsdk: {wanted['sdk']}\n---\n".encode())
        self._repos[kind, name] = repo
        self._add_commit(repo, "main", files, account.name, "initial commit")
        return answer_json(about)

    def _delete(self, request: Request) -> Answer:
        wanted = request.json()
        namespace = wanted.get("organization") or self._account(request).name
        kind, name = wanted.get("type", "model"), f"{namespace}/{wanted['name']}"
        self._named_repo(request, kind, name, "write")
        del self._repos[kind, name]
        return Answer()

    def _move(self, request: Request) -> Answer:
        wanted = request.json()
        repo = self._named_repo(request, wanted["type"], wanted["fromRepo"], "write")
        target = wanted["toRepo"]
        self._writer(request, target.partition("/")[0])
        if (repo.type, target) in self._repos:
            raise Refused(409, f"{target} exists already")
        self._repos[repo.type, target] = self._repos.pop((repo.type, repo.id))
        repo.id = target
        return Answer()

    def _settings(self, request: Request) -> Answer:
        repo, wanted = self._repo(request, "write"), request.json()
        repo.private = wanted.get("visibility", "private" if repo.private else "public") == "private"
        repo.gated = wanted.get("gated", repo.gated)
        return answer_json({"private": repo.private, "gated": repo.gated})

    def _validate_yaml(self, request: Request) -> Answer:
        try:
            values = front_matter(request.json()["content"])
        except yaml.YAMLError as error:
            return answer_json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        empty = {"message": "empty or missing yaml metadata in repo card"}
        return answer_json({"errors": [], "warnings": [] if values else [empty]})

    # Looking at repositories

    def _list(self, request: Request) -> Answer:
        query = request.query
        words = [word.lower() for word in query.get("search", [])]
        found = [
            repo.describe(repo.branches["main"])
            for (kind, id), repo in self._repos.items()
            if kind == request.args["type"]
            and query.get("author", [repo.namespace]) == [repo.namespace]
            and all(word in id.lower() for word in words)
            and (not repo.private or self._is_member(request, repo))
        ]
        found = [about for about in found if {*query.get("filter", [])} <= {*about["tags"]}]
        order = query.get("sort", ["createdAt"])[0]
        found.sort(key=lambda about: about.get(order, 0), reverse=True)
        keys = {"id", *query["expand"]} if "expand" in query else {*LISTED[request.args["type"]]}
        keys |= ALSO_LISTED if request.flag("full") else {"cardData"} if request.flag("cardData") else set()
        limit = int(query.get("limit", [len(found)])[0])
        return self._page(request, [pick(about, keys) for about in found[:limit]])

    def _info(self, request: Request) -> Answer:
        repo = self._repo(request)
        about = repo.describe(self._head(request, repo), details=request.flag("blobs"))
        return answer_json(pick(about, {"id", *request.query.get("expand", about)}))

    def _auth_check(self, request: Request) -> Answer:
        self._repo(request, "write" if request.args["write"] else "read")
        return Answer()

    def _refs(self, request: Request) -> Answer:
        return answer_json(self._repo(request).refs())

    def _commits(self, request: Request) -> Answer:
        head = self._head(request, self._repo(request))
        return self._page(request, [commit.line() for commit in head.history()])

    def _tree(self, request: Request) -> Answer:
        entries = self._head(request, self._repo(request)).entries(request.flag("expand"))
        folder = request.args["path"]
        if folder and entries.get(folder, {}).get("type") != "directory":
            raise Refused(404, f"{folder} does not exist on this revision", "EntryNotFound")
        inside = {path: entry for path, entry in entries.items() if not folder or is_inside(path, folder)}
        if not request.flag("recursive"):
            inside = {path: inside[path] for path in inside if path.rpartition("/")[0] == folder}
        return self._page(request, list(inside.values()))

    def _paths_info(self, request: Request) -> Answer:
        form = parse_qs(request.body.decode())
        expand = form.get("expand", [""])[0].lower() == "true"
        entries = self._head(request, self._repo(request)).entries(expand)
        return answer_json([entries[path] for path in form.get("paths", []) if path in entries])

    # Reading files

    def _resolve(self, request: Request) -> Answer:
        repo = self._repo(request, "read")
        head = self._head(request, repo)
        known = {"X-Repo-Commit": head.id}
        path = request.args["path"]
        file = head.files.get(path)
        if file is None:
            raise Refused(404, f"{path} does not exist", "EntryNotFound", **known)
        known["ETag"] = f'"{file.etag}"'
        if not file.xet:
            return answer_bytes(file.data, request, **known)
        auth = f"{self.url}/api/{repo.type}s/{repo.id}/xet-read-token/{head.id}"
        about = {
            "Location": f"{self.content_url}/objects/{file.sha256}",
            "X-Linked-Etag": f'"{file.sha256}"',
            "X-Linked-Size": str(len(file.data)),
            "X-Xet-Hash": file.xet,
            "Link": f'<{auth}>; rel="xet-auth"',
        }
        return Answer(302, headers=known | about)

    # Writing files

    def _preupload(self, request: Request) -> Answer:
        repo = self._repo(request, "write")
        head = self._head(request, repo)
        files = request.json()["files"]
        if len(files) > MAX_PREUPLOAD:
            raise Refused(400, f"{len(files)} files in one call, but at most {MAX_PREUPLOAD} are allowed")
        modes = []
        for file in files:
            large = head.is_large(file["path"], file["size"], base64.b64decode(file["sample"]))
            about = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            old = head.files.get(file["path"])
            modes.append(about | ({"oid": old.etag} if old else {}))
        return answer_json({"files": modes})

    def _lfs_batch(self, request: Request) -> Answer:
        repo = self._repo(request, "write")
        objects = []
        for wanted in request.json()["objects"]:
            about = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self._store.names:
                upload = {"href": f"{self.content_url}/objects/{wanted['oid']}"}
                verify = {"href": f"{self.url}{repo.path}.git/info/lfs/verify"}
                about["actions"] = {"upload": upload, "verify": verify}
            objects.append(about)
        return answer_json({"transfer": "basic", "objects": objects})

    def _lfs_verify(self, request: Request) -> Answer:
        self._repo(request, "write")
        self._uploaded(request.json())
        return Answer()

    def _uploaded(self, pointer: Mapping[str, Any]) -> File:
        """The file behind an LFS pointer."""
        sha256 = pointer["oid"]
        if sha256 in self._store.names:
            data = self._store.read(sha256)
            if pointer.get("size", len(data)) == len(data):
                return File(data, self._store.names[sha256])
        raise Refused(404, f"LFS pointer pointed to a file that does not exist: {sha256}")

    def _commit(self, request: Request) -> Answer:
        repo = self._repo(request, "write")
        head = self._head(request, repo)
        branch = request.args["revision"]
        if branch not in repo.branches:
            raise Refused(400, f"{branch} is not a branch")
        header, *operations = map(json.loads, request.body.splitlines())
        if header["value"].get("parentCommit", head.id) != head.id:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for operation in operations:
            self._change(files, operation["key"], operation["value"])
        summary, description = header["value"]["summary"], header["value"].get("description", "")
        commit = self._add_commit(repo, branch, files, self._account(request).name, summary, description)
        url = f"{self.url}{repo.path}/commit/{commit.id}"
        return answer_json({"success": True, "commitOid": commit.id, "commitUrl": url, "hookOutput": ""})

    def _change(self, files: dict[str, File], key: str, value: Mapping[str, Any]) -> None:
        """Apply one operation of a commit."""
        path = value["path"]
        if key == "file":
            files[path] = File(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            files[path] = self._uploaded(value)
        elif key == "deletedFile" and path in files:
            del files[path]
        elif key == "deletedFolder" and (inside := [old for old in files if is_inside(old, path)]):
            for old in inside:
                del files[old]
        else:
            raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")

    def _create_branch(self, request: Request) -> Answer:
        repo = self._repo(request, "write")
        head = self._find(repo, request.json().get("startingPoint", "main"))
        return self._add_ref(repo.branches, request.args["name"], head)

    def _create_tag(self, request: Request) -> Answer:
        repo = self._repo(request, "write")
        return self._add_ref(repo.tags, request.json()["tag"], self._head(request, repo))

    def _add_ref(self, refs: dict[str, Commit], name: str | None, head: Commit) -> Answer:
        if name in refs or not name:
            raise Refused(409, f"Reference {name} already exists")
        refs[name] = head
        return Answer()

    def _delete_branch(self, request: Request) -> Answer:
        if request.args["name"] == "main":
            raise Refused(403, "the default branch cannot be deleted")
        return self._delete_ref(self._repo(request, "write").branches, request.args["name"])

    def _delete_tag(self, request: Request) -> Answer:
        return self._delete_ref(self._repo(request, "write").tags, request.args["name"])

    def _delete_ref(self, refs: dict[str, Commit], name: str | None) -> Answer:
        if name not in refs:
            raise Refused(404, f"Reference {name} does not exist", "RevisionNotFound")
        del refs[name]
        return Answer()

    def _xet_token(self, request: Request) -> Answer:
        right = request.args["right"]
        self._repo(request, right)
        about = self._store.connection(right)
        headers = dict(zip(XET_HEADERS, map(str, about.values()), strict=True))
        return answer_json(about, **headers)


def main() -> None:
    """Serve, and say how clients find this Hub."""
    hub = LocalHub()
    hub.start()
    sys.stdout.write(f"export HF_ENDPOINT={hub.url} HF_TOKEN=hf_ada_write\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    hub.close()


if __name__ == "__main__":
    main()
