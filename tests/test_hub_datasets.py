"""Learning histories on the Hub: what one process publishes, others load, add to and keep."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import LocalHub
from huggingface_hub import HfApi, RepoCard, constants

import ad_hf.hub
from ad_hf.collection import CollectSettings, collect_dataset
from ad_hf.dataset import FORMAT_VERSION, configs_of, load_histories, publish
from ad_hf.histories import Histories
from ad_hf.hub import HubError
from ad_hf.tasks import TaskFamily, load_task_family

REPO = "org/ad-histories"
TASKS = load_task_family("dark-room")
SETTINGS = CollectSettings(num_episodes=3, learners_per_task=1, lockstep=8)
TITLES = ["Add learning histories: dark-room", "initial commit"]  # newest first


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ad_hf.hub, "FIRST_WAIT", 0.01)


def collected(output: Path, *names: str, num_train: int = 2, **settings: Any) -> Path:
    """A folder of tiny collections, one for each name; the tasks are those of Dark Room."""
    for name in names:
        family = TaskFamily(name, {"train": TASKS["train"][:num_train], "test": TASKS["test"][:1]})
        collect_dataset(output, family, replace(SETTINGS, **settings))
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished collection, not to be changed."""
    return collected(tmp_path_factory.mktemp("collected") / "histories", "dark-room")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A finished collection, to be changed."""
    return shutil.copytree(folder, tmp_path / "histories")


def shards(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.endswith(".parquet")}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def card_on(hub: LocalHub, revision: str = "main") -> RepoCard:
    return RepoCard(hub.files("dataset", REPO, revision)["README.md"].decode())


def titles(hub: LocalHub, revision: str = "main") -> list[str]:
    return [commit.title for commit in hub.commits("dataset", REPO, revision)]


def defaults(card: RepoCard) -> list[str]:
    return [entry["config_name"] for entry in card.data.configs if entry.get("default")]


def edit(folder: Path, old: str, new: str) -> None:
    """Change a card in an editor."""
    text = (folder / "README.md").read_text()
    assert old in text
    (folder / "README.md").write_text(text.replace(old, new))


def edit_there(hub: LocalHub, old: str, new: str) -> None:
    """Change a card on the Hub's page."""
    text = hub.files("dataset", REPO)["README.md"].decode()
    assert old in text
    hub.add_commit("dataset", REPO, {"README.md": text.replace(old, new)})


def assert_same(ours: Histories, theirs: Histories) -> None:
    for name in Histories.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def ad_hf_command(*words: object) -> tuple[int, list[str], list[str]]:
    """Exit code and lines of stdout and stderr of `ad-hf ...`."""
    from typer.testing import CliRunner

    from ad_hf.cli import app

    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout.splitlines(), done.stderr.splitlines()


def collect_words(output: Path) -> tuple[object, ...]:
    """A collection of a moment."""
    return ("collect", "dark-room", "--output", output, "--num-episodes", 2, "--learners-per-task", 1)


# Publishing and loading


def test_a_collection_is_published_in_one_commit(hub: LocalHub, tmp_path: Path) -> None:
    output = tmp_path / "histories"
    code, out, err = ad_hf_command(*collect_words(output), "--push-to-hub", REPO)
    assert (code, out) == (0, [str(output), f"{hub.url}/datasets/{REPO}"])
    assert err == [f"next: ad-hf train dark-room --dataset {REPO} --output runs/model"]
    assert titles(hub) == TITLES
    files = hub.files("dataset", REPO)
    assert shards(files) == shards(contents(output))
    assert files.keys() - shards(files).keys() == {"README.md", ".gitattributes"}
    refs = hub.refs("dataset", REPO)
    assert refs == {"branches": refs["branches"], "tags": {f"v{FORMAT_VERSION}": refs["branches"]["main"]}}


LOADER = """
import json, sys
from datasets import load_dataset
named, default = load_dataset(sys.argv[1], "dark-room"), load_dataset(sys.argv[1])
streams = load_dataset(sys.argv[1], "dark-room", streaming=True)
rows = {split: named[split][:] for split in named}
assert {split: default[split][:] for split in default} == rows
for split, stream in streams.items():
    read = list(stream)
    assert {name: [row[name] for row in read] for name in read[0]} == rows[split]
print(json.dumps(rows))
"""


@pytest.mark.slow
def test_datasets_alone_loads_what_was_collected(
    hub: LocalHub, folder: Path, run_python: Callable[..., str]
) -> None:
    publish(folder, REPO)
    found = json.loads(run_python(LOADER, REPO, ad_hf=False))
    for split in ("train", "test"):
        collected = pq.read_table([str(path) for path in sorted(folder.glob(f"*/{split}-*"))])
        assert found[split] == collected.to_pydict()


def test_the_snippet_on_the_card_runs_as_it_stands(
    hub: LocalHub, folder: Path, run_python: Callable[..., str]
) -> None:
    publish(folder, REPO)
    (snippet,) = re.findall(r"^```python\n(.*?)^```", card_on(hub).text, re.M | re.S)
    printed = float(run_python(snippet, ad_hf=False))
    assert printed == load_histories(str(folder), "dark-room").episode_returns()[0]


def test_the_commands_on_the_card_exist(hub: LocalHub, folder: Path) -> None:
    from typer.main import get_command

    from ad_hf.cli import app

    publish(folder, REPO)
    found = re.findall(r"^ad-hf (.*)$", card_on(hub).text, re.M)
    assert [words.split()[0] for words in found] == ["train", "collect"]
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    for verb, *words in map(shlex.split, found):
        verbs[verb].make_context(verb, words)  # refuses what is not an option
    assert found[0] == f"train dark-room --dataset {REPO} --output runs/model"


def test_load_histories_reads_a_repository_like_a_folder(hub: LocalHub, folder: Path) -> None:
    publish(folder, REPO)
    for name in (REPO, f"{REPO}@v1.2", f"{REPO}@main"):
        for split in ("train", "test"):
            here = load_histories(str(folder), "dark-room", split)
            assert_same(load_histories(name, "dark-room", split), here)


def test_a_commit_stays_what_it_was(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    publish(folder, REPO)
    before = hub.commits("dataset", REPO)[0].id
    publish(collected(tmp_path / "new", "dark-room", seed=1), REPO)
    assert_same(load_histories(f"{REPO}@{before}", "dark-room"), load_histories(str(folder), "dark-room"))
    new = load_histories(str(tmp_path / "new"), "dark-room")
    assert_same(load_histories(f"{REPO}@v1.2", "dark-room"), new)
    assert_same(load_histories(REPO, "dark-room"), new)


def test_what_is_in_the_cache_is_loaded_without_a_hub(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(folder, REPO)
    online = load_histories(REPO, "dark-room")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert_same(load_histories(REPO, "dark-room"), online)
    assert_same(
        load_histories(f"{REPO}@main", "dark-room", "test"), load_histories(str(folder), "dark-room", "test")
    )
    with pytest.raises(HubError, match=r"^there is no folder org/other, .* HF_HUB_OFFLINE=1 .*unset it"):
        load_histories("org/other", "dark-room")
    assert not hub.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.fail("info", 503, count=None)
    assert_same(load_histories(REPO, "dark-room"), online)


def test_a_folder_of_several_configs_goes_up_whole(hub: LocalHub, tmp_path: Path) -> None:
    output = collected(tmp_path / "histories", "corridor", "dark-room")
    publish(output, REPO)
    assert titles(hub) == ["Add learning histories: corridor, dark-room", "initial commit"]
    assert shards(hub.files("dataset", REPO)) == shards(contents(output))
    assert defaults(card_on(hub)) == ["corridor"]
    for config in ("corridor", "dark-room"):
        assert_same(load_histories(REPO, config), load_histories(str(output), config))
        assert datasets.load_dataset(REPO, config).num_rows == {"train": 6, "test": 3}


def test_a_repository_comes_down_as_a_folder_that_can_go_on(
    hub: LocalHub, folder: Path, tmp_path: Path
) -> None:
    publish(folder, REPO)
    output = tmp_path / "pulled"
    code, out, _ = ad_hf_command("pull", REPO, "--type", "dataset", "--output", output)
    assert (code, out) == (0, [str(output)])
    assert shards(contents(output)) == shards(contents(folder))
    collected(output, "dark-room", "corridor")
    publish(output, REPO)
    assert titles(hub) == ["Add learning histories: dark-room, corridor", *TITLES]
    assert [entry["config_name"] for entry in card_on(hub).data.configs] == ["dark-room", "corridor"]


# Publishing again


def test_a_config_that_comes_later_leaves_the_first_and_the_default(
    hub: LocalHub, folder: Path, tmp_path: Path
) -> None:
    publish(folder, REPO)
    first = hub.files("dataset", REPO)
    publish(collected(tmp_path / "new", "corridor", num_train=3), REPO)
    assert titles(hub) == ["Add learning histories: corridor", *TITLES]
    assert shards(first).items() <= hub.files("dataset", REPO).items()
    card = card_on(hub)
    assert [entry["config_name"] for entry in card.data.configs] == ["dark-room", "corridor"]
    assert defaults(card) == ["dark-room"]
    assert re.findall(r"^## (\S+)$", card.text, re.M) == ["dark-room", "corridor", "Limits", "Citation"]
    assert datasets.load_dataset(REPO).num_rows == {"train": 6, "test": 3}
    assert datasets.load_dataset(REPO, "corridor").num_rows == {"train": 9, "test": 3}


def test_no_shard_of_an_earlier_collection_stays(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    publish(collected(tmp_path / "old", "dark-room", "corridor", num_train=5), REPO)
    hub.add_commit("dataset", REPO, {"dark-room/notes.md": "Of the winter school.\n"})
    before = hub.files("dataset", REPO)
    publish(folder, REPO)
    after = hub.files("dataset", REPO)
    assert {name: after[name] for name in shards(after) if name.startswith("dark-room/")} == shards(
        contents(folder)
    )
    others = {name for name in before if name.startswith("corridor/")} | {"dark-room/notes.md"}
    assert {name: before[name] for name in others}.items() <= after.items()
    assert_same(load_histories(REPO, "dark-room"), load_histories(str(folder), "dark-room"))
    assert datasets.load_dataset(REPO).num_rows == {"train": 6, "test": 3}


def test_nothing_new_is_no_commit_and_no_upload(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    publish(folder, REPO)
    publish(collected(tmp_path / "new", "corridor"), REPO)
    before = hub.commits("dataset", REPO)
    hub.requests.clear()
    for again in (folder, tmp_path / "new", folder):
        publish(again, REPO)
    assert hub.commits("dataset", REPO) == before
    assert not {"commit", "tag", "xorb", "lfs-put"} & {seen.route for seen in hub.requests}


def test_a_tag_that_was_lost_is_set_again(hub: LocalHub, folder: Path) -> None:
    publish(folder, REPO)
    HfApi().delete_tag(REPO, tag="v1.2", repo_type="dataset")
    publish(folder, REPO)
    assert hub.refs("dataset", REPO)["tags"] == {"v1.2": hub.commits("dataset", REPO)[0].id}


PUSHER = """
import sys, time
from pathlib import Path
from ad_hf.dataset import publish
folder = Path(sys.argv[1])
(folder / "ready").touch()
while len(list(folder.parent.glob("*/ready"))) < 4:
    time.sleep(0.01)
publish(folder, sys.argv[2])
"""


@pytest.mark.slow
def test_four_processes_publish_four_configs_at_once(hub: LocalHub, tmp_path: Path) -> None:
    names = ["alley", "bridge", "cellar", "dome"]
    folders = [collected(tmp_path / name, name) for name in names]
    with contextlib.ExitStack() as stack:
        pushing = [
            stack.enter_context(subprocess.Popen([sys.executable, "-c", PUSHER, str(folder), REPO]))
            for folder in folders
        ]
        for process in pushing:
            stack.callback(process.kill)  # does nothing where it has ended
        assert [process.wait(timeout=100) for process in pushing] == [0] * 4
    assert sorted(titles(hub)) == [*(f"Add learning histories: {name}" for name in names), "initial commit"]
    card = card_on(hub)
    assert {entry["config_name"] for entry in card.data.configs} == set(names)
    assert {info["config_name"] for info in card.data.dataset_info} == set(names)
    assert configs_of(card).keys() == set(names)
    assert defaults(card) == [titles(hub)[-2].removeprefix("Add learning histories: ")]  # of the first
    assert hub.refs("dataset", REPO)["tags"] == {"v1.2": hub.commits("dataset", REPO)[0].id}
    for name, folder in zip(names, folders, strict=True):
        assert_same(load_histories(REPO, name), load_histories(str(folder), name))


# Cards


def test_what_people_write_on_the_hub_stays(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    publish(folder, REPO)
    edit_there(hub, "## Limits", "Collected for the winter school.\n\n## Limits")
    edit_there(hub, "license: apache-2.0", "license: cc-by-4.0\nlanguage:\n- en")
    new = collected(tmp_path / "new", "corridor")
    publish(new, REPO)
    card = card_on(hub)
    assert "Collected for the winter school." in card.text
    assert (card.data.license, card.data.language) == ("cc-by-4.0", ["en"])
    assert [entry["config_name"] for entry in card.data.configs] == ["dark-room", "corridor"]
    before = hub.commits("dataset", REPO)
    publish(new, REPO)
    assert hub.commits("dataset", REPO) == before
    publish(new, REPO, overwrite_card=True)
    card = card_on(hub)
    assert "winter school" not in card.text
    assert "## corridor" in card.text
    assert "## dark-room" in card.text
    assert (card.data.license, card.data.get("language")) == ("apache-2.0", None)
    assert len(datasets.get_dataset_config_names(REPO)) == 2


def test_what_people_write_here_goes_to_the_hub_where_nobody_has_written(hub: LocalHub, copy: Path) -> None:
    publish(copy, REPO)
    edit(copy, "## Limits", "Collected for the winter school.\n\n## Limits")
    edit(copy, "license: apache-2.0", "license: cc-by-4.0")
    edit_there(hub, "- learning-histories", "- winter-school")
    publish(copy, REPO)
    card = card_on(hub)
    assert "Collected for the winter school." in card.text
    assert card.data.license == "cc-by-4.0"
    assert "winter-school" in card.data.tags
    assert f'load_dataset("{REPO}", "dark-room")' in card.text
    assert f"--dataset {REPO} --output" in card.text
    assert 'load_dataset("histories", "dark-room")' in (copy / "README.md").read_text()
    edit_there(hub, "winter school.", "summer school.")
    publish(copy, REPO)
    assert "summer school." in card_on(hub).text
    publish(copy, REPO, overwrite_card=True)
    assert "winter school." in card_on(hub).text


# Private repositories and branches


def test_private_histories_are_seen_by_members_only(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, _ = ad_hf_command("push", folder, REPO, "--private")
    assert code == 0
    assert hub.repo("dataset", REPO).private
    assert ad_hf_command("push", folder, REPO)[0] == 0  # without saying it again
    assert hub.repo("dataset", REPO).private
    monkeypatch.setenv("HF_TOKEN", "hf_bob_write")
    with pytest.raises(HubError, match="there is no such repository, or it is private"):
        load_histories(REPO, "dark-room")


def test_nothing_private_goes_into_a_public_repository(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    publish(folder, REPO)
    before = hub.commits("dataset", REPO)
    told = f"ad-hf: {REPO}: it exists and is public: make it private first, or leave out --private"
    assert ad_hf_command("push", folder, REPO, "--private") == (1, [], [told])
    pushed = (*collect_words(tmp_path / "new"), "--push-to-hub", REPO, "--private")
    assert ad_hf_command(*pushed) == (1, [], [told])
    assert not (tmp_path / "new").exists()  # known before the work, not after it
    assert hub.commits("dataset", REPO) == before


def test_a_branch_leaves_main_and_its_tag_alone(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    assert ad_hf_command("push", folder, REPO, "--revision", "trial")[0] == 0
    assert titles(hub) == ["initial commit"]
    assert titles(hub, "trial") == TITLES
    assert hub.refs("dataset", REPO)["tags"] == {}
    assert_same(load_histories(f"{REPO}@trial", "dark-room"), load_histories(str(folder), "dark-room"))
    publish(folder, REPO, revision="main")
    head = hub.commits("dataset", REPO)[0].id
    publish(collected(tmp_path / "new", "dark-room", seed=1), REPO, revision="trial")
    assert hub.refs("dataset", REPO)["tags"] == {"v1.2": head}
    assert_same(load_histories(REPO, "dark-room"), load_histories(str(folder), "dark-room"))


# What is refused

WRITE = "your token may not do this: use one that may (`hf auth login`)"
UNKNOWN = "there is no such repository, or it is private: check the name, or log in with `hf auth login`"
TOKEN = "the Hub does not accept your token: log in with `hf auth login`"


@pytest.mark.parametrize("there", [True, False], ids=["there", "new"])
@pytest.mark.parametrize(
    ("token", "told"),
    [("hf_ada_read", WRITE), ("hf_bob_write", WRITE), ("hf_nobody", TOKEN), ("", TOKEN)],
)
def test_who_may_not_write_is_told_in_one_line(
    token: str, told: str, there: bool, hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if there:
        hub.add_repo("dataset", REPO, {"LICENSE": "mine"})
    monkeypatch.setenv("HF_TOKEN", token)
    assert ad_hf_command("push", folder, REPO) == (1, [], [f"ad-hf: {REPO}: {told}"])
    if there:
        assert titles(hub) == ["planted"]


@pytest.mark.parametrize("name", ["histories", "org/", "/name", "a/b/c", "org/a b", "../up", "org/a@dev", ""])
def test_bad_names_are_told_before_any_work(name: str, hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    code, out, told = ad_hf_command("push", folder, name)
    assert (code, out, len(told)) == (1, [], 1)
    assert re.match(f"ad-hf: {name!r} is not .*org/name", told[0])
    assert ad_hf_command(*collect_words(tmp_path / "new"), "--push-to-hub", name) == (1, [], told)
    assert not (tmp_path / "new").exists()
    assert not hub.requests


def test_offline_nothing_is_pushed(
    hub: LocalHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, out, told = ad_hf_command("push", folder, REPO)
    assert (code, out, len(told)) == (1, [], 1)
    assert re.match(f"ad-hf: {REPO}: HF_HUB_OFFLINE=1 forbids .*: unset it and try again$", told[0])
    assert ad_hf_command(*collect_words(tmp_path / "new"), "--push-to-hub", REPO) == (1, [], told)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("fault", "times"), [(403, 1), (503, ad_hf.hub.TRIES)])
def test_a_collection_that_cannot_be_pushed_is_kept_and_pushed_later(
    fault: int, times: int, hub: LocalHub, tmp_path: Path
) -> None:
    output = tmp_path / "my histories"
    hub.fail("commit", fault, count=times)
    words = (*collect_words(output), "--push-to-hub", REPO, "--private", "--revision", "trial")
    code, out, (not_pushed, later, following) = ad_hf_command(*words)
    assert (code, out) == (0, [str(output)])
    assert re.match(f"ad-hf: not pushed: {REPO}: .*All is whole in {output}; push it later:$", not_pushed)
    assert following == f"next: ad-hf train dark-room --dataset {output} --output runs/model"
    assert load_histories(str(output), "dark-room").return_matrix().shape == (65, 2)
    assert ad_hf_command(*shlex.split(later)[1:])[0] == 0
    assert titles(hub, "trial") == TITLES
    assert hub.repo("dataset", REPO).private


def test_a_hub_that_is_away_when_a_collection_begins_is_tried_again_at_its_end(
    hub: LocalHub, tmp_path: Path
) -> None:
    hub.fail("create", 503, count=ad_hf.hub.TRIES)
    code, _, err = ad_hf_command(*collect_words(tmp_path / "new"), "--push-to-hub", REPO)
    assert code == 0
    assert re.match(f"ad-hf: {REPO}: .* answers 503: .*; the push is tried at the end$", err[0])
    assert titles(hub) == TITLES


@pytest.mark.parametrize(
    ("token", "settings", "told"),
    [
        ("hf_bob_write", {"gated": "manual"}, "it is gated: ask for access on its page, then log in"),
        ("", {"gated": "manual"}, "it is gated: ask for access on its page, then log in"),
        ("hf_bob_write", {"private": True}, UNKNOWN),
        ("", {"private": True}, UNKNOWN),
        ("hf_nobody", {}, TOKEN),
    ],
)
def test_who_may_not_read_is_told_in_one_line(
    token: str,
    settings: dict[str, Any],
    told: str,
    hub: LocalHub,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.add_repo("dataset", REPO, contents(folder), **settings)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=rf"^[^\n]*{re.escape(told)}[^\n]*$"):
        load_histories(REPO, "dark-room")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("org/nothing", UNKNOWN),
        (f"{REPO}@nothing", "it has no such revision: check its branches and tags"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(name: str, told: str, hub: LocalHub, folder: Path) -> None:
    publish(folder, REPO)
    with pytest.raises(HubError) as caught:
        load_histories(name, "dark-room")
    assert str(caught.value) == f"there is no folder {name}, and on the Hub {name}: {told}"
    with pytest.raises(ValueError, match=rf"^{REPO}/corridor holds no Parquet files"):
        load_histories(REPO, "corridor")


# Repositories of others

POEMS = "---\nconfigs:\n- config_name: poems\n  data_files: data/poems.csv\n---\n# Poems\n"


@pytest.mark.parametrize("card", [{}, {"README.md": POEMS}], ids=["without a card", "with a card"])
def test_data_of_others_is_not_mixed_with(card: dict[str, str], hub: LocalHub, folder: Path) -> None:
    hub.add_repo("dataset", REPO, {"data/poems.csv": "line\nto be\n", **card})
    reason = "it holds something else than learning histories (data/poems.csv): choose another repository"
    assert ad_hf_command("push", folder, REPO) == (1, [], [f"ad-hf: {REPO}: {reason}"])
    assert titles(hub) == ["planted"]
    assert hub.refs("dataset", REPO)["tags"] == {}


def test_a_repository_made_on_the_hub_keeps_its_licence(hub: LocalHub, folder: Path) -> None:
    files = {"README.md": "---\nlicense: mit\n---\n", "LICENSE": "MIT", ".gitattributes": ""}
    hub.add_repo("dataset", REPO, files)
    publish(folder, REPO)
    card = card_on(hub)
    assert (card.data.license, card.data.task_categories) == ("mit", ["reinforcement-learning"])
    assert f'load_dataset("{REPO}", "dark-room")' in card.text
    assert titles(hub) == [TITLES[0], "planted"]
    assert datasets.load_dataset(REPO).num_rows == {"train": 6, "test": 3}


def test_a_newer_format_on_the_hub_is_left_alone(hub: LocalHub, folder: Path) -> None:
    publish(folder, REPO)
    edit_there(hub, "format_version: '1.2'", "format_version: '2.0'")
    before = hub.commits("dataset", REPO)
    told = "has the format version 2.0, but this ad-hf reads versions up to 1.2: upgrade it with `pip install"
    code, out, (line,) = ad_hf_command("push", folder, REPO)
    assert (code, out) == (1, [])
    assert told in line
    with pytest.raises(ValueError, match=re.escape(f"{REPO} {told}")):
        load_histories(REPO, "dark-room")
    assert hub.commits("dataset", REPO) == before


def test_rows_of_something_else_are_not_taken_for_histories(hub: LocalHub, tmp_path: Path) -> None:
    table = pa.table({"text": ["to be"], "label": [1]})
    pq.write_table(table, tmp_path / "poems.parquet")
    data = (tmp_path / "poems.parquet").read_bytes()
    hub.add_repo("dataset", REPO, {"dark-room/train-00000-of-00001.parquet": data})
    with pytest.raises(ValueError, match="does not hold learning histories: it lacks the columns history_id"):
        load_histories(REPO, "dark-room")
