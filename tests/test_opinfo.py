"""PyTorch's own operator samples (OpInfo): the same results, dtypes and gradients, and errors of the same kind.

The samples are those that PyTorch tests itself with. Each operator below is run on a few of them in every dtype listed;
what is left out is named, with the reason.
"""

import functools
import importlib.util
import itertools

import numpy as np
import pytest

import tinylora
import tinylora.nn.functional

torch = pytest.importorskip("torch", reason="these tests compare with PyTorch: pip install torch")
if importlib.util.find_spec("expecttest") is None:
    pytest.skip("PyTorch's operator samples need expecttest: pip install expecttest", allow_module_level=True)

SAMPLES = 3  # of each operator and dtype, spread over the first 30
DTYPES = ("float64", "float16", "int64", "bool")
TOLERANCES = {"float64": 1e-9, "float32": 1e-5, "float16": 1e-2}  # relative, by the dtype of the result

OPERATORS = """
    __getitem__ __radd__ __rand__ __rmatmul__ __rmod__ __rmul__ __ror__ __rsub__ __rxor__ abs acos acosh add addbmm
    addcdiv addcmul addmm addmm.decomposed addmv addr all allclose amax amin aminmax any arange argmax argmin argsort
    argwhere asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d baddbmm bernoulli bincount bitwise_and
    bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor block_diag bmm bool broadcast_shapes
    broadcast_tensors broadcast_to bucketize byte cartesian_prod cat cdist ceil char chunk clamp clamp_max clamp_min
    clone column_stack contiguous copysign corrcoef cos cosh count_nonzero cross cummax cummin cumprod cumsum deg2rad
    diag diag_embed diagflat diagonal diagonal_scatter diff dist div.floor_rounding div.no_rounding_mode
    div.trunc_rounding dot double dsplit dstack einsum empty empty_like eq equal erf erfc erfinv exp exp2 expand
    expand_as expm1 eye flatten flip fliplr flipud float float_power floor floor_divide fmax fmin fmod frac full
    full_like gather ge gt half heaviside histc hsplit hstack hypot index_add index_copy index_fill index_put
    index_select inner int isclose isfinite isin isinf isnan isneginf isposinf item kron kthvalue ldexp le lerp
    linalg.cross linalg.diagonal linalg.matrix_norm linalg.matrix_power linalg.multi_dot linalg.norm
    linalg.norm.subgradients_at_zero linalg.vecdot linalg.vector_norm linspace linspace.tensor_overload log log10 log1p
    log2 log_softmax log_softmax.with_dtype logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or
    logical_xor logit logspace logspace.tensor_overload logsumexp long lt masked_fill masked_scatter masked_select
    matmul max.binary max.reduction_no_dim max.reduction_with_dim maximum mean median meshgrid.list_of_tensors
    meshgrid.variadic_tensors min.binary min.reduction_no_dim min.reduction_with_dim minimum mm movedim msort mul
    multinomial mv nan_to_num nanmean nansum narrow ne neg new_empty new_full new_ones new_zeros
    nn.functional.batch_norm nn.functional.binary_cross_entropy nn.functional.binary_cross_entropy_with_logits
    nn.functional.celu nn.functional.cosine_embedding_loss nn.functional.cosine_similarity nn.functional.cross_entropy
    nn.functional.dropout nn.functional.elu nn.functional.embedding nn.functional.gaussian_nll_loss nn.functional.gelu
    nn.functional.glu nn.functional.group_norm nn.functional.hardshrink nn.functional.hardsigmoid
    nn.functional.hardswish nn.functional.hardtanh nn.functional.hinge_embedding_loss nn.functional.huber_loss
    nn.functional.kl_div nn.functional.l1_loss nn.functional.layer_norm nn.functional.leaky_relu nn.functional.linear
    nn.functional.logsigmoid nn.functional.margin_ranking_loss nn.functional.mish nn.functional.mse_loss
    nn.functional.nll_loss nn.functional.normalize nn.functional.one_hot nn.functional.pad.circular
    nn.functional.pad.constant nn.functional.pad.reflect nn.functional.pad.replicate
    nn.functional.pad.replicate_negative nn.functional.pairwise_distance nn.functional.poisson_nll_loss
    nn.functional.prelu nn.functional.relu nn.functional.relu6 nn.functional.rms_norm
    nn.functional.scaled_dot_product_attention nn.functional.selu nn.functional.silu nn.functional.smooth_l1_loss
    nn.functional.soft_margin_loss nn.functional.softmin nn.functional.softmin.with_dtype nn.functional.softplus
    nn.functional.softshrink nn.functional.softsign nn.functional.tanhshrink nn.functional.threshold
    nn.functional.triplet_margin_loss nonzero norm norm.fro norm.inf normal normal.number_mean ones ones_like outer
    permute positive pow prod quantile rad2deg rand_like randint randint_like randn randn_like ravel reciprocal
    remainder repeat repeat_interleave reshape reshape_as roll rot90 round round.decimals_0 round.decimals_3
    round.decimals_neg_3 rsqrt rsub scalar_tensor scatter scatter_add scatter_reduce.amax scatter_reduce.amin
    scatter_reduce.mean scatter_reduce.prod scatter_reduce.sum searchsorted select select_scatter short sigmoid sign
    signbit sin sinh slice_scatter softmax softmax.with_dtype sort split split.list_args split_with_sizes sqrt square
    squeeze squeeze.multiple stack std std.unbiased std_mean std_mean.unbiased sub sum t take take_along_dim tan tanh
    tensor_split tensordot tile topk trace transpose tril tril_indices triu triu_indices true_divide trunc unbind
    unflatten unfold unique unique_consecutive unsqueeze var var.unbiased var_mean var_mean.unbiased vdot view view_as
    vsplit vstack where xlogy zeros zeros_like
""".split()

RANDOM = """
    bernoulli multinomial nn.functional.dropout normal rand_like randint randint_like randn randn_like empty empty_like
    new_empty
""".split()  # only shapes and dtypes agree
INDICES_OF_EQUALS_DIFFER = {"sort", "topk", "argsort", "kthvalue"}  # PyTorch's order of equal elements is not defined

LEFT_OUT = {  # PyTorch's name: why it is not run here, although we have a function of that name
    "normal.in_place": "is run as `normal_`, on the tensor itself",
    "zero_": "writes into a leaf that requires grad",
    "nn.functional.silu.complex": "complex numbers are left out",
    "nn.functional.linear_cross_entropy": "a weight of more than two dimensions is left out",
    "nn.functional.linear_cross_entropy.chunked": "options is left out",
    "nn.functional.linear_cross_entropy.chunked_none": "options is left out",
    "norm.nuc": "singular values are left out",
    "bmm.triton_optimized": "is for GPUs",
    "cov": "weights of observations are left out",
    "bfloat16": "needs ml_dtypes",
    "to": "has no samples that can be converted",
    "nn.functional.batch_norm.without_cudnn": "is for GPUs",
    "__rpow__": "PyTorch takes integers to negative integer powers for tensors, not for numbers; here they are refused",
}
SAMPLES_LEFT_OUT = {  # PyTorch's name: which of its samples are not run, and why
    "linalg.matrix_norm": (lambda s: s.args and s.args[0] in ("nuc", 2, -2), "singular values are left out"),
    "linalg.norm": (lambda s: s.args and s.args[0] in ("nuc", 2, -2), "singular values are left out"),
    "linalg.norm.subgradients_at_zero": (lambda s: s.args and s.args[0] in ("nuc", 2, -2), "singular values are left out"),
    "linalg.matrix_power": (lambda s: s.args[0] <= 0, "inverses are left out, and the identity has no gradient here"),
    "nn.functional.embedding": (
        lambda s: {"max_norm", "scale_grad_by_freq", "sparse"} & set(s.kwargs), "arguments that are left out"),
    "nn.functional.batch_norm": (lambda s: s.input.ndim < 2, "one channel without a batch is refused"),
    "unique_consecutive": (lambda s: s.kwargs.get("dim") is not None, "slices along a dim are not compared"),
    "histc": (lambda s: s.input.dtype == torch.float16, "PyTorch rounds the limits of the bins to float16"),
    "nn.functional.soft_margin_loss": (lambda s: s.input.dtype == torch.float16, "PyTorch's exponential overflows"),
}  # fmt: skip
ROUGH = {"nn.functional.hardsigmoid": 1e-7, "logcumsumexp": 1e-3}  # where PyTorch has a constant, or a result, in float32
ARGUMENTS = {  # where the operator's samples have the arguments in another order than the function
    "einsum": lambda f: lambda operands, equation: f(equation, *operands),
    "where": lambda f: lambda input, condition, other: f(condition, input, other),
    "nn.functional.embedding": lambda f: lambda weight, ids, **options: f(ids, weight, **options),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """PyTorch's threads cost more than they bring on samples this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def infos():
    """PyTorch's operators by name: loaded once a test needs them, since that takes seconds."""
    from torch.testing._internal.common_methods_invocations import op_db

    return {f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name: op for op in op_db}


def function_of(op):
    """Ours of the same name, or None."""
    found = tinylora
    for part in op.name.split("."):
        found = getattr(found, part, None)
    found = found if callable(found) else getattr(tinylora.Tensor, op.name, None)
    return ARGUMENTS.get(op.name, lambda f: f)(found) if callable(found) else None


def converted(x, leaves):
    """Tensors, dtypes and devices as ours; leaves that require grad are collected in pairs."""
    if isinstance(x, torch.Tensor):
        made = tinylora.Tensor(x.detach().numpy().copy(), requires_grad=x.requires_grad)
        leaves += [(x, made)] * x.requires_grad
        return made
    if isinstance(x, torch.dtype):
        return np.dtype(str(x).removeprefix("torch."))
    if isinstance(x, torch.device):
        return str(x)
    if isinstance(x, slice):
        return slice(*(converted(part, leaves) for part in (x.start, x.stop, x.step)))
    if isinstance(x, torch.Size):
        return tuple(x)
    if type(x) in (list, tuple):
        return type(x)(converted(part, leaves) for part in x)
    return {k: converted(v, leaves) for k, v in x.items()} if isinstance(x, dict) else x


def flat(y):
    """The tensors and numbers of a result, however nested."""
    if isinstance(y, tuple | list) and not isinstance(y, torch.Size):
        return [part for x in y for part in flat(x)]
    return [y]


def assert_same(ours, theirs, rough=0.0, values=True):
    if not isinstance(theirs, torch.Tensor):
        assert ours == (tuple(theirs) if isinstance(theirs, torch.Size) else theirs)
        return
    assert ours.shape == tuple(theirs.shape)
    assert ours.dtype.name == str(theirs.dtype).removeprefix("torch.")
    if values:
        expected, tolerance = theirs.detach().numpy(), max(rough, TOLERANCES.get(ours.dtype.name, 0.0))
        scale = max(1.0, np.abs(expected, where=np.isfinite(expected), out=np.zeros(expected.shape)).max(initial=0))
        np.testing.assert_allclose(ours.array, expected, rtol=tolerance, atol=tolerance * scale)


def check(name, op, sample, grad):
    rough = ROUGH.get(name, 0.0)
    leaves = []
    args, kwargs = converted((sample.input, *sample.args), leaves), converted(sample.kwargs, leaves)
    theirs = flat(op(sample.input, *sample.args, **sample.kwargs))
    ours = flat(function_of(op)(*args, **kwargs))
    assert len(ours) == len(theirs)
    random = op.name in RANDOM or sample.kwargs.get("dropout_p")
    for i, (y, expected) in enumerate(zip(ours, theirs, strict=True)):
        unordered = op.name in INDICES_OF_EQUALS_DIFFER and not expected.dtype.is_floating_point and (i or name == "argsort")
        assert_same(y, expected, rough, values=not random and not unordered)
    pairs = [p for p in zip(ours, theirs, strict=True) if isinstance(p[1], torch.Tensor) and p[1].requires_grad]
    if not grad or random or not pairs:
        return
    gs = [torch.randn(y.shape, generator=torch.Generator().manual_seed(i), dtype=y.dtype) for i, (_, y) in enumerate(pairs)]
    wanted = torch.autograd.grad([y for _, y in pairs], [x for x, _ in leaves], gs, allow_unused=True)
    total = sum((y * tinylora.Tensor(g.numpy())).sum() for (y, _), g in zip(pairs, gs, strict=True))
    total.backward()
    for (x, ours_x), d in zip(leaves, wanted, strict=True):
        found = tinylora.zeros_like(ours_x) if ours_x.grad is None else ours_x.grad
        assert_same(found, torch.zeros_like(x) if d is None else d, rough)


def is_complex(x):
    return isinstance(x, complex) or (isinstance(x, torch.Tensor) and x.is_complex())


def samples_of(name, op, dtype, grad):
    left_out = SAMPLES_LEFT_OUT.get(name, (lambda s: False, ""))[0]
    samples = itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=grad), 30)
    found = [s for s in samples if not ({"memory_format", "layout"} & set(s.kwargs) or left_out(s))]  # we have no layouts
    return found[:: max(1, len(found) // SAMPLES)]


@pytest.mark.filterwarnings("ignore")  # PyTorch's own
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_gives_what_pytorch_s_gives(name):
    op = infos()[name]
    for dtype_name in DTYPES:
        dtype = getattr(torch, dtype_name)
        if dtype in op.supported_dtypes("cpu"):
            grad = dtype_name == "float64" and op.supports_autograd
            for sample in samples_of(name, op, dtype, grad):
                check(name, op, sample, grad)


@pytest.mark.filterwarnings("ignore")
def test_every_operator_that_we_have_is_run_or_left_out_by_name():
    ours = {name for name, op in infos().items() if function_of(op) is not None}
    assert ours - set(OPERATORS) == set(LEFT_OUT) & ours
    assert not set(OPERATORS) - ours


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPERATORS)
def test_a_wrong_input_raises_an_error_of_pytorch_s_kind(name):
    op = infos()[name]
    for wrong in op.error_inputs("cpu") if op.error_inputs_func is not None else ():
        sample = wrong.sample_input
        if "out" in sample.kwargs or wrong.error_type is Exception or any(map(is_complex, sample.args)):
            continue  # out= and complex numbers do not exist here; and numbers are taken for tensors in more places
        try:
            args, kwargs = converted((sample.input, *sample.args), []), converted(sample.kwargs, [])
        except (TypeError, ValueError):
            continue  # a tensor of a dtype, or with more dims, than NumPy has
        with pytest.raises(wrong.error_type):
            function_of(op)(*args, **kwargs)
