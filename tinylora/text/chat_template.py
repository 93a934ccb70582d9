"""A model's own chat template: Jinja out of somebody else's file, run with little allowed and all of it counted.

jinja2's immutable sandbox keeps a template from Python's insides, but not from running for hours or filling the memory. So:

- Only the functions, filters and methods listed in template_sandbox.py can be used. There is nothing to import or include.
- Every step is paid for out of a budget by the size of what it reads and makes, and what can be large is paid for before it
  is made. jinja2 lets us in on calls, filters, tests and operators; for the rest the parsed template is rewritten before it
  is compiled: the bodies of loops and macros begin by paying, and `~`, comparisons and slices become filters that pay.

A template whose budget is spent is refused. The budget grows with the messages; usual templates need a hundredth of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tinylora.formats import LoadError
from tinylora.text.template_budget import Budget

LONGEST = 1 << 16  # characters of a template
T = TypeVar("T")


class ChatTemplate:
    """The template `source`; `bos_token` and `eos_token` are what it writes by these names, and `where` begins its errors.

    Raises LoadError, in one line, if it is too long, no Jinja, or asks for what is not allowed; RuntimeError if jinja2 is
    missing.

    >>> source = "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}{% endfor %}"
    >>> template = ChatTemplate(source, eos_token="#")
    >>> template.render([{"role": "user", "content": " Hello "}])
    '[user] Hello#'
    """

    def __init__(self, source: str, bos_token: str = "", eos_token: str = "", where: str = "the chat template") -> None:
        try:
            from tinylora.text.template_sandbox import ChatEnvironment
        except ImportError:
            raise RuntimeError(f"{where} needs a library: pip install 'tinylora[hf]'") from None
        if len(source) > LONGEST:
            raise LoadError(f"{where}: it has {len(source):,} characters, and {LONGEST:,} is the most")
        self.source, self.where = source, where
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token, "tools": None, "documents": None}
        self._budget, self._lock = Budget(), threading.Lock()
        self._template = self._guarded(lambda: ChatEnvironment(self._budget).compiled(source))

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any) -> str:
        """The conversation as one text. A message has "role" and "content"; `variables` are what else the template knows.

        Raises LoadError, in one line, if the template refuses the messages, fails, or does more than its budget allows.
        """
        given = {**self._tokens, **variables, "messages": list(messages), "add_generation_prompt": add_generation_prompt}
        with self._lock:
            self._budget.fill(given, self.source)
            return self._guarded(lambda: self._template.render(given))

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except RecursionError:
            raise LoadError(f"{self.where}: it calls itself, or is nested, too deeply") from None
        except Exception as error:  # a template may fail in any way
            said = str(getattr(error, "message", None) or error) or type(error).__name__
            line = "".join(c if c.isprintable() else " " for c in f"{self.where}: {said}")
            raise LoadError(" ".join(line.split())[:300]) from None
