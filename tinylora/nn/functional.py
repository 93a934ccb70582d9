"""PyTorch's functions under the name people import them by: `import tinylora.nn.functional as F`."""

from tinylora.torch_api.activations import celu, elu, glu, gumbel_softmax, hardshrink, hardsigmoid, hardswish, hardtanh
from tinylora.torch_api.activations import leaky_relu, logsigmoid, mish, prelu, relu, relu6, selu, silu, softmin, softplus
from tinylora.torch_api.activations import softshrink, softsign, tanhshrink, threshold
from tinylora.torch_api.distances import cosine_similarity, normalize, pairwise_distance
from tinylora.torch_api.functional import abs, add, amax, amin, clamp, cos, cumsum, div, einsum, erf, exp, gelu, log
from tinylora.torch_api.functional import log_softmax, masked_fill, matmul, maximum, mean, minimum, mul, neg, pow, prod
from tinylora.torch_api.functional import rsqrt, sigmoid, sin, softmax, sqrt, std, sub, sum, swiglu, tanh, var, where
from tinylora.torch_api.losses import binary_cross_entropy, binary_cross_entropy_with_logits, cosine_embedding_loss
from tinylora.torch_api.losses import cross_entropy, huber_loss, kl_div, l1_loss, linear_cross_entropy, margin_ranking_loss
from tinylora.torch_api.losses import mse_loss, nll_loss, smooth_l1_loss, soft_margin_loss, triplet_margin_loss
from tinylora.torch_api.network import dropout, embedding, layer_norm, linear, lora_linear, rms_norm, rope
from tinylora.torch_api.network import scaled_dot_product_attention
from tinylora.torch_api.rearranging import pad
from tinylora.torch_api.scattering import one_hot
from tinylora.torch_api.losses import gaussian_nll_loss, hinge_embedding_loss, poisson_nll_loss
from tinylora.torch_api.normalization import batch_norm, group_norm
