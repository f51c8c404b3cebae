"""Tasks and splits: what is trained on is never tested, and row i of a vector environment is task i."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import ad_hf.envs  # noqa: F401 (registers the environments)
from ad_hf.tasks import TASK_FAMILIES, Task, TaskFamily, load_task_family, make_vec, split_tasks

FAMILIES = sorted(TASK_FAMILIES)
FOLDED = [name for name in FAMILIES if "fold" in load_task_family(name).options]
SPLIT_SIZES = {"dark-room": (65, 16), "dark-room-hard": (231, 58)}  # four goals to train on for each to test


def ids(tasks: tuple[Task, ...]) -> list[str]:
    return [task.id for task in tasks]


def goal_task(x: int, y: int, **params: object) -> Task:
    return Task("ad_hf/DarkRoom-v0", {"goal": [x, y], **params})


# Splits


@pytest.mark.parametrize("name", FAMILIES)
def test_training_and_test_tasks_are_disjoint_and_all_different(name: str) -> None:
    family = load_task_family(name)
    everything = [task.id for split in family.splits for task in family[split]]
    assert family.name == name
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize(("name", "sizes"), SPLIT_SIZES.items())
def test_one_task_in_five_is_held_out(name: str, sizes: tuple[int, int]) -> None:
    family = load_task_family(name)
    assert (len(family["train"]), len(family["test"])) == sizes


@pytest.mark.parametrize("name", FAMILIES)
def test_the_split_is_a_matter_of_its_seed_alone(name: str) -> None:
    assert load_task_family(name, seed=3) == load_task_family(name, seed=3)
    assert ids(load_task_family(name, seed=3)["test"]) != ids(load_task_family(name, seed=4)["test"])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_validation_split_holds_out_training_tasks_and_no_test_task(name: str) -> None:
    family, validation = load_task_family(name), load_task_family(name, validation=True)
    assert set(validation["train"] + validation["test"]) == set(family["train"])
    assert len(validation["test"]) == -(-len(family["train"]) // 5)
    assert load_task_family(name, **validation.options) == validation
    assert load_task_family(name, validation=False) == family


def test_a_validation_split_is_asked_for_by_true_or_false() -> None:
    with pytest.raises(ValueError, match="validation is 1, but must be true or false"):
        load_task_family("dark-room", validation=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FOLDED)
def test_five_folds_test_every_task_exactly_once(name: str) -> None:
    split = load_task_family(name)
    folds = [load_task_family(name, fold=fold) for fold in range(5)]
    tested = [task for fold in folds for task in ids(fold["test"])]
    assert len(set(tested)) == len(tested)
    assert set(tested) >= set(ids(split["train"] + split["test"]))
    for fold in folds:
        assert set(ids(fold["train"])) <= set(tested) - set(ids(fold["test"]))
        assert abs(len(fold["test"]) - len(tested) / 5) < 1


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {"seed": 2}) for name in FAMILIES]
    + [(name, options) for name in FOLDED for options in ({}, {"fold": 4, "seed": 1})],
)
def test_a_family_remembers_the_options_that_load_it_again(name: str, options: dict[str, int]) -> None:
    family = load_task_family(name, **options)
    assert load_task_family(name, **family.options) == family


@pytest.mark.parametrize("size", [9, 17])
def test_dark_room_families_hold_every_goal_of_the_room(size: int) -> None:
    family = load_task_family("dark-room" if size == 9 else "dark-room-hard")
    goals = {tuple(task.params["goal"]) for task in family["train"] + family["test"]}
    assert goals == {(x, y) for x in range(size) for y in range(size)}


@pytest.mark.parametrize("fold", [None, 0, 4])
def test_all_that_is_not_held_out_is_trained_on_unless_fewer_are_asked_for(fold: int | None) -> None:
    tasks = [goal_task(x, y) for x in range(9) for y in range(9)]
    everything = split_tasks(tasks, 16, fold=fold)
    assert sorted(ids(everything["train"] + everything["test"])) == sorted(ids(tuple(tasks)))
    few, more = (split_tasks(tasks, 16, fold=fold, num_train=number) for number in (5, 40))
    assert (len(few["train"]), len(more["train"])) == (5, 40)
    assert set(ids(few["train"])) < set(ids(more["train"])) < set(ids(everything["train"]))
    assert few["test"] == more["test"] == everything["test"]
    for split in (few, more, everything):
        for part in split.values():
            assert [task for task in tasks if task in part] == list(part), "not in the order of the family"


@pytest.mark.parametrize(("num_test", "num_train"), [(16, 66), (16, 0), (16, -1), (81, None), (0, None)])
def test_more_tasks_than_there_are_and_none_at_all_are_refused(num_test: int, num_train: int | None) -> None:
    tasks = [goal_task(x, y) for x in range(9) for y in range(9)]
    wrong = f"num_train is {num_train}, but must be 1 to 65" if num_train is not None else "must be 1 to 80"
    with pytest.raises(ValueError, match=wrong):
        split_tasks(tasks, num_test, num_train=num_train)


def test_splits_that_share_a_task_are_refused_by_its_name() -> None:
    shared = goal_task(3, 5)
    with pytest.raises(ValueError, match=r"\[3, 5\].*'train' and 'test' of 'rooms'.*cannot be a test"):
        TaskFamily("rooms", {"train": (goal_task(0, 0), shared), "test": (shared,)})


def test_a_split_without_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="split 'test' of task family 'rooms' has no tasks"):
        TaskFamily("rooms", {"train": (goal_task(0, 0),), "test": ()})


def test_a_task_may_occur_twice_in_one_split() -> None:
    assert len(TaskFamily("rooms", {"train": (goal_task(0, 0),) * 2})["train"]) == 2


def test_an_unknown_family_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'bright-room'.*dark-room.*dark-room-hard"):
        load_task_family("bright-room")


def test_an_unknown_split_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'dark-room' has no split 'validation'.*'train', 'test'"):
        load_task_family("dark-room")["validation"]


@pytest.mark.parametrize("fold", [-1, 5])
def test_an_unknown_fold_is_answered_with_the_known_ones(fold: int) -> None:
    with pytest.raises(ValueError, match=rf"fold is {fold}, but there are 5: choose 0 to 4"):
        load_task_family("dark-room", fold=fold)


# A task on disk


@pytest.mark.parametrize("name", FAMILIES)
def test_a_task_survives_its_json(name: str) -> None:
    for task in load_task_family(name)["test"]:
        again = Task.from_json(task.json)
        assert again == task
        assert again.id == task.id


def test_equal_tasks_have_one_name_however_they_were_written() -> None:
    one = Task("ad_hf/DarkRoom-v0", {"goal": [3, 5], "horizon": 10})
    other = Task("ad_hf/DarkRoom-v0", {"horizon": 10, "goal": (3, 5)})
    assert one.json == other.json
    assert one.id == other.id


def test_different_tasks_have_different_names() -> None:
    tasks = [goal_task(3, 5), goal_task(5, 3), goal_task(3, 5, horizon=10)]
    tasks.append(Task("ad_hf/DarkRoomHard-v0", {"goal": [3, 5]}))
    assert len({task.id for task in tasks}) == len(tasks)


def test_published_task_names_stay_what_they_are() -> None:
    # Datasets on the Hub name tasks by this hash: a new way of writing the JSON would orphan them.
    task = goal_task(3, 5)
    assert task.json == '{"env_id": "ad_hf/DarkRoom-v0", "params": {"goal": [3, 5]}}'
    assert task.id == "d0750596dce9ce7d"


def test_a_task_makes_its_environment() -> None:
    env = goal_task(3, 5, horizon=7).make(render_mode="ansi")
    assert env.unwrapped.world.goals[0].tolist() == [3, 5]  # type: ignore[attr-defined]
    assert env.unwrapped.world.horizon == 7  # type: ignore[attr-defined]
    assert env.render_mode == "ansi"


# Vector environments of tasks


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("num_tasks", [1, 16])
def test_row_i_is_task_i(name: str, num_tasks: int) -> None:
    tasks = load_task_family(name)["test"][:num_tasks]
    envs, rows = make_vec(tasks), [task.make() for task in tasks]
    assert envs.num_envs == len(tasks)
    envs.action_space.seed(0)
    observation, _ = envs.reset(seed=0)
    np.testing.assert_equal(list(observation), [row.reset(seed=i)[0] for i, row in enumerate(rows)])
    done = np.zeros(len(tasks), dtype=bool)
    for _ in range(200):
        if done.any():
            envs.reset(options={"reset_mask": done})
            for i in np.flatnonzero(done):
                rows[i].reset()
        actions = envs.action_space.sample()
        observation, reward, terminated, truncated, _ = envs.step(actions)
        steps = [row.step(action)[:4] for row, action in zip(rows, actions, strict=True)]
        np.testing.assert_equal(list(zip(observation, reward, terminated, truncated, strict=True)), steps)
        done = terminated | truncated


@pytest.mark.parametrize("name", FAMILIES)
def test_our_families_get_their_native_vector_environment(name: str) -> None:
    assert not isinstance(make_vec(load_task_family(name)["test"]), SyncVectorEnv)


def test_parameters_that_all_tasks_share_are_passed_once() -> None:
    envs = make_vec([goal_task(x, 2, horizon=3, start=[0, 0]) for x in range(4)])
    assert envs.unwrapped.goals.tolist() == [[0, 2], [1, 2], [2, 2], [3, 2]]  # type: ignore[attr-defined]
    assert envs.unwrapped.horizon == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_without_a_native_version_that_can_tell_modes_single_environments_are_stepped(
    env_id: str, mode: AutoresetMode
) -> None:
    # Pendulum has no vector version; CartPole has one, but it knows one autoreset mode only.
    envs = make_vec([Task(env_id, {})] * 3, mode)
    assert isinstance(envs, SyncVectorEnv)
    assert envs.metadata["autoreset_mode"] == mode
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[0].shape[0] == 3


def test_single_environments_get_their_own_parameters() -> None:
    gravities = [1.0, 5.0, 9.8]
    envs = make_vec([Task("Pendulum-v1", {"g": g}) for g in gravities])
    assert isinstance(envs, SyncVectorEnv)
    assert [env.unwrapped.g for env in envs.envs] == gravities  # type: ignore[attr-defined]


def test_modes_default_to_disabled() -> None:
    assert make_vec([goal_task(0, 0)]).metadata["autoreset_mode"] == AutoresetMode.DISABLED


def test_tasks_of_two_environments_do_not_fit_one_vector_environment() -> None:
    hard = Task("ad_hf/DarkRoomHard-v0", {"goal": [3, 5]})
    with pytest.raises(
        ValueError, match=r"tasks of one environment, not of \['ad_hf/DarkRoom-v0', 'ad_hf/DarkRoomH"
    ):
        make_vec([goal_task(3, 5), hard])
    with pytest.raises(ValueError, match="tasks of one environment, not of none"):
        make_vec([])


def test_a_parameter_that_only_some_tasks_name_is_refused() -> None:
    # Reading the names from the first task alone would drop the second's horizon without a word.
    with pytest.raises(ValueError, match=r"\"horizon\": 3.*name different parameters"):
        make_vec([goal_task(3, 5), goal_task(3, 5, horizon=3)])


def test_a_parameter_that_rooms_have_to_share_is_refused_as_a_list() -> None:
    with pytest.raises(ValueError, match=r"reward_once is \[False, True\].*the same for all rows"):
        make_vec([goal_task(3, 5, reward_once=False), goal_task(3, 5, reward_once=True)])


def test_unknown_environments_are_gymnasiums_to_refuse() -> None:
    with pytest.raises(gym.error.Error, match="LightRoom"):
        make_vec([Task("ad_hf/LightRoom-v0", {})])
