"""Training on a GPU: captured steps, bfloat16, the kin of LoRA, layers side by side, devices and files, failures."""

import weakref

import numpy as np
import pytest
from card import apart, cupy, needs_a_card, needs_nvmath

import tinylora
from tinylora import adapters, nn, optim
from tinylora.adapters.variants import DoRA, DropoutLoRA, Int8Linear, LoRAFA, NF4Linear, PiSSA, QLoRA
from tinylora.backend import bfloat16
from tinylora.lora import LinearWithLoRA, freeze, replace_linear_with_lora
from tinylora.models.gpt import GPTModel
from tinylora.models.llama import LlamaModel
from tinylora.nn import functional as F
from tinylora.runs.checkpoints import Checkpoints
from tinylora.tasks import Classify
from tinylora.tasks.classify import class_scores
from tinylora.tasks.messages import Message
from tinylora.text.tokenizer import BYTES
from tinylora.training.loop import TrainConfig, Trainer
from tinylora.training.recompute import checkpoint_modules
from tinylora.training.report import Reporter

pytestmark = needs_a_card
CFG = {
    "vocab_size": 61,
    "context_length": 32,
    "emb_dim": 64,
    "n_heads": 4,
    "n_layers": 2,
    "drop_rate": 0.1,
    "qkv_bias": True,
}


def gpt(dtype=None, **changes):
    """On the GPU, with LoRA on everything and a head for two classes that is trained whole."""
    tinylora.manual_seed(0)
    model = GPTModel({**CFG, **changes})
    freeze(model)
    replace_linear_with_lora(model, rank=8, alpha=7)  # 8: query, key and value run side by side in bfloat16, too
    model.out_head = nn.Linear(model.cfg.emb_dim, 2)
    rng = np.random.default_rng(0)
    for name, p in model.named_parameters():
        p.array = (rng.standard_normal(p.shape) * (0.3 if "lora" in name else 0.1)).astype("float32")
    return model.to("cuda", *([dtype] if dtype else []))


def data(seed, length=16):
    rng = np.random.default_rng(seed)
    arrays = rng.integers(0, 61, (4, length)), rng.integers(0, 2, 4)
    return [tinylora.tensor(a, device="cuda") for a in arrays]


def stepper(model, lr=3e-3, clip=1.0):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optim.AdamW(trained, lr=lr)

    def step(ids, classes):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids)[:, -1], classes)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        return loss, norm

    return step, optimizer


def train(model, captured, steps=12, lengths=(16,)):
    step, optimizer = stepper(model)
    run = tinylora.cuda.capture(step, optimizer) if captured else step
    tinylora.manual_seed(5)
    found = []
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 + i % 3)
        found.append([x.item() for x in run(*data(i, lengths[i % len(lengths)]))])
    return np.array(found), {n: p.array.get() for n, p in model.named_parameters() if p.requires_grad}


# ------------------------------------------------------------------------------------------- graphs
@needs_nvmath
@pytest.mark.parametrize("dtype", [None, bfloat16])
@pytest.mark.parametrize("lengths", [(16,), (16, 24)])
def test_a_captured_step_gives_the_numbers_of_the_step(dtype, lengths):
    """Dropout, clipping, a learning rate that changes, and batches of two lengths."""
    (expected, weights), (found, moved) = train(gpt(dtype), False, 12, lengths), train(gpt(dtype), True, 12, lengths)
    assert apart(found, expected) <= 1e-6
    assert max(apart(moved[n], w) for n, w in weights.items()) <= 1e-5
    assert len({round(x, 6) for x in found[:, 0]}) == len(found)


@needs_nvmath
@pytest.mark.parametrize("dtype", [None, bfloat16])
@pytest.mark.parametrize("features", [4, 12, 24, 136])
def test_a_classifier_of_any_size_of_head_can_be_captured(dtype, features):
    """Its last block attends from one position; 12 features in bfloat16 are one and a half packs."""
    found = []
    for captured in (False, True):
        model = gpt(dtype, emb_dim=4 * features, drop_rate=0.1)
        optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

        def step(ids, classes, last, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = F.cross_entropy(class_scores(model, ids, last), classes)
            loss.backward()
            optimizer.step()
            return loss

        run = tinylora.cuda.capture(step, optimizer) if captured else step
        tinylora.manual_seed(5)
        last = tinylora.tensor([15, 0, 7, 9], device="cuda")
        found.append([run(*data(i), last).item() for i in range(4)])
    assert apart(*map(np.array, found)) < 1e-5


@needs_nvmath
def test_a_captured_step_may_recompute():
    light = gpt()
    checkpoint_modules(light.trf_blocks)
    assert apart(train(light, True)[0], train(gpt(), False)[0]) <= 1e-5


@needs_nvmath
def test_a_captured_step_reads_weights_and_state_that_were_put_in_its_way():
    model = gpt(drop_rate=0.0)
    step, optimizer = stepper(model)
    run = tinylora.cuda.capture(step, optimizer)
    for i in range(4):
        run(*data(i))
    saved = [p.array.copy() for p in optimizer.parameters()], optimizer.state_dict()
    expected = [run(*data(i))[0].item() for i in range(4, 8)]
    for p, array in zip(optimizer.parameters(), saved[0], strict=True):
        p.array = array
    optimizer.load_state_dict(saved[1])
    assert [run(*data(i))[0].item() for i in range(4, 8)] == expected


@needs_nvmath
def test_a_step_that_looks_at_its_numbers_cannot_be_captured():
    model = gpt()
    step, optimizer = stepper(model)

    def looking(ids, classes):
        loss, _ = step(ids, classes)
        return tinylora.tensor(loss.item())

    run = tinylora.cuda.capture(looking, optimizer)
    run(*data(0))
    with pytest.raises(RuntimeError, match=r"\.item\(\)"):
        run(*data(1))
    assert step(*data(2))[0].item() > 0  # the GPU goes on


def test_a_step_with_sgd_cannot_be_captured():
    with pytest.raises(RuntimeError, match="SGD cannot be captured"):
        tinylora.cuda.capture(lambda: None, optim.SGD([tinylora.ones(2, requires_grad=True)]))


class Losses(Reporter):
    """Keeps the loss of every step."""

    def __init__(self):
        self.losses = []

    def stepped(self, step):
        self.losses.append(step.loss)


@needs_nvmath
def test_the_training_loop_gives_the_same_losses_on_the_cpu_and_on_the_gpu_with_and_without_graphs():
    rng = np.random.default_rng(0)
    words = {"ham": "see you at home soon dear", "spam": "win cash now call free prize"}
    drawn = [(label, rng.choice(text.split(), rng.integers(1, 12))) for label, text in words.items() for _ in range(24)]
    messages = [Message(label, " ".join(chosen)) for label, chosen in drawn]
    losses, weights = {}, {}
    for name, device, graph in (("cpu", "cpu", True), ("plain", "cuda", False), ("graph", "cuda", True)):
        with tinylora.device(device):
            tinylora.manual_seed(0)
            model = GPTModel({**CFG, "vocab_size": 257, "context_length": 80, "drop_rate": 0.0})
            model.out_head = nn.Linear(CFG["emb_dim"], 2)
            tinylora.adapters.apply_lora(model, tinylora.adapters.LoRAConfig(4, 8.0, train=("out_head",)))
            recorder = Losses()
            config = TrainConfig(epochs=4, batch_size=8, lr=1e-3, graph=graph)
            task = Classify(BYTES, 80, ("ham", "spam"))
            assert Trainer(model, task, messages, messages[::4], config, recorder).run().finished
        losses[name] = np.array(recorder.losses)
        weights[name] = {n: p.detach().cpu().numpy() for n, p in model.named_parameters() if p.requires_grad}
    assert len(losses["graph"]) == 4 * 6 and losses["graph"][-1] < losses["graph"][0]
    for name in ("plain", "graph"):
        assert apart(losses[name], losses["cpu"]) < 1e-3
        assert max(apart(weights[name][n], w) for n, w in weights["cpu"].items()) < 1e-2


class StoppedError(Exception):
    """Ends training."""


@needs_nvmath
@pytest.mark.parametrize("dtype", [None, bfloat16])
@pytest.mark.parametrize("graph", [True, False])
def test_training_goes_on_from_a_checkpoint_to_the_same_bytes(dtype, graph, tmp_path):
    """In a new trainer, whose steps are captured anew, and in one that has captured its steps already."""
    rng = np.random.default_rng(0)
    messages = [Message("ab"[i % 2], "".join(rng.choice(list("abcdef"), rng.integers(1, 60)))) for i in range(40)]
    config = TrainConfig(epochs=3, batch_size=4, accumulate=2, lr=1e-3, graph=graph)

    def trainer():
        tinylora.manual_seed(0)
        model = GPTModel({**CFG, "vocab_size": 257, "context_length": 80})
        task = Classify(BYTES, 80, ("a", "b"))
        task.head(model)
        adapters.apply_lora(model, adapters.LoRAConfig(4, 8.0, train=("out_head",), dropout=0.1))
        model.to("cuda", *([dtype] if dtype else []))
        return Trainer(model, task, messages, messages[::4], config)

    def weights(trained):
        return {name: p.array.get().tobytes() for name, p in trained.state.trained.items()}

    with tinylora.device("cuda"):
        whole = trainer()
        whole.run()
        for stop in (1, 2, 7, 12):
            checkpoints, first, again = Checkpoints(tmp_path / str(stop)), trainer(), trainer()

            def after_step(state, stop=stop, checkpoints=checkpoints):
                if state.step == stop:
                    checkpoints.save(*state.state_dict())
                if state.step == stop + 2:
                    raise StoppedError

            with pytest.raises(StoppedError):
                first.run(after_step)
            found, damaged = checkpoints.newest()
            assert not damaged
            for other in (again, first):
                other.state.load_state_dict(found.arrays, found.numbers)
                other.run()
                assert weights(other) == weights(whole)


@needs_nvmath
def test_a_loss_that_is_not_finite_leaves_the_best_weights_in_the_model():
    messages = [Message(label, text) for label in ("a", "b") for text in ("one", "two", "three", "four")]
    with tinylora.device("cuda"):
        model = GPTModel({**CFG, "vocab_size": 257, "drop_rate": 0.0})
        model.out_head = nn.Linear(CFG["emb_dim"], 2)
        before = [p.array.copy() for p in model.parameters()]
        with pytest.raises(FloatingPointError, match="NaN or infinite"):
            task = Classify(BYTES, CFG["context_length"], ("a", "b"))
            Trainer(model, task, messages, messages, TrainConfig(epochs=9, lr=1e30, batch_size=4)).run()
    assert all((p.array == b).all() for p, b in zip(model.parameters(), before, strict=True))


# ----------------------------------------------------------------------------------------- bfloat16
def test_frozen_weights_and_activations_are_bfloat16_and_what_is_trained_is_float32():
    model = gpt(bfloat16)
    for name, p in model.named_parameters():
        assert p.dtype == (np.float32 if p.requires_grad else bfloat16), name
    ids, classes = data(0)
    assert model.features(ids).dtype == bfloat16
    assert model(ids).dtype == np.float32
    loss = F.cross_entropy(model(ids)[:, -1], classes)
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and g.dtype == np.float32 for g in grads)
    assert loss.dtype == np.float32


def test_bfloat16_learns_what_float32_learns():
    exact, rounded = train(gpt(drop_rate=0.0), False, 50)[0][:, 0], train(gpt(bfloat16, drop_rate=0.0), False, 50)[0][:, 0]
    assert np.abs(rounded - exact).mean() < 0.05
    assert apart(rounded[:5], exact[:5]) < 0.02


def test_softmax_of_bfloat16_is_computed_in_float32():
    x = tinylora.tensor(np.random.default_rng(0).standard_normal((5, 300)).astype("float32"), device="cuda")
    narrow = x.to(bfloat16)
    assert F.softmax(narrow).dtype == bfloat16
    assert apart(F.softmax(narrow).array, F.softmax(narrow.float()).array) < 3e-3


KIN = {
    "LoRA": LinearWithLoRA, "DoRA": DoRA, "PiSSA": PiSSA, "dropout": lambda *layer: DropoutLoRA(*layer, 0.0),
    "int8": lambda linear, *sizes: QLoRA(Int8Linear(linear), *sizes, 0.0),
    "NF4": lambda linear, *sizes: QLoRA(NF4Linear(linear), *sizes, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", KIN)
def test_kin_of_lora_train_on_a_bfloat16_base(name):
    """Nearly what they give in float32, and what is trained is trained in float32."""
    found = []
    for dtype in (None, bfloat16):
        tinylora.manual_seed(0)
        layer = KIN[name](nn.Linear(64, 32), 8, 4.0)
        rng = np.random.default_rng(0)
        layer.lora.B.array = layer.lora.B.array + 0.1 * rng.standard_normal((8, 32)).astype("float32")
        freeze(layer.linear)
        layer.to("cuda", *([dtype] if dtype else []))
        x = tinylora.tensor(rng.standard_normal((5, 7, 64)).astype("float32"), device="cuda").to(dtype or np.float32)
        (
            layer(x).float() * tinylora.tensor(rng.standard_normal((5, 7, 32)).astype("float32"), device="cuda")
        ).sum().backward()
        trained = [p for p in layer.parameters() if p.requires_grad]
        assert all(p.dtype == p.grad.dtype == np.float32 for p in trained)
        found.append([layer(x).float().array, *(p.grad.array for p in trained)])
    assert max(apart(a, b) for a, b in zip(*found, strict=True)) < 2e-2


@needs_nvmath
@pytest.mark.parametrize("lengths", [(5, 7), (1, 3)])
def test_a_layer_on_nf4_does_not_keep_its_weight(lengths):
    tinylora.manual_seed(0)
    layer = QLoRA(NF4Linear(nn.Linear(64, 32)), 8, 4.0, 0.0)
    layer.lora.B.array = layer.lora.B.array + 0.1
    freeze(layer.linear)
    layer.to("cuda")
    x = tinylora.randn(*lengths, 64, device="cuda").requires_grad_()
    weight = layer.linear.weight
    plain = F.lora_linear(x, weight, layer.linear.bias, layer.lora.A, layer.lora.B, layer.lora.alpha)
    plain.sum().backward()
    expected, x.grad = [plain.array, x.grad.array, layer.lora.A.grad.array], None
    layer.lora.A.grad = None
    kept = weakref.ref(weight.array)
    del weight, plain
    y = layer(x)
    assert kept() is None
    y.sum().backward()
    assert max(apart(a, b) for a, b in zip([y.array, x.grad.array, layer.lora.A.grad.array], expected, strict=True)) < 1e-5


@needs_nvmath
def test_lora_with_dropout_in_bfloat16_is_near_what_its_parts_give():
    tinylora.manual_seed(0)
    layer = KIN["LoRA"](nn.Linear(64, 32), 8, 4.0)
    layer = DropoutLoRA(layer.linear, 8, 4.0, 0.3)
    layer.lora.B.array = layer.lora.B.array + 0.1
    freeze(layer.linear)
    layer.to("cuda", bfloat16)
    x, found = tinylora.randn(5, 7, 64, device="cuda").to(bfloat16), []
    for forward in (layer, lambda x: layer.linear(x) + layer.side(x)):
        tinylora.manual_seed(3)
        layer.zero_grad()
        y = forward(x)
        y.float().sum().backward()
        found.append([y.float().array, layer.lora.A.grad.array, layer.lora.B.grad.array])
    assert max(apart(a, b) for a, b in zip(*found, strict=True)) < 2e-2


# -------------------------------------------------------------------------------------------------- Llama
def llama(dtype=None):
    """On the GPU, with LoRA on everything, a language model's head."""
    tinylora.manual_seed(0)
    sizes = {"vocab_size": 61, "context_length": 32, "emb_dim": 64, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2}
    model = LlamaModel({**sizes, "hidden_dim": 96})
    freeze(model)
    replace_linear_with_lora(model, rank=8, alpha=7)
    rng = np.random.default_rng(0)
    for name, p in model.named_parameters():
        p.array = (rng.standard_normal(p.shape) * (0.3 if "lora" in name else 0.1)).astype("float32")
    return model.to("cuda", *([dtype] if dtype else []))


def test_a_llama_in_bfloat16_has_gradients_near_those_in_float32():
    found = []
    for model in (llama(), llama(bfloat16)):
        ids, _ = data(1)
        F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        found.append(cupy.concatenate([p.grad.array.ravel() for p in model.parameters() if p.requires_grad]))
    assert apart(found[1], found[0]) < 0.2


@needs_nvmath
@pytest.mark.parametrize("dtype", [None, bfloat16])
def test_a_captured_step_of_a_llama_is_the_step(dtype):
    losses = []
    for captured in (False, True):
        model = llama(dtype)
        optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)

        def step(ids, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            return loss

        run = tinylora.cuda.capture(step, optimizer) if captured else step
        losses.append([run(data(i % 2)[0]).item() for i in range(6)])
    assert np.allclose(*losses, rtol=1e-5 if dtype is None else 2e-2)


# ------------------------------------------------------------------------------------ layers side by side
@needs_nvmath
@pytest.mark.parametrize("dtype", [None, bfloat16])
@pytest.mark.parametrize("length", [8, 32])
def test_query_key_and_value_side_by_side_give_what_they_give_one_by_one(dtype, length, monkeypatch):
    """With more rows than outputs, and with fewer. In bfloat16 both are rounded: one is as near to float32 as the other."""

    def gradients(model):
        ids, classes = data(1, length)
        with tinylora.profile() as p:
            F.cross_entropy(model(ids)[:, -1], classes).backward()
        found = cupy.concatenate([p.grad.array.ravel() for p in model.parameters() if p.requires_grad])
        return found, p.ops["lora_linears"].calls

    together, calls = gradients(gpt(dtype, drop_rate=0.0))
    monkeypatch.delattr(LinearWithLoRA, "forward_many")
    alone, none = gradients(gpt(dtype, drop_rate=0.0))
    assert (calls, none) == (CFG["n_layers"], 0)
    if dtype is None:
        assert apart(together, alone) < 1e-5
        return
    exact = gpt(drop_rate=0.0)
    for p in exact.parameters():
        p.array = p.array if p.requires_grad else p.array.astype(dtype).astype(np.float32)
    near = gradients(exact)[0]
    assert apart(together, near) < min(0.2, 2 * apart(alone, near))


def test_layers_of_other_shapes_than_they_say_are_refused_by_name():
    model = gpt(drop_rate=0.0)
    model.trf_blocks[0].att.W_key.lora.B = nn.Parameter(tinylora.zeros(8, 48, device="cuda"))
    with pytest.raises(RuntimeError, match=r"trf_blocks\.0\.att\.W_key.*do not fit"):
        model(data(0)[0])


@needs_nvmath
def test_lora_fa_does_not_keep_its_input():
    kept = {}
    for kind in (LinearWithLoRA, LoRAFA):
        layer = kind(nn.Linear(512, 64), 8, 4.0).to("cuda")
        freeze(layer.linear)
        x = tinylora.ones(4096, 512, device="cuda") * 1.0
        alive = weakref.ref(x.array)
        y = layer(x)
        del x
        kept[kind] = alive() is not None
        assert y.node is not None
    assert kept == {LinearWithLoRA: True, LoRAFA: False}


# ---------------------------------------------------------------------------------- devices and files
def test_models_and_adapters_go_from_one_device_to_the_other(tmp_path):
    config, scores = adapters.LoRAConfig(4, 8.0, train=("out_head",)), {}
    ids = data(2)[0]
    for device, other in (("cuda", "cpu"), ("cpu", "cuda")):
        tinylora.manual_seed(0)
        with tinylora.device(device):
            base = GPTModel({**CFG, "drop_rate": 0.0}).eval()
            base.save_pretrained(tmp_path / device)
        adapters.apply_lora(base, config)
        for p in (p for p in base.parameters() if p.requires_grad):
            p.array = p.array + 0.1
        adapters.save_adapter(base, tmp_path / f"{device}.safetensors", config)
        with tinylora.device(other):
            again = GPTModel.from_pretrained(tmp_path / device)
            adapters.load_adapter(again, tmp_path / f"{device}.safetensors")
        assert {p.device for p in again.parameters()} == {tinylora.device(other)}
        for model, where in ((base, device), (again, other)):
            scores[device, where] = model(ids.to(where)).detach().cpu().numpy()
    first = scores.pop(("cpu", "cpu"))
    assert all(apart(other, first) < 1e-4 for other in scores.values())


# ------------------------------------------------------------------------------------------ failure
def test_out_of_memory_names_the_sizes_and_what_to_try():
    model = gpt()
    step, optimizer = stepper(model)
    step(*data(0))
    before = [p.array.copy() for p in optimizer.parameters()]
    with pytest.raises(MemoryError, match=r"asked for \d.* GB.*free.*batch.*bfloat16.*checkpoint"):
        tinylora.zeros(2**42, device="cuda")
    assert all((p.array == b).all() for p, b in zip(optimizer.parameters(), before, strict=True))
    assert step(*data(1))[0].item() > 0


def test_an_id_outside_the_vocabulary_gives_nan_where_nobody_can_look():
    weight = cupy.ones((5, 8), np.float32)
    y, _ = tinylora.kernels.cuda.elementwise.embedding(cupy, weight, cupy.array([0, 4, 5, -1]))
    assert np.isnan(y.get()).any(axis=1).tolist() == [False, False, True, True]
    z = cupy.zeros((2, 3), np.float32)
    assert np.isnan(tinylora.kernels.cuda.loss.cross_entropy(cupy, z, cupy.array([0, 3]))[0].get())
