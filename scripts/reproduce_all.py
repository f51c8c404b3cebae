"""Reproduce every figure, one after another, and write tables of all that came out into README.md.

    python scripts/reproduce_all.py --scale cpu
    python scripts/reproduce_all.py dark_room context

What is in --output already is not made again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarking import markdown, write_readme
from reproduced import RESULTS, load_results, overview

SCRIPTS = Path(__file__).parent
FIGURES = (
    *("dark_room", "dark_room_hard", "key_to_door", "bandit", "watermaze", "data_efficiency", "prompting"),
    *("context", "num_tasks", "token_mask", "label_smoothing", "model_size", "single_stream", "modern"),
)


def main() -> None:
    """Run the scripts and replace what stands between the marks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="some of them; all if none is named")
    parser.add_argument("--scale", choices=("cpu", "paper"), default="cpu", help="as for each of them")
    parser.add_argument("--output", type=Path, default=Path("runs/reproduce"), help="as for each of them")
    arguments = parser.parse_args()
    unknown = set(arguments.figures) - set(FIGURES)
    if unknown:
        parser.error(f"there is no figure {unknown.pop()!r}: choose of {', '.join(FIGURES)}")
    for name in arguments.figures or FIGURES:
        print(f"== {name}", flush=True)
        script = [sys.executable, SCRIPTS / f"reproduce_{name}.py"]
        subprocess.run([*script, "--scale", arguments.scale, "--output", arguments.output], check=True)
    results = load_results(RESULTS)
    ordered = sorted(results, key=lambda result: FIGURES.index(result["figure"]))
    curves, sweeps = overview(ordered)
    write_readme("results", "reproduce_all.py", [*markdown(curves), "", *markdown(sweeps)])


if __name__ == "__main__":
    main()
