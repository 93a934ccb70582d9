"""torch.distributed, which is not available: questions are answered, and what would start processes raises."""

from __future__ import annotations

from typing import Any, NoReturn


def is_available() -> bool:
    return False


def is_initialized() -> bool:
    return False


def get_rank(group: Any = None) -> int:
    return 0


def get_world_size(group: Any = None) -> int:
    return 1


def _not_here(name: str) -> NoReturn:
    raise NotImplementedError(f"torch.distributed.{name} is not available: run the program as one process")


def init_process_group(*_: Any, **__: Any) -> NoReturn:
    """Raises NotImplementedError."""
    _not_here("init_process_group")


def destroy_process_group(*_: Any, **__: Any) -> NoReturn:
    """Raises NotImplementedError."""
    _not_here("destroy_process_group")


def barrier(*_: Any, **__: Any) -> NoReturn:
    """Raises NotImplementedError."""
    _not_here("barrier")


def all_reduce(*_: Any, **__: Any) -> NoReturn:
    """Raises NotImplementedError."""
    _not_here("all_reduce")
