"""Streaming: every history once an epoch, from any place on again, whatever happens to the Hub meanwhile."""

from __future__ import annotations

import gc
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

import huggingface_hub.utils._http
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import LocalHub
from huggingface_hub import HfFileSystem, constants
from huggingface_hub.hf_file_system import HfFileSystemFile

from ad_hf import hub as our_hub
from ad_hf import streaming
from ad_hf.collection import Shard, write_shard
from ad_hf.dataset import load_histories
from ad_hf.histories import Histories, concatenate
from ad_hf.hub import HubError
from ad_hf.streaming import START, HistoryPool, HistoryStream, open_stream
from ad_hf.tasks import Task

SIZES = (3, 1, 4, 2, 5, 1, 3, 2, 4, 3, 2)  # histories in each shard
TOTAL = sum(SIZES)
FIELDS = [name for name in Histories.__dataclass_fields__ if name != "tasks"]
CARD = "---\nad_hf:\n  format_version: '{}'\n---\n"


def counting_histories(first: int, number: int) -> Histories:
    """Reward, observation and expert action are history * 1000 + step: values say where they came from."""
    episodes = [3 + history % 7 for history in range(first, first + number)]
    lengths = [np.arange(count) % 4 + 1 for count in episodes]
    value = np.concatenate([1000 * (first + n) + np.arange(sum(steps)) for n, steps in enumerate(lengths)])
    ends = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    even = np.concatenate([np.arange(count) % 2 == 0 for count in episodes])
    return Histories(
        observation=np.stack([value, value + 1], axis=1).astype(np.uint16),
        action=(value % 5).astype(np.uint8),
        reward=value.astype(np.float32),
        final_observation=np.stack([value[ends[1:] - 1]] * 2, axis=1).astype(np.uint16),
        terminated=even,
        truncated=~even,
        episode_offsets=ends,
        history_offsets=np.concatenate([[0], np.cumsum(episodes)]),
        tasks=tuple(Task("counting", {"history": first + n}) for n in range(number)),
        expert_action=value.astype(np.uint16),
    )


def rewrite(shard: Path, row_group: int, table: pa.Table | None = None) -> None:
    """A shard with other row groups, or other rows."""
    table = pq.read_table(shard) if table is None else table
    pq.write_table(table, shard, row_group_size=row_group, compression="zstd", write_page_checksum=True)


def write_dataset(folder: Path, sizes: tuple[int, ...] = SIZES, row_group: int = 7) -> Path:
    (folder / "counting").mkdir(parents=True)
    (folder / "README.md").write_text(CARD.format("1.2"))
    first = 0
    for number, size in enumerate(sizes):
        path = folder / "counting" / f"train-{number:05d}-of-{len(sizes):05d}.parquet"
        histories = counting_histories(first, size)
        write_shard(
            Shard(path, tuple(range(first, first + size)), histories.tasks, (0,) * size), histories, 0
        )
        rewrite(path, row_group)
        first += size
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 histories of 3 to 9 episodes in 11 shards with 7 episodes in a row group, not to be changed."""
    return write_dataset(tmp_path_factory.mktemp("streaming") / "histories")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode so few episodes at once that histories are cut in two there too."""
    monkeypatch.setattr(streaming, "EPISODES", 5)


@pytest.fixture
def stream(folder: Path) -> HistoryStream:
    return open_stream(str(folder), "counting")


def names(histories: Histories) -> list[int]:
    return [task.params["history"] for task in histories.tasks]


def assert_same(ours: Histories, theirs: Histories) -> None:
    for field in FIELDS:
        assert getattr(ours, field).dtype == getattr(theirs, field).dtype, field
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field), err_msg=field)
    assert ours.tasks == theirs.tasks


def order(stream: HistoryStream, number: int, *args: Any) -> list[int]:
    """Which histories come first."""
    return [names(histories)[0] for histories, _ in islice(stream.read(*args), number)]


def epochs(stream: HistoryStream, number: int, *args: Any) -> list[list[int]]:
    """Which histories a process reads in each of the first epochs."""
    read = takewhile(lambda found: found[1]["epoch"] < number, stream.read(*args))
    lists: list[list[int]] = [[] for _ in range(number)]
    for histories, behind in read:
        lists[behind["epoch"]] += names(histories)
    return lists


# The order


@pytest.mark.parametrize("num_processes", [1, 2, 3, 8, 12, 25])
def test_in_an_epoch_every_history_is_read_once_by_one_of_the_processes(
    num_processes: int, stream: HistoryStream
) -> None:
    shares = [epochs(stream, 3, 0, process, num_processes) for process in range(num_processes)]
    for epoch in range(3):
        assert sorted(name for share in shares for name in share[epoch]) == list(range(TOTAL))


@pytest.mark.parametrize("process", range(3))
def test_no_process_is_left_without_histories_however_few_there_are(process: int, tmp_path: Path) -> None:
    stream = open_stream(str(write_dataset(tmp_path / "one", (1,))), "counting")
    assert epochs(stream, 6, 0, process, 3).count([0]) == 2


def test_the_order_follows_from_the_seed_and_differs_between_epochs_and_seeds(stream: HistoryStream) -> None:
    first, second, third = epochs(stream, 3, 0)
    assert epochs(stream, 3, 0) == [first, second, third]
    other = epochs(stream, 1, 1)[0]
    assert len({tuple(names) for names in (first, second, third, other)}) == 4


def test_neighbours_come_from_different_shards(stream: HistoryStream) -> None:
    shard_of = np.repeat(np.arange(len(SIZES)), SIZES)
    assert len({shard_of[name] for name in order(stream, 8, 0)}) == 8


@pytest.mark.parametrize(("process", "num_processes"), [(0, 1), (1, 2), (14, 25)])
def test_reading_goes_on_from_every_position_as_if_it_had_not_stopped(
    process: int, num_processes: int, stream: HistoryStream
) -> None:
    share = 0, process, num_processes
    length = 2 * TOTAL // num_processes + 4  # over the ends of two epochs
    whole = list(islice(stream.read(*share), length))
    assert whole[-3][1]["epoch"] > 0
    for number, (_, behind) in enumerate(whole[:-3], 1):
        for ours, theirs in zip(stream.read(*share, behind), whole[number : number + 2], strict=False):
            assert ours[1] == theirs[1]
            assert_same(ours[0], theirs[0])


# What is read


@pytest.mark.parametrize("row_group", [1, 4, 100])
@pytest.mark.parametrize("at_once", [1, 6, 100])
def test_a_history_is_whole_wherever_row_groups_and_batches_cut_it(
    at_once: int, row_group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "EPISODES", at_once)
    stream = open_stream(str(write_dataset(tmp_path / "histories", (4, 3), row_group)), "counting")
    for histories, _ in islice(stream.read(0), 7):
        assert_same(histories, counting_histories(names(histories)[0], 1))


def test_row_groups_without_rows_are_passed_over(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "histories", (4,))
    (shard,) = folder.glob("*/*.parquet")
    table = pq.read_table(shard)
    with pq.ParquetWriter(shard, table.schema) as writer:
        for start in (0, 8, 16):
            writer.write_table(table[start : start + 8])
            writer.write_table(table[:0])
    assert order(open_stream(str(folder), "counting"), 5, 0) == [0, 1, 2, 3, 0]


def test_streaming_reads_what_loading_loads(folder: Path, stream: HistoryStream) -> None:
    read = sorted((histories for histories, _ in islice(stream.read(0), TOTAL)), key=names)
    assert_same(concatenate(read), load_histories(str(folder), "counting"))


def test_a_history_does_not_keep_in_memory_what_was_read_with_it(stream: HistoryStream) -> None:
    gc.collect()  # what earlier tests have left
    before = pa.total_allocated_bytes()
    reader = stream.read(0)
    histories, _ = next(reader)
    reader.close()
    assert pa.total_allocated_bytes() == before
    assert all(getattr(histories, field).flags.owndata for field in FIELDS)


# The pool


@pytest.fixture
def pool(stream: HistoryStream) -> Iterator[HistoryPool]:
    pool = HistoryPool(stream, 32, seed=0)
    yield pool
    pool.close()


def test_a_pool_holds_the_latest_histories_in_the_order_of_the_stream(
    pool: HistoryPool, stream: HistoryStream
) -> None:
    all_of_them = order(stream, 60, 0)
    for exchanges in range(14):
        assert names(pool.histories) == all_of_them[2 * exchanges :][:32]
        pool.exchange()


def test_a_pool_made_again_at_its_position_is_the_same_and_goes_on_as_it_does(
    pool: HistoryPool, stream: HistoryStream
) -> None:
    for _ in range(3):
        for _ in range(5):
            pool.exchange()
        again = HistoryPool(stream, 32, seed=0, position=pool.position)
        for _ in range(2):
            assert_same(again.histories, pool.histories)
            assert again.position == pool.position
            again.exchange()
            pool.exchange()
        again.close()


def test_a_position_survives_json(pool: HistoryPool) -> None:
    pool.exchange()
    assert json.loads(json.dumps(pool.position)) == pool.position != START


def left_behind(threads: set[threading.Thread]) -> tuple[list[str], set[threading.Thread]]:
    """The shards that are open, and the threads that have been started since."""
    gc.collect()  # what earlier tests have left
    links = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return [link for link in links if link.endswith(".parquet")], set(threading.enumerate()) - threads


def test_a_closed_pool_leaves_neither_threads_nor_open_files(stream: HistoryStream) -> None:
    threads = set(threading.enumerate())
    pool = HistoryPool(stream, 16, seed=0)
    pool.exchange()
    assert left_behind(threads)[0]
    pool.close()
    assert left_behind(threads) == ([], set())


def test_what_is_not_to_be_trained_on_ends_the_exchange(stream: HistoryStream) -> None:
    def refuse(histories: Histories) -> Histories:
        if names(histories) == [last]:
            raise ValueError("it is held out")
        return histories

    last = order(stream, TOTAL, 0)[20]
    pool = HistoryPool(replace(stream, prepare=refuse), 16, seed=0)
    with pytest.raises(ValueError, match="it is held out"):  # noqa: PT012
        for _ in range(10):
            pool.exchange()


def test_shards_of_different_types_are_refused(folder: Path, tmp_path: Path) -> None:
    for name, data in contents(folder).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    shard = next(tmp_path.glob("*/*.parquet"))
    table = pq.read_table(shard)
    wider = table["action"].cast(pa.list_(pa.int64()))
    rewrite(shard, 100, table.set_column(table.schema.get_field_index("action"), "action", wider))
    with pytest.raises(ValueError, match=r"hold different types of action: int64\[\], uint8\[\]$"):
        HistoryPool(open_stream(str(tmp_path), "counting"), TOTAL, 0)


def test_training_does_not_wait_for_ever_and_catches_up_later(
    stream: HistoryStream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(our_hub, "PATIENCE", 0.2)
    expected = order(stream, 58, 0)
    late = {17: threading.Event(), 40: threading.Event()}
    numbers = count()

    def prepare(histories: Histories) -> Histories:
        if arrives := late.get(next(numbers)):
            arrives.wait(30)
        return histories

    pool = HistoryPool(replace(stream, prepare=prepare), 16, seed=0)
    seen = names(pool.histories)
    for outage, (number, arrives) in enumerate(late.items(), 1):
        seen += follow(pool, number - len(seen))
        began = time.monotonic()
        for _ in range(10):
            pool.exchange()
        assert time.monotonic() - began < 1.5  # only once is it patient
        assert names(pool.histories) == expected[number - 16 : number]
        assert len(caplog.messages) == outage
        assert caplog.messages[-1].startswith("nothing was read in 0 seconds; training goes on with the his")
        arrives.set()
    assert seen + follow(pool, 58 - len(seen)) == expected
    pool.close()


def follow(pool: HistoryPool, number: int) -> list[int]:
    """The next histories that come into a pool of 16."""
    seen: list[int] = []
    deadline = time.monotonic() + 60
    while len(seen) < number:
        assert time.monotonic() < deadline, "no more histories arrive"
        before = pool.position
        pool.exchange()
        if pool.position != before:
            seen.append(names(pool.histories)[-1])
        else:
            time.sleep(0.01)
    return seen


# On the Hub


@pytest.fixture
def published(hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """A Hub with the dataset; clients do not wait between their tries."""
    hub.add_repo("dataset", "org/counting", contents(folder))
    impatient = type("Impatient", (), {"sleep": staticmethod(lambda seconds: None)})
    monkeypatch.setattr(huggingface_hub.utils._http, "time", impatient)
    monkeypatch.setattr(our_hub, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    return hub


@pytest.mark.parametrize("private", [False, True])
def test_a_dataset_on_the_hub_is_read_as_a_folder_is(
    private: bool, hub: LocalHub, folder: Path, stream: HistoryStream
) -> None:
    sha = hub.add_repo("dataset", "org/counting", contents(folder), private=private)
    remote = open_stream("org/counting", "counting")
    assert remote.name == f"datasets/org/counting@{sha}/counting"
    found = zip(islice(remote.read(3, 1, 2), 20), stream.read(3, 1, 2), strict=False)
    for (ours, our_position), (theirs, their_position) in found:
        assert our_position == their_position
        assert_same(ours, theirs)


def test_a_stream_stays_at_its_commit_whatever_becomes_of_the_repository(
    published: LocalHub, stream: HistoryStream
) -> None:
    remote = open_stream("org/counting", "counting")
    reader = remote.read(0)
    first = names(next(reader)[0])
    files = published.files("dataset", "org/counting")
    published.add_commit("dataset", "org/counting", dict.fromkeys(files))
    published.add_commit("dataset", "org/counting", dict.fromkeys(files, b"else"))
    HfFileSystem.clear_instance_cache()
    assert first + [names(histories)[0] for histories, _ in islice(reader, 40)] == order(stream, 41, 0)
    assert order(remote, 41, 0) == order(stream, 41, 0)


def test_a_revision_can_be_named(published: LocalHub) -> None:
    (commit,) = published.commits("dataset", "org/counting")
    published.add_commit("dataset", "org/counting", {"counting/train-00000-of-00011.parquet": None})
    assert len(open_stream(f"org/counting@{commit.id}", "counting").files) == 11
    with pytest.raises(ValueError, match="holds 10 train shards, but by their names there are 00011"):
        open_stream("org/counting", "counting")


def test_only_the_row_groups_that_are_needed_are_fetched(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = counting_histories(0, 50)
    noise = np.random.default_rng(0).integers(2**63, size=(len(histories.action), 2000))  # 16 kB per step
    shard = tmp_path / "counting" / "train-00000-of-00001.parquet"
    shard.parent.mkdir()
    write_shard(
        Shard(shard, tuple(range(50)), histories.tasks, (0,) * 50), replace(histories, observation=noise), 0
    )
    rewrite(shard, 50)
    group = pq.ParquetFile(shard).metadata.row_group(0).total_byte_size
    hub.add_repo("dataset", "org/counting", contents(tmp_path))
    fetched: list[int] = []
    fetch = HfFileSystemFile._fetch_range

    def counted(self: HfFileSystemFile, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return fetch(self, start, end)

    monkeypatch.setattr(HfFileSystemFile, "_fetch_range", counted)
    remote = open_stream("org/counting", "counting")
    assert hub.tries("content") == 0
    next(remote.read(0))
    assert group < sum(fetched) < group + 2 * 2**20 < shard.stat().st_size / 3
    fetched.clear()
    next(remote.read(0, position={"epoch": 0, "turn": 9, "lanes": [[0, 252]]}))
    assert sum(fetched) < group + 2 * 2**20
    assert hub.tries("content") < 10


FAULTS: list[tuple[str, int | str, int]] = [  # the clients themselves try some of them six times
    *[("content", kind, 30) for kind in (503, "reset", "cut", "lie")],
    ("content", "stall", 7),
    *[("resolve", kind, 30) for kind in (503, 401)],
    ("tree", 503, 36),
    ("info", 404, 3),
]


@pytest.mark.parametrize(("route", "kind", "count"), FAULTS)
def test_whatever_the_hub_does_while_histories_are_exchanged_none_is_lost_and_training_goes_on(
    route: str,
    kind: int | str,
    count: int,
    published: LocalHub,
    stream: HistoryStream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = HistoryPool(open_stream("org/counting", "counting"), 16, seed=0)
    caplog.clear()
    HfFileSystem.clear_instance_cache()  # what is known of the repository, too, has to be asked again
    published.fail(route, kind, count, seconds=1)
    assert names(pool.histories) + follow(pool, 42) == order(stream, 58, 0)
    ours = [record for record in caplog.records if record.name.startswith("ad_hf")]
    assert 1 <= len(ours) <= 36
    for record in ours:
        assert record.getMessage().startswith("datasets/org/counting@")
        assert record.getMessage().endswith(
            "training goes on with the histories at hand until it can be read"
        )
        assert "\n" not in record.getMessage()
    pool.close()


@pytest.mark.parametrize("route", ["info", "tree", "content"])
def test_a_hub_that_goes_on_failing_from_the_start_is_refused_in_one_line(
    route: str, published: LocalHub
) -> None:
    stream = open_stream("org/counting", "counting")
    published.fail(route, 503, 3)
    HistoryPool(stream, 16, seed=0).close()
    HfFileSystem.clear_instance_cache()
    published.fail(route, 503, None)
    with pytest.raises(HubError, match=r"^datasets/org/counting@[^\n]+ answers 503: try again later$"):
        HistoryPool(stream, 16, seed=0)


def test_offline_a_dataset_on_the_hub_is_refused_and_a_folder_is_not(
    published: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"with HF_HUB_OFFLINE=1: unset it, or use the cache without --stream"):
        open_stream("org/counting", "counting")
    assert not published.requests
    assert order(open_stream(str(folder), "counting"), TOTAL, 0)


def test_a_process_ends_though_the_hub_is_silent(published: LocalHub, run_python: Callable[..., str]) -> None:
    published.fail("content", "stall", None, skip=25)
    code = """
from ad_hf import hub
from ad_hf.streaming import HistoryPool, open_stream
hub.PATIENCE = 0.5
pool = HistoryPool(open_stream("org/counting", "counting"), 16, seed=0)
position = None
while position != pool.position:
    position = pool.position
    pool.exchange()
pool.close()
"""
    began = time.monotonic()
    run_python(code, env={"HF_HUB_DOWNLOAD_TIMEOUT": "60"})
    assert time.monotonic() - began < 40
    assert published.tries("content") == 26


# Refusals


def drop_shard(files: dict[str, bytes], shard: str) -> None:
    del files[shard]


def edit_table(change: Callable[[pa.Table], pa.Table]) -> Callable[[dict[str, bytes], str], None]:
    def edit(files: dict[str, bytes], shard: str) -> None:
        buffer = io.BytesIO()
        pq.write_table(change(pq.read_table(pa.BufferReader(files[shard]))), buffer)
        files[shard] = buffer.getvalue()

    return edit


def replaced(column: str, value: Any) -> Callable[[dict[str, bytes], str], None]:
    def change(table: pa.Table) -> pa.Table:
        values = [value, *table[column].to_pylist()[1:]] if column == "reward" else [value] * len(table)
        return table.set_column(table.schema.get_field_index(column), column, pa.array(values))

    return edit_table(change)


def flip(files: dict[str, bytes], shard: str) -> None:
    """Change one reward; nothing but a checksum can tell."""
    table, buffer = pq.read_table(pa.BufferReader(files[shard])), io.BytesIO()
    pq.write_table(table, buffer, compression="none", use_dictionary=False, write_page_checksum=True)
    group = pq.ParquetFile(buffer).metadata.row_group(0)
    columns = {
        group.column(number).path_in_schema: group.column(number) for number in range(group.num_columns)
    }
    reward = columns["reward.list.element"]
    content = bytearray(buffer.getvalue())
    content[reward.data_page_offset + reward.total_compressed_size - 1] ^= 0xFF
    files[shard] = bytes(content)


DAMAGE: dict[str, tuple[Callable[[dict[str, bytes], str], Any], str]] = {
    "missing shard": (drop_shard, "holds 10 train shards, but by their names there are 00011: run the same"),
    "empty file": (lambda files, shard: files.update({shard: b""}), "truncated, damaged or not Parquet"),
    "half a file": (
        lambda files, shard: files.update({shard: files[shard][: len(files[shard]) // 2]}),
        "is truncated, damaged or not Parquet: get it anew",
    ),
    "wrong byte": (flip, "is truncated, damaged or not Parquet: get it anew"),
    "no rows": (edit_table(lambda table: table[:0]), "holds no episodes"),
    "foreign": (
        edit_table(lambda table: table.select(["task"])),
        "does not hold learning histories: it lacks the columns history_id, task_id, stream, epi",
    ),
    "names for numbers": (
        replaced("history_id", "a"),
        "history_id in .* has to hold integers, but holds str",
    ),
    "not sorted": (
        edit_table(lambda table: table.take(list(range(len(table)))[::-1])),
        "is not sorted by history and episode",
    ),
    "not a number": (
        replaced("reward", [float("nan")]),
        "reward in .* holds missing values, NaN or infinity",
    ),
    "newer format": (
        lambda files, shard: files.update({"README.md": CARD.format("9.0").encode()}),
        "has the format version 9.0, but this ad-hf reads versions up to 1.2: upgrade it with",
    ),
}


@pytest.mark.parametrize("remote", [False, True], ids=["folder", "Hub"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_what_are_no_whole_learning_histories_is_refused_in_one_line(
    kind: str, remote: bool, folder: Path, tmp_path: Path, published: LocalHub
) -> None:
    damage, message = DAMAGE[kind]
    files = contents(folder)
    damage(files, "counting/train-00005-of-00011.parquet")
    place = "org/damaged" if remote else str(tmp_path)
    if remote:
        published.add_repo("dataset", place, files)
    for name, data in {} if remote else files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with pytest.raises((ValueError, HubError), match=rf"^[^\n]*{message}[^\n]*$") as refusal:
        order(open_stream(place, "counting"), TOTAL, 0)
    assert place in str(refusal.value)


@pytest.mark.parametrize("remote", [False, True], ids=["folder", "Hub"])
def test_configs_and_splits_that_are_not_there_are_refused(
    remote: bool, folder: Path, published: LocalHub
) -> None:
    place = "org/counting" if remote else str(folder)
    with pytest.raises(ValueError, match=f"{place}/counting has no split 'test': choose one of train"):
        open_stream(place, "counting", "test")
    with pytest.raises(ValueError, match=f"{place}/dark-room holds no Parquet files: collect histories"):
        open_stream(place, "dark-room")


def test_a_dataset_that_is_not_there_is_refused(published: LocalHub) -> None:
    with pytest.raises(HubError, match="there is no such repository, or it is private"):
        open_stream("org/nothing", "counting")
    with pytest.raises(HubError, match=r"'nothing' is not .*, which looks like org/name"):
        open_stream("nothing", "counting")
