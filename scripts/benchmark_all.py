"""Run every benchmark and write one table of what they print into README.md.

    pip install -e ".[test]" h5py
    python scripts/benchmark_all.py

It takes about ten minutes on two cores that have nothing else to do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarking import HEAD, Row, markdown, write_readme

SCRIPTS = Path(__file__).parent
BENCHMARKS = {  # script -> arguments
    "benchmark_collect.py": (),
    "benchmark_windows.py": (),
    "benchmark_training.py": ("--compile",),
    "benchmark_generate.py": ("--compile",),
}


def main() -> None:
    """Run them and replace what stands between the marks."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "rows.json"
        for script, arguments in BENCHMARKS.items():
            print(f"== {script}", flush=True)
            subprocess.run([sys.executable, SCRIPTS / script, *arguments, "--json", results], check=True)
            rows += [Row(**values) for values in json.loads(results.read_text())]
    write_readme("benchmarks", "benchmark_all.py", markdown([HEAD, *(row.cells() for row in rows)]))


if __name__ == "__main__":
    main()
