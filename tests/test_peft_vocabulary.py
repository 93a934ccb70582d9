"""PEFT's adapters that change the vocabulary, loaded, merged and written again: resized, tied, of single tokens."""

import functools
import warnings

import numpy as np
import pytest

import tinylora
from tinylora import nn
from tinylora.adapters import inspect_adapter, load_adapter, merge_and_unload, save_adapter
from tinylora.adapters.variants.dora import DropoutDoRA
from tinylora.adapters.variants.tied import TiedHeadLoRA, TokenRows
from tinylora.formats import LoadError
from tinylora.models import load_model

IDS = [[5, 6, 9, 1, 3, 2]]


@pytest.fixture(scope="module")
def libraries():
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield torch, transformers, peft


@functools.cache
def bases(folder):
    """A tied GPT-2 and a tied Llama in `folder`, by name: path, target, embedding."""
    import torch
    import transformers

    torch.manual_seed(0)
    gpt = transformers.GPT2Config(
        vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
    )
    llama = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16, tie_word_embeddings=True, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(gpt).save_pretrained(folder / "gpt2")
    transformers.LlamaForCausalLM(llama).save_pretrained(folder / "llama")
    return {"gpt2": (folder / "gpt2", "c_attn", "wte"), "llama": (folder / "llama", "q_proj", "embed_tokens")}


CASES = {
    "embedding whole": {"modules_to_save": ["EMBEDDING"]},
    "embedding and head whole": {"modules_to_save": ["EMBEDDING", "lm_head"]},
    "head whole": {"modules_to_save": ["lm_head"]},
    "LoRA on the embedding": {"target_modules": ["TARGET", "EMBEDDING"]},
    "LoRA on both": {"target_modules": ["TARGET", "EMBEDDING", "lm_head"]},
    "LoRA on the head": {"target_modules": ["TARGET", "lm_head"]},
    "single tokens": {"trainable_token_indices": [5, 6]},
    "single tokens by name": {"trainable_token_indices": {"EMBEDDING": [9, 1]}},
    "DoRA with dropout": {"use_dora": True, "lora_dropout": 0.1},
}
TIED = {f"{name}, tied": {**case, "ensure_weight_tying": True} for name, case in CASES.items() if "DoRA" not in name}
RESIZED = {
    f"{name}, resized": {**CASES.get(name, {}), "resize": 45}
    for name in ("LoRA alone", "embedding whole", "embedding and head whole", "single tokens", "LoRA on the embedding")
}
RESIZED["embedding and head whole, tied, resized"] = {**TIED["embedding and head whole, tied"], "resize": 45}


def named(value, target, embedding):
    """A configuration's value with the family's names."""
    if isinstance(value, list | dict):
        kind = type(value)
        return kind(named(v, target, embedding) for v in (value.items() if kind is dict else value))
    if isinstance(value, tuple):
        return tuple(named(v, target, embedding) for v in value)
    return {"TARGET": target, "EMBEDDING": embedding}.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize(
    "family, case",
    [("gpt2", c) for c in [*CASES, *list(RESIZED)[:3]]] + [("llama", c) for c in [*TIED, *list(RESIZED)[1:]]],
)
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_peft_computes_the_same_merges_and_is_written_again(
    libraries, tmp_path_factory, tmp_path, family, case
):
    torch, transformers, peft = libraries
    folder, target, embedding = bases(tmp_path_factory.getbasetemp())[family]
    entries = dict({**CASES, **TIED, **RESIZED}[case])
    size = entries.pop("resize", None)

    def base():
        torch.manual_seed(1)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        if size:
            model.resize_token_embeddings(size)
        return model

    def logits(model):
        with torch.no_grad():
            return model.eval()(torch.tensor(IDS)).logits[0].numpy()

    config = {"target_modules": ["TARGET"], "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **entries}
    config = {name: named(value, target, embedding) for name, value in config.items()}
    theirs = peft.get_peft_model(base(), peft.LoraConfig(fan_in_fan_out=family == "gpt2", **config))
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.eval().save_pretrained(tmp_path / "theirs")
    expected = logits(theirs)
    scale = np.abs(expected).max()

    def ours(adapter):
        model = load_model(folder)
        return model, load_adapter(model, adapter)

    def close(found):
        assert np.abs(found - expected).max() < 3e-6 * scale

    def scores(model):
        with tinylora.no_grad():
            return model.eval()(tinylora.tensor(IDS)).numpy()[0]

    model, lora = ours(tmp_path / "theirs")
    close(scores(model))
    save_adapter(model, tmp_path / "again", lora, format="peft")
    assert inspect_adapter(tmp_path / "theirs").changes
    close(scores(ours(tmp_path / "again")[0]))
    close(logits(peft.PeftModel.from_pretrained(base(), tmp_path / "again")))
    merge_and_unload(model)
    model.save_pretrained(tmp_path / "merged")
    close(logits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")))


@pytest.mark.filterwarnings("ignore")
def test_single_tokens_and_a_tied_lora_train_as_there(libraries, tmp_path_factory, tmp_path):
    torch, transformers, peft = libraries
    folder, target, embedding = bases(tmp_path_factory.getbasetemp())["llama"]
    for entries in (
        {"trainable_token_indices": [5, 6]},
        {"target_modules": [target, embedding], "ensure_weight_tying": True},
    ):
        base = transformers.AutoModelForCausalLM.from_pretrained(folder)
        config = peft.LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": [target], **entries})
        theirs = peft.get_peft_model(base, config)
        with torch.no_grad():
            for parameter in theirs.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        theirs.save_pretrained(tmp_path / "a")
        theirs.eval()(torch.tensor(IDS), labels=torch.tensor(IDS)).loss.backward()
        model = load_model(folder)
        load_adapter(model, tmp_path / "a")
        loss = tinylora.nn.functional.cross_entropy(model(tinylora.tensor(IDS))[0, :-1], tinylora.tensor(IDS[0][1:]))
        loss.backward()
        gradient = model.tok_emb.lora.B.grad.numpy()
        name = "trainable_tokens_delta" if "trainable_token_indices" in entries else "lora_embedding_B"
        found = {n: p.grad for n, p in theirs.named_parameters()}
        expected = next(g for n, g in found.items() if name in n)
        if name == "lora_embedding_B":  # PEFT keeps a second parameter with the same memory for the head
            expected = (expected + next(g for n, g in found.items() if "lm_head.lora_A" in n).T).T
        expected = expected.numpy()
        assert np.allclose(gradient, expected, atol=1e-6 * np.abs(expected).max() + 1e-7)


@pytest.mark.filterwarnings("ignore")
def test_what_does_not_fit_is_named_and_the_model_is_as_it_was(libraries, tmp_path_factory, tmp_path):
    _, transformers, peft = libraries
    folder, target, _ = bases(tmp_path_factory.getbasetemp())["llama"]
    for size, entries, message in (
        (45, {"trainable_token_indices": [43]}, None),
        (None, {"trainable_token_indices": {"lm_head": [3]}}, "trainable_token_indices names lm_head"),
    ):
        base = transformers.AutoModelForCausalLM.from_pretrained(folder)
        if size:
            base.resize_token_embeddings(size)
        made = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=[target], **entries))
        made.save_pretrained(tmp_path / "a", save_embedding_layers=False)
        model = load_model(folder)
        before = model.tok_emb, model.out_head, model.cfg
        with pytest.raises(LoadError, match=message or "are not different tokens of 40: resize the base first"):
            load_adapter(model, tmp_path / "a")
        assert all(now is then for now, then in zip((model.tok_emb, model.out_head, model.cfg), before, strict=True))


# -------------------------------------------------------------------------------------- the layers themselves
def test_dora_with_dropout_is_its_definition():
    tinylora.manual_seed(0)
    layer = DropoutDoRA(nn.Linear(6, 4), rank=2, alpha=3.0, p=0.5)
    for p in layer.lora.parameters():
        p.array = p.array + np.random.default_rng(0).normal(size=p.shape).astype(np.float32)
    x = tinylora.randn(5, 6)
    tinylora.manual_seed(7)
    dropped = layer.dropout(x).numpy()
    tinylora.manual_seed(7)
    y = layer(x).detach().numpy()
    W, b = layer.linear.weight.array, layer.linear.bias.array
    A, B, m = layer.lora.A.array, layer.lora.B.array, layer.lora.magnitude.array
    factor = m / np.linalg.norm(W + 3 * (A @ B).T, axis=1)
    assert (dropped == 0).any()
    assert np.allclose(y, x.numpy() @ W.T + b + (factor - 1) * (dropped @ W.T) + factor * 3 * (dropped @ A @ B), atol=1e-5)
    layer.eval()
    assert np.allclose(layer(x).detach().numpy(), x.numpy() @ layer.changed().T + b, atol=1e-5)


def test_rows_of_tokens_and_a_head_that_follows():
    tinylora.manual_seed(0)
    embedding, head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    head.weight = embedding.weight
    rows = TokenRows(embedding, [7, 2])
    follower = TiedHeadLoRA(head, rows)
    new = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    rows.put(new)
    table = embedding.weight.array.copy()
    table[[7, 2]] = new
    x = tinylora.randn(3, 4)
    assert np.allclose(rows(tinylora.tensor([[7, 1, 2]])).detach().numpy(), table[[[7, 1, 2]]], atol=1e-6)
    assert np.allclose(follower(x).detach().numpy(), x.numpy() @ table.T, atol=1e-5)
    assert np.allclose(rows.rows(), new, atol=1e-6) and not rows.lora.A.requires_grad
    assert [name for name, _ in follower.named_parameters()] == ["linear.weight"]
    follower(x).sum().backward()
    assert np.allclose(rows.lora.B.grad.numpy(), np.tile(x.numpy().sum(0), (2, 1)), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_tinyloras_own_format_refuses_what_it_cannot_hold(libraries, tmp_path_factory, tmp_path):
    _, transformers, peft = libraries
    folder, target, _ = bases(tmp_path_factory.getbasetemp())["llama"]
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=[target], trainable_token_indices=[3])
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "a")
    model = load_model(folder)
    lora = load_adapter(model, tmp_path / "a")
    with pytest.raises(ValueError, match="which only the format 'peft' holds"):
        save_adapter(model, tmp_path / "a.safetensors", lora)
