"""Chat templates: rendered as transformers renders them, and refused, soon and in one line, if they do what none needs."""

import datetime
import json
import sys
import time
import tracemalloc

import pytest
from gguf_files import smollm2
from hypothesis import given
from hypothesis import strategies as st

from tinylora.formats import LoadError
from tinylora.formats.gguf import GGUF
from tinylora.text.chat_template import LONGEST, ChatTemplate

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = "26 Jul 2024" %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message ~ "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant', 'tool'] %}
        {{- raise_exception('Unknown role: ' + message.role) }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}{{ "\\n" }}{{ tool | tojson }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and not message.content.startswith('<tool_response>') %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in message.content %}
            {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
            {%- set reasoning = message.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' }}
            {{- content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'user' %}
{{ '[INST] ' + message['content'] + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}
{% else %}{% continue %}
{% endif %}{% endfor %}"""
MACROS = """{% macro turn(message, names) -%}
  {% for key, value in message.items() | sort %}{{ names.get(key, key) }}: {{ value | string | replace('\n', ' ') | title }};
  {% endfor %}
{%- endmacro %}
{% for message in messages | selectattr('role', 'equalto', 'user') | list %}{{ turn(message, {'role': 'Rôle'}) }}
{% else %}none{% endfor %}{{ messages | map(attribute='role') | unique | join(', ') | upper }}
{{ {'a': [1, 'é<'], 'n': none} | tojson(indent=2) }}{% call(x) turn_twice() %}{{ x }}{% endcall %}{{ strftime_now('%Y') }}"""
MACROS = "{% macro turn_twice() %}{{ caller(1) ~ caller('b') }}{% endmacro %}" + MACROS
TEMPLATES = {"smollm2": SMOLLM2, "llama3": LLAMA3, "qwen3": QWEN3, "mistral": MISTRAL, "macros": MACROS}

SAID = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.just("<think>\nwhy\n</think>\n\nso")
    | st.just(" a\n ")
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": SAID}), min_size=1
)
USER = [{"role": "user", "content": "Hi"}]


def template(source):
    pytest.importorskip("jinja2")
    return ChatTemplate(source, "<s>", "</s>")


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=MESSAGES, prompt=st.booleans())
def test_a_template_is_rendered_as_transformers_renders_it(name, messages, prompt):
    ours = template(TEMPLATES[name])
    theirs = pytest.importorskip("transformers.utils.chat_template_utils")._compile_jinja_template(TEMPLATES[name])
    given = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
    try:
        expected = theirs.render(messages=messages, add_generation_prompt=prompt, **given)
    except Exception as error:
        with pytest.raises(LoadError) as refused:
            ours.render(messages, prompt)
        assert " ".join(str(error).split()) in str(refused.value)
    else:
        assert ours.render(messages, prompt) == expected


def test_the_tokenizer_of_transformers_gives_the_same():
    pytest.importorskip("jinja2")
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()))
    theirs.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tools = [{"type": "function", "function": {"name": "f", "description": "é <b>", "parameters": {}}}]
    for name, source in TEMPLATES.items():
        for prompt in (True, False):
            more = {"tools": tools, "enable_thinking": False} if name == "qwen3" else {}
            given = {"chat_template": source, "add_generation_prompt": prompt, "tokenize": False}
            assert template(source).render(USER, prompt, **more) == theirs.apply_chat_template(USER, **given, **more)


def test_smollm2s_own():
    assert GGUF(smollm2()).metadata["tokenizer.chat_template"] == SMOLLM2
    assert template(SMOLLM2).render(USER) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_long_conversations_stay_within_the_budget():
    turns = [
        {"role": "user", "content": "word " * 400},
        {"role": "assistant", "content": "<think>\n\n</think>\n" + "x" * 2000},
    ]
    for name, source in TEMPLATES.items():
        for messages in (turns * 250, [{"role": "user", "content": "long " * 400_000}]):
            ours = template(source)
            assert len(ours.render(messages)) > 100_000, name
            ours_left = ours._budget.left
            ours._budget.fill(messages, source)
            assert ours_left > 0.3 * ours._budget.left, name


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | SAID,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SAID, inner, max_size=3),
    )
)
def test_tojson_is_pythons_json(found):
    assert template("{{ x | tojson }}").render([], x=found) == json.dumps(found, ensure_ascii=False)
    assert template("{{ x | tojson(indent=4) }}").render([], x=found) == json.dumps(found, ensure_ascii=False, indent=4)


def test_what_a_template_can_ask_for():
    assert template("{{ strftime_now('%Y') }}").render([]) == str(datetime.datetime.now().year)
    assert (
        template("{% for x in [[1, [2]], 3] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}").render([])
        == "123"
    )
    assert template("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}").render([]) == "012"
    assert (
        template("{{ [3, 1] | map('string') | reverse | join('-') }}{{ 7 // 2 ** 2 }}{{ '-' * 3 }}").render([]) == "1-31---"
    )
    loop = "{% for x in ['ab'] %}{% set y = x.replace('a', 'b') %}{{ y.join(['1', y.strip('b')]) }}{% endfor %}"
    assert template(loop).render([]) == "1bb"
    assert template("{{ absent }}{{ absent | default('x') }}{{ tools is none }}").render([]) == "xTrue"
    assert template("a\n{% if true %}\n  b\n{% endif %}\nc").render([]) == "a\n  b\nc"


def doubling(first, then, last=""):
    """A template that sets ns.x to `first`, and 60 times over to `then`."""
    return f"{{% set ns = namespace(x={first}) %}}{{% for i in range(60) %}}{{% set ns.x = {then} %}}{{% endfor %}}{last}"


LONG = "{% set s = 'a' * 1000000 %}"
DAG = doubling("(1,)", "(ns.x, ns.x)")  # little memory, but to print it would take a lot
TOO_MUCH, NOT_ALLOWED = "it does more work than a chat template may", "which it may not"


@pytest.mark.parametrize(
    "source, message",
    [
        ("{{ 'a' * 10**9 }}", TOO_MUCH), ("{{ 10**9 * [1] }}", TOO_MUCH),
        ("{{ 10**(10**10) }}", "it takes a number to the power"),
        ("{% set ns = namespace(x=3) %}{% for i in range(12) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
         "it makes a number"),
        ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", TOO_MUCH),
        ("{% for a in range(100000) %}{% for b in range(100000) if false %}{% endfor %}{% endfor %}", TOO_MUCH),
        ("{% for a in range(100000) %}" + "long text " * 100 + "{% endfor %}", TOO_MUCH),
        ("{% set x %}{% for a in range(100000) %}" + "long text " * 100 + "{% endfor %}{% endset %}", TOO_MUCH),
        ("{% macro f() %}" + "long text " * 999 + "{% endmacro %}{% for a in range(999) %}{{ f() }}{% endfor %}", TOO_MUCH),
        ("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "it calls itself, or is nested, too deeply"),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}", TOO_MUCH),
        ("{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}", "too deeply"), ("{{ range(10**12) }}", "Range too big"),
        (doubling("'aaaa'", "ns.x + ns.x"), TOO_MUCH), (doubling("'aaaa'", "ns.x ~ ns.x"), TOO_MUCH),
        (doubling("'aaaa'", "ns.x.replace('a', 'aa')"), TOO_MUCH),
        (DAG + "{{ ns.x }}", TOO_MUCH), (DAG + "{{ ns.x ~ 1 }}", TOO_MUCH), (DAG + "{{ ns.x | string }}", TOO_MUCH),
        (DAG + "{{ ns.x == [ns.x] }}", TOO_MUCH), (DAG + "{{ ns.x is upper }}", TOO_MUCH),
        (DAG + "{{ {}[ns.x] }}", TOO_MUCH),
        (DAG + "{{ {ns.x: 1} }}", TOO_MUCH), (DAG + "{{ {}.get(ns.x) }}", TOO_MUCH),
        (DAG + "{{ dict([(ns.x, 1)]) }}", TOO_MUCH),
        (DAG + "{{ ns.x | tojson }}", TOO_MUCH), (DAG + "{{ [ns.x] | join }}", TOO_MUCH),
        (DAG + "{{ [ns.x, 1] | unique }}", TOO_MUCH),
        (LONG + "{{ s.replace('', s) }}", TOO_MUCH), (LONG + "{{ s | replace('a', s) }}", TOO_MUCH),
        (LONG + "{{ s | join(s) }}", TOO_MUCH), (LONG + "{{ s.join(range(9999)) }}", TOO_MUCH),
        (LONG + "{{ s.strip(s) }}", TOO_MUCH),
        (LONG + "{{ s.rfind('b' ~ s) }}", TOO_MUCH),
        (LONG + "{{ 'b\nb' | indent(s) }}{{ 'b\nb' * 9 | indent(s) }}", TOO_MUCH),
        (LONG + "{{ range(9999) | reverse | join(s) }}", TOO_MUCH),
        (LONG + "{% for x in [1] %}{{ loop | join(s) }}{% endfor %}", "a loop"),
        ("{{ 'a' | indent(10**9) }}", "it indents by more than 64"),
        ("{{ [1] | tojson(indent=10**9) }}", "it indents by more"),
        ("{{ 'a'.ljust(10**9) }}", NOT_ALLOWED), ("{{ '{:999999999}'.format(1) }}", NOT_ALLOWED),
        ("{{ '%9d' % 1 }}", NOT_ALLOWED),
        ("{{ 'a' | center(10**9) }}", "No filter named 'center'"), ("{{ lipsum(9999) }}", "'lipsum' is undefined"),
        ("{% include 'x' %}", NOT_ALLOWED), ("{% import 'x' as x %}", NOT_ALLOWED), ("{% extends 'x' %}", NOT_ALLOWED),
        ("{% from 'x' import y %}", NOT_ALLOWED), ("{{ ''.__class__ }}", "it reads '__class__' of a str, which it may not"),
        ("{{ ''['__class__'] }}", NOT_ALLOWED), ("{{ messages | attr('__class__') }}", "No filter named 'attr'"),
        ("{{ messages | map(attribute='__class__') | list }}", NOT_ALLOWED), ("{{ range.__globals__ }}", NOT_ALLOWED),
        ("{{ messages.append(1) }}", NOT_ALLOWED), ("{{ messages[0].update(a=1) }}", NOT_ALLOWED),
        ("{{ (7).bit_length() }}", NOT_ALLOWED),
        ("{{ raise_exception('no\nsuch \x1b[2J') }}", "the chat template: no such [2J"), ("{{ x.y }}", "'x' is undefined"),
        ("{{ 1 // 0 }}", "by zero"), ("{{ 'a' + 1 }}", "the chat template: "), ("{% if %}", "Expected an expression"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "too deeply"), ("{{ a" + "|trim" * 99 + " }}", "more than 80 deep"),
        ("{% if a %}" * 99 + "{% endif %}" * 99, "more than 80 deep"),
        (" " * (LONGEST + 1), "it has 65,537 characters, and 65,536"),
    ],
)  # fmt: skip
def test_what_no_template_needs_is_refused_soon_and_in_one_line(source, message):
    pytest.importorskip("jinja2")
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(LoadError) as error:
            ChatTemplate(source).render(USER)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert message in str(error.value) and str(error.value).startswith("the chat template: ")
    assert str(error.value).isprintable() and len(str(error.value)) <= 300
    assert time.process_time() - began < 20 and peak < 100 << 20  # most of the time is spent on watching the memory


WORDS = "{% {%- %} -%} {{ }} for x in if else endif endfor set endset macro f ( ) endmacro [ ] 1 'a' * ** + ~ | join map"
WORDS += " tojson range messages . role content loop ns namespace == is defined \n , : not recursive call endcall"


@given(st.lists(st.sampled_from(WORDS.split(" ")), max_size=30).map(" ".join))
def test_words_in_any_order_are_rendered_or_refused(source):
    pytest.importorskip("jinja2")
    try:
        assert isinstance(ChatTemplate(source).render(USER), str)
    except LoadError as error:
        assert str(error).isprintable()


def test_a_template_can_be_used_again_after_it_failed():
    found = template("{% for i in range(messages|length * 100000) %}{% for j in range(900) %}{% endfor %}{% endfor %}ok")
    with pytest.raises(LoadError, match=TOO_MUCH):
        found.render(USER)
    assert found.render([]) == "ok"


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinylora.text.template_sandbox", None)
    with pytest.raises(RuntimeError, match=r"the chat template needs a library: pip install 'tinylora\[hf\]'"):
        ChatTemplate("")
