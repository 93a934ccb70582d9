"""The documents tell the truth: their code runs, prints what they say it prints, and quotes lines that exist."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest

import tinylora
from tinylora.backend import default_device, device
from tinylora.models.names import FAMILIES
from tinylora.op import OPS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()]
MODULES = [tinylora.__name__] + [
    module.name for module in pkgutil.walk_packages(tinylora.__path__, "tinylora.") if not module.name.endswith("__main__")
]

SPANNING = re.MULTILINE | re.DOTALL
EXECUTED = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n*^```text\n(?P<output>.*?)^```$)?", SPANNING)
QUOTED = re.compile(r"^```python from (?P<file>\S+)\n(?P<code>.*?)^```$", SPANNING)
FENCED = re.compile(r"^```.*?^```$", SPANNING)


@pytest.fixture(autouse=True)
def own_world():
    """Documents may define ops and families, seed random numbers, change the default device: nothing of it stays."""
    if default_device() != "cpu":
        pytest.skip("the documents show numbers of the CPU")
    ops, default, families = dict(OPS), device.default, list(FAMILIES)
    tinylora.manual_seed(0)
    yield
    OPS.clear()
    OPS.update(ops)
    FAMILIES[:] = families
    device.default = default


@pytest.mark.filterwarnings("ignore:rank .* is more than")  # the lecture's rank 16 on a two-class head
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_code_blocks(path, tmp_path, monkeypatch):
    """Every ```python block, in order and in one namespace; a ```text block right below one is its exact output."""
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    namespace = {"__name__": path.name}
    for block in EXECUTED.finditer(text):
        line = text.count("\n", 0, block.start("code"))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + block["code"], str(path), "exec"), namespace)
        if block["output"] is not None:
            assert printed.getvalue() == block["output"], f"{path.name}, line {line + 1}: another output"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_quoted_lines(path):
    """Every ```python from FILE block stands in that file, line below line, but for the indentation of the whole."""
    for block in QUOTED.finditer(path.read_text(encoding="utf-8")):
        source = textwrap.dedent((ROOT / block["file"]).read_text(encoding="utf-8"))
        quoted = [line.strip() for line in block["code"].splitlines()]
        lines = [line.strip() for line in source.splitlines()]
        starts = range(len(lines) - len(quoted) + 1)
        assert any(lines[i : i + len(quoted)] == quoted for i in starts), f"not in {block['file']}: {block['code']}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links(path):
    """Every link to a file of this project leads somewhere."""
    prose = FENCED.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", prose):
        assert (path.parent / target).exists(), f"{path.name} links to {target}, which does not exist"


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    """The >>> examples in docstrings."""
    if name in ("tinylora.text.chat_template", "tinylora.text.template_sandbox"):
        pytest.importorskip("jinja2")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        pytest.skip(f"{name} needs CuPy")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
