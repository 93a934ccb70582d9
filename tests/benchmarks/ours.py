"""tinylora's side of the benchmark, written the way its user would write it.

Every function builds something once and returns what is timed: a call without arguments.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from work import LlamaWork, Work

import tinylora
from tinylora import lora, nn, optim
from tinylora.models.decoder import Decoder
from tinylora.models.gpt import GPTModel
from tinylora.models.llama import LlamaModel
from tinylora.nn import functional as F
from tinylora.tasks.classify import class_scores
from tinylora.text.generate import generate as continuation
from tinylora.text.sampling import GREEDY


def classifier(work: Work) -> GPTModel:
    """GPT-2 with two classes, frozen and with a LoRA around every Linear unless all of it is to be trained."""
    tinylora.manual_seed(0)
    model = GPTModel(work.config)
    model.out_head = nn.Linear(work.width, 2)
    if not work.full:
        lora.freeze(model)
        with warnings.catch_warnings(action="ignore"):  # rank 16 is more than the head's two classes can use
            lora.replace_linear_with_lora(model, rank=work.rank, alpha=work.rank)
    return model


class Batch(NamedTuple):
    """Tokens (B, T), the position that is read in each row (B,), and class numbers (B,)."""

    ids: tinylora.Tensor
    last: tinylora.Tensor
    classes: tinylora.Tensor


def batch_of(work: Work) -> Batch:
    last = np.full(work.batch, work.length - 1)
    return Batch(tinylora.tensor(work.tokens()), tinylora.tensor(last), tinylora.tensor(work.labels()))


def loss_of(model: Decoder, batch: Batch, every_position: bool = False) -> tinylora.Tensor:
    """The loss at each row's last token, as classification computes it: its last block skips the other positions.

    With `every_position`, the model computes them all, as the lecture's does.
    """
    scores = model(batch.ids)[:, -1] if every_position else class_scores(model, batch.ids, batch.last)
    return F.cross_entropy(scores, batch.classes)


def train_step(every_position: bool = False, **work: Any) -> Callable[[], float]:
    """One whole step: zero, forward, loss, backward, update."""
    model, batch = classifier(Work(**work)), batch_of(Work(**work))
    return step_of(model, lambda: loss_of(model, batch, every_position))


def step_of(model: nn.Module, loss_of_batch: Callable[[], tinylora.Tensor]) -> Callable[[], float]:
    optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5)

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of_batch()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def llama(work: LlamaWork) -> LlamaModel:
    """SmolLM2 with random weights, frozen, and with a LoRA around every Linear of its blocks."""
    tinylora.manual_seed(0)
    model = LlamaModel(work.config)
    lora.freeze(model)
    lora.replace_linear_with_lora(model.trf_blocks, rank=work.rank, alpha=1)  # PEFT divides its alpha by the rank
    return model


def language_loss(model: LlamaModel, ids: tinylora.Tensor, following: tinylora.Tensor) -> tinylora.Tensor:
    """The mean loss of the next token, head and cross-entropy in one: the logits of all positions are never held."""
    return F.linear_cross_entropy(model.features(ids), model.out_head.weight, following)


def llama_step(**work: Any) -> Callable[[], float]:
    """One whole step of SmolLM2: zero, forward, loss, backward, update."""
    model = llama(LlamaWork(**work))
    ids, following = map(tinylora.tensor, LlamaWork(**work).texts())
    return step_of(model, lambda: language_loss(model, ids, following))


def llama_class_step(**work: Any) -> Callable[[], float]:
    """One whole step of SmolLM2 with two classes, whose head is trained whole, as PEFT does."""
    model = llama(LlamaWork(**work))
    model.set_classes(2)
    batch = batch_of(LlamaWork(**work))
    return step_of(model, lambda: loss_of(model, batch))


def small_network(width: int, batch: int, repeats: int) -> Callable[[], None]:
    """Forward and backward of two Linears, `repeats` times: what an op costs beside its arithmetic."""
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    x = tinylora.randn(batch, width)

    def run() -> None:
        for _ in range(repeats):
            model.zero_grad()
            model(x).sum().backward()

    return run


def language_model(work: Work) -> GPTModel:
    """GPT-2 whose head shares the weight of its token embedding."""
    tinylora.manual_seed(0)
    return GPTModel({**work.config, "tie_head": True})


def generate(prompt: int, count: int, **work: Any) -> Callable[[], list[int]]:
    """`count` tokens after a prompt of `prompt` tokens, the likeliest always, from GPT-2 with its language head."""
    model = language_model(Work(**work))
    start = Work(batch=1, length=prompt, vocabulary=Work(**work).vocabulary).tokens()[0].tolist()
    return lambda: list(continuation(model, start, count, GREEDY))


def llama_generate(prompt: int, count: int, **work: Any) -> Callable[[], list[int]]:
    """`count` tokens after a prompt, the likeliest always, from SmolLM2."""
    tinylora.manual_seed(0)
    sizes = LlamaWork(batch=1, length=prompt, **work)
    model, start = LlamaModel(sizes.config), sizes.tokens()[0].tolist()
    return lambda: list(continuation(model, start, count, GREEDY))


def build(**work: Any) -> Callable[[], None]:
    """GPT-2 with random weights, language head and all."""

    def run() -> None:
        GPTModel(Work(**work).config)

    return run
