"""The layout of the package: imports go one way, every file says what it is for, and the README lists every room."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tinylora

PACKAGE = Path(__file__).parent.parent / "tinylora"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = [
    "backend", "op", "ops", "tensor", "kernels", "torch_api", "nn", "optim formats utils", "lora testing",
    "text", "models", "adapters", "tasks", "training", "runs", "app", "__main__ as_torch",
]  # fmt: skip
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms.split()}
READING_PATH = ["op.py", "ops/nn.py", "tensor.py", "nn/module.py", "models/gpt.py", "lora.py"]


def room_of(path):
    """The folder or file directly below tinylora/."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules_at_import(path):
    """The modules that a file imports when it is imported: not inside functions, nor for type checkers alone."""
    todo = list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from ([f"tinylora.{a.name}" for a in node.names] if node.module == "tinylora" else [node.module])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            todo += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)]
        elif isinstance(node, ast.ExceptHandler):
            todo += node.body


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    room = room_of(path)
    if room == "__init__":
        return
    assert room in FLOOR, f"{room} has no floor: add it to FLOORS"
    for module in modules_at_import(path):
        parts = module.split(".")
        if parts[0] == "tinylora" and parts[1:] and parts[1] in FLOOR and parts[1] != room:
            assert FLOOR[parts[1]] < FLOOR[room], f"{room} imports {parts[1]}, above or beside it"


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_no_two_rooms_import_each_other(room):
    def neighbours(name):
        files = [f for f in FILES if room_of(f) == name]
        found = {m.split(".")[1] for f in files for m in modules_at_import(f) if m.startswith("tinylora.")}
        return found & set(FLOOR) - {name}

    assert not [other for other in neighbours(room) if room in neighbours(other)]


def holds_files(folder):
    """Apart from what Python leaves behind where a folder was."""
    return any(path.is_file() and "__pycache__" not in path.parts for path in folder.rglob("*"))


def test_the_readme_lists_exactly_the_rooms():
    tree = (PACKAGE.parent / "README.md").read_text().partition("```text\ntinylora/\n")[2].partition("```")[0]
    listed = re.findall(r"^    (\S+) +\S", tree, re.MULTILINE)
    rooms = [path for path in PACKAGE.iterdir() if path.name[:2] != "__" and (path.is_file() or holds_files(path))]
    there = [f"{path.name}/" if path.is_dir() else path.name for path in rooms]
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_file_says_in_its_first_line_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()), clean=False)
    assert docstring and docstring.splitlines()[0].strip(), f"{path}: begin with a docstring whose first line is a summary"


def test_git_ignores_no_file_of_the_package():
    """A wheel leaves out what .gitignore names, tracked or not."""
    if shutil.which("git") is None or not (PACKAGE.parent / ".git").exists():
        pytest.skip("not a git checkout")
    names = [str(path.relative_to(PACKAGE.parent)) for path in FILES]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *names], capture_output=True, text=True, check=False, cwd=PACKAGE.parent
    )
    assert done.stdout == ""


def test_importing_tinylora_imports_nothing_heavy():
    heavy = ("cupy", "hypothesis", "torch", "rich", "pytest", "matplotlib", "mpi4py")
    code = f"import sys, tinylora; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_passes_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_each_file_of_the_reading_path_names_the_next():
    texts = [(PACKAGE / name).read_text() for name in READING_PATH]
    for i, text in enumerate(texts):
        head = ast.get_docstring(ast.parse(text))
        assert f"(Reading path {i + 1} of 6" in head
        assert i == 5 or f"next: {READING_PATH[i + 1]}" in head


def test_there_is_no_pickle_anywhere():
    for path in FILES:
        assert not {"pickle", "shelve", "marshal", "dill"} & set(modules_at_import(path)), path


def test_what_most_programs_do_not_use_is_imported_at_its_first_use():
    rooms = "{m for m in sys.modules if m.startswith(('tinylora.models', 'tinylora.adapters', 'tinylora.testing'))}"
    program = (
        f"import sys, tinylora; assert not {rooms}, {rooms}; tinylora.load_model; assert 'tinylora.models' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tinylora' has no attribute 'lora_model'"):
        tinylora.lora_model
