"""save and load: what was saved comes back; other programs read it; pickles are refused."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinylora
from tinylora import nn, optim
from tinylora.formats import LoadError, MissingFileError

tensors = st.sampled_from(["float32", "float64", "float16", "int64", "int32", "uint8", "bool"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0)).map(tinylora.from_numpy)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | tensors,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, tinylora.Tensor):
        return (
            a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a.numpy(), b.numpy(), equal_nan=a.dtype.kind == "f")
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(values)
def test_what_was_saved_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "saved.pt"
    tinylora.save(value, path)
    assert same(value, tinylora.load(path))


def test_a_checkpoint_resumes_a_model_and_its_optimizer(tmp_path):
    def made():
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        return model, optim.AdamW(model.parameters(), lr=0.01)

    def step(model, optimizer):
        optimizer.zero_grad()
        model(tinylora.ones(2, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = made()
    step(model, optimizer)
    tinylora.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}, tmp_path / "a.pth")
    step(model, optimizer)
    fresh, other = made()
    saved = tinylora.load(tmp_path / "a.pth", map_location="cpu", weights_only=True)
    fresh.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    step(fresh, other)
    assert all(tinylora.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))


def test_a_state_dict_is_a_plain_safetensors_file(tmp_path):
    model = nn.Linear(3, 2)
    tinylora.save(model.state_dict(), tmp_path / "model.safetensors")
    safetensors = pytest.importorskip("safetensors.numpy")
    found = safetensors.load_file(tmp_path / "model.safetensors")
    assert sorted(found) == ["bias", "weight"] and np.array_equal(found["weight"], model.weight.detach().numpy())
    safetensors.save_file({"x": np.arange(3)}, tmp_path / "other.safetensors")
    assert tinylora.load(tmp_path / "other.safetensors")["x"].tolist() == [0, 1, 2]


def test_bfloat16_keeps_its_dtype(tmp_path):
    pytest.importorskip("ml_dtypes")
    x = tinylora.tensor([1.5, -2.0]).to(tinylora.bfloat16)
    tinylora.save([x], tmp_path / "x.pt")
    assert same([x.float()], [tinylora.load(tmp_path / "x.pt")[0].float()])
    assert tinylora.load(tmp_path / "x.pt")[0].dtype == tinylora.bfloat16


@pytest.mark.parametrize("kind", ["pickle", "zip"])
def test_a_pickle_is_refused_and_the_safe_way_is_named(tmp_path, kind):
    path = tmp_path / "model.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"x": 1}))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", b"")
    with pytest.raises(LoadError, match=r"model\.pt: a pickle.*safetensors\.torch\.save_file"):
        tinylora.load(path)


def test_what_cannot_be_saved_or_read_says_so(tmp_path):
    with pytest.raises(TypeError, match=r"model: tensors, .* are saved, not Linear: save its state_dict\(\)"):
        tinylora.save({"model": nn.Linear(2, 2)}, tmp_path / "x")
    with pytest.raises(TypeError, match="keys are texts or integers"):
        tinylora.save({(1, 2): 3}, tmp_path / "x")
    with pytest.raises(MissingFileError):
        tinylora.load(tmp_path / "nothing.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise" * 20)
    with pytest.raises(LoadError, match=r"noise\.pt"):
        tinylora.load(tmp_path / "noise.pt")
    import safetensors.numpy

    broken = {"tinylora.tree": json.dumps(["dict", ["a", ["tensor", "missing"]]])}
    safetensors.numpy.save_file({"x": np.zeros(1)}, tmp_path / "broken.pt", broken)
    with pytest.raises(LoadError, match="description"):
        tinylora.load(tmp_path / "broken.pt")
