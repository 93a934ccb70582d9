"""Models by name: fetched when a person named one, never otherwise, and one line when that cannot be."""

import sys
from pathlib import Path

import pytest

from tinylora.models import hub


@pytest.mark.parametrize("name", ["here", "./absent", "/absent", "../x", "beside/absent", "a/b/c", "https://x.y/z", ""])
def test_what_is_or_looks_like_a_path_is_never_asked_for(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "fetch", None)
    Path("here").mkdir()
    Path("beside").mkdir()
    assert hub.local(name) == Path(name)


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2", "someone/a.b_c-1"])
def test_a_name_is_fetched_without_pickles_and_code(tmp_path, monkeypatch, name):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path))
    assert hub.local(name) == tmp_path
    assert [a for a, _ in asked] == [(name,)]
    assert not [p for p in asked[0][1]["allow_patterns"] if p.endswith((".bin", ".py", ".pt", "*"))]


def test_without_a_network_or_the_library_one_line_says_so(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def unreachable(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("Name or service not known\nand more")

    def refused(*_, **__):
        raise huggingface_hub.errors.HFValidationError("no such repository\nand more")

    for answer, words in ((unreachable, "cannot be reached: is there a network"), (refused, "does not give it")):
        monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
        with pytest.raises(OSError, match=rf"^gpt5: no such folder, and the Hugging Face hub {words}.*\)$"):
            hub.local("gpt5")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(OSError, match=r"^gpt5: .* pip install 'tinylora\[hf\]'$"):
        hub.local("gpt5")
