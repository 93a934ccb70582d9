"""Text to tokens and back: bytes for the boxed model, a byte-pair encoding for a folder that holds one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinylora.formats import LoadError, strict_json

TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja",
)  # fmt: skip
END = 256  # the one token that is no byte: before, between and after texts


class Tokenizer(Protocol):
    """What training, prediction and generation ask for. `pad` fills up a batch; a text ends at a token of `stop`."""

    pad: int
    stop: tuple[int, ...]

    def encode(self, text: str, context: int) -> np.ndarray:
        """A message as tokens, (T,): at least one, at most `context`, cut at the end of the text."""

    def prompt(self, text: str) -> list[int]:
        """What stands before the tokens that continue `text`: at least one token."""

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens back to text; of a character that is not whole nothing, or U+FFFD at the end."""


class ByteTokenizer:
    """Every byte of UTF-8 is a token; END stands before and after a message.

    >>> BYTES.encode("hi", 10)
    array([256, 104, 105, 256])
    """

    pad: int = END
    stop: tuple[int, ...] = (END,)

    def encode(self, text: str, context: int) -> np.ndarray:
        return np.array([END, *text.encode("utf-8", "replace")[: context - 2], END])

    def prompt(self, text: str) -> list[int]:
        return [END, *text.encode("utf-8", "replace")]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i != END).decode("utf-8", errors="ignore")


BYTES = ByteTokenizer()


class FolderTokenizer:
    """The tokenizer of a Hugging Face folder: `tokenizer.json`, else GPT-2's `vocab.json` and `merges.txt`.

    By the library `tokenizers`; nothing is added to a message that the folder's tokenizer does not add. `stop` are the ids
    that the model's configuration calls eos_token_id. Raises LoadError if the files are missing or broken, RuntimeError if
    the library is.
    """

    def __init__(self, folder: Path, stop: Sequence[int] = ()) -> None:
        self._tokenizer = _read(folder)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.stop = tuple(stop)
        self.pad = self.stop[0] if self.stop else 0

    def encode(self, text: str, context: int) -> np.ndarray:
        return np.array(self.prompt(text)[:context])

    def prompt(self, text: str) -> list[int]:
        whole = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no character
        return self._tokenizer.encode(whole).ids or [self.pad]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids))


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
    except Exception as error:  # the library raises nothing narrower
        raise LoadError(f"{folder}: its tokenizer is not readable ({error})") from None
    return byte_level
