"""The training loop: fine-tunes a classifier on labelled messages with AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinylora.models.decoder import Decoder
from tinylora.nn.utils import clip_grad_norm_
from tinylora.optim import AdamW
from tinylora.tasks.messages import Batch, Message, batches, collate
from tinylora.tasks.metrics import Metrics
from tinylora.tensor import Tensor, no_grad
from tinylora.text.tokenizer import BYTES, Tokenizer
from tinylora.torch_api.functional import cross_entropy, softmax
from tinylora.training.cuda import can_capture, capture


@dataclass(frozen=True)
class TrainConfig:
    """lr is the peak learning rate, reached after `warmup` (a fraction of all steps); `clip` limits the gradient's norm.

    With `graph`, a step on a GPU is captured once for each shape of batch (`tinylora.cuda.capture`) and launched as a whole;
    batches are then padded to one of a few lengths, so that few graphs are needed.
    """

    epochs: int = 2
    lr: float = 1e-3
    batch_size: int = 32
    seed: int = 0
    warmup: float = 0.1
    clip: float = 1.0
    weight_decay: float = 0.01
    graph: bool = True  # on a GPU, steps as CUDA graphs


LENGTHS = 32  # batches for captured steps are padded to a multiple of this
Report = Callable[[dict[str, Any]], None]


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Fraction of the peak learning rate at `step`: linear warm-up over `warmup` steps, then cosine decay to a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def class_scores(model: Decoder, batch: Batch) -> Tensor:
    """Class scores (B, classes) at each message's last token."""
    return model.out_head(model.features_at(batch.ids, batch.last))


def train(
    model: Decoder,
    messages: Sequence[Message],
    valid: Sequence[Message],
    labels: Sequence[str],
    config: TrainConfig,
    report: Report = lambda event: None,
    tokenizer: Tokenizer = BYTES,
) -> bool:
    """Fine-tune whatever requires grad in `model`, and keep the state of the best epoch on `valid`.

    The best epoch has the highest accuracy, and among equals the lowest loss. However training ends, also by an error, the
    model is left in the best state so far. `report` gets a dict after every step (epoch, step, steps, loss, accuracy, lr)
    and every epoch (epoch, valid). Returns False if Ctrl-C ended training early. Raises FloatingPointError if the loss is
    NaN.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
    rng = np.random.default_rng(config.seed)
    steps = config.epochs * math.ceil(len(messages) / config.batch_size)
    best = ((-1.0, 0.0), [p.array.copy() for p in trained])  # copied: a captured step overwrites the arrays
    captured = config.graph and can_capture(trained[0].device)
    step_on = _step_of(model, optimizer, config.clip)
    run = capture(step_on, optimizer) if captured else step_on
    context, multiple = model.cfg.context_length, LENGTHS if captured else 1
    step = 0
    finished = True
    try:
        for epoch in range(1, config.epochs + 1):
            model.train()
            for _, batch in batches(messages, labels, context, config.batch_size, rng, tokenizer, multiple):
                lr = config.lr * warmup_cosine(step, steps, math.ceil(config.warmup * steps))
                optimizer.param_groups[0]["lr"] = lr
                loss, norm, right = (x.item() for x in run(*batch))
                step += 1
                if not math.isfinite(loss) or not math.isfinite(norm):
                    raise FloatingPointError(f"the loss became NaN or infinite at step {step}: try a lower lr")
                report({"epoch": epoch, "step": step, "steps": steps, "loss": loss, "accuracy": right, "lr": lr})
            metrics = evaluate(model, valid, labels, tokenizer)
            rank = (metrics.accuracy, -metrics.loss)
            if rank > best[0]:
                best = rank, [p.array.copy() for p in trained]
            report({"epoch": epoch, "valid": metrics})
    except KeyboardInterrupt:
        finished = False
    finally:
        for p, array in zip(trained, best[1], strict=True):
            p.array = array
        model.eval()
    return finished


def _step_of(model: Decoder, optimizer: AdamW, clip: float) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """One step on the parts of a Batch: the loss, the gradient's norm, and the accuracy."""

    def step(ids: Tensor, last: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = class_scores(model, Batch(ids, last, classes))
        loss = cross_entropy(scores, classes)
        optimizer.zero_grad()
        loss.backward()
        norm = clip_grad_norm_(optimizer.parameters(), clip)
        with np.errstate(all="ignore"):  # NaN after a loss that is not finite, which the caller raises
            optimizer.step()
        return loss, norm, (scores.argmax(1) == classes).float().mean()

    return step


def predict(model: Decoder, texts: Sequence[str], batch_size: int = 64, tokenizer: Tokenizer = BYTES) -> np.ndarray:
    """Class probabilities (texts, classes), as a NumPy array."""
    model.eval()
    encoded = [tokenizer.encode(text, model.cfg.context_length) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    out = np.zeros((len(texts), model.out_head.out_features), np.float32)
    with no_grad():
        for i in range(0, len(order), batch_size):
            chosen = order[i : i + batch_size]
            batch = collate([encoded[j] for j in chosen], [0] * len(chosen), tokenizer.pad)
            out[chosen] = softmax(class_scores(model, batch), -1).cpu().numpy()
    return out


def evaluate(model: Decoder, messages: Sequence[Message], labels: Sequence[str], tokenizer: Tokenizer = BYTES) -> Metrics:
    """Accuracy, per-class scores, confusion matrix and mean loss on `messages`."""
    p = predict(model, [m.text for m in messages], tokenizer=tokenizer)
    true = np.array([labels.index(m.label) for m in messages])
    loss = -np.log(np.maximum(p[np.arange(len(true)), true], 1e-30)).mean()
    return Metrics.of(labels, true.tolist(), p.argmax(1).tolist(), float(loss))
