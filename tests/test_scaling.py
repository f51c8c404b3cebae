"""Scaling: fits, operations and bytes on paper against known ones, and the script from end to end."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from ad_hf.collection import CollectSettings, Shard, collect_dataset, write_shard
from ad_hf.dataset import load_histories
from ad_hf.evaluation import history_prompt
from ad_hf.histories import Histories, collect
from ad_hf.models import ADConfig, ADModel
from ad_hf.tasks import TaskFamily, load_task_family, make_vec
from ad_hf.windows import WindowSettings, window_batches

ROOT = Path(__file__).parent.parent
TASKS = load_task_family("dark-room")["train"]
BEGIN, END = "<!-- scaling: written by scripts/scaling.py -->\n", "<!-- end of scaling -->\n"


@pytest.fixture(scope="module")
def laws() -> Any:
    """scripts/scaling_laws.py, which is no package."""
    spec = importlib.util.spec_from_file_location("scaling_laws", ROOT / "scripts" / "scaling_laws.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


# Fits


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_a_power_law_is_recovered(laws: Any, power: float) -> None:
    sizes = [10, 20, 40, 80]
    found = laws.fit(sizes, [[3 * size**power] * 2 for size in sizes])
    assert found.exponent == pytest.approx(power, abs=1e-12)
    assert found.low == pytest.approx(power, abs=1e-6)
    assert found.high == pytest.approx(power, abs=1e-6)
    assert found.factor == pytest.approx(3)


def test_the_interval_covers_the_exponent_in_19_of_20_cases(laws: Any) -> None:
    rng, sizes, covered = np.random.default_rng(0), np.array([10, 20, 40, 80]), 0
    for _ in range(1000):
        costs = 2 * sizes**0.7 * np.exp(0.1 * rng.standard_normal((3, 4)))
        found = laws.fit(sizes, costs.T)
        covered += found.low <= 0.7 <= found.high
    assert 930 <= covered <= 970


def test_a_bent_curve_has_a_wide_interval(laws: Any) -> None:
    sizes = [1, 10, 100]
    found = laws.fit(sizes, [[5.0 + size] * 3 for size in sizes])  # linear, but for what it costs to begin
    assert found.high - found.low > 0.2


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (10, 2.228), (30, 2.042)]
)
def test_quantiles_are_those_of_students_table(laws: Any, freedom: int, quantile: float) -> None:
    assert laws.student_quantile(freedom) == pytest.approx(quantile, abs=1e-3)


@pytest.mark.parametrize(("sizes", "costs"), [([1, 2], [[1.0], [2.0]]), ([1], [[1.0, 1.1, 1.2]])])
def test_too_few_measurements_are_refused(laws: Any, sizes: list[int], costs: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="make no interval: take 3 at 2 or more"):
        laws.fit(sizes, costs)


# Operations


def model_of(width: int, layers: int, context: int) -> ADModel:
    decoder = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 4 * width}
    return ADModel(ADConfig(context_length=context, decoder=decoder))


@pytest.fixture(scope="module")
def histories() -> Histories:
    return collect(TASKS[:3], "q-learning", num_episodes=20)


@pytest.mark.parametrize(("width", "layers", "context"), [(32, 2, 40), (64, 1, 80), (64, 3, 200)])
def test_training_takes_the_operations_on_paper(
    laws: Any, histories: Histories, width: int, layers: int, context: int
) -> None:
    model = model_of(width, layers, context)
    batch = next(window_batches(histories, WindowSettings(), 4, context, 5, seed=0))
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    N = laws.matrix_parameters(layers, width)
    assert sum(p.numel() for p in model.decoder.parameters() if p.ndim > 1) == N
    with_head = N + model.head.weight.numel()
    paper = 4 * context * laws.training_flops(with_head, layers, width, context)
    assert counter.get_total_flops() == pytest.approx(paper, rel=0.005)


@pytest.mark.parametrize(("width", "layers", "context"), [(32, 2, 40), (64, 1, 80), (64, 3, 200)])
def test_playing_takes_the_operations_on_paper(
    laws: Any, histories: Histories, width: int, layers: int, context: int
) -> None:
    model, episodes = model_of(width, layers, context).eval(), context // 2 // 20
    prompt = history_prompt(histories, 0, context // 2)
    with FlopCounterMode(display=False) as counter:
        output = model.generate(make_vec(TASKS[:3]), prompt=prompt, num_episodes=episodes, seed=0)
    assert output.num_steps == 3 * context // 2
    N = laws.matrix_parameters(layers, width)
    paper = output.num_steps * laws.generate_flops(N, layers, width, context)
    assert counter.get_total_flops() == pytest.approx(paper, rel=0.01)


def test_a_ring_sends_each_gradient_less_than_twice(laws: Any) -> None:
    assert laws.all_reduce_bytes(1000, 1) == 0
    assert laws.all_reduce_bytes(1000, 2) == 4000
    assert laws.all_reduce_bytes(1000, 8) == 7000


# Bytes


def shards_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.parquet"))


def test_a_dataset_has_the_bytes_predicted_from_a_smaller_one(laws: Any, tmp_path: Path) -> None:
    found, sizes = {}, {"small": 8, "large": 32}
    for name, tasks in sizes.items():
        family = TaskFamily("dark-room", {"train": TASKS[:tasks]})
        collect_dataset(tmp_path / name, family, CollectSettings(num_episodes=200, learners_per_task=24))
        histories = load_histories(str(tmp_path / name), "dark-room", expert_actions=False)
        found[name] = laws.measured_storage(shards_of(tmp_path / name), histories), histories
    storage, histories = found["large"]
    steps, written = len(histories.action), sum(path.stat().st_size for path in shards_of(tmp_path / "large"))
    assert storage.disk(2) * steps == pytest.approx(written)
    assert found["small"][0].disk(2) * steps == pytest.approx(written, rel=0.05)
    # Of each step two coordinates, an action, a reward and whether an episode begins; of each episode the
    # last coordinates, two ends and where it begins.
    assert found["small"][0].memory(2) == pytest.approx(2 + 1 + 4 + 1 + (2 + 2 + 8) / 20, rel=0.001)


def test_larger_observations_have_the_bytes_of_the_formula(laws: Any, tmp_path: Path) -> None:
    histories = collect(TASKS[:3], "q-learning", num_episodes=400)
    found, rng = {}, np.random.default_rng(0)
    for size in (2, 50):  # of noise, which nothing compresses
        noise = {
            name: rng.integers(256, size=(len(getattr(histories, name)), size), dtype=np.uint8)
            for name in ("observation", "final_observation")
        }
        noisy = replace(histories, **noise)
        shard = Shard(tmp_path / f"{size}.parquet", tuple(range(3)), histories.tasks, (0,) * 3)
        write_shard(shard, noisy, 0)
        found[size] = laws.measured_storage([shard.path], noisy)
    assert found[2].memory(50) == pytest.approx(found[50].memory(50))
    assert found[2].disk(50) == pytest.approx(found[50].disk(50), rel=0.03)


# The prediction


def test_a_prediction_is_the_arithmetic_by_hand(laws: Any) -> None:
    storage = laws.Storage(observation_share=1.5, zstd=0.2, disk_rest=1.0, memory_rest=5.0)
    machine = laws.Machine(collect=1e6, windows=1e7, train=1e10, generate=1e9, storage=storage)
    run = laws.Run(
        tasks=36,
        transitions=3.6e9,
        bytes_per_observation=10,
        layers=1,
        width=10,
        context=50,
        passes=2,
        gpus=4,
        peak=1e12,
        mfu=0.1,
    )
    values = {line.name: line.value for line in laws.predict(run, machine)}
    flops = 2 * 3.6e9 * (6 * 1200 + 12 * 10 * 50)  # 13,200 for a transition
    assert values == pytest.approx(
        {
            "collect": 1,  # hour
            "on disk": 4 * 3.6e9,
            "in memory": 20 * 3.6e9,
            "in memory, one history": 20 * 1e8,
            "parameters": 1200,
            "train": flops,
            "train, 4 GPUs": flops / 4e11 / 3600,
            "train, here": flops / 1e10 / 3600,
            "windows for the GPUs": 720 / (flops / 4e11),
            "gradients sent, per GPU and update": 2 * 3 / 4 * 4 * 1200,
            "generate, one core": 1e9 / (2 * (2 * 1200 + 4 * 10 * 50)),
        }
    )


@pytest.mark.parametrize("changed", ["passes", "transitions"])
def test_twice_the_data_takes_twice_the_hours(laws: Any, changed: str) -> None:
    storage = laws.Storage(1.0, 1.0, 1.0, 1.0)
    machine, once = laws.Machine(1.0, 1.0, 1.0, 1.0, storage), laws.Run()
    twice = replace(once, **{changed: 2 * getattr(once, changed)})
    hours = [{q.name: q.value for q in laws.predict(run, machine)}["train, 8 GPUs"] for run in (once, twice)]
    assert hours[1] == pytest.approx(2 * hours[0])


# The script


@pytest.mark.slow
def test_the_script_measures_fits_predicts_and_writes_its_tables(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}old\n{END}after\n", encoding="utf-8")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    options = ["--quick", "--gpus", "16", "--write-readme", "--json", str(tmp_path / "results.json")]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "scripts" / "scaling.py"), *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    found = [(law["cost"], law["against"]) for law in results["laws"]]
    for law in [
        ("collect", "tasks"),
        ("train", "context"),
        ("generate", "N by width"),
        ("train", "processes"),
    ]:
        assert law in found
    numbers = [value for law in results["laws"] for value in law["fit"].values()]
    numbers += [law["exponent_on_paper"] for law in results["laws"]]
    numbers += [quantity["value"] for quantity in results["quantities"]]
    assert len(numbers) == 5 * len(found) + len(results["quantities"])
    assert all(math.isfinite(number) for number in numbers)
    for law in results["laws"]:
        assert law["fit"]["low"] <= law["fit"]["exponent"] <= law["fit"]["high"]
    assert results["run"]["gpus"] == 16
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    assert (before, after) == ("before\n", "after\n")
    assert "old" not in table
    assert table.count("\n| ") >= len(found) + len(results["quantities"])
