"""What the benchmark says: bars, tables for a terminal or a document, and the machine it ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinylora.app import terminal

SMALL = 0.001  # share of a step below which a product gets no line of its own
OURS = "tinylora"
LIBRARIES = ("OPENBLAS_", "MKL_", "OMP_")  # beginnings of the environment variables that decide how fast a product is
PACKAGES = ("tinylora", "numpy", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Bar:
    """A number that the row must reach: `at_least` or, with False, at most `bound`."""

    what: str
    bound: float
    reached: float
    unit: str = "×"
    at_least: bool = True

    @property
    def holds(self) -> bool:
        return self.reached >= self.bound if self.at_least else self.reached <= self.bound

    def cells(self) -> list[str]:
        sign = "≥" if self.at_least else "≤"
        reached, bound = (f"{x:.3g} {self.unit}".strip() for x in (self.reached, self.bound))
        return [f"{self.what} {sign} {bound}", reached, "yes" if self.holds else "NO"]


@dataclass
class Row:
    """One kind of work: who did it how fast (see `workers.summary`), what it counts as one time, and what must hold."""

    title: str
    contenders: dict[str, dict[str, Any]] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Row:
        return cls(saved["title"], saved["contenders"], [Bar(**bar) for bar in saved["bars"]])


def machine(threads: int) -> dict[str, Any]:
    """Processor, cores, memory, the versions of everything that was compared, and what BLAS was told."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory GB": round(int(memory[0]) / 1e6, 1) if memory else None,
        "system": platform.platform(),
        "threads": threads,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
        **{name: value for name, value in os.environ.items() if name.startswith(LIBRARIES)},
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def saved(rows: dict[str, Row]) -> dict[str, Any]:
    return {name: asdict(row) for name, row in rows.items()}


# ------------------------------------------------------------------------------------------- tables
def show(rows: list[Row], about: dict[str, Any], markdown: bool) -> None:
    """What was measured, then what had to be reached, then where. "others": other programs' share of the processor."""
    columns = ["work", "contender", "median", "fastest to slowest", "tinylora is", "peak memory", "others"]
    if measured := _measured(rows):
        table(columns, measured, markdown)
    bars = [[row.title, *bar.cells()] for row in rows for bar in row.bars]
    if bars:
        table(["work", "must reach", "reached", "holds"], bars, markdown)
    terminal.say(", ".join(f"{name} {value}" for name, value in about.items()))


def show_scaling(rows: list[Row], about: dict[str, Any], markdown: bool) -> None:
    """A line per size, the contenders side by side."""
    names = list(rows[0].contenders)
    lines = []
    for row in rows:
        medians, peaks = ([row.contenders[name][key] for name in names] for key in ("median", "peak"))
        lines.append([row.title, *map(seconds, medians), f"{medians[1] / medians[0]:.2f} × as fast", *map(size, peaks)])
    table(["size", *names, f"{OURS} is", *(f"peak memory, {name}" for name in names)], lines, markdown)
    terminal.say(", ".join(f"{name} {value}" for name, value in about.items()))


def _measured(rows: list[Row]) -> list[list[str]]:
    lines = []
    for row in rows:
        ours = row.contenders.get(OURS)
        for i, (name, found) in enumerate(row.contenders.items()):
            ratio = "" if found is ours or ours is None else f"{found['median'] / ours['median']:.2f} × as fast"
            times = f"{seconds(min(found['times']))} to {seconds(max(found['times']))}"
            lines.append(
                [
                    "" if i else row.title,
                    name,
                    seconds(found["median"]),
                    times,
                    ratio,
                    size(found["peak"]),
                    f"{found['others']:.0%}",
                ]
            )
    return lines


def show_profile(found: dict[str, Any], markdown: bool) -> None:
    """Where one step's time goes, op by op, and what the matrix products in it take when run alone."""
    whole = found["step"]
    lines = [[name, str(calls), seconds(s), f"{s / whole:.1%}"] for name, calls, s in found["ops"]]
    in_ops = sum(s for _, _, s in found["ops"])
    lines.append(["outside ops: engine, optimizer, Python", "", seconds(whole - in_ops), f"{1 - in_ops / whole:.1%}"])
    lines.append(["whole step", "", seconds(whole), ""])
    table(["op", "calls", "time", "share"], lines, markdown)
    alone = sum(s for *_, s in found["products"])
    large = [product for product in found["products"] if product[-1] > SMALL * whole]
    small = sum(s for *_, s in found["products"]) - sum(s for *_, s in large)
    lines = [[name, str(n), seconds(s / n), f"{2e-9 * f / (s / n):.0f}", seconds(s)] for name, n, f, s in large]
    lines.append([f"those below {SMALL:.1%} of the step", "", "", "", seconds(small)])
    lines.append(["all products", "", "", "", f"{seconds(alone)}, {alone / whole:.0%} of the step"])
    table(["matrix product", "times", "each", "GFLOP/s", "together"], lines, markdown)


def seconds(s: float) -> str:
    return f"{s:.2f} s" if s >= 1 else f"{1e3 * s:.0f} ms" if s >= 0.1 else f"{1e3 * s:.3g} ms"


def size(found: int) -> str:
    return f"{found / 1e9:.2f} GB" if found else ""


def table(columns: list[str], rows: list[list[str]], markdown: bool) -> None:
    """For people on a terminal, or as Markdown for a document."""
    if markdown:
        lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
        terminal.say("\n".join("| " + " | ".join(line) + " |" for line in lines))
    else:
        terminal.table(columns, rows)
    terminal.say()
