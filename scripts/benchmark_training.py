"""What a training step costs: labelled actions per second on one core, in float32 and bfloat16.

A model of 0.8 M parameters (4 layers, width 128) on windows of 80 transitions, forward, backward, gradient
clipping and AdamW, against the decoder written by hand with the same attention, the same with PyTorch's fused
attention (what the faster repositories of Algorithm Distillation do), and transformers' Decision Transformer
of the same width. The limit is a matrix product of 1024 x 1024; the share of it is the model FLOP
utilisation. Before that, our logits are compared with the hand-written ones.

    python scripts/benchmark_training.py [--compile]

--compile adds the same step by `torch.compile` (`--set train.compile=true`), which takes a minute to begin.
"""

from __future__ import annotations

from benchmarking import Row, finish, interleaved, parser  # isort: skip  # before NumPy and torch

import copy
from collections.abc import Callable, Mapping

import torch
from handwritten_decoder import CONTEXT as L
from handwritten_decoder import (
    HEADS,
    INNER,
    LAYERS,
    SIZE,
    WIDTH,
    HandWrittenDecoder,
    benchmark_model,
    product,
)
from scaling_laws import training_flops
from torch import nn
from transformers import DecisionTransformerConfig, DecisionTransformerModel

from ad_hf.models import ADModel

B, A = 32, 5  # windows, actions

Loss = Callable[[dict[str, torch.Tensor]], torch.Tensor]


class DecisionTransformer(nn.Module):
    """Transformers' Decision Transformer, with three tokens per transition and one-hot states and actions."""

    def __init__(self) -> None:
        super().__init__()
        config = DecisionTransformerConfig(
            state_dim=18,
            act_dim=A,
            hidden_size=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_inner=INNER,
            max_ep_len=L,
            n_positions=3 * L,
            action_tanh=False,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        self.model = DecisionTransformerModel(config)

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        places = batch["observation"].long() + torch.tensor([0, 9])
        actions = batch["labels"].long()
        logits = self.model(
            states=nn.functional.one_hot(places, 18).sum(2).float(),
            actions=nn.functional.one_hot(actions, A).float(),
            returns_to_go=batch["previous_reward"][..., None],
            timesteps=torch.arange(L).expand(len(actions), L),
            attention_mask=torch.ones(len(actions), L),
        ).action_preds
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), actions.flatten())


def main() -> None:
    """Check, measure, print."""
    command_line = parser(__doc__)
    command_line.add_argument("--compile", action="store_true", help="also by torch.compile")
    command_line.add_argument("--repeats", type=int, default=9)
    arguments = command_line.parse_args()
    model = benchmark_model()
    batch = {
        "observation": torch.randint(9, (B, L, 2), dtype=torch.uint8),
        "previous_action": torch.randint(A, (B, L), dtype=torch.int8),
        "previous_reward": torch.randint(2, (B, L)).float(),
        "episode_start": torch.rand(B, L) < 0.05,
        "labels": torch.randint(A, (B, L), dtype=torch.int8),
    }
    by_hand = HandWrittenDecoder(copy.deepcopy(model))
    fused = HandWrittenDecoder(copy.deepcopy(model), "sdpa")
    with torch.no_grad():
        logits = model(**batch).logits
        for other in (by_hand, fused):
            torch.testing.assert_close(other(batch), logits, atol=1e-5, rtol=1e-5)
    decision_transformer = DecisionTransformer()
    sides: dict[str, tuple[nn.Module, Loss]] = {
        "ours": (model, lambda batch: model(**batch).loss),
        "by hand": (by_hand, by_hand.loss),
        "by hand, fused attention": (fused, fused.loss),
        "DecisionTransformerModel": (decision_transformer, decision_transformer.loss),
    }
    if arguments.compile:
        program = copy.deepcopy(model)
        compiled = torch.compile(program)
        sides["ours, compiled"] = (program, lambda batch: compiled(**batch).loss)
    rows = []
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        steps = {side: step(module, loss, batch, dtype) for side, (module, loss) in sides.items()}
        measured = interleaved({**steps, "product": product(dtype)}, arguments.repeats)
        limit = (f"{SIZE}^2 product", measured["product"] / flops_per_action(model))
        rows += rows_of(name, measured, limit)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters; our logits equal the hand-written ones to 1e-5")
    finish(rows, arguments)


def step(
    module: nn.Module, loss: Loss, batch: dict[str, torch.Tensor], dtype: torch.dtype
) -> Callable[[], int]:
    """One update, as `ad_hf.training` makes it; returns the labelled actions."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)

    def update() -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss(batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return batch["labels"].numel()

    return update


def flops_per_action(model: ADModel) -> float:
    """Floating-point operations of matrix products to train on one action, forward and backward."""
    looked_up = sum(p.numel() for n, p in model.named_parameters() if n.startswith("embedding."))
    weights = sum(p.numel() for p in model.parameters() if p.ndim > 1) - looked_up
    return training_flops(weights, LAYERS, WIDTH, L)


def rows_of(name: str, measured: Mapping[str, float], limit: tuple[str, float]) -> list[Row]:
    """A row for each reference."""
    others = [side for side in measured if side not in ("ours", "ours, compiled", "product")]
    rows = [Row(f"training, {name}", "actions/s", measured["ours"], (o, measured[o]), limit) for o in others]
    if "ours, compiled" in measured:
        ours = measured["ours, compiled"]
        rows.append(
            Row(f"training, {name}, compiled", "actions/s", ours, (others[1], measured[others[1]]), limit)
        )
    return rows


if __name__ == "__main__":
    main()
