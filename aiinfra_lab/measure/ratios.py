"""How many times as long does ours take as the peer, on a machine that is not quiet?

Both are timed in blocks of many calls, one after the other, the order turned round from pair to
pair: what slows the machine for a while slows both blocks of a pair. The estimate is the median of
the pairs' ratios, the interval a percentile bootstrap over pairs (Efron 1979). Pairing and
reporting a ratio with its interval follows Kalibera and Jones, "Rigorous benchmarking in reasonable
time" (ISMM 2013).

What is small against what it is added to, a decorator for instance, is compared by its overhead
over the bare call. A single overhead may be below zero by noise and gives no ratio: the medians of
the overheads are divided, and the resamples keep the rounds whole.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiinfra_lab.errors import InputError
from aiinfra_lab.seeding import stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_RESAMPLES = 2_000
_MOST_CALLS = 10_000_000


@dataclass(frozen=True)
class Ratio:
    """Ours over peer's: above 1, ours takes longer.

    ``low`` and ``high`` bound the interval of the given level; ``ours_s`` and ``peer_s`` are the
    medians of seconds a call, for orientation only.
    """

    value: float
    low: float
    high: float
    ours_s: float
    peer_s: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    pairs: int = 30,
    block_s: float = 0.02,
    level: float = 0.95,
    seed: int = 0,
    timer: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Time two functions in turn.

    Parameters
    ----------
    ours, peer : callable without arguments
        What is timed; each is called some times before, unmeasured.
    pairs : int
        Pairs of blocks, at least 5.
    block_s : float
        Seconds that a block lasts about; the number of calls in it is found by trial.
    level : float
        Coverage of the interval, in (0, 1).
    seed : int
        Draws the bootstrap's resamples.
    timer : callable
        Gives seconds; only differences count.

    Raises
    ------
    InputError
        Too few pairs, or a level that is none.
    """
    _check(pairs, level)
    calls = {function: _calls_a_block(function, block_s, timer) for function in (ours, peer)}
    measured = []
    for index in range(pairs):
        order = (ours, peer) if index % 2 == 0 else (peer, ours)
        seconds = {function: _block(function, calls[function], timer) for function in order}
        measured.append((seconds[ours], seconds[peer]))
    return paired_ratio(measured, level=level, seed=seed)


def paired_ratio(
    measured: Sequence[tuple[float, float]], *, level: float = 0.95, seed: int = 0
) -> Ratio:
    """The ratio of pairs (ours, peer) in seconds a call that were measured elsewhere.

    Raises
    ------
    InputError
        Too few pairs, a time that is not above zero, or a level that is none.
    """
    import numpy as np

    _check(len(measured), level)
    if not all(0 < seconds < math.inf for pair in measured for seconds in pair):
        raise InputError("a measured time must be above zero", fix="Time more calls in a block.")
    ratios = np.array([ours / peer for ours, peer in measured])
    medians = _resampled_medians(ratios, seed)
    tail = 50 * (1 - level)
    low, high = np.percentile(medians, [tail, 100 - tail])
    return Ratio(
        float(np.median(ratios)),
        float(low),
        float(high),
        statistics.median(ours for ours, _ in measured),
        statistics.median(peer for _, peer in measured),
        len(measured),
    )


def overhead_ratio(
    measured: Sequence[tuple[float, float, float]], *, level: float = 0.95, seed: int = 0
) -> Ratio:
    """How many times the peer's overhead over a bare call ours is.

    Parameters
    ----------
    measured : sequence of (bare, ours, peer)
        Seconds a call, each round measured within a short while.

    Returns
    -------
    Ratio
        The median of ours - bare over the median of peer - bare; these two medians are its
        ``ours_s`` and ``peer_s``. A resample in which the peer costs nothing could be any ratio,
        and widens the interval on both sides, to infinity if it must.

    Raises
    ------
    InputError
        Too few rounds, a time that is not above zero, a level that is none, or a peer that costs
        no more than the bare call.
    """
    import numpy as np

    _check(len(measured), level)
    if not all(0 < seconds < math.inf for times in measured for seconds in times):
        raise InputError("a measured time must be above zero", fix="Time more calls in a block.")
    overheads = np.array([(ours - bare, peer - bare) for bare, ours, peer in measured])
    ours_s, peer_s = (float(median) for median in np.median(overheads, axis=0))
    if not peer_s > 0:
        raise InputError(
            "the peer costs no more than the bare call, so nothing is a multiple of it",
            found=f"an overhead of {peer_s:.3g} s",
            fix="Time more calls in a block.",
        )
    ours, peer = _resampled_medians(overheads, seed).T
    known = peer > 0
    ratios = np.divide(ours, peer, out=np.zeros_like(ours), where=known)
    tail = (1 - level) / 2
    # An order statistic: between a number and infinity nothing is interpolated.
    low = np.quantile(np.where(known, ratios, -math.inf), tail, method="inverted_cdf")
    high = np.quantile(np.where(known, ratios, math.inf), 1 - tail, method="inverted_cdf")
    return Ratio(ours_s / peer_s, float(low), float(high), ours_s, peer_s, len(measured))


def _resampled_medians(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The medians, along the first axis, of bootstrap resamples that keep the rows whole."""
    import numpy as np

    generator = stream(seed, "measure", "bootstrap")
    chosen = generator.integers(len(values), size=(_RESAMPLES, len(values)))
    medians: NDArray[np.float64] = np.median(values[chosen], axis=1)
    return medians


def _check(pairs: int, level: float) -> None:
    if pairs < 5:
        raise InputError(
            "an interval needs pairs to resample", needed="5 or more", found=str(pairs)
        )
    if not 0 < level < 1:
        raise InputError("level", needed="a number between 0 and 1", found=str(level))


def _calls_a_block(
    function: Callable[[], object], block_s: float, timer: Callable[[], float]
) -> int:
    """Double the calls until a block lasts long enough; this is the warm-up, too."""
    calls = 1
    while calls < _MOST_CALLS and _block(function, calls, timer) * calls < block_s:
        calls *= 2
    return calls


def _block(function: Callable[[], object], calls: int, timer: Callable[[], float]) -> float:
    """Seconds a call over so many calls."""
    begin = timer()
    for _ in range(calls):
        function()
    return (timer() - begin) / calls
