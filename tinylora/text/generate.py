"""Generates text with a decoder, one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinylora.tensor import no_grad
from tinylora.text.sampling import Sampling
from tinylora.torch_api.creation import tensor

if TYPE_CHECKING:
    from tinylora.models.decoder import Decoder


def generate(
    model: Decoder,
    prompt: Sequence[int],
    count: int,
    sampling: Sampling = Sampling(),
    stop: Collection[int] = (),
    seed: int | None = None,
) -> Iterator[int]:
    """Yield up to `count` tokens that continue `prompt`, and end before the first that is in `stop`.

    Tokens that no longer fit the context are dropped from the front; from then on every token costs a forward pass over
    the whole context, since all positions shift. Puts the model into evaluation mode. Raises ValueError for an empty prompt.

    >>> import tinylora
    >>> from tinylora.text.sampling import GREEDY
    >>> bytes(generate(tinylora.load_model("nano"), b"The Fren", 2, GREEDY))
    b'ch'
    """
    for (token,) in generate_batch(model, [prompt], count, sampling, stop, seed):
        if token is not None:
            yield token


def generate_batch(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    count: int,
    sampling: Sampling = Sampling(),
    stop: Collection[int] = (),
    seed: int | None = None,
) -> Iterator[list[int | None]]:
    """Continue several prompts at once: yield the next token of each, None for one that has ended.

    Prompts of different lengths are padded on the left, and the padding is masked out. The tokens drawn for a prompt depend
    on the seed and its index, and not on the other prompts.
    """
    if not hasattr(model, "new_cache"):
        raise TypeError(f"generate needs a Decoder, such as GPTModel or LlamaModel, not {type(model).__name__}")
    if not all(prompts):
        raise ValueError("generate needs a prompt of at least one token")
    model.eval()
    context, width = model.cfg.context_length, max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    rows = [[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)]
    rngs = np.random.default_rng(seed).spawn(len(rows))
    running = [True] * len(rows)
    cache, steps = model.new_cache(padding, min(width + count, context)), None
    for step in range(count):
        start = cache.length
        if (length := width + step) > context:  # all positions shift, so the cache is no longer valid
            start, steps = length - context, None
            cache = model.new_cache([max(pad - start, 0) for pad in padding])
        elif step == 1:
            steps = model.new_steps(cache)  # None on the CPU
        if steps is None:
            with no_grad():
                ids = tensor([row[start:] for row in rows], device=model.tok_emb.weight.device)
                last = model.features(ids, cache)[:, -1]
                scores = model.out_head(last).double().cpu().numpy()  # (B, vocabulary)
        elif sampling.is_greedy:
            tokens = steps.likeliest([row[-1] for row in rows])
        else:
            scores = steps.scores([row[-1] for row in rows])
        for i, row in enumerate(rows):
            if steps is not None and sampling.is_greedy:
                row.append(tokens[i])
            else:
                row.append(sampling.draw(scores[i], row[padding[i] :], rngs[i]) if running[i] else 0)
            running[i] &= row[-1] not in stop
        if not any(running):
            return
        yield [row[-1] if on else None for row, on in zip(rows, running, strict=True)]


def pieces(tokens: Iterable[int], decode: Callable[[list[int]], str], prompt: Sequence[int] = ()) -> Iterator[str]:
    """Decode tokens as they arrive; a piece of text is yielded as soon as its last character is complete.

    Give the `prompt` that they continue where that is printed before them: some tokenizers drop the space before the first
    word of a text.

    >>> list(pieces([72, 195, 164, 33], lambda ids: bytes(ids).decode(errors="replace")))
    ['H', 'ä', '!']
    """
    known = list(prompt[-8:])
    said = text = decode(known) if known else ""
    for token in tokens:
        known.append(token)
        text = decode(known)
        if len(text) > len(said) and not text.endswith("\ufffd"):  # U+FFFD marks an incomplete character
            yield text[len(said) :]
            said = text
    if len(text) > len(said):
        yield text[len(said) :]
