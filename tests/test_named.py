"""Several adapters on one base: each computes what it computes alone, and nothing but places in the tree changes."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_adapters import IDS, base, scores, state

import tinylora
from tinylora import nn
from tinylora.adapters import (
    LoRAConfig,
    active_adapter,
    adapter_names,
    adapters_by_row,
    apply_lora,
    combine_adapters,
    delete_adapter,
    disable_adapters,
    load_adapter,
    merge,
    merge_and_unload,
    new_adapter,
    save_adapter,
    set_adapter,
    unmerge,
    verify_merge,
)
from tinylora.lora import lora_modules
from tinylora.text.generate import generate, generate_batch
from tinylora.text.sampling import GREEDY

CONFIGS = {
    "spam": LoRAConfig(2, 6.0, ("W_query", "ff.layers.0"), ("out_head",), "alpha/r"),
    "tone": LoRAConfig(3, 5.0, ("W_query", "out_proj"), dropout=0.5),
    "topic": LoRAConfig(1, 3.0, ("all-linear",), ("trf_blocks.1.norm1",), "rslora"),
}


def moved(model, seed):
    """Everything that is trainable as if it had been trained."""
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        if p.requires_grad:
            p.array = rng.standard_normal(p.shape).astype(np.float32)
    return model


def alone(name):
    """The base with the adapter `name` alone; None is the base."""
    model = base()
    if name is not None:
        apply_lora(model, CONFIGS[name])
        moved(model, seed=len(name))
    return model


def together(*names):
    model = base()
    for name in names or CONFIGS:
        with new_adapter(model, name):
            apply_lora(model, CONFIGS[name])
        moved(model, seed=len(name))
    return model


EXPECTED = {name: scores(alone(name)) for name in (*CONFIGS, None)}


def all_parameters(model):
    """Of every adapter and of the base: the object, its array and whether it is trained."""
    found = {}
    things = [x for s in (model.shelf.base, *model.shelf.adapters.values()) for x in s.values()]
    for thing in (*things, model):
        for p in thing.parameters() if isinstance(thing, nn.Module) else [thing]:
            found[id(p)] = (p, p.array, p.requires_grad)
    return found


# ------------------------------------------------------------------------------------------ switching
@given(st.lists(st.sampled_from([*CONFIGS, None]), max_size=8))
def test_any_walk_among_adapters_computes_what_each_computes_alone_and_touches_no_parameter(walk):
    model = together()
    before = all_parameters(model)
    for name in walk:
        if name is None:
            with disable_adapters(model):
                np.testing.assert_array_equal(scores(model), EXPECTED[None])
        else:
            set_adapter(model, name)
        here = active_adapter(model)
        np.testing.assert_array_equal(scores(model), EXPECTED[here])
    after = all_parameters(model)
    assert before.keys() == after.keys()
    for key, (p, array, required) in before.items():
        assert after[key][1] is array and p.requires_grad is required


def test_the_base_without_adapters_is_the_base_bit_for_bit():
    model, plain = together(), base()
    with disable_adapters(model):
        assert not list(lora_modules(model)) and repr(model) == repr(plain)
        found = {path: p.array.tobytes() for path, p in model.named_parameters()}
    assert found == {path: p.array.tobytes() for path, p in plain.named_parameters()}


def test_names_are_listed_and_deleted():
    model = together()
    assert adapter_names(model) == ["spam", "tone", "topic"] and active_adapter(model) == "topic"
    delete_adapter(model, "spam")
    np.testing.assert_array_equal(scores(model), EXPECTED["topic"])
    delete_adapter(model, "topic")
    np.testing.assert_array_equal(scores(model), EXPECTED[None])
    assert adapter_names(model) == ["tone"] and active_adapter(model) is None
    for change in (set_adapter, delete_adapter):
        with pytest.raises(KeyError, match="no adapter 'spam': there are tone"):
            change(model, "spam")
    assert adapter_names(base()) == [] and active_adapter(base()) is None


def test_an_adapter_is_trained_while_in_place_and_the_others_are_not():
    model = together("spam", "tone")
    tone = {id(p): p.array for p in model.parameters() if p.requires_grad}
    set_adapter(model, "spam")
    (model(IDS) ** 2).mean().backward()
    trained = [p for p in model.parameters() if p.grad is not None]
    assert trained and all(p.requires_grad and id(p) not in tone for p in trained)
    assert {id(p) for p in trained} == {id(p) for p in model.parameters() if p.requires_grad}


def test_training_mode_device_and_dtype_follow_the_model():
    model = together("spam", "tone").train().double()
    set_adapter(model, "spam")
    assert {m.training for m in model.modules()} == {True} and {str(p.dtype) for p in model.parameters()} == {"float64"}
    np.testing.assert_allclose(scores(model.eval()), EXPECTED["spam"], rtol=1e-4, atol=1e-4)


def test_adapters_are_saved_and_loaded_by_name(tmp_path):
    for name in ("spam", "tone"):
        save_adapter(alone(name), tmp_path / name, CONFIGS[name])
    model = base()
    for name in ("spam", "tone"):
        with new_adapter(model, name):
            load_adapter(model, tmp_path / name)
    for name in ("spam", "tone"):
        set_adapter(model, name)
        np.testing.assert_array_equal(scores(model), EXPECTED[name])
        save_adapter(model, tmp_path / "again", CONFIGS[name])
        assert (tmp_path / "again").read_bytes() == (tmp_path / name).read_bytes()


def test_adapters_of_peft_are_loaded_by_name(tmp_path):
    config = LoRAConfig(2, 6.0, ("W_query", "W_key", "W_value"), ("trf_blocks.1.norm1",))
    one = base(classes=0)
    apply_lora(one, config)
    save_adapter(moved(one, 0), tmp_path / "peft", config, format="peft")
    model = base(classes=0)
    plain = scores(model)
    with new_adapter(model, "theirs"):
        load_adapter(model, tmp_path / "peft")
    np.testing.assert_allclose(scores(model), scores(one), rtol=1e-4, atol=1e-5)
    with disable_adapters(model):
        np.testing.assert_array_equal(scores(model), plain)
    with adapters_by_row(model, ["theirs", None]):
        np.testing.assert_allclose(scores(model), np.stack([scores(one)[0], plain[1]]), rtol=1e-4, atol=1e-5)


def test_a_new_head_can_be_an_adapter():
    model = base()
    with new_adapter(model, "five"):
        model.set_classes(5, bias=True)
    assert scores(model).shape[-1] == 5
    with disable_adapters(model):
        np.testing.assert_array_equal(scores(model), EXPECTED[None])


def test_a_lora_without_a_name_is_disabled_too():
    model = alone("tone")
    with disable_adapters(model):
        np.testing.assert_array_equal(scores(model), EXPECTED[None])
        model.double()
    np.testing.assert_allclose(scores(model), EXPECTED["tone"], rtol=1e-4, atol=1e-4)
    assert {str(p.dtype) for p in model.parameters()} == {"float64"}


# ------------------------------------------------------------------------------------------ conflicts
@pytest.mark.parametrize("after", ["apply", "train", "resize"])
@pytest.mark.parametrize("there", [(), ("spam",)])
def test_a_block_that_fails_leaves_the_model_as_it_was(there, after):
    model = together(*there) if there else base()
    before = state(model)
    with pytest.raises(KeyboardInterrupt), new_adapter(model, "new"):
        apply_lora(model, CONFIGS["topic"])
        if after == "train":
            moved(model, 1)
        if after == "resize":
            model.set_classes(5, bias=True)
        raise KeyboardInterrupt
    assert state(model) == before and adapter_names(model) == list(there)


def test_conflicting_states_raise_and_change_nothing():
    model = together("spam", "tone")
    merge(model)
    merged = scores(model)
    for change in (lambda: set_adapter(model, "spam"), lambda: delete_adapter(model, "tone"),
                   lambda: delete_adapter(model, "spam"), lambda: new_adapter(model, "x").__enter__(),
                   lambda: disable_adapters(model).__enter__(), lambda: adapters_by_row(model, ["spam"]).__enter__(),
                   lambda: combine_adapters(model, "x", {"spam": 1})):  # fmt: skip
        with pytest.raises(RuntimeError, match="the adapter in place is merged: call unmerge"):
            change()
    np.testing.assert_array_equal(scores(model), merged)
    unmerge(model)
    for block in (disable_adapters(model), new_adapter(model, "x"), adapters_by_row(model, ["spam", "tone"])):
        with block, pytest.raises(RuntimeError, match="cannot be changed inside"):
            set_adapter(model, "spam")
        if "x" in adapter_names(model):
            delete_adapter(model, "x")
            set_adapter(model, "tone")
        np.testing.assert_array_equal(scores(model), EXPECTED["tone"])
    with pytest.raises(ValueError, match="an adapter 'spam' already"), new_adapter(model, "spam"):
        pass
    model.trf_blocks[0].att.W_query = nn.Linear(8, 8)
    with pytest.raises(RuntimeError, match=r"trf_blocks\.0\.att\.W_query was replaced since adapter 'tone'"):
        set_adapter(model, "spam")
    with pytest.raises(RuntimeError, match="a LoRA without a name"), new_adapter(alone("tone"), "x"):
        pass


def test_merging_one_for_good_forgets_the_others():
    model = together()
    set_adapter(model, "spam")
    merge_and_unload(model)
    assert adapter_names(model) == [] and not list(lora_modules(model))
    np.testing.assert_allclose(scores(model), EXPECTED["spam"], rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------------- by row
@given(st.lists(st.sampled_from([*CONFIGS, None]), min_size=1, max_size=6))
def test_each_row_is_computed_with_its_own_adapter(names):
    model = together()
    here = active_adapter(model)
    ids = tinylora.tensor(np.random.default_rng(0).integers(0, 11, (len(names), 5)))
    expected = []
    for i, name in enumerate(names):
        with disable_adapters(model) if name is None else set_and_stay(model, name), tinylora.no_grad():
            expected.append(model(ids[i : i + 1]).numpy()[0])
    set_adapter(model, here)
    before = state(model)
    with adapters_by_row(model, names), tinylora.no_grad():
        found = model(ids).numpy()
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-5)
    assert state(model) == before


def set_and_stay(model, name):
    set_adapter(model, name)
    return tinylora.no_grad()


def test_a_batch_by_row_trains_every_adapter_on_its_rows():
    model = together("spam", "tone")
    loras = {}
    for name in ("spam", "tone"):
        set_adapter(model, name)
        loras[name] = [p for p in model.parameters() if p.requires_grad]
        (model(IDS[:1] if name == "spam" else IDS[1:]) ** 2).sum().backward()
    alone = {name: [p.grad.numpy() for p in ps] for name, ps in loras.items()}
    for p in (*loras["spam"], *loras["tone"]):
        p.grad = None
    with adapters_by_row(model, ["spam", "tone"]):
        (model(IDS) ** 2).sum().backward()
    for name, ps in loras.items():
        for p, g in zip(ps, alone[name], strict=True):
            np.testing.assert_allclose(p.grad.numpy(), g, rtol=1e-3, atol=1e-3 * abs(g).max())


def test_by_row_refuses_batches_of_another_size_and_positions():
    model = together()
    with (
        adapters_by_row(model, ["spam", None, None]),
        pytest.raises(ValueError, match="for 3 rows, and the input has shape"),
    ):
        model(IDS)
    with pytest.raises(KeyError, match="no adapter 'x'"), adapters_by_row(model, ["x", None]):
        pass
    np.testing.assert_array_equal(scores(model), EXPECTED["topic"])
    model = base()
    with new_adapter(model, "bias"):
        apply_lora(model, CONFIGS["tone"])
        model.trf_blocks[0].att.W_query.linear.bias.requires_grad = True
    with pytest.raises(ValueError, match="bias of a Linear inside a LoRA"), adapters_by_row(model, ["bias"]):
        pass


def test_texts_are_generated_each_with_its_own_adapter():
    model = base(classes=0)
    for name in ("tone", "topic"):
        with new_adapter(model, name):
            apply_lora(model, CONFIGS[name])
        moved(model, len(name))
    prompts, expected = [[1, 2], [3], [4, 5, 6]], []
    for prompt, name in zip(prompts, ("tone", "topic", "tone"), strict=True):
        set_adapter(model, name)
        expected.append(list(generate(model, prompt, 4, GREEDY)))
    with adapters_by_row(model, ["tone", "topic", "tone"]):
        found = [list(row) for row in zip(*generate_batch(model, prompts, 4, GREEDY), strict=True)]
    assert found == expected


# ----------------------------------------------------------------------------------------- adding up
def change(model, path):
    """The weight in place at `path` minus the base's."""
    module = dict(lora_modules(model)).get(path)
    return 0.0 if module is None else module.lora.delta()


@given(st.dictionaries(st.sampled_from([*CONFIGS]), st.floats(-2, 2), min_size=1))
def test_a_combination_is_the_weighted_sum_of_the_changes(weights):
    model = together()
    paths = [path for path, m in base().named_modules() if isinstance(m, nn.Linear)]
    expected = dict.fromkeys(paths, 0.0)
    head, plain = 0.0, base().out_head.weight.array
    ranks = dict.fromkeys(paths, 0)
    for name, weight in weights.items():
        set_adapter(model, name)
        for path in paths:
            expected[path] = expected[path] + weight * change(model, path)
            if path in dict(lora_modules(model)):
                ranks[path] += CONFIGS[name].rank
        if name == "spam":
            head = weight * (model.out_head.weight.array - plain)
    combine_adapters(model, "sum", weights)
    assert active_adapter(model) == "sum"
    for path, module in lora_modules(model):
        assert module.lora.A.shape[1] == ranks[path] and module.lora.A.requires_grad
        size = sum(abs(w) for w in weights.values())
        np.testing.assert_allclose(change(model, path), expected[path], rtol=1e-5, atol=1e-5 * (1 + size))
    if "topic" not in weights:  # it has a LoRA around the head
        np.testing.assert_allclose(model.out_head.weight.array - plain, head, rtol=1e-4, atol=1e-5)
    for name in CONFIGS:
        set_adapter(model, name)
        np.testing.assert_array_equal(scores(model), EXPECTED[name])


def test_what_cannot_be_added_up_is_refused():
    model = together("spam", "tone")
    before = state(model)
    with new_adapter(model, "five"):
        model.set_classes(5, bias=True)
    set_adapter(model, "tone")
    for weights, error, message in (({}, ValueError, "nothing to combine"), ({"x": 1.0}, KeyError, "no adapter 'x'"),
                                    ({"five": 1.0}, ValueError, "out_head of a GPTModel: Linear cannot be added"),
                                    ({"spam": 1.0, "five": 1.0}, ValueError, "cannot be added up")):  # fmt: skip
        with pytest.raises(error, match=message):
            combine_adapters(model, "sum", weights)
    assert state(model) == before and adapter_names(model) == ["spam", "tone", "five"]


# -------------------------------------------------------------------------------------------- merging
def test_verify_merge_measures_and_leaves_the_model_as_it_was(capsys):
    model = alone("tone").train()
    before = state(model)
    difference = verify_merge(model, IDS)
    assert state(model) == before
    merged = copy.copy(model.eval())
    merge(merged)
    assert difference == abs(scores(merged) - EXPECTED["tone"]).max()
    assert capsys.readouterr().out == f"largest logit difference, merged and not: {difference:.3g}\n"
    assert 0 < difference < 1e-4
    with pytest.raises(RuntimeError, match="merged already"):
        verify_merge(model, IDS)
    unmerge(model)
    next(lora_modules(model))[1].lora.A.array *= math.nan
    with pytest.raises(RuntimeError, match="NaN"):
        verify_merge(model.train(), IDS)
    assert model.training


def test_the_state_of_a_merged_model_is_neither_taken_nor_overwritten():
    model, other = alone("tone"), alone("tone")
    merge(model)
    merged = scores(model)
    for use in (model.state_dict, lambda: model.load_state_dict(other.state_dict())):
        with pytest.raises(RuntimeError, match="is merged, and its state would hold the change twice"):
            use()
    np.testing.assert_array_equal(scores(model), merged)
    unmerge(model)
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(scores(other), EXPECTED["tone"])
