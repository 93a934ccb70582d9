"""Reporter: is told what happens in training, to show or to store it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tinylora.models.decoder import Decoder
from tinylora.tasks.examples import Splits
from tinylora.tasks.task import Score, Task


@dataclass(frozen=True)
class Step:
    """One step: its number of `steps` in all, the epoch, the mean loss, the gradient's norm, the rate, and tokens read."""

    step: int
    steps: int
    epoch: int
    loss: float
    norm: float
    lr: float
    tokens: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """What training takes: steps and tokens of all epochs, about so many bytes beside the model, and the bytes free."""

    steps: int
    tokens: int
    memory: int
    free: int | None


class Reporter:
    """Its methods are called as a run goes on. Each does nothing: define those of interest."""

    def began(self, task: Task, parts: Splits, model: Decoder) -> None:
        """Before the first step: the examples are read, and the model is ready."""

    def planned(self, plan: Plan) -> None:
        """After `began`, when it is known how much work it is."""

    def note(self, text: str) -> None:
        """A sentence for the user."""

    def stepped(self, step: Step) -> None:
        """After every step."""

    def validated(self, epoch: int, step: int, score: Score, best: bool) -> None:
        """After every validation; `best` if it is the best so far."""

    def tested(self, score: Score) -> None:
        """After the best state was measured on the examples held out."""


class Reporters(Reporter):
    """Tells several reporters."""

    def __init__(self, *reporters: Reporter) -> None:
        self.reporters = reporters

    def began(self, task: Task, parts: Splits, model: Decoder) -> None:
        for reporter in self.reporters:
            reporter.began(task, parts, model)

    def planned(self, plan: Plan) -> None:
        for reporter in self.reporters:
            reporter.planned(plan)

    def note(self, text: str) -> None:
        for reporter in self.reporters:
            reporter.note(text)

    def stepped(self, step: Step) -> None:
        for reporter in self.reporters:
            reporter.stepped(step)

    def validated(self, epoch: int, step: int, score: Score, best: bool) -> None:
        for reporter in self.reporters:
            reporter.validated(epoch, step, score, best)

    def tested(self, score: Score) -> None:
        for reporter in self.reporters:
            reporter.tested(score)
