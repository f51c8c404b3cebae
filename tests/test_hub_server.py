"""The local Hub: the real clients find in it what they find in the real one, and its faults reach them."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import httpx2  # comes with huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hub_server import LocalHub
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

NOISE = random.Random(0).randbytes(300_000)  # Xet stores it as it is
TEXT = b"".join(b"line %d of many\n" % number for number in range(20_000))  # Xet compresses it
NUMBERS = b"".join(number.to_bytes(4, "little") for number in range(0, 10**7, 99))  # Xet groups its bytes
FILES = {"noise.bin": NOISE, "text.bin": TEXT, "sub/numbers.bin": NUMBERS, "note.md": b"# Small\n"}
CARD = """---
license: mit
library_name: transformers
pipeline_tag: reinforcement-learning
tags: [algorithm-distillation]
datasets: [org/histories]
---
# A card
"""


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def add(path: str, data: bytes = b"data\n") -> CommitOperationAdd:
    return CommitOperationAdd(path, data)


def parquet(**columns: list[int]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


# Files

STORAGES = {"xet": ("0", {"xorb", "shard", "reconstruction"}), "lfs": ("1", {"lfs-batch", "lfs-put"})}


@pytest.mark.parametrize("storage", STORAGES)
def test_a_folder_goes_up_in_one_commit_and_comes_down_whole(
    storage: str, hub: LocalHub, run_python: Callable[..., str], tmp_path: Path
) -> None:
    disabled, routes = STORAGES[storage]
    code = """
import sys
from huggingface_hub import HfApi, snapshot_download
HfApi().create_repo("org/model")
HfApi().upload_folder(repo_id="org/model", folder_path=sys.argv[1], commit_message="all of it")
snapshot_download("org/model", local_dir=sys.argv[2])
"""
    source, copy = write(tmp_path / "source", FILES), tmp_path / "copy"
    run_python(code, source, copy, env={"HF_HUB_DISABLE_XET": disabled})
    assert {path: data for path, data in hub.files("model", "org/model").items() if path in FILES} == FILES
    assert [commit.title for commit in hub.commits("model", "org/model")] == ["all of it", "initial commit"]
    assert {path: (copy / path).read_bytes() for path in FILES} == FILES
    assert {"content", *routes} <= {seen.route for seen in hub.requests}
    for other in STORAGES.keys() - {storage}:
        assert not STORAGES[other][1] & {seen.route for seen in hub.requests}


def test_planted_files_come_down_whole(hub: LocalHub, tmp_path: Path) -> None:
    hub.add_repo("dataset", "someone/else", FILES)
    folder = Path(snapshot_download("someone/else", repo_type="dataset"))
    assert {path: (folder / path).read_bytes() for path in FILES} == FILES


def test_a_file_of_old_and_new_parts_comes_back_whole(hub: LocalHub) -> None:
    api = HfApi()
    api.create_repo("org/model")
    api.create_commit("org/model", [add("a.bin", NOISE), add("b.bin", TEXT)], commit_message="old")
    mixed = NOISE[:150_000] + NUMBERS[:10_000] + NOISE[150_000:] + TEXT
    api.create_commit("org/model", [add("c.bin", mixed)], commit_message="new")
    assert hub.files("model", "org/model")["c.bin"] == mixed
    assert Path(hf_hub_download("org/model", "c.bin")).read_bytes() == mixed


def test_a_file_can_come_down_in_many_parts(hub: LocalHub, run_python: Callable[..., str]) -> None:
    hub.add_repo("model", "org/model", {"a.bin": NOISE})
    code = "from huggingface_hub import hf_hub_download; print(hf_hub_download('org/model', 'a.bin'))"
    part = "HF_XET_RECONSTRUCTION_{}_RECONSTRUCTION_FETCH_SIZE"
    path = run_python(code, env={part.format(end): "100kb" for end in ("MIN", "MAX")}).strip()
    assert Path(path).read_bytes() == NOISE
    assert hub.tries("reconstruction") >= 3


def test_files_can_be_read_in_part(hub: LocalHub) -> None:
    hub.add_repo("model", "org/model", FILES)
    files = HfFileSystem()
    with files.open("org/model/text.bin", block_size=1000) as file:
        file.seek(123_456)
        assert file.read(100) == TEXT[123_456:123_556]
    assert files.cat_file("org/model/noise.bin", start=200_000) == NOISE[200_000:]
    assert files.cat_file("org/model/note.md", start=2, end=5) == b"Sma"
    assert [seen.outcome for seen in hub.requests if seen.route == "content"] == [206, 206]


def test_what_is_there_already_is_not_committed_again(hub: LocalHub, tmp_path: Path) -> None:
    api = HfApi()
    api.create_repo("org/model")
    first, again = (api.upload_folder(repo_id="org/model", folder_path=write(tmp_path, FILES)) for _ in "12")
    assert first.oid == again.oid == hub.refs("model", "org/model")["branches"]["main"]
    assert (hub.tries("commit"), hub.tries("xorb")) == (1, 1)


# Commits and references


def test_who_commits_on_top_of_something_older_is_refused(hub: LocalHub) -> None:
    old = hub.add_repo("model", "org/model", {"a.txt": "1"})
    new = hub.add_commit("model", "org/model", {"a.txt": "2"})
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as refused:
        HfApi().create_commit("org/model", [add("a.txt")], commit_message="late", parent_commit=old)
    assert refused.value.response.status_code == 412
    HfApi().create_commit("org/model", [add("b.txt")], commit_message="in time", parent_commit=new)
    assert hub.files("model", "org/model") == {"a.txt": b"2", "b.txt": b"data\n"}


def test_a_commit_happens_as_a_whole_or_not_at_all(hub: LocalHub) -> None:
    hub.add_repo("model", "org/model", {"a.txt": "1", "old.md": "3", "old/b.txt": "2", "old/c.bin": NOISE})
    api, gone = HfApi(), CommitOperationDelete("old", is_folder=True)
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist: nothing"):
        api.create_commit(
            "org/model", [gone, add("new.txt"), CommitOperationDelete("nothing")], commit_message="half"
        )
    assert set(hub.files("model", "org/model")) == {"a.txt", "old.md", "old/b.txt", "old/c.bin"}
    copy = CommitOperationCopy("old/c.bin", "c.bin")
    api.create_commit("org/model", [copy, gone, add("new.txt")], commit_message="whole")
    files = {"a.txt": b"1", "old.md": b"3", "c.bin": NOISE, "new.txt": b"data\n"}
    assert hub.files("model", "org/model") == files


def test_a_commit_cannot_name_objects_that_were_never_uploaded(hub: LocalHub) -> None:
    hub.add_repo("model", "org/model", {"a.txt": "1"})
    operation = add("a.bin", NOISE[:1000])
    operation._is_uploaded, operation._upload_mode = True, "lfs"  # as a client that does not tell the truth
    with pytest.raises(HfHubHTTPError, match="a file that does not exist"):
        HfApi().create_commit("org/model", [operation], commit_message="empty promise")


def test_tags_and_branches_keep_what_they_were_put_on(hub: LocalHub) -> None:
    first = hub.add_repo("model", "org/model", {"a.txt": "1"})
    api = HfApi()
    api.create_tag("org/model", tag="v1.0")
    api.create_branch("org/model", branch="side", revision="v1.0")
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_tag("org/model", tag="v1.0")
    assert refused.value.response.status_code == 409
    api.create_tag("org/model", tag="v1.0", exist_ok=True)
    api.create_branch("org/model", branch="side", exist_ok=True)
    second = hub.add_commit("model", "org/model", {"a.txt": "2"})
    for revision, text in {"v1.0": "1", "side": "1", first: "1", "main": "2", second: "2"}.items():
        assert Path(hf_hub_download("org/model", "a.txt", revision=revision)).read_text() == text
    refs = api.list_repo_refs("org/model")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second, "side": first}
    assert [(ref.name, ref.ref, ref.target_commit) for ref in refs.tags] == [
        ("v1.0", "refs/tags/v1.0", first)
    ]
    assert [commit.commit_id for commit in api.list_repo_commits("org/model")] == [second, first]
    api.delete_tag("org/model", tag="v1.0")
    api.delete_branch("org/model", branch="side")
    assert hub.refs("model", "org/model") == {"branches": {"main": second}, "tags": {}}
    with pytest.raises(RevisionNotFoundError):
        api.model_info("org/model", revision="v1.0")


# Repositories and who may see them


def test_a_repository_is_created_once_described_changed_moved_and_deleted(hub: LocalHub) -> None:
    api = HfApi()
    assert api.create_repo("org/model", private=True) == f"{hub.url}/org/model"
    with pytest.raises(HfHubHTTPError, match="You already created this model repo"):
        api.create_repo("org/model")
    assert api.create_repo("org/model", exist_ok=True).repo_id == "org/model"
    assert api.model_info("org/model").private
    api.update_repo_settings("org/model", private=False, gated="auto")
    api.move_repo("org/model", "ada/model")
    info = api.model_info("ada/model")
    assert (info.private, info.gated) == (False, "auto")
    assert not api.repo_exists("org/model")
    api.delete_repo("ada/model")
    assert not api.repo_exists("ada/model")
    assert api.create_repo("page", repo_type="space", space_sdk="static").repo_id == "ada/page"
    assert set(hub.files("space", "ada/page")) == {".gitattributes", "README.md"}


def test_an_organisation_decides_whether_its_repositories_are_private(hub: LocalHub) -> None:
    hub.private_by_default.add("org")
    for name, private in {"unsaid": None, "public": False}.items():
        HfApi().create_repo(f"org/{name}", private=private)
    assert [hub.repo("model", f"org/{name}").private for name in ("unsaid", "public")] == [True, False]


@pytest.mark.parametrize(
    ("token", "repo", "read", "write"),
    [
        ("hf_ada_write", "private", None, None),
        ("hf_ada_read", "private", None, 403),
        ("hf_bob_write", "private", RepositoryNotFoundError, 404),
        (False, "private", RepositoryNotFoundError, 401),
        ("hf_ada_read", "gated", None, 403),
        ("hf_bob_write", "gated", GatedRepoError, 403),
        (False, "gated", GatedRepoError, 401),
        ("hf_bob_write", "public", None, 403),
        (False, "public", None, 401),
        ("hf_nobody", "public", HfHubHTTPError, 401),
    ],
)
def test_a_token_opens_what_its_owner_may(
    token: str | bool, repo: str, read: type[Exception] | None, write: int | None, hub: LocalHub
) -> None:
    settings = {"private": {"private": True}, "gated": {"gated": "auto"}, "public": {}}[repo]
    hub.add_repo("model", "org/model", {"a.txt": "1"}, **settings)
    if read:
        with pytest.raises(read):
            hf_hub_download("org/model", "a.txt", token=token)
    else:
        assert Path(hf_hub_download("org/model", "a.txt", token=token)).read_text() == "1"
    if write:
        with pytest.raises(HfHubHTTPError) as refused:
            HfApi(token=token).create_commit("org/model", [add("b.txt")], commit_message="add")
        assert refused.value.response.status_code == write
    else:
        HfApi(token=token).create_commit("org/model", [add("b.txt")], commit_message="add")
    assert ("b.txt" in hub.files("model", "org/model")) == (write is None)


def test_clients_learn_who_they_are_and_what_is_missing(hub: LocalHub) -> None:
    assert HfApi().whoami()["name"] == "ada"
    hub.add_user("eve", "hf_eve", orgs={"org": "read"})
    assert [org["name"] for org in HfApi(token="hf_eve").whoami()["orgs"]] == ["org"]
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(token="hf_nobody").whoami()
    hub.add_repo("model", "org/model", {"a.txt": "1"})
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/model", "b.txt")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("org/model", "a.txt", revision="v9")


def test_repositories_are_found_by_author_tag_and_word(hub: LocalHub) -> None:
    hub.add_repo("model", "org/dark-room", {"README.md": CARD}, downloads=7)
    hub.add_repo("model", "org/untagged", {"a.txt": "1"})
    hub.add_repo("model", "org/secret", {"README.md": CARD}, private=True)
    hub.add_repo("model", "bob/dark-room", {"README.md": CARD})
    hub.add_repo("model", "../../evil", {"../../x.py": "1", "README.md": "---\ntags: [evil\n---\n"})
    hub.add_repo("dataset", "org/histories", {"README.md": "---\ntags: [algorithm-distillation]\n---\n"})

    def found(token: str | None = None, **query: object) -> set[str]:
        return {info.id for info in HfApi(token=token).list_models(**query)}

    tag = {"filter": "algorithm-distillation"}
    assert found(author="org", **tag) == {"org/dark-room", "org/secret"}
    assert found("hf_bob_write", **tag) == {"org/dark-room", "bob/dark-room"}
    assert found(
        filter=["algorithm-distillation", "dataset:org/histories", "license:mit"], search="ROOM"
    ) == {
        "org/dark-room",
        "bob/dark-room",
    }
    assert found("hf_bob_write") == {"org/dark-room", "org/untagged", "bob/dark-room", "../../evil"}
    assert [info.id for info in HfApi().list_datasets(author="org", **tag)] == ["org/histories"]
    (info,) = HfApi(token="hf_bob_write").list_models(author="org", full=True, cardData=True, **tag)
    assert (info.sha, info.downloads) == (hub.refs("model", "org/dark-room")["branches"]["main"], 7)
    assert (info.pipeline_tag, info.card_data.license) == ("reinforcement-learning", "mit")
    assert info.last_modified == info.created_at
    assert [info.sha for info in HfApi().list_models(author="org")] == [None, None, None]
    (info,) = HfApi().list_datasets(author="org", expand=["downloads", "cardData"])
    assert (info.downloads, info.sha, info.card_data.tags) == (0, None, ["algorithm-distillation"])


def test_long_listings_come_in_pages(hub: LocalHub) -> None:
    hub.page_size = 2
    files = {f"data/{number}.txt": "1" for number in range(8)}
    hub.add_repo("dataset", "org/data", files)
    assert set(HfApi().list_repo_files("org/data", repo_type="dataset")) == files.keys()
    assert hub.tries("tree") == 5  # 8 files and a folder
    top = HfApi().list_repo_tree("org/data", repo_type="dataset")
    assert [entry.path for entry in top] == ["data"]
    inside = HfApi().list_repo_tree("org/data", "data", repo_type="dataset")
    assert {entry.path for entry in inside} == files.keys()
    infos = HfApi().get_paths_info("org/data", ["data", "data/7.txt", "nothing"], repo_type="dataset")
    assert [info.path for info in infos] == ["data", "data/7.txt"]


def test_metadata_that_cannot_be_read_is_refused(hub: LocalHub) -> None:
    hub.add_repo("model", "org/model", {"a.txt": "1"})
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        HfApi().create_commit("org/model", [add("README.md", b"---\na: [\n---\n")], commit_message="card")
    assert hub.tries("commit") == 0


# Other clients


def test_a_model_of_transformers_comes_back(hub: LocalHub) -> None:
    from transformers import AutoModel, GPT2Config, GPT2Model

    model = GPT2Model(GPT2Config(vocab_size=11, n_positions=7, n_embd=8, n_layer=1, n_head=2))
    model.push_to_hub("org/tiny")
    again = AutoModel.from_pretrained("org/tiny")
    assert type(again) is GPT2Model
    assert all(
        a.equal(b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_of_two_configs_is_loaded(streaming: bool, hub: LocalHub) -> None:
    card = "---\nconfigs:\n"
    for name in ("one", "two"):
        card += f"- config_name: {name}\n  data_files: [{{split: train, path: {name}/*.parquet}}]\n"
    files = {
        f"{name}/{shard}.parquet": parquet(value=[number * 10 + shard])
        for number, name in ((1, "one"), (2, "two"))
        for shard in (0, 1)
    }
    hub.add_repo("dataset", "org/data", {"README.md": f"{card}---\n", **files})
    for name, values in {"one": [10, 11], "two": [20, 21]}.items():
        rows = load_dataset("org/data", name, split="train", streaming=streaming)
        assert [row["value"] for row in rows] == values


# Faults

BROKEN = {
    500: 500,
    429: 429,
    "reset": httpx2.ReadError,
    "lost": httpx2.ReadError,
    "cut": httpx2.RemoteProtocolError,
    "stall": httpx2.RemoteProtocolError,
}


@pytest.mark.parametrize("kind", BROKEN, ids=str)
def test_a_fault_meets_exactly_the_requests_it_is_for(kind: int | str, hub: LocalHub) -> None:
    hub.fail("whoami", kind, count=2, skip=1, seconds=0.05)
    outcomes: list[object] = []
    for _ in range(4):
        try:
            outcomes.append(get_session().get(f"{hub.url}/api/whoami-v2").status_code)
        except httpx2.TransportError as error:
            outcomes.append(type(error))
    assert outcomes == [401, BROKEN[kind], BROKEN[kind], 401]
    assert [seen.outcome for seen in hub.requests] == [401, kind, kind, 401]


def test_faults_come_one_after_the_other_until_the_hub_is_reset(hub: LocalHub) -> None:
    hub.fail("whoami", 500)
    hub.fail("whoami", 503, skip=1)
    hub.fail("*", 502, count=None)
    for _ in range(6):
        get_session().get(f"{hub.url}/api/whoami-v2")
    assert [seen.outcome for seen in hub.requests] == [500, 401, 503, 502, 502, 502]
    hub.reset()
    assert get_session().get(f"{hub.url}/api/whoami-v2").status_code == 401


def test_a_commit_whose_answer_is_lost_has_happened(hub: LocalHub) -> None:
    head = hub.add_repo("model", "org/model", {"a.txt": "1"})
    hub.fail("commit", "lost")
    with pytest.raises(httpx2.ReadError):
        HfApi().create_commit("org/model", [add("b.txt")], commit_message="add", parent_commit=head)
    assert hub.files("model", "org/model") == {"a.txt": b"1", "b.txt": b"data\n"}
    hub.fail("commit", "reset")
    with pytest.raises(httpx2.ReadError):
        HfApi().create_commit("org/model", [add("c.txt")], commit_message="add")
    assert set(hub.files("model", "org/model")) == {"a.txt", "b.txt"}


@pytest.mark.parametrize("disabled", ["0", "1"], ids=["xet", "lfs"])
def test_content_that_lies_has_the_right_length_and_a_wrong_byte(
    disabled: str, hub: LocalHub, run_python: Callable[..., str]
) -> None:
    hub.add_repo("model", "org/model", {"a.bin": NOISE})
    hub.fail("content", "lie")
    code = "from huggingface_hub import hf_hub_download; print(hf_hub_download('org/model', 'a.bin'))"
    data = Path(run_python(code, env={"HF_HUB_DISABLE_XET": disabled}).strip()).read_bytes()
    assert len(data) == len(NOISE)
    assert sum(mine != theirs for mine, theirs in zip(data, NOISE, strict=True)) == 1


def test_content_that_ends_early_is_fetched_again(hub: LocalHub) -> None:
    hub.add_repo("model", "org/model", {"a.bin": NOISE})
    hub.fail("content", "cut")
    assert Path(hf_hub_download("org/model", "a.bin")).read_bytes() == NOISE
    assert [seen.outcome for seen in hub.requests if seen.route == "content"] == ["cut", 206]


def test_a_fault_that_could_never_happen_is_refused(hub: LocalHub) -> None:
    with pytest.raises(ValueError, match="no route is called 'comit'"):
        hub.fail("comit", 500)
    with pytest.raises(ValueError, match="'explode' is neither an HTTP status nor one of"):
        hub.fail("commit", "explode")


def test_a_token_of_the_hub_is_refused_and_noticed_where_content_is_kept(hub: LocalHub) -> None:
    hub.add_repo("model", "org/model", {"a.bin": NOISE})
    sha256 = hub.repo("model", "org/model").branches["main"].files["a.bin"].sha256
    url = f"{hub.content_url}/objects/{sha256}"
    assert get_session().get(url).content == NOISE
    assert hub.leaks == []
    answer = get_session().get(url, headers={"Authorization": "Bearer hf_ada_write"})
    assert answer.status_code == 400
    assert hub.leaks == [f"GET /objects/{sha256}"]
    hub.leaks.clear()


# The fixtures


def test_code_runs_with_and_without_ad_hf(
    hub: LocalHub, run_python: Callable[..., str], tmp_path: Path
) -> None:
    code = """
import importlib.util, os, sys
from huggingface_hub import whoami
print(importlib.util.find_spec("ad_hf") is not None, whoami()["name"], *sys.argv[1:])
print(os.environ["HF_HOME"])
"""
    with_it, first = run_python(code, tmp_path, 2).splitlines()
    without, second = run_python(code, env={"HF_TOKEN": "hf_bob_write"}, ad_hf=False).splitlines()
    assert (with_it, without) == (f"True ada {tmp_path} 2", "False bob")
    assert first != second
    with pytest.raises(AssertionError, match="ModuleNotFoundError: import of ad_hf"):
        run_python("import ad_hf", ad_hf=False)
