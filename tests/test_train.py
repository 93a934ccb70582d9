"""Training moves what it should and nothing else, gives the same numbers again, and stops cleanly; metrics by formula."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora.adapters import LoRAConfig, apply_lora
from tinylora.app import cli
from tinylora.models.gpt import GPTModel
from tinylora.tasks.messages import Message, batches
from tinylora.tasks.metrics import Metrics
from tinylora.training import loop as training
from tinylora.training.loop import TrainConfig, class_scores, evaluate, predict, train, warmup_cosine

TINY = {
    "vocab_size": 257, "context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.1,
    "qkv_bias": True,
}  # fmt: skip
LABELS = ["a", "b"]


def messages(count, seed=0):
    """Class by first letter; lengths from 1 to 8."""
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("ab"), n)) for n in rng.integers(1, 9, count)]
    return [Message(text[0], text) for text in texts]


TRAIN, VALID = messages(64), messages(30, seed=1)


def classifier(drop=0.1):
    tinylora.manual_seed(0)
    model = GPTModel({**TINY, "drop_rate": drop})
    model.set_classes(2, bias=True)
    apply_lora(model, LoRAConfig(rank=4, alpha=8.0, train=("out_head",)))
    return model


def run(config, report=lambda event: None, drop=0.1):
    model = classifier(drop)
    events = []

    def remember(event):
        events.append(event)
        report(event)

    finished = train(model, TRAIN, VALID, LABELS, config, remember)
    return model, events, finished


def losses(events):
    return [e["loss"] for e in events if "loss" in e]


# ------------------------------------------------------------------------------------------- training
def test_the_loss_falls_and_the_base_stays():
    start = classifier()
    model, events, finished = run(TrainConfig(epochs=8, lr=2e-2, batch_size=8), drop=0.0)
    assert finished and not model.training
    assert len(losses(events)) == 8 * 8
    assert np.mean(losses(events)[-8:]) < 0.3 * np.mean(losses(events)[:8])
    assert evaluate(model, VALID, LABELS).accuracy >= 0.9 > evaluate(start, VALID, LABELS).accuracy
    for (name, p), (_, q) in zip(model.named_parameters(), start.named_parameters(), strict=True):
        assert p.requires_grad == q.requires_grad
        assert (p.array.tobytes() == q.array.tobytes()) == (not p.requires_grad), name


def test_a_seed_gives_the_same_numbers():
    config = TrainConfig(epochs=2, lr=1e-2, batch_size=8)
    (model, first, _), (again, second, _) = run(config), run(config)
    assert losses(first) == losses(second)
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert p.array.tobytes() == q.array.tobytes()
    assert losses(run(TrainConfig(epochs=2, lr=1e-2, batch_size=8, seed=1))[1]) != losses(first)


def test_the_command_line_takes_its_defaults_from_the_configuration():
    args, config = cli.parser().parse_args(["finetune", "a.tsv"]), TrainConfig()
    assert (args.epochs, args.lr, args.batch_size, args.seed) == (2, 1e-3, 32, 0)
    assert (config.epochs, config.lr, config.batch_size, config.seed) == (2, 1e-3, 32, 0)


@pytest.mark.parametrize("heads", [0, -2, 3])
def test_heads_that_do_not_divide_the_features_are_refused(heads):
    with pytest.raises(
        ValueError,
        match=f"emb_dim 16 is not divisible by n_heads {heads}|n_heads must be an integer of at least 1, not {heads}",
    ):
        GPTModel({**TINY, "n_heads": heads})


def test_what_is_reported():
    _, events, _ = run(TrainConfig(epochs=2, lr=1e-2, batch_size=10))
    steps = [e for e in events if "step" in e]
    assert [e["step"] for e in steps] == list(range(1, 15)) and {e["steps"] for e in steps} == {14}
    assert [e["epoch"] for e in steps] == [1] * 7 + [2] * 7
    assert [e["epoch"] for e in events if "valid" in e] == [1, 2]
    assert events[7]["valid"].labels == ("a", "b") and events[7]["valid"].confusion.sum() == len(VALID)
    assert all(0 <= e["accuracy"] <= 1 and e["lr"] <= 1e-2 for e in steps)
    assert [e["lr"] for e in steps] == [1e-2 * warmup_cosine(i, 14, 2) for i in range(14)]


@given(st.integers(1, 200), st.integers(0, 20))
def test_the_learning_rate_rises_in_a_line_and_falls_to_a_tenth(steps, warmup):
    rates = [warmup_cosine(i, warmup + steps, warmup) for i in range(warmup + steps)]
    np.testing.assert_allclose(rates[:warmup], np.arange(1, warmup + 1) / max(1, warmup))
    assert rates[warmup] == 1.0 and all(a >= b for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    assert all(rate >= 0.1 for rate in rates[warmup:])
    np.testing.assert_allclose(warmup_cosine(warmup + steps, warmup + steps, warmup), 0.1)


def test_the_best_epoch_is_kept(monkeypatch):
    accuracies = iter([0.5, 0.9, 0.9, 0.7])
    loss = iter([1.0, 0.5, 0.4, 0.1])
    found = []

    def scripted(model, messages, labels, tokenizer):
        found.append([p.array for p in model.parameters()])
        right = round(10 * next(accuracies))
        return Metrics(("a", "b"), np.array([[right, 10 - right], [0, 0]]), next(loss))

    monkeypatch.setattr(training, "evaluate", scripted)
    model, _, _ = run(TrainConfig(epochs=4, lr=1e-2))
    assert all(
        np.array_equal(p.array, a) for p, a in zip(model.parameters(), found[2], strict=True)
    )  # equal accuracy, lower loss


@pytest.mark.parametrize("stop_in", [1, 3])
def test_an_interrupt_keeps_the_best_state_so_far(stop_in):
    def interrupt(event):
        if event.get("epoch") == stop_in and event.get("step", 0) % 4 == 3:
            raise KeyboardInterrupt

    model, events, finished = run(TrainConfig(epochs=5, lr=1e-2, batch_size=16), interrupt)
    assert finished is False and not model.training
    best = max([e["valid"] for e in events if "valid" in e], key=lambda m: (m.accuracy, -m.loss), default=None)
    if best is None:
        best = evaluate(classifier(), VALID, LABELS)
    assert evaluate(model, VALID, LABELS).loss == best.loss


def test_a_loss_that_is_no_number_names_the_step():
    def spoil(event):
        if event.get("step") == 3:
            model.out_head.bias.array = np.full(2, np.nan, np.float32)

    model = classifier()
    with pytest.raises(FloatingPointError, match="NaN or infinite at step 4: try a lower lr"):
        train(model, TRAIN, VALID, LABELS, TrainConfig(batch_size=8), spoil)


# -------------------------------------------------------------------------------------------- predicting
def test_scores_are_read_at_the_last_token_whatever_is_padded_behind_it():
    model = classifier(drop=0.0)
    texts = [m.text for m in VALID]
    together = predict(model, texts, batch_size=30)
    assert together.shape == (30, 2)
    np.testing.assert_allclose(together.sum(1), 1, rtol=1e-5)
    for i in (0, 7, 29):
        np.testing.assert_allclose(predict(model, [texts[i]])[0], together[i], rtol=1e-4)


def test_predicting_goes_in_batches_records_nothing_and_turns_dropout_off():
    model = classifier(drop=0.5).train()
    texts = [m.text for m in VALID] + ["", "x" * 100]
    first = predict(model, texts, batch_size=7)
    np.testing.assert_array_equal(predict(model, texts, batch_size=7), first)
    np.testing.assert_allclose(predict(model, texts, batch_size=100), first, rtol=1e-4)
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert predict(model, []).shape == (0, 2)


def test_the_loss_is_the_mean_cross_entropy():
    model = classifier(drop=0.0).eval()
    (_, batch), *rest = batches(VALID, LABELS, 16, 100)
    expected = tinylora.nn.functional.cross_entropy(class_scores(model, batch), batch.classes).item()
    assert not rest and math.isclose(evaluate(model, VALID, LABELS).loss, expected, rel_tol=1e-5)


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
