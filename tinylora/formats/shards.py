"""Reads and writes a folder's weights: `model.safetensors`, or shards with `model.safetensors.index.json`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from tinylora.formats import LoadError, MissingFileError, safetensors, strict_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Weights:
    """Every array of a folder by name, memory-mapped. Raises LoadError if a file is missing, broken or a pickle."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if (self.folder / SINGLE).is_file() or not (self.folder / INDEX).is_file():
            self.files = {name: file for file in [self._single()] for name in file.entries}
        else:
            self.files = self._sharded()

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: file.entries[name].shape for name, file in self.files.items()}

    def floats(self, name: str) -> np.ndarray:
        """A copy of one array in float32. Raises LoadError if it holds integers, NaN or infinity."""
        return self.files[name].floats(name)

    def same(self, one: str, other: str) -> bool:
        """Whether two arrays hold the same bytes."""
        a, b = self.files[one], self.files[other]
        equal = a.stored(one) == b.stored(other)
        a.forget()
        b.forget()
        return equal

    def _single(self) -> safetensors.Mapped:
        if not (self.folder / SINGLE).is_file():
            for pickle in sorted(p for p in self.folder.glob("*") if p.suffix in safetensors.PICKLES):
                safetensors.refuse_pickle(pickle)
        return safetensors.Mapped(self.folder / SINGLE)

    def _sharded(self) -> dict[str, safetensors.Mapped]:
        where = self.folder / INDEX
        weight_map = strict_json.read(where).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise LoadError(f"{where}: it has no weight_map")
        shards = {name: self._shard(name, where) for name in dict.fromkeys(map(str, weight_map.values()))}
        held = [name for shard in shards.values() for name in shard.entries]
        if sorted(held) != sorted(weight_map) or any(n not in shards[weight_map[n]].entries for n in weight_map):
            odd = sorted(set(held) ^ weight_map.keys())[:4]
            raise LoadError(f"{where}: the shards hold something else than it says: {', '.join(odd) or 'names elsewhere'}")
        return {name: shards[file] for name, file in weight_map.items()}

    def _shard(self, name: str, where: Path) -> safetensors.Mapped:
        if Path(name).name != name or "\\" in name or not name.isprintable() or name in ("", ".", ".."):
            raise LoadError(f"{where}: {name!r} is no file of this folder")
        if not (self.folder / name).is_file():
            safetensors.refuse_pickle(self.folder / name)
            raise MissingFileError(f"{where}: names {name}, which is not there")
        return safetensors.Mapped(self.folder / name)


def save(folder: Path, arrays: dict[str, np.ndarray], max_bytes: int) -> None:
    """Write arrays into `folder`: one file, or as many shards of at most `max_bytes` as it takes, their index last."""
    groups: list[dict[str, np.ndarray]] = [{}]
    for name, array in arrays.items():
        if groups[-1] and sum(a.nbytes for a in groups[-1].values()) + array.nbytes > max_bytes:
            groups.append({})
        groups[-1][name] = array
    metadata = {"format": "pt"}  # required by transformers
    if len(groups) == 1:
        safetensors.save(folder / SINGLE, arrays, metadata)
        (folder / INDEX).unlink(missing_ok=True)  # left from an earlier model in the folder
        return
    names = [f"model-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)]
    for name, group in zip(names, groups, strict=True):
        safetensors.save(folder / name, group, metadata)
    index: dict[str, Any] = {"metadata": {"total_size": sum(a.nbytes for a in arrays.values())}}
    index["weight_map"] = {key: name for name, group in zip(names, groups, strict=True) for key in group}
    safetensors.write(folder / INDEX, strict_json.text_of(index))
    (folder / SINGLE).unlink(missing_ok=True)
