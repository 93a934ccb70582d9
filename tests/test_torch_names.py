"""Names of torch beside tensors and modules: modes, dtypes, devices, random generators, autograd, amp, cuda, utilities."""

import threading

import numpy as np
import pytest

import tinylora
from tinylora import Generator, nn, optim
from tinylora.torch_api import conversion


# ---------------------------------------------------------------------------------------------- grad modes
def test_grad_modes_switch_nest_and_decorate():
    x = tinylora.ones(2, requires_grad=True)
    with tinylora.no_grad():
        assert not tinylora.is_grad_enabled()
        with tinylora.enable_grad():
            assert (x * 2).requires_grad
        with tinylora.set_grad_enabled(True):
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert tinylora.is_grad_enabled()

    @tinylora.set_grad_enabled(False)
    def off(x):
        return x * 2

    @tinylora.enable_grad()
    def on(x):
        return x * 2

    assert tinylora.is_grad_enabled() and not off(x).requires_grad and tinylora.is_grad_enabled()
    with tinylora.no_grad():
        assert on(x).requires_grad
    tinylora.set_grad_enabled(False)
    try:
        assert not (x * 2).requires_grad
        seen = []
        thread = threading.Thread(target=lambda: seen.append(tinylora.is_grad_enabled()))
        thread.start()
        thread.join()
        assert seen == [True]
    finally:
        tinylora.set_grad_enabled(True)


# ------------------------------------------------------------------------------------- dtypes and constructors
@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_limits_of_dtypes_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    ours, theirs = tinylora.finfo(getattr(tinylora, name)), torch.finfo(getattr(torch, name))
    for field in ("min", "max", "eps", "tiny", "smallest_normal", "bits", "resolution", "dtype"):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert tinylora.iinfo(tinylora.int8).max == 127


def test_the_default_dtype_is_float32_and_no_other():
    assert tinylora.get_default_dtype() == tinylora.float32
    tinylora.set_default_dtype(tinylora.float32)
    with pytest.raises(NotImplementedError, match="pass dtype="):
        tinylora.set_default_dtype(tinylora.float64)


def test_older_constructors_make_tensors_of_their_dtype():
    assert tinylora.LongTensor([1, 2]).dtype == tinylora.int64 and tinylora.FloatTensor(2, 3).shape == (2, 3)
    assert isinstance(tinylora.zeros(1), tinylora.FloatTensor) and not isinstance(tinylora.zeros(1), tinylora.LongTensor)
    assert not isinstance(3, tinylora.FloatTensor)
    with pytest.raises(TypeError, match="FloatTensor takes sizes, or one sequence"):
        tinylora.FloatTensor([1.0], [2.0])
    x = tinylora.ones(2, 3)
    assert x.new(4).shape == (4,) and x.new([1, 2]).dtype == x.dtype and x.type() == "torch.FloatTensor"
    assert x.type("torch.DoubleTensor").dtype == tinylora.float64 and x.type(tinylora.LongTensor).dtype == tinylora.int64
    assert x.nelement() == 6 and x.ndimension() == 2 and x.nbytes == 24 and x.is_cpu and not x.is_cuda
    assert x.grad_fn is None and (tinylora.ones(1, requires_grad=True) * 2).grad_fn is not None
    assert x.pin_memory() is x and x.to("cpu", non_blocking=True) is x and x.to("cpu", copy=True) is not x


# ---------------------------------------------------------------------------------------- random generators
def test_generators_repeat_themselves():
    g = Generator().manual_seed(3)
    first = [tinylora.rand(3, generator=g), tinylora.randn(2, generator=g), tinylora.randint(9, (4,), generator=g)]
    g.manual_seed(3)
    again = [tinylora.rand(3, generator=g), tinylora.randn(2, generator=g), tinylora.randint(9, (4,), generator=g)]
    assert all(tinylora.equal(a, b) for a, b in zip(first, again, strict=True)) and g.initial_seed() == 3
    assert tinylora.equal(
        tinylora.zeros(5).normal_(generator=g.manual_seed(1)), tinylora.randn(5, generator=g.manual_seed(1))
    )
    assert g.seed() == g.initial_seed()
    same = tinylora.manual_seed(11)
    assert tinylora.initial_seed() == same.initial_seed() == 11
    assert tinylora.randperm(6, generator=g).sort().values.tolist() == list(range(6))


def test_the_state_of_random_numbers_is_kept_and_restored():
    state = tinylora.get_rng_state()
    first = tinylora.rand(3), nn.functional.dropout(tinylora.ones(50))
    tinylora.set_rng_state(state)
    assert tinylora.equal(first[0], tinylora.rand(3)) and tinylora.equal(first[1], nn.functional.dropout(tinylora.ones(50)))
    tinylora.set_rng_state(state)
    with tinylora.random.fork_rng():
        tinylora.rand(5)
    assert tinylora.equal(first[0], tinylora.rand(3))
    with pytest.raises(ValueError, match="what get_rng_state returned"):
        tinylora.set_rng_state(tinylora.zeros(3, dtype=tinylora.uint8))


def test_tensors_are_printed_as_asked():
    x = tinylora.tensor([1.23456, 1e-7])
    before = str(x)
    try:
        tinylora.set_printoptions(precision=2, sci_mode=False)
        assert str(x) == "tensor([1.23, 0.  ])"
    finally:
        conversion.PRINTED.clear()
        conversion.PRINTED.update(precision=4, threshold=200)
    assert str(x) == before


def test_where_alone_gives_indices_and_alpha_scales():
    x = tinylora.tensor([[0.0, 2.0], [3.0, 0.0]])
    assert [i.tolist() for i in tinylora.where(x > 0)] == [[0, 1], [1, 0]]
    assert tinylora.zeros(2).add_(tinylora.ones(2), alpha=3).sub_(1.0, alpha=2).tolist() == [1.0, 1.0]
    y = tinylora.ones(2, requires_grad=True) * 2
    assert y.detach_() is y and y.is_leaf and not y.requires_grad
    assert (x.byte().dtype, x.short().dtype, x.char().dtype) == (tinylora.uint8, tinylora.int16, tinylora.int8)
    with tinylora.inference_mode(mode=False):
        assert tinylora.is_grad_enabled()


# ------------------------------------------------------------------------------------------------- autograd
def test_gradients_of_chosen_tensors_leave_the_others_alone():
    torch = pytest.importorskip("torch")
    results = []
    for library in (tinylora, torch):
        x = library.tensor([1.0, 2.0], requires_grad=True)
        w = library.tensor([3.0, 4.0], requires_grad=True)
        h = x * w
        y = (h * h).sum()
        first = library.autograd.grad(y, [x, h], retain_graph=True)
        second = library.autograd.grad([y, h], w, grad_outputs=[library.tensor(2.0), library.tensor([1.0, 0.5])])
        assert x.grad is None and w.grad is None
        results.append([g.tolist() for g in (*first, *second)])
    assert results[0] == results[1]
    x = tinylora.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="do not depend"):
        tinylora.autograd.grad((x * 2).sum(), tinylora.ones(1, requires_grad=True))
    assert tinylora.autograd.grad((x * 2).sum(), tinylora.ones(1, requires_grad=True), allow_unused=True) == (None,)
    with pytest.raises(NotImplementedError, match="gradients of gradients"):
        tinylora.autograd.grad((x * 2).sum(), x, create_graph=True)


def test_operations_with_a_backward_of_ones_own():
    torch = pytest.importorskip("torch")
    results = []
    for library in (tinylora, torch):

        class Halves(library.autograd.Function):
            @staticmethod
            def forward(ctx, x, scale):
                ctx.save_for_backward(x)
                ctx.scale = scale
                return x * scale, x * x

            @staticmethod
            def backward(ctx, g, h):
                (x,) = ctx.saved_tensors
                assert ctx.needs_input_grad == (True, False)
                return g * ctx.scale + 2 * x * h, None

        x = library.tensor([1.0, 2.0], requires_grad=True)
        a, b = Halves.apply(x * 3, 5.0)
        (a.sum() + (b * b).sum()).backward()
        first = x.grad.tolist()
        x.grad = None
        Halves.apply(x, 5.0)[1].sum().backward()
        results.append([a.tolist(), b.tolist(), first, x.grad.tolist()])
    assert results[0] == results[1]


# ------------------------------------------------------------------------------------------- amp, cuda, others
def test_amp_computes_in_float32_and_skips_infinite_steps():
    model = nn.Linear(2, 1)
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    scaler = tinylora.amp.GradScaler("cpu")
    with tinylora.amp.autocast("cpu", dtype=tinylora.float16):
        loss = model(tinylora.ones(3, 2)).sum()
    assert loss.dtype == tinylora.float32
    scaler.scale(loss).backward()
    before = model.bias.detach().clone()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert (before - model.bias).item() == 3.0
    model.bias.grad = tinylora.tensor([float("inf")])
    after = model.bias.detach().clone()
    scaler.step(optimizer)
    assert tinylora.equal(after, model.bias) and scaler.get_scale() == 1.0


def test_questions_about_gpus_have_an_answer_without_one():
    assert tinylora.cuda.device_count() == int(tinylora.cuda.is_available())
    assert isinstance(tinylora.cuda.memory_allocated(), int)
    tinylora.cuda.empty_cache()
    tinylora.cuda.manual_seed_all(5)
    assert tinylora.initial_seed() == 5
    if not tinylora.cuda.is_available():
        with pytest.raises(RuntimeError, match="cuda"):
            tinylora.cuda.current_device()
    with pytest.raises(RuntimeError, match="CUDA_VISIBLE_DEVICES"):
        tinylora.cuda.set_device(1)


def test_processes_are_refused_by_name():
    assert not tinylora.distributed.is_available() and tinylora.distributed.get_world_size() == 1
    with pytest.raises(NotImplementedError, match="init_process_group"):
        tinylora.distributed.init_process_group("nccl")
    with pytest.raises(NotImplementedError, match="DataParallel"):
        nn.DataParallel(nn.Linear(1, 1))


def test_devices_have_a_type_and_an_index():
    assert tinylora.device("cuda", 0) == tinylora.device("cuda:0") and tinylora.device("cpu").type == "cpu"
    assert tinylora.device("cuda:0").index == 0 and tinylora.device("cpu").index is None
    assert tinylora.device(type="cpu") == "cpu" and tinylora.device(tinylora.device("meta")) == "meta"
    with pytest.raises(RuntimeError, match="cuda:1"):
        tinylora.device("cuda:1")


# ---------------------------------------------------------------------------------------------- nn.utils
@pytest.mark.parametrize("norm_type", [1, 2.0, 3, float("inf")])
def test_clipping_by_norm_and_by_value(norm_type):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) * 3 for shape in [(3, 2), (4,), ()]]
    results = []
    for library, utils in ((tinylora, nn.utils), (torch, torch.nn.utils)):
        parameters = [library.zeros(a.shape, dtype=library.float64, requires_grad=True) for a in arrays]
        for p, a in zip(parameters, arrays, strict=True):
            p.grad = library.tensor(a)
        norm = utils.clip_grad_norm_(parameters, 1.5, norm_type=norm_type)
        clipped = [p.grad.numpy().copy() for p in parameters]
        utils.clip_grad_value_(parameters, 0.1)
        results.append([norm.numpy(), *clipped, *(p.grad.numpy() for p in parameters)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_an_infinite_norm_can_be_an_error():
    x = tinylora.ones(2, requires_grad=True)
    x.grad = tinylora.tensor([1.0, float("nan")])
    with pytest.raises(RuntimeError, match="norm of the gradients is nan"):
        nn.utils.clip_grad_norm_([x], 1.0, error_if_nonfinite=True)


def test_parameters_as_a_vector_and_back():
    layer = nn.Linear(3, 2)
    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(vector.detach() * 2, layer.parameters())
    assert tinylora.allclose(nn.utils.parameters_to_vector(layer.parameters()), vector * 2)


def test_sequences_are_padded_as_by_pytorch():
    torch = pytest.importorskip("torch")
    for options in ({}, {"batch_first": True, "padding_value": -1.0}, {"padding_side": "left"}):
        made = []
        for library, pad in ((tinylora, nn.utils.pad_sequence), (torch, torch.nn.utils.rnn.pad_sequence)):
            rows = [library.ones(3, 2), library.zeros(1, 2), library.ones(2, 2)]
            made.append(pad(rows, **options).tolist())
        assert made[0] == made[1]


def test_an_optimizer_of_a_copied_model_and_its_schedule():
    """add_param_group takes part in a schedule that is made afterwards."""
    optimizer = optim.SGD([tinylora.zeros(1, requires_grad=True)], lr=1.0)
    optimizer.add_param_group({"params": [tinylora.zeros(2, requires_grad=True)], "lr": 0.5})
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [0.5, 0.25]
