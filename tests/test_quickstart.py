"""The quickstart, from nothing to the claim of the README: frozen weights that go on learning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished quickstart."""
    output = tmp_path_factory.mktemp("quickstart") / "run"
    script = [sys.executable, str(ROOT / "scripts" / "quickstart.py"), "--output", str(output)]
    # A script's own folder stands on its path, not the one it is started in.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    subprocess.run(script, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, check=True)
    return output


@pytest.fixture(scope="module")
def curves(run: Path) -> dict[str, np.ndarray]:
    """Mean return of every agent, episode after episode."""
    report: dict[str, Any] = json.loads((run / "report" / "report.json").read_text())
    return {name: np.array(agent["return_per_episode"]) for name, agent in report["agents"].items()}


def test_it_leaves_histories_a_model_and_a_report(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == ["ed", "histories", "model", "report"]
    assert (run / "histories" / "README.md").exists()
    assert (run / "model" / "model.safetensors").exists()
    names = {path.name for path in (run / "report").iterdir()}
    assert names == {"report.json", "report.md", "learning_curves.png"}


def test_it_starts_ignorant_and_becomes_skilled(curves: dict[str, np.ndarray]) -> None:
    assert curves["ad"][0] < 2.6
    assert curves["ad"][36:40].mean() >= 14.5


def test_it_keeps_rising(curves: dict[str, np.ndarray]) -> None:
    end = curves["ad"][-10:].mean()
    assert end > curves["ad"][36:40].mean() - 0.3
    assert end > curves["ad"][10:20].mean()


def test_it_learns_faster_than_its_source(curves: dict[str, np.ndarray]) -> None:
    assert curves["source"][39] < curves["ad"][39]


def test_imitating_experts_is_not_enough(curves: dict[str, np.ndarray]) -> None:
    assert curves["ed"].max() < 4
