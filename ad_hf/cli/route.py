"""The verbs of the route: collect, train, evaluate, report, generate."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ad_hf.cli.command import (
    AsJson,
    Branch,
    OverwriteCard,
    Private,
    Token,
    command,
    is_debugging,
    one_line,
    progress,
    say,
)
from ad_hf.cli.processes import is_main, is_restart, meet_elsewhere, part_of_run, stopping

Change = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.SETTING=VALUE", help="Change any setting of the recipe; repeatable."
    ),
]


@command(
    """
ad-hf collect dark-room --output runs/histories
ad-hf collect dark-room --source q-learning --output runs/q-histories
ad-hf collect dark-key-to-door --output runs/histories --num-proc 2
ad-hf collect dark-room --output runs/h --set collect.settings.discount=0.9
ad-hf collect dark-room --output runs/histories --shard 1/8
ad-hf collect dark-room --output runs/histories --push-to-hub org/ad-histories
accelerate launch -m ad_hf collect dark-room --output runs/histories
""",
    saves=True,
)
def collect(
    environment: Annotated[str, typer.Argument(help="Recipe, for example dark-room.")],
    output: Annotated[Path, typer.Option(help="Folder for the dataset.")],
    source: Annotated[str | None, typer.Option(help="The algorithm: a2c, q-learning, ...")] = None,
    num_episodes: Annotated[int | None, typer.Option(help="Episodes per history.")] = None,
    learners_per_task: Annotated[int | None, typer.Option(help="Histories per task.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    fold: Annotated[int | None, typer.Option(help="Hold out fold 0 to 4 instead.")] = None,
    num_proc: Annotated[
        int, typer.Option(min=1, help="Processes; each has collect.lockstep learners in memory.")
    ] = 1,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Collect only the I-th of N parts, for example in a job array."),
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Add the histories to this dataset on the Hub.")
    ] = None,
    private: Private = False,
    revision: Branch = None,
    overwrite_card: OverwriteCard = False,
    token: Token = None,
    changes: Change = None,
) -> None:
    """Run an algorithm on every task of a family and keep its whole learning histories as a dataset."""
    from ad_hf.recipes import load_recipe
    from ad_hf.runs import Destination, push_dataset, run_collect

    flags = {
        "collect.source": source,
        "collect.num_episodes": num_episodes,
        "collect.learners_per_task": learners_per_task,
        "collect.seed": seed,
        "family.fold": fold,
    }
    recipe = load_recipe(environment, _changes(flags, changes))
    if push_to_hub is not None:
        to = Destination(push_to_hub, private, revision, overwrite_card)
        _prepare(to, "dataset")
    elif private or revision or overwrite_card:
        raise ValueError("--private, --revision and --overwrite-card need --push-to-hub")
    part = part_of_run(shard)
    with progress("collecting", "shards") as update:
        is_whole = run_collect(recipe, output, update, num_proc, part)
    if not is_whole:
        say(
            f"part {part[0] + 1} of {part[1]} is in {output}; the dataset is whole when all are in one folder"
        )
        return
    typer.echo(str(output))
    dataset = str(output)
    if push_to_hub is not None and _push_or_say(lambda: push_dataset(output, to), output, to):
        dataset = push_to_hub
    say(f"next: ad-hf train {environment} --dataset {dataset} --output runs/model")


@command(
    """
ad-hf train dark-room --dataset runs/histories --output runs/model
ad-hf train dark-room --dataset runs/histories --output runs/ed --objective ed
ad-hf train dark-room --dataset runs/histories --output runs/model --resume
ad-hf train dark-room --dataset org/ad-histories --streaming --output runs/m
ad-hf train dark-room --dataset h --output m --push-to-hub --hub-model-id o/m
ad-hf train --resume org/ad-darkroom
accelerate launch -m ad_hf train dark-room --dataset runs/h --output runs/m
""",
    saves=True,
)
def train(
    environment: Annotated[
        str, typer.Argument(help="Recipe, for example dark-room, or a model's folder or repository.")
    ],
    dataset: Annotated[
        str | None,
        typer.Option(help="Learning histories: a folder, or a dataset on the Hub. Default: the model's own."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the model, its checkpoints and its log. Default: that of the model."),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="ad, ed: expert distillation, or dpt: decision pretraining.")
    ] = None,
    updates: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows per update, over all processes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    context_length: Annotated[int | None, typer.Option(help="Transitions per window and context.")] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="no or bf16.")] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Updates between in-context evaluations; 0: none.")
    ] = None,
    trackers: Annotated[
        str | None, typer.Option(help="Experiment trackers, comma-separated: tensorboard, ...")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the weights, the windows and dropout.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last checkpoint in the output folder or repository."),
    ] = False,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Read histories as they are needed; for more than fits.")
    ] = False,
    push_to_hub: Annotated[
        bool, typer.Option("--push-to-hub", help="Evaluate the model and publish it with its card.")
    ] = False,
    hub_model_id: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="Where to publish it.")] = None,
    push_every: Annotated[
        int, typer.Option(min=0, help="Also publish unfinished models, so many updates apart.")
    ] = 0,
    private: Private = False,
    revision: Branch = None,
    overwrite_card: OverwriteCard = False,
    token: Token = None,
    changes: Change = None,
) -> None:
    """Train a transformer to predict the next action of learning histories."""
    from ad_hf.recipes import load_recipe
    from ad_hf.runs import push_model, run_evaluate, run_train
    from ad_hf.training import Stopped

    flags = {
        "objective": objective,
        "train.updates": updates,
        "train.batch_size": batch_size,
        "train.learning_rate": learning_rate,
        "model.context_length": context_length,
        "train.mixed_precision": mixed_precision,
        "train.evaluate_every": evaluate_every,
        "train.trackers": trackers.split(",") if trackers else None,
        "train.seed": seed,
    }
    recipe = load_recipe(environment, _changes(flags, changes))
    output = output or own_folder(environment)
    dataset = dataset or recipe.dataset
    if dataset is None:
        raise ValueError(f"{environment} names no histories of its own: name them with --dataset")
    to = _destination(push_to_hub, hub_model_id, push_every, private, revision, overwrite_card)
    if to is not None and is_main():
        _prepare(to, "model")
    if is_restart():
        resume = True
        meet_elsewhere()
    if resume and is_main():  # no other process reads the folder
        _fetch_to_resume(environment, output)
    with progress("training", "updates") as update, stopping() as stop:

        def show(line: dict[str, Any]) -> None:
            update(line["update"], recipe.train.updates, f"loss {line['loss']:.3f}" if "loss" in line else "")

        try:
            run_train(recipe, dataset, output, resume, show, streaming, to, push_every, stop)
        except Stopped as stopped:
            say(f"ad-hf: {stopped}")
            return
    if not is_main():
        return
    typer.echo(str(output))
    if to is not None:
        with progress("evaluating:", "episodes") as update:
            run_evaluate(
                str(output), None, None, lambda stage, done, total: update(done, total, stage), output
            )
        if _push_or_say(lambda: push_model(output, to), output, to):
            say(f"next: ad-hf generate {to.repo_id}")
            return
    say(f"next: ad-hf evaluate {output}")


@command("""
ad-hf evaluate runs/model
ad-hf evaluate runs/model --ed runs/ed --num-episodes 100
ad-hf evaluate runs/model --no-ed --json
ad-hf evaluate org/ad-darkroom
""")
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Folder or repository of a trained model.")],
    ed: Annotated[
        str | None,
        typer.Option(
            help="Folder or repository of an expert-distillation model. Default: one is trained in OUTPUT/ed."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the results. Default: the model's, or runs/NAME for one on the Hub."),
    ] = None,
    no_ed: Annotated[bool, typer.Option("--no-ed", help="Compare without expert distillation.")] = False,
    num_episodes: Annotated[int | None, typer.Option(help="Episodes per rollout.")] = None,
    rollouts_per_task: Annotated[int | None, typer.Option(help="Rollouts on each held-out task.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the rollouts and the bootstrap.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Held-out tasks to play: test, or even or uniform bandits.")
    ] = None,
    prompt: Annotated[
        float | None,
        typer.Option(help="Also play from the source's histories up to this share of the optimum."),
    ] = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Play every held-out task with frozen weights, beside the source, expert distillation, the optimum."""
    from ad_hf.hub import HubError, folder_of
    from ad_hf.recipes import load_recipe
    from ad_hf.report import summary_text
    from ad_hf.runs import run_evaluate, train_expert_distillation

    flags = {
        "evaluate.num_episodes": num_episodes,
        "evaluate.rollouts_per_task": rollouts_per_task,
        "evaluate.seed": seed,
        "evaluate.split": split,
        "evaluate.prompt": prompt,
    }
    folder = folder_of(checkpoint)
    recipe = load_recipe(checkpoint, _changes(flags, None), folder)
    output = output or own_folder(checkpoint)
    if ed is None and not no_ed and recipe.objective != "ed":
        ed = str(output / "ed")
        try:
            with progress(
                "training expert distillation for comparison (--no-ed: without)", "updates"
            ) as update:
                train_expert_distillation(
                    recipe, Path(ed), lambda line: update(line["update"], recipe.train.updates)
                )
        except HubError as error:  # the model can be judged all the same
            say(f"ad-hf: without expert distillation, for the histories to train it on are gone: {error}")
            ed = None
    with progress("evaluating:", "episodes") as update:

        def show(stage: str, done: int, total: int) -> None:
            update(done, total, stage)

        report = run_evaluate(checkpoint, None if no_ed else ed, recipe.evaluate, show, output, folder)
    typer.echo(json.dumps(report) if as_json else summary_text(report))
    say(f"next: ad-hf report {output} --output runs/report")


@command("""
ad-hf report runs/model --output runs/report
ad-hf report org/ad-darkroom --output runs/report
""")
def report(
    checkpoint: Annotated[str, typer.Argument(help="Folder or repository of an evaluated model.")],
    output: Annotated[Path, typer.Option(help="Folder for report.md, report.json and the figure.")],
    token: Token = None,
) -> None:
    """Write what `ad-hf evaluate` found as a page, a JSON file and a figure of the learning curves."""
    from ad_hf.report import write_report
    from ad_hf.runs import load_evaluation

    write_report(load_evaluation(checkpoint), output)
    typer.echo(str(output / "report.md"))
    say(f"next: ad-hf generate {checkpoint}")


@command("""
ad-hf generate runs/model --goal 7,2
ad-hf generate runs/model --task '{"key": [0, 8], "door": [7, 2]}'
ad-hf generate runs/model --goal 7,2 --json | jq .return
ad-hf generate org/ad-darkroom --goal 7,2
""")
def generate(
    checkpoint: Annotated[str, typer.Argument(help="Folder or repository of a trained model.")],
    goal: Annotated[str | None, typer.Option(help="X,Y of the goal, for environments that have one.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Arguments of the environment as JSON. Default: a held-out task.")
    ] = None,
    num_episodes: Annotated[int, typer.Option(min=1, help="Episodes, all in one context.")] = 40,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the actions; 0 takes the likeliest.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the environment and the actions.")] = 0,
    delay: Annotated[
        float, typer.Option(min=0.0, help="Seconds per step on a terminal; 0 does not animate.")
    ] = 0.02,
    token: Token = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per episode.")] = False,
) -> None:
    """Watch a frozen model learn a task in its context, episode by episode."""
    from ad_hf.evaluation import optimal_return
    from ad_hf.hub import folder_of
    from ad_hf.loading import load_model
    from ad_hf.report import watch
    from ad_hf.runs import load_task

    folder = folder_of(checkpoint)
    chosen = load_task(checkpoint, _task_params(goal, task), folder)
    model = load_model(checkpoint, folder)
    best = optimal_return([chosen]) or 1e-9  # the full length of a bar
    symbols = chosen.make().metadata.get("action_symbols", "0123456789")
    live = None
    if delay and not as_json and sys.stdout.isatty():
        from rich.live import Live

        live = Live(auto_refresh=False)

    def show_step(room: str) -> None:
        if live is not None:
            live.update(f"\n{room}", refresh=True)
            time.sleep(delay)

    def show_episode(episode: dict[str, Any]) -> None:
        nonlocal best
        if as_json:
            typer.echo(json.dumps(episode))
            return
        best = max(best, episode["return"])
        bar = "█" * round(20 * episode["return"] / best)
        walk = "".join(symbols[action] for action in episode["actions"])
        line = f"episode {episode['episode'] + 1:3}  return {episode['return']:5.1f}  {bar:20}  {walk}"
        if sys.stdout.isatty():
            line = _cut(line, shutil.get_terminal_size().columns)
        if live is None:
            typer.echo(line)
        else:
            live.console.print(line, highlight=False)  # above the room, where it stays

    with live or contextlib.nullcontext():
        watch(model, chosen, num_episodes, temperature, seed, show_step, show_episode)
    say(f"{chosen.env_id} with {json.dumps(dict(chosen.params))}; the weights never changed")


def _cut(line: str, columns: int) -> str:
    """A line that fits a terminal; what is cut off shows as dots."""
    return line if len(line) <= columns else f"{line[: columns - 1]}…"


def own_folder(name: str) -> Path:
    """Where the results of a model belong: into its folder, or for one on the Hub into one of its name."""
    from ad_hf.hub import is_reference, split_reference

    if Path(name).is_dir():
        return Path(name)
    if is_reference(name):
        return Path("runs") / split_reference(name)[0].partition("/")[2]
    raise ValueError(f"name the folder for the model with --output, for example --output runs/{name}")


def _destination(
    push: bool, repo_id: str | None, every: int, private: bool, revision: str | None, overwrite_card: bool
) -> Any:
    """Where --push-to-hub and its companions want a model to go; None if it is not to be pushed."""
    from ad_hf.runs import Destination

    if push and repo_id is None:
        raise ValueError("--push-to-hub needs --hub-model-id, for example --hub-model-id org/ad-darkroom")
    if push:
        return Destination(str(repo_id), private, revision, overwrite_card)
    if repo_id or every or private or revision or overwrite_card:
        raise ValueError(
            "--hub-model-id, --push-every, --private, --revision and --overwrite-card need --push-to-hub"
        )
    return None


def _fetch_to_resume(name: str, output: Path) -> None:
    """Bring the unfinished model that --resume names on the Hub into the output folder."""
    from ad_hf.hub import is_reference
    from ad_hf.runs import fetch_checkpoint

    if is_reference(name):
        fetch_checkpoint(name, output)


def _prepare(to: Any, repo_type: str) -> None:
    """Make the repository before hours of work, so that what cannot be pushed is known at once."""
    from ad_hf.hub import HubError, prepare

    try:
        prepare(to.repo_id, repo_type, to.private, to.revision)
    except HubError as error:
        if not error.passing:
            raise
        say(f"ad-hf: {error}; the push is tried at the end")


def _push_or_say(push: Callable[[], str], folder: Path, to: Any) -> bool:
    """Push finished work, or say how to do it later: whatever is wrong, it is no reason to fail."""
    try:
        address = push()
    except Exception as error:
        if is_debugging():
            raise
        options = ["--private"] * to.private + ["--overwrite-card"] * to.overwrite_card
        options += ["--revision", to.revision] if to.revision else []
        reason = one_line(error) or type(error).__name__
        say(f"ad-hf: not pushed: {reason}. All is whole in {folder}; push it later:")
        say(shlex.join(["ad-hf", "push", str(folder), to.repo_id, *options]))
        return False
    typer.echo(address)
    return True


def _task_params(goal: str | None, task: str | None) -> dict[str, Any] | None:
    """The environment's arguments that --goal or --task name."""
    if goal is not None:
        try:
            return {"goal": [int(number) for number in goal.split(",")]}
        except ValueError:
            raise ValueError(f"--goal is {goal!r}, but must be X,Y, for example 7,2") from None
    if task is not None:
        try:
            params = json.loads(task)
            if not isinstance(params, dict):
                raise TypeError
            return params
        except (ValueError, TypeError, RecursionError):
            raise ValueError(
                f'--task is {task!r}, but must be a JSON object, for example {{"goal": [7, 2]}}'
            ) from None
    return None


def _changes(flags: dict[str, Any], changes: list[str] | None) -> list[str]:
    """Flags and --set options as one list; --set comes last and wins."""
    return [f"{name}={json.dumps(value)}" for name, value in flags.items() if value is not None] + (
        changes or []
    )
