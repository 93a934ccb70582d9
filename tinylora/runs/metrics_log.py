"""MetricsLog: writes a run's metrics.jsonl as training goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tinylora.tasks.task import Score
from tinylora.training.report import Reporter, Step


class MetricsLog(Reporter):
    """A row per step and per validation, and the test's score last. Raises OSError that names the file."""

    def __init__(self, path: Path, size: int = 0) -> None:
        """Go on behind the first `size` bytes of the file; what follows them is cut off."""
        self.path = path
        self._file = path.open("a+b", buffering=0)
        self._file.truncate(min(size, path.stat().st_size))

    def stepped(self, step: Step) -> None:
        self._write(step.as_dict())

    def validated(self, epoch: int, step: int, score: Score, best: bool) -> None:
        self._write({"epoch": epoch, "step": step, "valid": score.as_dict(), "best": best})

    def tested(self, score: Score) -> None:
        self._write({"test": score.as_dict()})

    def synced(self) -> int:
        """Its size in bytes, all of which are on the disk now."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        line = json.dumps(row).encode() + b"\n"
        try:
            while line:  # the system may take a part
                line = line[self._file.write(line) or 0 :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None
