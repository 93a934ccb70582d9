"""Run: a fine-tuned model with its tokenizer and its task, ready to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylora.formats import LoadError, strict_json
from tinylora.models.decoder import Decoder
from tinylora.models.source import ModelSource
from tinylora.runs.run_folder import load_finetuned
from tinylora.tasks import TASKS, Classify
from tinylora.tasks.task import Score, Task


@dataclass(frozen=True)
class Run:
    """What `finetune` returns, and `Run.load` reads. `score` is that of the examples held out, None when loaded.

    >>> run = tinylora.finetune("nano", "messages.tsv")                               # doctest: +SKIP
    >>> run.predict(["Your parcel is held, pay the fee"]), run.score.headline         # doctest: +SKIP
    (['spam'], 'accuracy 88.02%')
    """

    folder: Path
    model: Decoder
    source: ModelSource
    task: Task
    score: Score | None = None

    @classmethod
    def load(cls, folder: str | Path, base: str | None = None) -> Run:
        """The run in a folder, an adapter's file or folder, or a merged model. `base` says where the base model is now."""
        model, source, _ = load_finetuned(folder, base)
        return cls(Path(folder), model, source, _task(Path(folder), model, source))

    @classmethod
    def untrained(cls, name: str | Path, task: str) -> Run:
        """A language model as it is, to compare a run with: for a task that keeps the model's head, "chat" or "text"."""
        if task not in TASKS or TASKS[task].whole:
            raise ValueError(f"{task!r} has a head of its own, and the model has none for it")
        source = ModelSource.open(name)
        return cls(Path(name), source.model(), source, TASKS[task].of(source, source.config.context_length))

    def predict(self, texts: Sequence[str]) -> list[Any]:
        """The model's answer to each text: for a classifier, its label."""
        return self.task.predict(self.model, [text.strip() for text in texts])

    def evaluate(self, data: str | Path, **columns: str) -> Score:
        """The score on the examples in a file."""
        return self.task.evaluate(self.model, self.task.read(data, **columns))


def _task(folder: Path, model: Decoder, source: ModelSource) -> Task:
    """The task noted in the run's config.json; without one, classification if the model has labels."""
    noted = strict_json.read_optional(folder / "config.json").get("task")
    if isinstance(noted, dict):
        options = {key: value for key, value in noted.items() if key != "name"}
        try:
            return TASKS[noted["name"]].of(source, **options)
        except (KeyError, TypeError) as error:
            raise LoadError(f"{folder / 'config.json'}: its task is not readable ({error})") from None
    if not model.cfg.labels:
        raise LoadError(f"{folder}: this model has no labels: it is no classifier")
    return Classify(source.tokenizer, model.cfg.context_length, model.cfg.labels)
