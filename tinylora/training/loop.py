"""The training loop: AdamW on whatever requires grad, for any model and any task."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinylora.models.decoder import Decoder
from tinylora.nn.utils import clip_grad_norm_
from tinylora.optim import AdamW
from tinylora.tasks.batching import arrange, pack, pad, row_length
from tinylora.tasks.examples import Rows
from tinylora.tasks.task import Score, Task
from tinylora.tensor import Tensor
from tinylora.torch_api.promote import tensor
from tinylora.torch_api.shaping import stack
from tinylora.training.cuda import can_capture, capture
from tinylora.training.memory import Batch, free_memory, training_need
from tinylora.training.report import Plan, Reporter, Step
from tinylora.training.schedule import DECAYS, learning_rate
from tinylora.training.state import TrainState

LENGTHS = 32  # batches for captured steps are padded to a multiple of this


@dataclass(frozen=True)
class TrainConfig:
    """How to train. A gradient is the mean over all that is predicted in `accumulate` batches of `batch_size` examples.

    pack: put several examples into a row, where they do not see each other, instead of padding each. lr: the peak learning
    rate, reached after `warmup` (a fraction of all steps), then following `schedule`. clip: the
    largest norm of the gradient. patience: stop after so many validations without a better one. eval_every: validate every
    so many steps and at the end, else after every epoch. graph: on a GPU, capture a step once for each shape of batch and
    launch it as a whole (`cuda.capture`); batches are then padded to one of a few lengths, so that few graphs are needed.
    """

    epochs: int = 2
    lr: float = 1e-3
    batch_size: int = 16
    accumulate: int = 1
    pack: bool = False
    seed: int = 0
    warmup: float = 0.1
    schedule: str = "cosine"
    clip: float = 1.0
    weight_decay: float = 0.01
    patience: int | None = None
    eval_every: int | None = None
    graph: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ValueError(f"{name} is a whole number of at least 1, not {value!r}")
        for name in ("patience", "eval_every"):
            if (value := getattr(self, name)) is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is a whole number of at least 1, or None, not {value!r}")
        if self.schedule not in DECAYS:
            raise ValueError(f"schedule is one of {', '.join(DECAYS)}, not {self.schedule!r}")


class Trainer:
    """Trains a model on a task's examples, and keeps the state that does best on `valid`.

    >>> import tinylora
    >>> from tinylora.tasks.classify import Classify
    >>> from tinylora.tasks.messages import Message
    >>> from tinylora.text.tokenizer import BYTES
    >>> model = tinylora.load_model("nano")
    >>> task = Classify(BYTES, model.cfg.context_length, labels=("ham", "spam"))
    >>> task.head(model)
    >>> few = [Message("ham", "see you"), Message("spam", "win now")]
    >>> Trainer(model, task, few, few, TrainConfig(epochs=1)).run().step
    1
    """

    def __init__(
        self,
        model: Decoder,
        task: Task,
        examples: Sequence[Any],
        valid: Sequence[Any],
        config: TrainConfig,
        reporter: Reporter | None = None,
    ) -> None:
        self.model, self.task, self.valid, self.config = model, task, valid, config
        self.reporter = reporter or Reporter()
        self.encoded = [piece for example in examples for piece in task.encode(example)]
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
        self.state = TrainState(model, self.optimizer)
        self.device = trained[0].device
        self.captured = config.graph and can_capture(self.device)
        self._step = capture(self._step_of_parts, self.optimizer) if self.captured else self._step_of_parts
        one = np.zeros((1, 1), int)
        self._each = 1 + len(task.inputs(Rows(one, one, one if config.pack else None)))  # inputs of a step for each batch
        self._arranged: tuple[int, list[list[list[int]]]] = (0, [])  # an epoch, and its steps
        self.steps_per_epoch = len(self._steps_of(1))

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        return self.config.epochs * self.steps_per_epoch

    def plan(self, recomputed: bool = False) -> Plan:
        """What training takes. `recomputed`: the model's blocks are checkpointed."""
        batches = [[self.encoded[i] for i in part] for step in self._steps_of(1) for part in step]
        sizes = [Batch(len(b), max(len(e.ids) for e in b), sum(self.task.weight(e.targets) for e in b)) for b in batches]
        largest = max(sizes, key=lambda size: (size.rows * size.length, size.predicted))
        where = self.optimizer.parameters()[0].device
        need = training_need(self.model, largest, recomputed)
        return Plan(self.steps, self.config.epochs * sum(len(e.ids) for e in self.encoded), need.total, free_memory(where))

    def run(
        self,
        after_step: Callable[[TrainState], None] = lambda state: None,
        validating: Callable[[TrainState], contextlib.AbstractContextManager[None]] = lambda state: contextlib.nullcontext(),
    ) -> TrainState:
        """Train to the end, from where `state` is; then put the best values into the model.

        `after_step(state)` is called after every step and after every validation; what it raises ends training. Whenever it
        is called, and inside `validating(state)`, which surrounds each validation, the state may be stored: training that
        goes on from it ends with the same bytes. However training ends, the model is left in evaluation mode with the best
        values so far. Raises FloatingPointError if the loss is NaN.
        """
        state = self.state
        try:
            while not state.finished:
                if self._validation_due():
                    with validating(state):
                        score = self.task.validate(self.model, self.valid)
                    self._validated(score)
                else:
                    self.model.train()
                    steps = self._steps_of(state.epoch + 1)
                    done = self.step(steps[state.step_in_epoch])
                    if state.step_in_epoch == len(steps):
                        state.epoch, state.step_in_epoch = state.epoch + 1, 0
                    self.reporter.stepped(done)
                state.finished |= state.epoch == self.config.epochs and not self._validation_due()
                after_step(state)
        finally:
            state.restore_best()
            self.model.eval()
        return state

    def step(self, parts: list[list[int]]) -> Step:
        """One step on batches of examples, given by their numbers."""
        state, config = self.state, self.config
        lr = config.lr * learning_rate(config.schedule, state.step, self.steps, math.ceil(config.warmup * self.steps))
        self.optimizer.param_groups[0]["lr"] = lr
        multiple = LENGTHS if self.captured else 1
        chosen = [i for part in parts for i in part]
        length = row_length(self.encoded, chosen, multiple, self.model.cfg.context_length)
        lay = pack if config.pack else pad
        rows = [lay(self.encoded, part, self.task.tokenizer.pad, length).rows for part in parts]
        weights = [self.task.weight(part.targets) for part in rows]
        shares = [np.float32(weight / sum(weights)) for weight in weights]
        given = [(share, *self.task.inputs(part)) for share, part in zip(shares, rows, strict=True)]
        inputs = [tensor(array, device=self.device) for row in given for array in row]
        loss, norm = (x.item() for x in self._step(*inputs))
        state.step, state.step_in_epoch = state.step + 1, state.step_in_epoch + 1
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise FloatingPointError(f"the loss became NaN or infinite at step {state.step}: try a lower lr")
        tokens = sum(len(self.encoded[i].ids) for i in chosen)
        return Step(state.step, self.steps, state.epoch + 1, loss, norm, lr, tokens)

    def _step_of_parts(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss over all batches, and the gradient's norm. `inputs` are each batch's share and the task's inputs."""
        self.optimizer.zero_grad()
        losses = []
        for i in range(0, len(inputs), self._each):
            share, *given = inputs[i : i + self._each]
            loss = share * self.task.loss(self.model, *given)
            loss.backward()
            losses.append(loss.detach())
        norm = clip_grad_norm_(self.optimizer.parameters(), self.config.clip)
        with np.errstate(all="ignore"):  # NaN after a loss that is not finite, which the caller raises
            self.optimizer.step()
        return stack(losses).sum(), norm

    def _order(self, epoch: int) -> list[list[list[int]]]:
        """The steps of an epoch, which follow from the seed: resumed training goes on in the same order."""
        rng = np.random.default_rng([self.config.seed, epoch])
        config, lengths = self.config, [len(e.ids) for e in self.encoded]
        return arrange(lengths, config.batch_size, config.accumulate, rng, by_length=not config.pack)

    def _steps_of(self, epoch: int) -> list[list[list[int]]]:
        """The same; computed once."""
        if self._arranged[0] != epoch:
            self._arranged = epoch, self._order(epoch)
        return self._arranged[1]

    def _validation_due(self) -> bool:
        state, every = self.state, self.config.eval_every
        if state.step == state.validated:
            return False
        return state.step % every == 0 or state.epoch == self.config.epochs if every else state.step_in_epoch == 0

    def _validated(self, score: Score) -> None:
        state = self.state
        best = state.keep_best(score.rank)
        state.validated = state.step
        self.reporter.validated(state.epoch, state.step, score, best)
        if self.config.patience and state.evaluations_since_best >= self.config.patience:
            self.reporter.note(
                f"no better validation in {self.config.patience}: training ends early, "
                f"after step {state.step:,} of {self.steps:,}"
            )
            state.finished = True
