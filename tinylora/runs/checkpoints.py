"""Checkpoints: the states of a run that it can go on from, as files in its folder.

A checkpoint is NUMBER.safetensors, with the arrays of a TrainState and its numbers as JSON in the metadata, and NUMBER.json,
which is written last and holds the payload's size and SHA-256: without it, or if they differ, there is no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinylora import backend
from tinylora.formats import LoadError, safetensors, strict_json

KEPT = 2


class Checkpoint(NamedTuple):
    """What `TrainState.state_dict` returned, and where it is."""

    arrays: dict[str, np.ndarray]
    numbers: dict[str, Any]
    path: Path


class Checkpoints:
    """The checkpoints in a folder. `save` keeps the two newest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __bool__(self) -> bool:
        return bool(self._markers())

    def save(self, arrays: dict[str, np.ndarray], numbers: dict[str, Any]) -> Path:
        """Write a checkpoint. Raises OSError that names the file, and then leaves the earlier ones as they are."""
        if not self.folder.is_dir():
            self.folder.mkdir()
            safetensors.sync_folder(self.folder.parent)
        payload = self.folder / f"{1 + max(map(_number, self._all()), default=0):06}.safetensors"
        half = sorted(name for name, array in arrays.items() if array.dtype == backend.bfloat16)
        ready = {name: array.view(np.uint16) if name in half else array for name, array in arrays.items()}
        safetensors.save(payload, ready, {"numbers": json.dumps(numbers), "bfloat16": json.dumps(half)})
        safetensors.write(payload.with_suffix(".json"), strict_json.text_of(_seal(payload)))
        kept = {marker.stem for marker in self._markers()[-KEPT:]}
        for file in self._all():  # a marker comes before its payload: one without the other is no checkpoint
            if file.stem not in kept:
                file.unlink()
        return payload

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest complete checkpoint, and a sentence on each newer one, which is damaged and now removed."""
        damaged: list[str] = []
        for marker in reversed(self._markers()):
            payload = marker.with_suffix(".safetensors")
            try:
                if strict_json.read(marker) != _seal(payload):
                    raise LoadError("its content is not what was written")
                arrays, metadata = safetensors.load(payload)
                for name in json.loads(metadata["bfloat16"]):
                    arrays[name] = arrays[name].view(backend.known(backend.bfloat16))
                return Checkpoint(arrays, json.loads(metadata["numbers"]), payload), damaged
            except (LoadError, OSError, KeyError) as error:
                damaged.append(f"{payload} is damaged ({error}): it is removed, and the one before is used")
                for file in (marker, payload):
                    file.unlink(missing_ok=True)
        return None, damaged

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("*.*") if p.stem.isdigit())

    def _markers(self) -> list[Path]:
        return [path for path in self._all() if path.suffix == ".json"]


def _number(path: Path) -> int:
    return int(path.stem)


def _seal(payload: Path) -> dict[str, Any]:
    with payload.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": payload.stat().st_size, "sha256": digest}
