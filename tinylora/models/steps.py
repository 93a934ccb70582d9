"""Generates tokens on a GPU by launching one CUDA graph per token.

A token of a small model is a few hundred launches of a few microseconds, and Python takes longer to launch them than the GPU
to run them. The graph reads its column and its tokens from the GPU and writes the next ones there, so the next launch need
not wait until the host has read the tokens of this one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylora.backend import allocator, array_module, cupy
from tinylora.kernels.cuda.decode import argmax_rows, attention_step, handles
from tinylora.kernels.cuda.gemm import WORKSPACE, cublas_lt, own_workspace
from tinylora.models.cache import Cache, LayerCache
from tinylora.tensor import Tensor, no_grad

if TYPE_CHECKING:
    from tinylora.models.decoder import Decoder


class StepCache:
    """Continues `cache` by one token at a time, in its memory. `position` (1,), on the GPU, is the next one's column."""

    def __init__(self, cache: Cache) -> None:
        keys = cache.layers[0].keys
        xp: Any = array_module(keys)
        self.cache = cache
        self.position = xp.full(1, cache.length, np.int64)
        self.first = xp.asarray(np.array(cache.padding or [0] * len(keys), np.int64))

    def __getitem__(self, i: int) -> LayerCache:
        return _Layer(self, self.cache.layers[i].keys, self.cache.layers[i].values)

    def positions(self, T: int) -> Tensor:
        """The next token's position in each text: (1,), or (B, 1) with padding."""
        return Tensor(self.position if self.cache.padding is None else self.position - self.first[:, None])


class _Layer:
    def __init__(self, owner: StepCache, keys: Any, values: Any) -> None:
        self.owner, self.keys, self.values = owner, keys, values

    def attend(self, q: Tensor, k: Tensor, v: Tensor, p: float = 0.0) -> Tensor:
        arrays = q.array, k.array, v.array, self.keys, self.values
        return Tensor(attention_step(array_module(self.keys), *arrays, self.owner.position, self.owner.first))


class Steps:
    """The tokens that follow what is in `cache`, one column after another, for as many as fit into it.

    The first step runs as it is, the second is captured, all on a stream of their own. Use either `likeliest` or `scores`.
    """

    def __init__(self, model: Decoder, cache: Cache) -> None:
        xp: Any = cupy()
        self.model, self.cache, self.left = model, StepCache(cache), cache.size - cache.length
        self.ids = xp.zeros((len(cache.layers[0].keys), 1), np.int64)
        self.stream, self.pool = xp.cuda.Stream(non_blocking=True), xp.cuda.MemoryPool()
        self.workspace = xp.cuda.Memory(WORKSPACE)
        self.graph: Any = None
        self.launches = 0
        self.ahead: list[tuple[np.ndarray, Any]] = []  # tokens that are being computed, with the events of their arrival
        self.stream.wait_event(xp.cuda.get_current_stream().record())

    def __del__(self) -> None:
        self.stream.synchronize()  # a step that was launched ahead uses memory that is freed now

    @staticmethod
    def fit(model: Decoder, cache: Cache) -> bool:
        """Whether this model can be captured: on a GPU, with nvmath-python, and heads that the kernel takes."""
        on_gpu = model.tok_emb.weight.device == "cuda" and cublas_lt() is not None
        return on_gpu and handles(cache.layers[0].keys, model.cfg.n_heads)

    def likeliest(self, tokens: Sequence[int]) -> list[int]:
        """The likeliest token after each text; `tokens` are those returned before, or the first ones to continue."""
        if not self.ahead:
            self._put(tokens)
        while len(self.ahead) < 2 and self.left:
            self._launch()
            self.ahead.append(self._copied())
        array, arrived = self.ahead.pop(0)
        arrived.synchronize()
        return array.tolist()

    def scores(self, tokens: Sequence[int]) -> np.ndarray:
        """The scores of the token after `tokens`, (B, vocabulary) in float64."""
        self._put(tokens)
        self._launch()
        with self.stream:
            return self.out.get().astype(np.float64)

    def _put(self, tokens: Sequence[int]) -> None:
        with self.stream:
            self.ids.set(np.asarray(tokens, np.int64).reshape(-1, 1))

    def _launch(self) -> None:
        """Compute the next scores, and replace the tokens by the likeliest ones."""
        with self.stream:
            if self.launches == 1:
                self.graph = self._captured()
            if self.graph is None:
                self._run()
            else:
                self.graph.launch()
        self.launches, self.left = self.launches + 1, self.left - 1

    def _captured(self) -> Any:
        """The graph of a step, or None if a layer of this model cannot be captured."""
        xp: Any = cupy()
        self.stream.begin_capture(xp.cuda.runtime.streamCaptureModeRelaxed)
        try:
            self._run()
            return self.stream.end_capture()
        except (RuntimeError, xp.cuda.runtime.CUDARuntimeError):  # the step as it is will show any other error again
            with contextlib.suppress(xp.cuda.runtime.CUDARuntimeError):
                self.stream.end_capture()
            return None

    def _run(self) -> None:
        xp: Any = cupy()
        with own_workspace(self.workspace), xp.cuda.using_allocator(allocator(self.pool)), no_grad():
            features = self.model.features(Tensor(self.ids), self.cache)[:, -1]  # type: ignore[arg-type]  # a LayerCache
            self.out = self.model.out_head(features).array  # (B, vocabulary)
            argmax_rows(xp, self.out, self.ids)
            self.cache.position += 1

    def _copied(self) -> tuple[np.ndarray, Any]:
        """The tokens (B,) on the host, as they are once the event has passed."""
        memory = cupy().cuda.alloc_pinned_memory(self.ids.nbytes)
        self.ids.data.copy_to_host_async(memory.ptr, self.ids.nbytes, self.stream)
        return np.frombuffer(memory, np.int64, self.ids.size), self.stream.record()
