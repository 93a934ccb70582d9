"""Llama and its kin without another library: numbers against plain definitions, counts, and every adapter at work on one."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import ids, moved, shaken, state

import tinylora
from tinylora import nn, optim
from tinylora.adapters import (
    LoRAConfig,
    adapters_by_row,
    apply_lora,
    combine_adapters,
    disable_adapters,
    load_adapter,
    merge,
    merge_and_unload,
    new_adapter,
    pissa_to_lora,
    save_adapter,
    set_adapter,
    unmerge,
)
from tinylora.adapters.variants import Int8Linear, NF4Linear, dequantize, lora_plus, quantize
from tinylora.lora import freeze, lora_modules, replace_linear_with_lora
from tinylora.models.llama import LlamaModel
from tinylora.models.rotary import RopeScaling, frequencies
from tinylora.testing import gradcheck
from tinylora.text.generate import generate_batch
from tinylora.text.sampling import GREEDY
from tinylora.training.recompute import checkpoint_modules

TINY = {
    "vocab_size": 11, "context_length": 8, "emb_dim": 16, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "hidden_dim": 24,
}  # fmt: skip
KIN = {
    "Llama": {},
    "tied, biases": {"tie_head": True, "qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "Llama 3": {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 4), "rope_base": 50.0},
    "Qwen2": {"qkv_bias": True, "model_type": "qwen2", "n_kv_heads": 1},
    "Qwen3": {"qk_norm": True, "head_dim": 6, "model_type": "qwen3", "n_kv_heads": 4},
}
B, T = 3, TINY["context_length"]
ALL_SEVEN = ("W_query", "W_key", "W_value", "out_proj", "fc1", "fc2", "fc3")


def made(**changes):
    tinylora.manual_seed(0)
    return LlamaModel({**TINY, **changes})


def scores(model, tokens=None):
    with tinylora.no_grad():
        return model(ids(B, T) if tokens is None else tokens).numpy()


@pytest.fixture(scope="module", params=KIN)
def model(request):
    return shaken(made(**KIN[request.param])).eval()


# ------------------------------------------------------------------------------------------- the forward
def plain_forward(model, tokens):
    """The paper's formulas, position by position and head by head, in NumPy: (T,) -> (T, vocabulary)."""
    cfg, D = model.cfg, model.cfg.head_dim
    angle = frequencies(D, cfg.rope_base, cfg.rope_scaling).astype(np.float64)

    def linear(layer, x):
        return layer.weight.array @ x + (0 if layer.bias is None else layer.bias.array)

    def norm(layer, x):
        return x if isinstance(layer, nn.Identity) else x / np.sqrt((x * x).mean() + layer.eps) * layer.weight.array

    def rotated(x, t):
        a, b, cos, sin = x[: D // 2], x[D // 2 :], np.cos(t * angle), np.sin(t * angle)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin])

    x = [model.tok_emb.weight.array[token] for token in tokens]
    for block in model.trf_blocks:
        att, ff, y = block.att, block.ff, [norm(block.norm1, v) for v in x]
        q = [[rotated(norm(att.q_norm, h), t) for h in linear(att.W_query, v).reshape(-1, D)] for t, v in enumerate(y)]
        k = [[rotated(norm(att.k_norm, h), t) for h in linear(att.W_key, v).reshape(-1, D)] for t, v in enumerate(y)]
        v = [linear(att.W_value, u).reshape(-1, D) for u in y]
        for t in range(len(tokens)):
            heads = []
            for h in range(cfg.n_heads):
                shared = h * cfg.n_kv_heads // cfg.n_heads
                weights = np.exp([q[t][h] @ k[s][shared] / np.sqrt(D) for s in range(t + 1)])
                heads.append(sum(w * v[s][shared] for s, w in enumerate(weights)) / weights.sum())
            x[t] = x[t] + linear(att.out_proj, np.concatenate(heads))
            z = norm(block.norm2, x[t])
            gate = linear(ff.fc1, z)
            x[t] = x[t] + linear(ff.fc3, gate / (1 + np.exp(-gate)) * linear(ff.fc2, z))
    return np.stack([linear(model.out_head, norm(model.final_norm, u)) for u in x])


def test_the_forward_is_the_papers_formulas(model):
    expected = [plain_forward(model, row) for row in ids(B, T).numpy()]
    np.testing.assert_allclose(scores(model), expected, rtol=1e-5, atol=1e-6)  # angles are float32, as in transformers


@pytest.mark.parametrize("kin", KIN)
def test_gradients_are_those_of_finite_differences(kin):
    model = shaken(made(**{**KIN[kin], "emb_dim": 8, "n_heads": 4, "hidden_dim": 6, "vocab_size": 5, "n_layers": 1})).eval()
    gradcheck(model, [ids(2, 4, high=5)], tolerance=1e-5)


@given(st.integers(1, T - 1), st.integers(0, 10))
def test_a_token_sees_no_token_after_it(model, at, other):
    tokens = ids(B, T).numpy()
    changed = tokens.copy()
    changed[:, at:] = other
    found, expected = scores(model, tinylora.tensor(changed)), scores(model, tinylora.tensor(tokens))
    np.testing.assert_array_equal(found[:, :at], expected[:, :at])


@given(st.lists(st.integers(1, T), min_size=1).map(lambda sizes: [n for n in np.cumsum(sizes) if n <= T]))
def test_a_cache_gives_the_features_of_the_whole_in_any_cut(model, stops):
    tokens, cache, found = ids(B, T), model.new_cache([0] * B), []
    with tinylora.no_grad():
        for stop in stops:
            piece = model.features(tokens[:, cache.length : stop], cache)
            found.append(piece.numpy())
        if stops:
            whole = model.features(tokens).numpy()[:, : stops[-1]]
            np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=1e-10, atol=1e-12)


@given(st.lists(st.integers(0, T - 1), min_size=1, max_size=4), st.integers(0, 9))
def test_padding_on_the_left_changes_no_number(model, padding, junk):
    tokens = ids(len(padding), T)
    padded = np.full((len(padding), T), junk)
    for row, pad in enumerate(padding):
        padded[row, pad:] = tokens.numpy()[row, : T - pad]
    cache = model.new_cache(padding)
    with tinylora.no_grad():
        found = np.concatenate([model.features(tinylora.tensor(h), cache).numpy() for h in np.split(padded, 2, 1)], 1)
        for row, pad in enumerate(padding):
            expected = model.features(tokens[row : row + 1, : T - pad]).numpy()[0]
            np.testing.assert_allclose(found[row, pad:], expected, rtol=1e-10, atol=1e-12)


@given(st.lists(st.integers(0, T - 1), min_size=1, max_size=5))
def test_features_at_a_position_are_those_of_the_whole_model_gradients_too(model, last):
    tokens, at, results = ids(len(last), T), tinylora.tensor(last), []
    for features in (model.features_at(tokens, at), model.features(tokens)[tinylora.arange(len(last)), at]):
        model.zero_grad()
        (features * features).sum().backward()
        results.append([features.detach().numpy(), *(p.grad.numpy() for p in model.parameters() if p.grad is not None)])
    for short, whole in zip(*results, strict=True):
        np.testing.assert_allclose(short, whole, rtol=1e-9, atol=1e-9)


def test_text_beyond_the_context_is_the_plain_forwards(model):
    prompts = [[1, 2, 3], [4]]
    found = np.array(list(generate_batch(model, prompts, 9, GREEDY))).T
    for prompt, row in zip(prompts, found, strict=True):
        text = list(prompt)
        for token in row:
            assert token == scores(model, tinylora.tensor([text[-T:]]))[0, -1].argmax()
            text.append(token)


# ---------------------------------------------------------------------------------------------- the sizes
TOTALS = {
    "llama-3.2-1b": 1_235_814_400, "llama-3.1-8b": 8_030_261_248, "llama-3.1-70b": 70_553_706_496,
    "qwen2.5-0.5b": 494_032_768, "qwen3-0.6b": 596_049_920, "smollm2-135m": 134_515_008, "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
}  # fmt: skip


@pytest.mark.parametrize("preset", LlamaModel.presets)
def test_the_published_sizes_are_counted_without_memory(preset):
    with tinylora.device("meta"):
        assert LlamaModel(preset).summary().total == TOTALS[preset]


@pytest.mark.parametrize("preset", TOTALS)
@pytest.mark.filterwarnings("ignore:::transformers", "ignore:::torch")
def test_transformers_counts_the_same(preset):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tinylora.models.llama_table import CONFIG

    with tinylora.device("meta"):
        model = LlamaModel(preset)
    entries = CONFIG.write(model.cfg, model.head_is_tied, ())
    config = transformers.AutoConfig.for_model(**{k: v for k, v in entries.items() if k not in ("architectures", "dtype")})
    with torch.device("meta"):
        assert transformers.AutoModelForCausalLM.from_config(config).num_parameters() == TOTALS[preset]


# ------------------------------------------------------------------------------------------------ adapters
def test_the_lectures_replacement_goes_around_every_linear():
    model = made()
    freeze(model)
    before = scores(model)
    replace_linear_with_lora(model, rank=2, alpha=4)
    assert [path.split(".")[-1] for path, _ in lora_modules(model)] == [*ALL_SEVEN, *ALL_SEVEN, "out_head"]
    np.testing.assert_array_equal(scores(model), before)
    shapes = [p.shape for p in model.parameters() if p.requires_grad]
    assert sum(a * b for a, b in shapes) == 2 * (2 * (16 + 16 + 2 * (16 + 8) + 16 + 16 + 3 * (16 + 24)) + 16 + 11)


def trained(model, steps=3):
    """A few steps of what requires grad; the losses."""
    optimizer, found = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05), []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(ids(B, T)[:, :-1]).flatten(0, 1), ids(B, T)[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("variant", ["lora", "dora", "lora-fa", "pissa"])
def test_each_variant_learns_is_saved_and_merges(variant, tmp_path):
    model, config = made(**KIN["Qwen3"]), LoRAConfig(2, 3.0, ALL_SEVEN, scaling="alpha/r", variant=variant)
    before = {name: p.array.copy() for name, p in model.named_parameters()}
    apply_lora(model, config)
    losses = trained(model)
    assert losses[-1] < losses[0]
    found = scores(model)
    if variant == "pissa":  # a file has no place for it but as LoRA of twice the rank
        config = pissa_to_lora(model, config)
    for folder, form in (("a.safetensors", "tinylora"), ("peft", "peft")):
        save_adapter(model, tmp_path / folder, config, format=form)
        again = made(**KIN["Qwen3"])
        load_adapter(again, tmp_path / folder)
        np.testing.assert_allclose(scores(again), found, rtol=0, atol=1e-6)
    merge(model)
    unmerge(model)
    kept = {name.replace(".linear.", "."): p.array for name, p in model.named_parameters()}
    for name, array in before.items():
        np.testing.assert_array_equal(kept[name], array)
    merge_and_unload(model)
    assert not list(lora_modules(model))
    np.testing.assert_allclose(scores(model), found, rtol=0, atol=1e-5)


def test_dropout_acts_in_training_alone_and_embeddings_are_wrapped_by_name():
    model = made()
    apply_lora(model, LoRAConfig(2, 3.0, ("W_query", "fc3", "tok_emb"), dropout=0.5))
    moved(model)
    one, other = (model(ids(B, T)).detach().numpy() for _ in range(2))
    assert (one != other).any()
    np.testing.assert_array_equal(scores(model.eval()), scores(model))


@pytest.mark.parametrize("kin", KIN)
def test_recomputed_blocks_train_as_the_others(kin):
    losses = []
    for recomputed in (False, True):
        model = made(**KIN[kin])
        apply_lora(model, LoRAConfig(2, 3.0, ALL_SEVEN))
        if recomputed:
            checkpoint_modules(model.trf_blocks)
        losses.append(trained(model))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind, atol", [(Int8Linear, 0.05), (NF4Linear, 0.4)])
def test_a_quantised_base_learns_and_merges_after_dequantising(kind, atol, tmp_path):
    model = made()
    before = scores(model)
    assert len(quantize(model, kind)) == 14
    assert 0 < np.abs(scores(model) - before).max() < atol
    config = LoRAConfig(2, 3.0, ALL_SEVEN)
    apply_lora(model, config)
    losses = trained(model)
    assert losses[-1] < losses[0]
    found = scores(model)
    save_adapter(model, tmp_path / "a", config, format="peft")
    again = made()
    quantize(again, kind)
    load_adapter(again, tmp_path / "a")
    np.testing.assert_allclose(scores(again), found, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="call (merge_and_unload|dequantize) first"):
        model.save_pretrained(tmp_path / "m")
    dequantize(model)
    merge_and_unload(model)
    np.testing.assert_allclose(scores(model), found, rtol=0, atol=1e-5)


def named(**changes):
    model = made(**changes)
    for seed, (name, rank) in enumerate((("one", 2), ("two", 3))):
        with new_adapter(model, name):
            apply_lora(model, LoRAConfig(rank, 3.0, ALL_SEVEN))
            moved(model, seed)
    return model.eval()


def alone(model, name):
    if name is None:
        with disable_adapters(model):
            return scores(model)
    set_adapter(model, name)
    return scores(model)


@given(st.lists(st.sampled_from(["one", "two", None]), min_size=B, max_size=B))
def test_each_row_is_computed_with_its_own_adapter(names):
    model = named(**KIN["Qwen3"])
    expected = [alone(model, name)[i] for i, name in enumerate(names)]
    before = state(model)
    with adapters_by_row(model, names):
        found = scores(model)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert state(model) == before


def test_adapters_are_added_up_and_the_base_is_left_alone():
    model, plain = named(), scores(made())
    np.testing.assert_array_equal(alone(model, None), plain)
    combine_adapters(model, "both", {"one": 1.0, "two": 0.0})
    np.testing.assert_allclose(alone(model, "both"), alone(model, "one"), rtol=1e-4, atol=1e-4)


def test_lora_plus_gives_every_b_its_own_rate():
    model = made()
    apply_lora(model, LoRAConfig(2, 3.0, ALL_SEVEN))
    rates = {id(p): group["lr"] for group in lora_plus(model, 1e-3) for p in group["params"]}
    assert all(rates[id(m.lora.B)] == 16 * rates[id(m.lora.A)] for _, m in lora_modules(model))


# ------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_kv_heads": 3}, "n_heads 4 is not divisible by n_kv_heads 3"),
        ({"n_heads": 5, "n_kv_heads": 5}, "emb_dim 16 is not divisible by n_heads 5"),
        ({"head_dim": 5}, "head_dim 5 is odd"), ({"emb_dim": 12}, "head_dim 3 is odd"),
        ({"n_kv_head": 2}, "unknown entry 'n_kv_head' in the configuration: did you mean 'n_kv_heads'"),
        ({"hidden_dim": 0}, "hidden_dim must be"), ({"rope_base": 0}, "rope_base must be"),
        ({"rope_base": float("nan")}, "rope_base must be"), ({"norm_eps": -1.0}, "norm_eps must be"),
        ({"rope_scaling": {"kind": "yarn", "factor": 2.0}}, "rope scaling kind is one of linear, llama3, not 'yarn'"),
        ({"rope_scaling": {"kind": "linear", "factor": 0.5}}, "rope scaling factor must be"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling lacks kind"),
        ({"rope_scaling": {"kind": "linear", "factors": 2}}, "unknown entry 'factors' in rope_scaling.*'factor'"),
        ({"rope_scaling": "linear"}, "rope_scaling"), ({"qkv_bias": 1}, "qkv_bias must be true or false"),
        ({"sliding_window": 0}, "sliding_window must be"), ({"drop_att": 1.0}, "drop_att must be"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_meant_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        LlamaModel({**TINY, **changes})


def test_lacking_entries_unknown_presets_and_other_configurations_are_named():
    with pytest.raises(ValueError, match="the configuration lacks n_kv_heads, hidden_dim"):
        LlamaModel({k: v for k, v in TINY.items() if k not in ("n_kv_heads", "hidden_dim")})
    with pytest.raises(ValueError, match=r"unknown preset 'llama-9': expected one of llama-3\.2-1b"):
        LlamaModel("llama-9")
    with pytest.raises(ValueError, match="9 tokens do not fit the context of 8"):
        made()(ids(1, 9))


def test_the_configuration_comes_back_from_its_entries():
    for changes in KIN.values():
        cfg = made(**changes).cfg
        assert LlamaModel(cfg.as_dict()).cfg == cfg == dataclasses.replace(cfg)
