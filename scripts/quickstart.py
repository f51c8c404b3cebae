"""From nothing to a transformer that reinforcement-learns in context, on two CPU cores.

Collects the learning histories of Q-learning on 65 goals of Dark Room, trains a transformer on them and,
beside it, another on their expert part (expert distillation), and plays 16 goals that neither has seen. The
steps are the commands printed; only expert distillation is a process of its own, on the second core, because
starting Python with torch and transformers takes as long as some of the steps.

    python scripts/quickstart.py --output runs/quickstart
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the ad-hf command does: see ad_hf/cli/command.py

import psutil  # comes with accelerate
from transformers.utils.logging import disable_progress_bar

from ad_hf.cli.command import keep_freed_memory
from ad_hf.recipes import load_recipe
from ad_hf.report import summary_text, write_report
from ad_hf.runs import run_collect, run_evaluate, run_train


def main() -> None:
    """Run the steps and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"))
    output = parser.parse_args().output
    histories, model, ed, report = (output / name for name in ("histories", "model", "ed", "report"))
    disable_progress_bar()
    keep_freed_memory()
    started = psutil.Process().create_time()  # Python's own start and all imports count

    def say(text: str) -> None:
        print(f"[{time.time() - started:5.1f} s] {text}", flush=True)

    say(f"ad-hf collect dark-room --output {histories}")
    run_collect(load_recipe("dark-room"), histories, lambda done, total: None)

    common = ["train", "dark-room", "--dataset", str(histories)]
    beside = [*common, "--output", str(ed), "--objective", "ed"]
    for arguments in ([*common, "--output", str(model)], beside):
        say(f"ad-hf {' '.join(arguments)}")
    for folder in (model, ed):
        shutil.rmtree(folder, ignore_errors=True)  # histories are collected once, models trained afresh
    process = subprocess.Popen(
        [sys.executable, "-m", "ad_hf", *beside], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    run_train(load_recipe("dark-room"), str(histories), model)
    _, talk = process.communicate()
    if process.returncode:
        sys.exit(talk)

    say(f"ad-hf evaluate {model} --ed {ed}")

    def say_stage(stage: str, done: int, total: int) -> None:
        if done == 0:
            say(f"  {stage}")

    result = run_evaluate(model, ed, on_progress=say_stage)
    say(f"ad-hf report {model} --output {report}")
    write_report(result, report)
    say("done")
    print(f"\n{summary_text(result)}\n\nFigure: {report / 'learning_curves.png'}")
    print(f"Watch it learn: ad-hf generate {model} --goal 7,2")


if __name__ == "__main__":
    main()
