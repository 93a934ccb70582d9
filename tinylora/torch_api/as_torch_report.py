"""Lists the names of torch that a program's files mention, and says which of them are here. Nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tinylora.torch_api.as_torch import Missing, find, has


def report(program: Path) -> tuple[str, bool]:
    """A text with a line per name, and whether all names are here."""
    lines, absent = [], 0
    files = files_of(program)
    for name, (file, line) in sorted(names_in_files(files).items()):
        here = has(name)
        absent += not here
        lines.append(f"  {name}" if here else f"- {Missing(name, str(file), line)}")
    counts = f"{len(lines)} names of torch in {len(files)} file{'s' * (len(files) != 1)}, {absent} of them not in tinylora"
    return "\n".join([*lines, counts]), not absent


def files_of(program: Path) -> list[Path]:
    """The program's file and, from its folder, those that it imports, and that they import."""
    found, todo = [], [program]
    while todo:
        file = todo.pop(0)
        if file in found or not file.is_file():
            continue
        found.append(file)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or "", *(f"{node.module}.{a.name}" if node.module else a.name for a in node.names)]
            else:
                continue
            for folder in (program.parent, file.parent):
                paths = [folder / name.replace(".", "/") for name in modules if name]
                todo += [p for path in paths for p in (path.with_suffix(".py"), path / "__init__.py")]
    return found


def names_in_files(files: list[Path]) -> dict[str, tuple[Path, int]]:
    """Each name of torch, with the place of its first mention."""
    found: dict[str, tuple[Path, int]] = {}
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        for name, line in mentions(tree):
            found.setdefault(shortest(name), (file, line))
    return found


def mentions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(name, line) of what is imported from torch, and of each `torch.nn.Linear` by whatever name torch was given."""
    known: dict[str, str] = {}  # F -> torch.nn.functional
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "torch":
                    known[alias.asname or "torch"] = alias.name if alias.asname else "torch"
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").partition(".")[0] == "torch":
            for alias in node.names:
                if alias.name != "*":
                    known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                    yield f"{node.module}.{alias.name}", node.lineno
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner and (name := dotted(node, known)):
            yield name, node.lineno


def dotted(node: ast.expr, known: dict[str, str]) -> str | None:
    """`F.gelu` as "torch.nn.functional.gelu", if F is known."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute) and (left := dotted(node.value, known)):
        return f"{left}.{node.attr}"
    return None


def shortest(name: str) -> str:
    """The name without what belongs to a value: torch.float32 of torch.float32.itemsize; a missing name with its parent."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        path = ".".join(parts[: i + 1])
        if not has(path):
            return path
        found = find(path)
        if not hasattr(found, "__path__") and type(found).__name__ != "module" and not isinstance(found, type):
            return path
    return name
