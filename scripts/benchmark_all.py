"""Run every benchmark and write one table of what they print into README.md.

    pip install -e ".[test]" h5py
    python scripts/benchmark_all.py

It takes about ten minutes on two cores that have nothing else to do.
"""

from __future__ import annotations

from benchmarking import HEAD, Row  # isort: skip  # before NumPy and torch

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SCRIPTS = Path(__file__).parent
README = SCRIPTS.parent / "README.md"
BENCHMARKS = {  # script -> arguments
    "benchmark_collect.py": (),
    "benchmark_windows.py": (),
    "benchmark_training.py": ("--compile",),
    "benchmark_generate.py": ("--compile",),
}
BEGIN, END = "<!-- benchmarks: written by scripts/benchmark_all.py -->\n", "<!-- end of benchmarks -->\n"


def main() -> None:
    """Run them and replace what stands between the marks."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "rows.json"
        for script, arguments in BENCHMARKS.items():
            print(f"== {script}", flush=True)
            subprocess.run([sys.executable, SCRIPTS / script, *arguments, "--json", results], check=True)
            rows += [Row(**values) for values in json.loads(results.read_text())]
    table = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    processor = next(
        (line.partition(": ")[2] for line in cpu_info() if line.startswith("model name")), platform.machine()
    )
    lines += ["", f"{processor}, torch {torch.__version__}, Python {platform.python_version()}."]
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, behind = rest.partition(END)
    README.write_text("\n".join([before + BEGIN.rstrip(), *lines, END + behind]), encoding="utf-8")


def cpu_info() -> list[str]:
    """What Linux says of the processor; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
