"""PyTorch as the oracle: the same line of code, run by both libraries, has to give the same numbers and gradients."""

import numpy as np
import pytest

import tinylora

torch = pytest.importorskip("torch", reason="these tests compare with PyTorch: pip install torch")

TOLERANCES = {"float16": 2e-3, "float32": 2e-6, "float64": 1e-12}  # relative to 1 + the largest number


def leaves(library, inputs, grad=True):
    """The inputs as tensors of one library, floating-point ones as leaves that require grad; numbers as they are."""
    found = []
    for x in inputs:
        if isinstance(x, np.ndarray):
            is_leaf = grad and x.dtype.kind == "f"
            x = tinylora.Tensor(x) if library is tinylora else torch.tensor(x.copy(order="C"))
            x = x.requires_grad_() if is_leaf else x
        found.append(x)
    return found


def outputs(y):
    return list(y) if isinstance(y, tuple | list) else [y]


def array(x):
    """A tensor of either library, or a number, as a NumPy array."""
    return x.detach().numpy() if hasattr(x, "detach") else np.asarray(x)


def dtype_name(x):
    return str(getattr(x, "dtype", type(x).__name__)).removeprefix("torch.")


def assert_close(ours, theirs, tolerance, what):
    assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, PyTorch {theirs.shape}"
    scale = 1 + np.abs(np.where(np.isfinite(theirs), theirs, 0)).max(initial=0)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale, err_msg=what)


def agree(f, *inputs, tolerance=None, grad=True):
    """Run `f(library, *tensors)` with tinylora and PyTorch: same outputs, dtypes, and gradients for the same `g`."""
    ours, theirs = leaves(tinylora, inputs, grad), leaves(torch, inputs, grad)
    y, expected = outputs(f(tinylora, *ours)), outputs(f(torch, *theirs))
    assert len(y) == len(expected)
    rng = np.random.default_rng(0)
    near = 1e-12
    for a, b in zip(y, expected, strict=True):
        assert dtype_name(a) == dtype_name(b), f"dtype {dtype_name(a)}, PyTorch {dtype_name(b)}"
        near = max(near, TOLERANCES.get(dtype_name(b), 1e-12))
        assert_close(array(a), array(b), tolerance or near, "output")
        assert getattr(a, "requires_grad", False) == getattr(b, "requires_grad", False)
        if getattr(b, "requires_grad", False):
            g = np.asarray(rng.standard_normal(b.shape)).astype(array(b).dtype)
            a.backward(tinylora.Tensor(g), retain_graph=True)
            b.backward(torch.tensor(g), retain_graph=True)
    for i, (x, e) in enumerate(zip(ours, theirs, strict=True)):
        if getattr(e, "requires_grad", False):
            d = np.zeros(e.shape) if x.grad is None else x.grad.array
            expected_d = np.zeros(e.shape) if e.grad is None else e.grad.numpy()
            assert_close(d, expected_d, 10 * (tolerance or near), f"gradient of input {i}")


def both_raise(f, *inputs):
    """Both libraries raise, and ours an error of PyTorch's kind. Returns our message."""
    with pytest.raises((RuntimeError, IndexError, ValueError, TypeError)) as theirs:
        f(torch, *leaves(torch, inputs))
    kind = next(k for k in (IndexError, ValueError, TypeError, RuntimeError) if issubclass(theirs.type, k))
    with pytest.raises(kind) as ours:
        f(tinylora, *leaves(tinylora, inputs))
    return str(ours.value)
