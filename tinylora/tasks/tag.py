"""Tagging: every word of a sentence gets a tag, by a new head that reads the word's last token. For entity recognition."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinylora.models.decoder import Decoder
from tinylora.tasks.conll import Sentence, read_sentences
from tinylora.tasks.entities import EntityScore, misfit
from tinylora.tasks.examples import IGNORE, Encoded, Examples, Splits
from tinylora.tasks.task import Task, features_at
from tinylora.text.tokenizer import Tokenizer
from tinylora.torch_api.functional import log_softmax

WORD = re.compile(r"\w+|[^\w\s]")


class Tag(Task):
    """Examples are `Sentence(words, tags)`; the score is F1 over entities, as the program conlleval counts.

    A decoder reads from left to right, so at a word it has not seen what follows. The sentence is therefore given twice, and
    tags are read in the second copy (`twice`), where every word follows all the others.
    """

    name = "tag"
    options = ("twice",)
    whole = ("out_head",)

    def __init__(self, tokenizer: Tokenizer, max_length: int, labels: Sequence[str] = (), twice: bool = True) -> None:
        super().__init__(tokenizer, max_length)
        self.labels, self.twice = tuple(labels), twice

    @classmethod
    def read(cls, path: str | Path) -> Examples:
        return read_sentences(path)

    @classmethod
    def found_in(cls, parts: Splits, **options: Any) -> dict[str, Any]:
        types = sorted({tag[2:] for part in parts for sentence in part for tag in sentence.tags if tag != "O"})
        return {"labels": ("O", *(f"{mark}-{kind}" for kind in types for mark in "BI")), **options}

    def head(self, model: Decoder, bias: bool = False) -> None:
        model.set_classes(self.labels, bias=bias)

    # ------------------------------------------------------------------------------ words and tokens
    def encode(self, example: Sentence) -> list[Encoded]:
        """Each tag's number is the target at its word's last token. Words that do not fit `max_length` have no target."""
        ids, last = self._fitting(example.words)
        targets = np.full(len(ids), IGNORE)
        targets[last] = [self.labels.index(tag) for tag in example.tags[: len(last)]]
        return [Encoded(ids, targets, cut=len(last) < len(example.words))]

    def _fitting(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """`_tokens` of as many of the first words as fit."""
        ids, last = self._tokens(words)
        if len(ids) <= self.max_length:
            return ids, last
        counts = range(1, len(words))
        fit = bisect.bisect_right(counts, self.max_length, key=lambda n: len(self._tokens(words[:n])[0]))
        ids, last = self._tokens(words[: max(1, fit)])
        return ids[: self.max_length], np.minimum(last, self.max_length - 1)  # a single word may be too long

    def _tokens(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """A sentence's tokens, and the position of each word's last token."""
        text = " ".join(words)
        stops = np.cumsum([len(word) + 1 for word in words]) - 1  # where words end, in characters
        if self.twice:
            stops += len(text) + 1
            text = f"{text}\n{text}"
        ids, ends = self.tokenizer.with_ends(text)
        first = np.searchsorted(ends, stops, "left")  # the first token that contains a word's last character
        after = np.searchsorted(ends, ends[first], "right")  # one character may be several tokens
        return ids, after - 1

    # ------------------------------------------------------------------------------------- answers
    def tags(self, model: Decoder, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """The most probable tags of each sentence's words that follow the scheme; "O" for words that do not fit."""
        encoded, counts = [], []
        for words in sentences:
            ids, last = self._fitting(words)
            targets = np.full(len(ids), IGNORE)
            targets[last] = 0
            encoded.append(Encoded(ids, targets))
            counts.append(len(last))
        found: list[list[str]] = [["O"] * len(words) for words in sentences]
        for batch, (ids_, at, _) in self.evaluating(model, encoded):
            scores = log_softmax(model.out_head(features_at(model, ids_, at)).float(), -1).cpu().numpy()
            row = 0
            for i in batch.examples:
                best = self._best_path(scores[row : row + counts[i]])
                found[i][: counts[i]] = [self.labels[k] for k in best]
                row += counts[i]
        return found

    def _best_path(self, scores: np.ndarray) -> list[int]:
        """The sequence of tags with the largest sum of scores (words, tags) in which every tag may follow the one before it.

        Viterbi 1967; the scheme is BIO.
        """
        allowed = np.array([[0.0 if not misfit("BIO", a, b) else -np.inf for b in self.labels] for a in self.labels])
        total = scores[0] + [0.0 if not misfit("BIO", "O", b) else -np.inf for b in self.labels]
        came_from = []
        for row in scores[1:]:
            step = total[:, None] + allowed  # (before, tag)
            came_from.append(step.argmax(0))
            total = step.max(0) + row
        path = [int(total.argmax())]
        for before in reversed(came_from):
            path.append(int(before[path[-1]]))
        return path[::-1]

    def evaluate(self, model: Decoder, examples: Sequence[Any]) -> EntityScore:
        predicted = self.tags(model, [sentence.words for sentence in examples])
        loss, _ = self.mean_loss(model, examples)
        return EntityScore.of([sentence.tags for sentence in examples], predicted, loss)

    def predict(self, model: Decoder, texts: Sequence[str]) -> list[list[tuple[str, str]]]:
        """The words of each text with their tags."""
        words = [WORD.findall(text) for text in texts]
        given = [found for found in words if found]
        tagged = iter(self.tags(model, given) if given else [])
        return [list(zip(found, next(tagged), strict=True)) if found else [] for found in words]

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "labels": list(self.labels), "twice": self.twice}
