"""Checkpoints: all that the next update depends on, in a folder that is whole or not there.

However many processes share the work, and whether or not each has all of the model (FSDP, ZeRO), a checkpoint
is the same safetensors and JSON: what one process has saved many can go on from, and the other way round.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from ad_hf.folders import put
from ad_hf.models import ADModel

STATE = "training_state.safetensors"
PROGRESS = "training_state.json"


def last_checkpoint(checkpoints: Path) -> Path | None:
    """The checkpoint with the most updates; only whole ones have this name."""
    return max(checkpoints.glob("update-*"), default=None)


def read_checkpoint(checkpoint: Path | None) -> dict[str, torch.Tensor]:
    """What a checkpoint holds, for `Training.restore`; nothing where there is none.

    Raises:
        ValueError: if it is damaged, or does not tell how far it is and what it was made with.
    """
    if checkpoint is None:
        return {}
    try:
        content = (checkpoint / PROGRESS).read_bytes()
        progress = json.loads(content)
        weights = load_file(checkpoint / "model.safetensors")
        state = load_file(checkpoint / STATE)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"the checkpoint {checkpoint} is damaged ({error}): remove it to resume from the one before"
        ) from error
    told = progress if isinstance(progress, dict) else {}
    if [type(told.get(name)) for name in ("update", "made_with", "schedule")] != [int, dict, dict]:
        raise ValueError(
            f"the checkpoint {checkpoint} is not of this model and run (see its {PROGRESS}): remove it"
        )
    return {
        "progress": torch.frombuffer(bytearray(content), dtype=torch.uint8),
        **{f"weights.{name}": values for name, values in weights.items()},
        **{f"state.{name}": values for name, values in state.items()},
    }


def from_main(
    accelerator: Accelerator, make: Callable[[], dict[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """What the main process makes, on all processes: other machines need not see its disk.

    Raises:
        ValueError: if it fails there, on all of them.
    """
    made, error = {}, None
    if accelerator.is_main_process:
        try:
            made = make()
        except (OSError, ValueError) as caught:
            error = caught
    if accelerator.num_processes > 1:
        content = save(made)
        size = -1 if error else len(content)
        size = int(broadcast(torch.tensor([size], device=accelerator.device)))
        if size < 0 and error is None:
            raise ValueError("the run cannot begin: its main process says why")
        if error is None:
            held = bytearray(content if accelerator.is_main_process else size)
            values = torch.frombuffer(held, dtype=torch.uint8).to(accelerator.device)
            made = load(broadcast(values).cpu().numpy().tobytes())
    if error is not None:
        raise error
    return made


class Training:
    """A model and its optimizer while they are trained, wherever Accelerate has put their parts.

    Args:
        accelerator: that has not prepared them yet.
        model: to be trained.
        optimizer: of its parameters.
        schedule: of the optimizer's learning rate.

    Attributes:
        model: prepared: what is called in training.
        optimizer: prepared.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: ADModel,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self.accelerator, self.schedule = accelerator, schedule
        self._bare, self._with_zero = optimizer, accelerator.distributed_type == DistributedType.DEEPSPEED
        self._parameters = _parameters(optimizer)  # those of the model; ZeRO gives the optimizer others
        # What is sharded is put together in a copy: FSDP changes the class of the model itself.
        is_sharded = self._with_zero or accelerator.distributed_type == DistributedType.FSDP
        self._whole = copy.deepcopy(model) if is_sharded else None
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        if not self._with_zero:
            self._parameters = _parameters(optimizer)

    def whole_model(self) -> ADModel:
        """The model with all its weights, on the main process; on the others it may hold old ones.

        All processes have to call it.
        """
        if self._whole is None:
            return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        state = self._zero_weights() if self._with_zero else self.accelerator.get_state_dict(self.model)
        if self.accelerator.is_main_process:
            self._whole.load_state_dict(state)
        return self._whole

    def release(self) -> None:
        """Let go of what is prepared, before the processes part.

        Whatever holds the last reference to gloo ends its thread. DDP would wait for that thread, and with
        Python's lock, for which the thread may be waiting (torch 2.13).
        """
        del self.model, self.optimizer
        self.accelerator.free_memory()

    def save(self, folder: Path, progress: dict[str, Any], keep: int) -> None:
        """Save a checkpoint: written beside the others, then renamed; old ones go last.

        All processes have to call it.

        Args:
            folder: whose name says how many updates were done.
            progress: what else there is to know, as JSON.
            keep: how many checkpoints to keep.
        """
        state = {"random": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["random_cuda"] = torch.cuda.get_rng_state()
        # Dropout differs between processes, so the states of all of them are kept.
        device = self.accelerator.device
        state = {name: self.accelerator.gather(s[None].to(device)).cpu() for name, s in state.items()}
        state |= self._optimizer_state()
        model = self.whole_model()
        if self.accelerator.is_main_process:
            partial = folder.parent / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            model.save_pretrained(partial)
            save_file(state, partial / STATE)
            progress = {**progress, "schedule": self.schedule.state_dict()}
            (partial / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
            put(partial, folder)
            for old in sorted(folder.parent.glob("update-*"))[:-keep]:
                old.rename(partial)  # what an interruption leaves of it is no checkpoint
                shutil.rmtree(partial)
        self.accelerator.wait_for_everyone()

    def restore(self, checkpoint: dict[str, torch.Tensor], name: Path | None) -> None:
        """Bring the optimizer, its schedule and the random numbers of this process to where they were.

        All processes have to call it. The weights have been loaded before the model was sharded.

        Args:
            checkpoint: as `read_checkpoint` returns it.
            name: what to call it in messages.

        Raises:
            ValueError: if it is of another run.
        """
        state = {key.removeprefix("state."): v for key, v in checkpoint.items() if key.startswith("state.")}
        try:
            scheduled = progress_of(checkpoint)["schedule"]
            now = self.schedule.state_dict()  # which names attributes, so it takes no others
            if {k: type(v) for k, v in now.items()} != {k: type(v) for k, v in scheduled.items()}:
                raise ValueError("its schedule is another")
            tensors: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in state.items():
                if key.startswith("optimizer."):
                    _, number, entry = key.split(".")
                    tensors.setdefault(int(number), {})[entry] = value
            self._check_shapes(tensors)
            if self._with_zero:
                self._restore_zero(checkpoint, tensors)
            else:
                self._restore_optimizer(tensors)
            self.schedule.load_state_dict(scheduled)
            rank, random = self.accelerator.process_index, state["random"]
            if rank < len(random):
                torch.set_rng_state(random[rank].clone())  # a view would end the process (torch 2.13)
            if rank < len(state.get("random_cuda", ())) and torch.cuda.is_available():
                torch.cuda.set_rng_state(state["random_cuda"][rank].clone())
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"the checkpoint {name} is not of this model and run ({error}): remove it"
            ) from error
        for group, rate in zip(self._bare.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = rate

    def _optimizer_state(self) -> dict[str, torch.Tensor]:
        """All of it, on every process."""
        state = self._zero_state() if self._with_zero else self._bare.state_dict()["state"]
        return {  # in an order that is the same on all of them, for they put parts together
            f"optimizer.{number}.{name}": value.full_tensor() if isinstance(value, DTensor) else value
            for number, values in sorted(state.items())
            for name, value in sorted(values.items())
        }

    def _check_shapes(self, tensors: dict[int, dict[str, torch.Tensor]]) -> None:
        """Refuse what does not fit the parameters: the optimizer takes any."""
        shapes = [parameter.shape for parameter in self._parameters]
        for number, states in tensors.items():
            for name, value in states.items():
                if value.ndim and (number >= len(shapes) or value.shape != shapes[number]):
                    raise ValueError(f"its optimizer.{number}.{name} is of another shape")

    def _restore_optimizer(self, tensors: dict[int, dict[str, torch.Tensor]]) -> None:
        for number, parameter in enumerate(self._parameters):
            for name, value in sorted(tensors.get(number, {}).items()):
                if isinstance(parameter, DTensor) and value.shape == parameter.shape:
                    mesh, placements = parameter.device_mesh, parameter.placements
                    value = value.to(self.accelerator.device)
                    tensors[number][name] = distribute_tensor(value, mesh, placements)
        groups = self._bare.state_dict()["param_groups"]
        self._bare.load_state_dict({"state": tensors, "param_groups": groups})

    def _zero_weights(self) -> dict[str, torch.Tensor]:
        """The weights in float32, of which every process has a part."""
        from deepspeed.utils import safe_get_full_fp32_param

        bare = self.accelerator.unwrap_model(self.model)
        return bare.state_dict() | {name: safe_get_full_fp32_param(p) for name, p in bare.named_parameters()}

    def _zero_state(self) -> dict[int, dict[str, torch.Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link_zero_state()
        (step, *_) = (values["step"] for values in self._bare.state.values())
        return {
            number: {"step": step.clone()}
            | {name: safe_get_full_optimizer_state(p, name) for name in ("exp_avg", "exp_avg_sq")}
            for number, p in enumerate(self._parameters)
        }

    def _link_zero_state(self) -> None:
        """Let DeepSpeed find the optimizer's state of each parameter.

        By itself it looks after the first step of the first group, when the others have none (0.19).
        """
        zero = self.optimizer.optimizer
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()

    def _restore_zero(
        self, checkpoint: dict[str, torch.Tensor], tensors: dict[int, dict[str, torch.Tensor]]
    ) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        for group in self._bare.param_groups:
            for flat in group["params"]:  # where an update would make them
                moments = {name: torch.zeros_like(flat) for name in ("exp_avg", "exp_avg_sq")}
                self._bare.state[flat] = {"step": tensors[0]["step"].clone(), **moments}
        self._link_zero_state()
        for number, parameter in enumerate(self._parameters):
            for name in ("exp_avg", "exp_avg_sq"):
                value = tensors[number][name].to(self.accelerator.device)
                safe_set_full_optimizer_state(parameter, value, name)
        for name, parameter in self.accelerator.unwrap_model(self.model).named_parameters():
            safe_set_full_fp32_param(parameter, checkpoint[f"weights.{name}"].to(self.accelerator.device))


def progress_of(checkpoint: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The JSON of a checkpoint, as `read_checkpoint` returns it."""
    return json.loads(checkpoint["progress"].numpy().tobytes())


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """Of an optimizer, as it numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
