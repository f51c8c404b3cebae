"""Models on the Hub: pushed whole, with a card that keeps its word, and used from anywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import HOME
from hub_server import LocalHub
from huggingface_hub import ModelCard, constants, parse_eval_result_entries
from safetensors.torch import load_file
from test_cli import assert_one_line, contents, invoke, sets

import ad_hf
from ad_hf import hub as our_hub
from ad_hf.loading import load_model

MODEL, DATASET = "org/ad-darkroom", "org/ad-histories"
TOKEN = "hf_ada_write"
CODE = {path.name for path in (Path(ad_hf.__file__).parent / "models").glob("[!_]*.py")}
UNFINISHED = CODE | {"config.json", "generation_config.json", "model.safetensors", "recipe.json"}
UNFINISHED |= {"training.json", "README.md", ".gitattributes"}
FINISHED = UNFINISHED | {"evaluation.json", "learning_curves.png", ".eval_results/ad-hf.yaml"}
STATE = {"training_state.json", "training_state.safetensors"}


@dataclass
class Story:
    """What was left behind by histories collected and a model trained, both with --push-to-hub."""

    folder: Path  # of the model
    said: str  # all that the commands printed
    titles: list[str]  # of the model's commits, oldest first
    dataset: dict[str, bytes]  # the files of the dataset on the Hub
    unfinished: dict[str, bytes]  # those of the model after its first push
    finished: dict[str, bytes]  # those of the model in the end


@pytest.fixture(scope="module")
def story(running_hub: LocalHub, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Story:
    running_hub.reset()
    folder = tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_TOKEN", "")  # which --token replaces
        push = ("--push-to-hub", "--hub-model-id", MODEL, "--push-every", 2)
        said = run(
            "collect", "dark-room", "--output", "h", "--push-to-hub", DATASET, "--token", TOKEN, *sets(tiny)
        )
        said += run(
            "train", "dark-room", "--dataset", DATASET, "--output", "m", *push, "--token", TOKEN, *sets(tiny)
        )
    commits = running_hub.commits("model", MODEL)[::-1]
    kept = [{path: file.data for path, file in commit.files.items()} for commit in commits]
    dataset = running_hub.files("dataset", DATASET)
    return Story(folder / "m", said, [commit.title for commit in commits], dataset, kept[1], kept[-1])


def run(*arguments: Any) -> str:
    """Everything that `ad-hf` says when all goes well."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return str(result.stdout + result.stderr)


@pytest.fixture
def model(hub: LocalHub, story: Story) -> str:
    """The model on an otherwise empty Hub; its name."""
    hub.add_repo("model", MODEL, story.finished)
    return MODEL


@pytest.fixture
def folder(story: Story, tmp_path: Path) -> Path:
    """The folder of the model, to do with as one likes."""
    return Path(shutil.copytree(story.folder, tmp_path / "m"))


def snippets(story: Story, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", story.finished["README.md"].decode(), re.M | re.S)


# What is pushed


def test_a_finished_training_is_one_commit_of_a_model_and_nothing_else(story: Story) -> None:
    assert story.finished.keys() == FINISHED
    assert story.titles[-1] == "Add dark-room, 6 updates"
    assert sum("6 updates" in title for title in story.titles) == 1
    ours = {name: story.finished[name] for name in FINISHED - {".gitattributes", ".eval_results/ad-hf.yaml"}}
    assert ours == {name: (story.folder / name).read_bytes() for name in ours}


def test_on_the_way_models_are_pushed_that_can_be_resumed(story: Story) -> None:
    assert story.unfinished.keys() == UNFINISHED | STATE
    assert story.titles[:2] == ["initial commit", "Add dark-room, 2 updates"]
    card = story.unfinished["README.md"].decode()
    assert f"**Unfinished: update 2 of 6.** Go on with `ad-hf train --resume {MODEL}`." in card
    assert "Unfinished" not in story.finished["README.md"].decode()


def test_a_folder_is_pushed_like_a_training_and_what_is_private_in_it_stays(
    hub: LocalHub, folder: Path, story: Story
) -> None:
    for name in ("notes.txt", "credentials.json", "optimizer.bin", "data.pkl"):
        (folder / name).write_text("mine")
    result = invoke("push", folder, MODEL)
    assert result.stdout == f"{hub.url}/{MODEL}\n"
    assert result.stderr == f"next: ad-hf generate {MODEL}\n"
    assert hub.files("model", MODEL) == story.finished
    assert len(hub.commits("model", MODEL)) == 2


def test_what_an_earlier_model_left_is_gone(hub: LocalHub, story: Story, folder: Path) -> None:
    hub.add_repo("model", MODEL, {**story.finished, "pytorch_model.bin": "old", "notes.md": "keep"})
    for name in ("evaluation.json", "learning_curves.png"):
        (folder / name).unlink()
    run("push", folder, MODEL)
    files = hub.files("model", MODEL)
    assert files.keys() == UNFINISHED | {"notes.md"}
    card = ModelCard(files["README.md"].decode())
    assert card.data.eval_results is None
    assert "has not been evaluated yet" in card.text


def test_a_private_model_on_a_branch_is_seen_by_members_only(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("push", folder, MODEL, "--private", "--revision", "v2")
    assert hub.repo("model", MODEL).private
    assert hub.files("model", MODEL, "main").keys() == {".gitattributes"}
    files = hub.files("model", MODEL, "v2")
    assert files.keys() == FINISHED
    assert f'from_pretrained("{MODEL}", revision="v2")' in files["README.md"].decode()
    assert f"`ad-hf generate {MODEL}@v2`" in files["README.md"].decode()
    assert run("generate", f"{MODEL}@v2", "--num-episodes", 1)
    monkeypatch.setenv("HF_TOKEN", "hf_bob_write")
    said = assert_one_line(invoke("generate", f"{MODEL}@v2"))
    assert "there is no such repository, or it is private" in said
    said = assert_one_line(invoke("push", folder, MODEL))
    assert "your token may not do this" in said or "there is no such repository" in said


def test_a_hub_that_is_down_costs_a_line_and_not_the_training(
    hub: LocalHub, story: Story, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(our_hub, "FIRST_WAIT", 0.0)
    hub.add_repo("dataset", DATASET, story.dataset)
    hub.fail("commit", 503, None)
    push = ("--push-to-hub", "--hub-model-id", MODEL, "--push-every", 2)
    output = tmp_path / "m"
    result = invoke("train", "dark-room", "--dataset", DATASET, "--output", output, *push, *sets(tiny))
    assert result.exit_code == 0
    assert result.stdout == f"{output}\n"
    first, *_, not_pushed, later, after = result.stderr.splitlines()
    assert "update 2 was not pushed; training goes on" in first
    assert "not pushed" in not_pushed
    assert "answers 503" in not_pushed
    assert later == f"ad-hf push {output} {MODEL}"
    assert after == f"next: ad-hf evaluate {output}"
    hub.reset()
    run(*later.split()[1:])
    assert hub.files("model", MODEL)["model.safetensors"] == story.finished["model.safetensors"]


@pytest.mark.slow
def test_of_two_processes_one_pushes(
    hub: LocalHub, tiny: tuple[str, ...], dataset_folder: Path, tmp_path: Path
) -> None:
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0"]
    train = ["train", "dark-room", "--dataset", dataset_folder, "--output", tmp_path / "m", *sets(tiny)]
    push = ["--push-to-hub", "--hub-model-id", MODEL, "--push-every", "2", "--set=train.updates=30"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "-m", "ad_hf", *map(str, train), *push],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'm'}\n{hub.url}/{MODEL}\n"
    titles = [commit.title for commit in hub.commits("model", MODEL)]
    assert len(titles) == len(set(titles)) > 2
    assert hub.files("model", MODEL).keys() == FINISHED - {".eval_results/ad-hf.yaml"}
    assert json.loads(hub.files("model", MODEL)["training.json"])["processes"] == 2


# The card


def test_the_card_tells_the_hub_what_it_wants_to_know(story: Story) -> None:
    data = ModelCard(story.finished["README.md"].decode()).data
    assert (data.library_name, data.license) == ("transformers", "apache-2.0")
    assert data.pipeline_tag == "reinforcement-learning"
    assert data.datasets == [DATASET]
    assert data.tags == ["algorithm-distillation", "in-context-reinforcement-learning", "dark-room"]
    report = json.loads(story.finished["evaluation.json"])
    last = report["agents"]["ad"]["return_per_episode"][-1]
    (result,) = data.eval_results
    assert data.model_name == "ad-darkroom"
    assert (result.task_type, result.dataset_type) == ("reinforcement-learning", DATASET)
    assert (result.dataset_config, result.dataset_split) == ("dark-room", "test")
    assert result.metric_value == pytest.approx(last, abs=0.001)
    assert result.metric_name == "mean return on held-out tasks, last 1 of 3 episodes"
    (entry,) = parse_eval_result_entries(yaml.safe_load(story.finished[".eval_results/ad-hf.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == (DATASET, "dark-room", result.metric_value)


def test_the_card_tells_readers_how_the_model_came_about_and_how_it_was_judged(story: Story) -> None:
    card = story.finished["README.md"].decode()
    run_of, report = (json.loads(story.finished[name]) for name in ("training.json", "evaluation.json"))
    for words in (
        "![learning curves](learning_curves.png)",
        "| algorithm distillation |",
        "16 held-out tasks of `ad_hf/DarkRoom-v0`",
        "6 updates of 4 windows",
        "learning rate 0.005, precision no, seed 0",
        "Evaluated with seed 1, actions sampled; intervals are 95 % bootstrap over tasks and rollouts",
        f"| hardware | {run_of['device']}, 1 process |",
        f"torch {run_of['versions']['torch']}",
        f"{report['protocol']['parameters']['ad']} parameters, a context of 30 transitions",
        f"[{DATASET}](https://huggingface.co/datasets/{DATASET})",
        "## Limits",
        "@article{laskin2022incontext",
    ):
        assert words in card, words
    assert not re.search(r"\{\{|\{%|nan|\|  \||` `", card.replace("| 16.56 |  |", ""))
    assert snippets(story, "bash") == [f"ad-hf train {MODEL} --output runs/model\n"]


def test_a_model_of_histories_in_a_folder_names_no_repository(
    hub: LocalHub,
    dataset_folder: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # By its name alone, my runs/histories could be what somebody called "runs" has put onto the Hub.
    monkeypatch.chdir(tmp_path)
    shutil.copytree(dataset_folder, "runs/histories")
    run("train", "dark-room", "--dataset", "runs/histories", "--output", "m", *sets(tiny))
    shutil.rmtree("runs")
    hub.add_repo("dataset", "runs/histories", {"README.md": "---\nlicense: mit\n---\n"})
    run("push", "m", MODEL)
    card = ModelCard(hub.files("model", MODEL)["README.md"].decode())
    assert card.data.datasets is None
    assert "--dataset ./runs/histories" in card.text
    assert "gone: there is no folder ./runs/histories" in run("evaluate", MODEL)
    assert not any("datasets" in seen.path for seen in hub.requests)


@pytest.mark.parametrize("where", ["here", "on the Hub"])
def test_an_edited_card_is_kept_unless_it_shall_not(
    where: str, hub: LocalHub, model: str, folder: Path, story: Story
) -> None:
    edited = story.finished["README.md"].decode().replace("## Limits", "It likes corners.\n\n## Limits")
    edited = edited.replace("license: apache-2.0", "license: mit")
    if where == "here":
        (folder / "README.md").write_text(edited)
    else:
        hub.add_commit("model", model, {"README.md": edited})
    run("push", folder, model)
    card = ModelCard(hub.files("model", model)["README.md"].decode())
    assert "It likes corners." in card.text
    assert card.data.license == "mit"
    assert card.data.eval_results[0].dataset_type == DATASET
    if where == "on the Hub":
        run("push", folder, model, "--overwrite-card")
        assert hub.files("model", model)["README.md"] == story.finished["README.md"]


# Used from elsewhere


@pytest.mark.slow
def test_the_first_snippet_runs_as_it_stands_where_ad_hf_is_installed(
    model: str, story: Story, run_python: Callable[..., str]
) -> None:
    after = "import sys\nassert not any(name.startswith('transformers_modules') for name in sys.modules)\n"
    printed = run_python(snippets(story, "python")[0] + after)
    tasks = ad_hf.load_task_family("dark-room", seed=0)["test"]
    wanted = load_model(str(story.folder)).generate(ad_hf.make_vec(tasks), num_episodes=40, seed=0)
    shown = [float(number) for number in re.findall(r"\d+\.\d+", printed)]
    assert shown == pytest.approx(wanted.episode_returns.mean(dim=0).tolist(), abs=1e-4)


# A room with a reward in one corner, of a kind that ad_hf knows nothing about.
ENVIRONMENT = """
import gymnasium as gym
import numpy as np


class Corner(gym.vector.VectorEnv):
    metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.single_observation_space = gym.spaces.MultiDiscrete([9, 9])
        self.single_action_space = gym.spaces.Discrete(5)
        self.actions = []

    def reset(self, seed=None, options=None):
        self.at, self.time = np.zeros((self.num_envs, 2), int), 0
        return self.at.copy(), {}

    def step(self, actions):
        self.actions.append(actions.tolist())
        self.time += 1
        if self.time > 10:
            self.at[:], self.time = 0, 0
        else:
            moves = np.array([[-1, 0], [1, 0], [0, 1], [0, -1], [0, 0]])
            self.at = np.clip(self.at + moves[actions], 0, 8)
        done = np.full(self.num_envs, self.time == 10)
        return self.at.copy(), self.at.sum(1) / 16.0, done, np.zeros_like(done), {}


def play(model):
    envs = Corner(3)
    returns = model.generate(envs, num_episodes=6, seed=3).episode_returns.tolist()
    return {"actions": envs.actions, "returns": returns}

"""


def local_play(folder: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(ENVIRONMENT, names)  # the same as in the other process
    played: dict[str, Any] = names["play"](load_model(str(folder)))
    return played


@pytest.mark.slow
def test_the_second_snippet_runs_as_it_stands_where_ad_hf_is_not_and_plays_the_same(
    model: str, story: Story, run_python: Callable[..., str]
) -> None:
    after = "\nimport json, sys\nassert type(model).__module__.startswith('transformers_modules.')\n"
    code = snippets(story, "python")[1] + ENVIRONMENT + after + "print(json.dumps(play(model)))\n"
    played, wanted = json.loads(run_python(code, ad_hf=False)), local_play(story.folder)
    assert played["actions"] == wanted["actions"]
    assert np.allclose(played["returns"], wanted["returns"])


@pytest.mark.slow
@pytest.mark.parametrize("installed", [True, False])
def test_both_snippets_run_from_the_cache_without_a_hub(
    installed: bool, hub: LocalHub, model: str, story: Story, run_python: Callable[..., str], tmp_path: Path
) -> None:
    code = snippets(story, "python")[0 if installed else 1]
    home = {"HF_HOME": str(tmp_path / "home")}
    first = run_python(code, env=home, ad_hf=installed)
    hub.fail("*", "reset", None)
    asked = len(hub.requests)
    assert run_python(code, env={**home, "HF_HUB_OFFLINE": "1"}, ad_hf=installed) == first
    assert len(hub.requests) == asked


def test_generate_works_from_the_cache_without_a_hub(
    hub: LocalHub, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run("generate", model, "--num-episodes", 1)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert run("generate", model, "--num-episodes", 1) == first
    said = assert_one_line(invoke("generate", "org/other"))
    assert "it is not in the cache, and HF_HUB_OFFLINE=1 forbids to fetch it" in said
    assert len(hub.requests) == asked


@pytest.mark.parametrize("revision", ["", "@v2"])
def test_the_verbs_take_repositories_where_they_take_folders(
    revision: str, hub: LocalHub, story: Story, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.add_repo("dataset", DATASET, story.dataset)
    if revision:
        hub.add_repo("model", MODEL, {"README.md": "---\nlicense: mit\n---\n"})
        hub.add_commit("model", MODEL, story.finished, "v2")
    else:
        hub.add_repo("model", MODEL, story.finished)
    name = MODEL + revision
    watch = ("--num-episodes", 2, "--goal", "7,2", "--json")
    assert run("generate", name, *watch) == run("generate", folder, *watch)
    judge = ("--num-episodes", 2, "--json")
    theirs, ours = invoke("evaluate", name, *judge), invoke("evaluate", folder, *judge)
    assert json.loads(theirs.stdout) == json.loads(ours.stdout)
    assert {"ad", "ed"} <= json.loads(theirs.stdout)["agents"].keys()
    assert theirs.stderr == "next: ad-hf report runs/ad-darkroom --output runs/report\n"
    assert json.loads(Path("runs/ad-darkroom/evaluation.json").read_text()) == json.loads(theirs.stdout)
    run("report", name, "--output", "theirs")
    assert json.loads(Path("theirs/report.json").read_text()) == json.loads(story.finished["evaluation.json"])
    assert Path("theirs/learning_curves.png").is_file()


@pytest.mark.parametrize("verb", ["generate", "evaluate"])
def test_recipe_and_weights_are_of_one_commit(verb: str, hub: LocalHub, model: str, tmp_path: Path) -> None:
    options = ("--no-ed", "--output", tmp_path) if verb == "evaluate" else ()
    run("pull", model)
    once = [seen.route for seen in hub.requests]
    run(verb, model, "--num-episodes", 1, *options)
    asked = [seen.route for seen in hub.requests[len(once) :]]
    assert asked.count("info") == once.count("info") > 0


# Trained from elsewhere


def weights(folder: Path) -> dict[str, bytes]:
    return {
        name: values.numpy().tobytes() for name, values in load_file(folder / "model.safetensors").items()
    }


def test_an_unfinished_model_is_finished_on_another_machine_bit_by_bit(
    hub: LocalHub, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.add_repo("dataset", DATASET, story.dataset)
    hub.add_repo("model", MODEL, story.unfinished)
    push = ("--push-to-hub", "--hub-model-id", MODEL)
    result = invoke("train", "--resume", MODEL, *push)
    assert result.stdout == f"runs/ad-darkroom\n{hub.url}/{MODEL}\n", result.stderr
    log = Path("runs/ad-darkroom/training_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in log] == [3, 4, 5, 6]
    assert weights(Path("runs/ad-darkroom")) == weights(story.folder)
    files = hub.files("model", MODEL)
    assert files.keys() == FINISHED
    for name in FINISHED - {".gitattributes"}:
        assert files[name] == story.finished[name], name


def test_a_streaming_training_is_finished_on_another_machine_bit_by_bit(
    hub: LocalHub, story: Story, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.add_repo("dataset", DATASET, story.dataset)
    windows = {"episode_stride": 2, "pool": 20}  # of 65 histories, so that some are exchanged
    changes = sets((*tiny, "train.updates=8", f"windows={json.dumps(windows)}", "train.checkpoint_every=4"))
    push = ("--push-to-hub", "--hub-model-id", MODEL, "--push-every", 4)
    run("train", "dark-room", "--dataset", DATASET, "--streaming", "--output", "whole", *push, *changes)
    unfinished = hub.commits("model", MODEL)[-2]
    assert unfinished.title == "Add dark-room, 4 updates"
    hub.add_repo("model", MODEL, {path: file.data for path, file in unfinished.files.items()})
    run("train", "--resume", MODEL, "--streaming")
    assert weights(Path("runs/ad-darkroom")) == weights(Path("whole"))


def test_a_finished_model_is_not_resumed(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = assert_one_line(invoke("train", "--resume", model))
    why = "holds no unfinished training to resume (no training_state.json): --push-every pushes one"
    assert said == f"ad-hf: {model} {why}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_trained_again_by_its_name(
    hub: LocalHub, model: str, story: Story, tmp_path: Path
) -> None:
    hub.add_repo("dataset", DATASET, story.dataset)
    run("train", model, "--output", tmp_path / "again")
    assert weights(tmp_path / "again") == weights(story.folder)
    recipe = json.loads((tmp_path / "again" / "recipe.json").read_text())
    assert recipe == json.loads(story.finished["recipe.json"])
    assert recipe["dataset"] == DATASET


# Pull and list


def test_a_model_is_pulled_into_the_cache_or_a_folder(
    hub: LocalHub, model: str, story: Story, tmp_path: Path
) -> None:
    hub.add_commit("model", model, {"optimizer.pkl": b"\x80\x04.", "sub/weights.bin": b"\x80\x04."})
    result = invoke("pull", model, "--json")
    found = json.loads(result.stdout)
    assert (found["type"], found["id"]) == ("model", model)
    assert result.stderr == f"next: ad-hf generate {model}\n"
    wanted = {name: data for name, data in story.finished.items() if name != ".gitattributes"}
    assert contents(Path(found["folder"])) == wanted
    cached = sum(seen.route == "resolve" and seen.method == "GET" for seen in hub.requests)
    (Path(found["folder"]) / "fetched-by-others.bin").write_bytes(b"\x80\x04.")
    result = invoke("pull", model, "--output", tmp_path / "new" / "m")
    assert result.stdout == f"{tmp_path / 'new' / 'm'}\n"
    assert contents(tmp_path / "new" / "m") == wanted
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    assert sum(seen.route == "resolve" and seen.method == "GET" for seen in hub.requests) == cached
    assert run("generate", tmp_path / "new" / "m", "--num-episodes", 1)


def test_what_the_cache_holds_is_not_written_into(hub: LocalHub, model: str) -> None:
    folder = Path(invoke("pull", model).stdout.strip())
    blobs = contents(folder.parent.parent / "blobs")
    run("evaluate", folder, "--no-ed", "--num-episodes", 2)
    run("push", folder, "org/other")
    assert contents(folder.parent.parent / "blobs") == blobs
    run("pull", model)
    assert contents(folder).items() <= hub.files("model", model).items()


def test_a_folder_that_holds_something_is_not_pulled_into(
    hub: LocalHub, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("one")
    said = assert_one_line(invoke("pull", model, "--output", tmp_path / "thesis"))
    assert "thesis is not empty: choose another --output, or remove it" in said
    assert hub.requests == []
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "chapter"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("pull", model, "--output", ".")
    assert Path("config.json").is_file()
    assert not [path for path in Path().iterdir() if path.name.startswith(".p")]


def test_histories_are_pulled_by_type_and_revision(hub: LocalHub, story: Story, tmp_path: Path) -> None:
    hub.add_repo("dataset", DATASET, story.dataset)
    hub.add_commit("dataset", DATASET, {"README.md": "later"})
    first = hub.commits("dataset", DATASET)[-1].id
    for name, revision in ((DATASET, ("--revision", first)), (f"{DATASET}@{first}", ())):
        output = tmp_path / f"h{len(revision)}"
        result = invoke("pull", name, *revision, "--type", "dataset", "--output", output)
        assert "ad-hf train dark-room --output runs/model --dataset" in result.stderr
        assert contents(output) == {name: d for name, d in story.dataset.items() if name != ".gitattributes"}
    assert "there is no such repository" in assert_one_line(invoke("pull", DATASET))
    said = assert_one_line(invoke("pull", DATASET, "--type", "dataset", "--revision", "v9"))
    assert "it has no such revision: check its branches and tags" in said


@pytest.mark.parametrize("route", ["content", "resolve"])
def test_what_arrives_damaged_is_noticed_and_fetched_again(
    route: str, hub: LocalHub, model: str, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(our_hub, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.fail(route, "lie", None)
    assert "arrives damaged" in assert_one_line(invoke("pull", model, "--output", tmp_path / "m"))
    assert list(tmp_path.iterdir()) == []
    hub.reset()
    hub.add_repo("model", model, story.finished)
    hub.fail(route, "lie", 1, skip=route == "resolve")
    run("pull", model, "--output", tmp_path / "m")
    assert contents(tmp_path / "m").items() <= story.finished.items()


def test_list_shows_what_was_made_with_ad_hf_and_may_be_seen(
    hub: LocalHub, model: str, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("dataset", DATASET, story.dataset, private=True)
    hub.add_repo("model", "org/llama", {"README.md": "---\nlicense: mit\n---\n"})
    hub.add_repo("model", "bob/ad-darkroom", story.finished)
    found = json.loads(invoke("list", "org", "--json").stdout)
    assert [(repo["type"], repo["id"], repo["private"]) for repo in found] == [
        ("model", MODEL, False),
        ("dataset", DATASET, True),
    ]
    lines = invoke("list", "org").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["model", MODEL], ["dataset", DATASET]]
    assert [line.endswith("private") for line in lines] == [False, True]
    monkeypatch.delenv("HF_TOKEN")
    assert [repo["id"] for repo in json.loads(invoke("list", "org", "--json").stdout)] == [MODEL]
    result = invoke("list", "nobody")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "nobody has published nothing with ad-hf that you may see\n"


# Secrets


def test_the_token_is_used_and_left_nowhere(hub: LocalHub, model: str, story: Story, tmp_path: Path) -> None:
    said = story.said  # of a collection and a training with --token, and no token otherwise
    said += run("pull", model, "--output", tmp_path / "m", "--token", TOKEN)
    said += run("push", tmp_path / "m", "org/other", "--private", "--token", TOKEN)
    for arguments in (["push", tmp_path / "m", "bob/x"], ["pull", "bob/none"], ["list", "org"], ["env"]):
        token = [] if arguments == ["env"] else ["--token", TOKEN]
        result = invoke(*arguments, *token)
        said += result.stdout + result.stderr
    wrong = "hf_wrongWRONGwrong"
    result = invoke("list", "org", "--token", wrong)
    assert "the Hub does not accept your token" in assert_one_line(result)
    said += result.stderr
    assert TOKEN not in said
    assert wrong not in said
    for place in (tmp_path, story.folder.parent, HOME):
        for name, content in contents(place).items():
            assert TOKEN.encode() not in content, name
    for files in (story.dataset, story.unfinished, story.finished, hub.files("model", "org/other")):
        assert all(TOKEN.encode() not in content for content in files.values())
