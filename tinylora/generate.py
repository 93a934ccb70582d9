"""Text from a GPT, one token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tinylora.creation import tensor
from tinylora.models.gpt import GPTModel
from tinylora.tensor import no_grad


def generate(
    model: GPTModel,
    prompt: Sequence[int],
    count: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
) -> Iterator[int]:
    """Yield `count` tokens that continue `prompt`, each drawn from softmax(scores / temperature).

    Temperature 0 takes the likeliest token always; `top_k` leaves only the k likeliest to draw from. What no longer fits
    the context is forgotten from the front. Raises ValueError for an empty prompt.
    """
    if not prompt:
        raise ValueError("generate needs a prompt of at least one token")
    rng = np.random.default_rng(seed)
    ids = list(prompt)
    model.eval()
    for _ in range(count):
        window = ids[-model.cfg["context_length"] :]
        with no_grad():
            scores = model.out_head(model.features(tensor([window]))[:, -1])[0].double().cpu().numpy()
        ids.append(_draw(scores, temperature, top_k, rng))
        yield ids[-1]


def _draw(scores: np.ndarray, temperature: float, top_k: int | None, rng: np.random.Generator) -> int:
    if temperature == 0:
        return int(scores.argmax())
    if top_k is not None and top_k < len(scores):
        scores = np.where(scores >= np.sort(scores)[-top_k], scores, -np.inf)
    with np.errstate(over="ignore"):  # at a temperature of next to nothing
        p = np.exp((scores - scores.max()) / temperature)
    return int(rng.choice(len(p), p=p / p.sum()))
