"""In-place spellings: leaves are protected, and no gradient ever sees a number that was written too late."""

import pytest

import tinylora


def leaf(data):
    return tinylora.tensor(data, dtype=tinylora.float64, requires_grad=True)


def test_a_leaf_that_requires_grad_cannot_be_changed_in_place():
    x = leaf([1.0, 2.0])

    def assign():
        x[0] = 5.0

    changes = [assign, lambda: x.__iadd__(1), lambda: x.masked_fill_(x > 1, 0.0), lambda: x.zero_(), lambda: x.add_(1)]
    for change in changes:
        with pytest.raises(RuntimeError, match="leaf"):
            change()
    assert x.tolist() == [1.0, 2.0]


def test_under_no_grad_it_can_and_stays_a_leaf_that_requires_grad():
    x = leaf([1.0, 2.0])
    with tinylora.no_grad():
        x -= 0.5
        x[0] = 7.0
        x.mul_(2)
    assert x.tolist() == [14.0, 3.0] and x.is_leaf and x.requires_grad
    (x * x).sum().backward()
    assert x.grad.tolist() == [28.0, 6.0]


def test_changing_a_tensor_in_place_never_corrupts_a_gradient_that_needs_the_old_numbers():
    x = leaf([1.0, 2.0])
    y = x * 3
    z = y * y  # needs y
    y += 100.0
    y[0] = -1.0
    y.masked_fill_(y > 0, 0.0)
    z.sum().backward()
    assert x.grad.tolist() == [18.0, 36.0]


def test_changing_a_frozen_input_in_place_after_use_changes_no_gradient():
    x, w = leaf([1.0, 2.0]), tinylora.tensor([3.0, 4.0], dtype=tinylora.float64)
    y = x * w
    w.zero_()
    w[0] = 9.0
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 4.0]


def test_gradients_flow_through_what_was_written_in_place():
    x, v = leaf([1.0, 2.0, 3.0]), leaf(5.0)
    y = x * 2
    y[1] = v * v
    y += x
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 1.0, 3.0] and v.grad.item() == 10.0


def test_an_in_place_change_of_a_buffer_by_a_tracked_value_tracks_it():
    out, x = tinylora.zeros(3), tinylora.ones(1, requires_grad=True)
    out[1:2] = x * 4
    out.sum().backward()
    assert x.grad.item() == 4.0
