"""Threads: every piece is worked on once, errors arrive, BLAS is given back its own, and nothing is kept alive."""

import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora.kernels.cpu import threads
from tinylora.op import this_thread


@pytest.fixture(autouse=True)
def as_before():
    count = threads.get_num_threads()
    yield
    threads.set_num_threads(count)


@given(st.integers(1, 5), st.integers(0, 20))
def test_every_piece_is_worked_on_once(count, pieces):
    tinylora.set_num_threads(count)
    seen = []
    threads.spread(seen.append, range(pieces))
    assert sorted(seen) == list(range(pieces))


@given(st.integers(1, 5), st.integers(0, 100), st.integers(0, 60))
def test_parts_cover_a_range_in_order_and_are_not_too_short(count, length, least):
    tinylora.set_num_threads(count)
    parts = list(threads.parts(length, least))
    assert [i for part in parts for i in range(length)[part]] == list(range(length))
    assert len(parts) <= count and all(part.stop - part.start >= min(least, length) for part in parts)


def test_pieces_are_worked_on_at_the_same_time():
    tinylora.set_num_threads(3)
    together = threading.Barrier(3, timeout=10)
    threads.spread(lambda piece: together.wait(), range(3))  # with fewer threads at once the barrier breaks


@pytest.mark.parametrize("bad", [0, 2])
def test_an_error_in_a_piece_is_raised_when_all_threads_are_done(bad):
    tinylora.set_num_threads(3)
    finished = []

    def work(piece):
        if piece == bad:
            raise KeyError(piece)
        time.sleep(0.05)
        finished.append(piece)

    with pytest.raises(KeyError):
        threads.spread(work, range(3))
    count = len(finished)
    time.sleep(0.2)
    assert len(finished) == count


def test_work_may_spread_its_own_work():
    tinylora.set_num_threads(2)
    seen = []
    threads.spread(lambda i: threads.spread(lambda j: seen.append((i, j)), range(3)), range(4))
    assert sorted(seen) == [(i, j) for i in range(4) for j in range(3)]


def test_threads_of_the_user_may_spread_at_the_same_time():
    tinylora.set_num_threads(2)
    x, W = np.ones((300, 200), np.float32), np.ones((300, 200), np.float32)
    found = []

    def product():
        found.extend([tinylora.functional.linear(tinylora.tensor(x), tinylora.tensor(W)).array for _ in range(20)])

    users = [threading.Thread(target=product) for _ in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert len(found) == 80 and all((y == 200).all() for y in found)


def test_what_was_worked_on_is_let_go_at_once():
    tinylora.set_num_threads(4)
    for _ in range(50):
        array = np.zeros(1000)
        alive = weakref.ref(array)
        threads.spread(lambda piece, array=array: array[piece].sum(), threads.parts(1000))
        del array
        assert alive() is None


@pytest.mark.skipif(not threads.BLAS_IS_OURS, reason="NumPy's BLAS is not OpenBLAS")
def test_blas_has_one_thread_in_a_piece_and_its_own_number_afterwards():
    get, set_ = threads._blas
    before = get()
    set_(3)
    try:
        inside = []
        threads.spread(lambda piece: inside.append(get()), range(4))
        assert set(inside) == {1} and get() == 3
        with pytest.raises(ZeroDivisionError):
            threads.spread(lambda piece: 1 / 0, range(2))
        assert get() == 3
    finally:
        set_(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_works_on_with_the_threads_it_has_left():
    code = (
        "import os, numpy as np, tinylora\n"
        "from tinylora.kernels.cpu.products import product\n"
        "tinylora.set_num_threads(3)\n"
        "a = np.ones((400, 400), np.float32)\n"
        "assert (product(a, a) == 400).all()\n"
        "child = os.fork()\n"
        "assert (product(a, a) == 400).all()\n"
        "if child == 0: os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_a_thread_that_outlives_the_main_one_works_on_by_itself():
    code = (
        "import threading, time, numpy as np, tinylora\n"
        "from tinylora.kernels.cpu.products import product\n"
        "tinylora.set_num_threads(2)\n"
        "a = np.ones((400, 400), np.float32)\n"
        "def late():\n"
        "    time.sleep(0.5)\n"
        "    assert (product(a, a) == 400).all()\n"
        "    print('done')\n"
        "threading.Thread(target=late).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["done"], done.stderr


@pytest.mark.skipif(not threads.BLAS_IS_OURS, reason="NumPy's BLAS is not OpenBLAS")
def test_blas_is_told_how_many_threads_there_are():
    tinylora.set_num_threads(3)
    assert threads._blas[0]() == 3
    threads.spread(lambda piece: tinylora.set_num_threads(2), [0])
    assert threads._blas[0]() == 2


@pytest.mark.parametrize("count", [0, -1, 1.0, True, "2"])
def test_set_num_threads_refuses_what_is_no_number_of_threads(count):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        tinylora.set_num_threads(count)


def test_the_default_is_what_blas_was_told():
    code = "import tinylora; print(tinylora.get_num_threads())"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"] or not threads.BLAS_IS_OURS


# ------------------------------------------------------------- settings belong to the thread that made them
def in_another_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def recording():
    return (tinylora.ones(1, requires_grad=True) * 2).requires_grad


def tuned():
    return this_thread.tuned


def default():
    return str(tinylora.zeros(1).device)


SWITCHES = {"no_grad": (tinylora.no_grad, recording), "no_kernels": (tinylora.no_kernels, tuned)}


@pytest.mark.parametrize("make, read", SWITCHES.values(), ids=SWITCHES)
def test_a_switch_works_as_block_function_and_generator_and_ends_with_it(make, read):
    before = read()

    @make
    def bare():
        return read()

    @make()
    def called(depth=2):
        return [read(), *(called(depth - 1) if depth else [])]

    @make()
    def generator():
        try:
            sent = yield read()
            yield read(), sent
        except ZeroDivisionError:
            yield read()

    changed = bare()
    assert changed != before and read() == before
    assert called() == [changed] * 3 and read() == before
    steps = generator()
    assert next(steps) == changed and read() == before
    assert steps.send("x") == (changed, "x") and read() == before
    assert steps.throw(ZeroDivisionError) == changed and read() == before
    assert list(steps) == [] and read() == before
    with make(), make():
        assert read() == changed and in_another_thread(read) == before
    with pytest.raises(ZeroDivisionError), make():
        1 / 0
    assert read() == before


@pytest.mark.parametrize("make, read", SWITCHES.values(), ids=SWITCHES)
def test_a_decorated_function_may_run_in_two_threads_at_once(make, read):
    inside, outside = threading.Barrier(2, timeout=10), read()

    @make()
    def together():
        inside.wait()
        return read()

    def other():
        with make():
            together()
        return read()

    results = []
    thread = threading.Thread(target=lambda: results.append(other()))
    thread.start()
    together()
    thread.join()
    assert read() == outside and results == [outside]


def test_a_device_block_is_its_thread_s():
    with tinylora.device("meta"):
        assert default() == "meta" and in_another_thread(default) == "cpu"
        with tinylora.device("cpu"):
            assert default() == "cpu"
        assert default() == "meta"
    assert default() == "cpu"


def test_dropout_in_another_thread_does_not_disturb_a_checkpoint():
    F, others = tinylora.nn.functional, [threading.Thread(target=tinylora.nn.functional.dropout, args=(tinylora.ones(9),))]

    def block(x):
        x = F.dropout(x)
        while others:
            thread = others.pop()
            thread.start()
            thread.join()
        return F.dropout(x)

    x = tinylora.ones(1000, requires_grad=True)
    y = tinylora.checkpoint(block, x)
    y.sum().backward()
    assert np.array_equal(y.detach().array, x.grad.array) and 0 < (y == 0).sum().item() < 1000
