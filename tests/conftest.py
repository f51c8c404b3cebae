"""Every session of tests has Hugging Face folders of its own and no network."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Set before any test imports a library that reads them.
HOME = tempfile.mkdtemp(prefix="ad-hf-tests-")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the ad-hf command does
os.environ |= {"HF_HOME": HOME, "HF_DATASETS_CACHE": f"{HOME}/datasets", "HF_HUB_OFFLINE": "1"}


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


# A whole run in seconds; every setting that the tests depend on, whatever the recipe's own numbers are.
TINY = (
    "collect.source=q-learning",
    "collect.settings={}",
    "collect.num_episodes=12",
    "collect.learners_per_task=1",
    "collect.lockstep=512",
    "model.context_length=30",
    "model.tokens_per_transition=1",
    "model.label_smoothing=0",
    'model.decoder={"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}',
    'windows={"episode_stride": 2, "token_mask": 0, "expert_share": 0.25}',
    "train.updates=6",
    "train.batch_size=4",
    "train.accumulation=1",
    "train.warmup=2",
    "train.mixed_precision=no",
    "train.log_every=1",
    "train.evaluate_every=0",
    "train.checkpoint_every=2",
    "train.keep_checkpoints=2",
    'evaluate={"num_episodes": 3, "rollouts_per_task": 2, "bootstrap_samples": 20}',
)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Changes that make the recipe dark-room a matter of seconds, as `load_recipe` and --set take them."""
    return TINY


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny learning histories of Dark Room; copy them before you change them."""
    from ad_hf.recipes import load_recipe, run_collect

    folder = tmp_path_factory.mktemp("session") / "histories"
    run_collect(load_recipe("dark-room", TINY), folder, lambda done, total: None)
    return folder


@pytest.fixture(scope="session")
def checkpoint(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on them for a moment; copy it before you change it."""
    from ad_hf.recipes import load_recipe, run_train

    folder = tmp_path_factory.mktemp("session") / "model"
    run_train(load_recipe("dark-room", TINY), str(dataset_folder), folder)
    return folder
