"""Modules, with the names and arguments of `torch.nn`."""

from tinylora.nn import functional as functional
from tinylora.nn import utils as utils
from tinylora.nn.layers import GELU, CrossEntropyLoss, Dropout, Embedding, Identity, LayerNorm, Linear, ModuleList, ReLU
from tinylora.nn.layers import RMSNorm, Sequential, SiLU, Softmax
from tinylora.nn.module import Module, Parameter, fan_out
