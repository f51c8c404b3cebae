"""Every process of tests has Hugging Face folders and a Hub of its own; nothing reaches the network."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import LocalHub

ROOT = Path(__file__).parent.parent
HOME = Path(tempfile.mkdtemp(prefix="ad-hf-tests-"))
HUB = LocalHub()

# Set before any test imports a library that reads them; nothing of the user's own settings remains.
for name in list(os.environ):
    if name.startswith(("HF_", "HUGGING_FACE_")) or name.lower().endswith("_proxy"):
        del os.environ[name]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the ad-hf command does
os.environ |= {
    "HF_HOME": str(HOME),
    "HF_DATASETS_CACHE": str(HOME / "datasets"),
    "HF_TOKEN_PATH": str(HOME / "token"),
    "HF_ENDPOINT": HUB.url,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # they are counted on another host
}


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def running_hub() -> Iterator[LocalHub]:
    """A Hub with whatever earlier tests have left in it; most tests only need it not to be the real one."""
    HUB.start()
    yield HUB
    HUB.close()


@pytest.fixture
def hub(running_hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """An empty Hub and empty caches; the user is ada, who may write to the organisation "org"."""
    running_hub.reset()
    for path in HOME.iterdir():
        shutil.rmtree(path, ignore_errors=True)
    monkeypatch.setenv("HF_TOKEN", "hf_ada_write")
    if "huggingface_hub" in sys.modules:
        sys.modules["huggingface_hub"].HfFileSystem.clear_instance_cache()
    if "datasets" in sys.modules:
        config = sys.modules["datasets"].config
        monkeypatch.setattr(config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # seconds, after a shuffled stream
        monkeypatch.setattr(config, "USE_PARQUET_EXPORT", False)  # it would be asked for at another host
    yield running_hub
    leaks = running_hub.leaks
    running_hub.reset()  # also lets go of requests that stall
    assert not leaks, "a token of the Hub was sent to where content is kept"


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """Runs code in a fresh interpreter with Hugging Face folders of its own: `run_python(code, *arguments)`.

    `env` adds variables; `ad_hf=False` makes ad_hf impossible to import, also where it is installed.
    It returns what the code printed, and fails if the code does.
    """
    numbers = itertools.count()

    def run(code: str, *arguments: object, env: dict[str, str] | None = None, ad_hf: bool = True) -> str:
        folder = tmp_path / f"python-{next(numbers)}"
        folder.mkdir()
        own = {"HF_HOME": str(folder / "hf"), "HF_DATASETS_CACHE": str(folder / "hf" / "datasets")}
        own |= {"HF_TOKEN_PATH": str(folder / "hf" / "token"), "PYTHONPATH": str(ROOT) if ad_hf else ""}
        blocked = "" if ad_hf else 'import sys; sys.modules["ad_hf"] = None\n'
        done = subprocess.run(
            [sys.executable, "-c", blocked + code, *map(str, arguments)],
            cwd=folder,
            env=os.environ | own | (env or {}),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


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
    from ad_hf.recipes import load_recipe
    from ad_hf.runs import run_collect

    folder = tmp_path_factory.mktemp("session") / "histories"
    run_collect(load_recipe("dark-room", TINY), folder, lambda done, total: None)
    return folder


@pytest.fixture(scope="session")
def checkpoint(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on them for a moment; copy it before you change it."""
    from ad_hf.recipes import load_recipe
    from ad_hf.runs import run_train

    folder = tmp_path_factory.mktemp("session") / "model"
    run_train(load_recipe("dark-room", TINY), str(dataset_folder), folder)
    return folder
