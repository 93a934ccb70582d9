"""Recurrent networks: RNN, LSTM and GRU with PyTorch's names and layout of weights, and their cells.

A layer's weights have a block of rows for each gate: weight_ih (gates · H, in), weight_hh (gates · H, H), and two biases.
The inputs of all steps are multiplied at once, the state step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tinylora.nn import functional as F
from tinylora.nn import init
from tinylora.nn.layers import uniform
from tinylora.nn.module import Module
from tinylora.tensor import Tensor
from tinylora.torch_api.creation import zeros
from tinylora.torch_api.shaping import cat, stack

State = tuple[Tensor, ...]  # (h,), or (h, c) of an LSTM; each (B, H)


# ------------------------------------------------------------------------------------- one step of a layer
def rnn_step(gi: Tensor, gh: Tensor, state: State, f: Callable[[Tensor], Tensor] = F.tanh) -> State:
    """h ← tanh(W_ih x + b_ih + W_hh h + b_hh). Elman 1990, "Finding structure in time"."""
    return (f(gi + gh),)


def lstm_step(gi: Tensor, gh: Tensor, state: State) -> State:
    """c ← σ(f) c + σ(i) tanh(g), h ← σ(o) tanh(c), with the gates i, f, g, o in this order.

    Hochreiter & Schmidhuber 1997, "Long short-term memory"; Gers et al. 2000 for the gate f.
    """
    i, f, g, o = (gi + gh).chunk(4, -1)
    c = F.sigmoid(f) * state[1] + F.sigmoid(i) * F.tanh(g)
    return F.sigmoid(o) * F.tanh(c), c


def gru_step(gi: Tensor, gh: Tensor, state: State) -> State:
    """h ← n + z (h - n), n = tanh(n_x + r n_h), with the gates r, z and n in this order. Cho et al. 2014."""
    (r_x, z_x, n_x), (r_h, z_h, n_h) = gi.chunk(3, -1), gh.chunk(3, -1)
    r, z = F.sigmoid(r_x + r_h), F.sigmoid(z_x + z_h)
    n = F.tanh(n_x + r * n_h)
    return (n + z * (state[0] - n),)


def _step_of(kind: str, nonlinearity: str) -> Callable[[Tensor, Tensor, State], State]:
    if kind != "RNN":
        return {"LSTM": lstm_step, "GRU": gru_step}[kind]
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity is 'tanh' or 'relu', not {nonlinearity!r}")
    return rnn_step if nonlinearity == "tanh" else lambda gi, gh, state: rnn_step(gi, gh, state, F.relu)


GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


class _Recurrent(Module):
    """What networks and cells share: weights of one layer and direction, by the end of their names."""

    kind: str
    hidden_size: int

    def _add(self, end: str, inputs: int, bias: bool, device: Any, dtype: Any) -> None:
        rows, H = GATES[self.kind] * self.hidden_size, self.hidden_size
        shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, H), "bias_ih": (rows,), "bias_hh": (rows,)}
        for name, shape in shapes.items():
            made = (
                uniform(*shape, bound=1 / math.sqrt(H), device=device, dtype=dtype) if bias or "bias" not in name else None
            )
            if made is not None or not end:  # cells have a bias of None, networks have none
                self.register_parameter(name + end, made)

    def reset_parameters(self) -> None:
        """Draw all weights again, uniform in ±1/√H."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _weights(self, end: str) -> list[Any]:
        return [self._parameters.get(name + end) for name in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")]


class _Network(_Recurrent):
    """Layers over a sequence, in one or both directions."""

    kind = "RNN"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        nonlinearity: str = "tanh",
    ) -> None:
        super().__init__()
        if proj_size:
            raise NotImplementedError(f"{type(self).__name__}: proj_size is not supported")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout is a probability between 0 and 1, not {dropout}")
        if hidden_size <= 0 or num_layers <= 0:
            raise ValueError(f"hidden_size and num_layers are at least 1, not {hidden_size} and {num_layers}")
        self.input_size, self.hidden_size, self.num_layers, self.bias = input_size, hidden_size, num_layers, bias
        self.batch_first, self.dropout, self.bidirectional = batch_first, float(dropout), bidirectional
        self.nonlinearity = nonlinearity
        self._step = _step_of(self.kind, nonlinearity)
        self._ends = [["", "_reverse"][: 1 + bidirectional] for _ in range(num_layers)]
        for layer in range(num_layers):
            for way in self._ends[layer]:
                inputs = input_size if layer == 0 else hidden_size * len(self._ends[0])
                self._add(f"_l{layer}{way}", inputs, bias, device, dtype)

    def flatten_parameters(self) -> None:
        """Accepted: the weights lie apart here."""

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """(output, state): outputs of the last layer at all steps, and the last state of each layer and direction.

        input (T, B, in), or (B, T, in) if batch_first, or (T, in). A state is h (layers · ways, B, H), of an LSTM (h, c).
        """
        if not isinstance(input, Tensor) or input.array.ndim not in (2, 3):
            what = f"shape {input.shape}" if isinstance(input, Tensor) else type(input).__name__
            raise ValueError(f"{self.kind}: expected an input of 2 or 3 dimensions, got {what}")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"{self.kind}: expected inputs of size {self.input_size}, got shape {input.shape}")
        single = input.array.ndim == 2
        x = input[:, None] if single else input.transpose(0, 1) if self.batch_first else input  # (T, B, in)
        states = self._first_states(hx, x, single)
        last: list[State] = []
        for layer, ways in enumerate(self._ends):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for way in ways:
                y, state = self._run(x, f"_l{layer}{way}", states[len(last)], backwards=way != "")
                outputs.append(y)
                last.append(state)
            x = cat(outputs, -1) if len(outputs) > 1 else outputs[0]  # (T, B, ways · H)
        final = [stack(list(parts)) for parts in zip(*last, strict=True)]  # (layers · ways, B, H)
        if single:
            x, final = x[:, 0], [part[:, 0] for part in final]
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, tuple(final) if self.kind == "LSTM" else final[0]

    def _first_states(self, hx: Any, x: Tensor, single: bool) -> list[State]:
        count, parts = sum(map(len, self._ends)), 2 if self.kind == "LSTM" else 1
        if hx is None:
            zero = zeros(x.shape[1], self.hidden_size, dtype=x.dtype, device=x.device)
            return [(zero,) * parts] * count
        given = tuple(hx) if self.kind == "LSTM" else (hx,)
        given = tuple(part[:, None] if single else part for part in given)
        expected = (count, x.shape[1], self.hidden_size)
        if any(part.shape != expected for part in given):
            raise RuntimeError(f"{self.kind}: expected a state of shape {expected}, got {[p.shape for p in given]}")
        return [tuple(part[i] for part in given) for i in range(count)]

    def _run(self, x: Tensor, end: str, state: State, backwards: bool) -> tuple[Tensor, State]:
        """One layer in one direction: x (T, B, in) -> (T, B, H), and its last state."""
        w_ih, b_ih, w_hh, b_hh = self._weights(end)
        inputs = F.linear(x, w_ih, b_ih).unbind(0)  # T times (B, gates · H)
        outputs = []
        for gi in reversed(inputs) if backwards else inputs:
            state = self._step(gi, F.linear(state[0], w_hh, b_hh), state)
            outputs.append(state[0])
        return stack(outputs[::-1] if backwards else outputs), state

    def extra_repr(self) -> str:
        options = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        changed = [f"{k}={getattr(self, k)}" for k, default in options.items() if getattr(self, k) != default]
        return ", ".join([str(self.input_size), str(self.hidden_size), *changed])


class RNN(_Network):
    """h ← tanh(W_ih x + b_ih + W_hh h + b_hh), or relu."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", **options: Any):
        super().__init__(input_size, hidden_size, num_layers, nonlinearity=nonlinearity, **options)


class LSTM(_Network):
    """Long short-term memory, see `lstm_step`.

    >>> from tinylora import nn, randn
    >>> output, (h, c) = nn.LSTM(8, 16, num_layers=2, batch_first=True)(randn(4, 10, 8))
    >>> output.shape, h.shape, c.shape
    ((4, 10, 16), (2, 4, 16), (2, 4, 16))
    """

    kind = "LSTM"


class GRU(_Network):
    """Gated recurrent units, see `gru_step`."""

    kind = "GRU"


class _Cell(_Recurrent):
    """One step of one layer: x (B, in) or (in,), and a state of the same number of axes, zeros if None."""

    kind = "RNN"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias, self.nonlinearity = input_size, hidden_size, bias, nonlinearity
        self._step = _step_of(self.kind, nonlinearity)
        self._add("", input_size, bias, device, dtype)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """The new state: h, or (h, c) of an LSTM."""
        w_ih, b_ih, w_hh, b_hh = self._weights("")
        if hx is None:
            zero = zeros(*input.shape[:-1], self.hidden_size, dtype=input.dtype, device=input.device)
            hx = (zero, zero) if self.kind == "LSTM" else zero
        state = tuple(hx) if self.kind == "LSTM" else (hx,)
        new = self._step(F.linear(input, w_ih, b_ih), F.linear(state[0], w_hh, b_hh), state)
        return new if self.kind == "LSTM" else new[0]

    def extra_repr(self) -> str:
        bias = "" if self.bias else ", bias=False"
        other = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return f"{self.input_size}, {self.hidden_size}{bias}{other}"


class RNNCell(_Cell):
    """h ← tanh(W_ih x + b_ih + W_hh h + b_hh), or relu."""


class LSTMCell(_Cell):
    """(h, c) ← one step of long short-term memory, see `lstm_step`."""

    kind = "LSTM"


class GRUCell(_Cell):
    """h ← one step of gated recurrent units, see `gru_step`."""

    kind = "GRU"
