"""Partitions: every sample is in one part and only one, whatever is drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.data import by_label, dirichlet, iid
from aiinfra_lab.errors import InputError

SEEDS = st.integers(0, 2**32 - 1)
LABELS = st.lists(st.integers(-3, 6), min_size=1, max_size=120)
# Ten classes of 100: what the digits look like, in small.
BALANCED = np.repeat(np.arange(10), 100)


def deals_out(parts, n):
    """Whether ``parts`` hold each of ``n`` positions once, in order."""
    assert all(part.dtype == np.intp and (np.diff(part) > 0).all() for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))


def classes(part, labels=BALANCED):
    return set(np.asarray(labels)[part].tolist())


@law(deadline=None)
@given(parts=st.integers(1, 20), more=st.integers(0, 200), seed=SEEDS)
def test_iid_parts_hold_everything_once_and_differ_by_at_most_one(parts, more, seed):
    n = parts + more
    dealt = iid(n, parts, seed=seed)
    deals_out(dealt, n)
    sizes = [len(part) for part in dealt]
    assert len(sizes) == parts
    assert max(sizes) - min(sizes) <= 1


@st.composite
def labels_for_parts(draw):
    """Labels of which every part can get its number of classes: built so, not filtered."""
    parts = draw(st.integers(1, 12))
    classes_each = draw(st.integers(1, 8))
    number = draw(st.integers(classes_each, min(parts * classes_each, 10)))
    least = -(-parts * classes_each // number)
    counts = draw(st.lists(st.integers(least, least + 8), min_size=number, max_size=number))
    labels = np.repeat(np.arange(number), counts)
    return draw(st.permutations(labels.tolist())), parts, classes_each


@law(deadline=None)
@given(made=labels_for_parts(), seed=SEEDS)
def test_parts_by_label_have_their_number_of_classes(made, seed):
    labels, parts, classes_each = np.array(made[0]), *made[1:]
    dealt = by_label(labels, parts, classes_each, seed=seed)
    deals_out(dealt, len(labels))
    assert [len(classes(part, labels)) for part in dealt] == [classes_each] * parts
    owners = [sum(label in classes(part, labels) for part in dealt) for label in set(made[0])]
    assert max(owners) - min(owners) <= 1


@law(deadline=None)
@given(
    labels=LABELS,
    parts=st.integers(1, 12),
    alpha=st.sampled_from([1e-3, 0.1, 1.0, 1e4]),
    share=st.sampled_from([0, 0.3, 1]),
    seed=SEEDS,
)
def test_dirichlet_parts_hold_everything_once_and_their_minimum(labels, parts, alpha, share, seed):
    at_least = int(share * (len(labels) // parts))  # up to as even as can be
    dealt = dirichlet(labels, parts, alpha, seed=seed, at_least=at_least)
    deals_out(dealt, len(labels))
    assert len(dealt) == parts
    assert min(map(len, dealt)) >= at_least


@pytest.mark.parametrize(
    "deal",
    [
        lambda seed: iid(1000, 7, seed=seed),
        lambda seed: by_label(BALANCED, 20, 2, seed=seed),
        lambda seed: dirichlet(BALANCED, 7, 0.5, seed=seed),
    ],
    ids=["iid", "by_label", "dirichlet"],
)
def test_the_seed_decides(deal):
    def same(a, b):
        return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))

    np.random.seed(1)
    first = deal(6)
    np.random.seed(2)
    assert same(first, deal(6))
    assert not same(first, deal(7))


def test_alpha_goes_from_one_class_to_all_of_them():
    def effective(alpha):
        """Mean over the parts of the number of classes by which a part is dominated."""
        numbers = []
        for part in dirichlet(BALANCED, 10, alpha, seed=6):
            shares = np.bincount(BALANCED[part], minlength=10) / len(part)
            numbers.append(1 / (shares**2).sum())
        return np.mean(numbers)

    few, some, all_of_them = (effective(alpha) for alpha in (0.01, 0.5, 1000.0))
    assert few < 2 < some < 8
    assert all_of_them > 9.8


def test_without_a_minimum_a_part_may_stay_empty():
    sizes = [len(part) for part in dirichlet(np.zeros(5, int), 20, 0.1, seed=6, at_least=0)]
    assert sum(sizes) == 5
    assert 0 in sizes


def test_who_gets_a_class_is_drawn():
    pairs = {frozenset(classes(part)) for part in by_label(BALANCED, 50, 2, seed=6)}
    # 50 parts of the 45 pairs: a fixed round would give ten of them at most.
    assert len(pairs) > 10


@pytest.mark.parametrize(
    ("deal", "words"),
    [
        (lambda: iid(3, 4, seed=6), "found 3; needed 4"),
        (lambda: iid(0, 1, seed=6), "n must be"),
        (lambda: iid(3, 0, seed=6), "parts must be"),
        (lambda: iid(3, True, seed=6), "parts must be"),
        (lambda: iid(3, 1.0, seed=6), "parts must be"),
        (lambda: by_label([0, 1, 2], 1, 2, seed=6), "3 classes, 1 parts, classes_each=2"),
        (lambda: by_label([0, 1, 2], 2, 4, seed=6), "classes_each=4"),
        (lambda: by_label([0, 0, 1], 2, 2, seed=6), "found 1 samples; needed 2"),
        (lambda: by_label([[0], [1]], 1, 1, seed=6), r"shape \(2, 1\)"),
        (lambda: by_label([0.5, 1.0], 1, 1, seed=6), "float64"),
        (lambda: by_label([], 1, 1, seed=6), r"shape \(0,\)"),
        (lambda: dirichlet([0, 1], 2, 0.0, seed=6), "found 0.0"),
        (lambda: dirichlet([0, 1], 2, float("nan"), seed=6), "found nan"),
        (lambda: dirichlet([0, 1], 2, float("inf"), seed=6), "found inf"),
        (lambda: dirichlet([0, 1], 2, "0.5", seed=6), "must be a number"),
        (lambda: dirichlet([0, 1], 2, 0.5, seed=6, at_least=2), "found 2; needed 4"),
        (lambda: dirichlet([0, 1], 2, 0.5, seed=6, at_least=-1), "at_least must be"),
    ],
)
def test_what_cannot_be_dealt_is_refused(deal, words):
    with pytest.raises(InputError, match=words):
        deal()
