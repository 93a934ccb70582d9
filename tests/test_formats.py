"""Files of arrays and folders of models: read bit for bit as written, whole or not there, refused in one clear line."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinylora
from tinylora.adapters import LoRAConfig, apply_lora, merge_and_unload
from tinylora.formats import safetensors
from tinylora.models import load_model, save_model
from tinylora.models.gpt import GPTModel
from tinylora.testing.strategies import arrays, shapes

TINY = {
    "vocab_size": 11, "context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True,
}  # fmt: skip
DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]


@given(st.dictionaries(st.text("ab.", min_size=1), arrays(shapes())), st.sampled_from(DTYPES))
def test_arrays_of_any_shape_and_stride_come_back(tmp_path_factory, named, dtype):
    path = tmp_path_factory.mktemp("f") / "x.safetensors"
    named = {name: (array if dtype == "float64" else array.astype(dtype, order="K")) for name, array in named.items()}
    safetensors.save(path, named, {"who": "me"})
    found, metadata = safetensors.load(path)
    assert found.keys() == named.keys() and metadata == {"who": "me"}
    for name, array in named.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


@given(hnp.arrays(np.float32, 5, elements=st.floats(width=32)))
def test_every_bit_comes_back(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("f") / "x.safetensors"
    safetensors.save(path, {"x": array})
    assert safetensors.load(path)[0]["x"].tobytes() == array.tobytes()
    assert safetensors.load(path)[1] == {}


@pytest.mark.parametrize("name", ["m.bin", "m.pt", "m.pth", "m.pkl", "m.pickle", "m.ckpt", "M.BIN", "m.Pt"])
def test_pickles_are_refused_before_they_are_opened(tmp_path, name):
    with pytest.raises(ValueError, match=r"refused, since unpickling runs code; convert it to \.safetensors") as error:
        safetensors.load(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x00", b"text, not arrays", b"\xff" * 100, b"\x02" + b"\x00" * 7 + b"[]"])
def test_what_is_no_safetensors_file_is_named_in_one_line(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.safetensors: not a readable safetensors file") as error:
        safetensors.load(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


@given(st.data())
def test_no_cut_or_flipped_byte_of_the_header_is_a_traceback(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("f") / "x.safetensors"
    safetensors.save(path, {"x": np.arange(6.0), "y": np.zeros((2, 3), np.float32)})
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, 120))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        safetensors.load(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: not a readable safetensors file")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            safetensors.load(path)


@pytest.mark.parametrize("fails", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails, old):
    path = tmp_path / "x"
    if old is not None:
        path.write_bytes(old)

    def failing(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, fails, failing)
    with pytest.raises(OSError, match="no space left"):
        safetensors.write(path, b"new, and longer")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({} if old is None else {"x": old})


def test_an_interrupt_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("old")

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        safetensors.write(tmp_path / "x", "new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_text_and_bytes_are_written_whole(tmp_path):
    safetensors.write(tmp_path / "x", "äö\n")
    assert (tmp_path / "x").read_bytes() == "äö\n".encode()
    safetensors.write(tmp_path / "x", b"\xff")
    assert (tmp_path / "x").read_bytes() == b"\xff"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644
    with pytest.raises(FileNotFoundError):
        safetensors.write(tmp_path / "absent" / "x", b"")


# ------------------------------------------------------------------------------------- folders of models
def base(**changes):
    tinylora.manual_seed(0)
    return GPTModel({**TINY, **changes}).eval()


def scores(model):
    with tinylora.no_grad():
        return model(tinylora.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])).numpy()


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_folder_gives_the_model_back(tmp_path, tied):
    model = base(tie_head=tied)
    save_model(model, tmp_path / "m")
    np.testing.assert_array_equal(scores(load_model(tmp_path / "m")), scores(model))
    stored, _ = safetensors.load(tmp_path / "m" / "model.safetensors")
    assert ("out_head.weight" in stored) != tied


def test_a_tied_head_that_was_merged_is_stored_beside_the_embedding(tmp_path):
    model = base(tie_head=True)
    apply_lora(model, LoRAConfig(rank=2, alpha=6.0))
    model.out_head.lora.B.array = np.ones_like(model.out_head.lora.B.array)
    merge_and_unload(model)
    save_model(model, tmp_path / "m")
    np.testing.assert_array_equal(scores(load_model(tmp_path / "m")), scores(model))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"emb_dim": "8"}, "emb_dim must be an integer"), ({"n_heads": 0}, "n_heads must be an integer"),
        ({"n_layers": True}, "n_layers must be"), ({"drop_rate": "none"}, "drop_rate must be"),
        ({"emb_dim": 9}, "not divisible by n_heads"), ({"vocab_size": 12}, r"expected \(12, 8\), got \(11, 8\)"),
        ({"labels": "spam"}, "labels must be a list"), ({"labels": ["spam"]}, "labels must be a list"),
        ({"labels": ["a", "a"]}, "labels must be a list"), ({"labels": [0, 1]}, "labels must be a list"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_wrong_is_named(tmp_path, changes, message):
    save_model(base(), tmp_path)
    config = {**json.loads((tmp_path / "config.json").read_text()), **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not readable as JSON"),
        ("[]", "not a JSON object"),
        ("{}", "configuration lacks vocab_size, "),
    ],
)
def test_a_configuration_that_is_none_is_named(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file; a model is 'nano' or a folder"):
        load_model(tmp_path / "absent")


def test_a_model_with_nan_is_refused(tmp_path):
    model = base()
    model.final_norm.scale.array = np.full(8, np.nan, np.float32)
    save_model(model, tmp_path)
    with pytest.raises(ValueError, match=r"NaN or infinity in final_norm\.scale"):
        load_model(tmp_path)
