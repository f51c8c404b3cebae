"""Training from a stream: as from memory, for less of it, and a run that dies goes on as if it had not."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_streaming import left_behind

from ad_hf.checkpoints import PROGRESS
from ad_hf.evaluation import in_context_returns
from ad_hf.histories import Histories
from ad_hf.models import ADConfig, ADModel
from ad_hf.recipes import load_recipe
from ad_hf.runs import run_collect, run_train
from ad_hf.streaming import HistoryStream, open_stream
from ad_hf.training import LOG, TrainSettings, train
from ad_hf.windows import WindowSettings

UPDATES = 36
DECODER = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "attention_dropout": 0.3}
CONFIG = ADConfig(context_length=30, decoder=DECODER)
WINDOWS = WindowSettings(episode_stride=2, pool=16)
SETTINGS = TrainSettings(updates=UPDATES, batch_size=4, warmup=2, log_every=1, checkpoint_every=1)


class Died(BaseException):
    """What a run is stopped with; no code catches it."""


@pytest.fixture(scope="module")
def stream(dataset_folder: Path) -> HistoryStream:
    """65 histories of 12 episodes."""
    return open_stream(str(dataset_folder), "dark-room")


def run(stream: HistoryStream, output: Path, settings: TrainSettings = SETTINGS, **kwargs: Any) -> ADModel:
    return train(stream, CONFIG, WINDOWS, settings, output, **kwargs)


def log(output: Path) -> list[dict[str, Any]]:
    """The lines of a run's log without its speed."""
    lines = [json.loads(line) for line in (output / LOG).read_text().splitlines()]
    for line in lines:
        line.pop("transitions_per_second", None)
    return lines


def recorded(stream: HistoryStream) -> tuple[HistoryStream, list[str]]:
    """A stream, and the tasks of the histories that will have been read from it."""
    seen: list[str] = []

    def prepare(histories: Histories) -> Histories:
        seen.extend(task.id for task in histories.tasks)
        return histories

    return replace(stream, prepare=prepare), seen


# Resuming


@pytest.fixture(scope="module")
def whole(stream: HistoryStream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(stream, folder / "run", replace(SETTINGS, checkpoint_every=0))
    return folder / "run"


# Histories are exchanged after 16 and after 32 updates.
@pytest.mark.parametrize("checkpoint", [1, 15, 16, 17, 32])
def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(
    checkpoint: int, stream: HistoryStream, whole: Path, tmp_path: Path
) -> None:
    def die(line: dict[str, Any]) -> None:
        if line["update"] == checkpoint + 1:
            raise Died

    threads = set(threading.enumerate())
    with pytest.raises(Died) as died:
        run(stream, tmp_path / "run", on_update=die)
    assert died.traceback  # which keeps alive what is not closed
    assert left_behind(threads) == ([], set())
    run(stream, tmp_path / "run", resume=True)
    assert log(tmp_path / "run") == log(whole)
    assert [line["update"] for line in log(whole)] == list(range(1, UPDATES + 1))
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "run", whole))
    assert all(torch.equal(values, theirs[name]) for name, values in ours.items())


def test_a_run_on_another_stream_or_from_memory_is_not_resumed(
    stream: HistoryStream, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"made with histories\.stream=dark-room, 8 files of \d+ bytes, not x"
    ):
        run(replace(stream, name="x"), tmp_path / "run", resume=True)
    histories = next(stream.read(0))[0]
    with pytest.raises(ValueError, match=r"made with histories\.stream=dark-room, .*, not None: resume with"):
        train(histories, CONFIG, WINDOWS, SETTINGS, tmp_path / "run", resume=True)
    train(histories, CONFIG, WINDOWS, replace(SETTINGS, updates=1), tmp_path / "memory")
    with pytest.raises(
        ValueError, match=r"made with histories\.stream=None, not dark-room, 8 files of \d+ byt"
    ):
        run(stream, tmp_path / "memory", replace(SETTINGS, updates=1), resume=True)


def test_a_folder_may_be_moved_between_a_run_and_its_resumption(
    stream: HistoryStream, whole: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(dataset_folder, tmp_path / "elsewhere")
    shutil.copytree(whole, tmp_path / "run")
    moved = open_stream(str(tmp_path / "elsewhere"), "dark-room")
    run(moved, tmp_path / "run", replace(SETTINGS, checkpoint_every=0), resume=True)


# Several processes


@pytest.mark.slow  # not for learning, but for starting two processes
def test_processes_share_a_stream_and_any_number_of_them_can_go_on(
    stream: HistoryStream, dataset_folder: Path, run_python: Callable[..., str], tmp_path: Path
) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_streamed_training import *
stream, seen = recorded(open_stream(sys.argv[1], "dark-room"))
model = run(stream, Path(sys.argv[2]), replace(SETTINGS, updates=24, checkpoint_every=20))
weights = torch.cat([values.flatten() for values in model.state_dict().values()])
print(json.dumps([seen, weights.double().sum().item(), weights.double().abs().sum().item()]))
"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}

    def process(rank: int) -> Any:
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        return json.loads(run_python(code, dataset_folder, tmp_path / "run", env=env | own))

    with ThreadPoolExecutor(2) as both:
        (first, *first_weights), (second, *second_weights) = both.map(process, range(2))
    assert first_weights == second_weights
    assert len(first) == len(second) == 16 + 2  # one was exchanged, and one has been read ahead
    assert len({*first, *second}) == 36
    checkpoint = tmp_path / "run" / "checkpoints" / "update-00000020"
    positions = json.loads((checkpoint / PROGRESS).read_text())["stream"]
    assert len(positions) == 2

    shutil.rmtree(checkpoint.with_name("update-00000024"))
    alone, seen = recorded(stream)
    run(alone, tmp_path / "run", replace(SETTINGS, updates=24, checkpoint_every=20), resume=True)
    assert [line["update"] for line in log(tmp_path / "run")] == list(range(1, 25))
    from_the_start = islice(stream.read(0), 17)  # one of them is read ahead
    assert seen == [histories.tasks[0].id for histories, _ in from_the_start]


# What may be trained on


def test_expert_distillation_sees_the_end_of_each_history_when_streaming(
    dataset_folder: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    # A quarter of 12 episodes of 20 steps:
    fitting = load_recipe("dark-room", (*tiny, "objective=ed", "model.context_length=60"))
    longer = load_recipe("dark-room", (*tiny, "objective=ed", "model.context_length=61"))
    run_train(fitting, str(dataset_folder), tmp_path / "run", streaming=True)
    with pytest.raises(ValueError, match="a window has 61 transitions, but the longest history has 60"):
        run_train(longer, str(dataset_folder), tmp_path / "refused", streaming=True)
    assert not (tmp_path / "refused").exists()


def test_histories_of_held_out_tasks_are_refused_when_streaming(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    run_collect(
        load_recipe("dark-room", (*tiny, "family.fold=2")), tmp_path / "data", lambda done, total: None
    )
    (tmp_path / "data" / "README.md").unlink()  # which would say of which fold it is
    with pytest.raises(ValueError, match="holds histories of held-out tasks"):
        run_train(load_recipe("dark-room", tiny), str(tmp_path / "data"), tmp_path / "run", streaming=True)
    assert not (tmp_path / "run").exists()


# At scale


def peak_memory(data: Path, output: Path, num_histories: int, run_python: Callable[..., str]) -> int:
    """MB at most resident while a process trains for 64 updates and then reads the whole split once."""
    code = f"""
import re, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_streamed_training import *
from ad_hf.streaming import HistoryPool
stream = open_stream(sys.argv[1], "dark-room")
windows = WindowSettings(episode_stride=20, pool=48)
train(stream, CONFIG, windows, replace(SETTINGS, updates=64, checkpoint_every=0), Path(sys.argv[2]))
pool = HistoryPool(stream, 48, seed=0)
for _ in range(int(sys.argv[3]) // 3):
    pool.exchange()
pool.close()
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    # Not getrusage, whose maximum is that of the parent if it is higher.
    return int(run_python(code, data, output, num_histories)) // 1024


@pytest.mark.slow
def test_ten_times_the_histories_do_not_take_more_memory(
    tiny: tuple[str, ...], run_python: Callable[..., str], tmp_path: Path
) -> None:
    peaks = {}
    for learners in (1, 10):
        changes = (*tiny, "collect.num_episodes=1500", f"collect.learners_per_task={learners}")
        data = tmp_path / f"data-{learners}"
        run_collect(load_recipe("dark-room", changes), data, lambda done, total: None)
        peaks[learners] = peak_memory(data, tmp_path / f"run-{learners}", 65 * learners, run_python)
    assert peaks[10] < 1.1 * peaks[1], f"MB with 1x and 10x the histories: {peaks}"


@pytest.mark.slow
def test_a_model_learns_from_a_stream(tmp_path: Path) -> None:
    changes = ("train.updates=300", "train.batch_size=16", "train.warmup=50", "model.context_length=80")
    recipe = load_recipe("dark-room", changes)
    run_collect(recipe, tmp_path / "data", lambda done, total: None)
    run_train(recipe, str(tmp_path / "data"), tmp_path / "run", streaming=True)
    model = ADModel.from_pretrained(tmp_path / "run").eval()
    returns = in_context_returns(model, recipe.task_family()["test"], 40, 8, seed=0)
    # Of 20. Over four seeds 13.3 on average, and 12.8 if the same histories are in memory.
    assert returns[:, :, -5:].mean() > 9
