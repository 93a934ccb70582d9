"""tinylora: LoRA fine-tuning from the inside, on an autograd engine in NumPy and CuPy, spelled like PyTorch.

Read it in this order: op.py, ops/nn.py, tensor.py, nn/module.py, models/gpt.py, lora.py.
"""

import tinylora.kernels
import tinylora.torch_api.methods as _methods
from tinylora import adapters, lora, models, nn, optim, testing
from tinylora.training import cuda
from tinylora.torch_api import functional
from tinylora.backend import bool_ as bool
from tinylora.backend import bfloat16, device, float16, float32, float64, int8, int16, int32, int64, manual_seed
from tinylora.backend import set_default_device, uint8
from tinylora.torch_api.creation import arange, empty, empty_like, eye, from_numpy, full, full_like, ones, ones_like, rand
from tinylora.torch_api.creation import rand_like, randint, randn, randn_like, tensor, zeros, zeros_like
from tinylora.torch_api.functional import abs, add, amax, amin, clamp, cos, cumsum, div, einsum, erf, exp, log, log_softmax
from tinylora.torch_api.functional import (
    masked_fill,
    matmul,
    maximum,
    mean,
    minimum,
    mul,
    neg,
    pow,
    prod,
    relu,
    rsqrt,
    sigmoid,
)
from tinylora.torch_api.functional import sin, softmax, sqrt, std, sub, sum, tanh, var, where
from tinylora.kernels import get_num_threads, no_kernels, set_num_threads
from tinylora.kernels.cuda.gemm import get_float32_matmul_precision, set_float32_matmul_precision
from tinylora.models import load_model
from tinylora.nn.count import count_parameters
from tinylora.testing.profile import profile
from tinylora.training.recompute import checkpoint
from tinylora.torch_api.promote import result_type
from tinylora.torch_api.shaping import argmax, argsort, cat, chunk, flatten, gather, index_select, max, min, permute
from tinylora.torch_api.shaping import (
    scatter_add,
    sort,
    split,
    squeeze,
    stack,
    topk,
    transpose,
    tril,
    triu,
    unbind,
    unsqueeze,
)
from tinylora.tensor import Tensor, inference_mode, no_grad

__version__ = "0.1.0"

inf, nan, pi, e = float("inf"), float("nan"), 3.141592653589793, 2.718281828459045
float, double, half, int, long = float32, float64, float16, int32, int64

allclose, equal, numel = _methods.allclose, _methods.equal, _methods.METHODS["numel"]
any, all, clone = _methods.any, _methods.all, _methods.clone
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "isnan", "isinf", "isfinite",
              "floor", "ceil", "round", "sign"):  # fmt: skip
    globals()[_name] = _methods.UNTRACKED[_name]
