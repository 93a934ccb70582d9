"""What tests against transformers and PEFT share: random models of theirs, and comparisons of both libraries' numbers."""

import numpy as np
import pytest

import tinylora
from tinylora import nn, optim
from tinylora.adapters import load_adapter, merge_and_unload, save_adapter
from tinylora.formats import safetensors
from tinylora.models import load_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

VOCABULARY = 61
IDS = np.random.default_rng(0).integers(1, VOCABULARY, (2, 9))
CLASSES = np.array([1, 0])
# entries of config.json that transformers writes itself, or that say how a model was initialised
OWN_ENTRIES = {"transformers_version", "_name_or_path", "initializer_range", "architectures"}


def quiet_marks():
    """Warnings of the other libraries are theirs."""
    return pytest.mark.filterwarnings("ignore:::peft", "ignore:::transformers", "ignore:::torch")


def theirs(kind, config, folder):
    """A random model of theirs, and its folder as they write it."""
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = kind(config).eval()
    for p in model.parameters():
        p.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    return model


def numbers(tensor):
    return tensor.detach().numpy()


def their_logits(model):
    return model(torch.tensor(IDS)).logits


def our_logits(model):
    logits = model(tinylora.tensor(IDS))
    return logits[:, -1] if logits.shape[-1] < VOCABULARY else logits


def their_loss(model):
    logits = their_logits(model)
    if logits.ndim == 2:
        return torch.nn.functional.cross_entropy(logits, torch.tensor(CLASSES))
    return model(torch.tensor(IDS), labels=torch.tensor(IDS)).loss


def our_loss(model):
    logits = our_logits(model)
    if logits.ndim == 2:
        return nn.functional.cross_entropy(logits, tinylora.tensor(CLASSES))
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tinylora.tensor(IDS[:, 1:]).flatten())


def each(close, case, quantity, found, expected):
    """The same names and numbers. A gradient that is 0 but for rounding, as a key bias's, is compared beside the others."""
    assert found.keys() == expected.keys()
    least = 1e-3 * max(np.abs(array).max() for array in expected.values())
    for name, array in found.items():
        close(case, quantity, array, expected[name], least)


def stored(folder, name="model.safetensors"):
    return safetensors.load(folder / name)[0]


# Adam's eps lies above the noise: where a gradient is 0 but for rounding, the step would follow its sign
ADAMW = {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-3}


def step_both(model, found):
    """One AdamW step of everything that is trained, here and there."""
    optim.AdamW([p for p in found.parameters() if p.requires_grad], **ADAMW).step()
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **ADAMW).step()


def same_numbers(close, case, model, found, folder):
    """Logits, loss, all gradients and one AdamW step of a model of theirs and of what was `found` in its folder."""
    close(case, "logits", numbers(our_logits(found)), numbers(their_logits(model)))
    loss, their = our_loss(found), their_loss(model)
    close(case, "loss", numbers(loss), numbers(their))
    loss.backward()
    their.backward()
    kept = [p.array for p in found.parameters()]
    for p in found.parameters():
        p.array = p.grad.array
    found.save_pretrained(folder / "gradients")
    expected = {name: numbers(p.grad) for name, p in model.named_parameters()}
    each(close, case, "gradients", stored(folder / "gradients"), expected)
    for p, data in zip(found.parameters(), kept, strict=True):
        p.array = data
    step_both(model, found)
    found.save_pretrained(folder / "step")
    expected = {name: numbers(p) for name, p in model.named_parameters()}
    each(close, case, "AdamW step", stored(folder / "step"), expected)


def they_read(kind, model, folder, ignored=frozenset()):
    """transformers loads what tinylora wrote into `folder` with no array too many or too few: logits and config.json are
    those of `model`."""
    again, about = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(about.values())
    torch.testing.assert_close(their_logits(again.eval()), their_logits(model), rtol=0, atol=0)
    ours, expected = again.config.to_dict(), model.config.to_dict()
    left_out = OWN_ENTRIES | ignored
    assert {k: v for k, v in ours.items() if k not in left_out} == {k: v for k, v in expected.items() if k not in left_out}
    return again


# ------------------------------------------------------------------------------------------------ adapters
def adapted(kind, config, options, folder):
    """Their base, its folder, their adapter of it with everything trained moved, and its folder; r 4, alpha 9."""
    config_there = peft.LoraConfig(**{"r": 4, "lora_alpha": 9, **options})
    model = peft.get_peft_model(theirs(kind, config, folder / "base"), config_there).eval()
    for p in model.parameters():
        if p.requires_grad:
            p.data.normal_(0, 0.3)
    model.save_pretrained(folder / "adapter")
    ours = load_model(folder / "base")
    return model, ours, load_adapter(ours, folder / "adapter")


def same_files(close, case, what, model, ours, config, folder):
    """Both write their adapter; the files hold the same names and numbers."""
    model.save_pretrained(folder / "theirs")
    save_adapter(ours, folder / "ours", config, format="peft")
    expected, found = (stored(folder / who, "adapter_model.safetensors") for who in ("theirs", "ours"))
    expected = {name: array for name, array in expected.items() if not name.endswith("base_layer.weight")}
    each(close, case, what, found, expected)


def same_adapter(close, case, model, ours, config, folder, merge=True):
    """Logits, loss, gradients, one AdamW step and the merged weights of an adapter, here and there."""
    close(case, "logits", numbers(our_logits(ours)), numbers(their_logits(model)))
    loss, their = our_loss(ours), their_loss(model)
    close(case, "loss", numbers(loss), numbers(their))
    loss.backward()
    their.backward()
    before = [p.data for p in ours.parameters()], [p.data.clone() for p in model.parameters()]
    for p in [p for p in (*ours.parameters(), *model.parameters()) if p.requires_grad]:
        p.data = p.grad.data
    same_files(close, case, "gradients", model, ours, config, folder / "g")
    for parameters, kept in zip((ours.parameters(), model.parameters()), before, strict=True):
        for p, data in zip(parameters, kept, strict=True):
            p.data = data
    step_both(model, ours)
    same_files(close, case, "AdamW step", model, ours, config, folder / "s")
    if not merge:
        return
    merge_and_unload(ours)
    ours.save_pretrained(folder / "merged")
    expected = {name: numbers(tensor) for name, tensor in model.merge_and_unload().state_dict().items()}
    found = stored(folder / "merged")
    assert found.keys() - expected.keys() == set() and expected.keys() - found.keys() <= {"lm_head.weight"}
    for name, array in found.items():
        close(case, "merged weights", array, expected[name])


def comes_back(kind, model, ours, config, folder):
    """PEFT loads what tinylora wrote, and computes the same bit for bit."""
    save_adapter(ours, folder / "ours", config, format="peft")
    base = kind.from_pretrained(folder / "base").eval()
    again = peft.PeftModel.from_pretrained(base, folder / "ours").eval()
    torch.testing.assert_close(their_logits(again), their_logits(model), rtol=0, atol=0)


def own_format_keeps(ours, config, folder):
    """tinylora's own file of an adapter computes the same bit for bit."""
    save_adapter(ours, folder / "a.safetensors", config)
    again = load_model(folder / "base")
    assert load_adapter(again, folder / "a.safetensors") == config
    np.testing.assert_array_equal(numbers(our_logits(again)), numbers(our_logits(ours)))
