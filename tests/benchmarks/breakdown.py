"""Where tinylora's time goes: a LoRA step by op, and the step's matrix products run alone, with nothing around them.

The products are those that the step cannot do without: every Linear forward, its input's gradient where one flows, and the
skinny ones of LoRA; attention's five, of which a causal mask leaves half. A tuned kernel may do more or fewer.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import ours

import tinylora
from tinylora.op import Op, this_thread

Product = tuple[str, int, int, int, int]  # what for, how many at once, and (M, K) @ (K, N)
REPEATS = 5


def measure(**sizes: Any) -> dict[str, Any]:
    """{"step": seconds, "ops": [name, calls, seconds], "products": [shape, times, multiplications, seconds in all]}"""
    step = ours.train_step(**sizes)
    step()
    found: Counter[Product] = Counter()
    outer = this_thread.run
    this_thread.run = functools.partial(_noting, found, outer)
    step()
    this_thread.run = outer
    with tinylora.profile() as p:
        step()
    ops = [
        [name if vjp is None else f"  {name}, {vjp}", count.calls, count.seconds]
        for name, op in sorted(p.ops.items(), key=lambda item: -_seconds(item[1]))
        for vjp, count in [(None, op), *op.vjps.items()]
        if count.calls
    ]
    products = [[_name(x), n, math.prod(x[1:]), n * _alone(x)] for x, n in found.items()]
    return {"step": p.seconds, "ops": ops, "products": sorted(products, key=lambda x: -x[-1])}


def _seconds(op: Any) -> float:
    return op.seconds + sum(vjp.seconds for vjp in op.vjps.values())


def _noting(found: Counter[Product], run: Callable[..., Any], op: Op, /, *inputs: Any, **options: Any) -> Any:
    """Run an op, and note its products: those of the way forward now, those of a vjp when that is called."""
    out, vjps = run(op, *inputs, **options)
    if op.name not in ("linear", "lora_linear", "lora_linears", "attention"):
        return out, vjps
    shapes = [getattr(x, "shape", ()) for x in inputs]
    products = _of_attention(*shapes[:2]) if op.name == "attention" else _of_linears(op.name, shapes)
    found.update(products[None])
    return out, tuple(vjp and _noted(found, products.get(i, []), vjp) for i, vjp in enumerate(vjps))


def _noted(found: Counter[Product], products: list[Product], vjp: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(vjp)
    def noted(*gradients: Any) -> Any:
        found.update(products)
        return vjp(*gradients)

    return noted


def _of_linears(name: str, shapes: list[tuple[int, ...]]) -> dict[int | None, list[Product]]:
    """By the number of the input whose gradient they are for; None: forward. The layers of `lora_linears` stand in a row."""
    if name != "lora_linears":
        return _of_linear(shapes, range(1, len(shapes)))
    products: dict[int | None, list[Product]] = {}
    for start in range(2, len(shapes), 4):
        for i, more in _of_linear([shapes[0], *shapes[start : start + 4]], range(start, start + 4)).items():
            products[i] = products.get(i, []) + more
    return products


def _of_linear(shapes: list[tuple[int, ...]], place: Sequence[int]) -> dict[int | None, list[Product]]:
    """`place` has the numbers of W, b, A and B among the inputs."""
    (*rows, d_in), (d_out, _) = shapes[:2]
    M = math.prod(rows)
    products: dict[int | None, list[Product]] = {
        None: [("forward", 1, M, d_in, d_out)], 0: [("d_x", 1, M, d_out, d_in)], place[0]: [("d_weight", 1, d_out, M, d_in)]
    }  # fmt: skip
    if len(shapes) > 3:
        r = shapes[3][1]
        products[None] += [("x A", 1, M, d_in, r), ("(x A) B", 1, M, r, d_out)]
        products[0] += [("(g Bᵀ) Aᵀ", 1, M, r, d_in)]
        products[place[2]] = [("g Bᵀ", 1, M, d_out, r), ("d_A", 1, d_in, M, r)]
        products[place[3]] = [("d_B", 1, r, M, d_out)]
    return products


def _of_attention(q: tuple[int, ...], k: tuple[int, ...]) -> dict[int | None, list[Product]]:
    (*batch, T, D), S = q, k[-2] // 2  # half the keys
    many = math.prod(batch)
    return {
        None: [("q kᵀ", many, T, D, S), ("P v", many, T, S, D)],
        0: [("g vᵀ", many, T, D, S), ("d_q", many, T, S, D)], 1: [("d_k", many, S, T, D)], 2: [("d_v", many, S, T, D)],
    }  # fmt: skip


def _alone(product: Product) -> float:
    """Median seconds of one product, output allocated beforehand."""
    _, many, M, K, N = product
    shape = (many,) if many > 1 else ()
    a, b, out = (np.ones((*shape, *size), np.float32) for size in ((M, K), (K, N), (M, N)))
    times = []
    for _ in range(REPEATS):
        started = perf_counter()
        np.matmul(a, b, out=out)
        times.append(perf_counter() - started)
    return median(times)


def _name(product: Product) -> str:
    what, many, M, K, N = product
    return f"{what}: {f'{many} × ' if many > 1 else ''}({M} × {K}) ({K} × {N})"
