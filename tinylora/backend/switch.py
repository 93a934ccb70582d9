"""Context managers and decorators that change a setting of the current thread only."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

GENERATOR = 0x20  # in co_flags of a generator function


class Switch:
    """Changes a setting inside a `with` block, or inside a function decorated with it, with or without brackets.

    A decorated generator runs with the setting changed, and its caller without. Each thread has its own stack of settings
    to go back to, so that one decorated function may run in several threads at once.
    """

    def __new__(cls, function: Any = None, *args: Any) -> Any:
        if callable(function) and not args:
            return cls()(function)
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        self._before = threading.local()

    def change(self) -> Any:
        """Change the setting, and return what it was."""
        raise NotImplementedError

    def restore(self, before: Any) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._before.__dict__.setdefault("stack", []).append(self.change())
        return self

    def __exit__(self, *error: object) -> None:
        self.restore(self._before.stack.pop())

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if getattr(getattr(function, "__code__", None), "co_flags", 0) & GENERATOR:

            @functools.wraps(function)
            def started(*args: Any, **kwargs: Any) -> Any:
                return self._run(function(*args, **kwargs))

            return started

        @functools.wraps(function)
        def switched(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return switched

    def _run(self, generator: Any) -> Iterator[Any]:
        resume, sent = generator.send, None
        while True:
            with self:
                try:
                    found = resume(sent)
                except StopIteration as end:
                    return end.value
            try:
                resume, sent = generator.send, (yield found)
            except GeneratorExit:
                with self:
                    generator.close()
                raise
            except BaseException as error:
                resume, sent = generator.throw, error
