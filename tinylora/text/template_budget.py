"""A budget for the work of a chat template. A character costs one unit; a step, or an item that is looked at, STEP units."""

from __future__ import annotations

from typing import Any

BASE = 5_000_000  # units: about a second's work
PER_UNIT = 50  # more for each unit of the messages and of the template
STEP = 10
BITS = 1024  # of a whole number

EMPTY: dict[str, Any] = {}
COLLECTIONS = (list, tuple, set, frozenset, type(EMPTY.keys()), type(EMPTY.items()), type(EMPTY.values()))
SIZED = (str, dict, range, *COLLECTIONS)


class SpentError(Exception):
    """A template has done, or is about to do, more than its budget allows."""


class Budget:
    """Units that are left. Work is paid for before it is done wherever it can be large."""

    def __init__(self, units: float = BASE) -> None:
        self.left = units

    def fill(self, *given: Any) -> None:
        """A new budget, for a template that is given these values."""
        whole = Budget(float("inf"))
        spent = sum(whole.read(value) for value in given)
        self.left = BASE + PER_UNIT * spent

    def pay(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise SpentError("it does more work than a chat template may")

    def read(self, *values: Any) -> int:
        """Pay for values and all that they hold: what it takes to print or compare them. Returns the price."""
        todo, price = list(values), 0
        while todo:
            value = todo.pop()
            cost = STEP + size(value)
            self.pay(cost)
            price += cost
            if isinstance(value, dict):
                todo += [*value.keys(), *value.values()]
            elif isinstance(value, COLLECTIONS):
                todo += value
        return price

    def made(self, value: Any) -> Any:
        """Pay for a value without what it holds, which was paid for before. Returns the value."""
        if isinstance(value, int) and value.bit_length() > BITS:
            raise SpentError(f"it makes a number of {value.bit_length():,} bits")
        self.pay(STEP + size(value))
        return value


def size(value: Any) -> int:
    """Characters of a text, items of a collection, 0 of anything else."""
    return len(value) if isinstance(value, SIZED) else 0
