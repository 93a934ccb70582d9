"""Models out of GGUF files: the numbers of the model that was written, and one line for every file that does not fit itself.

The files are written here as llama.cpp's converter does: rows of query and key interleaved for "llama", dimensions reversed.
"""

import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest
from gguf_files import gguf_of, smollm2
from models import shaken

import tinylora
from tinylora.formats import LoadError
from tinylora.models import ModelSource, load_model
from tinylora.models.llama import LlamaModel
from tinylora.models.names import rows_of
from tinylora.models.rotary import RopeScaling, frequencies

DATA = Path(os.environ.get("TINYLORA_DATA") or Path(__file__).parents[2] / "shared" / "data")
SIZES = {
    "vocab_size": 19, "context_length": 16, "emb_dim": 24, "n_heads": 6, "n_kv_heads": 2, "n_layers": 2, "hidden_dim": 20,
}  # fmt: skip
KINDS = {
    "llama": {"tie_head": True},
    "llama, own head": {},
    "llama, biases": {"qkv_bias": True, "out_bias": True},
    "llama, scaled": {"head_dim": 8, "rope_base": 500_000.0, "rope_scaling": RopeScaling("llama3", 8.0)},
    "qwen2": {"qkv_bias": True, "model_type": "qwen2"},
    "qwen3": {"qk_norm": True, "head_dim": 8, "model_type": "qwen3"},
}
IDS = tinylora.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
WIKITEXT_2048 = 20.3130  # by transformers in float32 on the dequantised weights


def made(**changes):
    tinylora.manual_seed(0)
    return shaken(LlamaModel({**SIZES, **changes})).float().eval()


def interleaved(rows, head_dim):
    """0 1 .. 0' 1' .. of each head as 0 0' 1 1' .., as llama.cpp's converter does."""
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def contents(model):
    """Metadata and tensors of a model's GGUF file."""
    cfg = model.cfg
    arch = cfg.model_type
    about = {
        "general.architecture": arch, f"{arch}.context_length": cfg.context_length, f"{arch}.embedding_length": cfg.emb_dim,
        f"{arch}.block_count": cfg.n_layers, f"{arch}.feed_forward_length": cfg.hidden_dim,
        f"{arch}.attention.head_count": cfg.n_heads, f"{arch}.attention.head_count_kv": cfg.n_kv_heads,
        f"{arch}.attention.key_length": cfg.head_dim, f"{arch}.attention.value_length": cfg.head_dim,
        f"{arch}.rope.dimension_count": cfg.head_dim, f"{arch}.rope.freq_base": cfg.rope_base,
        f"{arch}.attention.layer_norm_rms_epsilon": cfg.norm_eps,
    }  # fmt: skip
    state, tensors = model.state_dict(), {}
    for row in rows_of(tinylora.models.names.family_of(model), cfg.n_layers):
        for leaf in ("weight", "bias"):
            if (array := state.get(f"{row.paths[0]}.{leaf}")) is not None:
                array = array.numpy()
                turned = interleaved(array, cfg.head_dim) if row.rotary and arch == "llama" else array
                tensors[f"{row.gguf}.{leaf}"] = turned
    if not model.head_is_tied:
        tensors["output.weight"] = state["out_head.weight"].numpy()
    if cfg.rope_scaling is not None:
        tensors["rope_freqs.weight"] = frequencies(cfg.head_dim, cfg.rope_base, None) / frequencies(
            cfg.head_dim, cfg.rope_base, cfg.rope_scaling
        )
    return about, tensors


def written(path, about, tensors):
    rows = [(name, 0, array.shape[::-1], array.astype("<f4").tobytes()) for name, array in tensors.items()]
    path.write_bytes(gguf_of(about, rows))
    return path


@pytest.fixture
def file(tmp_path):
    """The parts of a good file, and how to write them."""
    about, tensors = contents(made(tie_head=True))
    return about, tensors, lambda: written(tmp_path / "m.gguf", about, tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_comes_back_out_of_its_file(tmp_path, kind):
    model = made(**KINDS[kind])
    found = load_model(written(tmp_path / "m.gguf", *contents(model)))
    assert found.cfg == model.cfg
    np.testing.assert_array_equal(found(IDS).detach().numpy(), model(IDS).detach().numpy())


def test_llama_cpps_order_of_rows_is_put_back(file):
    """Read as they stand, the rows would pair other features, and the model would still answer."""
    about, tensors, write = file
    right = load_model(write())(IDS)
    about["general.architecture"] = "qwen2"  # whose rows are not interleaved
    for key in [key for key in about if key.startswith("llama.")]:
        about[key.replace("llama.", "qwen2.")] = about.pop(key)
    tensors |= {f"blk.{i}.attn_{x}.bias": np.zeros(len(tensors[f"blk.{i}.attn_{x}.weight"])) for i in (0, 1) for x in "qkv"}
    assert not load_model(write())(IDS).allclose(right, rtol=1e-2)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("general.architecture", "mamba", "general.architecture is 'mamba'; known are llama, qwen2, qwen3"),
        ("llama.block_count", 3, "the configuration says 3 layers, and the weights have 2"),
        ("llama.block_count", 0, "llama.block_count must be an integer of at least 1"),
        ("llama.attention.head_count", 5, "is not divisible"),
        ("llama.attention.head_count_kv", 4, "n_heads 6 is not divisible by n_kv_heads 4"),
        ("llama.attention.head_count_kv", [2, 2], "llama.attention.head_count_kv must be an integer"),
        ("llama.embedding_length", 48, r"expected \(19, 48\), got \(19, 24\)"),
        ("llama.vocab_size", 20, r"llama.vocab_size is 20, and token_embd.weight has shape \(19, 24\)"),
        ("llama.rope.dimension_count", 2, "llama.rope.dimension_count is 2"),
        ("llama.rope.scaling.type", "yarn", "rope kind 'yarn'; known are default, linear, llama3"),
        ("llama.expert_count", 8, "llama.expert_count is 8"),
        ("llama.rope.freq_base", "fast", "rope"),
    ],
)
def test_metadata_that_cannot_be_honoured_is_named_with_its_file(file, key, value, message):
    about, _, write = file
    about[key] = value
    with pytest.raises(LoadError, match=message) as error:
        load_model(write())
    assert "m.gguf" in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("blk.1.ffn_up.weight"), r"missing: model\.layers\.1\.mlp\.up_proj\.weight"),
        (lambda t: t.update(more=np.zeros(3)), "unexpected: model.more"),
        (lambda t: t.update({"output_norm.weight": np.zeros(3)}), r"norm\.weight: expected \(24,\), got \(3,\)"),
        (lambda t: t.update({"output_norm.weight": np.full(24, np.nan)}), "NaN or infinity in output_norm.weight"),
        (lambda t: t.update({"rope_freqs.weight": np.arange(1.0, 2.0)}), "rope_freqs.weight holds other factors"),
    ],
)
def test_tensors_that_do_not_fit_are_named(file, change, message):
    _, tensors, write = file
    change(tensors)
    with pytest.raises(LoadError, match=message):
        load_model(write())


def test_an_entry_that_is_not_known_is_remarked_upon(file):
    about, _, write = file
    about["llama.attention.new_thing"] = 3
    with pytest.warns(UserWarning, match=r"unknown and ignored: llama\.attention\.new_thing"):
        load_model(write())


def test_a_vocabulary_larger_than_the_model_is_named(file):
    pytest.importorskip("tokenizers")
    about, _, write = file
    tokens = [chr(33 + i) for i in range(20)]
    about |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": tokens}
    about["tokenizer.ggml.merges"] = []
    with pytest.raises(LoadError, match="its tokenizer has 20 tokens, and the model knows 19"):
        ModelSource.open(write()).tokenizer


# ------------------------------------------------------------------------------------------- SmolLM2
@pytest.fixture(scope="module")
def source():
    smollm2()
    return ModelSource.open("smollm2")


@pytest.fixture(scope="module")
def model(source):
    return source.model()


def wikitext():
    path = DATA / "text" / "wikitext-2" / "test.raw.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return gzip.decompress(path.read_bytes()).decode()


def test_smollm2_is_the_model_it_says(model):
    assert model.summary().total == 134_515_008 and model.head_is_tied and not model.classifies
    assert (model.cfg.n_heads, model.cfg.n_kv_heads, model.cfg.rope_base, model.cfg.norm_eps) == (9, 3, 100_000.0, 1e-5)


def test_its_perplexity_on_the_first_windows_is_that_of_the_published_weights(source, model):
    """Measured with transformers in float32 on the dequantised weights; the whole file is in `tinylora perplexity`."""
    pytest.importorskip("tokenizers")
    from tinylora.text.perplexity import perplexity

    ids = source.tokenizer.prompt(wikitext())
    assert len(ids) == 303_415
    *_, found = perplexity(model, ids[:2049], window=1024)
    assert found.tokens == 2048 and found.value == pytest.approx(WIKITEXT_2048, rel=1e-3)


def test_its_logits_are_those_of_transformers(source, model, tmp_path):
    """transformers reads the same file by itself, and puts llama.cpp's rows back by itself."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    path = smollm2()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    ids = np.random.default_rng(0).integers(0, 49_152, (1, 64))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    with tinylora.no_grad():
        found = model(tinylora.tensor(ids)).numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_it_answers_a_question(source, model):
    pytest.importorskip("tokenizers")
    pytest.importorskip("jinja2")
    from tinylora.app.conversation import Conversation
    from tinylora.text.sampling import GREEDY

    talk = Conversation(model, source, GREEDY, system=None, tokens=30, seed=0)
    assert "".join(talk.answer("What is the capital of France?")) == "The capital of France is Paris."
    assert "Madrid" in "".join(talk.answer("And of Spain?"))
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"] * 2


def test_perplexity_of_a_text_is_e_to_its_mean_loss(model):
    from tinylora.text.perplexity import perplexity

    ids = np.random.default_rng(0).integers(0, 49_152, 40)
    (found,) = perplexity(model, ids, window=1024)
    with tinylora.no_grad():
        scores = model(tinylora.tensor(ids[None, :-1]))[0]
    loss = tinylora.nn.functional.cross_entropy(scores, tinylora.tensor(ids[1:])).item()
    assert (found.tokens, found.value) == (39, pytest.approx(math.exp(loss), rel=1e-5))
