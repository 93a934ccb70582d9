"""torch.random: seeds, and the state of all generators as a tensor of bytes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinylora.backend import default_generator as default_generator
from tinylora.backend import initial_seed as initial_seed
from tinylora.backend import manual_seed as manual_seed
from tinylora.backend import random_state, set_random_state
from tinylora.tensor import Tensor


def seed() -> int:
    """Seed all random numbers with a number from the operating system, which is returned."""
    return default_generator.seed()


def get_rng_state() -> Tensor:
    """The state of all generators, for `set_rng_state`.

    >>> import tinylora
    >>> state = tinylora.get_rng_state()
    >>> first = tinylora.rand(3)
    >>> tinylora.set_rng_state(state)
    >>> tinylora.equal(first, tinylora.rand(3))
    True
    """
    return Tensor(np.frombuffer(json.dumps(random_state()).encode(), np.uint8).copy())


def set_rng_state(new_state: Tensor) -> None:
    """Go on with the random numbers that followed when `get_rng_state` was called."""
    try:
        set_random_state(json.loads(bytes(new_state.numpy())))
    except ValueError:
        raise ValueError("set_rng_state takes what get_rng_state returned") from None


@contextlib.contextmanager
def fork_rng(*_: Any, **__: Any) -> Iterator[None]:
    """After this block random numbers go on as if it had drawn none."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
