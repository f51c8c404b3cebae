"""Windows: the fixed-length slices of learning histories that the model is trained on.

B = windows in a batch, L = transitions in a window, M = episodes a window may touch, A = actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided

from ad_hf.histories import Histories, observations, pick, runs, seen
from ad_hf.models.configuration_ad import BOX, ADConfig
from ad_hf.streaming import EXCHANGES, HistoryPool

MOST = 1_000_000  # of episodes skipped, of a weight, or of histories in a pool


@dataclass(frozen=True)
class WindowSettings:
    """How windows are cut.

    Args:
        episode_stride: source episodes from one episode of a window to the next, on average; each distance is
            drawn uniformly from 1 to twice as many less one. At 1 windows are the history itself. A source
            that needs 100 episodes to learn teaches a model with a stride of 40 to learn in a handful.
        token_mask: probability that a transition is hidden from the decoder, which has to predict its action
            all the same (Laskin et al. 2022 use 0.3).
        rename_actions: whether each window gives the actions names of its own, by a permutation drawn for it.
            For tasks whose actions differ in nothing but what they earn, as arms do: a model of bandits whose
            odd arms pay then learns nothing about odd arms.
        expert_share: the last share of each history that ED, expert distillation, is trained on.
        improvement_weight: how much more often the history is drawn that improves most, of those on the same
            task: (1 + weight) times as often as the one that improves least. 0 draws all alike.
        stability_weight: the same for the history that falls back least on its way. Both are after Chen et
            al. 2025 (learning history filtering, arXiv 2505.15143).
        pool: histories in the memory of each process while streaming. Windows are cut from them, and a 16th
            of them is exchanged every 16 updates.
    """

    episode_stride: int = 1
    token_mask: float = 0.0
    rename_actions: bool = False
    expert_share: float = 0.1
    improvement_weight: float = 0.0
    stability_weight: float = 0.0
    pool: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.episode_stride <= MOST:
            raise ValueError(
                f"episode_stride is {self.episode_stride}, but must be at least 1 and at most {MOST}"
            )
        if not 0 <= self.token_mask < 1:
            raise ValueError(f"token_mask is {self.token_mask}, but must be from 0 up to, not including, 1")
        if not 0 < self.expert_share <= 1:
            raise ValueError(f"expert_share is {self.expert_share}, but must be above 0 and at most 1")
        for name in ("improvement_weight", "stability_weight"):
            if not 0 <= getattr(self, name) <= MOST:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but must be at least 0 and at most {MOST}"
                )
        if not EXCHANGES <= self.pool <= MOST:
            raise ValueError(
                f"pool is {self.pool} histories, but must be at least {EXCHANGES} and at most {MOST}"
            )


def check_windows(histories: Histories, length: int, unordered: bool = False) -> None:
    """Refuse windows that cannot be cut.

    Args:
        histories: to cut from.
        length: L.
        unordered: whether they are for DPT.

    Raises:
        ValueError: if all histories have fewer than `length` transitions, or those for DPT no expert actions.
    """
    if unordered and histories.expert_action is None:
        raise ValueError(
            "DPT learns from the actions of an optimal policy, and these histories hold none: collect them "
            "in an environment that knows it, without collect.expert_actions=false"
        )
    most = longest(histories)
    if length > most:
        raise ValueError(
            f"a window has {length} transitions, but the longest history has {most}: "
            f"lower the context to {most} or collect more episodes"
        )


def check_spaces(histories: Histories, config: ADConfig, place: str = "the dataset") -> None:
    """Refuse histories of other observations or actions than a model has, which it would learn nonsense from.

    Args:
        histories: to train on.
        config: of the model.
        place: where they were found, for messages.

    Raises:
        ValueError: if there is one.
    """
    for name in ("action", "expert_action"):
        values = getattr(histories, name)
        if values is not None:
            _check_values(f"{name} in {place}", values, [config.num_actions])
    shape = seen(histories, histories.observation[:1]).shape[1:]
    if shape != config.observation_shape:
        raise ValueError(
            f"observation in {place} has the shape {shape}, but the model sees {config.observation_shape}: "
            "name the environment it was collected in"
        )
    space = config.observation_space
    if space["type"] != BOX:
        sizes = space.get("nvec") or [space["n"]]
        _check_values(f"observation in {place}", histories.observation, sizes)


def _check_values(name: str, values: np.ndarray, sizes: Sequence[int]) -> None:
    """Refuse values (S, components) or (S,) that are no whole numbers, each from 0 up to below its size."""
    wanted = f"whole numbers from 0 up to, not including, {', '.join(map(str, sizes))}"
    if values.dtype.kind not in "iub" or values.size != len(values) * len(sizes):
        raise ValueError(f"{name} is {values.dtype} {list(values.shape[1:])}, but must hold {wanted}")
    # By component, which is 75 times as fast as `values.max(axis=0)`.
    for component, size in zip(values.reshape(len(values), -1).T, sizes, strict=True):
        if component.min() < 0 or component.max() >= size:
            found = f"{component.min()} to {component.max()}"
            raise ValueError(
                f"{name} holds values from {found}, but must hold {wanted}: it is of another environment, or "
                "damaged, so collect it again"
            )


def longest(histories: Histories) -> int:
    """The number of transitions of the longest history."""
    return int(np.diff(histories.episode_offsets[histories.history_offsets]).max())


def history_weights(histories: Histories, settings: WindowSettings) -> np.ndarray | None:
    """How often to draw each history, (N,) summing to 1; None draws all alike.

    A history's improvement is the mean return of its last fifth less that of its first; its stability is what
    the mean returns of its fifths lose from one to the next, negated. Both are scaled to 0 ... 1 among the
    histories of a task, so every task keeps its share.
    """
    if not settings.improvement_weight and not settings.stability_weight:
        return None
    totals = np.concatenate([[0.0], np.cumsum(histories.episode_returns())])
    starts, lengths = histories.history_offsets[:-1, None], np.diff(histories.history_offsets)[:, None]
    first = starts + lengths * np.arange(5) // 5  # (N, 5), in episodes
    behind = starts - -lengths * np.arange(1, 6) // 5  # rounded up: every fifth has an episode at least
    fifths = (totals[behind] - totals[first]) / (behind - first)  # (N, 5) mean returns
    improvement = fifths[:, -1] - fifths[:, 0]
    stability = np.minimum(np.diff(fifths), 0).sum(axis=1)
    ids = [task.id for task in histories.tasks]
    _, group, counts = np.unique(ids, return_inverse=True, return_counts=True)

    def scaled(values: np.ndarray) -> np.ndarray:
        low, high = np.full(len(counts), np.inf), np.full(len(counts), -np.inf)
        np.minimum.at(low, group, values)
        np.maximum.at(high, group, values)
        return (values - low[group]) / np.maximum(high - low, 1e-9)[group]

    weights = 1 + settings.improvement_weight * scaled(improvement)
    weights += settings.stability_weight * scaled(stability)
    shares = np.bincount(group, weights)
    return weights / shares[group] * counts[group] / len(group)


def draw_windows(
    histories: Histories,
    batch_size: int,
    length: int,
    episode_stride: int,
    rng: np.random.Generator,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose windows: any history, any first step, episodes one after another with gaps between them.

    A window never leaves its history. Where the gaps drawn would carry it past the end, they shrink in
    proportion; where that is not enough, because episodes differ in length, they are halved until it is. Of a
    history that is shorter than a window all is taken, and the rest of the window is empty.

    Args:
        histories: N histories.
        batch_size: B.
        length: L.
        episode_stride: as in `WindowSettings`.
        rng: the only source of randomness here.
        weights: (N,) how often to draw each history; None is all alike.

    Returns:
        The transitions of each window as indices into the flat arrays, (B, L), -1 where it is empty, and
        which of them begin an episode, (B, L) bool.
    """
    B, L = batch_size, length
    offsets = histories.episode_offsets
    history = rng.choice(len(histories), size=B, p=weights)
    bounds = histories.history_offsets[[history, history + 1]]  # (2, B), in episodes
    start, end = offsets[bounds]  # (B,) each, the history's first step and the one behind its last
    size = np.minimum(end - start, L)  # (B,) steps in the window
    spare = end - start - size  # (B,) steps of the history that are not

    is_full = size == L
    if episode_stride == 1 and is_full.all():  # neither gaps nor an empty rest
        start = start + rng.integers(spare + 1)
        return start[:, None] + np.arange(L), _consecutive(histories.begins, start, L)

    M = -(-(L - 1) // histories.shortest_episode) + 1
    skipped = rng.integers(2 * episode_stride - 1, size=(B, M))  # episodes left out after each of the window
    mean_length = (end - start) / (bounds[1] - bounds[0])  # (B,), in steps
    likely = np.ceil((size - 1) / mean_length)  # (B,) gaps
    needed = np.arange(M) < likely[:, None]  # (B, M)
    steps_skipped = (skipped * needed).sum(axis=1) * mean_length
    skipped = (skipped * np.minimum(1, spare / np.maximum(steps_skipped, 1))[:, None]).astype(np.int64)
    steps_skipped = ((skipped * needed).sum(axis=1) * mean_length).astype(np.int64)
    start = start + rng.integers(spare - steps_skipped + 1)  # (B,) where the windows start
    begun = np.searchsorted(offsets, start, side="right") - 1  # (B,) the episodes they start in

    while True:  # without gaps every window fits, so this ends
        episode = begun[:, None] + np.cumsum(skipped + 1, axis=1) - skipped - 1  # (B, M)
        exists = episode < bounds[1][:, None]
        first, behind = offsets.take([episode, episode + 1], mode="clip")  # of its steps
        first[:, 0] = start
        lengths = (behind - first) * exists
        position = np.cumsum(lengths, axis=1) - lengths  # (B, M) in the window
        taken = np.minimum(lengths, np.maximum(size[:, None] - position, 0))
        missing = taken.sum(axis=1) < size
        if not missing.any():
            break
        skipped[missing] //= 2

    begins = np.zeros((B, L), dtype=bool)
    starts_episode = taken > 0
    starts_episode[:, 0] = start == offsets[begun]
    row, number = np.nonzero(starts_episode)
    begins[row, position[row, number]] = True
    if not is_full.all():  # an empty rest
        first, position, taken = (
            np.column_stack(pair) for pair in ((first, start), (position, size), (taken, L - size))
        )
    steps = np.repeat((first - position).ravel(), taken.ravel()).reshape(B, L) + np.arange(L)
    if not is_full.all():
        steps[np.arange(L) >= size[:, None]] = -1
    return steps, begins


def window_batch(
    histories: Histories, steps: np.ndarray, begins: np.ndarray, num_actions: int
) -> dict[str, torch.Tensor]:
    """Gather windows into the inputs of `ADModel.forward`, with the actions taken as labels.

    Args:
        histories: the flat arrays.
        steps: (B, L) indices of transitions, -1 for none. Nothing that is there is predicted from those.
        begins: (B, L) bool, whether a transition is an episode's first.
        num_actions: A, which stands for the action before a window's first.

    Returns:
        observation (B, L, ...), previous_action (B, L), previous_reward (B, L), episode_start (B, L), labels
        (B, L), -100 where there is nothing to predict. Integers are as small as they can be.
    """
    action = _gather(histories.action, steps).astype(_label_dtype(num_actions))
    previous_action, previous_reward = np.empty_like(action), np.zeros(steps.shape, dtype=np.float32)
    previous_action[:, 0], previous_action[:, 1:] = num_actions, action[:, :-1]
    previous_reward[:, 1:] = _gather(histories.reward, steps[:, :-1])
    if steps[:, -1].min() < 0:  # what is empty comes last
        action[steps < 0] = -100
    batch = {
        "observation": seen(histories, _gather(histories.observation, steps)),
        "previous_action": previous_action,
        "previous_reward": previous_reward,
        "episode_start": begins,
        "labels": action,
    }
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def _gather(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """What an array (S, ...) holds on the steps (B, L, ...) of windows, which never turn back."""
    if steps.size and (steps[:, -1] - steps[:, 0] == steps.shape[1] - 1).all():
        return _consecutive(values, steps[:, 0], steps.shape[1])
    return values.take(steps, axis=0)


def _consecutive(values: np.ndarray, start: np.ndarray, length: int) -> np.ndarray:
    """What an array (S, ...) holds from B steps on, (B, length, ...): each a single copy."""
    overlapping = len(values) - length + 1, length, *values.shape[1:]
    strides = values.strides[0], *values.strides
    return as_strided(values, overlapping, strides, writeable=False)[start]


def _label_dtype(num_actions: int) -> np.dtype:
    """The smallest type that holds every action, A and -100."""
    return np.min_scalar_type(-max(num_actions + 1, 100))


def decision_batch(
    histories: Histories,
    steps: np.ndarray,
    begins: np.ndarray,
    num_actions: int,
    order: np.ndarray,
    query: np.ndarray,
) -> dict[str, torch.Tensor]:
    """Gather windows for DPT: a query, then what happened elsewhere in no order (Lee et al. 2023, section 3).

    Each transition of the context says by which action and with which reward its observation was reached. On
    all of them the optimal action on the query is to be predicted.

    Args:
        histories: the flat arrays, with expert actions.
        steps: (B, L) indices of transitions; the first of each window serves as a predecessor only.
        begins: (B, L) bool, whether a transition is an episode's first.
        num_actions: A.
        order: (B, L - 1) of 1 to L - 1, how the context stands behind the query.
        query: (B,) the step that is asked for.

    Returns:
        The same as `window_batch`.
    """
    assert histories.expert_action is not None, "see check_windows"
    rows = np.arange(len(steps))[:, None]
    asked = query[:, None]  # (B, 1)
    columns = {
        "previous_action": (np.full_like(asked, num_actions), histories.action[steps[rows, order - 1]]),
        "previous_reward": (np.zeros(asked.shape, np.float32), histories.reward[steps[rows, order - 1]]),
        "episode_start": (np.zeros(asked.shape, bool), begins[rows, order]),
    }
    batch = {name: np.concatenate(parts, axis=1) for name, parts in columns.items()}
    batch["observation"] = observations(histories, np.concatenate([asked, steps[rows, order]], axis=1))
    labels = np.repeat(histories.expert_action[asked].astype(np.int64), steps.shape[1], axis=1)
    labels[:, 1:][steps[rows, order] < 0] = -100
    batch["labels"] = labels
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def window_batches(
    histories: Histories,
    settings: WindowSettings,
    batch_size: int,
    length: int,
    num_actions: int,
    seed: int,
    first_update: int = 0,
    process: int = 0,
    num_processes: int = 1,
    unordered: bool = False,
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches without end: that of an update depends on the seed and the update's number alone.

    So a resumed run needs no sampler state, and the windows of an update are the same however many processes
    share them: each draws all and gathers its own.

    Args:
        histories: what to cut from.
        settings: how to cut.
        batch_size: B, over all processes.
        length: L.
        num_actions: A.
        seed: of all draws.
        first_update: the number of the first batch.
        process: which share of each batch to gather.
        num_processes: how many shares there are.
        unordered: gather them by `decision_batch`, for DPT.

    Raises:
        ValueError: as `check_windows`, and if a batch cannot be shared equally.
    """
    check_windows(histories, length, unordered)
    _check_share(batch_size, num_processes)
    weights = history_weights(histories, settings)
    update = first_update
    while True:
        rng = np.random.default_rng((seed, update))
        mine = slice(process, None, num_processes)
        yield _draw_batch(histories, settings, weights, batch_size, length, num_actions, unordered, rng, mine)
        update += 1


def pooled_window_batches(
    pool: HistoryPool,
    settings: WindowSettings,
    batch_size: int,
    length: int,
    num_actions: int,
    seed: int,
    first_update: int = 0,
    process: int = 0,
    num_processes: int = 1,
    unordered: bool = False,
) -> Iterator[dict[str, torch.Tensor]]:
    """The same while streaming: each process draws its share from the histories it has in memory.

    That of an update depends on the seed, the update's number, the process and the number of processes, if
    the pool was made with the position it had at `first_update` and the Hub has never been silent since.

    Args:
        pool: what to cut from; a part of it is exchanged every `EXCHANGES` updates.
        settings: how to cut.
        batch_size: B, over all processes.
        length: L.
        num_actions: A.
        seed: of all draws.
        first_update: the number of the first batch.
        process: which process this is.
        num_processes: how many there are.
        unordered: gather them by `decision_batch`, for DPT.

    Raises:
        ValueError: as `check_windows`, and if a batch cannot be shared equally.
    """
    _check_share(batch_size, num_processes)
    weights = history_weights(pool.histories, settings)
    update = first_update
    while True:
        if update and update % EXCHANGES == 0:
            pool.exchange()
            weights = history_weights(pool.histories, settings)
        check_windows(pool.histories, length, unordered)
        rng = np.random.default_rng((seed, update, process))
        share = batch_size // num_processes
        yield _draw_batch(
            pool.histories, settings, weights, share, length, num_actions, unordered, rng, slice(None)
        )
        update += 1


def _check_share(batch_size: int, num_processes: int) -> None:
    if batch_size % num_processes:
        raise ValueError(
            f"batch_size is {batch_size}, which {num_processes} processes cannot share equally: "
            f"choose a multiple of {num_processes}"
        )


def _draw_batch(
    histories: Histories,
    settings: WindowSettings,
    weights: np.ndarray | None,
    batch_size: int,
    length: int,
    num_actions: int,
    unordered: bool,
    rng: np.random.Generator,
    mine: slice,
) -> dict[str, torch.Tensor]:
    """Draw B windows and gather those that are `mine`."""
    steps, begins = draw_windows(histories, batch_size, length, settings.episode_stride, rng, weights)
    if unordered:
        order = (rng.random((batch_size, length - 1)) + (steps[:, 1:] < 0)).argsort(axis=1) + 1
        borders = histories.episode_offsets[histories.history_offsets]
        history = np.searchsorted(borders, steps[:, 0], side="right") - 1
        query = rng.integers(borders[history], borders[history + 1])
        batch = decision_batch(histories, steps[mine], begins[mine], num_actions, order[mine], query[mine])
    else:
        batch = window_batch(histories, steps[mine], begins[mine], num_actions)
    if settings.rename_actions:
        names = rng.permuted(np.tile(np.arange(num_actions), (batch_size, 1)), axis=1)
        _rename_actions(batch, torch.from_numpy(names[mine]))
    if settings.token_mask:
        masked = rng.random(steps.shape) < settings.token_mask
        if unordered:
            masked[:, 0] = False  # the query
        batch["token_mask"] = torch.from_numpy(masked[mine])
    return batch


def _rename_actions(batch: dict[str, torch.Tensor], names: torch.Tensor) -> None:
    """Give the actions of each window other names (B, A); what stands for none keeps its own."""
    rows = torch.arange(len(names))[:, None]
    for name in ("previous_action", "labels"):
        actions = batch[name]
        is_action = (actions >= 0) & (actions < names.shape[1])
        renamed = names[rows, torch.where(is_action, actions, 0).long()]
        batch[name] = torch.where(is_action, renamed.to(actions.dtype), actions)


def expert_part(histories: Histories, share: float) -> Histories:
    """The last `share` of every history's episodes: what expert distillation (ED) is trained on.

    The same windows cut from it show a skilled agent and never one that becomes skilled.
    """
    starts, ends = histories.history_offsets[:-1], histories.history_offsets[1:]
    kept = np.maximum(((ends - starts) * share).astype(np.int64), 1)  # episodes of each history
    episodes = runs(ends - kept, kept)
    first, behind = histories.episode_offsets[[ends - kept, ends]]
    steps = runs(first, behind - first)
    lengths = np.diff(histories.episode_offsets)[episodes]
    return Histories(
        **pick(histories, steps, episodes),  # type: ignore[arg-type]
        episode_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        history_offsets=np.concatenate([[0], np.cumsum(kept)]),
        tasks=histories.tasks,
    )
