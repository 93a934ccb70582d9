"""Plain text as a task: every token is predicted once, pieces read on, and the score is that of the perplexity command."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora.tasks import Text
from tinylora.tasks.examples import Examples
from tinylora.tasks.guess import guess_task
from tinylora.text.perplexity import perplexity
from tinylora.text.tokenizer import BYTES, END


@given(st.text(min_size=1, max_size=40), st.integers(1, 12))
def test_every_token_is_predicted_once_from_those_before_it(text, length):
    pieces = Text(BYTES, length).encode(text)
    tokens = [END, *text.encode("utf-8", "replace"), END]
    assert [t for piece in pieces for t in piece.targets] == tokens[1:]
    assert [t for piece in pieces for t in piece.ids] == tokens[:-1]
    assert all(len(piece.ids) == length for piece in pieces[:-1]) and len(pieces[-1].ids) <= length


def test_the_score_is_the_perplexity_of_the_same_tokens():
    model = tinylora.load_model("nano")
    text = "It was a bright cold day in April, and the clocks were striking thirteen. " * 2
    score = Text(BYTES, 50).evaluate(model, [text])
    ids = [END, *text.encode(), END]
    *_, expected = perplexity(model, ids[: (len(ids) - 1) // 50 * 50 + 1], 50)
    assert score.tokens == len(ids) - 1 and score.size == len(text)
    assert abs(score.loss * score.tokens - expected.nats) < 8 * (score.tokens - expected.tokens)
    whole = Text(BYTES, 512).evaluate(model, [text])
    *_, expected = perplexity(model, ids, len(ids) - 1)
    assert whole.perplexity == pytest.approx(expected.value, rel=1e-5)
    assert whole.bits_per_byte == pytest.approx(expected.bits_per_byte(len(text)), rel=1e-5)


def test_documents_from_plain_text_gzip_and_json(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    (tmp_path / "a.jsonl").write_text('{"text": "one\\ntwo\\n"}\n{"text": "three"}\n')
    assert Text.read(tmp_path / "a.txt") == Text.read(tmp_path / "a.txt.gz") == ["one\ntwo\n"]
    assert Text.read(tmp_path / "a.jsonl") == ["one\ntwo\n", "three"]
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"text": 3}\n')
    with pytest.raises(ValueError, match=r"b.jsonl: line 2 has no string 'text'"):
        Text.read(tmp_path / "b.jsonl")


@given(st.lists(st.text("ab ", min_size=1, max_size=5), min_size=10, max_size=30), st.integers(1, 14))
def test_a_split_loses_nothing_and_keeps_the_order_of_a_single_text(lines, documents):
    text = "\n".join(lines)
    parts = Text.split(Examples([text] * documents), 0)
    if documents < 10:
        whole = ["".join(pieces) for pieces in zip(*parts, strict=True)]
        assert whole == [text] * documents
    else:
        assert sum(map(len, parts)) == documents


@pytest.mark.parametrize(
    "name, content, task",
    [
        ("a.tsv", "ham\tsee you\nspam\twin\n", "classify"),
        ("a.csv", "label,text\nham,see you\n", "classify"),
        ("a.jsonl", json.dumps({"label": "ham", "text": "see you"}), "classify"),
        ("a.conll", "New\tB-place\nYork\tI-place\n\n.\tO\n", "tag"),
        ("train.annotated", "a\tO\n\t\nb\tO\n", "tag"),
        ("a.tsv", "New\tB-place\n.\tO\n", "tag"),
        ("a.jsonl", json.dumps({"tokens": ["a"], "tags": ["O"]}), "tag"),
        ("a.jsonl", json.dumps({"text": "a"}), "text"),
        ("a.txt", "Once upon a time\n", "text"),
        ("a.jsonl", json.dumps({"messages": [{"role": "user", "content": "a"}]}), "chat"),
        ("a.json", json.dumps([{"instruction": "a", "input": "", "output": "b"}]), "chat"),
        ("a.jsonl", json.dumps({"prompt": "a", "completion": "b"}), "chat"),
    ],
)
def test_the_task_is_guessed_from_the_file(tmp_path, name, content, task):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert guess_task(tmp_path / name) == task


def test_a_greedy_continuation_is_the_prediction():
    model = tinylora.load_model("nano")
    (found,) = Text(BYTES, 512).predict(model, ["The Fren"], tokens=8)
    assert found.startswith("ch") and np.all([0 < ord(c) < 256 for c in found])
