"""The same definitions on a GPU: every op of the table, the modules, GPT with LoRA, and a training run.

`pytest -s tests/test_gpu.py` ends with a table of the largest relative differences found.
"""

import numpy as np
import pytest
from card import ABSENT, cupy, needs_a_card
from hypothesis import given, settings
from op_table import LARGE, ROWS, Call

import tinylora
from tinylora import nn, optim
from tinylora.adapters.variants import DoRA, DropoutLoRA, Int8Linear, NF4Linear, PiSSA, QLoRA
from tinylora.backend import array_module, is_floating, random_bits
from tinylora.lora import LinearWithLoRA, freeze, replace_linear_with_lora
from tinylora.models.gpt import GPTModel
from tinylora.models.llama import LlamaModel
from tinylora.op import OPS
from tinylora.tensor import sum_to
from tinylora.text.generate import generate_batch
from tinylora.text.sampling import GREEDY

pytestmark = needs_a_card

LIMITS = {"float32": 1e-5, "float64": 1e-12}
CFG = {
    "vocab_size": 61,
    "context_length": 16,
    "emb_dim": 32,
    "n_heads": 4,
    "n_layers": 2,
    "drop_rate": 0.1,
    "qkv_bias": True,
}
LLAMA = {
    "vocab_size": 61, "context_length": 32, "emb_dim": 48, "n_heads": 6, "n_kv_heads": 2, "n_layers": 2, "hidden_dim": 80,
}  # fmt: skip


def to_gpu(x):
    """Arrays, also those inside tuples, lists and dicts, as CuPy arrays with the same numbers."""
    if isinstance(x, np.ndarray):
        return cupy.asarray(np.array(x))
    if isinstance(x, dict):
        return {k: to_gpu(v) for k, v in x.items()}
    return tuple(map(to_gpu, x)) if isinstance(x, tuple | list) else x


def to_cpu(x):
    return cupy.asnumpy(x) if isinstance(x, cupy.ndarray) else np.asarray(x)


def relative_difference(gpu, cpu, rounding=0.0, largest=0.0):
    """max |a - b| over the largest |b|, or over `largest`; NaN and infinities have to stand in the same places.

    A difference of at most `rounding` counts as none: what is left after 1 - 0.9999 has lost its digits on either side.
    """
    a, b = to_cpu(gpu).astype(np.float64), np.asarray(cpu).astype(np.float64)
    assert a.shape == b.shape
    finite = np.isfinite(b)
    assert np.array_equal(a[~finite], b[~finite], equal_nan=True)
    apart = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    return apart / max(largest, np.abs(b[finite]).max()) if apart > rounding else 0.0


def rounding_of(arrays, dtype):
    """Four units in the last place of the largest number that went in."""
    sizes = [np.abs(x).max(initial=0.0) for x in arrays if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
    return 4 * float(np.finfo(dtype).eps) * max([1.0, *sizes])


def results(version, xp, call, g):
    """The output of an op's version, and the gradient of every floating input."""
    with np.errstate(all="ignore"):
        out, vjps = version(xp, *call.inputs, **call.options)
        out = out if isinstance(out, tuple) else (out,)
        g = to_gpu(g) if array_module(*out) is cupy else g
        floats = [hasattr(x, "dtype") and is_floating(x.dtype) for x in call.inputs]
        pairs = zip(call.inputs, vjps, floats, strict=False)
        return [*out, *(sum_to(vjp(g), x.shape) for x, vjp, is_float in pairs if is_float and vjp is not None)]


def gradient_of(out):
    """Numbers on the CPU in the shape and dtype of the output, or by number for each of several."""
    if isinstance(out, tuple):
        return dict(enumerate(map(gradient_of, out)))
    return np.asarray(np.random.default_rng(0).standard_normal(np.shape(out))).astype(out.dtype)


def cast(call, dtype):
    inputs = [x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for x in call.inputs]
    masks = {name: x.astype(dtype) for name, x in call.options.items() if isinstance(x, np.ndarray) and x.dtype.kind == "f"}
    options = {**call.options, **masks, **({"dtype": np.dtype(dtype)} if "dtype" in call.options else {})}
    return Call(tuple(inputs), options)


def compare(name, call, dtype, differences):
    """Definition on NumPy against definition on CuPy, forward and every vjp."""
    op, call = OPS[name], cast(call, dtype)
    with np.errstate(all="ignore"):
        g = gradient_of(op.definition(np, *call.inputs, **call.options)[0])
    expected = results(op.definition, np, call, g)
    found = results(op.definition, cupy, Call(to_gpu(call.inputs), to_gpu(call.options)), g)
    rounding = rounding_of([*call.inputs, *(g.values() if isinstance(g, dict) else [g])], dtype)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        what = f"result {i}, outputs first"
        assert a.dtype == b.dtype, f"{name}: {what} is {a.dtype} on the GPU and {b.dtype} on the CPU"
        difference = relative_difference(a, b, rounding)
        key = (name, np.dtype(dtype).name)
        shown = relative_difference(a, b, largest=rounding / 4 / float(np.finfo(dtype).eps))
        differences[key] = max(differences.get(key, 0.0), shown)
        assert difference <= LIMITS[key[1]], f"{name}: {what} differs by {difference:.2e}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", sorted(ROWS))
def test_an_op_gives_the_same_on_the_gpu(name, dtype, differences):
    @settings(max_examples=15, derandomize=True, database=None)
    @given(ROWS[name])
    def small(call):
        compare(name, call, dtype, differences)

    small()
    for call in LARGE.get(name, []):
        compare(name, call, dtype, differences)


TUNED = [(name, i) for name in sorted(OPS) for i in range(len(OPS[name].tuned["cupy"]))]
NEAR = {"float32": 1e-4, "float64": 1e-10, "bfloat16": 2e-2}
STAYS_WIDE = {  # inputs that are float32 beside bfloat16
    "dropout_lora_linear": (3, 4), "lora_linear": (3, 4), "lora_linears": (4, 5, 8, 9, 12, 13), "cross_entropy": (0,),
    "rope": (1, 2),
}  # fmt: skip


def in_dtype(name, call, dtype):
    """The call with arrays of a dtype on the GPU, and with the same numbers in float64."""
    inputs = [
        x.astype(np.float32 if i in STAYS_WIDE.get(name, ()) and dtype == tinylora.bfloat16 else dtype)
        if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
        for i, x in enumerate(call.inputs)
    ]  # fmt: skip
    exact = [x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind not in "iub" else x for x in inputs]
    wide = np.float64 if dtype == np.float64 else np.float32  # of masks, as functional.py passes them on
    options = {
        k: x.astype(wide) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for k, x in call.options.items()
    }
    exact_options = {
        k: x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype == wide else x for k, x in options.items()
    }
    return Call(to_gpu(tuple(inputs)), to_gpu(options)), Call(to_gpu(tuple(exact)), to_gpu(exact_options))


@pytest.mark.parametrize("name, i", TUNED)
def test_a_tuned_version_agrees_with_the_definition_on_the_gpu(name, i, differences):
    """In every dtype that it takes, of which there has to be one; the definition computes in float64."""
    accepted = set()

    def agree(call, dtype):
        gpu, exact = in_dtype(name, call, dtype)
        version = OPS[name].tuned["cupy"][i]
        fresh = (lambda: in_dtype(name, call, dtype)[0]) if name == "adam" else lambda: gpu  # it overwrites m and v
        if version(cupy, *fresh().inputs, **gpu.options) is NotImplemented:
            return
        accepted.add(dtype)
        y = version(cupy, *fresh().inputs, **gpu.options)[0]
        g = to_gpu(gradient_of(y))
        wide = to_gpu({i: x.astype(np.float64) for i, x in g.items()} if isinstance(g, dict) else g.astype(np.float64))
        outputs = len(y) if isinstance(y, tuple) else 1
        found = results(version, cupy, fresh(), g)
        expected = results(OPS[name].definition, cupy, exact, wide)
        dtypes = [x.dtype for x in gpu.inputs if getattr(getattr(x, "dtype", None), "kind", "i") not in "iub"]
        assert [d.dtype for d in found[outputs:]] == dtypes[: len(found) - outputs]
        for a, b in zip(found, expected, strict=True):
            a, b = to_cpu(a).astype(np.float64), to_cpu(b)
            assert np.array_equal(np.isnan(a), np.isnan(b))
            difference = np.abs(np.nan_to_num(a - b)).max(initial=0.0) / (1 + np.abs(np.nan_to_num(b)).max(initial=0.0))
            key = (f"{name} (tuned)", dtype.name)
            differences[key] = max(differences.get(key, 0.0), difference)
            assert difference <= NEAR[dtype.name], f"{dtype}: differs by {difference:.1e}"
        for x, alone, vjp in zip(gpu.inputs, found[outputs:], version(cupy, *gpu.inputs, **gpu.options)[1], strict=False):
            if hasattr(vjp, "adds_inside"):
                so_far = cupy.asarray(np.random.default_rng(1).standard_normal(x.shape)).astype(x.dtype)
                before = to_cpu(so_far).astype(np.float64)
                both = to_cpu(vjp(g, so_far)).astype(np.float64)
                assert np.array_equal(to_cpu(so_far).astype(np.float64), before), "it wrote into what was there"
                alone = to_cpu(alone).astype(np.float64)
                apart = np.abs(np.nan_to_num(both - before - alone)).max(initial=0.0)
                assert apart <= NEAR[dtype.name] * (1 + np.abs(np.nan_to_num(alone)).max(initial=0.0)), (
                    f"{dtype}: {apart:.1e}"
                )

    dtypes = [np.dtype(np.float32), np.dtype(np.float64), tinylora.bfloat16]

    @settings(max_examples=10, derandomize=True, database=None)
    @given(ROWS[name])
    def small(call):
        for dtype in dtypes:
            agree(call, dtype)

    small()
    for call in LARGE.get(name, []):
        for dtype in dtypes:
            agree(call, dtype)
    if ABSENT and not accepted:
        pytest.skip(f"it declines everything, as versions that need {' or '.join(ABSENT)} do without")
    assert accepted, "it declined everything"


def test_random_bits_and_dropout_masks_are_identical():
    for key in (0, 1, 2**63 - 1):
        assert np.array_equal(random_bits(np, (7, 130), key), cupy.asnumpy(random_bits(cupy, (7, 130), key)))
    masks = []
    for device in ("cpu", "cuda"):
        tinylora.manual_seed(3)
        masks.append(nn.functional.dropout(tinylora.ones(64, 65, device=device), 0.3).cpu().numpy())
    assert np.array_equal(*masks)


def test_a_seed_gives_the_same_weights_on_every_device():
    weights = []
    for device in ("cpu", "cuda"):
        tinylora.manual_seed(3)
        with tinylora.device(device):
            layer = nn.Linear(5, 4)
        assert layer.weight.device == device
        weights.append(layer.weight.detach().cpu().numpy())
    assert np.array_equal(*weights)


def test_devices_do_not_mix_but_0d_numbers_may():
    x, y = tinylora.ones(2, device="cuda"), tinylora.ones(2)
    with pytest.raises(RuntimeError, match="cpu and cuda"):
        x + y
    assert (x * tinylora.tensor(2.0)).device == "cuda"
    with pytest.raises(TypeError, match=r"\.cpu\(\)"):
        x.numpy()
    assert x.cpu().numpy().tolist() == x.tolist() == [1.0, 1.0] and x.sum().item() == 2.0
    w = tinylora.ones(2, requires_grad=True)
    (w.to("cuda") * 3).sum().backward()
    assert w.grad.device == "cpu" and w.grad.tolist() == [3.0, 3.0]


def randomised(make, dtype):
    """A model whose every number is drawn on the CPU, LoRA's B too."""
    tinylora.manual_seed(0)
    model, rng = make(), np.random.default_rng(0)
    for p in model.to(dtype).parameters():
        p.array = (rng.standard_normal(p.shape) * 0.3).astype(dtype)
    return model


def with_lora(model):
    freeze(model)
    replace_linear_with_lora(model, rank=4, alpha=7)
    return model


def gpt_with_lora():
    return with_lora(GPTModel(CFG))


def image(*shape):
    return np.random.default_rng(1).standard_normal(shape)


def tokens(*shape, seed=1):
    return np.random.default_rng(seed).integers(0, 61, shape)


MODULES = {
    "Linear": (lambda: nn.Linear(33, 17), image(4, 33)), "LayerNorm": (lambda: nn.LayerNorm(33), image(4, 33)),
    "Embedding": (lambda: nn.Embedding(61, 9), tokens(4, 7)), "GELU": (nn.GELU, image(4, 33)),
    "SiLU": (nn.SiLU, image(9)), "Softmax": (nn.Softmax, image(4, 33)), "ReLU": (nn.ReLU, image(4, 33)),
    "Dropout": (nn.Dropout, image(4, 33)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU("tanh"), nn.Linear(16, 3)), image(5, 8)),
    "LinearWithLoRA": (lambda: LinearWithLoRA(nn.Linear(33, 17), 4, 7), image(2, 5, 33)),
    "GPTModel": (lambda: GPTModel(CFG), tokens(3, 16)), "GPTModel with LoRA": (gpt_with_lora, tokens(3, 16)),
    "DoRA": (lambda: DoRA(nn.Linear(33, 17), 4, 7), image(2, 5, 33)),
    "PiSSA": (lambda: PiSSA(nn.Linear(33, 17), 4, 7), image(2, 5, 33)),
    "DropoutLoRA": (lambda: DropoutLoRA(nn.Linear(33, 17), 4, 7, 0.3), image(2, 5, 33)),
    "int8": (lambda: QLoRA(Int8Linear(nn.Linear(64, 17)), 4, 7, 0.3), image(2, 5, 64)),
    "NF4": (lambda: QLoRA(NF4Linear(nn.Linear(64, 17)), 4, 7, 0.3), image(2, 5, 64)),
    "RMSNorm": (lambda: nn.RMSNorm(33), image(4, 33)), "LlamaModel": (lambda: LlamaModel(LLAMA), tokens(3, 16)),
    "LlamaModel with LoRA": (lambda: with_lora(LlamaModel(LLAMA)), tokens(3, 16)),
    "LlamaModel, norms of queries and keys": (lambda: LlamaModel({**LLAMA, "qk_norm": True}), tokens(3, 16)),
    "GPTModel, tied": (lambda: GPTModel({**CFG, "tie_head": True}), tokens(3, 16)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODULES)
def test_a_module_gives_the_same_on_the_gpu(name, dtype, differences):
    make, data = MODULES[name]
    data = data.astype(dtype) if data.dtype.kind == "f" else data
    found = {}
    for device in ("cpu", "cuda"):
        model = randomised(make, dtype).to(device)
        x = tinylora.tensor(data).to(device)
        x = x.requires_grad_() if data.dtype.kind == "f" else x
        tinylora.manual_seed(9)  # of the dropout masks
        y = model(x)
        y.backward(tinylora.tensor(np.random.default_rng(2).standard_normal(y.shape).astype(dtype)).to(device))
        gradients = {path: p.grad.array for path, p in model.named_parameters() if p.grad is not None}
        found[device] = {"out": y.array, **gradients} | ({"input": x.grad.array} if x.grad is not None else {})
    assert found["cpu"].keys() == found["cuda"].keys()
    scale = max(np.abs(b).max() for b in found["cpu"].values())
    for path, b in found["cpu"].items():
        assert found["cuda"][path].dtype == b.dtype == dtype
        difference = float(np.abs(to_cpu(found["cuda"][path]) - b).max() / max(np.abs(b).max(), 1e-3 * scale))
        differences[name, dtype] = max(differences.get((name, dtype), 0.0), difference)
        assert difference <= (20 if "Model" in name else 1) * LIMITS[dtype], f"{path} differs by {difference:.2e}"


def test_generated_text_and_quantised_weights_are_the_same_on_the_gpu():
    for make in (lambda: GPTModel(CFG), lambda: LlamaModel(LLAMA)):
        model, prompts, found = randomised(make, "float64"), [[1, 2, 3], [4], [5, 6]], {}
        for device in ("cpu", "cuda"):
            found[device] = list(generate_batch(model.to(device), prompts, 20, GREEDY))
        assert found["cpu"] == found["cuda"]
    linear = nn.Linear(64, 17)
    for kind in (Int8Linear, NF4Linear):
        parts = [[to_cpu(part.array) for part in kind(linear.to(device)).buffers()] for device in ("cpu", "cuda")]
        assert all(np.allclose(a, b, rtol=1e-6) for a, b in zip(*parts, strict=True))


@pytest.mark.parametrize("dtype, limit", [("float64", 1e-8), ("float32", 1e-2)])
def test_fifty_steps_of_training_end_at_the_same_losses(dtype, limit, differences):
    losses = {}
    for device in ("cpu", "cuda"):
        model = randomised(gpt_with_lora, dtype).to(device)
        optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        base = {path: to_cpu(p.array).tobytes() for path, p in model.named_parameters() if not p.requires_grad}
        tinylora.manual_seed(4)
        losses[device] = []
        for step in range(50):
            x, y = (tinylora.tensor(tokens(4, 16, seed=s)).to(device) for s in (step % 5, step % 5 + 100))
            loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses[device].append(loss.item())
        assert {p: to_cpu(q.array).tobytes() for p, q in model.named_parameters() if p in base} == base
        assert losses[device][-1] < losses[device][0]
    difference = relative_difference(np.array(losses["cuda"]), np.array(losses["cpu"]))
    differences["50 steps with LoRA", dtype] = difference
    assert difference <= limit
