"""Reads conversations: chat messages, instructions with outputs, or prompts with completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tinylora.tasks.examples import Examples
from tinylora.tasks.tables import Record, read_records

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}


class Turn(NamedTuple):
    """What one side says."""

    role: str  # "system", "user" or "assistant"
    content: str


class Conversation(NamedTuple):
    """Turns, at least one of them an assistant's, and the line of the file that they begin on."""

    turns: tuple[Turn, ...]
    line: int = 0


def read_conversations(path: str | Path) -> Examples:
    """The conversations in a JSONL, JSON, CSV or TSV file.

    A record has "messages", a list of {"role", "content"}; or "instruction", "input" (which may be empty or absent) and
    "output"; or "prompt" and "completion". "system" may stand beside the last two. Raises ValueError that names the file and
    the line for an empty conversation, an unknown role, two answers in a row, and an answer without a question.
    """
    path = Path(path)
    found = []
    for record in read_records(path):
        try:
            turns = _turns(record)
            _check(turns)
        except ValueError as error:
            raise ValueError(f"{path}: line {record.line}: {error}") from None
        found.append(Conversation(tuple(turns), record.line))
    return Examples(found)


def _turns(record: Record) -> list[Turn]:
    cells = record.cells
    messages = cells.get("messages", cells.get("conversations"))
    if messages is not None:
        return [_turn(message) for message in _list(messages)]
    for question, answer in (("instruction", "output"), ("prompt", "completion"), ("question", "answer")):
        if question in cells and answer in cells:
            asked, more = _text(cells, question), str(cells.get("input") or "") if question == "instruction" else ""
            turns = [Turn("user", f"{asked}\n\n{more}" if more.strip() else asked), Turn("assistant", _text(cells, answer))]
            system = cells.get("system")
            return [Turn("system", _text(cells, "system")), *turns] if system else turns
    keys, wanted = ", ".join(map(repr, cells))[:200], "'messages', 'instruction' and 'output', or 'prompt' and 'completion'"
    raise ValueError(f"no conversation: expected {wanted}, not {keys}")


def _list(messages: Any) -> list[Any]:
    if not isinstance(messages, list):
        raise ValueError(f"'messages' is a list, not {type(messages).__name__}")
    return messages


def _turn(message: Any) -> Turn:
    if not isinstance(message, dict):
        raise ValueError(f"a message has a role and a content, and is not {str(message)[:40]!r}")
    role = message.get("role", message.get("from"))
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}: expected system, user or assistant")
    return Turn(ROLES[role], _text(message, "content" if "content" in message else "value"))


def _text(cells: dict[str, Any], key: str) -> str:
    text = cells.get(key)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{key!r} is {'missing' if text is None else 'empty' if text == '' else 'no text'}")
    return text


def _check(turns: list[Turn]) -> None:
    if not turns:
        raise ValueError("an empty conversation")
    before = ""
    for i, turn in enumerate(turns, 1):
        if turn.role == "assistant" and before != "user":
            what = "two answers in a row" if before == "assistant" else "an answer without a question"
            raise ValueError(f"turn {i}: {what}")
        if turn.role == "system" and i > 1:
            raise ValueError(f"turn {i}: 'system' stands first or not at all")
        before = turn.role
    if not any(turn.role == "assistant" for turn in turns):
        raise ValueError("no answer: there is nothing to learn")
