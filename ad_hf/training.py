"""Training: one readable loop on Accelerate, from one CPU core to many machines."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import platform
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import get_cosine_schedule_with_warmup

from ad_hf import __version__
from ad_hf.evaluation import in_context_returns
from ad_hf.histories import Histories
from ad_hf.models import ADConfig, ADModel
from ad_hf.streaming import START, HistoryPool, HistoryStream
from ad_hf.tasks import TaskFamily
from ad_hf.windows import WindowSettings, check_spaces, check_windows, pooled_window_batches, window_batches

RECIPE = "recipe.json"
LOG = "training_log.jsonl"
RUN = "training.json"
STATE = "training_state.safetensors"
PROGRESS = "training_state.json"
COUNTS = ("updates", "batch_size", "accumulation", "log_every", "evaluate_episodes", "keep_checkpoints")
MOST = 99_999_999  # updates: checkpoints are named by eight digits
MAY_CHANGE = {  # between a run and its resumption
    "log_every",
    "evaluate_every",
    "evaluate_episodes",
    "checkpoint_every",
    "keep_checkpoints",
    "trackers",
    "transformers_version",
}


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained.

    Args:
        updates: optimizer steps.
        batch_size: windows per update, over all processes and accumulation steps.
        accumulation: passes an update's windows are split into, where memory is short.
        learning_rate: the peak, after warm-up; then a cosine to 0.
        warmup: updates of linear warm-up.
        weight_decay: of AdamW, on matrices only.
        beta2: of AdamW; .95 forgets the steep first updates sooner than .999.
        max_grad_norm: gradients are clipped to this norm.
        mixed_precision: "no" or "bf16".
        compile: train by `torch.compile`, through Accelerate. On a CPU it takes half a minute at the start, a
            C++ compiler and Python's headers; then training is a fifth faster.
        log_every: updates between two lines of the log.
        evaluate_every: updates between two short in-context evaluations on held-out tasks; 0 for none.
        evaluate_episodes: episodes of such an evaluation.
        checkpoint_every: updates between two checkpoints; 0 for one at the end.
        keep_checkpoints: how many of them are kept.
        trackers: names of Accelerate's experiment trackers, for example ["tensorboard"].
        seed: of the weights, the windows and dropout.
    """

    updates: int = 1000
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.01
    beta2: float = 0.95
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"
    compile: bool = False
    log_every: int = 20
    evaluate_every: int = 0
    evaluate_episodes: int = 40
    checkpoint_every: int = 250
    keep_checkpoints: int = 2
    trackers: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for least, names in enumerate([("warmup", "evaluate_every", "checkpoint_every", "seed"), COUNTS]):
            for name in names:
                if getattr(self, name) < least:
                    raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        for name, most in (("updates", MOST), ("warmup", MOST), ("seed", 2**63 - 1)):
            if getattr(self, name) > most:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at most {most}")
        for name, fits, span in (
            ("learning_rate", 0 < self.learning_rate <= 1, "above 0 and at most 1"),
            ("weight_decay", 0 <= self.weight_decay <= 10, "from 0 to 10"),
            ("beta2", 0 <= self.beta2 < 1, "from 0 up to, not including, 1"),
            ("max_grad_norm", 0 < self.max_grad_norm <= 1e9, "above 0 and at most 1e9"),
        ):
            if not fits:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be {span}")
        if self.mixed_precision not in ("no", "bf16"):
            raise ValueError(f"mixed_precision is {self.mixed_precision!r}, but must be 'no' or 'bf16'")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size is {self.batch_size}, which accumulation={self.accumulation} passes "
                "cannot share equally"
            )


def train(
    histories: Histories | HistoryStream,
    config: ADConfig,
    windows: WindowSettings,
    settings: TrainSettings,
    output: Path,
    family: TaskFamily | None = None,
    recipe: dict[str, Any] | None = None,
    resume: bool = False,
    on_update: Callable[[dict[str, Any]], None] = lambda line: None,
    on_checkpoint: Callable[[Path, dict[str, Any]], None] = lambda folder, run: None,
) -> ADModel:
    """Train a model to predict the next action of learning histories.

    Every update is a function of the seed and its number, and of the number of processes where histories are
    streamed, so a resumed run repeats an uninterrupted one: bit for bit on one process.

    Args:
        histories: to train on; a stream where they do not fit into memory.
        config: of the model.
        windows: how the histories are cut.
        settings: of the optimisation.
        output: the folder for the model, the checkpoints, the log and the recipe.
        family: its test tasks are what `evaluate_every` plays; None for no such evaluation.
        recipe: saved as recipe.json beside the weights.
        resume: go on from the last checkpoint in `output`, if there is one.
        on_update: called with every line of the log.
        on_checkpoint: called on the main process with every checkpoint but the last, and what training.json
            would say of it.

    Returns:
        The trained model, as saved in `output`.

    Raises:
        ValueError: if `output` holds another run, windows do not fit the histories or the processes, or a
            tracker is not installed.
        HubError: if the first histories of a stream cannot be fetched; the run does not need later ones.
    """
    if isinstance(histories, Histories):
        check_windows(histories, config.context_length, config.unordered_context)
        check_spaces(histories, config)
    _check_trackers(settings.trackers)
    checkpoints = output / "checkpoints"
    last = _last_checkpoint(checkpoints)
    _check_output(output, resume, last)
    accelerator = _accelerator(settings, output)
    world, rank = accelerator.num_processes, accelerator.process_index
    torch.manual_seed(settings.seed)  # the same weights on every process, and below other dropout on each
    model = ADModel(copy.deepcopy(config))  # saving a model writes into its configuration
    optimizer = _optimizer(model, settings)
    schedule = get_cosine_schedule_with_warmup(optimizer, settings.warmup, settings.updates)
    torch.manual_seed(settings.seed + 1 + rank)
    made_with = {
        "train": asdict(settings),
        "windows": asdict(windows),
        "model": config.to_dict(),
        "histories": _describe(histories),
    }
    first, positions = _load_checkpoint(last, model, optimizer, schedule, made_with, rank)
    cut = (
        *(settings.batch_size, config.context_length, config.num_actions, settings.seed),
        *(first, rank, world, config.unordered_context),
    )
    batches, pool = _batches(histories, windows, positions, cut)
    model, optimizer = accelerator.prepare(model, optimizer)
    model.train()
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        _keep_log(output / LOG, first)
    accelerator.init_trackers(
        "ad-hf", {k: v for k, v in asdict(settings).items() if isinstance(v, int | float | str)}
    )

    with contextlib.closing(pool) if pool is not None else contextlib.nullcontext():
        clock, clocked = time.perf_counter(), first
        for update in range(first + 1, settings.updates + 1):
            loss = _update(accelerator, model, optimizer, next(batches), settings)

            line: dict[str, Any] = {}
            if update % settings.log_every == 0 or update == settings.updates:
                now = time.perf_counter()
                speed = (update - clocked) * settings.batch_size * config.context_length / (now - clock)
                clock, clocked = now, update
                line = {
                    "loss": _mean_loss(accelerator, loss, update, settings),
                    "learning_rate": schedule.get_last_lr()[0],
                    "transitions_per_second": round(speed),
                }
            if family is not None and settings.evaluate_every and update % settings.evaluate_every == 0:
                line |= _short_evaluation(accelerator, model, family, settings)
                clock, clocked = time.perf_counter(), update
            if line:
                line = {"update": update, **line}
                accelerator.log(line, step=update)
                if accelerator.is_main_process:
                    _append_to_log(output / LOG, line)
                    on_update(line)
            schedule.step()
            due = settings.checkpoint_every and update % settings.checkpoint_every == 0
            if due or update == settings.updates:
                progress = {
                    "update": update,
                    "schedule": schedule.state_dict(),
                    "made_with": made_with,
                    "stream": gather_object([pool.position]) if pool is not None else [],
                }
                folder = checkpoints / f"update-{update:08d}"
                _save_checkpoint(accelerator, folder, model, optimizer, progress, settings.keep_checkpoints)
                if accelerator.is_main_process and update < settings.updates:
                    on_checkpoint(folder, _describe_run(update, settings, world))
    model = accelerator.unwrap_model(model, keep_fp32_wrapper=False, keep_torch_compile=False)
    if accelerator.is_main_process:
        _put_model(model, output, recipe, _describe_run(settings.updates, settings, world))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return model.eval()


def _check_output(output: Path, resume: bool, last: Path | None) -> None:
    """Refuse a folder in which something else is than what is to be resumed.

    Raises:
        ValueError: if it is one.
    """
    if not output.exists() or not any(output.iterdir()):
        return
    if not resume:
        raise ValueError(f"{output} is not empty: go on with --resume, or choose another --output")
    if last is None and not (output / LOG).is_file():
        raise ValueError(
            f"{output} holds something else than a training to resume (no {LOG}): choose another --output"
        )


def _mean_loss(accelerator: Accelerator, loss: torch.Tensor, update: int, settings: TrainSettings) -> float:
    """The loss over all processes.

    Raises:
        ValueError: if it is no number any more, after which nothing can be learnt.
    """
    mean = accelerator.reduce(loss, "mean").item()
    if not math.isfinite(mean):
        raise ValueError(
            f"the loss is {mean} at update {update}: train anew, into another --output, with a lower "
            f"learning_rate than {settings.learning_rate}"
        )
    return mean


def _accelerator(settings: TrainSettings, output: Path) -> Accelerator:
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.accumulation,
        log_with=list(settings.trackers) or None,
        project_dir=output,
        dynamo_backend="inductor" if settings.compile else None,  # None leaves it to `accelerate launch`
    )
    compiler = os.environ.get("CXX", "g++")
    if settings.compile and accelerator.device.type == "cpu" and shutil.which(compiler) is None:
        raise ValueError(
            f"train.compile needs a C++ compiler, and there is no {compiler}: install one, or name it in CXX"
        )
    parts = accelerator.num_processes * settings.accumulation
    if settings.batch_size % parts:
        raise ValueError(
            f"batch_size is {settings.batch_size}, which {accelerator.num_processes} processes with "
            f"accumulation={settings.accumulation} cannot share equally: choose a multiple of {parts}"
        )
    return accelerator


def _batches(
    histories: Histories | HistoryStream,
    windows: WindowSettings,
    positions: list[Any],
    cut: tuple[int, int, int, int, int, int, int, bool],
) -> tuple[Iterator[dict[str, torch.Tensor]], HistoryPool | None]:
    """The batches of this process, and the pool they are cut from where histories are streamed.

    Args:
        histories: to train on.
        windows: how to cut them.
        positions: where in the stream each process was. If there were more or fewer processes, all begin
            anew.
        cut: the further arguments of `window_batches`.
    """
    if isinstance(histories, Histories):
        return window_batches(histories, windows, *cut), None
    _, length, _, seed, _, rank, world, unordered = cut
    position = positions[rank] if len(positions) == world else START
    pool = HistoryPool(histories, windows.pool, seed, rank, world, position)
    check_windows(pool.histories, length, unordered)
    return pooled_window_batches(pool, windows, *cut), pool


def _update(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, torch.Tensor],
    settings: TrainSettings,
) -> torch.Tensor:
    """One optimizer step on this process's windows, in `accumulation` passes; the mean loss."""
    parts = {
        name: values.to(accelerator.device).chunk(settings.accumulation) for name, values in batch.items()
    }
    total = torch.zeros((), device=accelerator.device)
    for part in range(settings.accumulation):
        with accelerator.accumulate(model):
            loss = model(**{name: values[part] for name, values in parts.items()}).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach() / settings.accumulation
    return total


def _optimizer(model: ADModel, settings: TrainSettings) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, settings.beta2), fused=True)


def _check_trackers(names: tuple[str, ...]) -> None:
    """Refuse trackers that are not there; Accelerate would train without them and not say a word."""
    installed = sorted(tracker.value for tracker in get_available_trackers())
    for name in names:
        if name not in installed:
            raise ValueError(
                f"the tracker {name!r} is not one of those installed ({', '.join(installed) or 'none'}): "
                "pip install 'ad-hf[trackers]' brings tensorboard and trackio"
            )


def _short_evaluation(
    accelerator: Accelerator, model: torch.nn.Module, family: TaskFamily, settings: TrainSettings
) -> dict[str, float]:
    """Play held-out tasks on the main process: mean return of the first and the last tenth of episodes."""
    values = {}
    if accelerator.is_main_process:
        episodes, rollouts = settings.evaluate_episodes, 4
        playing = accelerator.unwrap_model(model, keep_torch_compile=False)
        # Autocast would fill a cache with keys and values of two types; training goes on with it.
        autocast = playing.__dict__.pop("forward", None)
        returns = in_context_returns(playing, family["test"], episodes, rollouts, settings.seed).mean(
            axis=(0, 1)
        )
        if autocast is not None:
            playing.__dict__["forward"] = autocast
        tenth = max(episodes // 10, 1)
        values = {
            "return_first": float(returns[:tenth].mean()),
            "return_last": float(returns[-tenth:].mean()),
        }
    accelerator.wait_for_everyone()
    return values


def _last_checkpoint(checkpoints: Path) -> Path | None:
    """The checkpoint with the most updates; only whole ones have this name."""
    return max(checkpoints.glob("update-*"), default=None)


def _save_checkpoint(
    accelerator: Accelerator,
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    keep: int,
) -> None:
    """Save all that the next update depends on: written beside the others, then renamed; old ones go last."""
    state = {"random": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random_cuda"] = torch.cuda.get_rng_state()
    # Dropout differs between processes, so the states of all of them are kept.
    state = {name: accelerator.gather(s[None].to(accelerator.device)).cpu() for name, s in state.items()}
    if accelerator.is_main_process:
        for number, values in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{number}.{name}": value for name, value in values.items()}
        partial = folder.parent / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        accelerator.unwrap_model(model, keep_torch_compile=False).save_pretrained(partial)
        save_file(state, partial / STATE)
        (partial / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
        partial.rename(folder)
        for old in sorted(folder.parent.glob("update-*"))[:-keep]:
            old.rename(partial)  # what an interruption leaves of it is no checkpoint
            shutil.rmtree(partial)
    accelerator.wait_for_everyone()


def _load_checkpoint(
    checkpoint: Path | None,
    model: ADModel,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    made_with: dict[str, Any],
    rank: int,
) -> tuple[int, list[Any]]:
    """Bring everything to where the checkpoint was saved, if there is one.

    Returns:
        The number of updates done, and where in the stream each process was.

    Raises:
        ValueError: if it was made with other settings, or is damaged.
    """
    if checkpoint is None:
        return 0, []
    try:
        progress = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
        state = load_file(checkpoint / STATE)
        weights = load_file(checkpoint / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"the checkpoint {checkpoint} is damaged ({error}): remove it to resume from the one before"
        ) from error
    made_now = json.loads(json.dumps(made_with))
    if not _is_progress(progress, checkpoint, made_now):
        raise ValueError(
            f"the checkpoint {checkpoint} is not of this model and run (see its {PROGRESS}): remove it"
        )
    for part, then in progress["made_with"].items():
        for name, value in then.items():  # what is not there is newer than the checkpoint
            if value != made_now[part].get(name) and name not in MAY_CHANGE:
                raise ValueError(
                    f"{checkpoint} was made with {part}.{name}={value}, not {made_now[part].get(name)}: "
                    "resume with the same settings, or choose another --output"
                )
    try:
        model.load_state_dict(weights)
        _restore(optimizer, schedule, progress["schedule"], state, rank)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"the checkpoint {checkpoint} is not of this model and run ({error}): remove it"
        ) from error
    return progress["update"], progress.get("stream", [])


def _is_progress(progress: Any, checkpoint: Path, made_now: dict[str, Any]) -> bool:
    """Whether a checkpoint says how far it is, and what it was made with."""
    if not isinstance(progress, dict) or type(progress.get("update")) is not int:
        return False
    parts = progress.get("made_with")
    return (
        checkpoint.name == f"update-{progress['update']:08d}"
        and isinstance(parts, dict)
        and parts.keys() <= made_now.keys()
        and all(isinstance(part, dict) for part in parts.values())
        and isinstance(progress.get("stream", []), list)
    )


def _restore(
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    scheduled: dict[str, Any],
    state: dict[str, torch.Tensor],
    rank: int,
) -> None:
    """Bring the optimizer, its schedule and the random numbers of this process to where they were."""
    now = schedule.state_dict()  # which names attributes, so it takes no others
    if {name: type(value) for name, value in now.items()} != {n: type(v) for n, v in scheduled.items()}:
        raise ValueError("its schedule is another")
    tensors: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            tensors.setdefault(int(number), {})[name] = value
    parameters: list[torch.Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    for index, states in tensors.items():
        for name, value in states.items():  # the optimizer takes any
            if value.ndim and (index >= len(parameters) or value.shape != parameters[index].shape):
                raise ValueError(f"its optimizer.{index}.{name} is of another shape")
    optimizer.load_state_dict({"state": tensors, "param_groups": optimizer.state_dict()["param_groups"]})
    schedule.load_state_dict(scheduled)
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate
    if rank < len(state["random"]):
        torch.set_rng_state(state["random"][rank])
    if rank < len(state.get("random_cuda", ())) and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random_cuda"][rank])


def _append_to_log(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def _keep_log(path: Path, updates: int) -> None:
    """Drop the lines of updates that will be done again, and one that was cut short."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    kept = [line for line in whole if json.loads(line)["update"] <= updates]
    path.write_text("".join(kept), encoding="utf-8")


def _put_model(model: ADModel, output: Path, recipe: dict[str, Any] | None, run: dict[str, Any]) -> None:
    """Put a trained model with what is to be known of it into a folder, file by whole file."""
    partial = output / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    for name, values in ((RECIPE, recipe), (RUN, run)):
        if values is not None:
            (partial / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    for file in partial.iterdir():
        file.replace(output / file.name)
    partial.rmdir()


def _describe_run(update: int, settings: TrainSettings, num_processes: int) -> dict[str, Any]:
    """What the card of a model says of its training, apart from the recipe."""
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU"
    return {
        "update": update,
        "updates": settings.updates,
        "processes": num_processes,
        "device": device,
        "versions": {
            "ad-hf": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _describe(histories: Histories | HistoryStream) -> dict[str, Any]:
    """What tells one dataset from another."""
    if isinstance(histories, HistoryStream):
        return {"stream": histories.name}
    crc32 = zlib.crc32(histories.action.tobytes())
    return {"stream": None, "transitions": len(histories.action), "crc32": crc32}
