"""Loads decoders from GGUF files: translates metadata to config.json's entries, and tensor names to Hugging Face's.

For the architecture "llama", llama.cpp stores the two rows of each rotary pair next to each other in query and key. Here and
in Hugging Face's files a pair is features i and i + D / 2, so the rows are reordered.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinylora.formats import LoadError
from tinylora.formats.gguf import GGUF
from tinylora.models.config import ModelConfig
from tinylora.models.names import FAMILIES, Family, Row, rows_of

TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "padding_token_id": "pad_token_id"}


@dataclass(frozen=True)
class GGUFTable:
    """How a family is stored in GGUF files.

    architectures: GGUF's name -> Hugging Face's model_type. interleaved: architectures whose rotary pairs are stored next to
    each other. entries: key without its "ARCHITECTURE." prefix -> name in config.json. `complete(file, config)` adds entries
    that need several keys, and raises ValueError for values that are not supported. Any other key warns, unless it is in
    `without_effect`.
    """

    architectures: Mapping[str, str]
    entries: Mapping[str, str]
    interleaved: tuple[str, ...] = ()
    without_effect: tuple[str, ...] = ()
    complete: Any = field(default=lambda file, config: config)


def read_config(file: GGUF) -> tuple[Family, ModelConfig]:
    """The family and the configuration of a GGUF file. Raises LoadError that names the entry that is missing or wrong."""
    where, name = str(file.path), file.metadata.get("general.architecture")
    known = {arch: family for family in FAMILIES if family.gguf for arch in family.gguf.architectures}
    if name not in known:
        raise LoadError(f"{where}: general.architecture is {str(name)[:60]!r}; known are {', '.join(known)}")
    family, prefix = known[name], f"{name}."
    table = family.gguf
    assert table is not None  # `known` holds families with a GGUF table only
    config: dict[str, Any] = {"model_type": table.architectures[name]}
    try:
        for key, theirs in table.entries.items():
            if prefix + key in file.metadata:
                config[theirs] = _plain(file.metadata[prefix + key])
                family.config.check(prefix + key, theirs, config[theirs])
        for key, theirs in TOKENS.items():
            config[theirs] = _plain(file.metadata.get(f"tokenizer.ggml.{key}"))
        config = table.complete(file, config)
    except ValueError as error:
        raise LoadError(f"{where}: {error}") from None
    odd = [key for key in file.metadata if key.startswith(prefix) and key.removeprefix(prefix) not in table.entries]
    if odd := [key for key in odd if key.removeprefix(prefix) not in table.without_effect]:
        warnings.warn(f"{where}: unknown and ignored: {', '.join(sorted(odd))}", stacklevel=3)
    return family, family.config.read(config, where)


def _plain(value: Any) -> Any:
    """The shortest decimal with this float32 value, since GGUF stores 1e-5 in float32."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


class GGUFWeights:
    """The tensors of a GGUF file by Hugging Face's names, in Hugging Face's order of rows; see `pretrained.Weights`."""

    def __init__(self, file: GGUF, family: Family, cfg: Any) -> None:
        self.file, self.cfg = file, cfg
        interleaved = file.metadata["general.architecture"] in family.gguf.interleaved  # type: ignore[union-attr]  # checked
        head = Row(family.heads()[0], "out_head", gguf="output")
        self._rows: dict[str, tuple[str, bool]] = {}  # Hugging Face's name -> (tensor, interleaved)
        for row in (*rows_of(family, cfg.n_layers), head):
            for leaf in ("weight", "bias"):
                if f"{row.gguf}.{leaf}" in file.shapes:
                    self._rows[f"{row.theirs}.{leaf}"] = f"{row.gguf}.{leaf}", interleaved and row.rotary
        known = {tensor for tensor, _ in self._rows.values()} | {"rope_freqs.weight"}
        self._rows |= {tensor: (tensor, False) for tensor in file.shapes.keys() - known}

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self.file.shapes[tensor] for name, (tensor, _) in self._rows.items()}

    def floats(self, name: str) -> np.ndarray:
        """A copy in float32. Raises LoadError if a number is NaN or infinite."""
        tensor, interleaved = self._rows[name]
        found = self.file.floats(tensor)
        return in_halves(found, self.cfg.head_dim) if interleaved else found

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""
        return np.array_equal(self.floats(one), self.floats(other))


def in_halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Reorder rows (H D, ..) from 0 0' 1 1' .. (pairs interleaved) to 0 1 .. 0' 1' .. (halves) in each head.

    >>> in_halves(np.array([0, 10, 1, 11]), 4).tolist()
    [0, 1, 10, 11]
    """
    return rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
