"""The `ad-hf` command: each verb parses, calls one function, and prints the next command to type.

Data goes to stdout, talk to stderr. Heavy imports stand inside the commands: torch and transformers take
seconds, and `--help` must not pay for them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="ad-hf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Algorithm Distillation: collect learning histories, train on them, watch in-context learning.",
)

Change = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.SETTING=VALUE", help="Change any setting of the recipe; repeatable."
    ),
]


def _command(examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a verb with examples in its help, and turn known errors into one line and exit code 1."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            debug = os.environ.get("AD_HF_DEBUG") == "1"
            try:
                if not debug:
                    _quieten()
                function(*args, **kwargs)
            except KeyboardInterrupt:
                _fail(
                    "interrupted: what was written whole is kept; run it again to go on, train with --resume"
                )
            except BrokenPipeError:  # as in `ad-hf generate ... | head`; typer ends quietly
                raise
            except Exception as error:
                if debug or not _is_known(error):
                    raise
                _fail(_one_line(error))

        return app.command(epilog="\n\n".join(["[bold]Examples[/bold]", *examples.strip().splitlines()]))(run)

    return register


def _is_known(error: Exception) -> bool:
    from gymnasium.error import Error as GymnasiumError
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError  # what a full disk looks like to a checkpoint

    return isinstance(error, OSError | ValueError | GymnasiumError | StrictDataclassError | SafetensorError)


def _one_line(error: Exception) -> str:
    """What went wrong; of a long message its two ends, where the value and the way out stand."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"there is no {error.filename}: check the path"
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}: what was written whole is kept"
    message = " ".join(str(error).split())
    return message if len(message) <= 500 else f"{message[:300]} ... {message[-180:]}"


def _fail(message: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # once per machine, for each has its own disk
        typer.echo(f"ad-hf: {message}", err=True)
    raise typer.Exit(1)


def _say(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        typer.echo(message, err=True)


def _quieten() -> None:
    """Keep the libraries' progress bars and warnings, and threads, out of the way."""
    # For models this small a second thread gains 1.2x at best, and beside other work it costs up to 25x: it
    # waits at every operation. Two processes use two cores better. Read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore")
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


@_command("""
ad-hf collect dark-room --output runs/histories
ad-hf collect dark-room --source q-learning --output runs/q-histories
ad-hf collect dark-room --output runs/h --set collect.settings.discount=0.9
""")
def collect(
    environment: Annotated[str, typer.Argument(help="Recipe, for example dark-room.")],
    output: Annotated[Path, typer.Option(help="Folder for the dataset.")],
    source: Annotated[str | None, typer.Option(help="The algorithm: a2c, q-learning, ...")] = None,
    num_episodes: Annotated[int | None, typer.Option(help="Episodes per history.")] = None,
    learners_per_task: Annotated[int | None, typer.Option(help="Histories per task.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    fold: Annotated[int | None, typer.Option(help="Hold out fold 0 to 4 instead.")] = None,
    changes: Change = None,
) -> None:
    """Run an algorithm on every task of a family and keep its whole learning histories as a dataset."""
    from ad_hf.recipes import load_recipe, run_collect

    flags = {
        "collect.source": source,
        "collect.num_episodes": num_episodes,
        "collect.learners_per_task": learners_per_task,
        "collect.seed": seed,
        "family.fold": fold,
    }
    recipe = load_recipe(environment, _changes(flags, changes))
    with _progress("collecting", "shards") as update:
        run_collect(recipe, output, update)
    typer.echo(str(output))
    _say(f"next: ad-hf train {environment} --dataset {output} --output runs/model")


@_command("""
ad-hf train dark-room --dataset runs/histories --output runs/model
ad-hf train dark-room --dataset runs/histories --output runs/ed --objective ed
ad-hf train dark-room --dataset runs/histories --output runs/model --resume
accelerate launch -m ad_hf train dark-room --dataset runs/h --output runs/m
""")
def train(
    environment: Annotated[str, typer.Argument(help="Recipe, for example dark-room.")],
    dataset: Annotated[str, typer.Option(help="Folder of learning histories.")],
    output: Annotated[Path, typer.Option(help="Folder for the model, its checkpoints and its log.")],
    objective: Annotated[str | None, typer.Option(help="ad, or ed: expert distillation.")] = None,
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
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")
    ] = False,
    changes: Change = None,
) -> None:
    """Train a transformer to predict the next action of learning histories."""
    from ad_hf.recipes import load_recipe, run_train

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
    with _progress("training", "updates") as update:

        def show(line: dict[str, Any]) -> None:
            update(line["update"], recipe.train.updates, f"loss {line['loss']:.3f}" if "loss" in line else "")

        run_train(recipe, dataset, output, resume, show)
    if os.environ.get("RANK", "0") == "0":
        typer.echo(str(output))
    _say(f"next: ad-hf evaluate {output}")


@_command("""
ad-hf evaluate runs/model
ad-hf evaluate runs/model --ed runs/ed --num-episodes 100
ad-hf evaluate runs/model --no-ed --json
""")
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    ed: Annotated[
        Path | None,
        typer.Option(
            help="Folder of an expert-distillation model. Left out, one is trained in CHECKPOINT/ed."
        ),
    ] = None,
    no_ed: Annotated[bool, typer.Option("--no-ed", help="Compare without expert distillation.")] = False,
    num_episodes: Annotated[int | None, typer.Option(help="Episodes per rollout.")] = None,
    rollouts_per_task: Annotated[int | None, typer.Option(help="Rollouts on each held-out task.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the rollouts and the bootstrap.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Play every held-out task with frozen weights, beside the source, expert distillation, the optimum."""
    from ad_hf.recipes import load_recipe, run_evaluate, train_expert_distillation
    from ad_hf.report import summary_text

    flags = {
        "evaluate.num_episodes": num_episodes,
        "evaluate.rollouts_per_task": rollouts_per_task,
        "evaluate.seed": seed,
    }
    recipe = load_recipe(str(checkpoint), _changes(flags, None))
    if ed is None and not no_ed:
        ed = checkpoint / "ed"
        if not (ed / "config.json").exists():
            with _progress(
                "training expert distillation for comparison (--no-ed: without)", "updates"
            ) as update:
                train_expert_distillation(
                    recipe, ed, lambda line: update(line["update"], recipe.train.updates)
                )
    with _progress("evaluating:", "episodes") as update:

        def show(stage: str, done: int, total: int) -> None:
            update(done, total, stage)

        report = run_evaluate(checkpoint, None if no_ed else ed, recipe.evaluate, show)
    typer.echo(json.dumps(report) if as_json else summary_text(report))
    _say(f"next: ad-hf report {checkpoint} --output runs/report")


@_command("""
ad-hf report runs/model --output runs/report
""")
def report(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of an evaluated model.")],
    output: Annotated[Path, typer.Option(help="Folder for report.md, report.json and the figure.")],
) -> None:
    """Write what `ad-hf evaluate` found as a page, a JSON file and a figure of the learning curves."""
    from ad_hf.recipes import load_evaluation
    from ad_hf.report import write_report

    write_report(load_evaluation(checkpoint), output)
    typer.echo(str(output / "report.md"))
    _say(f"next: ad-hf generate {checkpoint}")


@_command("""
ad-hf generate runs/model --goal 7,2
ad-hf generate runs/model --task '{"goal": [0, 8]}' --num-episodes 60
ad-hf generate runs/model --goal 7,2 --json | jq .return
""")
def generate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per episode.")] = False,
) -> None:
    """Watch a frozen model learn a task in its context, episode by episode."""
    from ad_hf.evaluation import load_model, optimal_return
    from ad_hf.recipes import load_task
    from ad_hf.report import watch

    chosen = load_task(checkpoint, _task_params(goal, task))
    model = load_model(str(checkpoint))
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
        if live is None:
            typer.echo(line)
        else:
            live.console.print(line, highlight=False)  # above the room, where it stays

    with live or contextlib.nullcontext():
        watch(model, chosen, num_episodes, temperature, seed, show_step, show_episode)
    _say(f"{chosen.env_id} with {json.dumps(dict(chosen.params))}; the weights never changed")


def _task_params(goal: str | None, task: str | None) -> dict[str, Any] | None:
    """The environment's arguments that --goal or --task name."""
    if goal is not None:
        try:
            return {"goal": [int(number) for number in goal.split(",")]}
        except ValueError:
            raise ValueError(f"--goal is {goal!r}, but must be X,Y, for example 7,2") from None
    if task is not None:
        try:
            return dict(json.loads(task))
        except (ValueError, TypeError):
            raise ValueError(
                f'--task is {task!r}, but must be a JSON object, for example {{"goal": [7, 2]}}'
            ) from None
    return None


def _changes(flags: dict[str, Any], changes: list[str] | None) -> list[str]:
    """Flags and --set options as one list; --set comes last and wins."""
    return [f"{name}={json.dumps(value)}" for name, value in flags.items() if value is not None] + (
        changes or []
    )


@contextlib.contextmanager
def _progress(label: str, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, of the main process only; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    disable = not console.is_terminal or os.environ.get("RANK", "0") != "0"
    with Progress(*columns, console=console, disable=disable) as progress:
        bar = progress.add_task(label, total=None)

        def update(done: int, total: int, note: str = "") -> None:
            progress.update(bar, completed=done, total=total, description=f"{label} {note}".strip())

        yield update


def main() -> None:
    """Run the command line."""
    app()
