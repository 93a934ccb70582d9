"""The public names: what dir(tinylora) shows, what a star import gives, and what a type checker sees of a Tensor."""

import inspect
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import tinylora
import tinylora.nn.functional
from tinylora.torch_api import (
    activations,
    comparison,
    conversion,
    diagonals,
    distances,
    elementwise,
    functional,
    in_place,
    joining,
    losses,
    network,
    new,
    products,
    rearranging,
    sampling,
    scans,
    scattering,
    scientific,
    shaping,
    statistics,
)
from tinylora.torch_api.in_place_methods import InPlaceMethods
from tinylora.torch_api.methods import TensorMethods
from tinylora.torch_api.operators import Operators

ROOT = Path(__file__).parent.parent
ROOMS = {
    "adapters", "amp", "as_torch", "autograd", "backends", "cuda", "distributed", "functional", "linalg", "lora", "models",
    "nn", "ops", "optim", "random", "testing", "utils",
}  # fmt: skip
NEW_FUNCTIONS = [
    activations, diagonals, distances, joining, losses, new, products, rearranging, sampling, scans, scattering, scientific,
    statistics,
]  # fmt: skip
TORCH_API = [comparison, conversion, elementwise, functional, in_place, shaping, network, *NEW_FUNCTIONS]
NOT_PYTORCHS = {
    "axes_of",
    "numpy_names",
    "operand",
    "follow",
    "promote",
    "record",
    "is_floating",
    "next_key",
    "seen",
    "need_float",
    "wide",
}


def functions_of(module):
    """The public functions in a module's namespace that this package wrote."""
    found = {n: f for n, f in vars(module).items() if isinstance(f, types.FunctionType) and not n.startswith("_")}
    return {n: f for n, f in found.items() if f.__module__.startswith("tinylora.")}


def test_dir_shows_the_public_names_alone():
    assert dir(tinylora) == sorted(tinylora.__all__)
    assert len(set(tinylora.__all__)) == len(tinylora.__all__)


def test_every_public_name_exists():
    assert not [name for name in tinylora.__all__ if not hasattr(tinylora, name)]


def test_the_modules_among_the_public_names_are_the_public_rooms():
    assert {name for name in dir(tinylora) if isinstance(getattr(tinylora, name), types.ModuleType)} == ROOMS


def test_every_function_and_class_that_the_package_imports_at_its_top_is_public():
    """Nothing is importable as `tinylora.name` and forgotten in __all__."""
    found = {n for n, v in vars(tinylora).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}
    assert found <= set(tinylora.__all__)


def test_a_star_import_gives_the_public_names():
    space = {}
    exec("from tinylora import *", space)
    assert set(space) - {"__builtins__"} == set(tinylora.__all__)


def test_nn_functional_imports_as_with_torch():
    import tinylora.nn.functional as by_path
    from tinylora.nn import functional as by_name

    assert by_path is by_name is tinylora.nn.functional


def test_nn_functional_has_the_functions_of_torch_api():
    ours = {name for name in functions_of(functional) if name not in NOT_PYTORCHS}
    assert ours <= set(functions_of(tinylora.nn.functional))
    assert tinylora.functional is tinylora.nn.functional


def test_nn_functional_has_every_function_of_ours_that_pytorch_has_there():
    torch = pytest.importorskip("torch")
    wanted = {n for module in TORCH_API for n in functions_of(module) if hasattr(torch.nn.functional, n)}
    assert wanted - set(functions_of(tinylora.nn.functional)) == {"unfold"}  # PyTorch's is of images, ours Tensor.unfold


@pytest.mark.parametrize("module", [comparison, *NEW_FUNCTIONS], ids=lambda m: m.__name__)
def test_a_function_of_pytorchs_name_is_found_where_pytorch_has_it(module):
    torch = pytest.importorskip("torch")
    for name in [n for n, f in functions_of(module).items() if f.__module__ == module.__name__]:
        assert not hasattr(torch, name) or hasattr(tinylora, name) or hasattr(tinylora.nn.functional, name), name
        assert not hasattr(torch.Tensor, name) or hasattr(tinylora.Tensor, name), name


# ------------------------------------------------------------------------------------ methods
@pytest.mark.parametrize("holder", [Operators, InPlaceMethods, TensorMethods])
def test_tensor_has_every_method_of_its_mixins(holder):
    names = [n for n, m in vars(holder).items() if callable(m) or isinstance(m, property)]
    assert names
    for name in names:
        assert vars(tinylora.Tensor)[name] is vars(holder)[name], name


def test_methods_have_the_parameter_names_of_pytorch():
    torch = pytest.importorskip("torch")
    a, b = ([[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 9.0]])
    for make in (tinylora.tensor, torch.tensor):
        x, y = make(a), make(b)
        x.add(other=y).sub(other=y).mul(other=y).div(other=y).pow(exponent=2).matmul(other=y)
        x.eq(other=y).logical_and(other=x.lt(other=y)).any(dim=0, keepdim=True)
        x.sum(dim=0, keepdim=True, dtype=x.dtype).expand_as(other=x).var(dim=1, correction=0)
        x.clamp(min=0.0, max=1.0).masked_fill(mask=x < 2, value=0.0).clamp_(min=0.5).copy_(other=y).fill_(value=1.0)
        x.transpose(dim0=0, dim1=1).flatten(start_dim=0, end_dim=1).unsqueeze(dim=0).squeeze(dim=0).size(dim=0)
        x.topk(k=1, dim=1, largest=False).values.allclose(other=y, rtol=1.0, atol=1.0, equal_nan=True)
        x.max(dim=1, keepdim=True).indices.type_as(other=y).requires_grad_(requires_grad=True)


@pytest.mark.parametrize("module", TORCH_API, ids=lambda m: m.__name__)
def test_every_signature_of_the_api_is_typed(module):
    for name, f in functions_of(module).items():
        signature = inspect.signature(f)
        assert signature.return_annotation is not signature.empty, name
        assert all(p.annotation is not p.empty for p in signature.parameters.values()), name


SNIPPET = """
import tinylora
x = tinylora.ones(3)
reveal_type(x.sum())
reveal_type(x + 1.0)
reveal_type(1.0 - x)
reveal_type(x[0])
reveal_type(x == x)
reveal_type(x.T)
reveal_type(x.size(0))
reveal_type(x.max())
reveal_type(x.max(dim=0).indices)
reveal_type(x.numpy())
reveal_type(x.add_(x))
x.summ()
x.sum(dimension=0)
"""


def test_a_type_checker_sees_the_methods(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed")
    (tmp_path / "snippet.py").write_text(SNIPPET)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
    ]
    done = subprocess.run(
        [*command, "--follow-imports=silent", "snippet.py"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "MYPYPATH": str(ROOT)},
    )  # fmt: skip
    lines = [line.split(":", 2)[2].strip() for line in done.stdout.splitlines() if line.startswith("snippet.py")]
    revealed = [line.split('"')[1].removeprefix("tinylora.tensor.") for line in lines if "Revealed" in line]
    assert revealed[:6] == ["Tensor"] * 6, done.stdout + done.stderr
    assert revealed[6].endswith("int") and revealed[7:9] == ["Tensor"] * 2
    assert "ndarray" in revealed[9] and revealed[10] == "Tensor"
    errors = [line for line in lines if line.startswith("error")]
    assert len(errors) == 2 and '"Tensor" has no attribute "summ"' in errors[0] and "dimension" in errors[1]
