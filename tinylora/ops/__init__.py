"""Every op, by name: `ops.gelu(x)` takes arrays and returns the output and its vjps."""

from tinylora.op import OPS as OPS
from tinylora.ops.activations import elu, hardtanh, leaky_relu, mish, softplus
from tinylora.ops.elementwise import abs, add, cast, ceil, clamp, cos, div, erf, exp, floor, log, maximum, minimum, move, mul
from tinylora.ops.elementwise import neg, pow, relu, remainder, round, rsqrt, sigmoid, sign, silu, sin, sqrt, sub, tanh
from tinylora.ops.elementwise import where
from tinylora.ops.exponentials import erfc, erfinv, exp2, expm1, log1p, log2, log10, logaddexp, logsumexp
from tinylora.ops.last import attention_at, rows_at
from tinylora.ops.linalg import einsum, matmul
from tinylora.ops.lora import dropout_lora_linear, lora_linears
from tinylora.ops.nn import attention, cross_entropy, dropout, embedding, gelu, layer_norm, linear, log_softmax
from tinylora.ops.nn import linear_cross_entropy, lora_linear, rms_norm, softmax, swiglu
from tinylora.ops.norms import norm
from tinylora.ops.optim import adam, clip_norm
from tinylora.ops.quantized import nf4_weight, quantized_linear
from tinylora.ops.rearrange import diag_embed, diagonal, flip, pad, roll, scatter, scatter_reduce, unfold
from tinylora.ops.reduce import amax, amin, cumsum, mean, prod, std, sum, var
from tinylora.ops.rotary import rope
from tinylora.ops.rounding import copysign, fmod, quotient, trunc
from tinylora.ops.scans import cumprod, logcumsumexp
from tinylora.ops.shape import cat, expand, gather, getitem, permute, reshape, scatter_add, setitem, tril, triu
from tinylora.ops.trigonometry import acos, acosh, asin, asinh, atan, atan2, atanh, cosh, hypot, sinh, tan
