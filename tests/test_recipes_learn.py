"""What the papers say of bandits and of decision pretraining, from our recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ad_hf.recipes import load_recipe
from ad_hf.runs import run_collect, run_evaluate, run_train

pytestmark = pytest.mark.slow


def curves(name: str, changes: list[str], folder: Path, split: str = "test") -> dict[str, np.ndarray]:
    """Mean returns of the model and its references, after the whole route with some settings changed."""
    recipe = load_recipe(name, changes)
    if not (folder / "model").exists():
        run_collect(recipe, folder / "histories", lambda done, total: None)
        run_train(recipe, str(folder / "histories"), folder / "model")
    settings = load_recipe(str(folder / "model"), [f"evaluate.split={split}"]).evaluate
    report = run_evaluate(str(folder / "model"), None, settings, output=folder / split)
    return {agent: np.array(curve["return_per_episode"]) for agent, curve in report["agents"].items()}


def test_a_model_learns_bandits_in_context_even_where_arms_pay_that_did_not_in_training(
    tmp_path: Path,
) -> None:
    changes = ["train.updates=300", "evaluate.rollouts_per_task=2", "evaluate.bootstrap_samples=10"]
    for split, least in (("test", 0.85), ("even", 0.4)):
        agents = curves("adversarial-bandit", changes, tmp_path, split)
        model, random, source = (agents[name].sum() for name in ("ad", "random", "source"))
        assert (model - random) / (source - random) > least


def test_decision_pretraining_explores_and_learns(tmp_path: Path) -> None:
    changes = [
        *("objective=dpt", "evaluate.rollouts_per_task=2", "evaluate.num_episodes=20"),
        "evaluate.bootstrap_samples=10",
    ]
    model = curves("dark-room", changes, tmp_path)["dpt"]
    assert model[0] < 2.6
    assert model[-5:].mean() > 4
