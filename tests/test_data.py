"""Files of labelled messages: read in three formats, refused by name and line, split without leaks, batched by length."""

import csv
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylora.tasks import Classify
from tinylora.tasks.batching import arrange, batches, pad
from tinylora.tasks.columns import ColumnError
from tinylora.tasks.examples import IGNORE
from tinylora.tasks.messages import Message, class_names, read_messages, split, unique
from tinylora.text.tokenizer import BYTES, END

DATA = Path(os.environ.get("TINYLORA_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
SMS = DATA / "sms_spam" / "sms.tsv"
needs_sms = pytest.mark.skipif(not SMS.is_file(), reason="the SMS data is absent: name its folder in TINYLORA_DATA")

PAIRS = [("ham", "see you"), ("spam", "win now")]


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ------------------------------------------------------------------------------------------- reading
@pytest.mark.parametrize(
    "name, content",
    [
        ("a.tsv", "ham\tsee you\nspam\twin now\n"),
        ("a.tsv", "ham\tsee you\nspam\twin now"),
        ("a.TSV", "ham\tsee you\nspam\twin now\n"),
        ("a.tsv", "label\ttext\nham\tsee you\nspam\twin now\n"),
        ("a.tsv", "text\tlabel\nsee you\tham\nwin now\tspam\n"),
        ("a.tsv", "Text\tid\t Label \nsee you\t1\tham\nwin now\t2\tspam\n"),
        ("a.tsv", "category\tmessage\nham\tsee you\nspam\twin now\n"),
        ("a.tsv", "\ufefflabel\ttext\r\nham\tsee you\r\n\r\nspam\twin now\r\n"),
        ("a.csv", "label,text\nham,see you\nspam,win now\n"),
        ("a.csv", 'label,text\r\n"ham","see you"\r\nspam,"win now"\r\n'),
        ("a.csv", "\ufeffham,see you\r\nspam,win now\r\n"),
        ("a.jsonl", '{"label": "ham", "text": "see you"}\n\n{"text": "win now", "label": "spam"}\n'),
        ("a.jsonl", '\ufeff{"id": 1, "label": "ham", "text": "see you"}\r\n{"label": "spam", "text": "win now", "x": []}'),
    ],
)
def test_the_same_messages_from_every_format(tmp_path, name, content):
    assert list(dict.fromkeys(read_messages(written(tmp_path, name, content)))) == PAIRS


def test_without_a_header_the_labels_are_what_repeats(tmp_path):
    path = written(tmp_path, "a.tsv", "see you\tham\nwin now\tspam\nhi\tham\n")
    assert read_messages(path) == [*PAIRS, ("ham", "hi")]


def test_columns_by_name(tmp_path):
    path = written(tmp_path, "a.csv", "label,v1,V2,text\n0,ham,see you,-\n0,spam,win now,-\n")
    assert read_messages(path, "v2", "V1") == PAIRS
    assert read_messages(path, label_column="v1") == [("ham", "-"), ("spam", "-")]
    for names, lacking in ((("v3", None), "text"), ((None, "v3"), "label")):
        with pytest.raises(ColumnError, match="no column 'v3': there are label, v1, V2, text") as error:
            read_messages(path, *names)
        assert error.value.lacking == lacking and error.value.columns == ["label", "v1", "V2", "text"]


def test_in_tsv_a_quotation_mark_is_a_character(tmp_path):
    path = written(tmp_path, "a.tsv", 'ham\t"Hi" he said\nspam\t"win\nham\t5" and, 6\u2028"\n')
    assert [m.text for m in read_messages(path)] == ['"Hi" he said', '"win', '5" and, 6\u2028"']


def test_in_csv_a_quoted_text_has_commas_quotes_and_lines(tmp_path):
    path = written(tmp_path, "a.csv", 'label,text\nham,"a, ""b""\nc\u2028d"\nspam,e\u2028f\x0bg\n')
    assert [m.text for m in read_messages(path)] == ['a, "b"\nc\u2028d', "e\u2028f\x0bg"]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(st.sampled_from(["ham", "spam"]), texts), min_size=1))
def test_any_text_survives_csv_and_jsonl(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("data")
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("label", "text"), *pairs])
    lines = [json.dumps({"label": label, "text": text}, ensure_ascii=False) for label, text in pairs]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="")
    expected = [(label, text.strip()) for label, text in pairs]
    assert read_messages(folder / "a.csv") == expected == read_messages(folder / "a.jsonl")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.tsv", "", "empty"), ("a.csv", "\n \n", "empty"), ("a.jsonl", "\ufeff\n", "empty"),
        ("a.tsv", "label\ttext\n", "a header and no message below it"), ("a.csv", "label,text\n\n", "no message"),
        ("a.txt", "ham\thi\n", "expected a .tsv, .csv, .jsonl or .json file"), ("a", "ham\thi\n", "expected a .tsv"),
        ("a.tsv", b"ham\t\x00\x01\n", "a binary file, not text"),
        ("a.tsv", "ham\thi\n".encode("utf-16-le"), "it may be UTF-16 without a byte order mark"),
        ("a.tsv", b"ham\thi\nham\tho\nspam\tcaf\xe9\n", r"line 3 is not UTF-8, at byte 22"),
        ("a.csv", b"\xef\xbb\xbfham,hi\n\nspam,\xff\n", r"line 3 is not UTF-8, at byte 16"),
        ("a.tsv", "label\tbody\nham\thi\n", "no text column among label, body"),
        ("a.tsv", "id\ttext\tdate\n1\thi\t2\n", "no label column among id, text, date"),
        ("a.tsv", "just one column\n", "no text column"),
        ("a.tsv", "a\tb\tc\n", "no text column among a, b, c"),
        ("a.tsv", "label\ttext\nham\thi\n\nspam\n", "line 4 has 1 columns, the first line 2"),
        ("a.tsv", "ham\thi\nspam\twin\tnow\n", "line 2 has 3 columns, the first line 2"),
        ("a.csv", "ham,hi\nspam,win, now\n", "line 2 has 3 columns"),
        ("a.tsv", "label\ttext\nham\thi\nham\t  \n", "line 3 has no text"),
        ("a.tsv", "label\ttext\n\thi\n", "line 2 has no label"),
        ("a.csv", 'label,text\nham,"hi\n', "line 2 is not readable as CSV"),
        ("a.csv", 'label,text\nham,"hi" ho\n', "line 2 is not readable as CSV"),
        ("a.jsonl", '{"label": "ham", "text": "hi"}\n{"label": \n', "line 2 is not JSON"),
        ("a.jsonl", '["ham", "hi"]\n', "line 1 is not a JSON object"),
        ("a.jsonl", '{"text": "hi"}\n', "no label column among text"),
        ("a.jsonl", '{"label": "ham", "text": "hi"}\n\n{"label": "spam"}\n', "line 3 has no text"),
        ("a.jsonl", '{"label": null, "text": "hi"}\n', "line 1 has no label"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as error:
        read_messages(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    (tmp_path / "f.tsv").mkdir()
    for name in ("absent.tsv", "f.tsv"):
        with pytest.raises(OSError, match=name):
            read_messages(tmp_path / name)


# ----------------------------------------------------------------------------------------- splitting
def labelled(numbers):
    """Messages of two classes, and once more with the other label each that comes more than twice."""
    found = [Message("ham" if i % 2 else "spam", f"text {i}") for i in numbers]
    return found + [Message(OTHER[m.label], m.text) for m, count in Counter(found).items() if count > 2]


OTHER = {"ham": "spam", "spam": "ham"}
messages_of_two_classes = (
    st.lists(st.integers(0, 60), min_size=60)
    .map(labelled)
    .filter(
        lambda ms: len(Counter(m.label for m in unique(ms))) == 2 and min(Counter(m.label for m in unique(ms)).values()) >= 6
    )
)


@given(messages_of_two_classes, st.integers(0, 2**32))
def test_no_text_stands_on_two_sides_and_none_is_lost(messages, seed):
    parts = split(messages, seed)
    texts = [m.text for part in parts for m in part]
    assert len(texts) == len(set(texts)) and set(texts) == {m.text for m in messages}
    counts = Counter(messages)
    other = {"ham": "spam", "spam": "ham"}
    assert all(
        counts[m] > counts[Message(other[m.label], m.text)] for part in parts for m in part
    )  # the more frequent label


@given(messages_of_two_classes, st.integers(0, 2**32))
def test_every_class_is_split_in_the_same_proportions(messages, seed):
    parts = split(messages, seed, valid=0.1, test=0.2)
    for label in ("ham", "spam"):
        n = sum(m.label == label for m in unique(messages))
        sizes = [sum(m.label == label for m in part) for part in parts]
        assert sizes[1:] == [max(1, round(0.1 * n)), max(1, round(0.2 * n))] and sum(sizes) == n


@given(messages_of_two_classes, st.randoms())
def test_the_seed_alone_decides(messages, shuffler):
    distinct = unique(messages)
    parts = split(distinct, 3)
    shuffler.shuffle(distinct)  # not the order in the file
    assert split(distinct, 3) == parts
    assert split(distinct, 4) != parts


def test_classes_that_cannot_be_split_are_named():
    with pytest.raises(ValueError, match="only one class, 'ham'"):
        split([Message("ham", str(i)) for i in range(50)], 0)
    few = [Message("ham", str(i)) for i in range(50)] + [Message("spam", "a"), Message("spam", "b"), Message("spam", "b")]
    with pytest.raises(ValueError, match="class 'spam' has 2 different messages, too few"):
        split(few, 0)


def test_whole_numbers_are_in_numeric_order_and_only_classes_that_occur_count():
    messages = [Message(str(i % 12), f"text {i}") for i in range(120)]
    assert class_names(messages) == tuple(map(str, range(12)))
    assert class_names([*messages, Message("a", "x")]) == ("0", "1", "10", "11", *map(str, range(2, 10)), "a")
    assert class_names([Message(label, "x") for label in ("0.5", "-2", "1e1", "3")]) == ("-2", "0.5", "3", "1e1")
    assert class_names([Message(label, "x") for label in ("10", "007", "9")]) == ("007", "10", "9")  # a code is text
    repeated = [Message("0", "text 0"), Message("0", "text 0"), Message("99", "text 0")]
    assert class_names(m for part in split(messages + repeated, 0) for m in part) == tuple(map(str, range(12)))


def test_a_text_with_two_labels_gets_the_more_frequent_and_is_refused_if_neither_is(tmp_path):
    lines = [f"ham\tham {i}\nspam\tspam {i}\n" for i in range(10)]
    path = written(tmp_path, "a.tsv", "".join(["spam\tyes\n", *lines, *["ham\tyes\n"] * 9]))
    messages = read_messages(path)
    assert Message("ham", "yes") in unique(messages) and Message("spam", "yes") not in unique(messages)
    assert any(note.startswith("1 texts have several labels") and "ham 9, spam 1; lines 1, 22, 23" in note
               for note in messages.notes)  # fmt: skip
    assert any(note.startswith("9 of 30 messages repeat") for note in messages.notes)
    tied = read_messages(written(tmp_path, "b.tsv", "spam\tyes\nham\tno\nham\tyes\n"))
    with pytest.raises(
        ValueError, match="the text 'yes' in lines 1, 3 is 'ham' as often as 'spam'|'spam' as often as 'ham'"
    ):
        split(tied, 0)


# ------------------------------------------------------------------------------------------ batching
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_encode_and_decode_are_inverse(text):
    ids = BYTES.encode(text, 10_000)
    assert ids[0] == ids[-1] == END and ((ids[1:-1] >= 0) & (ids[1:-1] < 256)).all()
    assert BYTES.decode(ids.tolist()) == text


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(2, 30))
def test_a_text_is_cut_at_the_context_and_a_cut_character_is_left_out(text, context):
    ids = BYTES.encode(text, context)
    assert len(ids) <= context and ids[0] == ids[-1] == END
    cut = BYTES.decode(ids.tolist())
    assert text.startswith(cut)
    assert len(cut.encode()) > context - 2 - 4 or cut == text


def test_a_cut_in_the_middle_of_a_character():
    assert [BYTES.decode(BYTES.encode("aé€", n).tolist()) for n in range(2, 9)] == ["", "a", "a", "aé", "aé", "aé", "aé€"]
    assert BYTES.encode("a\udcff", 10).tolist() == [END, 97, 63, END]  # half a surrogate pair is no character


words = st.lists(st.text("abc ", max_size=40), min_size=1, max_size=50)


def encoded(texts):
    task = Classify(BYTES, 64, ("a", "b"))
    return [task.encode(Message("ab"[i % 2], text))[0] for i, text in enumerate(texts)]


@given(words, st.integers(1, 9), st.integers(1, 4), st.one_of(st.none(), st.integers(0, 99)))
def test_every_example_comes_exactly_once(texts, size, accumulate, seed):
    examples = encoded(texts)
    lengths = [len(e.ids) for e in examples]
    steps = arrange(lengths, size, accumulate, None if seed is None else np.random.default_rng(seed))
    assert all(1 <= len(part) <= size for step in steps for part in step)
    assert all(1 <= len(step) <= accumulate for step in steps) and len(steps) == -(-len(texts) // (size * accumulate))
    assert sorted(i for step in steps for part in step for i in part) == list(range(len(texts)))
    for step in steps:
        for part in step:
            batch = pad(examples, part, END)
            assert batch.rows.ids.shape == batch.rows.targets.shape == (len(part), max(lengths[i] for i in part))
            for row, targets, i in zip(batch.rows.ids, batch.rows.targets, part, strict=True):
                assert row[: lengths[i]].tolist() == examples[i].ids.tolist() and (row[lengths[i] :] == END).all()
                assert np.flatnonzero(targets != IGNORE).tolist() == [lengths[i] - 1] and targets[lengths[i] - 1] == i % 2


@given(words)
def test_without_a_generator_batches_go_from_short_to_long(texts):
    lengths = [batch.rows.ids.shape[1] for batch in batches(encoded(texts), 4, END)]
    assert lengths == sorted(lengths)


def test_a_generator_shuffles_batches_and_what_is_equally_long():
    orders = [arrange([6] * 64, 8, 1, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert {frozenset(part) for (part,) in orders[0]} != {frozenset(part) for (part,) in orders[2]}


@needs_sms
def test_little_of_the_sms_data_is_padding_and_none_of_it_leaks():
    messages = read_messages(SMS)
    assert Counter(m.label for m in messages) == {"ham": 4827, "spam": 747}
    parts = split(messages, 0)
    texts = [{m.text for m in part} for part in parts]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    assert abs(len(parts.test) / sum(map(len, parts)) - 0.2) < 0.001
    task = Classify(BYTES, 512, ("ham", "spam"))
    examples = [task.encode(m)[0] for m in parts.train]
    lengths = [len(e.ids) for e in examples]
    steps = arrange(lengths, 32, 1, np.random.default_rng(0))
    padded = sum(len(part) * max(lengths[i] for i in part) for (part,) in steps)
    assert 1 - sum(lengths) / padded < 0.03
