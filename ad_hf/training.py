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
from accelerate.utils import DistributedType, gather_object
from transformers import get_cosine_schedule_with_warmup

from ad_hf import __version__
from ad_hf.checkpoints import PROGRESS, Training, from_main, last_checkpoint, progress_of, read_checkpoint
from ad_hf.evaluation import in_context_returns
from ad_hf.folders import LOCK, claimed, put, write_whole
from ad_hf.histories import Histories
from ad_hf.models import ADConfig, ADModel
from ad_hf.streaming import START, HistoryPool, HistoryStream
from ad_hf.tasks import TaskFamily
from ad_hf.windows import WindowSettings, check_spaces, check_windows, pooled_window_batches, window_batches

RECIPE = "recipe.json"
LOG = "training_log.jsonl"
CHECKPOINTS = "checkpoints"
RUN = "training.json"
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


class Stopped(Exception):  # noqa: N818  # nothing is wrong
    """Training was to stop and has: a checkpoint holds what it did.

    Args:
        update: the updates done.
        output: where the checkpoint is.
    """

    def __init__(self, update: int, output: Path) -> None:
        super().__init__(f"stopped after update {update}, which is saved in {output}: go on with --resume")
        self.update, self.output = update, output


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
    stop: Callable[[], bool] = lambda: False,
) -> ADModel:
    """Train a model to predict the next action of learning histories.

    Every update is a function of the seed and its number, and of the number of processes where histories are
    streamed, so a resumed run repeats an uninterrupted one: bit for bit on one process. On several, also on
    several machines, only the main process reads and writes `output`.

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
        stop: called before every update; once it is true on any process, one more update is made and the
            training saved.

    Returns:
        The trained model, as saved in `output`.

    Raises:
        ValueError: if `output` holds another run, windows do not fit the histories or the processes, or a
            tracker is not installed.
        HubError: if the first histories of a stream cannot be fetched; the run does not need later ones.
        Stopped: if it was stopped.
    """
    if isinstance(histories, Histories):
        check_windows(histories, config.context_length, config.unordered_context)
        check_spaces(histories, config)
    _check_trackers(settings.trackers)
    torch.manual_seed(settings.seed)  # the same weights on every process, and below other dropout on each
    model = ADModel(copy.deepcopy(config))  # saving a model writes into its configuration
    optimizer = _optimizer(model, settings)
    schedule = get_cosine_schedule_with_warmup(optimizer, settings.warmup, settings.updates)
    accelerator = _accelerator(settings, output)  # after the model, which ZeRO would otherwise take apart
    world, rank = accelerator.num_processes, accelerator.process_index
    torch.manual_seed(settings.seed + 1 + rank)
    made_with = {
        "train": asdict(settings),
        "windows": asdict(windows),
        "model": config.to_dict(),
        "histories": _describe(histories),
    }
    last = last_checkpoint(output / CHECKPOINTS)
    with contextlib.ExitStack() as stack:

        def begin() -> dict[str, torch.Tensor]:
            stack.enter_context(claimed(output))
            _check_output(output, resume, last)
            checkpoint = read_checkpoint(last)
            if last is not None:
                _check_same_run(last, progress_of(checkpoint), made_with)
            return checkpoint

        checkpoint = from_main(accelerator, begin)
        first, positions = _load_weights(checkpoint, last, model)
        cut = (
            *(settings.batch_size, config.context_length, config.num_actions, settings.seed),
            *(first, rank, world, config.unordered_context),
        )
        batches, pool = _batches(histories, windows, positions, cut)
        if pool is not None:
            stack.enter_context(contextlib.closing(pool))
        training = Training(accelerator, model, optimizer, schedule)
        if checkpoint:
            training.restore(checkpoint, last)
        if accelerator.is_main_process:
            _keep_log(output / LOG, first)
        accelerator.init_trackers(
            "ad-hf", {k: v for k, v in asdict(settings).items() if isinstance(v, int | float | str)}
        )
        run = _Run(settings, config.context_length, output, family, on_update, on_checkpoint, stop, made_with)
        done = _make_updates(run, training, batches, pool, first)
        model = accelerator.unwrap_model(training.whole_model(), keep_fp32_wrapper=False)
        if accelerator.is_main_process and done == settings.updates:
            _put_model(model, output, recipe, _describe_run(done, settings, world))
        training.release()
        accelerator.wait_for_everyone()
        accelerator.end_training()
    if done < settings.updates:
        raise Stopped(done, output)
    return model.eval()


@dataclass(frozen=True)
class _Run:
    """What stays as it is from update to update; see `train`."""

    settings: TrainSettings
    context_length: int
    output: Path
    family: TaskFamily | None
    on_update: Callable[[dict[str, Any]], None]
    on_checkpoint: Callable[[Path, dict[str, Any]], None]
    stop: Callable[[], bool]
    made_with: dict[str, Any]


def _make_updates(
    run: _Run,
    training: Training,
    batches: Iterator[dict[str, torch.Tensor]],
    pool: HistoryPool | None,
    first: int,
) -> int:
    """Make all updates after the first `first`, or until it is to stop; log and save on the way.

    Returns:
        The number of updates done, which are saved.
    """
    settings, accelerator = run.settings, training.accelerator
    training.model.train()
    clock, clocked = time.perf_counter(), first
    stopping = torch.zeros(())
    for update in range(first + 1, settings.updates + 1):
        batch, wished = next(batches), stopping
        stopping, labels = _sum(accelerator, run.stop(), _count_labels(batch["labels"]))
        loss = _update(training, batch, labels, settings)

        line: dict[str, Any] = {}
        if update % settings.log_every == 0 or update == settings.updates:
            now = time.perf_counter()
            speed = (update - clocked) * settings.batch_size * run.context_length / (now - clock)
            clock, clocked = now, update
            line = {
                "loss": _mean_loss(accelerator, loss, update, settings),
                "learning_rate": training.schedule.get_last_lr()[0],
                "transitions_per_second": round(speed),
            }
        if run.family is not None and settings.evaluate_every and update % settings.evaluate_every == 0:
            line |= _short_evaluation(training, run.family, settings)
            clock, clocked = time.perf_counter(), update
        if line:
            line = {"update": update, **line}
            accelerator.log(line, step=update)
            if accelerator.is_main_process:
                _append_to_log(run.output / LOG, line)
                run.on_update(line)
        training.schedule.step()
        # What was wished before this update is known everywhere by now, so that no GPU has to be waited for.
        stops = bool(wished) and update < settings.updates
        due = settings.checkpoint_every and update % settings.checkpoint_every == 0
        if due or stops or update == settings.updates:
            positions = gather_object([pool.position]) if pool is not None else []
            progress = {"update": update, "made_with": run.made_with, "stream": positions}
            folder = run.output / CHECKPOINTS / f"update-{update:08d}"
            training.save(folder, progress, settings.keep_checkpoints)
            if accelerator.is_main_process and update < settings.updates and not stops:
                run.on_checkpoint(folder, _describe_run(update, settings, accelerator.num_processes))
        if stops:
            return update
    return settings.updates


def _check_output(output: Path, resume: bool, last: Path | None) -> None:
    """Refuse a folder in which something else is than what is to be resumed.

    Raises:
        ValueError: if it is one.
    """
    if not any(found.name != LOCK and found.suffix != ".partial" for found in output.iterdir()):
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
    try:
        accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.accumulation,
            log_with=list(settings.trackers) or None,
            project_dir=output,
            dynamo_backend="inductor" if settings.compile else None,  # None leaves it to `accelerate launch`
        )
    except ImportError as error:  # DeepSpeed is not installed, and it says how to
        raise ValueError(str(error)) from error
    _check_sharding(accelerator)
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
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        accelerator.state.deepspeed_plugin.deepspeed_config |= {  # which is what DeepSpeed goes by
            "train_micro_batch_size_per_gpu": settings.batch_size // parts,
            "gradient_accumulation_steps": settings.accumulation,
            "gradient_clipping": settings.max_grad_norm,
            "zero_allow_untested_optimizer": True,
        }
    return accelerator


def _check_sharding(accelerator: Accelerator) -> None:
    """Refuse what Accelerate would do otherwise than it was asked to, or checkpoints cannot hold."""
    for name, kind in (("FSDP", DistributedType.FSDP), ("DEEPSPEED", DistributedType.DEEPSPEED)):
        asked = os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true"
        if asked and accelerator.distributed_type != kind:
            raise ValueError(
                f"{name} was asked for, but on this {accelerator.device.type} Accelerate silently trains "
                "without: use scripts/accelerate/ddp.yaml, or a machine with GPUs"
            )
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError("FSDP 1 was asked for, but only FSDP 2 is supported: set fsdp_version: 2")
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        stage = accelerator.state.deepspeed_plugin.zero_stage
        if stage > 2:
            raise ValueError(
                f"ZeRO stage {stage} was asked for, but 1 and 2 are supported: FSDP 2 shards all"
            )


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


def _count_labels(labels: torch.Tensor) -> int:
    """How many actions are to be predicted."""
    return int((labels >= 0).sum())


def _sum(accelerator: Accelerator, *values: float) -> torch.Tensor:
    """Numbers summed over all processes, on this one's device."""
    return accelerator.reduce(torch.tensor(values, dtype=torch.float32, device=accelerator.device), "sum")


def _update(
    training: Training, batch: dict[str, torch.Tensor], labels: torch.Tensor, settings: TrainSettings
) -> torch.Tensor:
    """One optimizer step on this process's windows, in `accumulation` passes.

    Args:
        training: the model and its optimizer.
        batch: the windows.
        labels: actions that are to be predicted in this update, on all processes together.
        settings: of the optimisation.

    Returns:
        This process's share of the mean loss: its mean over the processes is that over all labels.
    """
    accelerator, model, optimizer = training.accelerator, training.model, training.optimizer
    # Counted before they are on a GPU, which would have to be waited for.
    counts = [_count_labels(part) for part in batch["labels"].chunk(settings.accumulation)]
    parts = {
        name: values.to(accelerator.device).chunk(settings.accumulation) for name, values in batch.items()
    }
    total = torch.zeros((), device=accelerator.device)
    for part in range(settings.accumulation):
        # Gradients are averaged over passes and processes, whatever number of labels each of them has.
        share = counts[part] * settings.accumulation * accelerator.num_processes / labels
        with accelerator.accumulate(model):
            loss = model(**{name: values[part] for name, values in parts.items()}).loss * share
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


def _short_evaluation(training: Training, family: TaskFamily, settings: TrainSettings) -> dict[str, float]:
    """Play held-out tasks on the main process: mean return of the first and the last tenth of episodes."""
    values = {}
    playing = training.whole_model()
    if training.accelerator.is_main_process:
        episodes, rollouts = settings.evaluate_episodes, 4
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
    training.accelerator.wait_for_everyone()
    return values


def _check_same_run(checkpoint: Path, progress: dict[str, Any], made_with: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint that was made with other settings, or does not say with which."""
    made_now, made_then = json.loads(json.dumps(made_with)), progress["made_with"]
    if (
        checkpoint.name != f"update-{progress['update']:08d}"
        or not made_then.keys() <= made_now.keys()
        or not all(isinstance(part, dict) for part in made_then.values())
        or not isinstance(progress.get("stream", []), list)
    ):
        raise ValueError(
            f"the checkpoint {checkpoint} is not of this model and run (see its {PROGRESS}): remove it"
        )
    for part, then in made_then.items():
        for name, value in then.items():  # what is not there is newer than the checkpoint
            if value != made_now[part].get(name) and name not in MAY_CHANGE:
                raise ValueError(
                    f"{checkpoint} was made with {part}.{name}={value}, not {made_now[part].get(name)}: "
                    "resume with the same settings, or choose another --output"
                )


def _load_weights(
    checkpoint: dict[str, torch.Tensor], name: Path | None, model: ADModel
) -> tuple[int, list[Any]]:
    """Give the model the weights of a checkpoint, if there is one.

    Returns:
        The number of updates done, and where in the stream each process was.

    Raises:
        ValueError: if it is of another model.
    """
    if not checkpoint:
        return 0, []
    weights = {key.removeprefix("weights."): v for key, v in checkpoint.items() if key.startswith("weights.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint {name} is not of this model and run ({error}): remove it"
        ) from error
    progress = progress_of(checkpoint)
    return progress["update"], progress.get("stream", [])


def _append_to_log(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def _keep_log(path: Path, updates: int) -> None:
    """Drop the lines of updates that will be done again, and one that was cut short."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    kept = [line for line in whole if json.loads(line)["update"] <= updates]
    write_whole(path, "".join(kept))


def _put_model(model: ADModel, output: Path, recipe: dict[str, Any] | None, run: dict[str, Any]) -> None:
    """Put a trained model with what is to be known of it into a folder, file by whole file.

    The last is config.json: where that is, all is.
    """
    partial = output / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    for name, values in ((RECIPE, recipe), (RUN, run)):
        if values is not None:
            (partial / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
        put(file, output / file.name)
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
