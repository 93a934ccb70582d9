"""Devices, dtypes, random numbers, and tensors without numbers."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora import backend, nn
from tinylora.backend.meta import MetaArray
from tinylora.testing.strategies import broadcastable, shapes


# ---------------------------------------------------------------------------------------------- devices
def test_devices_have_names_and_equal_their_names():
    d = tinylora.device("cpu")
    assert d == "cpu" and str(d) == "cpu" and repr(d) == "device(type='cpu')" and d == tinylora.device("cpu")
    assert tinylora.device("cuda:0") == "cuda" and hash(tinylora.device("cuda")) == hash(tinylora.device("cuda:0"))
    assert tinylora.ones(2).device == "cpu" and tinylora.ones(2, device="meta").device == "meta"
    with pytest.raises(RuntimeError, match="unknown device 'tpu': expected 'cpu', 'cuda' or 'meta'"):
        tinylora.device("tpu")


def test_a_device_is_the_default_inside_its_block_and_blocks_nest():
    with tinylora.device("meta"):
        assert tinylora.zeros(2).device == "meta"
        with tinylora.device("cpu"):
            assert tinylora.zeros(2).device == "cpu" and tinylora.arange(3).device == "cpu"
        assert tinylora.randn(2).device == "meta" and tinylora.arange(3).device == "meta"
    assert tinylora.zeros(2).device == "cpu"


def test_the_default_device_can_be_set_for_good_and_by_the_environment():
    ask = "print(tinylora.ones(2).device)"
    code = f"import tinylora; {ask}; tinylora.set_default_device('cpu'); {ask}"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"TINYLORA_DEVICE": "meta", "PYTHONPATH": "."}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["meta", "cpu"], done.stderr


def test_cuda_without_cupy_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r"pip install 'tinylora\[cuda13\]'"):
        tinylora.ones(2).to("cuda")


def cupy_that(getDeviceCount):
    """A CuPy that has no more than its question for a card."""
    runtime = SimpleNamespace(getDeviceCount=getDeviceCount, CUDARuntimeError=CUDAError)
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))


class CUDAError(RuntimeError):
    def __init__(self, status):
        super().__init__(f"cudaError {status}")
        self.status = status


PROBLEMS = {
    100: "there is no NVIDIA GPU",
    35: "driver is too old for this CuPy",
    999: "cudaError 999",
    None: "no NVIDIA GPU",
}


@pytest.mark.parametrize("status, line", PROBLEMS.items())
def test_cuda_without_a_card_or_with_an_old_driver_says_so_in_one_line(status, line, monkeypatch):
    def count():
        if status:
            raise CUDAError(status)
        return 0

    monkeypatch.setitem(sys.modules, "cupy", cupy_that(count))
    with pytest.raises(RuntimeError, match=line) as raised:
        tinylora.ones(2).to("cuda")
    assert "\n" not in str(raised.value) and "device 'cpu' can" in str(raised.value)


def test_out_of_gpu_memory_says_how_much_was_asked_for_and_what_to_try(monkeypatch):
    class OutOfMemoryError(MemoryError):
        pass

    class Pool:
        def malloc(self, size):
            if size > 10**9:
                raise OutOfMemoryError
            return size

        def free_bytes(self):
            return 10**9

    memory, runtime = (
        SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        SimpleNamespace(memGetInfo=lambda: (2 * 10**9, 80 * 10**9)),
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(memory=memory, runtime=runtime)))
    malloc = backend.allocator(Pool())
    assert malloc(512) == 512
    with pytest.raises(
        MemoryError, match=r"asked for 5\.000 GB, and 3\.000 of 80\.0 GB are free\. Try a smaller batch, bfloat16"
    ):
        malloc(5 * 10**9)


class OnTheGPU:
    """An array of another module, as far as `array_module` looks."""

    __cuda_array_interface__ = {"shape": ()}


def test_arrays_of_two_devices_do_not_mix(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=OnTheGPU))
    with pytest.raises(RuntimeError, match="one device, but found cpu and cuda"):
        backend.array_module(np.zeros(2), OnTheGPU())
    assert backend.array_module(OnTheGPU(), 2.0, None) is sys.modules["cupy"]
    assert backend.array_module(2.0, None) is np and backend.array_module(np.float32(1)) is np


def test_to_the_same_device_and_dtype_changes_nothing():
    x = tinylora.ones(2)
    assert x.to("cpu") is x and x.to(tinylora.float32) is x and x.cpu() is x and x.contiguous() is x
    assert x.to("cpu", tinylora.float64).dtype == tinylora.float64
    assert x.to(dtype=tinylora.float16, device="cpu").dtype == tinylora.float16


# --------------------------------------------------------------------------------------- random numbers
def test_random_bits_are_those_of_splitmix64():
    """The first outputs of SplitMix64 seeded with 1234567, as published with its reference code."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert backend.random_bits(np, (5,), 1234567).tolist() == published
    assert backend.random_bits(np, (2, 3), 5).shape == (2, 3) and backend.random_bits(np, (0,), 5).shape == (0,)


@given(st.integers(0, 2**63 - 1), st.integers(1, 50))
def test_any_part_of_a_mask_can_be_drawn_by_itself(key, n):
    bits = backend.random_bits(np, (n,), key)
    assert (backend.mix(np.arange(n // 2, n, dtype=np.uint64), key) == bits[n // 2 :]).all()


def test_weights_and_masks_draw_from_separate_streams():
    tinylora.manual_seed(0)
    a = tinylora.randn(3).tolist()
    tinylora.manual_seed(0)
    nn.functional.dropout(tinylora.ones(3))
    assert tinylora.randn(3).tolist() == a


def test_a_seed_gives_the_same_model_whatever_its_dtype_or_device_was_before():
    models = []
    for _ in range(2):
        tinylora.manual_seed(11)
        models.append(nn.Linear(4, 3).weight.tolist())
    assert models[0] == models[1]


# ------------------------------------------------------------------------------------------------- meta
def meta(shape, dtype="float32"):
    return tinylora.Tensor(MetaArray(shape, np.dtype(dtype)))


@given(broadcastable(2), st.sampled_from(["float32", "float64", "int64"]), st.sampled_from(["float32", "int32"]))
def test_meta_arithmetic_knows_shapes_and_dtypes(drawn, left, right):
    a, b = drawn
    x, y = tinylora.zeros(a, dtype=np.dtype(left)), tinylora.zeros(b, dtype=np.dtype(right))
    for f in (
        lambda p, q: p + q,
        lambda p, q: p * q - 1.5,
        lambda p, q: p / q,
        lambda p, q: (p + q).exp(),
        lambda p, q: p < q,
    ):
        real, thin = f(x, y), f(meta(a, left), meta(b, right))
        assert (thin.shape, thin.dtype, thin.device) == (real.shape, real.dtype, "meta")


@given(shapes(min_dims=1, min_side=1), st.data())
def test_meta_reductions_and_views_know_shapes(shape, data):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x, y = tinylora.ones(shape), meta(shape)
    for f in (lambda t: t.sum(dim), lambda t: t.mean(dim, keepdim=True), lambda t: t.sum(), lambda t: t.amax(dim),
              lambda t: t.softmax(dim), lambda t: t.var(dim, unbiased=False), lambda t: t.reshape(-1),
              lambda t: t.transpose(0, dim),
              lambda t: t.unsqueeze(0), lambda t: t.expand(2, *shape), lambda t: t[0]):  # fmt: skip
        assert f(y).shape == f(x).shape and f(y).dtype == f(x).dtype and f(y).device == "meta"


def test_meta_matrix_products_know_shapes_and_name_those_that_do_not_fit():
    assert (meta((5, 2, 3)) @ meta((3, 4))).shape == (5, 2, 4) and (meta((3,)) @ meta((3,))).shape == ()
    with pytest.raises(RuntimeError, match=r"\(2, 3\) and \(4, 5\)"):
        meta((2, 3)) @ meta((4, 5))


def test_meta_tensors_take_no_memory_and_hold_no_numbers():
    x = tinylora.zeros(100_000, 100_000, device="meta")
    assert x.array.nbytes == 4 * 10**10 and repr(x) == "tensor(..., size=(100000, 100000), device='meta')"
    refused = [lambda: x.to("cpu"), lambda: x.tolist(), lambda: x.sum().item(), lambda: bool(x.sum() > 0),
               lambda: tinylora.cat([x, x]), lambda: x.cumsum(0), lambda: x.sort()]  # fmt: skip
    for f in refused:
        with pytest.raises(RuntimeError, match="meta tensor of shape"):
            f()
    with pytest.raises(TypeError, match="meta"):
        x.numpy()


def test_gradients_flow_on_meta_as_shapes():
    w = tinylora.zeros(3, 4, device="meta", requires_grad=True)
    (tinylora.ones(2, 3, device="meta") @ w).sum().backward()
    assert w.grad.shape == (3, 4) and w.grad.device == "meta"
