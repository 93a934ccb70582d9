"""ModelConfig, the base class of all decoders' configurations: typed, and checked when it is made."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

TokenIds = int | tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a decoder, and the kind of its head.

    With `labels`, out_head classifies: one score per label, no bias. Without, it scores tokens, and `tie_head` makes it
    share the token embedding's weight. The token ids mark a text's beginning and end, and padding. Raises ValueError that
    names the entry.
    """

    vocab_size: int
    context_length: int
    emb_dim: int
    n_heads: int
    n_layers: int
    tie_head: bool = False
    labels: tuple[str, ...] = ()
    bos_token_id: TokenIds = None
    eos_token_id: TokenIds = None
    pad_token_id: TokenIds = None

    @classmethod
    def of(cls, entries: Mapping[str, Any]) -> Self:
        """From a dictionary, such as the lecture's. Unknown and missing entries are named.

        >>> from tinylora.models.gpt import GPTConfig
        >>> GPTConfig.of({"tie_haed": True})
        Traceback (most recent call last):
        ValueError: unknown entry 'tie_haed' in the configuration: did you mean 'tie_head'?
        """
        given = checked_entries(cls, entries, "the configuration")
        values: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in given.items()}
        return cls(**values)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers"):
            check_size(name, getattr(self, name))
        check_flag("tie_head", self.tie_head)
        names = self.labels if isinstance(self.labels, tuple) else (None,)
        if names and (len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(n, str) for n in names)):
            raise ValueError(f"labels must be a list of two different names or more, not {str(self.labels)[:60]}")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            ids = value if isinstance(value, tuple) else () if value is None else (value,)
            if not all(type(i) is int and i >= 0 for i in ids):
                raise ValueError(f"{name} must be a token's number, or several, not {repr(value)[:60]}")

    def as_dict(self) -> dict[str, Any]:
        """Entries that differ from their defaults, and those without a default, as JSON values."""
        found = {}
        entries = dataclasses.asdict(self)
        for field in dataclasses.fields(self):
            if (value := entries[field.name]) != field.default:
                found[field.name] = list(value) if isinstance(value, tuple) else value
        return found


def checked_entries(cls: Any, entries: Mapping[str, Any], what: str, partly: bool = False) -> dict[str, Any]:
    """The entries that a dataclass is made of, or part of them. Raises ValueError for one that is unknown or missing."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in entries.keys() - fields.keys():
        near = difflib.get_close_matches(str(name), fields, n=1, cutoff=0.0)
        raise ValueError(f"unknown entry {name!r} in {what}: did you mean {near[0]!r}?")
    required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    if not partly and (lacking := [name for name in required if name not in entries]):
        raise ValueError(f"{what} lacks {', '.join(lacking)}")
    return dict(entries)


def check_size(name: str, value: Any) -> None:
    """Raise ValueError unless it is an integer from 1 to 2³¹ - 1."""
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError(f"{name} must be an integer of at least 1, not {repr(value)[:60]}")


def check_flag(name: str, value: Any) -> None:
    """Raise ValueError unless it is True or False."""
    if type(value) is not bool:
        raise ValueError(f"{name} must be true or false, not {repr(value)[:60]}")


def check_number(name: str, value: Any, low: float = 0.0, high: float = 1e30) -> None:
    """Raise ValueError unless low <= value < high; by default what float32 still computes with."""
    if type(value) not in (int, float) or not low <= value < high:
        raise ValueError(f"{name} must be a number of at least {low:g} and below {high:g}, not {repr(value)[:60]}")


def check_choice(name: str, value: Any, known: Any) -> None:
    """Raise ValueError unless it is one of the `known` names."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} is one of {', '.join(known)}, not {repr(value)[:60]}")
