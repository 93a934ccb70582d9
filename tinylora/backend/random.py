"""Random numbers: a generator for weights, and dropout masks computed from keys, identical on every device."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from tinylora.backend.arrays import Array, default_device, device, float32, float64, known, to_device
from tinylora.backend.meta import MetaArray


class _Random:
    """The state behind `manual_seed`: one generator for weights, one for dropout keys.

    They are made at their first use: numpy.random is a fifth of what `import tinylora` would take.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @functools.cached_property
    def weights(self) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64(self.seed))

    @functools.cached_property
    def dropout(self) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64(self.seed))


def _new_seed() -> int:
    return int.from_bytes(os.urandom(8), "little") >> 1


_random = _Random(_new_seed())


class Generator:
    """A source of random numbers of its own, seeded by itself: `randn(3, generator=Generator().manual_seed(0))`.

    >>> import tinylora
    >>> a, b = (tinylora.rand(4, generator=tinylora.Generator().manual_seed(7)) for _ in range(2))
    >>> tinylora.equal(a, b)
    True
    """

    def __init__(self, device: str | device = "cpu") -> None:
        self.device = device
        self.seed()

    def manual_seed(self, seed: int) -> Generator:
        self._random = _Random(int(seed) % 2**64)
        return self

    def seed(self) -> int:
        """Seed it with a number from the operating system, which is returned."""
        self._random = _Random(_new_seed())
        return self._random.seed

    def initial_seed(self) -> int:
        """The number that it was last seeded with."""
        return self._random.seed

    @property
    def numbers(self) -> np.random.Generator:
        """NumPy's generator, which draws the numbers."""
        return self._random.weights


def manual_seed(seed: int) -> Generator:
    """Seed all random numbers. Weights are drawn on the CPU, so that a seed gives the same model on every device."""
    global _random
    _random = _Random(int(seed) % 2**64)
    return default_generator


def initial_seed() -> int:
    """The number that `manual_seed` was last given, or the one that was drawn when the program began."""
    return _random.seed


class _Default(Generator):
    """The generator that `manual_seed` seeds."""

    def __init__(self) -> None:
        self.device = "cpu"

    def manual_seed(self, seed: int) -> Generator:
        return manual_seed(seed)

    def seed(self) -> int:
        manual_seed(_new_seed())
        return _random.seed

    def initial_seed(self) -> int:
        return _random.seed

    @property
    def numbers(self) -> np.random.Generator:
        return _random.weights


default_generator = _Default()


def random_state() -> dict[str, Any]:
    """The state of all generators as JSON values, for `set_random_state`."""
    return {"seed": _random.seed} | {name: _words(getattr(_random, name)) for name in ("weights", "dropout")}


def set_random_state(saved: dict[str, Any]) -> None:
    """Go on with the random numbers that followed when `random_state` was called."""
    global _random
    _random = _Random(saved["seed"])
    for name in ("weights", "dropout"):
        generator = getattr(_random, name)
        state = generator.bit_generator.state
        words, state["has_uint32"], state["uinteger"] = saved[name]
        state["state"]["state"] = np.array(words, np.uint64)
        generator.bit_generator.state = state


def _words(generator: np.random.Generator) -> list[Any]:
    state: Any = generator.bit_generator.state
    return [state["state"]["state"].tolist(), state["has_uint32"], state["uinteger"]]


def random(
    kind: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    where: str | device | None = None,
    low: float = 0.0,
    high: float = 1.0,
    generator: Generator | None = None,
) -> Array:
    """Random numbers of `kind` "normal" (mean 0, variance 1) or "uniform" (in [low, high))."""
    there = device(where) if where is not None else default_device()
    if there == "meta":
        return MetaArray(shape, dtype)
    dtype = known(dtype)
    source = (generator or default_generator).numbers
    draw: Any = source.standard_normal if kind == "normal" else source.random
    wide = draw(shape, dtype=dtype if dtype in (float32, float64) else float32)
    if kind == "uniform" and (low, high) != (0.0, 1.0):
        wide *= high - low  # in place: GPT-2's output layer alone is 154 MB
        wide += low
    return to_device(wide.astype(dtype, copy=False), there)


def random_integers(
    low: int, high: int, shape: tuple[int, ...], where: str | device | None = None, generator: Generator | None = None
) -> Array:
    """Integers, uniform in [low, high)."""
    there = device(where) if where is not None else default_device()
    return to_device((generator or default_generator).numbers.integers(low, high, shape), there)


def next_key() -> Any:
    """A new 64-bit key for one dropout mask: from the seed, or inside a `keys_from` block from its source."""
    if not _keys.sources:
        return int(_random.dropout.integers(2**63))
    source = _keys.sources.pop()  # a source that calls next_key() gets a key from the enclosing source
    try:
        return source()
    finally:
        _keys.sources.append(source)


class _Keys(threading.local):
    """Where the current thread's dropout keys come from, the innermost last."""

    def __init__(self) -> None:
        self.sources: list[Callable[[], Any]] = []


_keys = _Keys()


@contextlib.contextmanager
def keys_from(source: Callable[[], Any]) -> Iterator[None]:
    """Inside this block this thread's dropout keys are what `source()` returns: recorded keys, or arrays on the GPU."""
    _keys.sources.append(source)
    try:
        yield
    finally:
        _keys.sources.pop()


def random_bits(xp: ModuleType, shape: tuple[int, ...], key: Any) -> Array:
    """64 random bits per element, a function of `key` and position alone, the same on every device."""
    return mix(xp.arange(math.prod(shape), dtype=np.uint64), key).reshape(shape)


def mix(positions: Array, key: Any) -> Array:
    """The random bits of `key` at the given uint64 positions, so that any part of a mask can be computed separately.

    SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014):
    z = mix(key + (i + 1) · golden) for position i.
    """
    z = (positions + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z += key if hasattr(key, "dtype") else np.uint64(key)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z
