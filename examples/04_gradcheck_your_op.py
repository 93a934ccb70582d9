"""Write an op, check its gradient, tune it, check again, and see what a wrong gradient is told.

The op is RMS norm (Zhang & Sennrich 2019): each row is divided by the root of the mean of its squares, then weighted.
"""

import tinylora as torch
from tinylora.op import op
from tinylora.tensor import record
from tinylora.testing import gradcheck


@op
def rms_norm(xp, x, weight, eps):
    """y = n w,  n = x / √(mean x² + ε) over the last axis.

    dL/dx = (h - n · mean(h n)) / √(mean x² + ε),  h = g w      dL/dw = Σ g n
    """
    inverse = 1 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    n = x * inverse

    def d_x(g):
        h = g * weight
        return inverse * (h - n * (h * n).mean(axis=-1, keepdims=True))

    def d_weight(g):
        return g * n  # of x's shape; the engine sums it down to the weight's

    return n * weight, (d_x, d_weight)


torch.manual_seed(0)
x = torch.randn(2, 4, dtype=torch.float64).requires_grad_()
w = torch.randn(4, dtype=torch.float64).requires_grad_()

y = record(rms_norm, x, w, eps=1e-6)  # from arrays to Tensors; functional.py adds dtype rules and messages
y.sum().backward()
print("y    ", "  ".join(f"{value:+.4f}" for value in y[0].tolist()))
print("dL/dx", "  ".join(f"{value:+.4f}" for value in x.grad[0].tolist()))
assert gradcheck(rms_norm, [x, w], eps=1e-6)
print("the definition passes gradcheck\n")


@rms_norm.tune("numpy", "cupy")
def rms_norm_of_rows(xp, x, weight, eps):
    """The same for matrices, with fewer arrays: sums of products are taken without storing the products."""
    if x.ndim != 2:
        return NotImplemented  # the definition takes it
    inverse = 1 / xp.sqrt(xp.einsum("nc,nc->n", x, x) * (1 / x.shape[1]) + eps)[:, None]
    n = x * inverse

    def d_x(g):
        d = g * weight
        d -= n * (xp.einsum("nc,nc->n", d, n) * (1 / x.shape[1]))[:, None]  # d is an array of our own; g is not
        d *= inverse
        return d

    def d_weight(g):
        return xp.einsum("nc,nc->c", g, n)

    return n * weight, (d_x, d_weight)


with torch.no_grad():
    assert torch.allclose(record(rms_norm, x, w, eps=1e-6), y, atol=1e-12)  # tuned now, and equal to the definition
assert gradcheck(rms_norm, [x, w], eps=1e-6)
assert gradcheck(rms_norm, [x.detach()[None].requires_grad_(), w], eps=1e-6)  # (1, 2, 4) is declined: the definition
print("the tuned version agrees, and passes too\n")


@op
def wrong_rms_norm(xp, x, weight, eps):
    """The usual mistake: the root depends on x as well, and d_x forgets it."""
    inverse = 1 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    return x * inverse * weight, (lambda g: g * weight * inverse, lambda g: g * x * inverse)


try:
    gradcheck(wrong_rms_norm, [x, w], eps=1e-6)
except AssertionError as error:
    print(f"and this is what a wrong gradient gets:\n{error}")
else:
    raise AssertionError("gradcheck let a wrong gradient through")
