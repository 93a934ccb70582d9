"""Chat as a task: conversations from every layout, refused by line; the answers alone are trained, with their stop token."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora.models.gpt import GPTModel
from tinylora.tasks.chat import Chat, ChatScore, word_f1
from tinylora.tasks.conversations import Conversation, Turn, read_conversations
from tinylora.tasks.examples import IGNORE
from tinylora.training.loop import TrainConfig, Trainer

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

from test_chat_template import LLAMA3, MISTRAL, QWEN3, SMOLLM2  # noqa: E402 - needs jinja2

from tinylora.text.chat_template import ChatTemplate  # noqa: E402
from tinylora.text.tokenizer import LibraryTokenizer  # noqa: E402

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "</s>"]
STOPS = {"smollm2": "<|im_end|>", "qwen3": "<|im_end|>", "llama3": "<|eot_id|>", "mistral": "</s>"}
SOURCES = {"smollm2": SMOLLM2, "qwen3": QWEN3, "llama3": LLAMA3, "mistral": MISTRAL}


@pytest.fixture(scope="module")
def library():
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(["user assistant system Hello, what is the capital of Italy? Rome."] * 3, vocab_size=300)
    made.add_special_tokens(SPECIAL)
    return made


def task(library, name="smollm2", max_length=512, source=None):
    stop = STOPS[name]
    tokenizer = LibraryTokenizer(library, [library.token_to_id(stop)], 0)
    return Chat(tokenizer, max_length, ChatTemplate(source or SOURCES[name], bos_token="", eos_token=stop))


def conversation(*contents, system=None):
    turns = [Turn(role, text) for role, text in zip(itertools.cycle(("user", "assistant")), contents, strict=False)]
    return Conversation((*([Turn("system", system)] if system else []), *turns), 7)


def trained_text(chat, encoded):
    """What the targets spell, special tokens included, answer by answer."""
    found, current = [], []
    for token in [*encoded.targets.tolist(), IGNORE]:
        if token != IGNORE:
            current.append(token)
        elif current:
            found.append(chat.library._tokenizer.decode(current, skip_special_tokens=False))
            current = []
    return found


# ------------------------------------------------------------------------------------ what is trained
texts = st.text("abé ?.\n", min_size=1, max_size=12).filter(str.strip)


@given(st.sampled_from(["smollm2", "llama3"]), st.lists(st.tuples(texts, texts), min_size=1, max_size=3), st.none() | texts)
def test_answers_and_their_stop_tokens_are_trained_and_nothing_else(library, name, pairs, system):
    chat = task(library, name)
    example = conversation(*itertools.chain(*pairs), system=system)
    (encoded,) = chat.encode(example)
    kept = str.strip if name == "llama3" else str  # that template trims
    assert trained_text(chat, encoded) == [kept(answer) + STOPS[name] for _, answer in pairs]
    whole = chat.template.render([turn._asdict() for turn in example.turns], add_generation_prompt=False)
    assert whole.startswith(chat.library._tokenizer.decode(encoded.ids.tolist(), skip_special_tokens=False))
    assert (np.where(encoded.targets[:-1] == IGNORE, encoded.ids[1:], encoded.targets[:-1]) == encoded.ids[1:]).all()


@pytest.mark.parametrize("name", SOURCES)
def test_one_answer_by_the_templates_of_several_families(library, name):
    chat = task(library, name)
    (encoded,) = chat.encode(conversation("What is the capital of Italy?", "Rome."))
    (text,) = trained_text(chat, encoded)
    assert text.endswith(STOPS[name]) and "Rome." in text and "Italy" not in text


def test_what_is_trained_goes_on_from_the_prompt_that_generation_uses(library):
    chat = task(library)
    (encoded,) = chat.encode(conversation("Hello", "Rome"))
    prompt = chat.library.tokens(chat.template.render([{"role": "user", "content": "Hello"}]))
    assert encoded.ids[: len(prompt)].tolist() == prompt
    assert (encoded.targets[: len(prompt) - 1] == IGNORE).all() and encoded.targets[len(prompt) - 1] != IGNORE


@pytest.mark.parametrize(
    "name, source, contents, words",
    [
        ("qwen3", QWEN3, ("a", "b", "c", "d"), "line 7: turn 4: .* does not go on where the text before ends"),
        (
            "smollm2",
            "{% for m in messages %}{{ m.content }}\n{% endfor %}",
            ("a", "b"),
            "turn 2: .* none of the tokens that stop",
        ),
        (
            "smollm2",
            "{{ messages | length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
            ("a", "b"),
            "turn 2: .* does not go on",
        ),
        ("smollm2", "{{ raise_exception('no role user') }}", ("a", "b"), "turn 1: .*no role user"),
    ],
)
def test_a_template_that_proves_nothing_is_refused_with_the_turn(library, name, source, contents, words):
    with pytest.raises(ValueError, match=words):
        task(library, name, source=source).encode(conversation(*contents))


def test_of_a_long_conversation_the_end_is_kept_with_its_stop_token(library):
    whole = task(library).encode(conversation("a " * 40, "Rome", "b", "Hello"))[0]
    (short,) = task(library, max_length=12).encode(conversation("a " * 40, "Rome", "b", "Hello"))
    assert short.cut and not whole.cut and len(short.ids) == 12
    assert short.ids.tolist() == whole.ids[-12:].tolist() and short.targets.tolist() == whole.targets[-12:].tolist()
    with pytest.raises(ValueError, match="line 7: no token of an answer fits 1 tokens"):
        task(library, max_length=1).encode(conversation("a", "b"))


# ------------------------------------------------------------------------------------------- files
A = Conversation((Turn("user", "Hi"), Turn("assistant", "Ho")))


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}),
        ("a.jsonl", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}),
        ("a.jsonl", {"instruction": "Hi", "input": "", "output": "Ho"}),
        ("a.jsonl", {"instruction": "Hi", "output": "Ho"}),
        ("a.jsonl", {"prompt": "Hi", "completion": "Ho"}),
        ("a.json", [{"prompt": "Hi", "completion": "Ho"}]),
        ("a.csv", "prompt,completion\nHi,Ho\n"),
        ("a.csv", "instruction,input,output\nHi,,Ho\n"),
    ],
)
def test_one_conversation_from_every_layout(tmp_path, name, content):
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert [found.turns for found in read_conversations(tmp_path / name)] == [A.turns]


def test_an_input_stands_below_its_instruction_and_a_system_message_first(tmp_path):
    record = {"system": "Be brief.", "instruction": "Add", "input": "1, 2", "output": "3"}
    (tmp_path / "a.json").write_text(json.dumps([record]))
    (found,) = read_conversations(tmp_path / "a.json")
    assert found.turns == (Turn("system", "Be brief."), Turn("user", "Add\n\n1, 2"), Turn("assistant", "3"))


def roles(*names):
    return {"messages": [{"role": name, "content": "x"} for name in names]}


@pytest.mark.parametrize(
    "record, words",
    [
        ({"messages": []}, "an empty conversation"),
        (roles("user", "assistant", "assistant"), "turn 3: two answers in a row"),
        (roles("assistant"), "turn 1: an answer without a question"),
        (roles("system", "assistant"), "turn 2: an answer without a question"),
        (roles("user", "system", "assistant"), "turn 2: 'system' stands first"),
        (roles("user"), "no answer"),
        (roles("user", "robot"), "unknown role 'robot'"),
        ({"messages": "Hi"}, "'messages' is a list, not str"),
        ({"messages": ["Hi"]}, "a message has a role and a content"),
        ({"messages": [{"role": "user"}]}, "'value' is missing|'content' is missing"),
        ({"messages": [{"role": "user", "content": None}]}, "'content' is missing"),
        ({"prompt": "", "completion": "b"}, "'prompt' is empty"),
        ({"prompt": "a", "completion": 3}, "'completion' is no text"),
        ({"question": "a"}, "no conversation: expected 'messages'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, record, words):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(roles("user", "assistant")) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=f"a.jsonl: line 2: ({words})"):
        read_conversations(path)


# ------------------------------------------------------------------------------------- learning, scores
def test_a_tiny_model_learns_answers_and_to_stop(library):
    tinylora.manual_seed(0)
    chat = task(library, "mistral")
    cfg = {"vocab_size": 320, "context_length": 64, "emb_dim": 32, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0}
    model = GPTModel({**cfg, "qkv_bias": True})
    examples = [conversation("Hello", "Rome"), conversation("what", "capital of Italy"), conversation("is", "user")] * 4
    before = chat.evaluate(model, examples[:3])
    Trainer(model, chat, examples, examples[:3], TrainConfig(epochs=20, lr=2e-2, batch_size=6)).run()
    after = chat.evaluate(model, examples[:3])
    assert before.exact == 0 and after.exact == 1 and after.f1 == 1 and after.loss < 0.2 < before.loss
    assert chat.predict(model, ["Hello", "what"]) == ["Rome", "capital of Italy"]
    assert [sample.answer for sample in after.samples] == ["Rome", "capital of Italy", "user"]
    assert after.tokens == sum(len(chat.library.tokens(a)) + 1 for a in ("Rome", "capital of Italy", "user"))


@given(st.lists(st.sampled_from("a b c".split()), max_size=5), st.lists(st.sampled_from("a b c".split()), max_size=5))
def test_word_f1_is_one_for_the_same_words_and_zero_for_none_in_common(a, b):
    value = word_f1(" ".join(a), " ".join(b))
    plain = [[w for w in words if w != "a"] for words in (a, b)]
    assert 0 <= value <= 1 and value == word_f1(" ".join(b), " ".join(a))
    assert (value == 1) == (sorted(plain[0]) == sorted(plain[1]))
    assert (value == 0) == (not set(plain[0]) & set(plain[1]) and plain != [[], []])


def test_a_score_without_answers_says_so():
    assert (
        ChatScore(1.5, 10).headline == "loss per answer token 1.5000" and ChatScore(1.5, 10).rank > ChatScore(2.0, 10).rank
    )
