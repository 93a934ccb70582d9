"""Builds the tokenizer of a GGUF file from its metadata: byte-level BPE with the family's pre-tokenizer.

How text is split before BPE is not in the file: `tokenizer.ggml.pre` names a family, whose rule is here. The rules are those
of the families' tokenizer.json and of llama.cpp's llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinylora.formats import LoadError
from tinylora.text.tokenizer import LibraryTokenizer

CONTROL, USER_DEFINED = 3, 4  # types of tokens that are matched in a text before it is split
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _bytes_only(library: Any) -> Any:
    return library.ByteLevel(add_prefix_space=False, use_regex=False)


def _gpt2(library: Any, space: bool) -> list[Any]:
    return [library.ByteLevel(add_prefix_space=space)]


def _smollm(library: Any, space: bool) -> list[Any]:
    return [library.Digits(individual_digits=True), *_gpt2(library, False)]


def _llama3(library: Any, space: bool) -> list[Any]:
    """Llama 3's rule: numbers are split into groups of at most three digits."""
    return [_split(library, WORDS % "{1,3}"), _bytes_only(library)]


def _qwen2(library: Any, space: bool) -> list[Any]:
    return [_split(library, WORDS % ""), _bytes_only(library)]


def _split(library: Any, words: str) -> Any:
    import tokenizers

    return library.Split(tokenizers.Regex(words), behavior="isolated")


FAMILIES: dict[str, Callable[[Any, bool], list[Any]]] = {
    "gpt-2": _gpt2, "smollm": _smollm, "llama-bpe": _llama3, "llama3": _llama3, "llama-v3": _llama3, "qwen2": _qwen2,
}  # fmt: skip


class GGUFTokenizer(LibraryTokenizer):
    """The tokenizer that `metadata`, of a GGUF file called `where` in errors, describes.

    A message begins with `bos` and ends with `eos` if the file's add_bos_token and add_eos_token say so; a prompt never
    ends with one. `stop` are the file's eos, eot and eom tokens. `bos`, `eos`, `unk` are ids or None, `bos_token` and
    `eos_token` their texts, or "", for a chat template. Raises LoadError if an entry is missing or does not fit the others,
    or if the kind of tokenizer is not known; RuntimeError if the library `tokenizers` is missing.
    """

    def __init__(self, metadata: dict[str, Any], where: str) -> None:
        entries = _Entries(metadata, where)
        made, family = _made(entries)
        self.bos, self.eos, self.unk = (entries.id(f"{name}_token_id") for name in ("bos", "eos", "unknown"))
        stop = [entries.id(f"{name}_token_id") for name in ("eos", "eot", "eom")]
        ids = dict.fromkeys(number for number in stop if number is not None)
        pads = [number for number in (entries.id("padding_token_id"), self.eos, 0) if number is not None]
        begin = entries.added("bos", self.bos, family in (_llama3,))
        super().__init__(made, tuple(ids), pads[0], begin, entries.added("eos", self.eos, False), where=where)
        tokens = metadata[PREFIX + "tokens"]
        self.bos_token, self.eos_token = ("" if i is None else tokens[i] for i in (self.bos, self.eos))


PREFIX = "tokenizer.ggml."


class _Entries:
    """The file's tokenizer entries, each checked when it is read."""

    def __init__(self, metadata: dict[str, Any], where: str) -> None:
        self.metadata, self.where = metadata, where

    def error(self, name: str, message: str) -> LoadError:
        return LoadError(f"{self.where}: {PREFIX}{name} {message}")

    def choice(self, name: str, known: Any) -> str:
        found = self.metadata.get(PREFIX + name)
        if not isinstance(found, str) or found not in known:
            said = "is missing" if found is None else f"is {str(found)[:40]!r}"
            raise self.error(name, f"{said}; known are {', '.join(known)}")
        return found

    def texts(self, name: str) -> list[str]:
        found = self.metadata.get(PREFIX + name)
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise self.error(name, "is missing, or is no list of texts")
        return found

    def flag(self, name: str, default: bool) -> bool:
        found = self.metadata.get(PREFIX + name, default)
        if not isinstance(found, bool):
            raise self.error(name, f"is a bool, not {str(found)[:40]!r}")
        return found

    def id(self, name: str) -> int | None:
        found, size = self.metadata.get(PREFIX + name), len(self.texts("tokens"))
        if found is not None and (type(found) is not int or not 0 <= found < size):
            raise self.error(name, f"is {str(found)[:40]!r}, and there are {size:,} tokens")
        return found

    def added(self, name: str, number: int | None, default: bool) -> list[int]:
        """The tokens at one end of every message: bos or eos, or none."""
        if not self.flag(f"add_{name}_token", default and number is not None):
            return []
        if number is None:
            raise self.error(f"{name}_token_id", f"is missing, and add_{name}_token asks for it")
        return [number]


def _made(entries: _Entries) -> tuple[Any, Callable[[Any, bool], list[Any]]]:
    """A tokenizer of the library `tokenizers`, with the family's rule for splitting text."""
    entries.choice("model", ["gpt2"])
    pre = entries.choice("pre", FAMILIES)
    family, space = FAMILIES[pre], entries.flag("add_space_prefix", False)
    if space and family is not _gpt2:
        raise entries.error("add_space_prefix", f"is true, which is not known with {pre!r}")
    tokens = entries.texts("tokens")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if vocabulary[token] != i)
        raise entries.error("tokens", f"has {twice[:40]!r} twice")
    kinds = entries.metadata.get(PREFIX + "token_type", np.ones(len(tokens), "i4"))
    if not isinstance(kinds, np.ndarray) or kinds.shape != (len(tokens),):
        raise entries.error("token_type", f"has not one number for each of {len(tokens):,} tokens")
    try:
        import tokenizers
    except ImportError:
        raise RuntimeError(f"{entries.where} has a tokenizer, which needs a library: pip install 'tinylora[hf]'") from None
    merges = entries.texts("merges")
    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    if odd := next((pair for pair in pairs if not all(pair) or "".join(pair) not in vocabulary), None):
        raise entries.error("merges", f"has {' '.join(odd).strip()[:40]!r}, which does not join two tokens into a third")
    try:
        # a word in the vocabulary is one token, whatever the merges: as in Llama 3's tokenizer.json
        model = tokenizers.models.BPE(vocabulary, pairs, ignore_merges=family is _llama3)
    except Exception as error:  # the library raises plain Exception
        raise entries.error("merges", f"does not fit the tokens ({error})") from None
    made = tokenizers.Tokenizer(model)
    if family is _qwen2:
        made.normalizer = tokenizers.normalizers.NFC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(family(tokenizers.pre_tokenizers, space))
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_tokens([tokenizers.AddedToken(tokens[i], normalized=False) for i in np.flatnonzero(kinds == USER_DEFINED)])
    made.add_special_tokens([tokenizers.AddedToken(tokens[i], normalized=False) for i in np.flatnonzero(kinds == CONTROL)])
    return made, family
