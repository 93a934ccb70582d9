"""Tagged sentences: read in every scheme, refused by line, encoded at a word's last token, scored as conlleval does."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora.models.gpt import GPTModel
from tinylora.tasks import Tag
from tinylora.tasks.conll import Sentence, read_sentences
from tinylora.tasks.entities import EntityScore, Span, bio, misfit, spans
from tinylora.tasks.examples import IGNORE, Examples, Splits
from tinylora.text.tokenizer import BYTES
from tinylora.training.loop import TrainConfig, Trainer

TYPES = ("person", "place")
LABELS = ("O", "B-person", "I-person", "B-place", "I-place")


@st.composite
def entities(draw):
    """Spans in order, without overlap, and the number of words."""
    found, at = [], 0
    for gap, length, kind in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from(TYPES)), max_size=5)
    ):
        found.append(Span(at + gap, at + gap + length, kind))
        at += gap + length
    return found, at + draw(st.integers(0, 2)) or 1


def iob1(found, length):
    tags = ["O"] * length
    for start, stop, kind in found:
        tags[start:stop] = [f"I-{kind}"] * (stop - start)
        if start and tags[start - 1][2:] == kind:
            tags[start] = f"B-{kind}"
    return tags


def bioes(found, length):
    tags = bio(found, length)
    for start, stop, kind in found:
        tags[stop - 1] = f"{'S' if stop - start == 1 else 'E'}-{kind}"
    return tags


WRITERS = {"BIO": bio, "IOB1": iob1, "BIOES": bioes}


@given(entities(), st.sampled_from(sorted(WRITERS)))
def test_tags_of_every_scheme_give_the_spans_back(given_spans, scheme):
    found, length = given_spans
    tags = WRITERS[scheme](found, length)
    assert spans(tags) == found
    assert not any(misfit(scheme, a, b) for a, b in itertools.pairwise(["O", *tags, "O"]))


@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=8))
def test_whatever_tags_a_model_gives_become_spans_that_do_not_overlap(tags):
    found = spans(tags)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(found))
    assert sum(s.stop - s.start for s in found) == sum(tag != "O" for tag in tags)


@given(st.lists(st.tuples(entities(), entities()), min_size=1, max_size=4))
def test_the_score_counts_spans_that_agree_in_ends_and_type(pairs):
    true, predicted = [], []
    right = marked = there = 0
    for (expected, n), (found, m) in pairs:
        length = max(n, m)
        true.append(bio(expected, length))
        predicted.append(bio(found, length))
        right, marked, there = right + len(set(expected) & set(found)), marked + len(found), there + len(expected)
    score = EntityScore.of(true, predicted, 0.0)
    assert score.precision() == (right / marked if marked else 0) and score.recall() == (right / there if there else 0)
    assert score.f1() == pytest.approx(2 * right / (marked + there) if right else 0)
    for kind in TYPES:
        hits = sum(len({s for s in set(a) & set(b) if s.type == kind}) for (a, _), (b, _) in pairs)
        total = sum(s.type == kind for (a, _), _ in pairs for s in a)
        assert score.recall(kind) == (hits / total if total else 0)


# ---------------------------------------------------------------------------------------------- files
def written(tmp_path, text, name="a.conll"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@given(st.lists(entities(), min_size=1, max_size=5), st.sampled_from(sorted(WRITERS)))
def test_a_file_in_any_scheme_gives_bio(tmp_path_factory, sentences, scheme):
    lines = [[f"w{i}\t{tag}" for i, tag in enumerate(WRITERS[scheme](found, n))] for found, n in sentences]
    lines.append(["x\tO", *(f"y\t{tag}" for tag in WRITERS[scheme]([Span(0, 2, "person"), Span(2, 3, "person")], 3))])
    path = written(tmp_path_factory.mktemp("conll"), "\n\n".join("\n".join(sentence) for sentence in lines) + "\n")
    found = read_sentences(path)
    assert [sentence.tags for sentence in found[:-1]] == [tuple(bio(s, n)) for s, n in sentences]
    assert found[-1].tags == ("O", "B-person", "I-person", "B-person")
    assert found.notes == ([] if scheme == "BIO" else [f"the tags are in the scheme {scheme}"])


def test_json_bilou_comments_document_marks_and_lines_of_blanks(tmp_path):
    expected = [Sentence(("New", "York", "!"), ("B-place", "I-place", "O")), Sentence(("Ada",), ("B-person",))]
    conll = "# id 1\n-DOCSTART-\tO\n\nNew\tB-place\r\nYork\tL-place\n!\tO\n\t\nAda\tU-person"
    assert read_sentences(written(tmp_path, conll)) == expected
    lines = (
        '{"tokens": ["New", "York", "!"], "tags": ["B-place", "I-place", "O"]}\n{"words": ["Ada"], "ner_tags": ["B-person"]}'
    )
    assert read_sentences(written(tmp_path, lines, "a.jsonl")) == expected


@pytest.mark.parametrize(
    "text, words",
    [
        ("a\tO\nb\tB-x\nc\tI-y\nd\tB-y\n", "line 3: I-y cannot follow B-x"),
        ("a\tB-x\n\nb\tO\nc\tI-x\n", "line 4: I-x cannot follow the beginning of a sentence or O"),
        ("a\tB-x\nb\tS-y\n", "line 2: S-y cannot follow B-x"),
        ("a\tB-x\nb\tE-x\n\nc\tB-x\n", "line 4: O cannot follow B-x"),
        ("a\tO\nb\t\n", "line 2 has no tag"),
        ("a\tO\nb\n", "line 2 has 1 columns, and word and tag are two"),
        ("a\tNN\tO\n", "line 1 has 3 columns"),
        ("a O\nb B-x\n", "line 1 has spaces where a tab belongs"),
        ("a\tB-x\nb\tperson\n", "line 2: 'person' is no tag"),
        ("a\tO\nb\tO\n", "one tag only, 'O'"),
        ("\n\n", "empty"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, words):
    with pytest.raises(ValueError, match=f"a.conll: {words}"):
        read_sentences(written(tmp_path, text))


def test_json_with_too_few_tags_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a.jsonl: line 2 has 2 tokens and 1 tags"):
        read_sentences(
            written(tmp_path, '{"tokens": ["a"], "tags": ["B-x"]}\n{"tokens": ["a", "b"], "tags": ["O"]}', "a.jsonl")
        )


# ------------------------------------------------------------------------------------------- the task
words = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=4), min_size=1, max_size=9
)


@given(words, st.booleans(), st.integers(4, 60))
def test_tags_are_read_at_the_last_token_of_each_word(found, twice, max_length):
    task = Tag(BYTES, max_length, LABELS, twice)
    (encoded,) = task.encode(Sentence(tuple(found), tuple("B-place" for _ in found)))
    at = np.flatnonzero(encoded.targets != IGNORE)
    assert len(encoded.ids) <= max_length and len(at) <= len(found) and (encoded.targets[at] == 3).all()
    ends = np.cumsum([len(word.encode()) + 1 for word in found])  # a space, or END at the beginning
    if twice and 2 * ends[-1] <= max_length:
        ends += len(" ".join(found).encode()) + 1
    if (1 + twice) * ends[-1] <= max_length:
        assert at.tolist() == (ends - 1).tolist()


def test_the_library_s_tokenizers_read_words_as_they_stand_in_the_text():
    tokenizers = pytest.importorskip("tokenizers")
    from tinylora.text.tokenizer import LibraryTokenizer

    library = tokenizers.ByteLevelBPETokenizer()
    library.train_from_iterator(["New York is a place, é😀 is not"] * 3, vocab_size=300)
    task = Tag(LibraryTokenizer(library, (), 0), 99, LABELS, twice=False)
    sentence = ("New", "York", "é😀", "place", ",")
    (encoded,) = task.encode(Sentence(sentence, ("O",) * 5))
    at = np.flatnonzero(encoded.targets != IGNORE)
    cut = np.split(encoded.ids, at + 1)
    assert [task.tokenizer.decode(part.tolist()).strip() for part in cut if len(part)] == list(sentence)


def test_a_tiny_model_learns_tags_and_predicts_those_that_follow_the_scheme():
    tinylora.manual_seed(0)
    rng = np.random.default_rng(0)
    names, others = ["Ada", "Bob Lee", "Cy"], ["sees", "and", "the", "cat"]

    def sentence():
        chosen = [str(rng.choice(names if rng.random() < 0.4 else others)) for _ in range(4)]
        tags = [
            f"{'I' if i else 'B'}-person" if part in names else "O" for part in chosen for i, _ in enumerate(part.split())
        ]
        return Sentence(tuple(" ".join(chosen).split()), tuple(tags))

    examples = Examples([sentence() for _ in range(96)])
    parts = Splits(examples, examples[:16], examples[:16])
    cfg = {"vocab_size": 257, "context_length": 64, "emb_dim": 32, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0}
    model = GPTModel({**cfg, "qkv_bias": True})
    task = Tag(BYTES, 64, **Tag.found_in(parts), twice=False)
    assert task.labels == ("O", "B-person", "I-person")
    task.head(model, bias=True)
    before = task.evaluate(model, parts.test)
    Trainer(model, task, parts.train, parts.valid, TrainConfig(epochs=6, lr=1e-2, batch_size=8)).run()
    after = task.evaluate(model, parts.test)
    assert after.f1() > 0.9 > before.f1() and after.loss < before.loss
    (tagged,) = task.predict(model, ["the cat sees Ada, and Cy"])
    assert [word for word, _ in tagged] == ["the", "cat", "sees", "Ada", ",", "and", "Cy"]
    assert all(not misfit("BIO", a, b) for a, b in itertools.pairwise(["O", *(tag for _, tag in tagged)]))
    assert task.predict(model, ["", " "]) == [[], []]
