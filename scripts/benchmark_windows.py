"""Windows: from published Parquet to batches of 64 windows of 1000 transitions, on one core.

Collects Q-learning histories in Dark Room, opens them and cuts the same windows by `ad_hf.windows` and as one
would otherwise: a DataLoader over the arrays of each history, rows of `datasets`, slices of an HDF5 file. It
checks first that all yield the same observations, actions and rewards. Only ours draws the windows, shifts
actions and rewards by one step and marks where episodes begin; the others are told where to cut, and do that.

    python scripts/benchmark_windows.py
    python scripts/benchmark_windows.py --transitions 1e8
"""

from __future__ import annotations

from benchmarking import Row, finish, interleaved, parser

# isort: split
import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset

from ad_hf.collection import CollectSettings, collect_dataset
from ad_hf.dataset import load_histories
from ad_hf.histories import Histories
from ad_hf.tasks import load_task_family
from ad_hf.windows import WindowSettings, draw_windows, window_batches

try:
    import h5py
except ImportError:
    h5py = None

B, L, NUM_ACTIONS, SEED = 64, 1000, 5, 0
EPISODES, HORIZON = 600, 20  # of a history, of an episode
FAST = ("ours", "DataLoader", "memcpy")
MANY, FEW = 24, 4  # batches in a repeat, of the fast sides and of the others
COLUMNS = ["observation", "action", "reward"]

Batches = Iterator[dict[str, Any]]
Pieces = list[tuple[int, int]]  # the steps from and up to which a window goes, in flat arrays


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--transitions", type=float, default=2e7, help="to train on, about")
    command.add_argument("--repeats", type=int, default=9)
    arguments = command.parse_args()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # DataLoader copies it
    if h5py is None:
        print("without h5py, which is not installed")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.transitions, arguments.repeats)
    finish(rows, arguments)


def measure(folder: Path, transitions: float, repeats: int) -> list[Row]:
    family = load_task_family("dark-room")
    learners = max(1, round(transitions / (len(family["train"]) * EPISODES * HORIZON)))
    settings = CollectSettings(num_episodes=EPISODES, learners_per_task=learners)
    collect_dataset(folder / "histories", family, settings)
    histories, rows = opened(folder, repeats)
    for stride in (1, 40):
        sides = all_sides(folder, histories, stride, 1 + repeats)
        check({name: side() for name, side in sides.items()})
        runs = {name: taking(side(), MANY if name in FAST else FEW) for name, side in sides.items()}
        rates = interleaved(runs, repeats)
        path, limit = f"windows, stride {stride}", ("memcpy", rates["memcpy"])
        rows += [
            Row(path, "transitions/s", rates["ours"], (name, rates[name]), limit)
            for name in sides
            if name not in ("ours", "memcpy")
        ]
    return rows


def opened(folder: Path, repeats: int) -> tuple[Histories, list[Row]]:
    """The histories, and what it costs to open them from files just written, which are still in memory."""
    path = folder / "histories"
    shards = sorted((path / "dark-room").glob("train-*.parquet"))

    def load() -> Histories:
        return load_histories(str(path), "dark-room", expert_actions=False)

    before = sys.getallocatedblocks()
    histories = load()
    blocks = sys.getallocatedblocks() - before
    steps = len(histories.action)
    print(
        f"{steps / 1e6:.1f} M transitions in {histories.num_episodes} episodes of {len(histories)} histories"
    )
    started = time.process_time()
    load_rows(folder)
    first = ("load_dataset, first time", steps / (time.process_time() - started))

    def decode() -> int:
        return sum(pq.ParquetFile(shard).read(COLUMNS).num_rows for shard in shards) * HORIZON

    rates = interleaved({"ours": lambda: len(load().action), "pyarrow": decode}, repeats)
    in_memory = sum(getattr(histories, name).nbytes for name in COLUMNS) / steps
    on_disk = sum(shard.stat().st_size for shard in shards) / steps
    return histories, [
        Row("open", "transitions/s", rates["ours"], first, ("decoding by pyarrow", rates["pyarrow"])),
        Row("open 100 M transitions", "s of CPU", 1e8 / rates["ours"]),
        Row("open 100 MB of arrays", "s of CPU", 1e8 / in_memory / rates["ours"]),
        Row("open 100 MB of Parquet", "s of CPU", 1e8 / on_disk / rates["ours"]),
        Row("open an episode", "Python objects", blocks / histories.num_episodes),
    ]


def load_rows(folder: Path) -> Any:
    place, cache = str(folder / "histories"), str(folder / "cache")
    return datasets.load_dataset(place, "dark-room", split="train", cache_dir=cache).select_columns(COLUMNS)


def all_sides(
    folder: Path, histories: Histories, stride: int, rounds: int
) -> dict[str, Callable[[], Batches]]:
    """What yields batches of the same windows from the first on, and the bytes of such batches."""
    settings = WindowSettings(episode_stride=stride)
    windows = [window for update in range(rounds * MANY) for window in pieces_of(histories, stride, update)]
    few = windows[: rounds * FEW * B]
    episodes = [episodes_of(histories, pieces) for pieces in few]
    loader = DataLoader(HistoryWindows(histories, windows), batch_size=B)
    table = load_rows(folder)
    lists, arrow = lists_of(table), arrays_of(table.with_format("arrow"), histories)
    sides: dict[str, Callable[[], Batches]] = {
        "ours": lambda: window_batches(histories, settings, B, L, NUM_ACTIONS, SEED),
        "DataLoader": lambda: iter(loader),
        "datasets": lambda: stacked(episodes, lists),
        "datasets, Arrow": lambda: stacked(episodes, arrow),
        "memcpy": lambda: memcpy(histories),
    }
    if h5py is not None:
        file = hdf5_file(folder, histories)
        sides["h5py"] = lambda: stacked(
            few, lambda pieces: {name: joined(file[name], pieces) for name in COLUMNS}
        )
    return sides


def pieces_of(histories: Histories, stride: int, update: int) -> list[Pieces]:
    """The windows of a batch."""
    steps, _ = draw_windows(histories, B, L, stride, np.random.default_rng((SEED, update)))
    windows = []
    for row in steps:
        parts = np.split(row, np.flatnonzero(np.diff(row) != 1) + 1)
        windows.append([(int(part[0]), int(part[-1]) + 1) for part in parts])
    return windows


def episodes_of(histories: Histories, pieces: Pieces) -> tuple[slice | list[int], int]:
    """The episodes that a window touches, and the steps of the first of them that it leaves out."""
    edges = [(first, end - 1) for first, end in pieces]
    spans = (np.searchsorted(histories.episode_offsets, edges, side="right") - 1).tolist()
    episodes = [episode for first, last in spans for episode in range(first, last + 1)]
    skipped = pieces[0][0] - int(histories.episode_offsets[episodes[0]])
    return slice(episodes[0], episodes[-1] + 1) if len(pieces) == 1 else episodes, skipped


class HistoryWindows(Dataset):
    """Windows of histories that lie in arrays of their own."""

    def __init__(self, histories: Histories, windows: list[Pieces]) -> None:
        borders = histories.episode_offsets[histories.history_offsets]
        self.arrays = {name: np.split(getattr(histories, name), borders[1:-1]) for name in COLUMNS}
        starts = [pieces[0][0] for pieces in windows]
        history = (np.searchsorted(borders, starts, side="right") - 1).tolist()
        begins = borders[history].tolist()
        self.windows = [
            (number, [(first - begin, end - begin) for first, end in pieces])
            for number, begin, pieces in zip(history, begins, windows, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        history, pieces = self.windows[index]
        return {name: joined(arrays[history], pieces) for name, arrays in self.arrays.items()}


def joined(steps: Any, pieces: Pieces) -> np.ndarray:
    """The pieces of an array, or of what is sliced like one."""
    parts = [steps[first:end] for first, end in pieces]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def lists_of(table: Any) -> Callable[[Any], dict[str, np.ndarray]]:
    """Windows from rows as lists: `numpy` as their format takes 8 times as long."""

    def cut(window: Any) -> dict[str, np.ndarray]:
        episodes, skipped = window
        rows = table[episodes]
        return {
            name: np.array(list(itertools.chain.from_iterable(rows[name])))[skipped : skipped + L]
            for name in COLUMNS
        }

    return cut


def arrays_of(table: Any, histories: Histories) -> Callable[[Any], dict[str, np.ndarray]]:
    """Windows from rows as Arrow, by its own functions."""
    shapes = {name: getattr(histories, name).shape[1:] for name in COLUMNS}

    def cut(window: Any) -> dict[str, np.ndarray]:
        episodes, skipped = window
        rows = table[episodes]
        flat = {name: pc.list_flatten(rows[name], recursive=True).to_numpy() for name in COLUMNS}
        return {
            name: values.reshape(-1, *shapes[name])[skipped : skipped + L] for name, values in flat.items()
        }

    return cut


def hdf5_file(folder: Path, histories: Histories) -> Any:
    """A dataset for each column."""
    path = folder / "histories.hdf5"
    if not path.exists():
        with h5py.File(path, "w") as file:
            for name in COLUMNS:
                file[name] = getattr(histories, name)
    return h5py.File(path)


def stacked(windows: list[Any], cut: Callable[[Any], dict[str, np.ndarray]]) -> Batches:
    for first in range(0, len(windows), B):
        parts = [cut(window) for window in windows[first : first + B]]
        yield {name: torch.from_numpy(np.stack([part[name] for part in parts])) for name in COLUMNS}


def check(sides: dict[str, Batches]) -> None:
    """All yield the same."""
    ours = list(itertools.islice(sides["ours"], FEW))
    for name in sides.keys() - {"ours", "memcpy"}:
        for mine, theirs in zip(ours, itertools.islice(sides[name], FEW), strict=True):
            same = (
                torch.equal(mine["observation"].long(), theirs["observation"].long())
                and torch.equal(mine["labels"].long(), theirs["action"].long())
                and torch.equal(mine["previous_reward"][:, 1:], theirs["reward"][:, :-1].float())
            )
            if not same:
                raise SystemExit(f"ours and {name} do not yield the same")


def taking(batches: Batches, number: int) -> Callable[[], int]:
    """The transitions in the next batches, once they are made."""
    return lambda: sum(B * L for _ in itertools.islice(batches, number))


def memcpy(histories: Histories) -> Batches:
    """The bytes of our batches, copied from consecutive steps at random places."""
    action = histories.action
    taken = [histories.observation, action, action, histories.reward, action.view(bool)]  # as in a batch
    copies = [np.empty_like(values[: B * L]) for values in taken]
    rng = np.random.default_rng(SEED)
    while True:
        first = int(rng.integers(len(action) - B * L))
        for copy, values in zip(copies, taken, strict=True):
            np.copyto(copy, values[first : first + B * L])
        yield {}


if __name__ == "__main__":
    main()
