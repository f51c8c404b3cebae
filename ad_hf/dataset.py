"""The dataset: learning histories as a folder of Parquet shards with a card, on disk and on the Hub.

One row is one episode; rows are sorted by history, then by episode. There is a config, a folder of its own,
for each task family, and a split's files are called `<split>-<number>-of-<total>.parquet`.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil  # comes with accelerate
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CardData, RepoCard

from ad_hf import cards, hub
from ad_hf.histories import EPISODES, STEPS, Histories
from ad_hf.tasks import Task

# 1.0 noted on the card only one config, and whether it was complete beside it; 1.1 had no expert_action.
FORMAT_VERSION = "1.2"

ROW_GROUP = 10_000  # episodes that are read and written at once, or fewer
ROW_GROUP_BYTES = 2**26  # where episodes are large

FIXED = ("task_categories", "size_categories", "configs", "dataset_info", "ad_hf")  # on a card, by us
BESIDE = (".*", "*.md", "LICENSE*", "*.png")  # files of a repository that holds no data yet

COLUMNS = {  # name -> what it holds; T = steps of the episode
    "history_id": "the learner whose history this is; rows of one history are adjacent",
    "task_id": "hash of `task`",
    "task": "environment id and constructor arguments, as JSON",
    "stream": "which of the task's learners this is",
    "episode": "number of the episode in its history, from 0",
    "learner_step": "environment steps the learner had taken before the episode",
    "observation": "T observations, each what an action was taken on",
    "action": "T actions",
    "reward": "T rewards",
    "final_observation": "what the last action led to",
    "terminated": "the episode ended in a terminal state",
    "truncated": "the episode was cut off, by a time limit for example",
    "episode_return": "sum of the rewards",
    "expert_action": "T actions of the optimal policy; only where the environment knows it",
}
OPTIONAL = ("expert_action",)
# Those that training reads. Tasks are read as references to the few there are: each row holds the whole text.
READ = tuple(name for name in COLUMNS if name not in ("task_id", "stream", "learner_step", "episode_return"))


def load_histories(path: str, config: str, split: str = "train", expert_actions: bool = True) -> Histories:
    """Load a split of a dataset of learning histories into flat arrays.

    Args:
        path: a folder, or the id of a dataset on the Hub, as `org/name` or `org/name@revision`.
        config: the task family, for example "dark-room".
        split: "train" or "test".
        expert_actions: read those too, where there are any. Only DPT needs them, and without them the others
            are read a quarter faster.

    Raises:
        ValueError: if there is no such config or split, or it is damaged, not complete, larger than memory,
            of a newer format, or something else than learning histories.
        HubError: if there is no such dataset, or it cannot be fetched.
    """
    folder = hub.folder_of(path, "dataset", (f"{config}/*.parquet", "README.md"))
    read_card(folder, path)
    shards = check_shards(shards_in(folder / config), split, f"{path}/{config}")
    return to_histories(_read_shards(shards, expert_actions), path)


def shards_in(folder: Path) -> list[tuple[str, str]]:
    """The path and the name of each Parquet file in a config's folder, in order."""
    return [(str(shard), shard.name) for shard in sorted(folder.glob("*.parquet"))]


def check_shards(shards: list[tuple[str, str]], split: str, place: str) -> list[str]:
    """Those of a config's files that are a split's, if none is missing.

    Args:
        shards: the place and the name of each file.
        split: "train" or "test".
        place: the config's folder, for messages.

    Raises:
        ValueError: if there is no such split, or shards of it are missing.
    """
    if not shards:
        raise ValueError(f"{place} holds no Parquet files: collect histories with `ad-hf collect` first")
    mine = [(where, name) for where, name in shards if name.startswith(f"{split}-")]
    if not mine:
        known = sorted({name.partition("-")[0] for _, name in shards})
        raise ValueError(f"{place} has no split {split!r}: choose one of {', '.join(known)}")
    totals = {name.removesuffix(".parquet").partition("-of-")[2] for _, name in mine}
    if totals != {f"{len(mine):05d}"}:
        raise ValueError(
            f"{place} holds {len(mine)} {split} shards, but by their names there are "
            f"{' or '.join(sorted(totals))}: run the same `ad-hf collect` again to complete it"
        )
    return [where for where, _ in mine]


def _read_shards(shards: list[str], expert_actions: bool) -> pa.Table:
    """The rows of a split.

    Not through `datasets`: its cache knows a local folder by its last name alone, and would return the
    histories of another runs/*/histories.
    """
    tables: list[pa.Table] = []
    declared = 0
    for shard in shards:
        with reading(shard):
            file = open_shard(shard, shard)
            declared += _declared_bytes(file)
            if declared > psutil.virtual_memory().available:
                raise ValueError(
                    f"{shard} and those before it declare {declared / 2**30:.1f} GiB, more than is free: "
                    "train with --streaming"
                )
            tables.append(file.read(columns=columns_read(file, expert_actions)))
        if tables[-1].schema != tables[0].schema:
            ours = {field.name: field.type for field in tables[0].schema}
            theirs = {field.name: field.type for field in tables[-1].schema}
            names = [name for name in READ if ours.get(name) != theirs.get(name)]
            changed = [f"{name} ({theirs.get(name, 'missing')})" for name in names]
            raise ValueError(f"{shard} has other types than {Path(shards[0]).name}: {', '.join(changed)}")
    return pa.concat_tables(tables)


def columns_read(file: pq.ParquetFile, expert_actions: bool = True) -> list[str]:
    """Those of the columns of `READ` that a shard has and that are wanted."""
    there = file.schema_arrow.names if expert_actions else ()
    return [name for name in READ if name not in OPTIONAL or name in there]


def rows_at_once(file: pq.ParquetFile, most: int) -> int:
    """How many of a shard's rows to decode together: `most`, or fewer where they are large."""
    return max(1, min(most, ROW_GROUP_BYTES * file.metadata.num_rows // max(_declared_bytes(file), 1)))


@contextlib.contextmanager
def reading(shard: str | Path) -> Iterator[None]:
    """Say which file it is, if it cannot be read."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{shard} ({Path(shard).stat().st_size} bytes) is truncated, damaged or not Parquet: "
            "remove it and run the same `ad-hf collect` again"
        ) from error


def _declared_bytes(file: pq.ParquetFile) -> int:
    """What our columns will take in memory, by a file's own account: few bytes can stand for many values."""
    total, metadata, schema = 0, file.metadata, file.schema_arrow
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in (group.column(index) for index in range(group.num_columns)):
            name = column.path_in_schema.partition(".")[0]
            if name not in READ:
                continue
            kind = schema.field(name).type
            while hasattr(kind, "value_type"):
                kind = kind.value_type
            total += column.num_values * (max(kind.bit_width // 8, 1) if pa.types.is_primitive(kind) else 8)
    return total


def open_shard(content: Any, place: str, **options: Any) -> pq.ParquetFile:
    """A Parquet file of learning histories.

    Args:
        content: its path, or an open file.
        place: what to call it in messages.
        options: of `pyarrow.parquet.ParquetFile`.

    Raises:
        ValueError: if it lacks columns of learning histories, or is no Parquet.
    """
    try:
        file = pq.ParquetFile(content, read_dictionary=["task"], page_checksum_verification=True, **options)
    except KeyError:  # it has no such column
        file = pq.ParquetFile(content, **options)
    missing = [name for name in COLUMNS if name not in file.schema_arrow.names and name not in OPTIONAL]
    if missing:
        raise ValueError(
            f"{place} does not hold learning histories: it lacks the columns {', '.join(missing)}"
        )
    return file


def to_histories(table: pa.Table, place: str) -> Histories:
    """Rows as flat arrays, once they have proved to be learning histories.

    Args:
        table: the columns of `READ`, the optional ones where they are there.
        place: where it was found, for messages.
    """
    if not len(table):
        raise ValueError(f"{place} holds no episodes")
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    flat = {name: _flat(columns[name], f"{name} in {place}") for name in STEPS if name in columns}
    rows = {
        name: _values(columns[name], f"{name} in {place}")
        for name in ("history_id", "episode", "final_observation", "terminated", "truncated")
    }
    lengths, *others = (columns[name].value_lengths().to_numpy() for name in flat)
    if lengths.min() < 1 or any((other != lengths).any() for other in others):
        raise ValueError(f"{place} holds episodes without steps, or with more of one column than of another")
    for name in ("history_id", "episode", "terminated", "truncated"):
        kinds = "biuf" if name in EPISODES else "iu"
        if rows[name].dtype.kind not in kinds or rows[name].ndim > 1:
            raise ValueError(f"{name} in {place} has to hold integers, but holds {columns[name].type}")
    reward = _rewards(flat["reward"], place)
    history_id, episode = rows["history_id"], rows["episode"]
    begins = np.flatnonzero(np.diff(history_id, prepend=history_id[0] - 1))
    continues = np.delete(np.arange(len(episode)), begins)
    if (
        len(np.unique(history_id)) != len(begins)
        or (episode[begins] != 0).any()
        or (episode[continues] <= episode[continues - 1]).any()
    ):
        raise ValueError(
            f"{place} is not sorted by history and episode, so its histories cannot be told apart"
        )
    which, tasks = _tasks(columns["task"], place)
    if (which[continues] != which[continues - 1]).any():
        raise ValueError(f"{place} holds a history of several tasks, but each history has to have one")
    return Histories(
        observation=flat["observation"],
        action=flat["action"],
        reward=reward,
        final_observation=rows["final_observation"],
        terminated=rows["terminated"].astype(bool, copy=False),
        truncated=rows["truncated"].astype(bool, copy=False),
        episode_offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        history_offsets=np.append(begins, len(history_id)),
        tasks=tuple(tasks[number] for number in which[begins]),
        expert_action=flat.get("expert_action"),
    )


def _rewards(reward: np.ndarray, place: str) -> np.ndarray:
    """Rewards (S,) as float32."""
    if reward.ndim > 1:
        raise ValueError(
            f"reward in {place} has to hold one number a step, but holds {list(reward.shape[1:])}"
        )
    with np.errstate(over="ignore"):
        small = reward.astype(np.float32, copy=False)
    if small is not reward and not np.isfinite(small).all():
        raise ValueError(f"reward in {place} holds {np.abs(reward).max()}, which is too much for float32")
    return small


def _tasks(column: pa.Array, place: str) -> tuple[np.ndarray, list[Task]]:
    """Which of the tasks each row is of, and the tasks."""
    texts = column.dictionary_encode() if pa.types.is_string(column.type) else column
    if not pa.types.is_dictionary(texts.type) or not pa.types.is_string(texts.type.value_type):
        raise ValueError(f"task in {place} has to hold text, but holds {column.type}")
    if texts.null_count:
        raise ValueError(f"task in {place} holds missing values")
    try:
        tasks = [Task.from_json(text) for text in texts.dictionary.to_pylist()]
    except ValueError as error:
        raise ValueError(f"task in {place} is damaged: {error}") from error
    return texts.indices.to_numpy(), tasks


def _flat(column: pa.ListArray, name: str) -> np.ndarray:
    """The steps (S, ...) of a column with one list per episode."""
    if not pa.types.is_list(column.type):
        raise ValueError(f"{name} has to be one list per episode, but is {column.type}")
    if column.null_count:
        raise ValueError(f"{name} holds missing episodes")
    return _values(column.flatten(), name)


def _values(column: pa.Array, name: str) -> np.ndarray:
    """The inverse of `_fixed`; refuses what is not whole or not numbers."""
    shape = []
    while pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type):
        inner = column.flatten()
        shape.append(len(inner) // max(len(column), 1))
        if column.null_count or (column.value_lengths().to_numpy() != shape[-1]).any():
            raise ValueError(f"{name} holds arrays of different sizes")
        column = inner
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(f"{name} has to hold numbers, but holds {kind}")
    values = column.to_numpy(zero_copy_only=False)
    if column.null_count or (pa.types.is_floating(kind) and not np.isfinite(values).all()):
        raise ValueError(f"{name} holds missing values, NaN or infinity")
    return values.reshape(-1, *shape)


def read_card(folder: Path, name: str) -> RepoCard | None:
    """The card of a dataset; None where it has none.

    Args:
        folder: where its README.md is.
        name: what it is called, for messages.

    Raises:
        ValueError: if the card cannot be read, or the dataset is of a newer format.
    """
    if not (folder / "README.md").is_file():
        return None
    card = cards.load_card(folder / "README.md")
    check_format(card, name)
    return card


def check_format(card: RepoCard | None, name: str) -> None:
    """Refuse a dataset of a newer format than this version of ad-hf can read; older ones it reads for ever.

    Raises:
        ValueError: if it is newer.
    """
    version = str(cards.about(card).get("format_version", FORMAT_VERSION))
    parts, known = ([int(n) for n in re.findall(r"\d+", v)] for v in (version, FORMAT_VERSION))
    if parts > known:
        raise ValueError(
            f"{name} has the format version {version}, but this ad-hf reads versions up to {FORMAT_VERSION}: "
            "upgrade it with `pip install --upgrade ad-hf`"
        )


def configs_of(card: RepoCard | None) -> dict[str, dict[str, Any]]:
    """How each config of a dataset was collected, as noted on its card."""
    about = cards.about(card)
    configs, beside = about.get("configs"), about.get("complete", False)  # where version 1.0 has it
    if not isinstance(configs, dict):
        return {}
    return {
        name: {**noted, "complete": noted.get("complete", beside)}
        for name, noted in configs.items()
        if isinstance(noted, dict)
    }


def is_complete(card: RepoCard | None, config: str) -> bool:
    """Whether a config has been collected to its end."""
    return bool(configs_of(card).get(config, {}).get("complete"))


def add_to_card(ours: Mapping[str, Any], theirs: RepoCard | None, name: str) -> RepoCard:
    """A new card for a dataset, with configs added to those that its card tells of, or replaced.

    Args:
        ours: metadata, of which `configs`, `dataset_info` and `ad_hf` are used.
        theirs: the card that is there.
        name: what `load_dataset` is to be given.

    Raises:
        ValueError: if the card that is there is of a newer format.
    """
    check_format(theirs, name)
    old = theirs.data.to_dict() if theirs is not None else {}
    configs = _together(old.get("configs"), ours["configs"])
    infos = _together(old.get("dataset_info"), ours.get("dataset_info"))
    defaults = [entry for entry in (*_entries(old.get("configs")), *configs) if entry.get("default")]
    default = (defaults or configs)[0].get("config_name", "default")
    for entry in configs:
        entry.pop("default", None)
        if entry.get("config_name", "default") == default:
            entry["default"] = True
    noted = {**configs_of(theirs), **ours["ad_hf"]["configs"]}
    rows = sum(split.get("num_examples", 0) for info in infos for split in info.get("splits") or [])
    metadata = CardData(
        license="apache-2.0",
        task_categories=["reinforcement-learning"],
        tags=[cards.TAG, "in-context-reinforcement-learning", "learning-histories"],
        size_categories=[_size_category(rows)],
        configs=configs,
        dataset_info=infos,
        ad_hf={"format_version": FORMAT_VERSION, "configs": noted},
    )
    return cards.make_card(
        "dataset_card.md",
        metadata,
        name=name,
        shell_name=shlex.quote(name),
        configs=noted,
        default=default,
        columns=COLUMNS,
        format_version=FORMAT_VERSION,
    )


def _entries(value: Any) -> list[dict[str, Any]]:
    """What a card says of configs, one each: a list of them, or the only one."""
    return [{**entry} for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, dict)]


def _together(theirs: Any, ours: Any) -> list[dict[str, Any]]:
    """Their entries and ours; one of ours takes the place of theirs of that config."""
    return list({entry.get("config_name"): entry for entry in _entries(theirs) + _entries(ours)}.values())


def dataset_info(folder: Path, splits: Iterable[str]) -> dict[str, Any]:
    """What `datasets` and the Hub's viewer want to know of a config before they read it."""
    found, shards = datasets.SplitDict(), sorted(folder.glob("*.parquet"))
    for split in splits:
        rows = size = 0
        for shard in shards:
            if shard.name.startswith(f"{split}-"):
                with reading(shard):
                    file = pq.ParquetFile(shard)
                    for batch in file.iter_batches(rows_at_once(file, ROW_GROUP)):
                        rows, size = rows + len(batch), size + batch.nbytes
        found[split] = datasets.SplitInfo(split, size, rows)
    info = datasets.DatasetInfo(
        features=datasets.Features.from_arrow_schema(pq.read_schema(shards[0])),
        splits=found,
        download_size=sum(shard.stat().st_size for shard in shards),
        dataset_size=sum(split.num_bytes for split in found.values()),
        config_name=folder.name,
    )
    card = CardData()
    datasets.info.DatasetInfosDict({folder.name: info}).to_dataset_card_data(card)
    return card.to_dict()["dataset_info"]


def _size_category(rows: int) -> str:
    """A number of rows as the Hub wants it on a card."""
    limits = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    names = ["n<1K", *(f"{low}<n<{high}" for low, high in itertools.pairwise(limits)), "n>1T"]
    return names[min(max(len(str(rows)) - 3, 0), len(names) - 1)]


def publish(
    folder: Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    overwrite_card: bool = False,
) -> str:
    """Publish the finished collections in a folder; other configs in the repository stay as they are.

    Args:
        folder: as `collect_dataset` leaves it.
        repo_id: `org/name`.
        private: whether a new repository is.
        revision: a branch; None is main, which is also tagged with the format version.
        overwrite_card: write the card afresh, even if it was edited.

    Returns:
        The address of the repository.

    Raises:
        ValueError: if the folder holds no collection, or an unfinished one.
        HubError: if it cannot be published.
    """
    card = read_card(folder, str(folder))
    configs = configs_of(card)
    if card is None or not configs:
        raise ValueError(f"{folder} holds no learning histories: collect some with `ad-hf collect`")
    entries = {entry.get("config_name"): entry for entry in _entries(card.data.get("configs"))}
    files: dict[str, Path | bytes] = {}
    infos = []
    for config, noted in configs.items():
        if not noted["complete"] or config not in entries:
            raise ValueError(
                f"{folder} holds {config} histories that are not complete: run the same `ad-hf collect` again"
            )
        splits = [part["split"] for part in entries[config]["data_files"]]
        shards = shards_in(folder / config)
        for split in splits:
            check_shards(shards, split, f"{folder}/{config}")
        infos.append(dataset_info(folder / config, splits))
        files |= {f"{config}/{name}": Path(shard) for shard, name in shards}
    mine: dict[str, Any] = {"configs": [entries[config] for config in configs], "dataset_info": infos}
    mine["ad_hf"] = {"configs": configs}
    if cards.is_edited(card):
        for words in ('load_dataset("{}"', "--dataset {} "):  # it has another name there
            card.text = card.text.replace(words.format(folder.resolve().name), words.format(repo_id))

    def merged(theirs: RepoCard | None) -> RepoCard:
        made = add_to_card(mine, theirs, repo_id)
        ours = cards.keep_edits(made, card, FIXED)
        return cards.keep_edits(ours, None if overwrite_card else theirs, FIXED, made)

    return hub.publish(
        repo_id,
        "dataset",
        files,
        merged,
        f"Add learning histories: {', '.join(configs)}",
        private,
        revision,
        tag=f"v{FORMAT_VERSION}",
        delete=tuple(f"{config}/*.parquet" for config in configs),
        check=_refuse_strangers,
    )


def _refuse_strangers(card: RepoCard | None, names: set[str]) -> None:
    """Leave a repository alone that holds other data: declaring our configs there would hide it."""
    others = sorted(name for name in names if not any(fnmatch(name, pattern) for pattern in BESIDE))
    if others and not configs_of(card):
        raise hub.HubError(
            f"it holds something else than learning histories ({others[0]}): choose another repository"
        )
