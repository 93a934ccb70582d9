"""Where tinylora's time goes: a LoRA step by op, and the step's matrix products run alone, with nothing around them.

The products are those that the step cannot do without: every Linear forward, its input's gradient where one flows, and the
skinny ones of LoRA; attention's five, of which a causal mask leaves half. A tuned kernel may do more or fewer.
"""

from __future__ import annotations

import math
from collections import Counter
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import ours

import tinylora
from tinylora.tensor import watchers

Product = tuple[str, int, int, int, int]  # what for, how many at once, and (M, K) @ (K, N)
REPEATS = 5


def measure(**sizes: Any) -> dict[str, Any]:
    """{"step": seconds, "ops": [name, calls, seconds], "products": [shape, times, multiplications, seconds in all]}"""
    step = ours.train_step(**sizes)
    step()
    found: Counter[Product] = Counter()
    watchers.append(lambda *seen: _watch(found, *seen))
    step()
    watchers.pop()
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


def _watch(found: Counter[Product], op: Any, inputs: Any, options: Any, out: Any, edges: Any, started: float) -> Any:
    """A watcher of `tinylora.tensor`: note the products of one recorded op, forward and backward."""
    flows = {i for i, x in enumerate(inputs) if any(getattr(x, "node", None) is node for node, _ in edges)}
    shapes = [getattr(x, "shape", ()) for x in inputs]
    if op.name in ("linear", "lora_linear"):
        found.update(_of_linear(shapes, flows))
    if op.name == "attention":
        found.update(_of_attention(*shapes[:2], bool(flows)))
    return edges


def _of_linear(shapes: list[tuple[int, ...]], flows: set[int]) -> list[Product]:
    (*rows, d_in), (d_out, _) = shapes[:2]
    M = math.prod(rows)
    products = [("forward", 1, M, d_in, d_out)]
    if 0 in flows:
        products.append(("d_x", 1, M, d_out, d_in))
    if 1 in flows:
        products.append(("d_weight", 1, d_out, M, d_in))
    if {3, 4} & flows:
        r = shapes[3][1]
        products += [("x A", 1, M, d_in, r), ("g Bᵀ", 1, M, d_out, r)]
        products += [("(x A) B", 1, M, r, d_out), ("d_A", 1, d_in, M, r), ("d_B", 1, r, M, d_out)]
        products += [("(g Bᵀ) Aᵀ", 1, M, r, d_in)] * (0 in flows)
    return products


def _of_attention(q: tuple[int, ...], k: tuple[int, ...], flows: bool) -> list[Product]:
    (*batch, T, D), S = q, k[-2] // 2  # half the keys
    many = math.prod(batch)
    products = [("q kᵀ", many, T, D, S), ("P v", many, T, S, D)]
    if flows:
        products += [("g vᵀ", many, T, D, S), ("d_q", many, T, S, D), ("d_k", many, S, T, D), ("d_v", many, S, T, D)]
    return products


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
