"""Training moves what it should and nothing else, gives the same numbers again, and stops cleanly; metrics by formula."""

import contextlib
import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinylora
from tinylora.adapters import LoRAConfig, apply_lora
from tinylora.app import cli
from tinylora.models.gpt import GPTModel
from tinylora.runs.recipe import Recipe
from tinylora.tasks import Classify
from tinylora.tasks.batching import pad
from tinylora.tasks.classify import class_scores
from tinylora.tasks.messages import Message
from tinylora.tasks.metrics import Metrics
from tinylora.text.tokenizer import BYTES
from tinylora.training.loop import TrainConfig, Trainer
from tinylora.training.report import Reporter
from tinylora.training.schedule import DECAYS, learning_rate

TINY = {
    "vocab_size": 257, "context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.1,
    "qkv_bias": True,
}  # fmt: skip
TASK = Classify(BYTES, 16, ("a", "b"))


def messages(count, seed=0):
    """Class by first letter; lengths from 1 to 8."""
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("ab"), n)) for n in rng.integers(1, 9, count)]
    return [Message(text[0], text) for text in texts]


TRAIN, VALID = messages(64), messages(30, seed=1)


def classifier(drop=0.1):
    tinylora.manual_seed(0)
    model = GPTModel({**TINY, "drop_rate": drop})
    TASK.head(model, bias=True)
    apply_lora(model, LoRAConfig(rank=4, alpha=8.0, train=("out_head",)))
    return model


class Recorder(Reporter):
    """Keeps what it is told, and calls `after(step)` after each step."""

    def __init__(self, after=lambda step: None):
        self.steps, self.validations, self.after = [], [], after

    def stepped(self, step):
        self.steps.append(step)
        self.after(step)

    def validated(self, epoch, step, score, best):
        self.validations.append((epoch, step, score, best))

    @property
    def losses(self):
        return [step.loss for step in self.steps]


def run(config, after=lambda step: None, drop=0.1, task=TASK):
    model, recorder = classifier(drop), Recorder(after)
    state = Trainer(model, task, TRAIN, VALID, config, recorder).run()
    return model, recorder, state


# ------------------------------------------------------------------------------------------- training
def test_the_loss_falls_and_the_base_stays():
    start = classifier()
    model, found, state = run(TrainConfig(epochs=8, lr=2e-2, batch_size=8), drop=0.0)
    assert state.finished and not model.training
    assert len(found.losses) == 8 * 8
    assert np.mean(found.losses[-8:]) < 0.3 * np.mean(found.losses[:8])
    assert TASK.evaluate(model, VALID).accuracy >= 0.9 > TASK.evaluate(start, VALID).accuracy
    for (name, p), (_, q) in zip(model.named_parameters(), start.named_parameters(), strict=True):
        assert p.requires_grad == q.requires_grad
        assert (p.array.tobytes() == q.array.tobytes()) == (not p.requires_grad), name


def test_a_seed_gives_the_same_numbers():
    config = TrainConfig(epochs=2, lr=1e-2, batch_size=8)
    (model, first, _), (again, second, _) = run(config), run(config)
    assert first.losses == second.losses
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert p.array.tobytes() == q.array.tobytes()
    assert run(TrainConfig(epochs=2, lr=1e-2, batch_size=8, seed=1))[1].losses != first.losses


@given(st.integers(1, 12), st.integers(1, 5))
@settings(max_examples=5)
def test_accumulated_batches_are_one_batch(batch_size, accumulate):
    """The last step of the epoch, which is smaller, included."""
    found = []
    for options in ({"batch_size": batch_size * accumulate}, {"batch_size": batch_size, "accumulate": accumulate}):
        recorder = Recorder()
        model = classifier(drop=0.0).double()
        Trainer(model, TASK, TRAIN[:24], VALID[:4], TrainConfig(epochs=1, lr=1e-2, **options), recorder).run()
        found.append([(step.loss, step.norm) for step in recorder.steps])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_the_command_line_takes_its_defaults_from_the_recipe():
    args = cli.parser().parse_args(["finetune", "a.tsv"])
    for field in dataclasses.fields(Recipe):
        if field.default is not dataclasses.MISSING and hasattr(args, field.name):
            given = getattr(args, field.name)
            assert (tuple(given) if isinstance(given, list) else given) == field.default, field.name


@pytest.mark.parametrize("heads", [0, -2, 3])
def test_heads_that_do_not_divide_the_features_are_refused(heads):
    with pytest.raises(
        ValueError,
        match=f"emb_dim 16 is not divisible by n_heads {heads}|n_heads must be an integer of at least 1, not {heads}",
    ):
        GPTModel({**TINY, "n_heads": heads})


def test_what_is_reported():
    _, found, _ = run(TrainConfig(epochs=2, lr=1e-2, batch_size=10))
    assert [s.step for s in found.steps] == list(range(1, 15)) and {s.steps for s in found.steps} == {14}
    assert [s.epoch for s in found.steps] == [1] * 7 + [2] * 7
    assert [(epoch, step) for epoch, step, _, _ in found.validations] == [(1, 7), (2, 14)]
    score = found.validations[0][2]
    assert score.labels == ("a", "b") and score.confusion.sum() == len(VALID)
    assert sum(s.tokens for s in found.steps) == 2 * sum(len(m.text) + 2 for m in TRAIN)
    assert [s.lr for s in found.steps] == [1e-2 * learning_rate("cosine", i, 14, 2) for i in range(14)]


@given(st.sampled_from(sorted(DECAYS)), st.integers(1, 200), st.integers(0, 20))
def test_the_learning_rate_rises_in_a_line_and_never_again(schedule, steps, warmup):
    rates = [learning_rate(schedule, i, warmup + steps, warmup) for i in range(warmup + steps)]
    np.testing.assert_allclose(rates[:warmup], np.arange(1, warmup + 1) / max(1, warmup))
    assert rates[warmup] == 1.0 and all(a >= b for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    end = learning_rate(schedule, warmup + steps, warmup + steps, warmup)
    np.testing.assert_allclose(end, 1.0 if schedule == "constant" else 0.1)


class Scripted(Classify):
    """Scores from a list."""

    def __init__(self, scores):
        super().__init__(BYTES, 16, ("a", "b"))
        self.scores, self.found = iter(scores), []

    def validate(self, model, examples):
        self.found.append([p.array.copy() for p in model.parameters()])
        accuracy, loss = next(self.scores)
        right = round(10 * accuracy)
        return Metrics(("a", "b"), np.array([[right, 10 - right], [0, 0]]), loss)


def test_the_best_epoch_is_kept():
    task = Scripted([(0.5, 1.0), (0.9, 0.5), (0.9, 0.4), (0.7, 0.1)])  # the third: equal accuracy, lower loss
    model, found, state = run(TrainConfig(epochs=4, lr=1e-2), task=task)
    assert all(np.array_equal(p.array, a) for p, a in zip(model.parameters(), task.found[2], strict=True))
    assert state.best.epoch == 3 and [best for *_, best in found.validations] == [True, True, True, False]


def test_training_ends_when_patience_does():
    task = Scripted([(0.5, 1.0), (0.9, 0.5), (0.8, 0.4), (0.7, 0.1), (1.0, 0.0)])
    _, found, state = run(TrainConfig(epochs=9, lr=1e-2, patience=2), task=task)
    assert len(found.validations) == 4 and state.best.epoch == 2 and state.finished


def test_validation_every_few_steps():
    _, found, _ = run(TrainConfig(epochs=2, lr=1e-2, batch_size=10, eval_every=4))
    assert [(epoch, step) for epoch, step, _, _ in found.validations] == [(0, 4), (1, 8), (1, 12), (2, 14)]


@pytest.mark.parametrize("stop_in", [1, 3])
def test_an_interrupt_keeps_the_best_state_so_far(stop_in):
    def interrupt(step):
        if step.epoch == stop_in and step.step % 4 == 3:
            raise KeyboardInterrupt

    model, recorder = classifier(), Recorder(interrupt)
    with pytest.raises(KeyboardInterrupt):
        Trainer(model, TASK, TRAIN, VALID, TrainConfig(epochs=5, lr=1e-2, batch_size=16), recorder).run()
    assert not model.training
    scores = [score for _, _, score, _ in recorder.validations] or [TASK.evaluate(classifier(), VALID)]
    assert TASK.evaluate(model, VALID).loss == max(scores, key=lambda m: m.rank).loss


def test_a_loss_that_is_no_number_names_the_step():
    def spoil(step):
        if step.step == 3:
            model.out_head.bias.array = np.full(2, np.nan, np.float32)

    model = classifier()
    with pytest.raises(FloatingPointError, match="NaN or infinite at step 4: try a lower lr"):
        Trainer(model, TASK, TRAIN, VALID, TrainConfig(batch_size=8), Recorder(spoil)).run()


class StoppedError(Exception):
    """Ends training."""


@given(st.integers(0, 23))
@settings(max_examples=4)
def test_training_goes_on_from_its_state_to_the_same_bytes(stop_after):
    config = TrainConfig(epochs=3, lr=1e-2, batch_size=4, accumulate=2)
    expected, first, _ = run(config)
    saved = []

    def stop(state):
        arrays, numbers = state.state_dict()
        saved[:] = {k: a.copy() for k, a in arrays.items()}, json.loads(json.dumps(numbers))
        if state.step > stop_after:
            raise StoppedError

    with contextlib.suppress(StoppedError):
        Trainer(classifier(), TASK, TRAIN, VALID, config).run(stop)
    tinylora.manual_seed(99)
    model, recorder = classifier(), Recorder()
    resumed = Trainer(model, TASK, TRAIN, VALID, config, recorder)
    resumed.state.load_state_dict(*saved)
    resumed.run()
    assert recorder.losses == first.losses[len(first.losses) - len(recorder.losses) :]
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        assert p.array.tobytes() == q.array.tobytes()


# -------------------------------------------------------------------------------------------- predicting
def test_scores_are_read_at_the_last_token_whatever_is_padded_behind_it():
    model = classifier(drop=0.0)
    texts = [m.text for m in VALID]
    together = TASK.probabilities(model, texts)
    assert together.shape == (30, 2)
    np.testing.assert_allclose(together.sum(1), 1, rtol=1e-5)
    for i in (0, 7, 29):
        np.testing.assert_allclose(TASK.probabilities(model, [texts[i]])[0], together[i], rtol=1e-4)


def test_predicting_records_nothing_and_turns_dropout_off():
    model = classifier(drop=0.5).train()
    texts = [m.text for m in VALID] + ["", "x" * 100]
    first = TASK.probabilities(model, texts)
    np.testing.assert_array_equal(TASK.probabilities(model, texts), first)
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert TASK.predict(model, texts) == [TASK.labels[i] for i in first.argmax(1)]
    assert TASK.probabilities(model, []).shape == (0, 2) and TASK.predict(model, []) == []


def test_the_loss_is_the_mean_cross_entropy():
    model = classifier(drop=0.0).eval()
    encoded = [TASK.encode(message)[0] for message in VALID]
    batch = pad(encoded, range(len(encoded)), BYTES.pad)
    ids, last, classes = map(tinylora.tensor, TASK.inputs(batch.rows))
    expected = tinylora.nn.functional.cross_entropy(class_scores(model, ids, last), classes).item()
    assert math.isclose(TASK.loss(model, ids, last, classes).item(), expected, rel_tol=1e-6)
    assert math.isclose(TASK.evaluate(model, VALID).loss, expected, rel_tol=1e-5)


# ----------------------------------------------------------------------------------------------- metrics
def test_metrics_of_a_confusion_counted_by_hand():
    true = [0] * 10 + [1] * 5 + [2] * 5
    predicted = [0] * 8 + [1] * 2 + [1] * 4 + [0] + [0] * 5
    m = Metrics.of(["ham", "spam", "news"], true, predicted, 0.5)
    assert m.confusion.tolist() == [[8, 2, 0], [1, 4, 0], [5, 0, 0]]
    assert m.accuracy == 12 / 20
    assert (m.precision("ham"), m.recall("ham")) == (8 / 14, 8 / 10)
    assert (m.precision("spam"), m.recall("spam")) == (4 / 6, 4 / 5)
    assert math.isclose(m.f1("spam"), 8 / 11)
    assert (m.precision("news"), m.recall("news"), m.f1("news")) == (0.0, 0.0, 0.0)  # never predicted
    assert m.as_dict()["classes"]["ham"]["recall"] == 0.8 and m.as_dict()["confusion"][1] == [1, 4, 0]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1))
def test_metrics_follow_their_formulas(pairs):
    true, predicted = zip(*pairs, strict=True)
    m = Metrics.of(["a", "b", "c"], true, predicted, 0.0)
    assert m.accuracy == sum(t == p for t, p in pairs) / len(pairs)
    for i, label in enumerate("abc"):
        tp = sum(t == p == i for t, p in pairs)
        fp = sum(p == i != t for t, p in pairs)
        fn = sum(t == i != p for t, p in pairs)
        assert m.precision(label) == (tp / (tp + fp) if tp + fp else 0)
        assert m.recall(label) == (tp / (tp + fn) if tp + fn else 0)
        assert math.isclose(m.f1(label), 2 * tp / (2 * tp + fp + fn) if tp else 0)
