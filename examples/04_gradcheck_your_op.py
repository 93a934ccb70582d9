"""Write an op, check its gradient, tune it, check again, and see what a wrong gradient is told.

The op is the cosine of the angle between two vectors, for each pair of rows: the usual likeness of two embeddings.
"""

import tinylora as torch
from tinylora.op import op
from tinylora.tensor import record
from tinylora.testing import gradcheck


@op
def cosine(xp, x, y, eps):
    """c = Σ a b over the last axis,  a = x / |x|,  b = y / |y|,  |x| = √(Σ x² + ε): never divided by zero.

    Of c the part through a is b / |x|; |x| itself depends on x too, which takes away c a / |x|:
    dL/dx = g (b - c a) / |x|      dL/dy = g (a - c b) / |y|
    """
    inverse_x = 1 / xp.sqrt((x * x).sum(axis=-1, keepdims=True) + eps)
    inverse_y = 1 / xp.sqrt((y * y).sum(axis=-1, keepdims=True) + eps)
    a, b = x * inverse_x, y * inverse_y
    c = (a * b).sum(axis=-1, keepdims=True)

    def d_x(g):
        return g[..., None] * inverse_x * (b - c * a)  # of the broadcast shape; the engine sums it down to x's

    def d_y(g):
        return g[..., None] * inverse_y * (a - c * b)

    return c[..., 0], (d_x, d_y)


torch.manual_seed(0)
x = torch.randn(3, 4, dtype=torch.float64).requires_grad_()
y = torch.randn(3, 4, dtype=torch.float64).requires_grad_()

c = record(cosine, x, y, eps=1e-12)  # from arrays to Tensors; torch_api/ adds dtype rules and messages
c.sum().backward()
print("c    ", "  ".join(f"{value:+.4f}" for value in c.tolist()))
print("dL/dx", "  ".join(f"{value:+.4f}" for value in x.grad[0].tolist()))
assert gradcheck(cosine, [x, y], eps=1e-12)
assert gradcheck(cosine, [x, y[0].detach().requires_grad_()], eps=1e-12)  # every row beside one and the same
print("the definition passes gradcheck\n")


@cosine.tune("numpy", "cupy")
def cosine_of_matrices(xp, x, y, eps):
    """The same for two matrices of one shape, with fewer arrays: sums of products are taken without storing the products."""
    if x.ndim != 2 or x.shape != y.shape:
        return NotImplemented  # the definition takes it
    inverse_x = 1 / xp.sqrt(xp.einsum("nc,nc->n", x, x) + eps)
    inverse_y = 1 / xp.sqrt(xp.einsum("nc,nc->n", y, y) + eps)
    c = xp.einsum("nc,nc->n", x, y) * inverse_x * inverse_y

    def d_x(g):
        d = y * (g * inverse_x * inverse_y)[:, None]
        d -= x * (g * c * inverse_x * inverse_x)[:, None]  # d is an array of our own; g, x and y are not
        return d

    def d_y(g):
        d = x * (g * inverse_x * inverse_y)[:, None]
        d -= y * (g * c * inverse_y * inverse_y)[:, None]
        return d

    return c, (d_x, d_y)


with torch.no_grad():
    assert torch.allclose(record(cosine, x, y, eps=1e-12), c, atol=1e-12)  # tuned now, and equal to the definition
assert gradcheck(cosine, [x, y], eps=1e-12)
assert gradcheck(cosine, [x, y[0].detach().requires_grad_()], eps=1e-12)  # other shapes are declined: the definition
print("the tuned version agrees, and passes too\n")


@op
def wrong_cosine(xp, x, y, eps):
    """The usual mistake: |x| depends on x as well, and d_x forgets it; d_y likewise."""
    inverse_x = 1 / xp.sqrt((x * x).sum(axis=-1, keepdims=True) + eps)
    inverse_y = 1 / xp.sqrt((y * y).sum(axis=-1, keepdims=True) + eps)
    a, b = x * inverse_x, y * inverse_y
    return (a * b).sum(axis=-1), (lambda g: g[..., None] * inverse_x * b, lambda g: g[..., None] * inverse_y * a)


try:
    gradcheck(wrong_cosine, [x, y], eps=1e-12)
except AssertionError as error:
    print(f"and this is what a wrong gradient gets:\n{error}")
else:
    raise AssertionError("gradcheck let a wrong gradient through")
