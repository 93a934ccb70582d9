"""tinylora: LoRA fine-tuning from the inside, on an autograd engine in NumPy and CuPy, spelled like PyTorch.

Read it in this order: op.py, ops/nn.py, tensor.py, nn/module.py, models/gpt.py, lora.py.
"""

import importlib
import typing

import tinylora.kernels
import tinylora.torch_api.methods
from tinylora import lora, nn, ops, optim
from tinylora.training import cuda
from tinylora.torch_api import functional
from tinylora.backend import bool_ as bool
from tinylora.backend import bfloat16, device, float16, float32, float64, int8, int16, int32, int64, manual_seed
from tinylora.backend import set_default_device, uint8
from tinylora.kernels import get_num_threads, no_kernels, set_num_threads
from tinylora.kernels.cuda.gemm import get_float32_matmul_precision, set_float32_matmul_precision
from tinylora.nn.count import count_parameters
from tinylora.tensor import Tensor, inference_mode, no_grad
from tinylora.torch_api.comparison import all, allclose, any, ceil, eq, equal, floor, ge, gt, isfinite, isinf, isnan, le
from tinylora.torch_api.comparison import logical_and, logical_not, logical_or, lt, ne, round, sign
from tinylora.torch_api.conversion import clone, numel
from tinylora.torch_api.creation import arange, empty, empty_like, eye, from_numpy, full, full_like, ones, ones_like, rand
from tinylora.torch_api.creation import rand_like, randint, randn, randn_like, tensor, zeros, zeros_like
from tinylora.torch_api.functional import abs, add, amax, amin, clamp, cos, cumsum, div, einsum, erf, exp, log, log_softmax
from tinylora.torch_api.functional import masked_fill, matmul, maximum, mean, minimum, mul, neg, pow, prod, relu, rsqrt
from tinylora.torch_api.functional import sigmoid, sin, softmax, sqrt, std, sub, sum, tanh, var, where
from tinylora.torch_api.promote import result_type
from tinylora.torch_api.shaping import argmax, argsort, cat, chunk, flatten, gather, index_select, max, min, permute
from tinylora.torch_api.shaping import reshape, scatter_add, sort, split, squeeze, stack, topk, transpose, tril, triu, unbind
from tinylora.torch_api.shaping import unsqueeze
from tinylora.training.recompute import checkpoint
from math import e, inf, nan, pi

__version__ = "0.1.0"

if typing.TYPE_CHECKING:
    from tinylora import adapters, models, testing
    from tinylora.models import load_model
    from tinylora.runs.finetune import finetune
    from tinylora.runs.run import Run
    from tinylora.testing.profile import profile
else:
    # imported at their first use: together they take as long as all the rest
    _ROOMS = ("adapters", "models", "testing")
    _NAMES = {
        "Run": "tinylora.runs.run", "finetune": "tinylora.runs.finetune", "load_model": "tinylora.models",
        "profile": "tinylora.testing.profile",
    }  # fmt: skip

    def __getattr__(name):
        if name in _ROOMS:
            found = importlib.import_module(f"tinylora.{name}")
        elif name in _NAMES:
            found = getattr(importlib.import_module(_NAMES[name]), name)
        else:
            raise AttributeError(f"module 'tinylora' has no attribute {name!r}")
        return globals().setdefault(name, found)


float, double, half, int, long = float32, float64, float16, int32, int64

__all__ = [
    # the library's rooms
    "adapters", "cuda", "functional", "lora", "models", "nn", "ops", "optim", "testing",
    # tensors and modes
    "Run", "Tensor", "checkpoint", "count_parameters", "device", "finetune", "get_float32_matmul_precision",
    "get_num_threads", "inference_mode", "load_model", "manual_seed", "no_grad", "no_kernels", "profile", "result_type",
    "set_default_device", "set_float32_matmul_precision", "set_num_threads",
    # dtypes and constants
    "bfloat16", "bool", "double", "float", "float16", "float32", "float64", "half", "int", "int16", "int32", "int64",
    "int8", "long", "uint8", "e", "inf", "nan", "pi",
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
    "__version__",
]  # fmt: skip


def __dir__() -> list[str]:
    """The public names alone: internal modules are importable, and not listed."""
    return sorted(__all__)
