"""Reads and writes safetensors files: named arrays, no code. The header is checked before the file is mapped.

Every failure to read is a LoadError that names the file. Writing replaces a file atomically.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from tinylora.formats import LoadError, MissingFileError
from tinylora.formats.header import Entry, read_header

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U8": "u1", "BOOL": "?",
}  # fmt: skip
TEMPORARY = ".tinylora-part"  # the end of the name of a file that is being written
SLAB = 1 << 20  # elements copied at a time, to keep little of the map in memory


class Mapped:
    """A safetensors file, memory-mapped: names and shapes when opened, arrays on demand.

    Raises LoadError if it is invalid, or has the name of a pickle and not `any_name`; MissingFileError if there is none.
    """

    def __init__(self, path: str | Path, any_name: bool = False) -> None:
        self.path = path = Path(path)
        if not any_name:
            refuse_pickle(path)
        if not path.is_file():
            raise MissingFileError(f"{path}: no such file")
        try:
            with path.open("rb") as file:
                self.entries, self.metadata = read_header(file.read, os.fstat(file.fileno()).st_size)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (LoadError, OSError) as error:
            raise LoadError(f"{path}: not a readable safetensors file ({error})") from None

    def array(self, name: str) -> np.ndarray:
        """A copy of the array of that name, with the dtype that it has in the file; BF16 becomes float32, bit for bit."""
        dtype = self.entries[name].dtype
        return self._copy(self.entries[name], np.dtype("f4" if dtype == "BF16" else DTYPES[dtype]))

    def floats(self, name: str) -> np.ndarray:
        """A copy in float32. Raises LoadError for integers, and if a number is NaN or infinite, here or in float32."""
        if self.entries[name].dtype not in ("F64", "F32", "F16", "BF16"):
            raise LoadError(f"{self.path}: {name} has the dtype {self.entries[name].dtype}, and weights are floating point")
        out = self._copy(self.entries[name], np.dtype("f4"))
        flat = out.reshape(-1)
        if not all(np.isfinite(flat[i : i + SLAB]).all() for i in range(0, flat.size, SLAB)):
            raise LoadError(f"{self.path}: NaN or infinity in {name}")
        return out

    def stored(self, name: str) -> memoryview:
        """The bytes of an array, as a view of the map."""
        return memoryview(self._map)[self.entries[name].begin : self.entries[name].end]

    def _copy(self, entry: Entry, dtype: np.dtype) -> np.ndarray:
        kind = np.dtype(DTYPES[entry.dtype])
        out = np.empty(entry.shape, dtype)
        flat = out.reshape(-1)
        for i in range(0, out.size, SLAB):
            part = np.frombuffer(self._map, kind, min(SLAB, out.size - i), entry.begin + i * kind.itemsize)
            with np.errstate(over="ignore"):
                flat[i : i + SLAB] = widened(part) if entry.dtype == "BF16" else part
            self.forget()
        return out

    def forget(self) -> None:
        """Release the pages read so far; they are read from disk again when needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def widened(bits: np.ndarray) -> np.ndarray:
    """bfloat16, given as uint16, in float32: a bfloat16 is the upper half of a float32.

    >>> import numpy as np
    >>> widened(np.array([0x3FC0], np.uint16))
    array([1.5], dtype=float32)
    """
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def refuse_pickle(path: Path) -> None:
    """Raise LoadError if `path` has the name of a pickle, without opening it."""
    if path.suffix.lower() in PICKLES:
        raise LoadError(f"{path}: refused, since unpickling runs code; convert it to .safetensors where it was made")


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file by name, and its metadata."""
    file = Mapped(path)
    return {name: file.array(name) for name in file.entries}, file.metadata


def save(path: str | Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write arrays and metadata to `path`."""
    with atomic(path) as temporary:
        ready = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        try:
            safetensors.numpy.save_file(ready, temporary, metadata)
        except safetensors.SafetensorError as error:
            raise _os_error(str(error), path) from None


def _os_error(text: str, path: str | Path) -> OSError:
    """The failure that safetensors describes in a text which ends in "(os error 28)", as Python's own."""
    found = re.search(r"os error (\d+)", text)
    return (
        OSError(int(found[1]), os.strerror(int(found[1])), str(path)) if found else OSError(f"{path}: not written ({text})")
    )


def write(path: str | Path, content: bytes | str) -> None:
    """Write a file atomically: after a crash it is the old one or the whole new one."""
    with atomic(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path`, which is synced and renamed to it if the block succeeds; then the folder is synced.

    Raises OSError that names `path`, not the temporary file.
    """
    path = Path(path)
    temporary: Path | None = None
    start = f".{path.name}."
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=start, suffix=TEMPORARY)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and Path(error.filename or start).name.startswith(start):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power failure, where the system can (POSIX)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse it for folders
        pass
    finally:
        os.close(handle)


def remove_temporary(folder: Path) -> None:
    """Remove what writers that were killed left in a folder."""
    for left in folder.glob(f".*{TEMPORARY}"):
        left.unlink(missing_ok=True)
