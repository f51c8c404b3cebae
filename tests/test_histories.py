"""Histories: exactly what happened, whichever way episodes are restarted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from ad_hf.histories import (
    EPISODES,
    STEPS,
    Histories,
    Recorder,
    collect,
    concatenate,
    observations,
    runs,
    smallest_dtype,
    without_first,
)
from ad_hf.tasks import TASK_FAMILIES, Task, load_task_family, make_vec

NUM_EPISODES = 6
SEED = 3
COLUMNS = ("observation", "action", "reward", "final_observation", "terminated", "truncated")
OFFSETS = ("episode_offsets", "history_offsets")

# The room of 3x3 that ends at the goal makes ragged episodes; a random start tells one episode from another.
ROOMS = {
    "even": {"start": "random", "horizon": 5},
    "ragged": {"start": "random", "horizon": 7, "size": 3, "terminate_on_goal": True},
    "single steps": {"start": "random", "horizon": 1},
}


def room_tasks(kind: str) -> list[Task]:
    return [
        Task("ad_hf/DarkRoom-v0", {"goal": goal, **ROOMS[kind]}) for goal in ([0, 0], [1, 2], [2, 0], [1, 1])
    ]


def planned_action(row: int, episode: int, step: int, num_actions: int) -> int:
    """What row, episode and step alone decide, so that all ways of running them can be compared."""
    return int(np.random.default_rng([row, episode, step]).integers(num_actions))


def played_one_by_one(tasks: list[Task]) -> dict[str, list[Any]]:
    """The columns that the recorder should have: episode after episode in single environments."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS} | {"lengths": []}
    for row, task in enumerate(tasks):
        env: Any = task.make()
        observation, _ = env.reset(seed=SEED + row)
        for episode in range(NUM_EPISODES):
            step, terminated, truncated = 0, False, False
            while not (terminated or truncated):
                action = planned_action(row, episode, step, env.action_space.n)
                columns["observation"].append(observation)
                columns["action"].append(action)
                observation, reward, terminated, truncated, _ = env.step(action)
                columns["reward"].append(reward)
                step += 1
            columns["final_observation"].append(observation)
            columns["terminated"].append(terminated)
            columns["truncated"].append(truncated)
            columns["lengths"].append(step)
            observation, _ = env.reset()
    return columns


def play(envs: Any, num_episodes: int = NUM_EPISODES) -> None:
    """Take the planned actions, and another one where an autoreset is going to ignore it."""
    mode, num_actions = envs.metadata["autoreset_mode"], envs.single_action_space.n
    episode, step = np.zeros((2, envs.num_envs), dtype=int)
    done = np.zeros(envs.num_envs, dtype=bool)
    envs.reset(seed=SEED)
    while episode.min() < num_episodes:
        if mode == AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": done})
        ignored = done & (mode == AutoresetMode.NEXT_STEP)
        places = zip(range(envs.num_envs), episode, step, strict=True)
        actions = [planned_action(*place, num_actions) for place in places]
        _, _, terminated, truncated, _ = envs.step(np.where(ignored, num_actions - 1, actions))
        done = terminated | truncated
        episode += done
        step = np.where(done | ignored, 0, step + 1)


def vector_env(tasks: list[Task], mode: AutoresetMode, native: bool) -> VectorEnv:
    return (
        make_vec(tasks, mode) if native else SyncVectorEnv([task.make for task in tasks], autoreset_mode=mode)
    )


def recorded(tasks: list[Task], mode: AutoresetMode, native: bool = True) -> Histories:
    envs = Recorder(vector_env(tasks, mode, native))
    play(envs)
    return envs.histories(tasks, NUM_EPISODES)


def assert_played_one_by_one(histories: Histories) -> None:
    """That a recording of `play` is what single environments give."""
    truth = played_one_by_one(list(histories.tasks))
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(histories, name), truth[name], err_msg=name)
    np.testing.assert_array_equal(np.diff(histories.episode_offsets), truth["lengths"])
    np.testing.assert_array_equal(histories.history_offsets, np.arange(len(histories) + 1) * NUM_EPISODES)


# The recorder


@pytest.mark.parametrize("native", [True, False], ids=["native", "gymnasium"])
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("kind", ROOMS)
def test_a_recording_equals_playing_episode_after_episode(
    kind: str, mode: AutoresetMode, native: bool
) -> None:
    tasks = room_tasks(kind)
    assert_played_one_by_one(recorded(tasks, mode, native))
    assert recorded(tasks, mode, native).tasks == tuple(tasks)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_observations_of_several_floats_are_recorded_too(mode: AutoresetMode) -> None:
    # Four of them, in episodes of 9 to 60 steps.
    assert_played_one_by_one(recorded([Task("CartPole-v1", {})] * 4, mode))


def test_components_that_lie_apart_in_memory_are_recorded_too() -> None:
    # Those of Gymnasium's own vector environment are columns of a transposed array.
    envs = Recorder(gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point"))
    seen = [envs.reset(seed=SEED)[0], *(envs.step(np.ones(4, dtype=int))[0] for _ in range(30))]
    histories = envs.histories([Task("CartPole-v1", {})] * 4, 1)  # of 8 to 10 steps
    for row, first in enumerate(histories.episode_offsets[:-1]):
        np.testing.assert_array_equal(histories.observation[first : first + 8], np.stack(seen)[:8, row])


@pytest.mark.parametrize("mode", AutoresetMode)
def test_whatever_is_reset_and_when_all_whole_episodes_are_recorded_and_nothing_else(
    mode: AutoresetMode,
) -> None:
    tasks = room_tasks("ragged")
    envs, rng = Recorder(make_vec(tasks, mode)), np.random.default_rng(0)
    seen, _ = envs.reset(seed=SEED)
    unfinished: list[list[tuple]] = [[] for _ in tasks]
    whole: list[list[tuple]] = [[] for _ in tasks]  # by row: what was seen and done, and how it ended
    resting = done = np.zeros(4, dtype=bool)
    for step in range(400):
        mask = (rng.random(4) < 0.08) | (done & (mode == AutoresetMode.DISABLED))
        if step % 50 == 49:
            mask[:] = True
            seen, _ = envs.reset()
        elif mask.any():
            seen, _ = envs.reset(options={"reset_mask": mask})
        for row in np.flatnonzero(mask):
            unfinished[row] = []
        resting = resting & ~mask
        actions = rng.integers(5, size=4)
        arrived, reward, terminated, truncated, infos = envs.step(actions)
        done = terminated | truncated
        for row in np.flatnonzero(~resting):
            unfinished[row].append((*seen[row], actions[row], reward[row]))
        for row in np.flatnonzero(done):
            last = infos["final_obs"][row] if mode == AutoresetMode.SAME_STEP else arrived[row]
            whole[row].append((unfinished[row], (*last, terminated[row], truncated[row])))
            unfinished[row] = []
        resting, seen = done & (mode == AutoresetMode.NEXT_STEP), arrived
    histories = envs.histories(tasks)
    lengths = [[len(steps) for steps, _ in row] for row in whole]
    assert len(set(map(len, lengths))) > 1
    np.testing.assert_array_equal(np.diff(histories.history_offsets), [len(row) for row in lengths])
    np.testing.assert_array_equal(np.diff(histories.episode_offsets), np.concatenate(lengths))
    by_step = [histories.observation, histories.action[:, None], histories.reward[:, None]]
    np.testing.assert_array_equal(np.hstack(by_step), [step for row in whole for ep in row for step in ep[0]])
    by_episode = [histories.final_observation, histories.terminated[:, None], histories.truncated[:, None]]
    np.testing.assert_array_equal(np.hstack(by_episode), [ep[1] for row in whole for ep in row])


@pytest.mark.parametrize("kind", ROOMS)
def test_all_autoreset_modes_yield_one_and_the_same_recording(kind: str) -> None:
    first, *others = (recorded(room_tasks(kind), mode) for mode in AutoresetMode)
    for other in others:
        for name in (*COLUMNS, *OFFSETS):
            ours, theirs = getattr(first, name), getattr(other, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_the_recorder_is_not_noticed() -> None:
    tasks = room_tasks("ragged")
    with_recorder, without = Recorder(make_vec(tasks)), make_vec(tasks)
    np.testing.assert_equal(with_recorder.reset(seed=0), without.reset(seed=0))
    np.testing.assert_equal(with_recorder.step(np.arange(4)), without.step(np.arange(4)))
    assert with_recorder.unwrapped.goals.tolist() == without.unwrapped.goals.tolist()  # type: ignore[attr-defined]


@pytest.mark.parametrize("num_episodes", [1, 2, NUM_EPISODES])
def test_a_recording_can_be_cut_to_its_first_episodes(num_episodes: int) -> None:
    tasks = room_tasks("ragged")
    envs = Recorder(make_vec(tasks), expert_actions=True)
    play(envs)
    whole, cut = envs.histories(tasks), envs.histories(tasks, num_episodes)
    assert np.diff(whole.history_offsets).max() > NUM_EPISODES  # fast rows went on while slow ones finished
    assert np.diff(cut.history_offsets).tolist() == [num_episodes] * 4
    episodes = (whole.history_offsets[:-1, None] + np.arange(num_episodes)).ravel()
    which = np.repeat(np.arange(whole.num_episodes), np.diff(whole.episode_offsets))  # episode of each step
    for names, kept in ((STEPS, np.isin(which, episodes)), (EPISODES, episodes)):
        for name in names:
            np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name)[kept], err_msg=name)
    np.testing.assert_array_equal(np.diff(cut.episode_offsets), np.diff(whole.episode_offsets)[episodes])


def test_an_unfinished_last_episode_is_left_out() -> None:
    tasks = room_tasks("even")
    envs = Recorder(make_vec(tasks))
    play(envs, 2)
    envs.reset(options={"reset_mask": np.ones(4, dtype=bool)})
    envs.step(np.zeros(4, dtype=int))
    histories = envs.histories(tasks)
    assert len(histories.action) == 4 * 2 * 5
    assert (histories.terminated | histories.truncated).all()


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("native", [True, False], ids=["native", "gymnasium"])
def test_an_episode_that_a_reset_cuts_short_is_left_out(mode: AutoresetMode, native: bool) -> None:
    # Glued to the next episode, its steps would make one that is longer than the horizon and jumps.
    tasks = [Task("ad_hf/DarkRoom-v0", {"goal": [0, 0], "horizon": 3})] * 2
    envs = Recorder(vector_env(tasks, mode, native))
    envs.reset(seed=0)
    for action, rows in [(0, [True, True]), (1, [False, True]), (2, None), (3, [True, False]), (4, None)]:
        envs.step(np.array([action, action]))
        if rows is not None:
            envs.reset(options={"reset_mask": np.array(rows)})
    histories = envs.histories(tasks)
    assert histories.action.tolist() == [1, 2, 3, 2, 3, 4]
    assert histories.observation[[0, 3]].tolist() == [[4, 4], [4, 4]]
    assert histories.episode_offsets.tolist() == [0, 3, 6]


@pytest.mark.parametrize("native", [True, False], ids=["native", "gymnasium"])
def test_resetting_one_row_by_hand_leaves_the_autoreset_of_the_others(native: bool) -> None:
    tasks = [Task("ad_hf/DarkRoom-v0", {"goal": [0, 0], "horizon": 2})] * 2
    envs = Recorder(vector_env(tasks, AutoresetMode.NEXT_STEP, native))
    envs.reset(seed=0)
    for _ in range(2):
        envs.step(np.array([0, 0]))
    envs.reset(options={"reset_mask": np.array([True, False])})
    for action in (1, 2, 3, 4):  # row 0 acts at once; row 1 loses its first action to the reset
        envs.step(np.array([action, action]))
    first, second = np.split(envs.histories(tasks).action, [4])
    assert first.tolist() == [0, 0, 1, 2]
    assert second.tolist() == [0, 0, 2, 3]


class SaysDoneTwice(VectorWrapper):
    """Calls the step that only restarts a row the end of an episode, too."""

    ended = np.zeros(4, dtype=bool)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        observation, reward, terminated, truncated, infos = self.env.step(actions)
        truncated, self.ended = truncated | self.ended, terminated | truncated
        return observation, reward, terminated, truncated, infos


def test_the_step_that_restarts_a_row_is_no_episode_whatever_it_says() -> None:
    tasks, histories = room_tasks("ragged"), []
    for wrapper in (SaysDoneTwice, VectorWrapper):
        envs, rng = Recorder(wrapper(make_vec(tasks, AutoresetMode.NEXT_STEP))), np.random.default_rng(0)
        envs.reset(seed=SEED)
        for _ in range(60):
            envs.step(rng.integers(5, size=4))
        histories.append(envs.histories(tasks))
    assert_same(*histories)


def test_asking_for_more_episodes_than_were_played_is_refused() -> None:
    tasks = room_tasks("even")
    envs = Recorder(make_vec(tasks))
    play(envs, 2)
    with pytest.raises(
        ValueError, match="finished 2 episodes, but 3 were asked for: ask for fewer or run longer"
    ):
        envs.histories(tasks, 3)


def test_a_row_without_a_whole_episode_is_refused() -> None:
    tasks = room_tasks("even")
    envs = Recorder(make_vec(tasks))
    envs.reset(seed=0)
    envs.step(np.zeros(4, dtype=int))
    with pytest.raises(ValueError, match="finished 0 episodes, but 1 were asked for"):
        envs.histories(tasks)


def test_every_row_needs_its_task() -> None:
    envs = Recorder(make_vec(room_tasks("even")))
    play(envs)
    with pytest.raises(ValueError, match="got 3 tasks for 4 rows"):
        envs.histories(room_tasks("even")[:3])


# Histories


# What is recorded of Watermaze, its poses, does not go with SAME_STEP.
REPLAYED = [
    (name, mode)
    for name in sorted(TASK_FAMILIES)
    for mode in AutoresetMode
    if (name, mode) != ("watermaze", AutoresetMode.SAME_STEP)
]


@pytest.mark.parametrize(("name", "mode"), REPLAYED)
def test_replaying_the_recorded_actions_reproduces_everything(name: str, mode: AutoresetMode) -> None:
    tasks = load_task_family(name)["test"][:8]
    envs = Recorder(make_vec(tasks, mode), expert_actions=True)
    envs.action_space.seed(1)
    envs.reset(seed=SEED)
    done = np.zeros(len(tasks), dtype=bool)
    for _ in range(150):
        if mode == AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": done})
        _, _, terminated, truncated, _ = envs.step(envs.action_space.sample())
        done = terminated | truncated
    histories = envs.histories(tasks)
    seen = observations(histories, np.arange(len(histories.action)))
    mismatches = []
    for history, task in enumerate(tasks):
        env: Any = task.make()
        world = env.unwrapped.world
        observation, _ = env.reset(seed=SEED + history)
        for episode in range(*histories.history_offsets[[history, history + 1]]):
            for step in range(*histories.episode_offsets[[episode, episode + 1]]):
                mismatches.append((observation != seen[step]).any())
                mismatches.append(env.unwrapped.optimal_action() != histories.expert_action[step])
                observation, reward, terminated, truncated, _ = env.step(histories.action[step])
                mismatches.append(np.float32(reward) != histories.reward[step])
            last = world.recorded()[0] if hasattr(world, "recorded") else observation
            mismatches.append((last != histories.final_observation[episode]).any())
            mismatches.append(terminated != histories.terminated[episode])
            mismatches.append(truncated != histories.truncated[episode])
            observation, _ = env.reset()
    assert len(mismatches) > 8 * 3 * 100
    assert sum(mismatches) == 0


def test_a_learners_history_replays_too() -> None:
    tasks = load_task_family("dark-room")["test"][:3]
    histories = collect(tasks, "q-learning", 50, seed=2)
    for history, task in enumerate(tasks):
        env = task.make()
        for episode in range(*histories.history_offsets[[history, history + 1]]):
            steps = range(*histories.episode_offsets[[episode, episode + 1]])
            path = [env.reset()[0], *(env.step(histories.action[step])[0] for step in steps)]
            np.testing.assert_array_equal(path[:-1], histories.observation[steps])
            np.testing.assert_array_equal(path[-1], histories.final_observation[episode])


def test_collecting_keeps_one_history_per_task_in_the_order_of_tasks() -> None:
    tasks = [Task("ad_hf/DarkRoom-v0", {"goal": [x, 4]}) for x in (4, 5, 8, 5)]
    histories = collect(tasks, "noise", 2, settings={"epsilon_start": 0.0})
    assert histories.tasks == tuple(tasks)
    assert histories.return_matrix().tolist() == [[20, 20], [20, 20], [17, 17], [20, 20]]
    assert repr(histories) == "Histories(4 histories, 8 episodes, 160 steps)"
    assert (len(histories), histories.num_episodes) == (4, 8)


def test_offsets_cover_every_step_and_every_episode() -> None:
    histories = recorded(room_tasks("ragged"), AutoresetMode.NEXT_STEP)
    num_steps, num_episodes = len(histories.action), histories.num_episodes
    assert histories.episode_offsets[[0, -1]].tolist() == [0, num_steps]
    assert histories.history_offsets[[0, -1]].tolist() == [0, num_episodes]
    assert (np.diff(histories.episode_offsets) > 0).all()
    assert {len(getattr(histories, name)) for name in COLUMNS[:3]} == {num_steps}
    assert {len(getattr(histories, name)) for name in COLUMNS[3:]} == {num_episodes}


def counting_histories() -> Histories:
    """Rewards 1, 2, 4, 8, ..., so that a sum says which steps are in it; 3 + 1 episodes."""
    return Histories(
        observation=np.zeros((7, 2)),
        action=np.zeros(7),
        reward=2.0 ** np.arange(7, dtype=np.float32),
        final_observation=np.zeros((4, 2)),
        terminated=np.zeros(4, dtype=bool),
        truncated=np.ones(4, dtype=bool),
        episode_offsets=np.array([0, 1, 3, 4, 7]),
        history_offsets=np.array([0, 3, 4]),
        tasks=(Task("x", {}), Task("y", {})),
        expert_action=np.arange(7),
    )


def test_a_return_is_the_sum_over_one_episode() -> None:
    assert counting_histories().episode_returns().tolist() == [1, 2 + 4, 8, 16 + 32 + 64]


def test_returns_by_history_are_cut_to_the_shortest() -> None:
    assert counting_histories().return_matrix().tolist() == [[1], [112]]


def test_returns_of_long_histories_stay_exact() -> None:
    # Summed in float32, a reward of 1 after 16.8 million others would be lost.
    reward = np.array([2**24, 1, 0.25], dtype=np.float32)
    offsets = {"episode_offsets": np.array([0, 2, 3]), "history_offsets": np.array([0, 2])}
    histories = Histories(**{**vars(counting_histories()), **offsets, "reward": reward})
    assert histories.episode_returns().tolist() == [2**24 + 1, 0.25]


# Some of many, and many from some


@pytest.mark.parametrize("lengths", [[3], [0], [2, 0, 0, 1, 4, 0], [0, 5], []])
def test_runs_are_counted_out_one_after_another(lengths: list[int]) -> None:
    starts = np.array([7, 0, 3, 100, 7, 9][: len(lengths)], dtype=np.int64)
    expected = [start + i for start, length in zip(starts, lengths, strict=True) for i in range(length)]
    assert runs(starts, np.array(lengths, dtype=np.int64)).tolist() == expected


def assert_same(ours: Histories, theirs: Histories) -> None:
    for name in (*STEPS, *EPISODES, *OFFSETS):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert ours.tasks == theirs.tasks


def test_histories_one_after_another_are_what_is_recorded_of_all_at_once() -> None:
    tasks = room_tasks("ragged")
    envs = Recorder(make_vec(tasks), expert_actions=True)
    play(envs)
    whole = envs.histories(tasks)
    for number in range(1, 4):
        rest = without_first(whole, number)
        assert np.shares_memory(rest.observation, whole.observation)
        assert np.shares_memory(rest.expert_action, whole.expert_action)
        assert rest.tasks == whole.tasks[number:]
        for name in OFFSETS:
            assert getattr(rest, name)[0] == 0
        np.testing.assert_array_equal(rest.episode_returns()[-3:], whole.episode_returns()[-3:])
        twice = concatenate([whole, rest])
        assert_same(without_first(twice, 4), rest)
        assert_same(without_first(twice, number), concatenate([rest, rest]))
        assert not np.shares_memory(twice.observation, whole.observation)


@pytest.mark.parametrize(
    ("name", "other", "kinds"),
    [
        ("action", np.zeros(7, np.uint8), r"float64\[\], uint8\[\]"),
        ("observation", np.zeros((7, 3)), r"float64\[2\], float64\[3\]"),
        ("expert_action", None, r"int64\[\], none"),
    ],
)
def test_histories_of_different_types_are_not_put_together(
    name: str, other: np.ndarray | None, kinds: str
) -> None:
    ours = counting_histories()
    with pytest.raises(ValueError, match=f"hold different types of {name}: {kinds}$"):
        concatenate([ours, replace(ours, **{name: other})])


# Types


def test_a_dark_room_transition_takes_seven_bytes() -> None:
    histories = recorded(room_tasks("even"), AutoresetMode.DISABLED)
    kept = [histories.observation, histories.action, histories.reward]
    assert [column.dtype for column in kept] == [np.uint8, np.uint8, np.float32]
    assert sum(column.nbytes for column in kept) == 7 * len(histories.action)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        *[(0, high) for high in (0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32)],
        *[(-1, high) for high in (0, 127, 128, 32767, 32768, 2**31 - 1, 2**31)],
        *[(low, 2) for low in (-2, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1)],
        (300, 301),
    ],
)
def test_integers_take_as_few_bytes_as_they_can(low: int, high: int) -> None:
    fitting = [
        np.dtype(f"{kind}{size}")
        for size in (1, 2, 4, 8)
        for kind in "ui"
        if np.iinfo(f"{kind}{size}").min <= low and high <= np.iinfo(f"{kind}{size}").max
    ]
    smallest = smallest_dtype(spaces.Discrete(high - low + 1, start=low))
    assert smallest.itemsize == fitting[0].itemsize
    assert smallest in fitting


def test_the_widest_component_decides_for_all() -> None:
    assert smallest_dtype(spaces.MultiDiscrete([9, 9])) == np.uint8
    assert smallest_dtype(spaces.MultiDiscrete([2, 300])) == np.uint16
    assert smallest_dtype(spaces.MultiDiscrete([2, 100], start=[-5, 0])) == np.int8
    assert smallest_dtype(spaces.MultiDiscrete([2, 2], start=[-5, 200])) == np.int16


@pytest.mark.parametrize(
    ("given", "kept"), [(np.float64, np.float32), (np.float32, np.float32), (np.uint8, np.uint8)]
)
def test_boxes_keep_their_type_but_for_doubles(given: type, kept: type) -> None:
    assert smallest_dtype(spaces.Box(0, 9, (2,), given)) == kept


def test_spaces_that_histories_do_not_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hold Discrete, MultiDiscrete and Box spaces, not Dict"):
        smallest_dtype(spaces.Dict({"x": spaces.Discrete(2)}))


def test_continuous_environments_are_recorded_too() -> None:
    tasks = [Task("Pendulum-v1", {"g": g}) for g in (1.0, 9.8)]
    envs = Recorder(make_vec(tasks))
    envs.action_space.seed(0)
    envs.reset(seed=SEED)
    for _ in range(200):
        envs.step(envs.action_space.sample())
    histories = envs.histories(tasks, 1)
    assert histories.observation.shape == (400, 3)
    assert histories.action.shape == (400, 1)
    for row, task in enumerate(tasks):
        env, steps = task.make(), slice(200 * row, 200 * row + 200)
        first, _ = env.reset(seed=SEED + row)
        arrived, reward, *_ = zip(*map(env.step, histories.action[steps]), strict=True)
        np.testing.assert_array_equal(histories.observation[steps], [first, *arrived[:-1]])
        np.testing.assert_array_equal(histories.final_observation[row], arrived[-1])
        np.testing.assert_array_equal(histories.reward[steps], np.float32(reward))
