"""The questions and answers of examples/data: every answer stands in its paragraph, and no paragraph is on two sides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tinylora.tasks.conversations import Turn, read_conversations

DATA = Path(__file__).parents[1] / "examples" / "data"
PARAGRAPHS = {"train": 48, "valid": 4, "test": 8}  # five questions to each


class Question(NamedTuple):
    paragraph: str
    question: str
    answer: str


def read(side: str) -> list[Question]:
    found = []
    for conversation in read_conversations(DATA / f"questions-{side}.jsonl"):
        user, assistant = conversation.turns
        assert (user.role, assistant.role) == ("user", "assistant")
        paragraph, question = user.content.split("\n\n")
        found.append(Question(paragraph, question, assistant.content))
    return found


@pytest.fixture(scope="module")
def sides() -> dict[str, list[Question]]:
    return {side: read(side) for side in PARAGRAPHS}


@pytest.fixture(scope="module")
def questions(sides: dict[str, list[Question]]) -> list[Question]:
    return [question for side in sides.values() for question in side]


def test_there_are_300_questions(sides, questions):
    assert {side: len(found) for side, found in sides.items()} == {"train": 240, "valid": 20, "test": 40}
    assert len(questions) == 300


def test_every_answer_stands_in_its_paragraph_as_whole_words(questions):
    missing = [q for q in questions if not re.search(rf"(?<!\w){re.escape(q.answer)}(?!\w)", q.paragraph)]
    assert missing == []


def test_an_answer_has_one_to_five_words(questions):
    assert [q for q in questions if not 1 <= len(q.answer.split()) <= 5] == []


def test_no_answer_stands_in_its_question(questions):
    assert [q for q in questions if re.search(rf"(?<!\w){re.escape(q.answer)}(?!\w)", q.question, re.IGNORECASE)] == []


def test_no_question_is_repeated(questions):
    assert len({q.question for q in questions}) == len(questions)


def test_no_paragraph_is_on_two_sides(sides):
    paragraphs = {side: {q.paragraph for q in found} for side, found in sides.items()}
    assert {side: len(found) for side, found in paragraphs.items()} == PARAGRAPHS
    assert len(set.union(*paragraphs.values())) == sum(PARAGRAPHS.values())


def test_a_paragraph_has_30_to_60_words_and_five_questions_in_a_row(sides):
    for found in sides.values():
        for i in range(0, len(found), 5):
            assert len({q.paragraph for q in found[i : i + 5]}) == 1
    assert [q for found in sides.values() for q in found if not 30 <= len(q.paragraph.split()) <= 60] == []


def test_the_first_question_reads_as_two_turns():
    first = next(iter(read_conversations(DATA / "questions-train.jsonl")))
    user, assistant = first.turns
    assert user.content.startswith("The Nile flows north") and user.content.endswith("flow through Egypt?")
    assert assistant == Turn("assistant", "north")
