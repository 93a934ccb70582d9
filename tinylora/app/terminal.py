"""What a person sees: tables, trees and progress bars by rich; plain lines of text when nobody watches a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.tree import Tree

from tinylora import nn
from tinylora.adapters.report import Change
from tinylora.tasks.metrics import Metrics

T = TypeVar("T")
console = Console(highlight=False, soft_wrap=True, emoji=False)
if not console.is_terminal:
    console.width = 10_000  # a table in a file or a pipe is never cut


def say(text: str = "") -> None:
    console.print(text, markup=False)


def stream(pieces: Iterable[str]) -> None:
    """Text as it comes, and the end of its line."""
    for piece in pieces:
        console.print(piece, end="", markup=False)
        console.file.flush()
    say()


def last_of(found: Iterable[T], count: int, what: str) -> T:
    """The last of `count` results, with a live bar on a terminal while they come."""
    columns = [TextColumn("{task.completed} of {task.total} {task.description}"), BarColumn(None), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        *_, last = bar.track(found, total=count, description=what)
    return last


def heading(text: str) -> None:
    console.print(f"\n{text}", style="bold", markup=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """The first column to the left, the others to the right."""
    grid = Table(box=None, pad_edge=False, header_style="bold" if console.is_terminal else "")
    for i, name in enumerate(columns):
        grid.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*[str(cell) for cell in row])
    console.print(grid, markup=False)


def tree(module: nn.Module, name: str) -> None:
    """A module and everything below it."""
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


def metrics(found: Metrics) -> None:
    """Accuracy, the scores of each class, and the confusion matrix."""
    say(f"accuracy {found.accuracy:.2%}")
    shown = [[c, *(f"{f(c):.4f}" for f in (found.precision, found.recall, found.f1))] for c in found.labels]
    table(["class", "precision", "recall", "F1"], shown)
    say()
    columns = ["true \\ predicted", *found.labels]
    table(columns, [[label, *row] for label, row in zip(found.labels, found.confusion.tolist(), strict=True)])


@contextlib.contextmanager
def training(history: list[dict[str, Any]]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A report for `train.train`: a live bar on a terminal, a line per epoch elsewhere. Keeps it all in `history`."""
    columns = [TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[now]}"), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=None, now="")
        smooth = {"loss": 0.0, "accuracy": 0.0}

        def report(event: dict[str, Any]) -> None:
            if "valid" in event:
                found = event["valid"]
                history.append({"epoch": event["epoch"], "valid": found.as_dict()})
                text = f"train loss {smooth['loss']:.3f}, validation loss {found.loss:.3f}, accuracy {found.accuracy:.2%}"
                say(f"epoch {event['epoch']}: {text}")
                return
            history.append(event)
            share = max(0.05, 1 / event["step"])  # running means of the last twenty steps or so
            for name in smooth:
                smooth[name] += share * (event[name] - smooth[name])
            now = f"loss {smooth['loss']:.3f}  accuracy {smooth['accuracy']:.1%}"
            bar.update(task, total=event["steps"], completed=event["step"], now=now)

        yield report
