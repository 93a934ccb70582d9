"""Tokenizers: bytes for the model in the box, the library `tokenizers` for Hugging Face folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinylora.formats import LoadError, safetensors, strict_json

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

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i != END).decode("utf-8", errors="ignore")


BYTES = ByteTokenizer()


class LibraryTokenizer:
    """A tokenizer of the library `tokenizers`; `stop` and `pad` are ids of its vocabulary.

    `begin` and `end` are put before and after a message, in addition to what the library's tokenizer adds.
    """

    def __init__(
        self, tokenizer: Any, stop: Sequence[int], pad: int, begin: Sequence[int] = (), end: Sequence[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.stop, self.pad = tuple(stop), pad
        self._begin, self._end = list(begin), list(end)

    def __len__(self) -> int:
        """The number of tokens, including added ones."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, context: int) -> np.ndarray:
        ids = [*self._begin, *self._ids(text, True), *self._end]
        return np.array((ids or [self.pad])[:context])

    def prompt(self, text: str) -> list[int]:
        return [*self._begin, *self._ids(text, True)] or [self.pad]

    def with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        found = self._tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=True)
        ends = np.array([stop for _, stop in found.offsets])
        ends[[i for i, special in enumerate(found.special_tokens_mask) if special and i]] = len(text)  # those at the end
        return np.array([*self._begin, *found.ids]), np.array([0] * len(self._begin) + ends.tolist())

    def tokens(self, text: str) -> list[int]:
        """The tokens of `text` with nothing added: for chat templates, which write special tokens themselves."""
        return self._ids(text, False)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids))

    def is_special(self, id: int) -> bool:
        """Whether it is a special token, such as the end of a turn."""
        return self._tokenizer.decode([id], skip_special_tokens=True) == ""

    def save(self, path: Path) -> None:
        """Write it as a tokenizer.json."""
        safetensors.write(path, self._tokenizer.to_str(pretty=True))

    def id_of(self, token: str) -> int | None:
        """The id of one token of the vocabulary, None if there is no such token."""
        return self._tokenizer.token_to_id(token)

    def _ids(self, text: str, special: bool) -> list[int]:
        whole = text.encode("utf-8", "replace").decode()  # lone surrogates are not valid
        return self._tokenizer.encode(whole, add_special_tokens=special).ids


class FolderTokenizer(LibraryTokenizer):
    """The tokenizer of a Hugging Face folder: `tokenizer.json`, else GPT-2's `vocab.json` and `merges.txt`.

    Nothing is added to a message that the folder's tokenizer does not add. Without `pad` the first of `stop` is used. Raises
    LoadError if the files are missing or broken, RuntimeError if the library is missing.
    """

    def __init__(self, folder: Path, stop: Sequence[int] = (), pad: int | None = None) -> None:
        super().__init__(_read(folder), stop, pad if pad is not None else stop[0] if stop else 0)


def _read(folder: Path) -> Any:
    files = [folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")]
    if not files[0].is_file() and not (files[1].is_file() and files[2].is_file()):
        raise LoadError(f"{folder}: no tokenizer.json, nor vocab.json and merges.txt")
    try:
        import tokenizers
    except ImportError:
        raise RuntimeError(f"{folder} has a tokenizer, which needs a library: pip install 'tinylora[hf]'") from None
    try:
        if files[0].is_file():
            return tokenizers.Tokenizer.from_file(str(files[0]))
        space = strict_json.read_optional(folder / "tokenizer_config.json").get("add_prefix_space") is True
        byte_level = tokenizers.ByteLevelBPETokenizer.from_file(str(files[1]), str(files[2]), add_prefix_space=space)
        byte_level.add_special_tokens([t for t in ("<|endoftext|>",) if byte_level.token_to_id(t) is not None])
        added = strict_json.read_optional(folder / "added_tokens.json")
        byte_level.add_special_tokens(sorted(added, key=lambda token: added[token]))
        if odd := [token for token, number in added.items() if byte_level.token_to_id(token) != number]:
            raise ValueError(f"added_tokens.json gives {odd[0]!r} a number that is not the next")
    except Exception as error:  # the library raises plain Exception
        raise LoadError(f"{folder}: its tokenizer is not readable ({error})") from None
    return byte_level
