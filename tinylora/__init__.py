"""tinylora: LoRA fine-tuning from the inside, on an autograd engine in NumPy and CuPy, spelled like PyTorch.

Read it in this order: op.py, ops/nn.py, tensor.py, nn/module.py, models/gpt.py, lora.py.
"""

import importlib
import typing

import tinylora.kernels
import tinylora.torch_api.methods
from tinylora import lora, nn, ops, optim
from tinylora.nn import functional
from tinylora.backend import bool_ as bool
from tinylora.backend import Generator, bfloat16, default_generator, device, float16, float32, float64, initial_seed
from tinylora.backend import int8, int16, int32, int64, manual_seed, set_default_device, uint8
from tinylora.kernels import get_num_threads, no_kernels, set_num_threads
from tinylora.nn.count import count_parameters
from tinylora.tensor import Tensor, no_grad
from tinylora.torch_api.comparison import all, allclose, any, ceil, eq, equal, floor, ge, gt, isfinite, isinf, isnan, le
from tinylora.torch_api.comparison import logical_and, logical_not, logical_or, lt, ne, round, sign
from tinylora.torch_api.conversion import clone, is_floating_point, numel, set_printoptions
from tinylora.torch_api.creation import arange, empty, empty_like, eye, from_numpy, full, full_like, ones, ones_like, rand
from tinylora.torch_api.creation import rand_like, randint, randn, randn_like, tensor, zeros, zeros_like
from tinylora.torch_api.functional import abs, add, amax, amin, clamp, cos, cumsum, div, einsum, erf, exp, log, log_softmax
from tinylora.torch_api.functional import masked_fill, matmul, maximum, mean, minimum, mul, neg, pow, prod, relu, rsqrt
from tinylora.torch_api.functional import sigmoid, sin, softmax, sqrt, std, sub, sum, tanh, var, where
from tinylora.torch_api.modes import Size, are_deterministic_algorithms_enabled, compile, dtype, enable_grad, finfo
from tinylora.torch_api.modes import get_default_device, get_default_dtype, iinfo, inference_mode, is_grad_enabled, is_tensor
from tinylora.torch_api.modes import set_default_dtype, set_grad_enabled, use_deterministic_algorithms
from tinylora.torch_api.promote import result_type
from tinylora.torch_api.shaping import argmax, argmin, argsort, cat, chunk, concat, concatenate, flatten, gather
from tinylora.torch_api.shaping import index_select, max, min, msort, permute, ravel, reshape, scatter_add, sort, split
from tinylora.torch_api.shaping import split_with_sizes, squeeze, stack, swapaxes, swapdims, t, topk, transpose, tril
from tinylora.torch_api.shaping import triu, unbind, unsqueeze
from tinylora.torch_api.comparison import bitwise_and, bitwise_left_shift, bitwise_not, bitwise_or, bitwise_right_shift
from tinylora.torch_api.comparison import bitwise_xor, floor_divide, greater, greater_equal, isclose, isin, isneginf
from tinylora.torch_api.comparison import isposinf, less, less_equal, logical_xor, not_equal, remainder, signbit
from tinylora.torch_api.diagonals import block_diag, diag, diag_embed, diagflat, diagonal, trace, tril_indices
from tinylora.torch_api.diagonals import triu_indices
from tinylora.torch_api.distances import cdist, cosine_similarity, pairwise_distance
from tinylora.torch_api.elementwise import absolute, clamp_max, clamp_min, clip, divide, multiply, negative, rsub
from tinylora.torch_api.elementwise import subtract, true_divide
from tinylora.torch_api.joining import atleast_1d, atleast_2d, atleast_3d, column_stack, dsplit, dstack, hsplit, hstack
from tinylora.torch_api.joining import row_stack, tensor_split, vsplit, vstack
from tinylora.torch_api.activations import celu, hardshrink, prelu, selu
from tinylora.torch_api.new import as_tensor, linspace, logspace, normal, randint_like, scalar_tensor
from tinylora.torch_api.products import addbmm, addmm, addmv, addr, baddbmm, bmm, cross, dot, ger, inner, kron
from tinylora.torch_api.products import matrix_power, mm, mv, outer, tensordot, vdot
from tinylora.torch_api.rearranging import broadcast_shapes, broadcast_tensors, broadcast_to, cartesian_prod, flip, fliplr
from tinylora.torch_api.rearranging import flipud, meshgrid, moveaxis, movedim, narrow, repeat_interleave, roll, rot90
from tinylora.torch_api.rearranging import select, tile, unflatten
from tinylora.torch_api.sampling import bernoulli, multinomial, randperm
from tinylora.torch_api.scans import cummax, cummin, cumprod, diff, logcumsumexp
from tinylora.torch_api.scattering import argwhere, diagonal_scatter, index_add, index_copy, index_fill, index_put
from tinylora.torch_api.scattering import masked_scatter, masked_select, nonzero, scatter, scatter_reduce, select_scatter
from tinylora.torch_api.scattering import slice_scatter, take, take_along_dim
from tinylora.torch_api.scientific import acos, acosh, addcdiv, addcmul, arccos, arccosh, arcsin, arcsinh, arctan, arctan2
from tinylora.torch_api.scientific import arctanh, asin, asinh, atan, atan2, atanh, copysign, cosh, deg2rad, erfc, erfinv
from tinylora.torch_api.scientific import exp2, expm1, fix, float_power, fmax, fmin, fmod, frac, heaviside, hypot, ldexp
from tinylora.torch_api.scientific import lerp, log10, log1p, log2, logaddexp, logaddexp2, logit, nan_to_num, positive
from tinylora.torch_api.scientific import rad2deg, reciprocal, sinh, square, tan, trunc, xlogy
from tinylora.torch_api.statistics import aminmax, bincount, bucketize, corrcoef, count_nonzero, cov, dist, histc
from tinylora.torch_api.statistics import kthvalue, logsumexp, median, nanmean, nansum, norm, quantile, searchsorted
from tinylora.torch_api.statistics import std_mean, unique, unique_consecutive, var_mean
from tinylora.torch_api import linalg
from tinylora.training.recompute import checkpoint
from math import e, inf, nan, pi

__version__ = "0.1.0"

if typing.TYPE_CHECKING:
    from tinylora import adapters, as_torch, models, testing, utils
    from tinylora.kernels.cuda.gemm import get_float32_matmul_precision, set_float32_matmul_precision
    from tinylora.models import load_model
    from tinylora.runs.finetune import finetune, resume
    from tinylora.runs.run import Run
    from tinylora.testing.profile import profile
    from tinylora.torch_api import amp, autograd, backends, cuda, distributed, random
    from tinylora.torch_api.amp import autocast, is_autocast_enabled
    from tinylora.torch_api.random import get_rng_state, seed, set_rng_state
    from tinylora.torch_api.legacy import BFloat16Tensor, BoolTensor, ByteTensor, CharTensor, DoubleTensor, FloatTensor
    from tinylora.torch_api.legacy import HalfTensor, IntTensor, LongTensor, ShortTensor
    from tinylora.formats.tensors import load, save
else:
    # imported at their first use: together they take longer than all the rest
    _ROOMS = {name: f"tinylora.{name}" for name in ("adapters", "as_torch", "models", "testing", "utils")}
    _ROOMS |= {
        name: f"tinylora.torch_api.{name}" for name in ("amp", "autograd", "backends", "cuda", "distributed", "random")
    }
    _NAMES = {
        "Run": "tinylora.runs.run", "finetune": "tinylora.runs.finetune", "load_model": "tinylora.models",
        "profile": "tinylora.testing.profile", "resume": "tinylora.runs.finetune",
    }  # fmt: skip
    _NAMES |= dict.fromkeys(("load", "save"), "tinylora.formats.tensors") | dict.fromkeys(
        ("autocast", "is_autocast_enabled"), "tinylora.torch_api.amp"
    )
    _NAMES |= dict.fromkeys(("get_float32_matmul_precision", "set_float32_matmul_precision"), "tinylora.kernels.cuda.gemm")
    _NAMES |= dict.fromkeys(("get_rng_state", "seed", "set_rng_state"), "tinylora.torch_api.random")
    _NAMES |= {f"{kind}Tensor": "tinylora.torch_api.legacy" for kind in (
        "BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short"
    )}  # fmt: skip

    def __getattr__(name):
        if name in _ROOMS:
            found = importlib.import_module(_ROOMS[name])
        elif name in _NAMES:
            found = getattr(importlib.import_module(_NAMES[name]), name)
        else:
            raise AttributeError(f"module 'tinylora' has no attribute {name!r}")
        return globals().setdefault(name, found)


float, double, half, int, long, short = float32, float64, float16, int32, int64, int16

__all__ = [
    # the library's rooms
    "adapters", "amp", "as_torch", "autograd", "backends", "cuda", "distributed", "functional", "linalg", "lora",
    "models", "nn", "ops", "optim", "random", "testing", "utils",
    # tensors and modes
    "Run", "Tensor", "autocast", "are_deterministic_algorithms_enabled", "checkpoint", "compile", "count_parameters",
    "device", "enable_grad", "finetune", "get_default_device", "get_float32_matmul_precision", "get_num_threads",
    "inference_mode", "is_autocast_enabled", "is_grad_enabled", "is_tensor", "load", "load_model", "no_grad", "no_kernels",
    "profile", "resume", "save", "set_default_device", "set_printoptions", "set_float32_matmul_precision",
    "set_grad_enabled", "set_num_threads", "use_deterministic_algorithms",
    # random numbers
    "Generator", "default_generator", "get_rng_state", "initial_seed", "manual_seed", "seed", "set_rng_state",
    # dtypes and constants
    "Size", "bfloat16", "bool", "double", "dtype", "finfo", "float", "float16", "float32", "float64",
    "get_default_dtype", "half", "iinfo", "int", "int16", "int32", "int64", "int8", "is_floating_point", "long",
    "result_type", "set_default_dtype", "short", "uint8", "e", "inf", "nan", "pi",
    # older constructors
    "BFloat16Tensor", "BoolTensor", "ByteTensor", "CharTensor", "DoubleTensor", "FloatTensor", "HalfTensor", "IntTensor",
    "LongTensor", "ShortTensor",
    # creation
    "arange", "empty", "empty_like", "eye", "from_numpy", "full", "full_like", "ones", "ones_like", "rand", "rand_like",
    "randint", "randn", "randn_like", "tensor", "zeros", "zeros_like",
    # element by element
    "abs", "add", "clamp", "cos", "div", "erf", "exp", "log", "masked_fill", "maximum", "minimum", "mul", "neg", "pow",
    "relu", "rsqrt", "sigmoid", "sin", "sqrt", "sub", "tanh", "where",
    # comparison, logic, rounding
    "all", "allclose", "any", "ceil", "eq", "equal", "floor", "ge", "gt", "isfinite", "isinf", "isnan", "le",
    "logical_and", "logical_not", "logical_or", "lt", "ne", "round", "sign",
    # reductions and products
    "amax", "amin", "argmax", "cumsum", "einsum", "log_softmax", "matmul", "max", "mean", "min", "prod", "softmax", "std",
    "sum", "var",
    # shapes and order
    "argsort", "cat", "chunk", "clone", "flatten", "gather", "index_select", "numel", "permute", "reshape", "scatter_add",
    "sort", "split", "squeeze", "stack", "topk", "transpose", "tril", "triu", "unbind", "unsqueeze",
    # more comparisons
    "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor",
    "floor_divide", "greater", "greater_equal", "isclose", "isin", "isneginf", "isposinf", "less", "less_equal",
    "logical_xor", "not_equal", "remainder", "signbit",
    # diagonals and triangles
    "block_diag", "diag", "diag_embed", "diagflat", "diagonal", "trace", "tril_indices", "triu_indices",
    # distances
    "cdist", "cosine_similarity", "pairwise_distance",
    # more arithmetic
    "absolute", "clamp_max", "clamp_min", "clip", "divide", "multiply", "negative", "rsub", "square", "subtract",
    "true_divide",
    # stacking and splitting
    "atleast_1d", "atleast_2d", "atleast_3d", "column_stack", "dsplit", "dstack", "hsplit", "hstack", "row_stack",
    "tensor_split", "vsplit", "vstack",
    # activations
    "celu", "hardshrink", "prelu", "selu",
    # ranges, and from others
    "as_tensor", "linspace", "logspace", "normal", "randint_like", "scalar_tensor",
    # products of vectors and matrices
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "cross", "dot", "ger", "inner", "kron", "matrix_power", "mm",
    "mv", "outer", "tensordot", "vdot",
    # repeating, reversing, rotating
    "broadcast_shapes", "broadcast_tensors", "broadcast_to", "cartesian_prod", "flip", "fliplr", "flipud", "meshgrid",
    "moveaxis", "movedim", "narrow", "repeat_interleave", "roll", "rot90", "select", "tile", "unflatten",
    # random choices
    "bernoulli", "multinomial", "randperm",
    # running products and maxima
    "cummax", "cummin", "cumprod", "diff", "logcumsumexp",
    # by index and mask
    "argwhere", "diagonal_scatter", "index_add", "index_copy", "index_fill", "index_put", "masked_scatter",
    "masked_select", "nonzero", "scatter", "scatter_reduce", "select_scatter", "slice_scatter", "take", "take_along_dim",
    # powers, logarithms, angles
    "acos", "acosh", "addcdiv", "addcmul", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh",
    "asin", "asinh", "atan", "atan2", "atanh", "copysign", "cosh", "deg2rad", "erfc", "erfinv", "exp2", "expm1", "fix",
    "float_power", "fmax", "fmin", "fmod", "frac", "heaviside", "hypot", "ldexp", "lerp", "log10", "log1p", "log2",
    "logaddexp", "logaddexp2", "logit", "nan_to_num", "positive", "rad2deg", "reciprocal", "sinh", "tan", "trunc",
    "xlogy",
    # more shapes
    "argmin", "concat", "concatenate", "msort", "ravel", "split_with_sizes", "swapaxes", "swapdims", "t",
    # norms, medians, counts
    "aminmax", "bincount", "bucketize", "corrcoef", "count_nonzero", "cov", "dist", "histc", "kthvalue", "logsumexp",
    "median", "nanmean", "nansum", "norm", "quantile", "searchsorted", "std_mean", "unique", "unique_consecutive",
    "var_mean",
    "__version__",
]  # fmt: skip


def __dir__() -> list[str]:
    """The public names alone: internal modules are importable, and not listed."""
    return sorted(__all__)
