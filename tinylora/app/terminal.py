"""Terminal output: tables, trees and progress bars by rich; plain lines if the output is not a terminal."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, TextIO, TypeVar, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from tinylora import nn
from tinylora.adapters.report import Change
from tinylora.models.decoder import Decoder
from tinylora.tasks.examples import Splits
from tinylora.tasks.task import Score, Task
from tinylora.training.memory import gigabytes
from tinylora.training.report import Plan, Reporter, Step

T = TypeVar("T")
MEASURED = 10  # steps after which the time left is estimated


class Output:
    """Standard output, or nothing once its reader is gone: `tinylora finetune DATA | head` goes on training.

    `expendable`: nor does any other failure to write, such as a full disk, raise an error.
    """

    expendable = False

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout or sys.__stderr__, name)

    def write(self, text: str) -> int:
        with self.silent_when_closed():
            if sys.stdout is not None:  # closed before the program began
                sys.stdout.write(text)
        return len(text)

    def flush(self) -> None:
        with self.silent_when_closed():
            if sys.stdout is not None:
                sys.stdout.flush()

    @contextlib.contextmanager
    def silent_when_closed(self) -> Iterator[None]:
        """Ignore that the pipe or the terminal was closed, and write nothing to it from then on."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO) and not self.expendable:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())  # also what Python flushes at its end
            os.close(nowhere)


PLAIN = str.maketrans({"σ": "s", "Δ": "d", "‖": "|", "×": "x", "·": ".", "…": ".", "–": "-", "—": "-", "’": "'", "‘": "'"})


def accept_any_encoding() -> None:
    """Print what the encoding of standard output lacks, such as σ in ASCII, as a similar character or as `?`."""

    def similar(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        text = error.object[error.start : error.end].translate(PLAIN)
        return "".join(c if c.isascii() else "?" for c in text), error.end

    codecs.register_error("tinylora.similar", similar)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "backslashreplace"):
            stream.reconfigure(errors="tinylora.similar")


output = Output()
console = Console(file=cast(TextIO, output), highlight=False, soft_wrap=True, emoji=False)
if not console.is_terminal:
    console.width = 10_000  # tables in files and pipes are not truncated


def say(text: str = "") -> None:
    console.print(text, markup=False)


def stream(pieces: Iterable[str]) -> None:
    """Print text as it arrives, then a line end."""
    for piece in pieces:
        console.print(piece, end="", markup=False)
        console.file.flush()
    say()


def last_of(found: Iterable[T], count: int, what: str) -> T:
    """The last of `count` results, with a progress bar on a terminal."""
    columns = [TextColumn("{task.completed} of {task.total} {task.description}"), BarColumn(None), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        *_, last = bar.track(found, total=count, description=what)
    return last


def heading(text: str) -> None:
    console.print(f"\n{text}", style="bold", markup=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table with the first column aligned left and the others right."""
    grid = Table(box=None, pad_edge=False, header_style="bold" if console.is_terminal else "")
    for i, name in enumerate(columns):
        grid.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*[str(cell) for cell in row])
    console.print(grid, markup=False)


def tree(module: nn.Module, name: str) -> None:
    """A tree of a module and all modules below it."""
    console.print(_branch(module, name))


def _branch(module: nn.Module, name: str) -> Tree:
    inside = module.extra_repr()
    branch = Tree(f"{name}: {type(module).__name__}({inside})", highlight=False)
    for child_name, child in module.named_children():
        branch.add(_branch(child, child_name))
    return branch


def counts(model: nn.Module) -> None:
    """The summary of a model's parameters."""
    count = model.summary()
    rows = [[name, f"{g.trainable:,}", f"{g.frozen:,}", f"{g.bytes:,}"] for name, g in count.groups.items()]
    rows.append(["all", f"{count.trainable:,}", f"{count.frozen:,}", f"{count.bytes:,}"])
    table(["", "trainable", "frozen", "bytes"], rows)


def changes(found: Sequence[Change], values: int = 4) -> None:
    """ΔW of each layer: its sizes, its norm, how many singular values make up 99 % of it, and the largest of these."""
    shown = range(min(values, max(len(change.spectrum) for change in found)))
    columns = ["layer", "in", "out", "rank", "scale", "‖ΔW‖", "99 % in", *(f"σ{i + 1}" for i in shown)]
    rows = []
    for c in found:
        largest = [f"{c.spectrum[i]:.3g}" if i < len(c.spectrum) else "" for i in shown]
        sizes = [c.layer, c.in_features, c.out_features, len(c.spectrum), f"{c.scale:g}"]
        rows.append([*sizes, f"{c.norm:.3g}", c.effective_rank, *largest])
    table(columns, rows)


def trained(pieces: Iterable[tuple[str, bool, str]]) -> None:
    """Text whose trained parts are bold on a terminal, and in brackets elsewhere, each with its target."""
    whole = Text()
    for text, marked, target in pieces:
        shown = text if console.is_terminal or not marked else f"[{text}]"
        whole.append(shown, style="bold green" if marked else "")
        if target:
            whole.append(f" -> {target} ", style="dim")
    console.print(whole)


def show_score(found: Score) -> None:
    """A score and its tables."""
    say(found.headline)
    for i, part in enumerate(found.tables()):
        if i:
            say()
        table(part.columns, part.rows)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


class Training(Reporter):
    """Shows training: a progress bar on a terminal, else a line per epoch. Use as a context manager.

    Losses are running means over about twenty steps.
    """

    def __enter__(self) -> Self:
        output.expendable = True  # training is not
        columns = [
            TextColumn("{task.description}"),
            BarColumn(None),
            TextColumn("{task.fields[now]}"),
            TimeRemainingColumn(),
        ]
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.bar.start()
        self.row = self.bar.add_task("training", total=None, now="")
        self.loss, self.seen, self.first = 0.0, 0, 0.0
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
        output.expendable = False

    def began(self, task: Task, parts: Splits, model: Decoder) -> None:
        for text in parts.train.notes:
            say(text)
        sizes = [len(part) for part in parts]
        say(f"{sizes[0]:,} to train on, {sizes[1]:,} to validate, {sizes[2]:,} to test")
        counts(model)

    def planned(self, plan: Plan) -> None:
        free = "" if plan.free is None else f", of {gigabytes(plan.free)} free"
        needed = f"about {gigabytes(plan.memory)} of memory beside the model"
        say(f"{plan.steps:,} steps on {plan.tokens:,} tokens; {needed}{free}")

    def note(self, text: str) -> None:
        say(text)

    def stepped(self, step: Step) -> None:
        self.seen += 1
        if self.seen == 1:
            self.first = time.monotonic()  # the first step also prepares things
        if self.seen == MEASURED and step.step < step.steps:
            seconds = (time.monotonic() - self.first) / (MEASURED - 1) * (step.steps - step.step)
            say(f"step {step.step:,} of {step.steps:,}: about {_duration(seconds)} left, without validation")
        self.loss += max(0.05, 1 / self.seen) * (step.loss - self.loss)
        self.bar.update(self.row, total=step.steps, completed=step.step, now=f"loss {self.loss:.3f}")

    def validated(self, epoch: int, step: int, score: Score, best: bool) -> None:
        text = f"train loss {self.loss:.3f}, validation loss {score.loss:.3f}, {score.headline}"
        say(f"epoch {epoch}: {text}")

    def tested(self, score: Score) -> None:
        self.bar.stop()
        heading("On the examples held out")
        show_score(score)
