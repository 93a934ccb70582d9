"""A thread pool that shares the work of one op.

NumPy releases the interpreter's lock inside ufuncs and matrix products, so plain Python threads run in parallel. For matrix
products every thread calls BLAS on its own part, with BLAS limited to one thread. BLAS's own threads would compete with
ours: after a product OpenBLAS's threads spin for some milliseconds, and occupy the cores that ours need.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

Setter = Callable[[int], Any]


def _openblas() -> tuple[Callable[[], int], Setter] | None:
    """The functions that read and set how many threads NumPy's OpenBLAS uses; None if NumPy has another BLAS."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]  # not in its stubs
        for name in ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads"):
            with contextlib.suppress(AttributeError):  # a wheel's OpenBLAS has a prefix and 64-bit integers
                return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None


_blas = _openblas()
BLAS_IS_OURS = _blas is not None  # without them, large products are left to BLAS and its own threads


class _Threads:
    """The number of threads, and the pool of those beside the calling thread."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pool = ThreadPoolExecutor(max(count - 1, 1), "tinylora", initializer=lambda: np.seterr(all="ignore"))


def _available() -> int:
    """OPENBLAS_NUM_THREADS or OMP_NUM_THREADS, else the number of cores this process may use."""
    if _blas is not None:
        return _blas[0]()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_threads = _Threads(_available())


def set_num_threads(count: int) -> None:
    """Let ops on the CPU, and OpenBLAS, use `count` threads.

    The default is OPENBLAS_NUM_THREADS or OMP_NUM_THREADS, else one per core.
    """
    global _threads
    if type(count) is not int or count < 1:
        raise ValueError(f"set_num_threads needs a whole number of at least 1, not {count!r}")
    _threads = _Threads(count)
    with _lock:
        if _holding[0]:
            _holding[1] = count
        elif _blas is not None:
            _blas[1](count)


def get_num_threads() -> int:
    """The number of threads that ops on the CPU use.

    >>> import tinylora
    >>> tinylora.get_num_threads() >= 1
    True
    """
    return _threads.count


def spread(work: Callable[[Any], None], pieces: Iterable[Any]) -> None:
    """Call `work` on every piece, on all threads, and return when all are done. An exception in one is raised here.

    The calling thread works too; a worker that has not started when no piece is left is cancelled.
    """
    pieces, job = list(pieces), [work]
    left = iter(pieces)  # shared iterator: each piece goes to the next free thread

    def run() -> None:
        for piece in left:
            job[0](piece)

    with _one_blas_thread():
        helpers: list[Future[None]] = []
        try:
            with contextlib.suppress(RuntimeError):  # no new threads: interpreter shutdown, or the system's limit
                helpers.extend(_threads.pool.submit(run) for _ in range(min(_threads.count, len(pieces)) - 1))
            run()
        finally:
            started = [helper for helper in helpers if not helper.cancel()]
            errors = [helper.exception() for helper in started]
            job.clear()  # cancelled calls stay in the pool's queue, and must not keep arrays alive
    for error in filter(None, errors):
        raise error


def parts(length: int, least: int = 1) -> Iterator[slice]:
    """Split range(length) into one slice per thread, or fewer if slices would be shorter than `least`."""
    count = max(1, min(get_num_threads(), length // max(least, 1)))
    edges = [length * i // count for i in range(count + 1)]
    return itertools.starmap(slice, itertools.pairwise(edges))


# -------------------------------------------------------------------------------------- holding BLAS back
_lock = threading.Lock()
_holding = [0, 0]  # the number of running calls of `spread`, and BLAS's thread count before the first


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread, process-wide, inside this block."""
    if _blas is None:
        yield
        return
    get, set_ = _blas
    with _lock:
        if _holding[0] == 0:
            _holding[1] = get()
            set_(1)
        _holding[0] += 1
    try:
        yield
    finally:
        with _lock:
            _holding[0] -= 1
            if _holding[0] == 0:
                set_(_holding[1])


def _after_fork() -> None:
    """Reset after a fork: the child has none of the threads, and must not wait for their locks."""
    global _lock, _threads
    _lock, _threads = threading.Lock(), _Threads(_threads.count)
    if _blas is not None and _holding[0]:
        _blas[1](_holding[1])
    _holding[0] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
