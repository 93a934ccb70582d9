"""PyTorch's functions under the name people import them by: `import tinylora.nn.functional as F`."""

from tinylora.torch_api.functional import abs, add, amax, amin, clamp, cos, cross_entropy, cumsum, div, dropout, einsum
from tinylora.torch_api.functional import (
    embedding,
    erf,
    exp,
    gelu,
    layer_norm,
    linear,
    linear_cross_entropy,
    log,
    log_softmax,
)
from tinylora.torch_api.functional import lora_linear, rms_norm, rope, swiglu
from tinylora.torch_api.functional import masked_fill, matmul, maximum, mean, minimum, mul, neg, pow, prod, relu, rsqrt
from tinylora.torch_api.functional import scaled_dot_product_attention, sigmoid, silu, sin, softmax, sqrt, std, sub, sum
from tinylora.torch_api.functional import tanh, var, where
