"""From nothing to a transformer that reinforcement-learns in context, on two CPU cores.

Collects A2C's learning histories on 65 goals of Dark Room, trains a transformer on them and another on their
expert part (expert distillation), and plays 16 goals that neither has seen. The four steps are the four
commands printed; they run in one process here, because importing torch and transformers four times would take
longer than learning.

    python scripts/quickstart.py --output runs/quickstart
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the ad-hf command does: see ad_hf/cli.py

from transformers.utils.logging import disable_progress_bar

from ad_hf.recipes import (
    EVALUATION,
    load_recipe,
    run_collect,
    run_evaluate,
    run_train,
    train_expert_distillation,
)
from ad_hf.report import summary_text, write_report


def main() -> None:
    """Run the four steps and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"))
    output = parser.parse_args().output
    histories, model, report = (output / name for name in ("histories", "model", "report"))
    disable_progress_bar()
    recipe = load_recipe("dark-room")
    started = time.perf_counter()

    def step(command: str) -> None:
        print(f"[{time.perf_counter() - started:5.1f} s] ad-hf {command}", flush=True)

    def show(line: dict) -> None:
        if line["update"] % 200 == 0:
            print(f"          update {line['update']}, loss {line['loss']:.3f}", flush=True)

    step(f"collect dark-room --output {histories}")
    run_collect(recipe, histories, lambda done, total: None)
    shutil.rmtree(model, ignore_errors=True)  # histories are collected once, but a model is trained afresh
    step(f"train dark-room --dataset {histories} --output {model}")
    run_train(recipe, str(histories), model, on_update=show)
    step(f"evaluate {model}")
    train_expert_distillation(load_recipe(str(model)), model / "ed", show)
    result = run_evaluate(
        model, model / "ed", on_progress=lambda stage: print(f"          {stage}", flush=True)
    )
    (model / EVALUATION).write_text(json.dumps(result), encoding="utf-8")
    step(f"report {model} --output {report}")
    write_report(result, report)

    print(f"\n{summary_text(result)}")
    print(f"\n{time.perf_counter() - started:.0f} s in all. Figure: {report / 'learning_curves.png'}")
    print(f"Watch it learn: ad-hf generate {model} --goal 7,2")


if __name__ == "__main__":
    main()
