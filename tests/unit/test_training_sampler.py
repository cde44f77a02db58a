"""The order of the samples: everything once, the same for any number of ranks, from any place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiinfra_lab.errors import InputError
from aiinfra_lab.training.sampler import BatchOrder, piece

lengths, worlds = st.integers(0, 300), st.integers(1, 9)


@given(lengths, worlds)
def test_the_pieces_of_all_ranks_are_everything_once_and_differ_by_one(n: int, world: int) -> None:
    pieces = [range(n)[piece(n, rank, world)] for rank in range(world)]

    assert [index for part in pieces for index in part] == list(range(n))
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 5), worlds)
def test_an_epoch_takes_every_sample_once_whatever_the_number_of_ranks(
    n: int, batch: int, epoch: int, world: int
) -> None:
    order = BatchOrder(n, min(batch, n), seed=6)

    batches = list(order.batches(epoch + 1, epoch=epoch))

    taken = [index for b in batches for rank in range(world) for index in b.of(rank, world)]
    assert sorted(taken) == list(range(n))
    assert taken == list(order.permutation(epoch))
    assert len(batches) == order.steps_per_epoch
    assert batches[-1].end == n


@given(st.integers(2, 100), st.integers(1, 20), st.data())
def test_a_run_that_resumes_takes_what_the_whole_run_would_have_taken(
    n: int, batch: int, data: st.DataObject
) -> None:
    order = BatchOrder(n, min(batch, n), seed=6)
    whole = list(order.batches(3))
    cut = data.draw(st.integers(0, len(whole) - 1))

    rest = list(order.batches(3, epoch=whole[cut].epoch, offset=whole[cut].offset))

    assert len(rest) == len(whole) - cut
    for one, other in zip(rest, whole[cut:], strict=True):
        assert (one.epoch, one.offset) == (other.epoch, other.offset)
        assert np.array_equal(one.indices, other.indices)


def test_each_epoch_and_each_seed_has_an_order_of_its_own() -> None:
    order = BatchOrder(50, 8, seed=6)

    assert not np.array_equal(order.permutation(0), order.permutation(1))
    assert not np.array_equal(order.permutation(0), BatchOrder(50, 8, seed=7).permutation(0))
    assert np.array_equal(order.permutation(1), BatchOrder(50, 8, seed=6).permutation(1))
    assert np.array_equal(BatchOrder(5, 2, seed=6, shuffle=False).permutation(3), np.arange(5))


@pytest.mark.parametrize("batch", [0, -1, 11])
def test_a_batch_that_the_data_cannot_give_is_refused(batch: int) -> None:
    with pytest.raises(InputError, match=r"batch size in 1\.\.10"):
        BatchOrder(10, batch, seed=6)
