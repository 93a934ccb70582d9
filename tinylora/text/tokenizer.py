"""Tokenizers: bytes for the model in the box, the library `tokenizers` for Hugging Face folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinylora.formats import LoadError, safetensors
from tinylora.text import folder_tokenizer

TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja",
)  # fmt: skip
END = 256  # the only token that is not a byte: marks the beginning and end of texts


class Tokenizer(Protocol):
    """The interface that training, prediction and generation use. `pad` pads batches; tokens in `stop` end a text."""

    pad: int
    stop: tuple[int, ...]

    def encode(self, text: str, context: int) -> np.ndarray:
        """A message as tokens, (T,): at least one, at most `context`, cut at the end of the text."""

    def prompt(self, text: str) -> list[int]:
        """What stands before the tokens that continue `text`: at least one token."""

    def with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of `prompt(text)`, (T,), and where in the text each one ends, in characters, (T,)."""

    def spelled(self, ids: Sequence[int]) -> str:
        """Tokens as text, special ones included."""

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens back to text. An incomplete character becomes nothing, or U+FFFD at the end."""


class ByteTokenizer:
    """Tokens are the bytes of UTF-8; END is put before and after a message.

    >>> BYTES.encode("hi", 10)
    array([256, 104, 105, 256])
    """

    pad: int = END
    stop: tuple[int, ...] = (END,)

    def encode(self, text: str, context: int) -> np.ndarray:
        return np.array([END, *text.encode("utf-8", "replace")[: context - 2], END])

    def prompt(self, text: str) -> list[int]:
        return [END, *text.encode("utf-8", "replace")]

    def with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        lengths = [len(character.encode("utf-8", "replace")) for character in text]
        return np.array(self.prompt(text)), np.repeat(np.arange(len(text) + 1), [1, *lengths])

    def spelled(self, ids: Sequence[int]) -> str:
        return "".join("<end>" if i == END else chr(i) if 31 < i < 127 else f"<{i:02X}>" for i in ids)

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i != END).decode("utf-8", errors="ignore")


BYTES = ByteTokenizer()


class LibraryTokenizer:
    """A tokenizer of the library `tokenizers`; `stop` and `pad` are ids of its vocabulary.

    `begin` and `end` are put before and after a message, in addition to what the library's tokenizer adds. `max_length` and
    `truncation_side` say how a message is cut. The model behind it sets two more: `trailing` is its padding token, which
    does not count at the end of a message, and `known` the number of tokens in its embedding.
    """

    trailing: int | None = None
    known: int | None = None

    def __init__(
        self,
        tokenizer: Any,
        stop: Sequence[int],
        pad: int,
        begin: Sequence[int] = (),
        end: Sequence[int] = (),
        max_length: int | None = None,
        truncation_side: str = "right",
        where: str = "",
    ) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.stop, self.pad, self.where = tuple(stop), pad, where
        self.max_length, self.truncation_side = max_length, truncation_side
        self._begin, self._end = list(begin), list(end)

    def __len__(self) -> int:
        """The number of tokens, including added ones."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, context: int) -> np.ndarray:
        """A message as tokens, (T,): at least one, at most `context` and `max_length`.

        What the tokenizer adds is never cut off. `trailing` tokens at the end are left out, so that the last token is the
        one that transformers classifies by: the last that is not the model's padding token, else the first.
        """
        ids = [*self._begin, *self._ids(text, True), *self._end]
        limit = min(context, self.max_length or context)
        if len(ids) > limit:
            ids = self._cut(text, limit)
        end = len(ids)
        while end > 1 and ids[end - 1] == self.trailing:
            end -= 1
        return np.array(self._checked(ids[:end]) or [self.pad])

    def _cut(self, text: str, limit: int) -> list[int]:
        """As _ids with all that is added, but only so much of the text that these are `limit` tokens."""
        room = limit - len(self._begin) - len(self._end)
        encoding = self._tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False)
        inside = max(0, room - self._tokenizer.num_special_tokens_to_add(False))
        encoding.truncate(inside, direction=self.truncation_side)
        return [*self._begin, *self._tokenizer.post_process(encoding).ids, *self._end][:limit]

    def _checked(self, ids: list[int]) -> list[int]:
        """The ids. Raises LoadError for a token that the model does not have."""
        if self.known is not None and ids and (odd := max(ids)) >= self.known:
            token = f"{self.where}: the text contains {self._tokenizer.id_to_token(odd)!r}, token {odd:,} of this tokenizer"
            raise LoadError(
                f"{token}, and the model has {self.known:,} tokens: resize its embedding, or leave that token out"
            )
        return ids

    def prompt(self, text: str) -> list[int]:
        return self._checked([*self._begin, *self._ids(text, True)]) or [self.pad]

    def with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        found = self._tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=True)
        ends = np.array([stop for _, stop in found.offsets])
        ends[[i for i, special in enumerate(found.special_tokens_mask) if special and i]] = len(text)  # those at the end
        return np.array([*self._begin, *found.ids]), np.array([0] * len(self._begin) + ends.tolist())

    def tokens(self, text: str) -> list[int]:
        """The tokens of `text` with nothing added: for chat templates, which write special tokens themselves."""
        return self._checked(self._ids(text, False))

    def spelled(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids))

    def token_beyond(self, count: int) -> str | None:
        """The first token with an id of at least `count`, added ones aside; None if there is none."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        ids = [number for number in vocabulary.values() if number >= count] if len(vocabulary) > count else []
        return self._tokenizer.id_to_token(min(ids)) if ids else None

    def is_special(self, id: int) -> bool:
        """Whether it is a special token, such as the end of a turn."""
        return self._tokenizer.decode([id], skip_special_tokens=True) == ""

    def save(self, path: Path) -> None:
        """Write it as a tokenizer.json, which puts the same tokens before and after a message."""
        made = self._tokenizer
        if self._begin or self._end:
            made = type(made).from_str(made.to_str())
            before, after = ([made.id_to_token(i) for i in ids] for ids in (self._begin, self._end))
            folder_tokenizer.surround(made, before, after)
        safetensors.write(path, made.to_str(pretty=True))

    def id_of(self, token: str) -> int | None:
        """The id of one token of the vocabulary, None if there is no such token."""
        return self._tokenizer.token_to_id(token)

    def _ids(self, text: str, special: bool) -> list[int]:
        whole = text.encode("utf-8", "replace").decode()  # lone surrogates are not valid
        return self._tokenizer.encode(whole, add_special_tokens=special).ids


class FolderTokenizer(LibraryTokenizer):
    """The tokenizer of a Hugging Face folder: `tokenizer.json`, else GPT-2's `vocab.json` and `merges.txt`.

    It gives the ids that transformers gives (see folder_tokenizer.py). Without `pad` the first of `stop` is used. Raises
    LoadError if the files are missing or broken, RuntimeError if the library is missing.
    """

    def __init__(self, folder: Path, stop: Sequence[int] = (), pad: int | None = None) -> None:
        built = folder_tokenizer.build(Path(folder))
        pad = pad if pad is not None else stop[0] if stop else 0
        how = built.max_length, built.truncation_side
        super().__init__(built.tokenizer, stop, pad, (), (), *how, where=str(folder))
