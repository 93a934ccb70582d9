"""Products at indices. CuPy has no multiply.at, so they are computed by NumPy."""

from __future__ import annotations

import numpy as np

from tinylora import ops
from tinylora.backend import to_device


@ops.scatter_reduce.tune("cupy")
def scatter_reduce(xp, x, index, source, axis, reduce):
    """The definition, on the CPU, for reduce="prod"."""
    if reduce != "prod":
        return NotImplemented
    here = [to_device(part, "cpu") for part in (x, index, source)]
    y, (d_x, _, d_source) = ops.scatter_reduce.definition(np, *here, axis, reduce)

    def back(vjp):
        return lambda g: xp.asarray(vjp(to_device(g, "cpu")))

    return xp.asarray(y), (back(d_x), None, back(d_source))
