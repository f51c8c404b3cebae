"""Training: a run that dies goes on as if it had not, whatever it was trained with."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from ad_hf import checkpoints, training
from ad_hf.histories import Histories, collect
from ad_hf.models import ADConfig, ADModel
from ad_hf.recipes import load_recipe
from ad_hf.runs import run_train
from ad_hf.tasks import TaskFamily, load_task_family
from ad_hf.training import LOG, TrainSettings, train
from ad_hf.windows import WindowSettings, window_batches

UPDATES = 8
DECODER = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
SETTINGS = TrainSettings(
    updates=UPDATES, batch_size=4, warmup=2, learning_rate=1e-2, log_every=1, checkpoint_every=3
)
WINDOWS = WindowSettings(episode_stride=2)
CONFIG = ADConfig(context_length=30, decoder={**DECODER, "attention_dropout": 0.3})
PLAIN = ADConfig(context_length=30, decoder=DECODER)

# What a run is made with; each goes through another part of the loop.
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "token mask": {"windows": WindowSettings(episode_stride=2, token_mask=0.3)},
    "accumulation": {"settings": replace(SETTINGS, accumulation=2)},
    "bf16": {"settings": replace(SETTINGS, mixed_precision="bf16")},
    "three tokens": {"config": ADConfig(context_length=30, tokens_per_transition=3, decoder=DECODER)},
}


class Died(BaseException):
    """What a run is stopped with; no code catches it."""


def die_after(update: int) -> Callable[[dict[str, Any]], None]:
    def on_update(line: dict[str, Any]) -> None:
        if line["update"] == update:
            raise Died

    return on_update


@pytest.fixture(scope="module")
def histories() -> Histories:
    return collect(load_task_family("dark-room")["train"][:8], "q-learning", 20, seed=0)


@pytest.fixture(scope="module")
def family() -> TaskFamily:
    """Dark Room with two test tasks, for short evaluations that are short."""
    whole = load_task_family("dark-room")
    return TaskFamily("dark-room", {"train": whole["train"], "test": whole["test"][:2]})


def run(
    histories: Histories,
    output: Path,
    config: ADConfig = CONFIG,
    windows: WindowSettings = WINDOWS,
    settings: TrainSettings = SETTINGS,
    **kwargs: Any,
) -> ADModel:
    return train(histories, config, windows, settings, output, **kwargs)


def log(output: Path) -> list[dict[str, Any]]:
    """The lines of a run's log without its speed."""
    lines = [json.loads(line) for line in (output / LOG).read_text().splitlines()]
    for line in lines:
        line.pop("transitions_per_second", None)
    return lines


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in log(output)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def untrained(config: ADConfig, seed: int = SETTINGS.seed) -> ADModel:
    """The model that `train` starts from."""
    torch.manual_seed(seed)
    return ADModel(config)


def first_batch(histories: Histories, windows: WindowSettings = WINDOWS) -> dict[str, torch.Tensor]:
    batches = window_batches(histories, windows, SETTINGS.batch_size, 30, num_actions=5, seed=SETTINGS.seed)
    return next(batches)


# Resuming


@pytest.mark.parametrize("kind", RUNS)
def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(
    kind: str, histories: Histories, tmp_path: Path
) -> None:
    run(histories, tmp_path / "whole", **RUNS[kind])
    with pytest.raises(Died):
        run(histories, tmp_path / "resumed", on_update=die_after(5), **RUNS[kind])  # checkpoint: update 3
    assert [line["update"] for line in log(tmp_path / "resumed")] == [1, 2, 3, 4, 5]
    run(histories, tmp_path / "resumed", resume=True, **RUNS[kind])
    assert log(tmp_path / "resumed") == log(tmp_path / "whole")
    assert [line["update"] for line in log(tmp_path / "resumed")] == list(range(1, UPDATES + 1))
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(values, whole[name]) for name, values in resumed.items())


def test_a_run_that_dies_before_its_first_checkpoint_starts_again(
    histories: Histories, tmp_path: Path
) -> None:
    run(histories, tmp_path / "whole")
    with pytest.raises(Died):
        run(histories, tmp_path / "resumed", on_update=die_after(2))
    run(histories, tmp_path / "resumed", resume=True)
    assert log(tmp_path / "resumed") == log(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(histories: Histories, tmp_path: Path) -> None:
    run(histories, tmp_path / "run")
    before = contents(tmp_path / "run")
    model = run(histories, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before
    assert not model.training


def command_line(dataset: Path, output: Path, changes: Iterable[str]) -> list[str]:
    """What follows `python -m` to train as a process of its own."""
    options = ["--dataset", str(dataset), "--output", str(output), *(f"--set={change}" for change in changes)]
    return ["ad_hf", "train", "dark-room", *options]


@pytest.mark.slow
def test_a_killed_process_goes_on_as_if_it_had_not_been(
    dataset_folder: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    changes = (*tiny, "train.updates=200", "train.checkpoint_every=20", "model.decoder.attention_dropout=0.2")
    output = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", *command_line(dataset_folder, output, changes)],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(output.glob("checkpoints/update-*")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (output / "model.safetensors").exists()
    recipe = load_recipe("dark-room", changes)
    run_train(recipe, str(dataset_folder), output, resume=True)
    run_train(recipe, str(dataset_folder), tmp_path / "whole")
    assert log(output) == log(tmp_path / "whole")
    assert [line["update"] for line in log(output)] == list(range(1, 201))


def test_a_line_that_was_cut_short_is_logged_anew(histories: Histories, tmp_path: Path) -> None:
    with pytest.raises(Died):
        run(histories, tmp_path, on_update=die_after(4))
    with (tmp_path / LOG).open("a") as file:
        file.write('{"update": 5, "lo')
    run(histories, tmp_path, resume=True)
    assert [line["update"] for line in log(tmp_path)] == list(range(1, UPDATES + 1))


@pytest.mark.parametrize("name", ["model.safetensors", checkpoints.STATE, checkpoints.PROGRESS])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_serves(
    name: str, histories: Histories, tmp_path: Path
) -> None:
    run(histories, tmp_path / "whole")
    with pytest.raises(Died):
        run(histories, tmp_path / "run", on_update=die_after(7))
    last = tmp_path / "run" / "checkpoints" / "update-00000006"
    (last / name).write_bytes((last / name).read_bytes()[:100])
    before = contents(tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"update-00000006 is damaged .*remove it to resume from the one bef"
    ):
        run(histories, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before
    shutil.rmtree(last)
    run(histories, tmp_path / "run", resume=True)
    assert log(tmp_path / "run") == log(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": replace(SETTINGS, learning_rate=1e-3)}, r"train.learning_rate=0.01, not 0.001"),
        ({"windows": WindowSettings(episode_stride=3)}, r"windows.episode_stride=2, not 3"),
        (
            {"config": ADConfig(context_length=20, decoder=CONFIG.decoder.to_dict())},
            "context_length=30, not 20",
        ),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(
    changed: dict[str, Any], message: str, histories: Histories, tmp_path: Path
) -> None:
    with pytest.raises(Died):
        run(histories, tmp_path, on_update=die_after(4))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"made with .*{message}.*resume with the same settings"):
        run(histories, tmp_path, resume=True, **changed)
    assert contents(tmp_path) == before


def test_a_run_is_not_resumed_on_other_histories(histories: Histories, tmp_path: Path) -> None:
    with pytest.raises(Died):
        run(histories, tmp_path, on_update=die_after(4))
    other = replace(histories, action=(histories.action + 1) % 5)
    with pytest.raises(ValueError, match=r"made with histories\.crc32="):
        run(other, tmp_path, resume=True)


def test_how_often_to_log_and_save_may_change_between_a_run_and_its_resumption(
    histories: Histories, tmp_path: Path
) -> None:
    run(histories, tmp_path / "whole")
    with pytest.raises(Died):
        run(histories, tmp_path / "run", on_update=die_after(4))
    other = replace(SETTINGS, log_every=2, checkpoint_every=2, keep_checkpoints=1)
    run(histories, tmp_path / "run", settings=other, resume=True)
    assert [line["update"] for line in log(tmp_path / "run")] == [1, 2, 3, 4, 6, 8]
    assert log(tmp_path / "run")[-1] == log(tmp_path / "whole")[-1]


# Checkpoints


def test_only_the_last_checkpoints_remain(histories: Histories, tmp_path: Path) -> None:
    settings = replace(SETTINGS, checkpoint_every=1, keep_checkpoints=3)
    run(histories, tmp_path, settings=settings)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["update-00000006", "update-00000007", "update-00000008"]


def test_without_checkpoints_along_the_way_there_is_one_at_the_end(
    histories: Histories, tmp_path: Path
) -> None:
    run(histories, tmp_path, settings=replace(SETTINGS, checkpoint_every=0))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["update-00000008"]


def test_a_run_leaves_safetensors_json_and_code_only(histories: Histories, tmp_path: Path) -> None:
    run(histories, tmp_path, recipe={})
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.suffix for path in files} == {".safetensors", ".json", ".jsonl", ".py"}
    state = tmp_path / "checkpoints" / "update-00000008" / checkpoints.STATE
    assert "random" in load_file(state)  # which would not read a pickle of that name


def test_a_checkpoint_that_was_not_finished_is_ignored_and_removed(
    histories: Histories, tmp_path: Path
) -> None:
    run(histories, tmp_path / "whole")
    with pytest.raises(Died):
        run(histories, tmp_path / "run", on_update=die_after(4))
    for partial in (tmp_path / "run" / "checkpoints" / "partial", tmp_path / "run" / "partial"):
        partial.mkdir()
        (partial / "model.safetensors").write_bytes(b"half of")
    run(histories, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run").keys() == contents(tmp_path / "whole").keys()
    assert log(tmp_path / "run") == log(tmp_path / "whole")


def test_a_full_disk_leaves_whole_checkpoints_to_resume_from(histories: Histories, tmp_path: Path) -> None:
    run(histories, tmp_path / "whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(line: dict[str, Any]) -> None:
        if line["update"] == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))

    try:
        with pytest.raises(Exception, match=r"File too large"):
            run(histories, tmp_path / "run", on_update=fill_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    run(histories, tmp_path / "run", resume=True)
    assert log(tmp_path / "run") == log(tmp_path / "whole")


def test_the_model_is_saved_as_it_was_returned_beside_its_recipe(
    histories: Histories, tmp_path: Path
) -> None:
    recipe = {"name": "dark-room", "dataset": "somewhere"}
    model = run(histories, tmp_path, recipe=recipe)
    assert json.loads((tmp_path / "recipe.json").read_text()) == recipe
    again = ADModel.from_pretrained(tmp_path)
    batch = first_batch(histories)
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert again.config.context_length == CONFIG.context_length


# What refuses to start, and leaves nothing behind


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 0}, "updates is 0, but must be at least 1"),
        ({"warmup": -1}, "warmup is -1, but must be at least 0"),
        ({"seed": -1}, "seed is -1, but must be at least 0"),
        ({"mixed_precision": "fp16"}, "mixed_precision is 'fp16', but must be 'no' or 'bf16'"),
        ({"batch_size": 4, "accumulation": 3}, "batch_size is 4, which accumulation=3 passes cannot share"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSettings(**changes)


def test_a_folder_with_anything_in_it_is_left_alone(histories: Histories, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("five years")
    with pytest.raises(ValueError, match="is not empty: go on with --resume, or choose another --output"):
        run(histories, tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"five years"}


def test_windows_longer_than_a_history_are_refused_before_anything_is_written(
    histories: Histories, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="a window has 500 transitions, but the longest history has 400"):
        run(histories, tmp_path / "run", config=ADConfig(context_length=500, decoder=DECODER))
    assert not (tmp_path / "run").exists()


def test_a_batch_that_processes_cannot_share_is_refused(
    histories: Histories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    with pytest.raises(ValueError, match=r"batch_size is 4, which 3 processes .* choose a multiple of 3"):
        run(histories, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_installed_is_refused(
    histories: Histories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Accelerate would train without it and not say a word.
    monkeypatch.setattr(training, "get_available_trackers", list)
    with pytest.raises(
        ValueError, match=r"'tensorboard' is not one .*\(none\): pip install 'ad-hf\[trackers\]'"
    ):
        run(histories, tmp_path / "run", settings=replace(SETTINGS, trackers=("tensorboard",)))
    assert not (tmp_path / "run").exists()


# Learning


def test_the_loss_falls(tmp_path: Path) -> None:
    optimal = {"epsilon_start": 0.0, "epsilon_end": 0.0}
    histories = collect(load_task_family("dark-room")["train"][:8], "noise", 5, seed=0, settings=optimal)
    run(histories, tmp_path, PLAIN, settings=replace(SETTINGS, updates=40))
    assert losses(tmp_path)[-1] < losses(tmp_path)[0] / 2


def test_the_first_loss_is_that_of_the_untrained_model_on_the_first_windows(
    histories: Histories, tmp_path: Path
) -> None:
    kinds = {"plain": (0.0, 0.0), "smooth": (0.2, 0.0), "masked": (0.0, 0.3)}
    for name, (label_smoothing, token_mask) in kinds.items():
        config = ADConfig(context_length=30, decoder=DECODER, label_smoothing=label_smoothing)
        windows = WindowSettings(episode_stride=2, token_mask=token_mask)
        run(histories, tmp_path / name, config, windows)
        batch = first_batch(histories, windows)
        assert ("token_mask" in batch) == (token_mask > 0)
        assert losses(tmp_path / name)[0] == untrained(config)(**batch).loss.item()
    assert len({losses(tmp_path / name)[0] for name in kinds}) == 3


def test_the_learning_rate_warms_up_and_then_follows_a_cosine_to_zero(
    histories: Histories, tmp_path: Path
) -> None:
    run(histories, tmp_path)
    warmup, peak = SETTINGS.warmup, SETTINGS.learning_rate
    done = range(UPDATES)  # updates before the one logged
    cosine = [peak / 2 * (1 + math.cos(math.pi * (d - warmup) / (UPDATES - warmup))) for d in done]
    expected = [peak * d / warmup if d < warmup else cosine[d] for d in done]
    assert [line["learning_rate"] for line in log(tmp_path)] == pytest.approx(expected)


def largest_change(before: ADModel, after: ADModel, dimensions: Iterable[int]) -> float:
    """The largest absolute change of a parameter that has as many dimensions."""
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return max(float((new - old).detach().abs().max()) for old, new in pairs if old.ndim in dimensions)


def test_gradients_are_clipped(histories: Histories, tmp_path: Path) -> None:
    settings = replace(SETTINGS, weight_decay=0.0)
    free = run(histories, tmp_path / "free", PLAIN, settings=settings)
    clipped = run(histories, tmp_path / "clipped", PLAIN, settings=replace(settings, max_grad_norm=1e-12))
    # Adam divides by the gradient's size, down to its epsilon of 1e-8: clipped below that, all stands still.
    assert largest_change(untrained(PLAIN), free, (1, 2)) > 1e-2
    assert largest_change(untrained(PLAIN), clipped, (1, 2)) < 1e-4


def test_weight_decay_is_of_matrices_only(histories: Histories, tmp_path: Path) -> None:
    settings = replace(SETTINGS, weight_decay=1.0, max_grad_norm=1e-12)
    after = run(histories, tmp_path, PLAIN, settings=settings)
    assert largest_change(untrained(PLAIN), after, (2,)) > 1e-3
    assert largest_change(untrained(PLAIN), after, (1,)) < 1e-4


def test_accumulation_changes_nothing_but_memory(histories: Histories, tmp_path: Path) -> None:
    run(histories, tmp_path / "one", PLAIN)
    run(histories, tmp_path / "two", PLAIN, settings=replace(SETTINGS, accumulation=2))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert len(losses(tmp_path / "two")) == UPDATES


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_evaluating_and_saving_along_the_way_do_not_change_the_losses(
    mixed_precision: str, histories: Histories, family: TaskFamily, tmp_path: Path
) -> None:
    # Dropout draws from the generator, and bf16 lives in a wrapper that both could take off.
    quiet = replace(SETTINGS, mixed_precision=mixed_precision, checkpoint_every=0)
    busy = replace(quiet, evaluate_every=3, evaluate_episodes=2, checkpoint_every=1)
    run(histories, tmp_path / "quiet", settings=quiet, family=family)
    run(histories, tmp_path / "busy", settings=busy, family=family)
    assert losses(tmp_path / "busy") == losses(tmp_path / "quiet")
    evaluated = [line["update"] for line in log(tmp_path / "busy") if "return_last" in line]
    assert evaluated == [3, 6]
    for line in log(tmp_path / "busy"):
        assert 0 <= line.get("return_first", 0) <= 20
        assert 0 <= line.get("return_last", 0) <= 20


def test_an_evaluation_is_logged_where_no_loss_is(
    histories: Histories, family: TaskFamily, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, log_every=5, evaluate_every=3, evaluate_episodes=1)
    run(histories, tmp_path, settings=settings, family=family)
    assert [(line["update"], "loss" in line) for line in log(tmp_path)] == [
        (3, False),
        (5, True),
        (6, False),
        (8, True),
    ]


def test_one_process_can_train_in_one_precision_after_the_other(histories: Histories, tmp_path: Path) -> None:
    for name, mixed_precision in (("full", "no"), ("mixed", "bf16"), ("full again", "no")):
        run(histories, tmp_path / name, PLAIN, settings=replace(SETTINGS, mixed_precision=mixed_precision))
    assert losses(tmp_path / "full again") == losses(tmp_path / "full")
    assert losses(tmp_path / "mixed") == pytest.approx(losses(tmp_path / "full"), abs=0.05)
    assert not set(losses(tmp_path / "mixed")) & set(losses(tmp_path / "full"))  # it is bf16 to the end


def test_a_tracker_is_told_every_line(histories: Histories, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(histories, tmp_path, settings=replace(SETTINGS, trackers=("tensorboard",)))
    events = EventAccumulator(str(next(tmp_path.rglob("events.out.tfevents.*")).parent))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, UPDATES + 1))
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses(tmp_path))


# Several processes
