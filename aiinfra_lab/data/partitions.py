"""Deal a data set out to parts: the clients of federated learning, or uneven shards.

Every function gives one array of positions per part. The parts share no position and together
hold every one, each part's positions are sorted, and the same seed gives the same parts.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aiinfra_lab.errors import InputError
from aiinfra_lab.seeding import stream

Part = NDArray[np.intp]


def iid(n: int, parts: int, *, seed: int) -> list[Part]:
    """Deal ``n`` samples at random into parts whose sizes differ by at most one.

    Raises
    ------
    InputError
        Fewer samples than parts, or a number that is none.
    """
    n = _whole("n", n)
    parts = _whole("parts", parts)
    _enough(n, parts, 1)
    order = stream(seed, "partitions", "iid").permutation(n)
    return [_part(piece) for piece in np.array_split(order, parts)]


def by_label(labels: ArrayLike, parts: int, classes_each: int, *, seed: int) -> list[Part]:
    """Give each part the samples of ``classes_each`` classes and of no other.

    Every class goes to nearly the same number of parts (they differ by at most one), and its
    samples are dealt evenly among them. It is the pathological partition of McMahan et al.,
    "Communication-efficient learning of deep networks from decentralized data" (AISTATS 2017),
    without the shards of two classes that cutting a sorted list makes.

    Parameters
    ----------
    labels : array of int, shape (n,)
    parts, classes_each : int

    Raises
    ------
    InputError
        A class would go to no part (``parts * classes_each`` is less than the number of
        classes) or has fewer samples than parts that need it; or there are fewer classes than
        ``classes_each``.
    """
    of_class = _by_class(labels)
    parts = _whole("parts", parts)
    classes_each = _whole("classes_each", classes_each)
    if not classes_each <= len(of_class) <= parts * classes_each:
        raise InputError(
            "the classes cannot be dealt so that each has a part and each part its classes",
            found=f"{len(of_class)} classes, {parts} parts, classes_each={classes_each}",
            needed="classes_each <= classes <= parts * classes_each",
        )
    rng = stream(seed, "partitions", "by_label")
    places = np.full(len(of_class), parts * classes_each // len(of_class))
    places[rng.permutation(len(of_class))[: parts * classes_each % len(of_class)]] += 1
    for members, wanted in zip(of_class, places, strict=True):
        if len(members) < wanted:
            raise InputError(
                "a class has fewer samples than parts that need one of them",
                found=f"{len(members)} samples",
                needed=f"{wanted}",
                fix="Take fewer parts or a smaller classes_each.",
            )
    # Whoever chooses takes the classes with the most places left: then the last parts still find
    # classes_each different ones. Ties fall at random.
    owners: list[list[int]] = [[] for _ in of_class]
    for part in range(parts):
        chosen = np.lexsort((rng.random(len(places)), -places))[:classes_each]
        places[chosen] -= 1
        for label in chosen:
            owners[label].append(part)
    dealt: list[list[Part]] = [[] for _ in range(parts)]
    for members, takers in zip(of_class, owners, strict=True):
        pieces = np.array_split(rng.permutation(members), len(takers))
        for part, piece in zip(rng.permutation(takers), pieces, strict=True):
            dealt[part].append(piece)
    return [_part(np.concatenate(pieces)) for pieces in dealt]


def dirichlet(
    labels: ArrayLike, parts: int, alpha: float, *, seed: int, at_least: int = 1
) -> list[Part]:
    """Deal each class in shares that are drawn from a symmetric Dirichlet distribution.

    A small ``alpha`` gives each part few classes and unequal sizes; a large one comes close to
    ``iid``. Where a part ends below ``at_least`` samples, random ones of the largest part are
    moved to it, which disturbs the draw less than drawing everything again.

    Parameters
    ----------
    labels : array of int, shape (n,)
    parts : int
    alpha : float
        Concentration, above 0; 0.1 and 0.5 are usual.
    at_least : int
        Samples that every part has in the end; may be 0.

    Raises
    ------
    InputError
        ``alpha`` is not above 0, or there are fewer samples than ``parts * at_least``.

    References
    ----------
    Hsu, Qi and Brown, "Measuring the effects of non-identical data distribution for federated
    visual classification" (2019), proposed the distribution, with classes drawn for each part.
    That shares of parts are drawn for each class, which deals out every sample, is from
    Yurochkin et al., "Bayesian nonparametric federated learning of neural networks" (ICML 2019).
    """
    of_class = _by_class(labels)
    parts = _whole("parts", parts)
    at_least = _whole("at_least", at_least, smallest=0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float | np.floating):
        raise InputError("alpha must be a number", found=repr(alpha))
    if not 0 < alpha < math.inf:
        raise InputError("alpha must be above 0 and finite", found=repr(alpha))
    _enough(sum(map(len, of_class)), parts, at_least)
    rng = stream(seed, "partitions", "dirichlet")
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for members in of_class:
        shares = rng.dirichlet(np.full(parts, float(alpha)))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(int).tolist()
        order = rng.permutation(members).tolist()
        for part, (start, stop) in zip(dealt, pairwise([0, *cuts, len(order)]), strict=True):
            part.extend(order[start:stop])
    for part in dealt:
        while len(part) < at_least:
            largest = max(dealt, key=len)
            part.append(largest.pop(int(rng.integers(len(largest)))))
    return [_part(np.array(part, dtype=np.intp)) for part in dealt]


def _part(positions: NDArray[np.int_] | Part) -> Part:
    return np.sort(positions).astype(np.intp)


def _by_class(labels: ArrayLike) -> list[Part]:
    """The positions of each class that occurs, in the order of the classes."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) == 0:
        raise InputError(
            "labels must be whole numbers in one dimension, at least one",
            found=f"shape {array.shape} of {array.dtype}",
        )
    return [np.flatnonzero(array == label) for label in np.unique(array)]


def _whole(name: str, value: object, *, smallest: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < smallest:
        raise InputError(f"{name} must be a whole number of at least {smallest}", found=repr(value))
    return int(value)


def _enough(n: int, parts: int, each: int) -> None:
    if n < parts * each:
        raise InputError(
            f"{parts} parts with at least {each} samples each need more samples",
            found=f"{n}",
            needed=f"{parts * each}",
        )
