"""Modules, spelled as in `torch.nn`."""

from tinylora.torch_api import functional as functional
from tinylora.nn import utils as utils
from tinylora.nn.layers import GELU, CrossEntropyLoss, Dropout, Embedding, Identity, LayerNorm, Linear, ModuleList, ReLU
from tinylora.nn.layers import Sequential, SiLU, Softmax
from tinylora.nn.module import Module, Parameter, fan_out
