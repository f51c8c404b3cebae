"""Loading: a checkpoint is found by AutoModel in any order of imports, and also where ad_hf is not installed.

Each case needs an interpreter of its own, and importing transformers takes seconds: one check per process,
several cases in a check.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_models import assert_close, lively_model

import ad_hf
from ad_hf.models import ADModel

ROOT = Path(__file__).parent.parent
CODE = {path.name for path in (ROOT / "ad_hf/models").glob("[!_]*.py")}


def run_python(code: str, *arguments: Path | str, cwd: Path) -> str:
    """Run code in a fresh interpreter that finds ad_hf; what it printed.

    Folders of Hugging Face go to `cwd`.
    """
    env = {name: value for name, value in os.environ.items() if name != "HF_MODULES_CACHE"}
    env |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(cwd / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def live(model: ADModel) -> torch.Tensor:
    """Logits (steps, B, A) of some life, several contexts long."""
    context, logits = model.start(2), []
    contrast = 28 if model.config.sees_pictures else 1
    for step in range(20):
        observation = context.tokens["observation"][:, 0].clone()
        observation[0], observation[1] = step % 9 * contrast, step % 7 * contrast
        reward = torch.tensor([step % 3, 0.5])
        logits.append(model.next_action_logits(context, observation, reward))
        context.action[:] = step % 5
    _, context = model.act(context, observation, reward)
    return torch.stack(logits)


MODELS: dict[str, dict[str, Any]] = {
    "cells": {},
    "pictures": {"observation_space": {"type": "Box", "shape": [44, 36, 3], "dtype": "uint8"}},
    "sets": {"unordered_context": True},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints."""
    path = tmp_path_factory.mktemp("loading")
    for name, settings in MODELS.items():
        model = lively_model(context_length=7, **settings)
        model.generation_config.num_episodes = 3
        model.save_pretrained(path / name)
    return path


@pytest.fixture(scope="module")
def folder(folders: Path) -> Path:
    """A checkpoint."""
    return folders / "cells"


# Where ad_hf is installed


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import ad_hf, torch, transformers",
        "import ad_hf; from transformers import AutoModel; import torch",
        "import torch, ad_hf; from transformers import AutoConfig",
        "import torch; from transformers import AutoModel; import ad_hf",
        "from transformers import AutoConfig; import torch, ad_hf",
        "import transformers, ad_hf, torch",
        "import ad_hf.models, transformers",
    ],
)
def test_auto_classes_know_our_model_in_any_order_of_imports(imports, folder, tmp_path):
    checks = """
import sys, transformers
config = transformers.AutoConfig.from_pretrained(sys.argv[1])
assert type(config) is sys.modules["ad_hf.models"].ADConfig
model = transformers.AutoModel.from_pretrained(sys.argv[1])
assert type(model) is sys.modules["ad_hf.models"].ADModel
assert type(model.generation_config) is sys.modules["ad_hf.models"].ADGenerationConfig
assert model.generation_config.num_episodes == 3
assert not any(name.startswith("transformers_modules") for name in sys.modules)
"""
    run_python(imports + checks, folder, cwd=tmp_path)


@pytest.mark.parametrize("imports", ["import ad_hf, gymnasium", "import gymnasium, ad_hf"])
def test_gymnasium_knows_our_environments_in_any_order_of_imports(imports, tmp_path):
    make = """
assert gymnasium.make("ad_hf/DarkRoom-v0", goal=(3, 5)).reset(seed=0)[0].tolist() == [4, 4]
assert gymnasium.make_vec("ad_hf/DarkRoomHard-v0", num_envs=3).num_envs == 3
"""
    run_python(imports + make, cwd=tmp_path)


def test_importing_ad_hf_costs_nothing(tmp_path):
    code = """
import sys
import ad_hf, ad_hf.cli
heavy = {"torch", "transformers", "gymnasium", "numpy", "datasets", "pyarrow", "accelerate", "matplotlib"}
print(*sorted(heavy & sys.modules.keys()))
"""
    assert run_python(code, cwd=tmp_path).strip() == ""


def test_every_public_name_is_there():
    for name in ad_hf.__all__:
        assert getattr(ad_hf, name).__name__ == name
    with pytest.raises(AttributeError, match="'ad_hf' has no attribute 'nonsense'"):
        _ = ad_hf.nonsense


# Where it is not


def test_a_checkpoint_carries_all_its_code(folder):
    assert {path.name for path in folder.glob("*.py")} == CODE
    for name in CODE:
        assert (folder / name).read_text() == (ROOT / "ad_hf/models" / name).read_text()


@pytest.mark.slow
def test_checkpoints_live_without_ad_hf_and_gymnasium(folders, tmp_path):
    # Saved from there they are whole again, code included.
    before = """
import sys
sys.modules |= dict.fromkeys(["ad_hf", "gymnasium"])  # makes their import fail, also where they are installed
import torch
from safetensors.torch import save_file
from transformers import AutoModel

"""
    after = """
for name in sys.argv[3:]:
    model = AutoModel.from_pretrained(f"{sys.argv[1]}/{name}", trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    assert type(model.generation_config).__name__ == "ADGenerationConfig"
    assert model.generation_config.num_episodes == 3
    model.save_pretrained(f"{sys.argv[2]}/{name}-again")
    again = AutoModel.from_pretrained(f"{sys.argv[2]}/{name}-again", trust_remote_code=True)
    assert type(again).__module__ != type(model).__module__
    save_file({"first": live(model), "again": live(again)}, f"{sys.argv[2]}/{name}.safetensors")
"""
    source = inspect.getsource(live).replace("ADModel", "object")
    run_python(before + source + after, folders, tmp_path, *MODELS, cwd=tmp_path)
    for name, settings in MODELS.items():
        wanted = live(lively_model(context_length=7, **settings))
        for values in load_file(tmp_path / f"{name}.safetensors").values():
            assert_close(values, wanted, atol=1e-6)
            assert values.shape == (20, 2, 5), name
        assert {path.name: path.stat().st_size for path in tmp_path.glob(f"{name}-again/*.py")} == {
            path.name: path.stat().st_size for path in folders.glob(f"{name}/*.py")
        }
