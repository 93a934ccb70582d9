"""float16 and bfloat16 on the CPU: every function keeps the dtype that PyTorch's keeps, and agrees with it."""

import importlib.util

import numpy as np
import pytest
from oracle import torch

import tinylora

DTYPES = ["float16", *(["bfloat16"] if importlib.util.find_spec("ml_dtypes") else [])]
SPACING = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


class Given:
    """A library, its functional module, and the same tensors in half precision: a positive, b of both signs, w (5, 4)."""

    def __init__(self, library, dtype):
        rng = np.random.default_rng(0)
        self.L, self.F, self.dtype = library, library.nn.functional, getattr(library, dtype)
        for name, array in (
            ("a", rng.uniform(0.2, 2, (3, 4))),
            ("b", rng.uniform(-2, 2, (3, 4))),
            ("w", rng.standard_normal((5, 4))),
            ("s", np.array(0.7)),
        ):
            setattr(self, name, library.tensor(array).to(self.dtype).requires_grad_())
        self.m, self.idx = library.tensor(rng.random((3, 4)) > 0.5), library.tensor(np.array([[0, 2, 1, 0]] * 3))


FUNCTIONS = {
    "add": lambda g: g.a + g.b,
    "add1": lambda g: g.a + 1,
    "addf": lambda g: g.a + 1.5,
    "radd": lambda g: 1.5 + g.a,
    "sub": lambda g: g.a - g.b,
    "mul": lambda g: g.a * 2.5,
    "div": lambda g: g.a / g.b,
    "rdiv": lambda g: 1 / g.a,
    "pow": lambda g: g.a**2,
    "pow5": lambda g: g.a**0.5,
    "rpow": lambda g: 2**g.a,
    "neg": lambda g: -g.a,
    "mod": lambda g: g.b % 1.0,
    "fdiv": lambda g: g.b.detach() // 0.3,
    "abs": lambda g: g.b.abs(),
    "exp": lambda g: g.b.exp(),
    "log": lambda g: g.a.log(),
    "sqrt": lambda g: g.a.sqrt(),
    "rsqrt": lambda g: g.a.rsqrt(),
    "sin": lambda g: g.b.sin(),
    "cos": lambda g: g.b.cos(),
    "tanh": lambda g: g.b.tanh(),
    "sigmoid": lambda g: g.b.sigmoid(),
    "relu": lambda g: g.F.relu(g.b),
    "silu": lambda g: g.F.silu(g.b),
    "gelu": lambda g: g.F.gelu(g.b),
    "gelut": lambda g: g.F.gelu(g.b, approximate="tanh"),
    "erf": lambda g: g.b.erf(),
    "clamp": lambda g: g.b.clamp(-1, 1),
    "clampmin": lambda g: g.b.clamp(min=0),
    "clampt": lambda g: g.b.clamp(-g.a, g.a),
    "where": lambda g: g.L.where(g.m, g.a, g.b),
    "wherec": lambda g: g.L.where(g.m, g.a, 0.0),
    "wherec2": lambda g: g.L.where(g.m, 1.0, g.b),
    "mf": lambda g: g.a.masked_fill(g.m, -10000.0),
    "mfinf": lambda g: g.a.masked_fill(g.m, float("-inf")),
    "maximum": lambda g: g.L.maximum(g.a, g.b),
    "minimum": lambda g: g.L.minimum(g.a, g.b),
    "sum": lambda g: g.a.sum(),
    "sum0": lambda g: g.a.sum(0),
    "mean": lambda g: g.a.mean(),
    "mean1": lambda g: g.a.mean(1, keepdim=True),
    "var": lambda g: g.a.var(1),
    "std": lambda g: g.a.std(),
    "amax": lambda g: g.b.amax(1),
    "max": lambda g: g.b.max(1)[0],
    "min": lambda g: g.b.min(),
    "argmax": lambda g: g.b.argmax(1),
    "prod": lambda g: g.a.prod(1),
    "cumsum": lambda g: g.a.cumsum(1),
    "sort": lambda g: g.b.sort(1)[0],
    "topk": lambda g: g.b.topk(2)[0],
    "argsort": lambda g: g.b.argsort(1),
    "softmax": lambda g: g.F.softmax(g.b, -1),
    "softmax0": lambda g: g.b.softmax(0),
    "lsm": lambda g: g.F.log_softmax(g.b, 1),
    "sm32": lambda g: g.F.softmax(g.b, -1, dtype=g.L.float32),
    "matmul": lambda g: g.a @ g.b.T,
    "mv": lambda g: g.a @ g.b[0],
    "linear": lambda g: g.F.linear(g.a, g.w),
    "linearb": lambda g: g.F.linear(g.a, g.w, g.w[:, 0]),
    "einsum": lambda g: g.L.einsum("ij,kj->ik", g.a, g.b),
    "einsum1": lambda g: g.L.einsum("ij->j", g.a),
    "bmm": lambda g: g.a[None] @ g.b.T[None],
    "ln": lambda g: g.F.layer_norm(g.b, (4,)),
    "lnw": lambda g: g.F.layer_norm(g.b, (4,), g.w[0], g.w[1]),
    "rms": lambda g: g.F.rms_norm(g.b, (4,), g.w[0]),
    "ce": lambda g: g.F.cross_entropy(g.b, g.L.tensor([0, 1, 2])),
    "cen": lambda g: g.F.cross_entropy(g.b, g.L.tensor([0, 1, 2]), reduction="none"),
    "emb": lambda g: g.F.embedding(g.idx, g.w),
    "sdpa": lambda g: g.F.scaled_dot_product_attention(g.a[None, None], g.b[None, None], g.a[None, None], is_causal=True),
    "sdpam": lambda g: g.F.scaled_dot_product_attention(
        g.a[None, None], g.b[None, None], g.a[None, None], attn_mask=g.m[:, :3] | g.L.eye(3).bool()
    ),
    "reshape": lambda g: g.a.reshape(4, 3),
    "getitem": lambda g: g.a[1:, ::2],
    "adv": lambda g: g.a[g.idx[0] % 3],
    "gather": lambda g: g.a.gather(1, g.idx),
    "scatter": lambda g: g.a.scatter_add(1, g.idx, g.b),
    "cat": lambda g: g.L.cat([g.a, g.b]),
    "stack": lambda g: g.L.stack([g.a, g.b]),
    "tril": lambda g: g.a.tril(),
    "triu": lambda g: g.a.triu(1),
    "expand": lambda g: g.a[:, :1].expand(3, 4),
    "clone": lambda g: g.a.clone(),
    "eq": lambda g: g.a == g.b,
    "lt": lambda g: g.a < 1.0,
    "isnan": lambda g: g.a.isnan(),
    "isfinite": lambda g: g.a.isfinite(),
    "isinf": lambda g: g.a.isinf(),
    "sign": lambda g: g.b.sign(),
    "floor": lambda g: g.b.floor(),
    "ceil": lambda g: g.b.ceil(),
    "round": lambda g: g.b.round(),
    "any": lambda g: g.a.any(),
    "all": lambda g: (g.a > 0).all(),
    "land": lambda g: g.L.logical_and(g.a, g.b),
    "lnot": lambda g: g.L.logical_not(g.b),
    "ones_like": lambda g: g.L.ones_like(g.a),
    "zeros": lambda g: g.L.zeros(2, dtype=g.dtype),
    "full": lambda g: g.L.full((2,), 1.5, dtype=g.dtype),
    "arange": lambda g: g.L.arange(5, dtype=g.dtype),
    "eye": lambda g: g.L.eye(3, dtype=g.dtype),
    "tensor": lambda g: g.L.tensor([1.5, 2], dtype=g.dtype),
    "s0": lambda g: g.a * g.s,
    "s1": lambda g: g.s * 2,
    "s2": lambda g: g.L.ones(3) * g.s,
    "s3": lambda g: g.a * g.L.tensor(2.0),
    "s4": lambda g: g.a * g.L.ones(4),
    "s5": lambda g: g.a + g.L.tensor([1, 2, 3, 4]),
    "f64": lambda g: g.a * g.L.ones(4, dtype=g.L.float64),
    "h": lambda g: g.a * g.L.ones(4, dtype=g.L.float16),
    "b_": lambda g: g.a * g.m,
    "iadd": lambda g: g.a.clone().add_(1.5),
    "imul": lambda g: g.a.clone().mul_(g.b),
    "set": lambda g: (lambda t: (t.__setitem__(0, 3.5), t)[1])(g.a.clone()),
    "fill": lambda g: g.a.clone().fill_(2),
    "split": lambda g: g.a.split(2, 1)[1],
    "flip": lambda g: g.a.flip(0),
    "lse": lambda g: g.L.logsumexp(g.b, 1),
    "norm": lambda g: g.a.norm(),
    "outer": lambda g: g.L.outer(g.a[0], g.b[0]),
    "mse": lambda g: g.F.mse_loss(g.a, g.b),
    "bce": lambda g: g.F.binary_cross_entropy_with_logits(g.b, g.m.to(g.dtype)),
    "softplus": lambda g: g.F.softplus(g.b),
    "leaky": lambda g: g.F.leaky_relu(g.b),
    "log1p": lambda g: g.a.log1p(),
    "expm1": lambda g: g.a.expm1(),
    "square": lambda g: g.a.square(),
    "recip": lambda g: g.a.reciprocal(),
    "normalize": lambda g: g.F.normalize(g.a),
    "roll": lambda g: g.a.roll(1),
    "repeat": lambda g: g.a.repeat(2, 1),
    "diag": lambda g: g.a.diagonal(),
    "cumprod": lambda g: g.a.cumprod(1),
    "median": lambda g: g.a.median(),
    "lerp": lambda g: g.L.lerp(g.a, g.b, 0.3),
    "addmm": lambda g: g.L.addmm(g.a[:, :3], g.a, g.b.T),
    "baddbmm": lambda g: g.L.baddbmm(g.a[None, :, :3], g.a[None], g.b.T[None]),
    "smoothl1": lambda g: g.F.smooth_l1_loss(g.a, g.b),
    "huber": lambda g: g.F.huber_loss(g.a, g.b),
    "cos_sim": lambda g: g.F.cosine_similarity(g.a, g.b),
    "elu": lambda g: g.F.elu(g.b),
    "logsig": lambda g: g.F.logsigmoid(g.b),
    "hardswish": lambda g: g.F.hardswish(g.b),
    "trunc": lambda g: g.b.trunc(),
    "atan2": lambda g: g.L.atan2(g.a, g.b),
    "var_mean": lambda g: g.L.var_mean(g.a, 1)[0],
    "nll": lambda g: g.F.nll_loss(g.b, g.L.tensor([0, 1, 2])),
    "kl": lambda g: g.F.kl_div(g.b, g.a, reduction="sum"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_gradients_and_dtypes_are_pytorch_s(name, dtype):
    results = []
    for library in (tinylora, torch):
        given = Given(library, dtype)
        y = FUNCTIONS[name](given)
        if y.requires_grad:
            (y.double() * 0.5).sum().backward()
        tensors = [y, *(x.grad for x in (given.a, given.b, given.w, given.s))]
        results.append(
            [x if x is None else (str(x.dtype).removeprefix("torch."), x.detach().double().numpy()) for x in tensors]
        )
    for ours, theirs in zip(*results, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours[0] == theirs[0]
            scale = 1 + np.abs(theirs[1]).max(initial=0, where=np.isfinite(theirs[1]))
            np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=2 * SPACING[dtype] * scale)
