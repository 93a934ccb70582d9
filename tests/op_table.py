"""One row per op: a strategy that draws the arrays and options of a call. Every test over all ops reads this table.

Arrays are float64, of all layouts, 0-d and zero-size ones among them. Elements keep away from kinks only where a
function has some; the comment on the row says which.
"""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinylora.testing.strategies import (
    arrays,
    broadcastable,
    lora_sizes,
    separated,
    shapes,
    uniform,
    within_two,
)

NO_REPEATS = ("contiguous", "transposed", "strided", "reversed")  # the layouts in which no element stands twice


class Call(NamedTuple):
    """What an op is called with."""

    inputs: tuple[Any, ...]
    options: dict[str, Any] = {}


# ------------------------------------------------------------------------------------------- elements
def off_integers(rng, shape):
    return rng.integers(-3, 3, shape) + rng.uniform(0.1, 0.9, shape)


def below_half(rng, shape):
    return rng.integers(-2, 2, shape) + rng.uniform(0.1, 0.4, shape)


def above_half(rng, shape):
    return rng.integers(-2, 2, shape) + rng.uniform(0.6, 0.9, shape)


def whole_and_a_half(rng, shape):
    return rng.choice([-2.5, -1.5, 1.5, 2.5], shape)


def numbers(low, high):
    return st.floats(low, high).map(lambda x: round(x, 3))


two = numbers(-2.0, 2.0)


# ------------------------------------------------------------------------------- element by element
def unary(elements=within_two):
    return arrays(shapes(), elements).map(lambda x: Call((x,)))


@st.composite
def binary(draw, first=within_two, second=within_two, left=two, right=two):
    """Two arrays that broadcast, or an array and a Python number on either side."""
    a, b = draw(broadcastable(2))
    x, y = draw(arrays(a, first)), draw(arrays(b, second))
    return draw(st.sampled_from([Call((x, y)), Call((x, y)), Call((draw(left), y)), Call((x, draw(right)))]))


@st.composite
def where(draw):
    c, a, b = draw(broadcastable(3))
    condition = draw(hnp.arrays(bool, c))
    x, y = draw(arrays(a)), draw(arrays(b))
    return draw(st.sampled_from([Call((condition, x, y)), Call((condition, x, -1.5)), Call((condition, 0.0, y))]))


@st.composite
def clamp(draw):
    low, high = draw(st.sampled_from([(-1.0, 1.0), (-np.inf, 1.0), (0.0, np.inf), (1.0, -1.0)]))
    return Call((draw(arrays(shapes(), off_integers)), low, high))


@st.composite
def dropout(draw):
    return Call((draw(arrays(shapes())), draw(st.sampled_from([0.1, 0.5, 1.0])), draw(st.integers(0, 2**63 - 1))))


@st.composite
def accumulate(draw):
    own, other = draw(broadcastable(2))
    return Call((draw(arrays(own)), draw(arrays(np.broadcast_shapes(own, other))), lambda g: 2 * g, own))


# ----------------------------------------------------------------------------------------- reductions
@st.composite
def reduction(draw, elements=within_two, layouts=(*NO_REPEATS, "broadcast"), min_side=0):
    x = draw(arrays(shapes(min_side=min_side), elements, layouts))
    axis = draw(st.none() | hnp.valid_tuple_axes(x.ndim, min_size=1) | st.integers(0, x.ndim - 1)) if x.ndim else None
    return Call((x,), {"axis": axis, "keepdims": draw(st.booleans())})


@st.composite
def deviation(draw, layouts=(*NO_REPEATS, "broadcast")):
    """A correction below the number of elements: with fewer, the answer is NaN."""
    call = draw(reduction(layouts=layouts))
    (x,), axis = call.inputs, call.options["axis"]
    n = x.size if axis is None else np.prod([x.shape[a] for a in np.atleast_1d(axis)])
    return Call((x,), {**call.options, "correction": draw(st.sampled_from([0.0, 0.5, 1.0] if n > 1 else [0.0, 0.5]))})


@st.composite
def along(draw, keepdims=False, **choices):
    """One axis of an array that has some."""
    x = draw(arrays(shapes(min_dims=1), **choices))
    options = {"keepdims": draw(st.booleans())} if keepdims else {}
    return Call((x,), {"axis": draw(st.integers(0, x.ndim - 1)), **options})


# ---------------------------------------------------------------------------------------------- shapes
@st.composite
def reshape(draw):
    x = draw(arrays(shapes()))
    return Call((x,), {"shape": draw(st.sampled_from([x.shape[::-1], (x.size,), (1, *x.shape), (*x.shape, 1, 1)]))})


@st.composite
def permute(draw):
    x = draw(arrays(shapes()))
    return Call((x,), {"axes": tuple(draw(st.permutations(range(x.ndim))))})


@st.composite
def expand(draw):
    own, other = draw(broadcastable(2))
    return Call((draw(arrays(own)),), {"shape": np.broadcast_shapes(own, other)})


@st.composite
def triangle(draw):
    return Call((draw(arrays(shapes(min_dims=2))),), {"diagonal": draw(st.integers(-3, 3))})


@st.composite
def cat(draw):
    shape = list(draw(shapes(min_dims=1)))
    axis = draw(st.integers(0, len(shape) - 1))
    sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    return Call(tuple(draw(arrays((*shape[:axis], n, *shape[axis + 1 :]))) for n in sizes), {"axis": axis})


@st.composite
def index_of(draw, shape, unique=False):
    """An index as the engine passes it on: integers, slices and None, or slices and integer arrays."""
    basic = hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=False)
    if not shape or draw(st.booleans()):
        index = draw(basic)
        return index if isinstance(index, tuple) else (index,)
    chosen = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    if unique:
        count = draw(st.integers(0, min(shape[a] for a in chosen)))
        picks = {a: np.array(draw(st.permutations(range(shape[a])))[:count], dtype=np.int64) for a in chosen}
    else:
        taken = draw(shapes(max_dims=2, max_side=3, min_dims=1, min_side=0 if 0 in shape else 1))
        taken = (0,) if 0 in [shape[a] for a in chosen] else taken
        size = int(np.prod(taken))
        drawn = {a: st.lists(st.integers(-shape[a], shape[a] - 1), min_size=size, max_size=size) for a in chosen if size}
        picks = {a: np.array(draw(drawn[a]) if size else [], dtype=np.int64).reshape(taken) for a in chosen}
    return tuple(picks.get(a, slice(None)) for a in range(len(shape)))


@st.composite
def getitem(draw):
    x = draw(arrays(shapes()))
    return Call((x,), {"index": draw(index_of(x.shape))})


@st.composite
def setitem(draw):
    x = draw(arrays(shapes()))
    index = draw(index_of(x.shape, unique=True))
    part = x[index].shape
    value = draw(arrays(st.sampled_from([part, (), part[1:]])) | two)
    return Call((x, value), {"index": index})


@st.composite
def gather(draw, source=False):
    x = draw(arrays(shapes(min_dims=1)))
    axis = draw(st.integers(0, x.ndim - 1))
    shape = tuple(draw(st.integers(0, (4 if n else 0) if a == axis else n)) for a, n in enumerate(x.shape))
    size = int(np.prod(shape))
    values = draw(st.lists(st.integers(0, x.shape[axis] - 1), min_size=size, max_size=size)) if size else []
    index = np.array(values, dtype=np.int64).reshape(shape)
    if not source:
        return Call((x, index), {"axis": axis})
    larger = tuple(n + draw(st.integers(0, 1)) for n in shape)
    return Call((x, index, draw(arrays(larger))), {"axis": axis})


@st.composite
def flip(draw):
    x = draw(arrays(shapes()))
    return Call((x,), {"axes": tuple(draw(st.sets(st.integers(0, x.ndim - 1)))) if x.ndim else ()})


@st.composite
def roll(draw):
    x = draw(arrays(shapes(min_dims=1)))
    axes = draw(st.lists(st.integers(0, x.ndim - 1), min_size=1, max_size=3))
    return Call((x,), {"shifts": tuple(draw(st.integers(-5, 5)) for _ in axes), "axes": tuple(axes)})


@st.composite
def pad(draw):
    """Negative widths cut at most the whole axis."""
    x = draw(arrays(shapes()))
    before = [draw(st.integers(-n, 3)) for n in x.shape]
    widths = tuple((a, draw(st.integers(-(n + min(a, 0)), 3))) for n, a in zip(x.shape, before, strict=True))
    return Call((x,), {"widths": widths, "value": draw(two)})


@st.composite
def diagonal(draw):
    x = draw(arrays(shapes(min_dims=2)))
    axes = draw(st.permutations(range(x.ndim)))[:2]
    return Call((x,), {"offset": draw(st.integers(-4, 4)), "axes": tuple(axes)})


@st.composite
def diag_embed(draw):
    x = draw(arrays(shapes(min_dims=1, max_dims=2)))
    axes = draw(st.permutations(range(x.ndim + 1)))[:2]
    return Call((x,), {"offset": draw(st.integers(-2, 2)), "axes": tuple(axes)})


@st.composite
def unfold(draw):
    x = draw(arrays(shapes(min_dims=1)))
    axis = draw(st.integers(0, x.ndim - 1))
    return Call((x,), {"axis": axis, "size": draw(st.integers(0, x.shape[axis])), "apart": draw(st.integers(1, 3))})


@st.composite
def scatter(draw):
    """Distinct places: of several sources for one place any may win."""
    x = draw(arrays(shapes(min_dims=1)))
    axis = draw(st.integers(0, x.ndim - 1))
    n = draw(st.integers(0, x.shape[axis]))
    order = np.random.default_rng(draw(st.integers(0, 9))).permuted(np.indices(x.shape)[axis], axis=axis)
    index = order[(slice(None),) * axis + (slice(n),)].astype(np.int64)
    larger = tuple(m + draw(st.integers(0, 1)) for m in index.shape)
    return Call((x, index, draw(arrays(larger) | arrays(()) | two)), {"axis": axis})


@st.composite
def scatter_reduce(draw):
    """All numbers different, so that none ties for the largest; not 0, by which the product's gradient divides."""
    (x, index, source), options = draw(gather(source=True))
    values = 0.5 + np.random.default_rng(draw(st.integers(0, 9))).permutation(x.size + source.size) / 10
    x, source = values[: x.size].reshape(x.shape), values[x.size :].reshape(source.shape)
    return Call((x, index, source), {**options, "reduce": draw(st.sampled_from(["amax", "amin", "prod"]))})


@st.composite
def norm(draw):
    call = draw(reduction(lambda rng, shape: rng.uniform(0.3, 2.0, shape) * rng.choice([-1, 1], shape), NO_REPEATS, 1))
    return Call(call.inputs, {**call.options, "p": draw(st.sampled_from([2.0, 1.0, 3.0, 0.5, -1.0, np.inf, -np.inf, 0.0]))})


@st.composite
def logsumexp(draw):
    x = draw(arrays(shapes(min_dims=1), uniform(-5.0, 5.0)))
    axis = draw(hnp.valid_tuple_axes(x.ndim, min_size=1) | st.integers(0, x.ndim - 1))
    return Call((x,), {"axis": axis, "keepdims": draw(st.booleans())})


def with_options(row, **choices):
    """A row with options, each one of several."""
    return st.tuples(row, st.fixed_dictionaries({k: st.sampled_from(v) for k, v in choices.items()})).map(
        lambda drawn: Call(drawn[0].inputs, drawn[1])
    )


# ------------------------------------------------------------------------------------------- products
@st.composite
def matmul(draw):
    drawn = hnp.mutually_broadcastable_shapes(signature="(m?,n),(n,p?)->(m?,p?)", max_dims=2, min_side=0, max_side=3)
    a, b = draw(drawn).input_shapes
    return Call((draw(arrays(a)), draw(arrays(b))))


EQUATIONS = ["ij->ji", "ij->", "i,i->", "i,j->ij", "ij,jk->ik", "bij,bjk->bik", "ij,ij->i", "ij,kj,k->i", ",ij->j",
             "abc,cb->a", "i,i,i->i", "bthd,bshd->bhts"]  # fmt: skip


@st.composite
def einsum(draw):
    left, output = draw(st.sampled_from(EQUATIONS)).split("->")
    inputs = tuple(left.split(","))
    size = {c: draw(st.integers(0, 3)) for c in sorted(set(left) - {","})}
    shapes_ = [tuple(draw(st.sampled_from([size[c], size[c], size[c], 1])) for c in s) for s in inputs]
    return Call(tuple(draw(arrays(shape)) for shape in shapes_), {"inputs": inputs, "output": output})


@st.composite
def linear(draw):
    d_in, d_out = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    x, weight = draw(arrays((*draw(shapes(max_dims=2)), d_in))), draw(arrays((d_out, d_in)))
    return Call((x, weight, draw(st.none() | arrays((d_out,)))))


@st.composite
def lora_linear(draw):
    d_in, d_out, r, alpha = draw(lora_sizes(5))
    x, weight = draw(arrays((*draw(shapes(max_dims=2)), d_in))), draw(arrays((d_out, d_in)))
    bias = draw(st.none() | arrays((d_out,)))
    return Call((x, weight, bias, draw(arrays((d_in, r))), draw(arrays((r, d_out))), alpha))


def dropout_lora_linear():
    dropped = st.tuples(st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 99))
    return st.tuples(lora_linear(), dropped).map(lambda drawn: Call((*drawn[0].inputs, *drawn[1])))


@st.composite
def lora_linears(draw):
    """Of layers that are alike, or each with a width, a rank, a bias and a scale of its own."""
    d_in, d_out, r, scale = draw(lora_sizes(4))
    x = draw(arrays((*draw(shapes(max_dims=2)), d_in)))
    bias, alike, scales, layers = draw(st.booleans()), draw(st.booleans()), [], []
    for _ in range(draw(st.integers(1, 3))):
        if not alike:
            d_out, r, scale, bias = draw(st.integers(0, 4)), draw(st.integers(1, 3)), draw(two), draw(st.booleans())
        scales.append(scale)
        layers += [part and draw(arrays(part)) for part in ((d_out, d_in), bias and (d_out,), (d_in, r), (r, d_out))]
    return Call((x, tuple(scales), *(layer if isinstance(layer, np.ndarray) else None for layer in layers)))


@st.composite
def quantized_linear(draw):
    d_in, d_out = draw(st.integers(1, 5)), draw(st.integers(0, 5))
    codes = np.random.default_rng(draw(st.integers(0, 9))).integers(-127, 128, (d_out, d_in)).astype(np.int8)
    scales = draw(arrays((d_out, 1), layouts=("contiguous",)))
    x, bias = draw(arrays((*draw(shapes(max_dims=2)), d_in))), draw(st.none() | arrays((d_out,)))
    return Call((x, bias, codes, scales), {"weight": _dequantize})


def _nf4(blocks):
    """Of a weight (blocks, 64)."""
    rng = np.random.default_rng(blocks)
    codes, scales = rng.integers(0, 256, 32 * blocks).astype(np.uint8), rng.integers(-127, 128, blocks).astype(np.int8)
    return Call((codes, scales, rng.random((-(-blocks // 256), 1)) / 127, np.array([1.5]), (blocks, 64)))


def _dequantize(xp, codes, scales):
    return codes * scales


@st.composite
def attention(draw):
    """With as many key heads as query heads or fewer, and masks of all kinds; rows that see no key among them."""
    B, H_kv, T, S, D = (draw(st.integers(0, n)) for n in (2, 2, 4, 4, 3))
    H = H_kv * draw(st.integers(1, 3))
    q, k, v = (draw(arrays((B, h, n, D))) for h, n in ((H, T), (H_kv, S), (H_kv, S)))
    options = {"causal": draw(st.booleans()), "p": draw(st.sampled_from([0.0, 0.3])), "key": draw(st.integers(0, 99))}
    shape = draw(st.sampled_from([(B, 1, 1, S), (B, 1, T, S), (B, H, T, S), (T, S), (S,)]))
    mask = draw(st.none() | hnp.arrays(bool, shape) | arrays(shape))
    if mask is not None and mask.dtype != bool:
        mask = np.where(draw(hnp.arrays(bool, shape)), mask, -np.inf)
    return Call((q, k, v), options if mask is None else {**options, "mask": mask})


@st.composite
def rope(draw):
    B, H, T, half = (draw(st.integers(0, n)) for n in (2, 3, 4, 3))
    table = draw(st.sampled_from([(T, half), (1, T, half), (B, 1, T, half), (1, half)]))
    return Call((draw(arrays((B, H, T, 2 * half))), draw(arrays(table)), draw(arrays(table))))


@st.composite
def rows_at(draw):
    B, T, C = (draw(st.integers(low, 3)) for low in (0, 1, 0))
    return Call((draw(arrays((B, T, C))), draw(hnp.arrays(np.int64, (B,), elements=st.integers(0, T - 1)))))


@st.composite
def attention_at(draw):
    B, T, H, D = (draw(st.integers(low, 3)) for low in (0, 1, 1, 1))
    G = draw(st.sampled_from([1, 2]))
    q, k, v = (draw(arrays(shape)) for shape in ((B, G * H, D), (B, H, T, D), (B, H, T, D)))
    last = draw(hnp.arrays(np.int64, (B,), elements=st.integers(0, T - 1)))
    return Call((q, k, v, last), {"p": draw(st.sampled_from([0.0, 0.3])), "key": draw(st.integers(0, 99))})


# ---------------------------------------------------------------------------------- embedding and losses
@st.composite
def embedding(draw):
    vocabulary, C = draw(st.integers(1, 5)), draw(st.integers(0, 3))
    ids = draw(hnp.arrays(np.int64, shapes(max_dims=2), elements=st.integers(0, vocabulary - 1)))
    return Call((draw(arrays((vocabulary, C))), ids))


@st.composite
def layer_norm(draw):
    """Rows that are not constant: divided by √ε alone, the last digits of those would be all there is to compare."""
    C = draw(st.integers(0, 5))
    x = draw(arrays((*draw(shapes(max_dims=2)), C), separated, NO_REPEATS))
    return Call((x, draw(st.just(1.0) | arrays((C,))), draw(st.just(0.0) | arrays((C,)))), {"eps": 1e-5})


@st.composite
def rms_norm(draw):
    """Rows that are not all 0, as for layer_norm."""
    C = draw(st.integers(0, 5))
    x = draw(arrays((*draw(shapes(max_dims=3)), C), uniform(0.3, 3.0)))
    return Call((x, draw(st.just(1.0) | arrays((C,)))), {"eps": 1e-5})


@st.composite
def swiglu(draw):
    gate, up = draw(st.sampled_from([broadcastable(2), shapes().map(lambda shape: (shape, shape))]).flatmap(lambda s: s))
    return Call((draw(arrays(gate, uniform(-5.0, 5.0))), draw(arrays(up))))


@st.composite
def linear_cross_entropy(draw):
    """One row at least that counts."""
    C, classes, N = draw(st.integers(0, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    target = draw(hnp.arrays(np.int64, (N,), elements=st.sampled_from([-100, *range(classes)])))
    target[draw(st.integers(0, N - 1))] = 0
    return Call((draw(arrays((N, C))), draw(arrays((classes, C))), target), {"d_x_too": draw(st.booleans())})


@st.composite
def cross_entropy(draw):
    """With "mean", one row at least that counts: the mean of none is NaN."""
    classes, reduction = draw(st.integers(1, 4)), draw(st.sampled_from(["mean", "sum", "none"]))
    N = draw(st.integers(1 if reduction == "mean" else 0, 4))
    target = draw(hnp.arrays(np.int64, (N,), elements=st.sampled_from([-100, *range(classes)])))
    if reduction == "mean":
        target[0] = 0
    weight = draw(st.none() | arrays((classes,), uniform(0.2, 2.0)))
    return Call((draw(arrays((N, classes), uniform(-5, 5))), target, weight), {"reduction": reduction})


positive = uniform(0.3, 3.0)


@st.composite
def adam(draw):
    sizes, some = draw(st.lists(shapes(), min_size=1, max_size=3)), (1, 0.1, 0.9, 0.99, 1e-8, 0.0)
    numbers = [draw(st.sampled_from([some, (7, 0.01, 0.5, 0.9, 1e-3, 0.2)])) for _ in sizes]
    inputs = [draw(arrays(size, elements)) for elements in (within_two,) * 3 + (positive,) for size in sizes]
    return Call(tuple(inputs), {"numbers": lambda: numbers, "apart": draw(st.booleans())})


@st.composite
def clip_norm(draw):
    sizes = draw(st.lists(shapes(), min_size=1, max_size=3))
    return Call(tuple(draw(arrays(size)) for size in sizes), {"max_norm": draw(st.sampled_from([0.1, 100.0]))})


ROWS: dict[str, st.SearchStrategy[Call]] = {
    "abs": unary(off_integers),  # kink at 0
    "accumulate": accumulate(),
    "acos": unary(uniform(-0.9, 0.9)),
    "acosh": unary(uniform(1.1, 3.0)),
    "adam": adam(),
    "add": binary(),
    "amax": reduction(separated, NO_REPEATS, min_side=1),  # kink at ties
    "amin": reduction(separated, NO_REPEATS, min_side=1),  # kink at ties
    "asin": unary(uniform(-0.9, 0.9)),
    "asinh": unary(),
    "atan": unary(),
    "atan2": binary(positive, positive, left=numbers(0.5, 2.0), right=numbers(0.5, 2.0)),
    "atanh": unary(uniform(-0.9, 0.9)),
    "attention": attention(),
    "attention_at": attention_at(),
    "ceil": unary(off_integers),  # steps at integers
    "cast": unary().map(lambda call: Call(call.inputs, {"dtype": np.dtype("float64")})),
    "cat": cat(),
    "clamp": clamp(),  # kinks at the limits, all integers
    "clip_norm": clip_norm(),
    "copysign": binary(off_integers, positive, left=numbers(0.5, 2.0), right=numbers(0.5, 2.0)),  # kink at 0
    "cos": unary(),
    "cosh": unary(),
    "cross_entropy": cross_entropy(),
    "cumprod": along(),
    "cumsum": along(),
    "diag_embed": diag_embed(),
    "diagonal": diagonal(),
    "div": binary(second=positive, right=numbers(0.5, 3.0)),
    "dropout": dropout(),
    "einsum": einsum(),
    "elu": with_options(unary(off_integers), alpha=[1.0, 0.7], scale=[1.0, 1.1], rate=[1.0, 0.6]),  # kink at 0
    "embedding": embedding(),
    "erf": unary(uniform(-8.0, 8.0)),
    "erfc": unary(uniform(-3.0, 6.0)),
    "erfinv": unary(uniform(-0.9, 0.9)),
    "exp": unary(),
    "exp2": unary(),
    "expand": expand(),
    "expm1": unary(),
    "flip": flip(),
    "fmod": binary(below_half, whole_and_a_half, left=two, right=st.just(2.0)),  # jumps
    "floor": unary(off_integers),  # steps at integers
    "gather": gather(),
    "gelu": unary(uniform(-5.0, 5.0)),
    "getitem": getitem(),
    "hardtanh": with_options(unary(off_integers), low=[-1.0, -2.0], high=[1.0, 0.0]),  # kinks at the limits, all integers
    "hypot": binary(positive, positive, left=numbers(0.5, 2.0), right=numbers(0.5, 2.0)),
    "layer_norm": layer_norm(),
    "leaky_relu": with_options(unary(off_integers), slope=[0.01, 0.3, -0.5]),  # kink at 0
    "linear": linear(),
    "linear_cross_entropy": linear_cross_entropy(),
    "log": unary(positive),
    "log10": unary(positive),
    "log1p": unary(positive),
    "log2": unary(positive),
    "log_softmax": along(elements=uniform(-5.0, 5.0)),
    "logaddexp": binary(),
    "logcumsumexp": along(elements=uniform(-5.0, 5.0)),
    "logsumexp": logsumexp(),
    "dropout_lora_linear": dropout_lora_linear(),
    "lora_linear": lora_linear(),
    "lora_linears": lora_linears(),
    "matmul": matmul(),
    "maximum": binary(below_half, above_half, left=st.just(0.5), right=st.just(0.5)),  # kink where equal
    "mean": reduction(),
    "minimum": binary(below_half, above_half, left=st.just(0.5), right=st.just(0.5)),  # kink where equal
    "mish": unary(uniform(-5.0, 5.0)),
    "move": unary().map(lambda call: Call(call.inputs, {"device": "cpu"})),
    "mul": binary(),
    "neg": unary(),
    "norm": norm(),  # kinks at 0 and at ties
    "pad": pad(),
    "permute": permute(),
    "pow": binary(positive, left=numbers(0.5, 2.0), right=st.sampled_from([2.0, 3.0, 0.5, -1.0, 0.0, 1.0])),
    "prod": along(keepdims=True),
    "nf4_weight": st.integers(1, 3).map(lambda blocks: _nf4(blocks)),
    "quantized_linear": quantized_linear(),
    "quotient": with_options(binary(below_half, whole_and_a_half, left=two, right=st.just(2.0)), towards_zero=[True, False]),
    "relu": unary(off_integers),  # kink at 0
    "remainder": binary(second=positive, right=numbers(0.5, 3.0)),
    "reshape": reshape(),
    "rms_norm": rms_norm(),
    "roll": roll(),
    "rope": rope(),
    "round": unary(below_half),  # steps between integers
    "rows_at": rows_at(),
    "rsqrt": unary(positive),
    "scatter": scatter(),
    "scatter_add": gather(source=True),
    "scatter_reduce": scatter_reduce(),
    "setitem": setitem(),
    "sigmoid": unary(uniform(-5.0, 5.0)),
    "sign": unary(off_integers),  # a step at 0
    "silu": unary(uniform(-5.0, 5.0)),
    "sin": unary(),
    "sinh": unary(),
    "softmax": along(elements=uniform(-5.0, 5.0)),
    "softplus": with_options(unary(uniform(-5.0, 5.0)), beta=[1.0, 2.0], threshold=[20.0]),
    "sqrt": unary(positive),
    "std": deviation(NO_REPEATS),  # no derivative where all elements are equal
    "sub": binary(),
    "sum": reduction(),
    "swiglu": swiglu(),
    "tan": unary(uniform(-1.2, 1.2)),
    "tanh": unary(),
    "tril": triangle(),
    "triu": triangle(),
    "trunc": unary(off_integers),  # jumps
    "unfold": unfold(),
    "var": deviation(),
    "where": where(),
}

# ------------------------------------------------------------------------- calls that fill several blocks of a kernel
_rng = np.random.default_rng(0)
_x = _rng.standard_normal


def _heads(T: int, S: int, p: float = 0.1, heads: int = 3, **options: Any) -> Call:
    arrays = _x((2, heads, T, 16)), _x((2, 3, S, 16)), _x((2, 3, S, 16))
    return Call(arrays, {"causal": True, "p": p, "key": 5, **options})


def _angles(T: int, half: int) -> tuple[Any, Any]:
    angles = np.arange(T)[:, None] * 0.9 ** np.arange(half)
    return np.cos(angles), np.sin(angles)


def _targets(n: int, classes: int, ignored: int) -> Any:
    return np.where(np.arange(n) % 7 < ignored, -100, _rng.integers(0, classes, n))


def _lora(d_in: int, d_out: int, r: int) -> Call:
    return Call((_x((4, 130, d_in)), _x((d_out, d_in)), _x(d_out), _x((d_in, r)), _x((r, d_out)), 8.0))


def _loras(n: int, d_in: int, d_outs: tuple[int, ...], r: int) -> Call:
    layers = [x for d_out in d_outs for x in (_x((d_out, d_in)), _x(d_out), _x((d_in, r)), _x((r, d_out)))]
    return Call((_x((4, n, d_in)), tuple(2.0 - i for i in range(len(d_outs))), *layers))


def _at(T: int, C: int, heads: int, p: float) -> Call:
    D = C // heads
    arrays = _x((4, heads, D)), _x((4, heads, T, D)), _x((4, heads, T, D)), np.array([0, T - 1, T // 2, T // 3])
    return Call(arrays, {"p": p, "key": 5})


def _step(*sizes: tuple[int, ...]) -> Call:
    """Of Adam."""
    inputs = [*(_x(size) for _ in range(3) for size in sizes), *(_x(size) ** 2 for size in sizes)]
    return Call(tuple(inputs), {"numbers": lambda: [(3, 0.1, 0.9, 0.99, 1e-8, 0.1)] * len(sizes), "apart": True})


LARGE: dict[str, list[Call]] = {
    "adam": [_step((300, 200), (7,), (0, 3)), _step((5000,), (64, 48))],
    "clip_norm": [Call((_x((300, 200)), _x(7), _x((0, 3))), {"max_norm": 1.0})],
    "accumulate": [Call((_x((30, 20)), _x((4, 30, 20)), lambda g: -g, (30, 20)))],
    "attention": [
        _heads(150, 150),
        _heads(1, 40),
        _heads(300, 300),
        _heads(300, 300, p=0.0),
        _heads(70, 70, heads=9),
        _heads(1, 40, heads=9),
        _heads(1, 1, p=0.0),
        _heads(1, 1500, 0.0, heads=9),
        _heads(290, 300, heads=6),
        _heads(300, 300, 0.0, heads=9),
        _heads(70, 90, heads=6, causal=False, mask=np.arange(90) > _rng.integers(0, 95, (2, 1, 1, 1))),
        _heads(70, 90, heads=6, p=0.0, mask=_rng.random((2, 1, 70, 90)) < 0.5),
    ],
    "attention_at": [_at(300, 64, 4, 0.0), _at(70, 192, 3, 0.2), _at(5, 24, 3, 0.0)],
    "cross_entropy": [Call((_x((300, 500)), _rng.integers(0, 500, 300), None), {})],
    "dropout": [Call((_x((130, 257)), 0.1, 7))],
    "embedding": [Call((_x((500, 40)), _rng.integers(0, 500, (20, 70))))],
    "gelu": [Call((4 * _x((130, 257)),))],
    "layer_norm": [Call((_x((8, 130, n)), _x(n), _x(n)), {"eps": 1e-5}) for n in (65, 264)],
    "linear": [Call((_x((4, 130, 65)), _x((129, 65)), _x(129)))],
    "linear_cross_entropy": [
        Call((_x((300, 40)), _x((500, 40)), _targets(300, 500, ignored)), {"d_x_too": d_x})
        for ignored in (0, 3)
        for d_x in (0, 1)
    ],
    "log_softmax": [Call((_x((300, 200)),), {"axis": -1})],
    "dropout_lora_linear": [
        Call((*_lora(*sizes).inputs, p, 7)) for p in (0.1, 0.5) for sizes in ((64, 64, 8), (48, 144, 16), (144, 48, 16))
    ],
    "lora_linear": [_lora(65, 129, 4), _lora(64, 64, 8), _lora(48, 144, 16), _lora(144, 48, 16)],
    "lora_linears": [
        _loras(130, 48, (64, 64, 64), 8),
        _loras(9, 64, (64, 64, 64), 16),
        _loras(130, 40, (32, 32), 8),
        _loras(130, 64, (72, 24, 24), 8),
        _loras(3, 64, (200, 40), 8),
    ],
    "matmul": [
        Call((_x((4, 130, 65)), _x((65, 129)))),
        Call((_x((130, 65)), _x((3, 65, 129)))),
        Call((_x((300, 200)), _x((200, 100)))),
        Call((_x((2, 5, 130, 16)), _x((2, 5, 130, 16)).swapaxes(-1, -2))),
        Call((_x((7, 1, 90, 65)), _x((1, 3, 65, 64)))),
    ],
    "nf4_weight": [_nf4(300)],
    "quantized_linear": [
        Call(
            (_x((3, 130, 65)), bias, _rng.integers(-127, 128, (129, 65)).astype(np.int8), _x((129, 1))),
            {"weight": _dequantize},
        )
        for bias in (None, _x(129))
    ],
    "rms_norm": [Call((_x((8, 130, n)), _x(n)), {"eps": 1e-5}) for n in (65, 264)],
    "rope": [
        Call((_x((3, 130, 5, 64)).transpose(0, 2, 1, 3), *_angles(130, 32))),
        Call((_x((2, 3, 1, 16)), *_angles(1, 8))),
    ],
    "rows_at": [Call((_x((4, 33, 40)), np.array([0, 32, 7, 7])))],
    "pow": [Call((_x((30, 20)), 2)), Call((_x((30, 20)), 3.0))],
    "softmax": [Call((_x((300, 200)),), {"axis": -1})],
    "sum": [Call((_x((30, 20)),))],
    "swiglu": [Call((4 * _x((3, 130, n)), _x((3, 130, n)))) for n in (257, 264)],
}
