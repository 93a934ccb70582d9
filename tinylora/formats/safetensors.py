"""Named arrays in a file, by the `safetensors` library: no code in it, nothing to unpickle.

Every failure to read is a ValueError (or FileNotFoundError) that names the file. A file is written whole or not at all.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file by name, and its metadata."""
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise ValueError(f"{path}: refused, since unpickling runs code; convert it to .safetensors where it was made")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = file.keys()  # the handle is no mapping: it cannot be iterated over itself
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (safetensors.SafetensorError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None


def save(path: str | Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write arrays and metadata to `path`."""
    ready = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write(path, safetensors.numpy.save(ready, metadata))


def write(path: str | Path, content: bytes | str) -> None:
    """Write a file so that it is either the old one or all of the new one, whatever happens in between."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
