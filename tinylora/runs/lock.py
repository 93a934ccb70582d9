"""Lock: at most one process writes to a run's folder."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import IO


class FolderError(ValueError):
    """A run's folder that cannot be used as asked: the message names it and says what to do."""


class Lock:
    """An exclusive lock on a file, held until `release` or until the process ends, however it ends.

    Raises FolderError if another process, or another run of this one, holds it. The file itself means nothing: one that a
    dead process left locks nobody out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            self._file = path.open("a+b")
            if not _locked(self._file):
                self._file.close()
                raise FolderError(f"{path.parent} is in use by another run{_owner(path)}: give another folder")
            if _is_at(self._file, path):
                break
            self._file.close()  # removed by its holder after it was opened here: a lock on it excludes nobody
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n".encode())
        self._file.flush()

    def release(self) -> None:
        """Remove the file and end the lock."""
        if os.name == "nt":  # Windows removes no open file
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._file.close()


def in_use(path: Path) -> bool:
    """Whether a living process holds the lock at `path`."""
    try:
        file = path.open("r+b")
    except OSError:
        return False
    with file:
        return not _locked(file)


def _locked(file: IO[bytes]) -> bool:
    """Lock a file, unless another holds a lock on it. True as well where the file system has no locks."""
    try:
        _lock(file)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True


def _owner(path: Path) -> str:
    with contextlib.suppress(OSError):
        if (found := path.read_text(errors="replace").strip()).isdigit():
            return f" (process {found})"
    return ""


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


try:
    import fcntl
except ImportError:  # Windows

    def _lock(file: IO[bytes]) -> None:
        """Raises OSError if it is locked."""
        import msvcrt

        file.seek(1 << 30)  # a byte beyond the content: others may read what is locked
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        file.seek(0)

else:

    def _lock(file: IO[bytes]) -> None:
        """Raises OSError if it is locked."""
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
