"""Tasks and task families: what an in-context learner is trained on and what it has never seen.

A task is one environment with its parameters fixed: Dark Room with the goal at (3, 5). A family is many tasks
that share an environment, divided into splits. Algorithm Distillation is judged on tasks that no history was
collected on, so splits that share a task are refused.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode

# name -> "module:function", a function of options that returns a TaskFamily
TASK_FAMILIES: dict[str, str] = {
    "adversarial-bandit": "ad_hf.envs.bandit:adversarial_bandit_family",
    "adversarial-bandit-h": "ad_hf.envs.bandit:adversarial_bandit_h_family",
    "dark-key-to-door": "ad_hf.envs.key_to_door:dark_key_to_door_family",
    "dark-room": "ad_hf.envs.dark_room:dark_room_family",
    "dark-room-hard": "ad_hf.envs.dark_room:dark_room_hard_family",
    "uniform-bandit": "ad_hf.envs.bandit:uniform_bandit_family",
    "watermaze": "ad_hf.envs.watermaze:watermaze_family",
}


@dataclass(frozen=True)
class Task:
    """One environment with its parameters fixed.

    Args:
        env_id: a Gymnasium environment id.
        params: keyword arguments of the environment's constructor, JSON values only.
    """

    env_id: str
    params: Mapping[str, Any]

    def __hash__(self) -> int:
        return hash(self.json)

    @cached_property
    def json(self) -> str:
        """The whole task as a JSON string, the same for equal tasks."""
        return json.dumps({"env_id": self.env_id, "params": dict(self.params)}, sort_keys=True)

    @cached_property
    def id(self) -> str:
        """Sixteen hexadecimal digits that name the task: a hash of `json`."""
        return hashlib.sha256(self.json.encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The task that `json` describes.

        Raises:
            ValueError: if it describes none.
        """
        try:
            task = cls(**json.loads(text))
            if isinstance(task.env_id, str) and isinstance(task.params, dict):
                return task
        except (ValueError, TypeError, RecursionError):
            pass
        example = '{"env_id": "ad_hf/DarkRoom-v0", "params": {"goal": [7, 2]}}'
        raise ValueError(f"{text[:100]!r} is no task, which looks like {example}")

    def make(self, **kwargs: Any) -> gym.Env:
        """The task as a single Gymnasium environment; `kwargs` go to `gymnasium.make`."""
        return gym.make(self.env_id, **self.params, **kwargs)


@dataclass(frozen=True)
class TaskFamily:
    """Tasks that share an environment, divided into splits that share no task.

    `family["train"]` is a tuple of tasks.

    Args:
        name: the family's name, also the name of the dataset config that holds its histories.
        splits: split name -> tasks.
        options: the arguments the family was loaded with, so that a recipe can name it again.

    Raises:
        ValueError: if two splits share a task, or a split is empty.
    """

    name: str
    splits: Mapping[str, tuple[Task, ...]]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        for split, tasks in self.splits.items():
            if not tasks:
                raise ValueError(f"split {split!r} of task family {self.name!r} has no tasks")
            for task in tasks:
                if owner.setdefault(task.id, split) != split:
                    both = f"the splits {owner[task.id]!r} and {split!r} of {self.name!r}"
                    raise ValueError(
                        f"task {task.json} is in {both}: a task that is trained on cannot be a test"
                    )

    def __getitem__(self, split: str) -> tuple[Task, ...]:
        if split not in self.splits:
            known = list(self.splits)
            raise ValueError(f"task family {self.name!r} has no split {split!r}: choose one of {known}")
        return self.splits[split]


def load_task_family(name: str, validation: bool = False, **options: Any) -> TaskFamily:
    """Build a registered task family.

    Args:
        name: a name in `TASK_FAMILIES`, for example "dark-room".
        validation: leave the test tasks alone and hold out a fifth of the training tasks in their place: what
            settings are to be chosen on.
        options: of the family's own function, for example `seed=1` or `fold=2`.

    Raises:
        ValueError: if there is no such family, or an option has no such value.
    """
    if name not in TASK_FAMILIES:
        raise ValueError(f"unknown environment {name!r}: choose one of {sorted(TASK_FAMILIES)}")
    for option in options.keys() & {"seed", "fold"}:
        value, is_fold = options[option], option == "fold"
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not (is_whole and (is_fold or 0 <= value < 2**63)) and not (is_fold and value is None):
            raise ValueError(f"{option} is {value!r}, but must be a whole number, at least 0")
    if not isinstance(validation, bool):
        raise ValueError(f"validation is {validation!r}, but must be true or false")
    module, function = TASK_FAMILIES[name].split(":")
    family = getattr(importlib.import_module(module), function)(**options)
    if not validation:
        return family
    splits = split_tasks(family["train"], num_test=-(-len(family["train"]) // 5))
    return TaskFamily(name, splits, {**family.options, "validation": True})


def split_tasks(
    tasks: Sequence[Task],
    num_test: int,
    seed: int = 0,
    fold: int | None = None,
    num_folds: int = 5,
    num_train: int | None = None,
) -> dict[str, tuple[Task, ...]]:
    """A seeded train/test split, or one fold of a seeded partition; both parts keep the order of `tasks`.

    Args:
        tasks: all tasks of a family.
        num_test: how many of them are test tasks, where `fold` is None.
        seed: of the split or the partition.
        fold: 0 ... num_folds - 1; over all folds every task is a test task exactly once.
        num_folds: parts of the partition.
        num_train: how many of the others are training tasks, None for all. Fewer are a part of more.

    Raises:
        ValueError: if there is no such fold, or there are not so many tasks.
    """
    shuffled = np.random.default_rng(seed).permutation(len(tasks))
    if fold is None:
        if not 1 <= num_test < len(tasks):
            raise ValueError(
                f"num_test is {num_test}, but must be 1 to {len(tasks) - 1} of {len(tasks)} tasks"
            )
        held_out = shuffled[:num_test]
    elif 0 <= fold < num_folds:
        held_out = np.array_split(shuffled, num_folds)[fold]
    else:
        raise ValueError(f"fold is {fold}, but there are {num_folds}: choose 0 to {num_folds - 1}")
    others = shuffled[~np.isin(shuffled, held_out)]
    if num_train is not None and not 1 <= num_train <= len(others):
        left = f"the {len(others)} tasks that are not held out"
        raise ValueError(f"num_train is {num_train}, but must be 1 to {len(others)}: {left}")
    return {
        split: tuple(tasks[i] for i in sorted(chosen.tolist()))
        for split, chosen in (("train", others[:num_train]), ("test", held_out))
    }


def make_vec(
    tasks: Sequence[Task], autoreset_mode: AutoresetMode = AutoresetMode.DISABLED
) -> gym.vector.VectorEnv:
    """One vector environment with task i in row i: the native one where it takes an `autoreset_mode`.

    A native vector environment gets a parameter that all tasks share as it is, and any other as a list with a
    value per row. With `DISABLED`, the default, a finished row is restarted by
    `reset(options={"reset_mask": done})`, so `step` always returns the true next observation and every step
    is a real one.

    Raises:
        ValueError: if the tasks are of more than one environment, or name different parameters.
    """
    env_ids = {task.env_id for task in tasks}
    if len(env_ids) != 1:
        found = sorted(env_ids) or "none"
        raise ValueError(f"one vector environment holds tasks of one environment, not of {found}")
    env_id = env_ids.pop()
    if not _takes_autoreset_mode(gym.spec(env_id).vector_entry_point):
        return gym.vector.SyncVectorEnv([task.make for task in tasks], autoreset_mode=autoreset_mode)
    for task in tasks:
        if task.params.keys() != tasks[0].params.keys():
            raise ValueError(
                f"tasks {tasks[0].json} and {task.json} name different parameters: "
                "name the same ones in every task of a vector environment"
            )
    columns = {key: [task.params[key] for task in tasks] for key in tasks[0].params}
    params: dict[str, Any] = {
        key: column[0] if all(value == column[0] for value in column) else column
        for key, column in columns.items()
    }
    return gym.make_vec(env_id, num_envs=len(tasks), autoreset_mode=autoreset_mode, **params)


def _takes_autoreset_mode(entry_point: Any) -> bool:
    """Whether a vector entry point lets its caller choose; Gymnasium's own CartPole, for one, does not."""
    if entry_point is None:
        return False
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return "autoreset_mode" in inspect.signature(creator).parameters
