"""Modules, with the names and arguments of `torch.nn`."""

from __future__ import annotations

import importlib
import typing

from tinylora.nn import functional as functional
from tinylora.nn import utils as utils
from tinylora.nn import init as init
from tinylora.nn.activations import CELU, ELU, GELU, GLU, Hardsigmoid, Hardswish, Hardtanh, LeakyReLU, LogSigmoid, LogSoftmax
from tinylora.nn.activations import Mish, PReLU, ReLU, ReLU6, SELU, Sigmoid, SiLU, Softmax, Softplus, Softsign, Tanh
from tinylora.nn.containers import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from tinylora.nn.layers import Dropout, Embedding, Flatten, Identity, LayerNorm, Linear, RMSNorm, Unflatten
from tinylora.nn.losses import BCELoss, BCEWithLogitsLoss, CosineSimilarity, CrossEntropyLoss, HuberLoss, KLDivLoss, L1Loss
from tinylora.nn.losses import MSELoss, NLLLoss, SmoothL1Loss
from tinylora.nn.module import Module, Parameter, fan_out

if typing.TYPE_CHECKING:
    from tinylora.nn import parallel
    from tinylora.nn.batch_norm import BatchNorm1d
    from tinylora.nn.parallel import DataParallel
    from tinylora.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
    from tinylora.nn.transformer import MultiheadAttention, TransformerEncoder, TransformerEncoderLayer
else:
    # imported at their first use
    _NAMES = dict.fromkeys(("GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"), "recurrent")
    _NAMES |= dict.fromkeys(("MultiheadAttention", "TransformerEncoder", "TransformerEncoderLayer"), "transformer")
    _NAMES |= {"DataParallel": "parallel", "BatchNorm1d": "batch_norm"}

    def __getattr__(name):
        if name == "parallel":
            return importlib.import_module(f"tinylora.nn.{name}")
        if name in _NAMES:
            return globals().setdefault(name, getattr(importlib.import_module(f"tinylora.nn.{_NAMES[name]}"), name))
        raise AttributeError(f"module 'tinylora.nn' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *_NAMES})
