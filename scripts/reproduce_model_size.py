"""How large a model has to be: width, layers and heads, Key-to-Door.

    python scripts/reproduce_model_size.py --scale cpu

Laskin et al. 2022: 1.00 with a width of 16 and 1.93 with 256; 1.61 with 2 layers and 1.93 with 6;
1.70 with one head and 1.92 with 8.
"""

from __future__ import annotations

from reproducing import GPU, REAL, SWEEP, Agent, Figure, reproduce, sweep_scales

# What is changed -> its values with the paper's return, and those that are tried on CPUs.
SIZES = {
    "width": ("hidden_size", {16: 1.0, 32: 1.82, 64: 1.91, 128: 1.89, 256: 1.93}, (16, 64, 128)),
    "layers": ("num_hidden_layers", {2: 1.61, 4: 1.89, 6: 1.93, 8: 1.92, 10: 1.91}, (2, 4)),
    "heads": ("num_attention_heads", {1: 1.7, 2: 1.85, 4: 1.91, 8: 1.92}, (1, 2)),
}


def of_all_sizes() -> tuple[Agent, ...]:
    """An agent for each value of each size, the others being the recipe's: width 64, 4 layers, 2 heads."""
    return tuple(
        Agent(
            f"AD, {name} {value}",
            "dark-key-to-door",
            (
                *SWEEP,
                f"model.decoder.{setting}={value}",
                *((f"model.decoder.intermediate_size={2 * value}",) if name == "width" else ()),
            ),
            scales=REAL if value in on_cpu else GPU if value in (8, 10) else ("paper",),
            series=name,
            x=f"{name} {value}",
            paper=paper,
        )
        for name, (setting, values, on_cpu) in SIZES.items()
        for value, paper in values.items()
    )


FIGURE = Figure(
    name="model_size",
    title="Size of the model, Key-to-Door",
    points="size",
    protocol="Laskin et al. 2022. The paper's model has width 64, 4 layers and 4 heads, ours 2 heads.",
    agents=of_all_sizes(),
    scales=sweep_scales(1000),
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
