"""Compiled models: the same logits and losses, by few programs, for each takes 5 to 20 seconds to make."""

from __future__ import annotations

import os
import shutil
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_generation import ROOM, Life, rooms
from test_models import DECODERS, assert_close, lively_model
from test_training import SETTINGS, WINDOWS, log, losses
from torch._dynamo.utils import counters

from ad_hf.histories import Histories, collect
from ad_hf.models import ADConfig
from ad_hf.tasks import TaskFamily, load_task_family, make_vec
from ad_hf.training import train

CONFIG = ADConfig(
    context_length=30,
    decoder={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
)
COMPILED = replace(
    SETTINGS, updates=6, compile=True, mixed_precision="bf16", evaluate_every=2, evaluate_episodes=2
)

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None
    or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="torch.compile needs a C++ compiler and the headers of Python",
)


def num_programs() -> int:
    """How many programs torch has made in this process."""
    return counters["stats"]["unique_graphs"]


@pytest.fixture(scope="module")
def family() -> TaskFamily:
    """Dark Room with two test tasks, for short evaluations that are short."""
    whole = load_task_family("dark-room")
    return TaskFamily("dark-room", {"train": whole["train"][:8], "test": whole["test"][:2]})


@pytest.fixture(scope="module")
def histories(family: TaskFamily) -> Histories:
    return collect(family["train"], "q-learning", 20, seed=0)


@pytest.mark.slow
@needs_compiler
def test_compiled_steps_are_exact_and_two_programs_serve_however_often_the_context_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(DECODERS, "one layer", DECODERS["gpt_neox"] | {"num_hidden_layers": 1})
    model = lively_model("one layer", observation_space=ROOM, context_length=12)
    before = num_programs()
    ours, theirs = (model.generate(rooms(), num_episodes=12, seed=3, compile=flag) for flag in (True, False))
    assert torch.equal(ours.episode_returns, theirs.episode_returns)
    assert ours.num_steps == theirs.num_steps == 4 * 12 * 5
    assert num_programs() == before + 2  # for a step, and for what a cut leaves

    life, context = Life(model, num_envs=4), model.start(4, compile=True)
    assert context.forward != model.forward
    cuts = 0
    for _ in range(40):
        cuts += context.length == context.max_length
        logits = life.live(context)
        for row in range(4):
            assert_close(logits[row], life.full_pass(row, context.length))
    assert cuts >= 3
    assert num_programs() == before + 2


@pytest.mark.slow
@needs_compiler
def test_a_compiled_training_evaluates_saves_and_resumes_as_any_other(
    histories: Histories, family: TaskFamily, tmp_path: Path
) -> None:
    before = num_programs()
    train(histories, CONFIG, WINDOWS, replace(COMPILED, compile=False), tmp_path / "eager", family)
    assert num_programs() == before
    model = train(histories, CONFIG, WINDOWS, COMPILED, tmp_path / "whole", family)
    assert num_programs() == before + 1  # evaluations need none, nor do they spoil it
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "eager"), rel=1e-3)
    assert [line["update"] for line in log(tmp_path / "whole") if "return_last" in line] == [2, 4, 6]
    saved = load_file(tmp_path / "whole" / "checkpoints" / "update-00000006" / "model.safetensors")
    assert saved.keys() == load_file(tmp_path / "eager" / "model.safetensors").keys()
    weights = model.state_dict()
    assert all(torch.equal(values, weights[name]) for name, values in saved.items())
    envs = make_vec(family["test"])
    assert model.generate(envs, num_episodes=2, seed=0).episode_returns.shape == (2, 2)

    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "update-00000006")
    train(histories, CONFIG, WINDOWS, COMPILED, tmp_path / "resumed", family, resume=True)
    assert log(tmp_path / "resumed") == log(tmp_path / "whole")
    resumed = load_file(tmp_path / "resumed" / "model.safetensors")
    assert all(torch.equal(values, saved[name]) for name, values in resumed.items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU no C++ compiler is needed")
def test_without_a_compiler_there_is_no_compiled_training(
    histories: Histories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"^train\.compile needs a C\+\+ compiler, .* no no-such-compiler: "):
        train(histories, CONFIG, WINDOWS, COMPILED, tmp_path / "model")
    assert not (tmp_path / "model").exists()
