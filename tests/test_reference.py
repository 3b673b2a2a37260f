"""The oracle itself, against numbers worked out by hand."""

import pytest
import torch

from sparsefl import reference

MASK = torch.tensor([[True, False, True], [False, False, False]])


def test_dense_weight_places_values_row_major():
    weight = reference.dense_weight(torch.tensor([2.0, 3.0]), MASK)
    assert weight.tolist() == [[2.0, 0.0, 3.0], [0.0, 0.0, 0.0]]


def test_sparse_linear_by_hand():
    x = torch.tensor([[1.0, 10.0, 100.0]])
    y = reference.sparse_linear(x, torch.tensor([2.0, 3.0]), MASK, torch.tensor([0.5, 7.0]))
    assert y.tolist() == [[302.5, 7.0]]


def test_gradient_of_the_values_is_on_the_support():
    values = torch.tensor([2.0, 3.0], requires_grad=True)
    x = torch.tensor([[1.0, 10.0, 100.0], [4.0, 5.0, 6.0]])
    reference.sparse_linear(x, values, MASK).sum().backward()
    assert values.grad.tolist() == [5.0, 106.0]


@pytest.mark.parametrize(
    ("score", "sign"), [(0.3, 1.0), (-0.3, -1.0), (0.0, 1.0), (-0.0, 1.0), (1e-30, 1.0)]
)
def test_signs(score, sign):
    assert reference.signs(torch.tensor([score])).item() == sign


def test_sign_linear_by_hand_and_its_straight_through_gradient():
    scores = torch.tensor([-0.2, 0.1], requires_grad=True)
    x = torch.tensor([[1.0, 10.0, 100.0]])
    y = reference.sign_linear(x, scores, 0.5, MASK)
    y.sum().backward()
    assert y.tolist() == [[49.5, 0.0]]
    assert scores.grad.tolist() == [0.5, 50.0]


def test_sparse_conv2d_by_hand():
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    mask[0, 0, 0, 1] = mask[0, 0, 1, 0] = True
    x = torch.arange(9.0).view(1, 1, 3, 3)
    y = reference.sparse_conv2d(x, torch.tensor([1.0, 10.0]), mask, torch.tensor([0.5]))
    assert y.tolist() == [[[[31.5, 42.5], [64.5, 75.5]]]]


def test_sign_conv2d_by_hand():
    mask = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    x = torch.tensor([[[[1.0, 2.0, 4.0]]]])
    magnitude = torch.tensor([2.0, 3.0])
    y = reference.sign_conv2d(x, torch.tensor([1.0, -1.0]), magnitude, mask)
    assert y.tolist() == [[[[-4.0, -8.0]]]]


def test_batch_last_strides():
    x = torch.randn(4, 3, 2, 5)
    assert reference.batch_last(x).stride() == (1, 40, 20, 4)
    assert torch.equal(reference.batch_last(x), x)
