"""MetricsLog: collects the rows of a run's metrics.jsonl."""

from __future__ import annotations

from typing import Any

from tinylora.tasks.task import Score
from tinylora.training.report import Reporter, Step


class MetricsLog(Reporter):
    """A row per step and per validation, and the test's score last."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def stepped(self, step: Step) -> None:
        self.rows.append(step.as_dict())

    def validated(self, epoch: int, step: int, score: Score, best: bool) -> None:
        self.rows.append({"epoch": epoch, "step": step, "valid": score.as_dict(), "best": best})

    def tested(self, score: Score) -> None:
        self.rows.append({"test": score.as_dict()})
