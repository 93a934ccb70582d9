"""Models by name: fetched when a person named one, never otherwise, and one line when that cannot be."""

import sys
from pathlib import Path

import pytest

from tinylora.adapters import LoRAConfig, apply_lora, save_adapter
from tinylora.models import hub
from tinylora.models.gpt import GPTModel
from tinylora.models.source import ModelSource
from tinylora.runs.run_folder import load_finetuned, load_language_model


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


# ------------------------------------------------------------------------------------------ the name of a base
TINY = {
    "vocab_size": 257,
    "context_length": 8,
    "emb_dim": 8,
    "n_heads": 2,
    "n_layers": 1,
    "drop_rate": 0.0,
    "qkv_bias": True,
}


def in_the_cache(place, newest="abc"):
    """A model's folder as the hub's cache has it, of which `newest` is the version fetched last."""
    folder = place / "models--someone--tiny-gpt" / "snapshots" / "abc"
    GPTModel(TINY).save_pretrained(folder)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text(newest)
    return folder


def test_a_model_from_the_hub_has_its_name_and_not_the_place_of_the_cache(tmp_path, monkeypatch):
    folder = in_the_cache(tmp_path)
    monkeypatch.setattr(hub, "fetch", lambda name: folder)
    source = ModelSource.open("someone/tiny-gpt")
    assert source.name == "someone/tiny-gpt" == ModelSource.open(folder).name == ModelSource.open(str(folder)).name
    model = source.model()
    config = LoRAConfig(2)
    apply_lora(model, config)
    save_adapter(model, tmp_path / "adapter", config, format="peft", model=source.name)
    written = (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert '"base_model_name_or_path": "someone/tiny-gpt"' in written and "snapshots" not in written


def test_an_older_version_in_the_cache_and_other_folders_keep_their_paths(tmp_path):
    older = in_the_cache(tmp_path, newest="def")
    assert ModelSource.open(older).name == str(older)
    GPTModel(TINY).save_pretrained(tmp_path / "plain")
    assert ModelSource.open(tmp_path / "plain").name == str(tmp_path / "plain")


def test_a_base_that_is_gone_is_named_with_the_way_out(tmp_path):
    GPTModel(TINY).save_pretrained(tmp_path / "base")
    model, config = ModelSource.open(tmp_path / "base").model(), LoRAConfig(2)
    apply_lora(model, config)
    save_adapter(model, tmp_path / "adapter", config, format="peft", model=str(tmp_path / "base"))
    (tmp_path / "base").rename(tmp_path / "moved")
    for load in (load_finetuned, lambda adapter: load_language_model(None, adapter)):
        with pytest.raises(
            FileNotFoundError, match="adapter: its base model is not found: say with --model where it is .*base"
        ):
            load(tmp_path / "adapter")
    assert load_finetuned(tmp_path / "adapter", str(tmp_path / "moved")).source.name == str(tmp_path / "moved")
