"""What reducing does in one process, what it refuses, and what a ring costs on paper."""

import pytest
import torch
from torch import nn

from aiinfra_lab.errors import InputError
from aiinfra_lab.training import reduce


def test_one_process_needs_no_group_and_changes_nothing():
    model = nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    reduce.average_gradients(model, count=5)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    numbers = torch.arange(5.0)
    assert reduce.ring_all_reduce(numbers) is numbers
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    assert reduce.world_size() == 1


def test_a_sum_is_a_new_tensor():
    mine = torch.ones(2)
    total = reduce.reduce_sums(mine)
    total += 1
    assert mine.tolist() == [1, 1]


def test_a_value_is_the_mean_over_samples_in_float64():
    assert reduce.reduce_value(torch.tensor(6.0), 4) == 1.5
    assert reduce.reduce_value(torch.tensor([2**24 + 1]), torch.tensor(1)) == 2**24 + 1
    for sums, counts, words in (
        (0.0, 0, "found 0 on all ranks"),
        (1.0, float("nan"), "found nan"),
        (torch.ones(2), 1, r"shape \(2,\)"),
    ):
        with pytest.raises(InputError, match=words):
            reduce.reduce_value(sums, counts)


def test_gradients_that_cannot_be_averaged_are_refused():
    model = nn.Linear(3, 2)
    for count in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="count must be"):
            reduce.average_gradients(model, count=count)
    words = nn.Embedding(5, 2, sparse=True)
    words(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="sparse"):
        reduce.average_gradients(words, count=1)


def test_buckets_are_neighbours_of_one_kind_up_to_their_size():
    def p(n, dtype=torch.float32):
        return nn.Parameter(torch.zeros(n, dtype=dtype))

    parameters = [p(4), p(4), p(4), p(100), p(1), p(2, torch.float64), p(1, torch.float64)]
    sizes = [[q.numel() for q in bucket] for bucket in reduce._buckets(parameters, 32)]
    assert sizes == [[4, 4], [4], [100], [1], [2, 1]]


def test_the_cost_of_a_ring():
    assert reduce.ring_seconds(1e9, 1, 1e-5, 1e9) == 0
    # By hand: 2 (p - 1) latencies, and 2 (p - 1) pieces of a p-th on the link.
    assert reduce.ring_seconds(8e6, 4, 1e-3, 1e6) == pytest.approx(6e-3 + 6 * 2.0)
    bytes_only = [reduce.ring_seconds(1e9, p, 0, 1e9) for p in (2, 8, 64)]
    assert bytes_only == pytest.approx([1.0, 1.75, 1.96875])
    for wrong in ((-1, 2, 0, 1), (1, 0, 0, 1), (1, 2.5, 0, 1), (1, 2, -1, 1), (1, 2, 0, 0)):
        with pytest.raises(InputError):
            reduce.ring_seconds(*wrong)


def test_a_ring_knows_its_operations():
    with pytest.raises(InputError, match="'mean'; needed one of sum, prod, max, min"):
        reduce.ring_all_reduce(torch.ones(1), "mean")
