"""Recipes: every setting of a run from tasks to report, and the stages run with them."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ad_hf.dataset import CollectSettings, collect_dataset, load_histories
from ad_hf.evaluation import EvaluateSettings, evaluate, load_model
from ad_hf.hub import read_card
from ad_hf.models import ADConfig, space_to_json
from ad_hf.sources import resolve_settings
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
        """The tasks.

        Raises:
            ValueError: if there are none of that name or with those options.
        """
        try:
            return load_task_family(**self.family)
        except TypeError as error:
            raise ValueError(f"there are no tasks with {self.family}: {error}") from error


def dark_room() -> Recipe:
    """Dark Room on two CPU cores in about two minutes, from nothing to a model that learns in context.

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
        train=TrainSettings(updates=800, learning_rate=5e-3, weight_decay=0.3, mixed_precision="bf16"),
        evaluate=EvaluateSettings(rollouts_per_task=16),
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
        recipe = _build(Recipe, _read_json(Path(name) / RECIPE), "")
    else:
        known = ", ".join(sorted(RECIPES))
        raise ValueError(f"{name!r} is neither an environment ({known}) nor a folder with a {RECIPE}")
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
    recipe = _build(Recipe, settings, "")
    defaults = resolve_settings(recipe.collect.source, {})
    for setting, value in recipe.collect.settings.items():
        _checked(value, type(defaults[setting]), f"collect.settings.{setting}")
    return recipe


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
    """The stages from a dataset to a model; see `train`.

    The tasks and the source are those the dataset was collected with, if it is a folder with our card.

    Raises:
        ValueError: as `train`, and if the dataset holds histories of held-out tasks.
    """
    recipe = _as_collected(dataclasses.replace(recipe, dataset=dataset))
    family = recipe.task_family()
    histories = load_histories(dataset, family.name)
    if {task.id for task in histories.tasks} & {task.id for task in family["test"]}:
        raise ValueError(
            f"{dataset} holds histories of held-out tasks of {recipe.family}: "
            "name the split it was collected with, for example --set family.fold=2"
        )
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
    # transformers takes any name, so a misspelt one would change nothing and not be noticed.
    known = ["model_type", *(setting.name for setting in dataclasses.fields(config.decoder))]
    _check_known("model.decoder.", recipe.model.decoder, [*known, *config.decoder.attribute_map])
    train(histories, config, recipe.windows, recipe.train, output, family, asdict(recipe), resume, on_update)


def run_evaluate(
    checkpoint: Path,
    ed_checkpoint: Path | None,
    settings: EvaluateSettings | None = None,
    on_progress: Callable[..., None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """The stage from a model to a report; see `evaluate`. Its recipe names the tasks and the source.

    The report is left beside the checkpoint, where `load_evaluation` finds it.
    """
    recipe = load_recipe(str(checkpoint))
    agents = {"ad": load_model(str(checkpoint))}
    if ed_checkpoint is not None:
        agents["ed"] = load_model(str(ed_checkpoint))
    report = evaluate(
        agents,
        recipe.task_family(),
        recipe.collect.source,
        recipe.collect.num_episodes,
        recipe.collect.settings,
        settings or recipe.evaluate,
        on_progress,
    )
    (checkpoint / EVALUATION).write_text(json.dumps(report), encoding="utf-8")
    return report


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
    return _read_json(path)


def load_task(checkpoint: Path, params: Mapping[str, Any] | None) -> Task:
    """A task of the environment that a checkpoint was trained on: with `params`, or its first held-out one.

    Raises:
        ValueError: if the environment takes no such arguments.
    """
    task = load_recipe(str(checkpoint)).task_family()["test"][0]
    if params is not None:
        task = Task(task.env_id, params)
    try:
        task.make(render_mode="ansi")
    except TypeError as error:
        raise ValueError(f"{task.env_id} cannot be made with {dict(task.params)}: {error}") from error
    return task


def _as_collected(recipe: Recipe) -> Recipe:
    """The recipe with the tasks and the source that the card of its dataset names, where there is a card."""
    card = Path(recipe.dataset or "") / "README.md"
    found = (read_card(card).get("ad_hf") or {}) if card.is_file() else {}
    about = found.get("configs", {}).get(recipe.family.get("name"))
    if about is None:
        return recipe
    family = about["task_family"]
    for option, value in recipe.family.items():
        if value != family.get(option):
            raise ValueError(
                f"{recipe.dataset} was collected with family.{option}={family.get(option)}, not {value}"
            )
    collect = {setting.name: about[setting.name] for setting in dataclasses.fields(CollectSettings)}
    return dataclasses.replace(recipe, family=family, collect=CollectSettings(**collect))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
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


def _check_known(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"there is no setting {where}{unknown[0]}: choose one of {', '.join(known)}")


def _build(kind: type, values: Any, where: str) -> Any:
    """A settings dataclass from JSON values, each checked against the type of its field."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where or 'the recipe'} is {values!r}, but must hold settings")
    types = typing.get_type_hints(kind)
    _check_known(where and f"{where}.", values, types)
    arguments = {
        name: _checked(value, types[name], f"{where}.{name}".lstrip(".")) for name, value in values.items()
    }
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{where or 'the recipe'} is not whole: {error}") from error


def _checked(value: Any, wanted: Any, where: str) -> Any:
    """A JSON value as the type wanted."""
    if dataclasses.is_dataclass(wanted):
        return _build(typing.cast("type", wanted), value, where)
    origin = typing.get_origin(wanted) or wanted
    if origin is tuple:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    if origin is float and type(value) is int:
        return float(value)
    if origin in (int, float, str, bool, dict) and type(value) is not origin:
        raise ValueError(f"{where} is {value!r}, but must be of type {origin.__name__}")
    return value
