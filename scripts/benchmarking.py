"""What the benchmarks share: measure sides in turn, and print rows of ours, a reference and a physical limit.

Import it before NumPy and torch: here they get one thread each, as the ad-hf command gives them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # see ad_hf/cli/command.py; read when NumPy and torch load

from ad_hf.cli.command import keep_freed_memory

keep_freed_memory()

README = Path(__file__).parents[1] / "README.md"
HEAD = ("path", "ours", "reference", "ratio", "limit", "share of the limit")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        path: what was measured.
        unit: of all numbers here, for example "transitions/s".
        ours: how much of it.
        reference: what a user would otherwise pick, and how much of it that reached.
        limit: what the machine allows at best, and how much of it that is.
    """

    path: str
    unit: str
    ours: float
    reference: tuple[str, float] | None = None
    limit: tuple[str, float] | None = None

    def cells(self) -> tuple[str, ...]:
        """What stands under each name of `HEAD`; a dash where there is nothing."""
        named = [f"{pair[0]} {short(pair[1])}" if pair else "-" for pair in (self.reference, self.limit)]
        ratio = f"{self.ours / self.reference[1]:.3g}x" if self.reference else "-"
        share = f"{self.ours / self.limit[1]:.0%}" if self.limit else "-"
        return self.path, f"{short(self.ours)} {self.unit}", named[0], ratio, named[1], share


def short(value: float) -> str:
    """A number in three digits: 213 M, 4.5 k, 0.037."""
    for power, letter in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{value / 10**power:.3g} {letter}"
    return f"{value:.3g}"


def interleaved(
    sides: Mapping[str, Callable[[], int]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Median units of work per second of each side; see `rounds`. It leaves out what happened once."""
    return {name: statistics.median(rates) for name, rates in rounds(sides, repeats, clock).items()}


def rounds(
    sides: Mapping[str, Callable[[], int]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Units of work per second of each side, in each round.

    All sides run in turn, `repeats` times, after one round to warm up: a machine that is slower for a while
    is slower for all of them. CPU time, of all threads of the process, counts other work on the machine
    least; give `time.perf_counter` where it does not see the work.

    Args:
        sides: name -> what to run; it returns the units of work it did.
        repeats: rounds that are measured.
        clock: the seconds.
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(1 + repeats):
        for name, run in sides.items():
            started = clock()
            units = run()
            rates[name].append(units / (clock() - started))
    return {name: measured[1:] for name, measured in rates.items()}


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The command line of a benchmark, by its docstring."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results as well")
    return made


def finish(rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    """Print the rows, and write them where the command line says so."""
    print_table([HEAD, *(row.cells() for row in rows)])
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def print_table(table: Sequence[Sequence[str]]) -> None:
    """Print lines of cells, columns aligned."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def markdown(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; the first is its head."""
    return [f"| {' | '.join(cells)} |" for cells in (table[0], ["---"] * len(table[0]), *table[1:])]


def write_readme(what: str, script: str, lines: Sequence[str]) -> None:
    """Replace what stands in README.md between the marks of a script, and name the machine below it."""
    write_between(README, what, script, [*lines, "", machine()])


def write_between(path: Path, what: str, script: str, lines: Sequence[str]) -> None:
    """Replace what stands in a file between the marks of a script; a file that is not there holds nothing."""
    begin, end = f"<!-- {what}: written by scripts/{script} -->\n", f"<!-- end of {what} -->\n"
    text = path.read_text(encoding="utf-8") if path.exists() else begin + end
    before, _, rest = text.partition(begin)
    _, _, behind = rest.partition(end)
    path.write_text("\n".join([before + begin.rstrip(), *lines, end + behind]), encoding="utf-8")


def machine() -> str:
    """The processor, where Linux tells it, and the versions."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    processor = next(names, platform.machine())
    return f"{processor}, torch {version('torch')}, Python {platform.python_version()}."
