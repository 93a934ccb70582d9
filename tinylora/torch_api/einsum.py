"""einsum: parses the equation, with diagonals and '...', and calls `ops.linalg.einsum`."""

from __future__ import annotations

import string
from typing import Any

from tinylora import ops
from tinylora.backend import array_module
from tinylora.tensor import Tensor, record
from tinylora.torch_api.promote import promote


def einsum(equation: str, *operands: Any) -> Tensor:
    """Sums of products by index letters (Einstein's convention), '...' included.

    >>> import tinylora
    >>> tinylora.einsum("ij,kj->ik", tinylora.ones(2, 3), tinylora.ones(4, 3)).shape
    (2, 4)
    """
    tensors = list(operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands)
    unused = "".join(c for c in string.ascii_letters if c not in equation)
    inputs, output = _letters(equation.replace(" ", ""), [x.array.ndim for x in tensors], unused)
    spare = iter(c for c in unused if c not in "".join(inputs))
    for i, letters in enumerate(inputs):
        for c in dict.fromkeys(letters):
            while inputs[i].count(c) > 1:  # a diagonal: "ii" becomes "ij" times the identity "ij"
                at, new = inputs[i].rindex(c), next(spare)
                inputs[i] = inputs[i][:at] + new + inputs[i][at + 1 :]
                x = tensors[i]
                tensors.append(Tensor(array_module(x.array).eye(x.shape[at], dtype=x.dtype)))
                inputs.append(c + new)
    try:
        return record(ops.einsum, *promote(*tensors), inputs=tuple(inputs), output=output)
    except ValueError:
        shapes = [x.shape for x in tensors]
        raise RuntimeError(f"einsum: {equation!r} does not fit the shapes {shapes}") from None


def _letters(equation: str, ndims: list[int], dots: str) -> tuple[list[str], str]:
    """The letters of each input and of the output, with '...' spelled out in the letters `dots`."""
    left, arrow, output = equation.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(ndims):
        raise RuntimeError(f"einsum: {equation!r} names {len(inputs)} operands, {len(ndims)} were given")
    broadcast = [n - len(s.replace("...", "")) if "..." in s else 0 for s, n in zip(inputs, ndims, strict=True)]
    most = max(broadcast)
    inputs = [s.replace("...", dots[most - n : most]) for s, n in zip(inputs, broadcast, strict=True)]
    for letters, ndim in zip(inputs, ndims, strict=True):
        if len(letters) != ndim:
            raise RuntimeError(f"einsum: {equation!r} gives {len(letters)} letters to a tensor of {ndim} dimensions")
    if not arrow:
        single = [c for c in sorted(set(left) - set(".,")) if left.count(c) == 1]
        return inputs, dots[:most] + "".join(single)
    output = output.replace("...", dots[:most])
    unknown = set(output) - set("".join(inputs))
    if unknown or len(set(output)) < len(output):
        raise RuntimeError(f"einsum: the output of {equation!r} names a letter twice, or one that no operand has")
    return inputs, output
