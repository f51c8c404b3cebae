"""Recipes: every setting of a run from tasks to report, and the stages run with them."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ad_hf.dataset import CollectSettings, collect_dataset, load_histories
from ad_hf.evaluation import EvaluateSettings, evaluate, load_model
from ad_hf.models import ADConfig, space_to_json
from ad_hf.tasks import Task, TaskFamily, load_task_family
from ad_hf.training import RECIPE, TrainSettings, train
from ad_hf.windows import WindowSettings, expert_part

OBJECTIVES = ("ad", "ed")
EVALUATION = "evaluation.json"


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
        objective: "ad", or "ed" for expert distillation, which sees only the end of each history.
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
        """The tasks."""
        return load_task_family(**self.family)


def dark_room() -> Recipe:
    """Dark Room on two CPU cores in about two minutes, from nothing to a model that learns in context.

    A2C learns a goal in about 90 episodes. Windows of 80 transitions whose episodes lie 40 source episodes
    apart show its whole climb in four, so the model climbs in a few tens of episodes.
    """
    return Recipe(
        name="dark-room",
        family={"name": "dark-room"},
        collect=CollectSettings(source="a2c", num_episodes=200, learners_per_task=6),
        model=ModelSettings(context_length=80, decoder={"intermediate_size": 128}),
        windows=WindowSettings(episode_stride=40),
        train=TrainSettings(updates=1000, weight_decay=0.3, mixed_precision="bf16"),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"dark-room": dark_room}


def load_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """A named recipe, or the one saved beside a checkpoint, with some settings changed.

    Args:
        name: a name in `RECIPES`, or a folder that holds a recipe.json.
        changes: "section.setting=value" each, the value as JSON or as bare text.

    Raises:
        ValueError: if there is no such recipe or setting, or a value does not suit its setting.
    """
    if name in RECIPES:
        recipe = RECIPES[name]()
    elif (Path(name) / RECIPE).is_file():
        recipe = _build(Recipe, json.loads((Path(name) / RECIPE).read_text(encoding="utf-8")), "")
    else:
        raise ValueError(f"unknown environment {name!r}: choose one of {', '.join(sorted(RECIPES))}")
    if not changes:
        return recipe
    settings = asdict(recipe)
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise ValueError(
                f"{change!r} is not of the form section.setting=value, for example train.updates=2000"
            )
        _assign(settings, path.split("."), _value(text), path)
    return _build(Recipe, settings, "")


def run_collect(recipe: Recipe, output: Path, on_progress: Callable[[int, int], None]) -> None:
    """The stages from tasks to a dataset; see `collect_dataset`."""
    collect_dataset(output, recipe.task_family(), recipe.collect, on_progress)


def run_train(
    recipe: Recipe,
    dataset: str,
    output: Path,
    resume: bool = False,
    on_update: Callable[[dict[str, Any]], None] = lambda line: None,
) -> None:
    """The stages from a dataset to a model; see `train`."""
    recipe = dataclasses.replace(recipe, dataset=dataset)
    family = recipe.task_family()
    histories = load_histories(dataset, family.name)
    if recipe.objective == "ed":
        histories = expert_part(histories, recipe.windows.expert_share)
        # Experts do not improve, so there is nothing to skip.
        recipe = dataclasses.replace(recipe, windows=dataclasses.replace(recipe.windows, episode_stride=1))
    env = family["train"][0].make()
    try:
        config = ADConfig(
            observation_space=space_to_json(env.observation_space),
            action_space=space_to_json(env.action_space),
            **asdict(recipe.model),
        )
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    train(histories, config, recipe.windows, recipe.train, output, family, asdict(recipe), resume, on_update)


def run_evaluate(
    checkpoint: Path,
    ed_checkpoint: Path | None,
    settings: EvaluateSettings | None = None,
    on_progress: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """The stage from a model to a report; see `evaluate`. Its recipe names the tasks and the source."""
    recipe = load_recipe(str(checkpoint))
    agents = {"ad": load_model(str(checkpoint))}
    if ed_checkpoint is not None:
        agents["ed"] = load_model(str(ed_checkpoint))
    return evaluate(
        agents,
        recipe.task_family(),
        recipe.collect.source,
        recipe.collect.num_episodes,
        recipe.collect.settings,
        settings or recipe.evaluate,
        on_progress,
    )


def train_expert_distillation(
    recipe: Recipe, output: Path, on_update: Callable[[dict[str, Any]], None] = lambda line: None
) -> None:
    """Train expert distillation for comparison: the same recipe on the last part of the same histories.

    Raises:
        ValueError: if the histories the recipe was trained on are gone.
    """
    if recipe.dataset is None or not Path(recipe.dataset).exists():
        raise ValueError(
            f"the histories in {recipe.dataset} are gone, so expert distillation cannot be trained: --no-ed"
        )
    run_train(
        dataclasses.replace(recipe, objective="ed"), recipe.dataset, output, resume=True, on_update=on_update
    )


def load_evaluation(checkpoint: Path) -> dict[str, Any]:
    """The report that `ad-hf evaluate` left beside a checkpoint.

    Raises:
        ValueError: if there is none.
    """
    path = checkpoint / EVALUATION
    if not path.exists():
        raise ValueError(f"{checkpoint} has not been evaluated: run `ad-hf evaluate {checkpoint}` first")
    return json.loads(path.read_text(encoding="utf-8"))


def load_task(checkpoint: Path, params: Mapping[str, Any] | None) -> Task:
    """A task of the environment that a checkpoint was trained on: with `params`, or its first held-out one.

    Raises:
        ValueError: if the environment takes no such arguments.
    """
    task = load_recipe(str(checkpoint)).task_family()["test"][0]
    if params is not None:
        task = Task(task.env_id, params)
    try:
        task.make()
    except TypeError as error:
        raise ValueError(f"{task.env_id} cannot be made with {dict(task.params)}: {error}") from error
    return task


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


def _build(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """A settings dataclass from JSON values, each checked against the type of its field."""
    types = typing.get_type_hints(kind)
    unknown = sorted(values.keys() - types.keys())
    if unknown:
        raise ValueError(f"there is no setting {where}{unknown[0]}: choose one of {', '.join(types)}")
    arguments = {}
    for name, value in values.items():
        wanted = types[name]
        if dataclasses.is_dataclass(wanted):
            arguments[name] = _build(typing.cast("type", wanted), value, f"{where}{name}.")
            continue
        origin = typing.get_origin(wanted) or wanted
        if origin is tuple:
            value = tuple(value) if isinstance(value, list | tuple) else (value,)
        elif origin is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        elif origin in (int, float, str, bool, dict) and (type(value) is not origin):
            raise ValueError(f"{where}{name} is {value!r}, but must be of type {origin.__name__}")
        arguments[name] = value
    return kind(**arguments)
