"""Runs: the stages of the route, from and to folders and repositories, as a recipe says."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil  # comes with accelerate
from huggingface_hub.errors import StrictDataclassError

from ad_hf import cards, hub
from ad_hf import dataset as histories_dataset
from ad_hf.collection import CollectSettings, collect_dataset
from ad_hf.dataset import configs_of, load_histories, read_card
from ad_hf.evaluation import EvaluateSettings, evaluate
from ad_hf.histories import Histories, collect
from ad_hf.loading import MAX_REPEATS, check_decoder, check_memory, load_model
from ad_hf.models import ADConfig, space_to_json
from ad_hf.recipes import Recipe, build_settings, check_known, load_recipe, read_json
from ad_hf.report import check_report, draw_learning_curves, model_card
from ad_hf.streaming import open_stream
from ad_hf.tasks import Task, TaskFamily
from ad_hf.training import PROGRESS, RECIPE, RUN, STATE, train
from ad_hf.windows import check_spaces, expert_part, longest

EVALUATION = "evaluation.json"
FIGURE = "learning_curves.png"
RESULTS = ".eval_results/ad-hf.yaml"
# All that is published of a model, whatever else lies in its folder: these, and those that not every one has.
ALWAYS = ("config.json", "generation_config.json", "*_ad.py", RECIPE, RUN)
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
SOMETIMES = (*WEIGHTS, STATE, PROGRESS, EVALUATION, FIGURE)
logger = logging.getLogger(__name__)


def run_collect(
    recipe: Recipe, output: Path, on_progress: Callable[[int, int], None], num_proc: int = 1
) -> None:
    """The stages from tasks to a dataset; see `collect_dataset`."""
    family, settings = recipe.task_family(), recipe.collect
    # Once beforehand, so that a source that cannot learn here leaves no folder behind.
    collect(family["train"][:1], settings.source, 1, 0, settings.settings)
    collect_dataset(output, family, settings, on_progress, num_proc)


@dataclass(frozen=True)
class Destination:
    """Where on the Hub something goes.

    Args:
        repo_id: `org/name`.
        private: whether a new repository is private; an existing public one is refused.
        revision: a branch, made if need be; None is main.
        overwrite_card: replace the repository's card, even if it was edited there.
    """

    repo_id: str
    private: bool = False
    revision: str | None = None
    overwrite_card: bool = False


def run_train(
    recipe: Recipe,
    dataset: str,
    output: Path,
    resume: bool = False,
    on_update: Callable[[dict[str, Any]], None] = lambda line: None,
    streaming: bool = False,
    push_to: Destination | None = None,
    push_every: int = 0,
) -> None:
    """The stages from a dataset to a model; see `train`.

    The tasks and the source are those the dataset was collected with, if it has our card.

    Args:
        recipe: what to do.
        dataset: a folder, or a repository on the Hub.
        output: the folder for the model.
        resume: go on from the last checkpoint in `output`.
        on_update: called with every line of the log.
        streaming: read histories as they are needed, instead of all at once.
        push_to: where unfinished models go, to be resumed from there; `push_model` is for the finished one.
        push_every: updates between two of them at least; 0 for none. They are pushed beside the training, and
            a push that fails, or is still under way when the next is due, costs a line in the log.

    Raises:
        ValueError: as `train`, and if the dataset holds histories of held-out tasks.
        HubError: if the dataset cannot be fetched.
    """
    recipe = _as_collected(dataclasses.replace(recipe, dataset=_plainly(dataset)))
    family = recipe.task_family()
    config = _model_config(recipe, family)
    env_id = family["train"][0].env_id

    def prepare(histories: Histories) -> Histories:
        others = {task.env_id for task in histories.tasks} - {env_id}
        if others:
            raise ValueError(
                f"{dataset} holds histories of {others.pop()}, not of {env_id}: collect {family.name} "
                "again, into another folder"
            )
        check_spaces(histories, config, dataset)
        if {task.id for task in histories.tasks} & {task.id for task in family["test"]}:
            raise ValueError(
                f"{dataset} holds histories of held-out tasks of {recipe.family}: "
                "name the split it was collected with, for example --set family.fold=2; if it is this one, "
                "collect it again"
            )
        return expert_part(histories, recipe.windows.expert_share) if recipe.objective == "ed" else histories

    if streaming:
        histories: Any = dataclasses.replace(open_stream(dataset, family.name), prepare=prepare)
    else:
        wants_experts = recipe.objective == "dpt"
        histories = prepare(load_histories(dataset, family.name, expert_actions=wants_experts))
    if recipe.objective != "ad":
        # Experts do not improve, and a set has no pace, so there is nothing to skip.
        recipe = dataclasses.replace(recipe, windows=dataclasses.replace(recipe.windows, episode_stride=1))
    if recipe.objective == "ed" and isinstance(histories, Histories):
        config.context_length = min(config.context_length, longest(histories))
    settings = recipe.train
    _check_batch(settings.batch_size, config.context_length)
    pushes = _Pushes(push_to, push_every, output, asdict(recipe))
    if push_to is not None and push_every:
        every = min(settings.checkpoint_every or push_every, push_every)
        settings = dataclasses.replace(settings, checkpoint_every=every)
    train(
        histories,
        config,
        recipe.windows,
        settings,
        output,
        family,
        asdict(recipe),
        resume,
        on_update,
        pushes.on_checkpoint,
    )
    pushes.wait()


def _check_batch(batch_size: int, context_length: int) -> None:
    """Refuse batches that do not fit into memory: a recipe may come from somebody else."""
    needed = batch_size * context_length * 16 // int(os.environ.get("WORLD_SIZE", "1"))  # bytes at least
    if needed > psutil.virtual_memory().available:
        raise ValueError(
            f"train.batch_size is {batch_size} windows of {context_length} transitions, which take "
            f"{needed / 2**30:.0f} GiB: lower it"
        )


def _plainly(dataset: str) -> str:
    """The name of a dataset, in a form that nobody takes for a repository where it is a folder."""
    is_plain = hub.is_reference(dataset) or Path(dataset).is_absolute() or dataset.startswith((".", "~"))
    return dataset if is_plain else f"./{dataset}"


def _model_config(recipe: Recipe, family: TaskFamily) -> ADConfig:
    env = family["train"][0].make()
    check_decoder(recipe.model.decoder)
    try:
        config = ADConfig(
            observation_space=space_to_json(env.observation_space),
            action_space=space_to_json(env.action_space),
            unordered_context=recipe.objective == "dpt",
            **asdict(recipe.model),
        )
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    except (ArithmeticError, KeyError, RuntimeError, TypeError) as error:  # of transformers' classes
        raise _no_decoder(recipe, error) from error
    # transformers takes any name, so a misspelt one would change nothing and not be noticed.
    known = ["model_type", *(setting.name for setting in dataclasses.fields(config.decoder))]
    check_known("model.decoder.", recipe.model.decoder, [*known, *config.decoder.attribute_map])
    try:
        check_memory(config, MAX_REPEATS)
    except (ArithmeticError, KeyError, RuntimeError, TypeError) as error:
        raise _no_decoder(recipe, error) from error
    return config


def _no_decoder(recipe: Recipe, error: Exception) -> ValueError:
    """What to say of a decoder that cannot be built."""
    reason = " ".join(str(error).split())
    return ValueError(
        f"no decoder can be built with model.decoder={json.dumps(recipe.model.decoder)} ({reason}): change it"
    )


class _Pushes:
    """Pushes unfinished models beside the training, one at a time."""

    def __init__(self, push_to: Destination | None, every: int, output: Path, recipe: dict[str, Any]) -> None:
        self._push_to, self._every, self._recipe = push_to, every, recipe
        self._staging = output / "checkpoints" / "pushing"
        self._thread: threading.Thread | None = None
        self._next = every

    def on_checkpoint(self, checkpoint: Path, run: dict[str, Any]) -> None:
        """Push a checkpoint, if one is due and none is under way."""
        under_way = self._thread is not None and self._thread.is_alive()
        if self._push_to is None or not self._every or run["update"] < self._next or under_way:
            return
        self._next = run["update"] + self._every
        with _saying(run["update"]):
            shutil.rmtree(self._staging, ignore_errors=True)
            # Links, because the checkpoint itself is removed when newer ones are there.
            shutil.copytree(checkpoint, self._staging, copy_function=_link)
            for name, values in ((RECIPE, self._recipe), (RUN, run)):
                (self._staging / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            push = threading.Thread(target=self._push, args=(self._push_to, run["update"]), daemon=True)
            push.start()
            self._thread = push

    def _push(self, push_to: Destination, update: int) -> None:
        with _saying(update):
            push_model(self._staging, push_to)

    def wait(self) -> None:
        """Until no push is under way; one that the Hub does not answer ends by itself, after minutes."""
        if self._thread is not None:
            self._thread.join()
        shutil.rmtree(self._staging, ignore_errors=True)


@contextlib.contextmanager
def _saying(update: int) -> Iterator[None]:
    """Say in one line why an update was not pushed: whatever it is, it is not worth the training."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning("update %d was not pushed; training goes on: %s", update, reason)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on a file system without
        shutil.copy2(source, target)


def fetch_checkpoint(name: str, output: Path) -> None:
    """Put the unfinished model that a repository holds into `output`, to be resumed there.

    What `output` already has of it, or is further, stays.

    Raises:
        ValueError: if the repository holds no unfinished model.
        HubError: if it cannot be fetched.
    """
    folder = hub.folder_of(name)
    if not (folder / PROGRESS).is_file():
        raise ValueError(
            f"{name} holds no unfinished training to resume (no {PROGRESS}): --push-every pushes one"
        )
    progress = read_json(folder / PROGRESS)
    progress = progress if isinstance(progress, dict) else {}
    update = progress.get("update")
    if type(update) is not int or update < 1 or not isinstance(progress.get("made_with"), dict):
        raise ValueError(f"the {PROGRESS} in {name} is none of ours: it does not say how far training was")
    checkpoints = output / "checkpoints"
    if any(found.name >= f"update-{update:08d}" for found in checkpoints.glob("update-*")):
        return
    partial = checkpoints / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in folder.iterdir():
        if file.name not in (RECIPE, RUN, EVALUATION, FIGURE, "README.md") and file.is_file():
            shutil.copyfile(file, partial / file.name)
    partial.rename(checkpoints / f"update-{update:08d}")


def push_model(folder: Path, to: Destination) -> str:
    """Publish a model with its recipe, its evaluation and its card, in one commit; the address.

    The figure and the card are left in the folder as well.

    Raises:
        ValueError: if the folder holds no model of ours.
        HubError: if it cannot be published.
    """
    hub.split_reference(to.repo_id if not to.revision else f"{to.repo_id}@{to.revision}")
    for name in ("config.json", RECIPE):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no trained model (no {name}): train one with `ad-hf train`")
    load_recipe(str(folder))
    recipe = read_json(folder / RECIPE)
    report = load_evaluation(str(folder)) if (folder / EVALUATION).is_file() else None
    run = read_json(folder / RUN) if (folder / RUN).is_file() else {}
    if report is not None:
        draw_learning_curves(report, folder / FIGURE)
    revision = None if to.revision == "main" else to.revision
    card, results = model_card(to.repo_id, revision, recipe, run, report, read_json(folder / "config.json"))
    path = folder / "README.md"
    local = cards.load_card(path) if path.is_file() else None
    fixed = ("model-index", "datasets", "library_name", "pipeline_tag", "ad_hf")
    cards.save_card(cards.keep_edits(card, local, fixed), path)
    kept = cards.load_card(path)
    files: dict[str, Path | bytes] = {
        file.name: file
        for pattern in (*ALWAYS, *SOMETIMES)
        for file in sorted(folder.glob(pattern))
        if file.is_file()
    }
    if results:
        files[RESULTS] = results.encode()
    return hub.publish(
        to.repo_id,
        "model",
        files,
        lambda theirs: cards.keep_edits(kept, None if to.overwrite_card else theirs, fixed, card),
        f"Add {recipe['name']}, {run.get('update', '?')} updates",
        to.private,
        to.revision,
        delete=(*SOMETIMES, RESULTS, "pytorch_model*.bin"),
    )


def push_dataset(folder: Path, to: Destination) -> str:
    """Publish learning histories, in one commit; see `ad_hf.dataset.publish`."""
    return histories_dataset.publish(folder, to.repo_id, to.private, to.revision, to.overwrite_card)


def run_evaluate(
    checkpoint: str,
    ed_checkpoint: str | None,
    settings: EvaluateSettings | None = None,
    on_progress: Callable[..., None] = lambda stage, done, total: None,
    output: Path | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """The stage from a model to a report; see `evaluate`. Its recipe names the tasks and the source.

    Args:
        checkpoint: a folder, or a repository on the Hub.
        ed_checkpoint: the same of an expert-distillation model; None compares without.
        settings: how to play; None is the recipe's.
        on_progress: called as `on_progress(stage, done, total)`.
        output: where the report is left for `load_evaluation`; None is beside the checkpoint.
        folder: where the checkpoint's files are, if they have been fetched already.

    Raises:
        ValueError: as `evaluate`, and if expert distillation is to be compared with expert distillation.
        HubError: if there is no such checkpoint.
    """
    folder = folder or hub.folder_of(checkpoint)
    recipe = load_recipe(checkpoint, folder=folder)
    agents = {recipe.objective: load_model(checkpoint, folder)}
    if ed_checkpoint is not None:
        if recipe.objective == "ed":
            raise ValueError(f"{checkpoint} is expert distillation itself: evaluate it without --ed")
        ed_folder = hub.folder_of(ed_checkpoint)
        if (found := load_recipe(ed_checkpoint, folder=ed_folder).objective) != "ed":
            raise ValueError(
                f"{ed_checkpoint} was trained with the objective {found!r}, so it is no expert distillation: "
                "leave out --ed, and one is trained"
            )
        agents["ed"] = load_model(ed_checkpoint, ed_folder)
    report = evaluate(
        agents,
        recipe.task_family(),
        recipe.collect.source,
        recipe.collect.num_episodes,
        recipe.collect.settings,
        settings or recipe.evaluate,
        on_progress,
    )
    output = output or Path(checkpoint)
    output.mkdir(parents=True, exist_ok=True)
    partial = output / f"{EVALUATION}.partial"
    partial.write_text(json.dumps(report), encoding="utf-8")
    partial.replace(output / EVALUATION)  # not into what a link leads to, as in the cache of the Hub
    return report


def train_expert_distillation(
    recipe: Recipe, output: Path, on_update: Callable[[dict[str, Any]], None] = lambda line: None
) -> None:
    """Train expert distillation for comparison: the same recipe on the last part of the same histories.

    What is in `output` is used if it was trained like that.

    Raises:
        ValueError: if `output` holds expert distillation of other histories or with other settings.
        HubError: if the histories the recipe was trained on are gone, or cannot be fetched.
    """
    if (output / "config.json").is_file():
        there = load_recipe(str(output))
        if (there.dataset, there.model, there.train) != (recipe.dataset, recipe.model, recipe.train):
            raise ValueError(f"{output} holds expert distillation trained otherwise: choose another --output")
        return
    if recipe.dataset is None:
        raise hub.HubError("its recipe names no histories")
    expert = dataclasses.replace(recipe, objective="ed")
    run_train(expert, recipe.dataset, output, resume=True, on_update=on_update)


def load_evaluation(checkpoint: str) -> dict[str, Any]:
    """The report that `ad-hf evaluate` left in a folder, or that a repository holds.

    Raises:
        ValueError: if there is none, or it is none of ours.
        HubError: if there is no such folder or repository.
    """
    path = hub.folder_of(checkpoint) / EVALUATION
    if not path.exists():
        raise ValueError(f"{checkpoint} has not been evaluated: run `ad-hf evaluate {checkpoint}` first")
    report = read_json(path)
    check_report(report, f"the {EVALUATION} in {checkpoint}")
    return report


def load_task(checkpoint: str, params: Mapping[str, Any] | None, folder: Path | None = None) -> Task:
    """A task of the environment that a checkpoint was trained on: with `params`, or its first held-out one.

    Args:
        checkpoint: a folder, or a repository on the Hub.
        params: arguments of the environment; None takes the held-out task.
        folder: where the checkpoint's files are, if they have been fetched already.

    Raises:
        ValueError: if the environment takes no such arguments.
    """
    held_out = load_recipe(checkpoint, folder=folder).task_family()["test"][0]
    task = held_out if params is None else Task(held_out.env_id, params)
    try:
        task.make(render_mode="ansi")
    except TypeError as error:
        raise ValueError(
            f"{task.env_id} cannot be made with {dict(task.params)}: "
            f"say what it takes, for example --task '{json.dumps(dict(held_out.params))}'"
        ) from error
    return task


def _as_collected(recipe: Recipe) -> Recipe:
    """The recipe with the tasks and the source that the card of its dataset names, where there is a card."""
    name = recipe.dataset or ""
    folder = hub.folder_of(name, "dataset", ("README.md",))
    about = configs_of(read_card(folder, name)).get(recipe.task_family().name)
    if about is None:
        return recipe
    names = [setting.name for setting in dataclasses.fields(CollectSettings)]
    about = {"expert_actions": False, **about}  # where there were none yet
    try:
        family = dict(about["task_family"])
        collect = build_settings(CollectSettings, {setting: about[setting] for setting in names}, "collect")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the card of {name} does not say how its histories were collected: {error}"
        ) from error
    for option, value in recipe.family.items():
        if value != family.get(option):
            raise ValueError(f"{name} was collected with family.{option}={family.get(option)}, not {value}")
    return dataclasses.replace(recipe, family=family, collect=collect)
