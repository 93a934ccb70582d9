"""Plain text: the model's own head predicts every token, as in pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinylora.models.decoder import Decoder
from tinylora.tasks.examples import Encoded, Examples, Splits, part_of
from tinylora.tasks.language import LanguageScore
from tinylora.tasks.tables import read_records, read_text
from tinylora.tasks.task import Task
from tinylora.text.generate import generate
from tinylora.text.sampling import GREEDY

JSON = (".jsonl", ".json", ".ndjson")


class Text(Task):
    """Examples are documents; each is cut into pieces of `max_length` tokens. The score is perplexity and bits per byte."""

    name = "text"

    @classmethod
    def read(cls, path: str | Path) -> Examples:
        """A plain text file, gzipped or not, is one document; of JSON, each object's "text" is one."""
        path = Path(path)
        if path.suffix.lower() not in JSON:
            return Examples([read_text(path)])
        texts = []
        for line, cells in read_records(path):
            text = cells.get("text")
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{path}: line {line} has no string 'text'")
            texts.append(text)
        return Examples(texts)

    @classmethod
    def split(cls, examples: Examples, seed: int, valid: float = 0.1, test: float = 0.2) -> Splits:
        """Ten documents or more are shuffled; fewer are cut at line ends, the last parts for validation and the test."""
        if len(examples) >= 10:
            return super().split(examples, seed, valid, test)
        parts = Splits(Examples([], examples.notes), Examples([]), Examples([]))
        for document in examples:
            lines = document.splitlines(keepends=True)
            n_valid, n_test = part_of(len(lines), valid), part_of(len(lines), test)
            if n_valid + n_test >= len(lines):
                raise ValueError(f"a text of {len(lines)} lines is too short to train, to validate and to test on")
            cuts = len(lines) - n_test - n_valid, len(lines) - n_test
            for part, chosen in zip(parts, (lines[: cuts[0]], lines[cuts[0] : cuts[1]], lines[cuts[1] :]), strict=True):
                if chosen:
                    part.append("".join(chosen))
        return parts

    def encode(self, example: str) -> list[Encoded]:
        """Pieces of up to `max_length` tokens that read on where the last one ended: every token is predicted once."""
        ids = np.array([*self.tokenizer.prompt(example), *self.tokenizer.stop[:1]])
        cuts = range(0, len(ids) - 1, self.max_length)
        pieces = [(ids[i : i + self.max_length], ids[i + 1 : i + self.max_length + 1]) for i in cuts]
        return [Encoded(read[: len(predicted)], predicted) for read, predicted in pieces]

    def evaluate(self, model: Decoder, examples: Sequence[str]) -> LanguageScore:
        loss, tokens = self.mean_loss(model, examples)
        return LanguageScore(loss, tokens, sum(len(text.encode("utf-8", "replace")) for text in examples))

    def predict(self, model: Decoder, texts: Sequence[str], tokens: int = 100) -> list[str]:
        """The most probable continuation of each text."""
        stop, decode = self.tokenizer.stop, self.tokenizer.decode
        return [decode(list(generate(model, self.tokenizer.prompt(text), tokens, GREEDY, stop))) for text in texts]
