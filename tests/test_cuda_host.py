"""What the CUDA side does on the host, which needs no card: layouts, blocks, live numbers, dtypes, refusals."""

import contextlib
import itertools
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora import backend, nn, ops, optim
from tinylora.kernels.cuda import arena, blocks, compile, gemm, grouped, many
from tinylora.kernels.cuda.live import Slots, fixed, live, recording
from tinylora.kernels.cuda.sums import accumulate_inside, adds_inside
from tinylora.lora import freeze
from tinylora.nn import functional as F
from tinylora.op import Op
from tinylora.tensor import accumulate, record


class OnTheCard(np.ndarray):
    """A NumPy array that is filled as a CuPy array is."""

    def set(self, array):
        self[...] = array


class Module:
    """As much of CuPy as `live` asks for."""

    asarray = staticmethod(np.asarray)

    @staticmethod
    def empty(size, dtype):
        return np.empty(size, dtype).view(OnTheCard)


# ------------------------------------------------------------------------------------------ products
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.booleans(), st.integers(1, 2), st.booleans())
def test_a_matrix_is_told_to_cublas_by_its_order_and_its_width(rows, columns, room, by_columns, step, batch):
    memory = np.arange(2 * (rows + room) * (columns + room) * step, dtype=np.float32).reshape(2, rows + room, -1)
    x = memory[:, :rows, : columns * step : step] if batch else memory[0, :rows, : columns * step : step]
    x = x.swapaxes(-1, -2) if by_columns else x
    told = gemm._matrix(x.shape, x.strides, x.dtype)
    if told is None:  # it has to be put in order first
        assert step > 1
        x = np.ascontiguousarray(x)
        told = gemm._matrix(x.shape, x.strides, x.dtype)
    assert (told.down, told.across) == (x.shape[-2:][::-1] if told.turned else x.shape[-2:])
    assert told.batch == (len(x) if batch else 1) and told.width >= told.across
    memory = np.lib.stride_tricks.as_strided(x, (told.batch, told.down, told.across), (4 * told.step, 4 * told.width, 4))
    assert np.array_equal(memory.swapaxes(1, 2) if told.turned else memory, x.reshape(told.batch, *x.shape[-2:]))


def test_precision_has_two_names():
    assert tinylora.get_float32_matmul_precision() == "highest"
    with pytest.raises(ValueError, match="'highest' or 'high', not 'medium'"):
        tinylora.set_float32_matmul_precision("medium")


def test_every_kernel_is_in_its_source():
    for path in Path(compile.__file__).parent.glob("*.py"):
        for room, name in re.findall(r'kernel\("(\w+)", "(\w+)"', path.read_text()):
            assert f'extern "C" __global__ void {name}(' in path.with_name(f"{room}.cu").read_text(), f"{path.name}: {name}"


@given(st.integers(1, 9), st.integers(1, 700), st.integers(0, 300), st.booleans())
def test_blocks_of_attention_cover_every_query_once(heads, T, more, causal):
    S = T + more
    seen = np.zeros((heads, T), int)
    for h, rows, n in blocks._blocks(heads, T, S, causal):
        seen[h, rows] += 1
        assert n == (S - T + rows.stop if causal else S)
    assert (seen == 1).all()


# -------------------------------------------------------------------------------------- live numbers
def test_live_numbers_are_computed_now_or_before_each_replay_in_the_order_of_asking():
    counter = iter(range(100))
    assert live(Module, lambda: next(counter), (), np.int64) == 0
    slots = Slots(Module)
    with recording(slots):
        a = live(Module, lambda: next(counter), (), np.uint64)
        table = fixed(Module, [[1, 2], [3, 4]], np.int64)
        b = live(Module, lambda: [next(counter), 0.5], (2,), np.float64)
    assert next(counter) == 1  # recording computed nothing
    for first in (2, 4):
        slots.refresh()
        assert (int(a), b.tolist(), table.tolist()) == (first, [first + 1, 0.5], [[1, 2], [3, 4]])
    with recording(slots), pytest.raises(RuntimeError, match="has room for"):
        fixed(Module, np.zeros(2**20), np.float64)


def test_keys_come_from_the_innermost_source_and_it_may_ask_the_one_outside():
    tinylora.manual_seed(1)
    first = backend.next_key()
    tinylora.manual_seed(1)
    seen = []

    def noted():
        seen.append(backend.next_key())
        return seen[-1]

    with backend.keys_from(noted):
        assert backend.next_key() == first == seen[0]
        with backend.keys_from(lambda: backend.next_key() + 1):
            assert backend.next_key() == seen[-1] + 1
    x = tinylora.ones(200)
    with backend.keys_from(lambda: 7):
        masks = [F.dropout(x, 0.5).tolist() for _ in range(2)]
    assert masks[0] == masks[1]


def test_adam_of_many_declines_what_is_not_on_a_card():
    w = np.ones(3, np.float32)
    assert many.adam(np, w, w, w, w, numbers=lambda: [(1, 0.1, 0.9, 0.99, 1e-8, 0.0)], apart=True) is NotImplemented
    assert many.clip_norm(np, w, max_norm=1.0) is NotImplemented


def test_coefficients_of_adam_are_those_of_its_definition():
    apart, added = (many._coefficients(3, 0.1, 0.9, 0.99, 1e-8, 0.2, apart=apart) for apart in (True, False))
    assert apart == [0.1 / (1 - 0.9**3), 1 / (1 - 0.99**3), 1 - 0.1 * 0.2, 0.0, 1e-8, 0.9, 0.99]
    assert added[2:4] == [1.0, 0.2]


# ------------------------------------------------------------------------------- gradients that meet
@pytest.mark.parametrize("counted", [False, True])
def test_a_vjp_that_adds_inside_is_handed_what_came_before(counted, monkeypatch):
    """Whichever of two ways back is walked first, the sum is the same, and neither gradient is written into."""
    monkeypatch.setitem(accumulate.tuned, "numpy", [accumulate_inside])
    handed = []

    def doubled(xp, x):
        @adds_inside
        def d_x(g, so_far=None):
            handed.append(so_far)
            return 2 * g if so_far is None else so_far + 2 * g

        return 2 * x, (d_x,)

    twice = Op(doubled)
    for turn in (lambda a, b: a + b, lambda a, b: b + a):
        x = tinylora.tensor([1.0, 2.0], requires_grad=True)
        with tinylora.profile() if counted else contextlib.nullcontext() as p:
            h = x * 3.0
            turn(record(twice, h), h * h).sum().backward()
        assert x.grad.tolist() == [3 * (2 + 2 * 3.0), 3 * (2 + 2 * 6.0)]
        assert not counted or p.ops["doubled"].vjps["d_x"].calls == 1
    assert sorted(g is None for g in handed) == [False, True]


# ------------------------------------------------------------------------------------ what is refused
def test_a_step_with_sgd_or_without_a_card_cannot_be_captured(monkeypatch):
    w = tinylora.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="SGD cannot be captured: use Adam or AdamW"):
        tinylora.cuda.capture(lambda: None, optim.SGD([w]))
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match="needs CuPy"):
        tinylora.cuda.capture(lambda: None, optim.AdamW([w]))
    assert not tinylora.cuda.can_capture(w.device)


def test_bfloat16_is_for_what_is_frozen():
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    freeze(model[0])
    model.to(tinylora.bfloat16)
    assert [p.dtype for p in model.parameters()] == [tinylora.bfloat16] * 2 + [np.float32] * 2
    x = tinylora.tensor([[1.0, 2.0, 3.0, 4.0]])
    y = model(x)
    assert y.dtype == np.float32
    y.sum().backward()
    assert model[1].weight.grad.dtype == np.float32
    assert F.softmax(x.to(tinylora.bfloat16)).dtype == tinylora.bfloat16
    assert tinylora.result_type(x, x.to(tinylora.bfloat16)) == np.float32


def test_bfloat16_without_ml_dtypes_says_what_installs_it(monkeypatch):
    monkeypatch.setattr(backend, "bfloat16", np.dtype("V2"))
    for use in (nn.Linear(2, 2).to, tinylora.ones(2).to):
        with pytest.raises(RuntimeError, match=r"bfloat16 needs the package ml_dtypes: pip install ml_dtypes"):
            use(backend.bfloat16)


@given(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_query_heads_that_share_keys_attend_in_turn(B, Hkv, G, T, causal):
    """By the version for as many heads of both: here the CPU's."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((B, heads, T, 3)) for heads in (G * Hkv, Hkv, Hkv))
    found = grouped.attention(np, q, k, v, causal=causal)
    assert (found is NotImplemented) == (G == 1)
    if G > 1:
        y, vjps = ops.attention.definition(np, q, k, v, causal=causal)
        g = rng.standard_normal(y.shape)
        np.testing.assert_allclose(found[0], y, atol=1e-12)
        for ours, vjp in zip(found[1], vjps, strict=True):
            np.testing.assert_allclose(ours(g), vjp(g), atol=1e-12)


# ---------------------------------------------------------------------------------- memory of a captured step
lives = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 40), st.integers(1, 20)), max_size=30).map(
    lambda drawn: [arena.Life(size, born, born + length) for size, born, length in drawn]
)


@given(lives)
def test_planned_blocks_that_are_in_use_at_once_do_not_overlap(lives):
    offsets, size = arena.plan(lives)
    most = max((sum(a.size for a in lives if a.born <= t < a.died) for t in range(61)), default=0)
    assert most <= size <= sum(-(-a.size // arena.ALIGNMENT) * arena.ALIGNMENT for a in lives)
    for i, (a, start) in enumerate(zip(lives, offsets, strict=True)):
        assert start % arena.ALIGNMENT == 0 and start + a.size <= size
        for b, other in zip(lives[:i], offsets[:i], strict=True):
            apart = start + a.size <= other or other + b.size <= start
            assert apart or a.died <= b.born or b.died <= a.born


def test_blocks_that_follow_each_other_share_their_place():
    assert arena.plan([arena.Life(1024, 1, 2), arena.Life(1024, 3, 4), arena.Life(512, 1, 9)]) == ([0, 0, 1024], 1536)


class Pointer:
    """As much of CuPy's MemoryPointer as the arena asks for."""

    device_id = 0

    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset

    def __add__(self, offset):
        return Pointer(self.mem, self.ptr - self.mem.ptr + offset)


class Piece:
    def __init__(self, ptr, size, owner=None, device_id=0):
        self.ptr, self.size, self.owner = ptr, size, owner


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), max_size=40), st.sets(st.integers(0, 39)))
def test_a_captured_step_allocates_as_the_first_one_did_but_for_what_that_allocated_once(drawn, once):
    """Blocks of some sizes, each released some allocations later; those in `once` are allocated in the first step alone."""
    cupy = SimpleNamespace(cuda=SimpleNamespace(MemoryPointer=Pointer, UnownedMemory=Piece))
    once = {i for i in once if i % 3 == 0}

    def step(malloc, left_out):
        held = {}
        for i, (size, time) in enumerate(drawn):
            if i not in left_out:
                held[i] = malloc(1024 * size), i + time
            for j in [j for j, (_, last) in held.items() if last <= i]:
                del held[j]
            yield [block for block, _ in held.values()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", cupy)
        recorder = arena.Recorder(lambda size: Pointer(Piece(0, size), 0))
        for _ in step(recorder.malloc, ()):
            pass
        offsets, size = arena.plan(recorder.lives())
        elsewhere = iter(range(10**9, 10**12, 10**6))
        memory = arena.Arena(
            recorder.lives(), offsets, Pointer(Piece(0, size), 0), lambda n: Pointer(Piece(next(elsewhere), n), 0)
        )
        for live in step(memory.malloc, once):
            places = sorted((block.ptr, block.mem.size) for block in live)
            assert all(start + n <= other for (start, n), (other, _) in itertools.pairwise(places))
            assert once or all(start + n <= size for start, n in places)
