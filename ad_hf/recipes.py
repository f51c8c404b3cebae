"""Recipes: every setting of a run, from tasks to report."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ad_hf import hub
from ad_hf.collection import CollectSettings
from ad_hf.evaluation import EvaluateSettings
from ad_hf.sources import resolve_settings
from ad_hf.tasks import TASK_FAMILIES, TaskFamily, load_task_family
from ad_hf.training import RECIPE, TrainSettings
from ad_hf.windows import WindowSettings

OBJECTIVES = ("ad", "ed", "dpt")

# Trains at two thirds of the default's speed, and remembers better: in Dark Key-to-Door it ends at 1.81, the
# default decoder at 1.6.
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "hidden_act": "relu2",
}


@dataclass(frozen=True)
class ModelSettings:
    """The model, apart from the spaces, which the environment decides; the fields are those of `ADConfig`."""

    context_length: int = 80
    tokens_per_transition: int = 1
    label_smoothing: float = 0.0
    decoder: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Every setting of a run.

    Args:
        name: a name in `RECIPES`.
        family: the task family and its options, for example `{"name": "dark-room", "fold": 2}`.
        collect: how histories are collected.
        model: what is trained.
        windows: how histories are cut.
        train: how it is trained.
        evaluate: how it is judged.
        objective: "ad"; "ed" for expert distillation, which sees only the end of each history; "dpt" for
            decision pretraining, which predicts the optimal action from a set of transitions.
        dataset: where the histories came from; filled in by a run.
    """

    name: str
    family: dict[str, Any]
    collect: CollectSettings = field(default_factory=CollectSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    windows: WindowSettings = field(default_factory=WindowSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    objective: str = "ad"
    dataset: str | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}, but must be one of {', '.join(OBJECTIVES)}")

    def task_family(self) -> TaskFamily:
        """The tasks.

        Raises:
            ValueError: if there are none of that name or with those options.
        """
        try:
            return load_task_family(**self.family)
        except TypeError as error:
            raise ValueError(f"there are no tasks with {self.family}: {error}") from error


def dark_room() -> Recipe:
    """Dark Room on two CPU cores in about a minute, from nothing to a model that learns in context.

    Q-learning needs about 300 episodes for a goal. Windows whose five episodes lie 100 source episodes apart
    span its whole climb, so the model climbs in a few tens of episodes. The numbers were chosen on 13 goals
    held out of the 65 training goals.
    """
    return Recipe(
        name="dark-room",
        family={"name": "dark-room"},
        collect=CollectSettings(source="q-learning", num_episodes=600, settings={"epsilon_start": 0.5}),
        model=ModelSettings(context_length=100, decoder={"intermediate_size": 128}),
        windows=WindowSettings(episode_stride=100),
        train=TrainSettings(updates=600, learning_rate=5e-3, weight_decay=0.3, mixed_precision="bf16"),
        evaluate=EvaluateSettings(rollouts_per_task=16),
    )


def dark_room_hard() -> Recipe:
    """Dark Room Hard on two CPU cores in under ten minutes.

    No source that learns from rewards alone finds a cell of 289 that pays once an episode within the episodes
    of an evaluation, so one that knows the rules is distilled: posterior sampling that draws a new belief as
    soon as one is refuted. It is done in 40 episodes, so windows skip none. The context holds 20 episodes:
    with 10 what was found is sometimes forgotten, and the return falls back to .93 after having been 1.
    """
    return Recipe(
        name="dark-room-hard",
        family={"name": "dark-room-hard"},
        collect=CollectSettings(
            source="posterior-sampling",
            num_episodes=40,
            learners_per_task=16,
            settings={"resample": "refuted"},
        ),
        model=ModelSettings(context_length=400, decoder={"intermediate_size": 128}),
        train=TrainSettings(
            updates=3000, batch_size=8, learning_rate=3e-3, weight_decay=0.3, mixed_precision="bf16"
        ),
        evaluate=EvaluateSettings(num_episodes=100, rollouts_per_task=2, temperature=0.7),
    )


def dark_key_to_door() -> Recipe:
    """Dark Key-to-Door on two CPU cores in about a quarter of an hour.

    Posterior sampling finds key and door within five episodes. Histories end soon after, because what is to
    be learnt lies before: with 20 episodes of 2000 tasks the model ends at 1.6, with 10 of 4000 at 1.8, both
    after a quarter of the training. Once the door is open the source wanders. From one that stays there the
    model learns to take the place where it has stood still for the door: now and then it stands at the key
    for good, and ends at 1.92 in place of 2.00.
    """
    return Recipe(
        name="dark-key-to-door",
        family={"name": "dark-key-to-door", "num_train": 4000},
        collect=CollectSettings(
            source="posterior-sampling",
            num_episodes=10,
            learners_per_task=1,
            settings={"resample": "refuted", "afterwards": "wander"},
        ),
        model=ModelSettings(context_length=200, decoder=LLAMA),
        train=TrainSettings(
            updates=4000, batch_size=32, learning_rate=3e-3, weight_decay=0.1, mixed_precision="bf16"
        ),
        evaluate=EvaluateSettings(num_episodes=100, rollouts_per_task=1, temperature=0.7),
    )


def adversarial_bandit(name: str = "adversarial-bandit") -> Recipe:
    """The adversarial bandit on two CPU cores in about three minutes: UCB on 4000 bandits, 100 pulls of each.

    A pull is an episode, and the context holds all of them. Where other arms pay than in training it takes
    4000 updates and `windows.rename_actions` to be as good as UCB.

    Args:
        name: of the family, which says how bandits are drawn.
    """
    return Recipe(
        name=name,
        family={"name": name},
        collect=CollectSettings(source="ucb", num_episodes=100, learners_per_task=1, lockstep=4096),
        model=ModelSettings(context_length=100, decoder={"intermediate_size": 128}),
        train=TrainSettings(updates=1000, learning_rate=5e-3, weight_decay=0.1, mixed_precision="bf16"),
        evaluate=EvaluateSettings(num_episodes=100, rollouts_per_task=4),
    )


def watermaze() -> Recipe:
    """Watermaze from pixels, on one CPU core in under thirty minutes.

    The start always faces east. Where the heading is drawn, the model has to learn from the pictures where it
    looks before it can learn anything in context, which takes more updates than this has.
    """
    return Recipe(
        name="watermaze",
        family={"name": "watermaze", "num_train": 2048, "start": "east"},
        collect=CollectSettings(
            source="posterior-sampling",
            num_episodes=20,
            learners_per_task=1,
            settings={"resample": "refuted"},
        ),
        model=ModelSettings(context_length=100, decoder=LLAMA),
        train=TrainSettings(
            updates=3000, batch_size=16, learning_rate=3e-3, weight_decay=0.1, mixed_precision="bf16"
        ),
        evaluate=EvaluateSettings(num_episodes=160, rollouts_per_task=1, temperature=0.5),
    )


def watermaze_gpu() -> Recipe:
    """Watermaze from pixels and with any heading, for a GPU: more platforms, 64 times the transitions.

    Its numbers are scaled up from `watermaze`; nobody has measured what it reaches.
    """
    return Recipe(
        name="watermaze-gpu",
        family={"name": "watermaze", "num_train": 8192},
        collect=watermaze().collect,
        model=ModelSettings(
            context_length=200,
            decoder={"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
        ),
        train=TrainSettings(
            updates=16_000, batch_size=128, learning_rate=1e-3, weight_decay=0.1, mixed_precision="bf16"
        ),
        evaluate=EvaluateSettings(num_episodes=160, rollouts_per_task=8),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "dark-room": dark_room,
    "dark-room-hard": dark_room_hard,
    "dark-key-to-door": dark_key_to_door,
    "adversarial-bandit": adversarial_bandit,
    "adversarial-bandit-h": functools.partial(adversarial_bandit, "adversarial-bandit-h"),
    "uniform-bandit": functools.partial(adversarial_bandit, "uniform-bandit"),
    "watermaze": watermaze,
    "watermaze-gpu": watermaze_gpu,
}


def load_recipe(name: str, changes: Sequence[str] = (), folder: Path | None = None) -> Recipe:
    """A named recipe, or the one saved beside a checkpoint, with some settings changed.

    Args:
        name: a name in `RECIPES`; or one in `TASK_FAMILIES`, whose settings nobody has chosen yet; or a
            folder or a repository on the Hub that holds a recipe.json.
        changes: "section.setting=value" each, the value as JSON or as bare text.
        folder: where a model of this name has been fetched to already; None looks for it.

    Raises:
        ValueError: if there is no such recipe or setting, or a value does not suit its setting.
        HubError: if there is no such folder or repository.
    """
    if folder is None and name in RECIPES:
        recipe = RECIPES[name]()
    elif folder is None and name in TASK_FAMILIES:
        recipe = Recipe(name, {"name": name})
    else:
        if folder is None and not (name and Path(name).is_dir()) and not hub.is_reference(name):
            known = ", ".join(sorted({*RECIPES, *TASK_FAMILIES}))
            raise ValueError(f"{name!r} is neither an environment ({known}) nor a folder with a {RECIPE}")
        saved = (folder or hub.folder_of(name)) / RECIPE
        if not saved.is_file():
            raise ValueError(f"{name} holds no {RECIPE}, which `ad-hf train` leaves beside a model")
        recipe = build_settings(Recipe, read_json(saved), "")
    settings = asdict(recipe)
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise ValueError(
                f"{change!r} is not of the form section.setting=value, for example train.updates=2000"
            )
        _assign(settings, path.split("."), _value(text), path)
        if path == "collect.source" and settings["collect"]["source"] != recipe.collect.source:
            settings["collect"]["settings"] = {}  # another source has other settings
    recipe = build_settings(Recipe, settings, "")
    defaults = resolve_settings(recipe.collect.source, {})
    for setting, value in recipe.collect.settings.items():
        _checked(value, type(defaults[setting]), f"collect.settings.{setting}")
    return recipe


def read_json(path: Path) -> Any:
    """What a file holds.

    Raises:
        ValueError: if it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): it was cut short or edited") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _assign(settings: dict[str, Any], path: list[str], value: Any, whole: str) -> None:
    """Set one entry of nested settings; only a decoder's, a source's and a family's take new names."""
    *sections, last = path
    open_section = False
    for section in sections:
        if not isinstance(settings.get(section), dict):
            raise ValueError(
                f"there is no setting {whole!r}: {section!r} is not one of {', '.join(settings)}"
            )
        open_section = section in ("settings", "decoder", "family")
        settings = settings[section]
    if last not in settings and not open_section:
        raise ValueError(f"there is no setting {whole!r}: choose one of {', '.join(settings)}")
    settings[last] = value


def check_known(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that are not known.

    Raises:
        ValueError: if there is one.
    """
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"there is no setting {where}{unknown[0]}: choose one of {', '.join(known)}")


def build_settings(kind: type, values: Any, where: str) -> Any:
    """A settings dataclass from JSON values, each checked against the type of its field."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where or 'the recipe'} is {values!r}, but must hold settings")
    hints = typing.get_type_hints(kind)
    check_known(where and f"{where}.", values, hints)
    arguments = {
        name: _checked(value, hints[name], f"{where}.{name}".lstrip(".")) for name, value in values.items()
    }
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{where or 'the recipe'} is not whole: {error}") from error


def _checked(value: Any, wanted: Any, where: str) -> Any:
    """A JSON value as the type wanted."""
    if dataclasses.is_dataclass(wanted):
        return build_settings(typing.cast("type", wanted), value, where)
    origin = typing.get_origin(wanted) or wanted
    if origin is tuple:
        entry, _ = typing.get_args(wanted)
        several = value if isinstance(value, list | tuple) else [value]
        return tuple(_checked(one, entry, where) for one in several)
    if origin is types.UnionType:
        inner, _ = typing.get_args(wanted)
        return value if value is None else _checked(value, inner, where)
    if origin is float and type(value) is int and abs(value) < 2**1023:
        value = float(value)
    if origin is float and type(value) is float and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, but must be a finite number")
    if origin in (int, float, str, bool, dict) and type(value) is not origin:
        raise ValueError(f"{where} is {value!r}, but must be of type {origin.__name__}")
    return value
