"""OpenRun: a run's folder while its run goes on: locked, with config.json, metrics.jsonl and checkpoints."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tinylora.formats import safetensors, strict_json
from tinylora.runs.checkpoints import Checkpoint, Checkpoints
from tinylora.runs.lock import FolderError, Lock, in_use
from tinylora.runs.metrics_log import MetricsLog
from tinylora.runs.recipe import interval
from tinylora.runs.run_folder import CHECKPOINTS, CONFIG, LOCK, METRICS, check_output, unfinished
from tinylora.runs.signals import InterruptedRunError, Signals
from tinylora.training.state import TrainState


class OpenRun:
    """Creates and locks a run's folder, or with `resume` opens the one that is there. Use in a `with` statement.

    `about` is what config.json holds. Its "status" is "running" while the block runs, then "finished" if `finish` was
    called, "interrupted" after a signal and "failed" after another error. A folder that holds nothing to go on from after an
    error is removed again. Raises FolderError for a folder that is in use, or that holds something else.
    """

    metrics: MetricsLog | None

    def __init__(self, folder: Path, resume: bool = False) -> None:
        self.folder, self.about, self.metrics, self._started = folder, dict[str, Any](), None, False
        self.checkpoints = Checkpoints(folder / CHECKPOINTS)
        there = folder.is_dir() and any(folder.iterdir())
        self.resumed = resume and there
        if in_use(folder / LOCK):
            Lock(folder / LOCK)  # says by whom
        if resume and there:
            if "status" not in strict_json.read_optional(folder / CONFIG):
                raise FolderError(f"{folder} holds no run that could go on: give another folder")
        elif not (there and unfinished(folder) and not self.checkpoints):
            check_output(folder)
        self._made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(folder / LOCK)

    def __enter__(self) -> Self:
        safetensors.remove_temporary(self.folder)
        if self.resumed:
            self.about = strict_json.read(self.folder / CONFIG)
        return self

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do."""
        return self.resumed and not unfinished(self.folder)

    # ------------------------------------------------------------------------------- config.json
    def start(self, **entries: Any) -> None:
        """Note that the run goes on from now, and `entries`."""
        self.about.pop("reason", None)
        self._started = True
        self.note(status="running", **entries)

    def note(self, **entries: Any) -> None:
        """Add entries to config.json, or change them."""
        self.about.update(entries)
        safetensors.write(self.folder / CONFIG, json.dumps(self.about, indent=1) + "\n")

    # ------------------------------------------------------------------------------- training
    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The checkpoint to go on from, None for the beginning, and sentences on others that are damaged."""
        if self.checkpoints.folder.is_dir():
            safetensors.remove_temporary(self.checkpoints.folder)
        found, damaged = self.checkpoints.newest()
        if damaged and found is None:
            damaged.append("no checkpoint is complete: the run begins anew")
        return found, damaged

    def begin(self, found: Checkpoint | None) -> MetricsLog:
        """Open metrics.jsonl behind what it held at the checkpoint."""
        self.metrics = MetricsLog(self.folder / METRICS, found.numbers["metrics"] if found else 0)
        return self.metrics

    def save(self, state: TrainState) -> None:
        """Write a checkpoint."""
        assert self.metrics is not None
        arrays, numbers = state.state_dict()
        self.checkpoints.save(arrays, {**numbers, "metrics": self.metrics.synced()})

    def finish(self, **entries: Any) -> None:
        """Note that the run is over, which makes its checkpoints superfluous."""
        self.about.pop("reason", None)
        self.note(**entries)
        self.checkpoints.remove()

    # ------------------------------------------------------------------------------- the end
    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self.metrics is not None:
            self.metrics.close()
        if error is None or not self._started or self.about["status"] != "running":
            self._lock.release()
        elif self.resumed or self.checkpoints or (self.metrics and isinstance(error, OSError | KeyboardInterrupt)):
            with contextlib.suppress(OSError):  # the disk may be full; a run that is noted as running can go on as well
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                self.note(status=status, reason=str(error) or type(error).__name__)
            self._lock.release()
        else:
            self._discard()

    def _discard(self) -> None:
        """Remove what was made."""
        for name in (CONFIG, METRICS):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints.folder, ignore_errors=True)
        self._lock.release()
        with contextlib.suppress(OSError):  # another process has put something there
            for path in self._made:
                path.rmdir()


class Saver:
    """Writes checkpoints as training goes on: `every` so many steps, or seconds ("30s"), or by default after each epoch."""

    def __init__(self, run: OpenRun, every: int | str | None, signals: Signals) -> None:
        self.run, self.signals = run, signals
        self.steps, self.seconds = interval(every)
        self._saved: tuple[int, bool] = (0, False)  # the step of the last checkpoint, and whether training was over
        self._at = time.monotonic()

    def after_step(self, state: TrainState) -> None:
        """Save if it is time, and after a signal; then raise InterruptedRunError."""
        if self.signals.received is not None or state.finished or self._due(state):
            self.save(state)
        self.signals.check()

    @contextlib.contextmanager
    def validating(self, state: TrainState) -> Iterator[None]:
        """Inside the block a signal acts at once. The state is that of the last step, and is saved."""
        try:
            with self.signals.deferred(False):
                yield
        except InterruptedRunError:
            self.save(state)
            raise

    def save(self, state: TrainState) -> None:
        if self._saved != (state.step, state.finished):
            self.run.save(state)
        self._saved, self._at = (state.step, state.finished), time.monotonic()

    def _due(self, state: TrainState) -> bool:
        if self.steps:
            return state.step % self.steps == 0
        if self.seconds:
            return time.monotonic() - self._at >= self.seconds
        return state.step_in_epoch == 0 and state.step == state.validated
