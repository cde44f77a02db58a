"""What a circuit breaker costs a call that succeeds, and what it does in four situations.

The peers (circuitbreaker, purgatory, interlock-cb) live in an environment of their own in the
course's cache, made at first use; without a network what is missing is named and left out. All
contestants run in this process, in short blocks that take turns, so that a busy machine hits all
alike: believe the ratios before the times. ``naive`` is the breaker of many a tutorial, and the
course's exhibit.

Examples
--------
    python tests/benchmarks/breaker.py --quick
    python tests/benchmarks/breaker.py --json > breaker.json
    python tests/benchmarks/breaker.py --save          writes results/breaker.json
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import importlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from peers import peers_environment, say
from publishing import options, publish

from aiinfra_lab.measure import Quantile, Ratio, overhead_ratio, quantile
from aiinfra_lab.resilience import CircuitBreaker, Reopening, Rules, http_verdicts
from aiinfra_lab.seeding import stream

PINS = {"circuitbreaker": "2.1.3", "purgatory": "3.0.1", "interlock-cb": "2.8.2"}
MODULES = {
    "circuitbreaker": "circuitbreaker",
    "purgatory": "purgatory",
    "interlock-cb": "interlock",
}
RESULT = Path(__file__).parent / "results" / "breaker.json"
BARE, OURS = "bare await", "aiinfra_lab"
WAIT_S = 0.05  # in the open state, for the situations
SLOW_S = 0.005
TIMEOUT_S = 0.02  # of the outer wait_for; above SLOW_S on every machine
PERMITTED = 10
CALLERS = 200
Call = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
Decorator = Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]


class NaiveBreaker:
    """The exhibit: consecutive failures of one kind, the wall clock, no limit on probes."""

    def __init__(self, threshold: int = 5, recovery_s: float = 60.0) -> None:
        self.threshold, self.recovery_s = threshold, recovery_s
        self.failures, self.opened_at, self.state = 0, 0.0, "CLOSED"

    def __call__(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.state == "OPEN":
                if time.time() - self.opened_at <= self.recovery_s:
                    raise RuntimeError("circuit open")
                self.state = "HALF_OPEN"
            try:
                result = await function(*args, **kwargs)
            except TimeoutError:
                self.failures += 1
                self.opened_at = time.time()
                if self.failures >= self.threshold:
                    self.state = "OPEN"
                raise
            self.failures, self.state = 0, "CLOSED"
            return result

        return guarded


def peers_folder() -> Path:
    """The packages of the peers' environment, which is made if it is not there."""
    pins = [f"{name}=={version}" for name, version in PINS.items()]
    programs, _ = peers_environment("breaker", pins)  # what is missing shows at its import
    answer = subprocess.run(
        [programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    return Path(answer.stdout.strip())


def contestants() -> tuple[dict[str, Callable[[], Decorator]], list[str]]:
    """A factory of decorators by name, and the names that cannot be had here."""
    makers: dict[str, Callable[[], Decorator]] = {"naive": lambda: NaiveBreaker(5, WAIT_S)}
    missing = []
    sys.path.append(str(peers_folder()))
    for name, module in MODULES.items():
        try:
            package = importlib.import_module(module)
        except ImportError:
            missing.append(name)
            continue
        makers[name] = functools.partial(_peer, name, package)
    makers[OURS] = _ours
    return makers, missing


def _peer(name: str, package: Any) -> Decorator:
    if name == "circuitbreaker":
        return package.CircuitBreaker(failure_threshold=5, recovery_timeout=WAIT_S)
    if name == "purgatory":
        return package.AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=WAIT_S)("peer")
    return package.CircuitBreaker(
        name="peer",
        config=package.Config(
            window_size=100,
            minimum_number_of_calls=10,
            slow_call_duration_threshold=SLOW_S,
            permitted_calls_in_half_open=PERMITTED,
            wait_duration_in_open=WAIT_S,
        ),
    )


def _ours(**options: Any) -> Decorator:
    rules = Rules(
        sliding_window_size=100,
        minimum_number_of_calls=10,
        slow_call_duration_threshold=SLOW_S,
        permitted_calls_in_half_open=PERMITTED,
        reopening=Reopening(first_wait=WAIT_S, jitter="none"),
    )
    return CircuitBreaker("ours", dataclasses.replace(rules, **options))


# The quick way is for count windows without a predicate on results; these two pay the full one.
VARIANTS: dict[str, Callable[[], Decorator]] = {
    "  time window": lambda: _ours(sliding_window_type="time"),
    "  http_verdicts": lambda: _ours(verdicts=http_verdicts()),
}


# ---- the price


def timed(function: Callable[..., Awaitable[Any]]) -> Callable[[int], Awaitable[float]]:
    """Seconds a call of ``await function(1)`` over a block."""

    async def block(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            await function(1)
        return (time.perf_counter() - began) / calls

    return block


async def price(
    makers: dict[str, Callable[[], Decorator]], rounds: int, calls: int
) -> dict[str, Any]:
    """Overhead of each contestant over the bare await, and ours as a multiple of it.

    The blocks are timed here, because awaits and more than two contestants take turns.
    """

    async def answer(x: int) -> int:
        return x

    blocks = {BARE: timed(answer)} | {n: timed(make()(answer)) for n, make in makers.items()}
    names, order = list(blocks), stream(0, "breaker", "order")
    seen: dict[str, list[float]] = {name: [] for name in names}
    for block in blocks.values():
        await block(calls)
    for done in range(rounds):
        for i in order.permutation(len(names)):
            seen[names[i]].append(await blocks[names[i]](calls))
        if (done + 1) % max(1, rounds // 5) == 0:
            say(f"price: round {done + 1} of {rounds}")
    bare, ours = seen[BARE], seen[OURS]
    table = {}
    for name in makers:
        over = quantile([t - b for t, b in zip(seen[name], bare, strict=True)], 0.5)
        table[name] = {"overhead_us": round(1e6 * over.value, 3), "interval_us": _pair(over, 1e6)}
        if name != OURS and name not in VARIANTS:
            times = overhead_ratio(list(zip(bare, ours, seen[name], strict=True)))
            table[name] |= {"ours_ratio": round(times.value, 3), "interval": _pair(times)}
    return {"bare_us": round(1e6 * statistics.median(bare), 3), "over_bare": table}


def _pair(found: Quantile | Ratio, unit: float = 1) -> list[float]:
    return [round(unit * found.low, 3), round(unit * found.high, 3)]


# ---- the situations


class Subject:
    """One breaker around a function whose next ending the situation decides."""

    def __init__(self, make: Callable[[], Decorator]) -> None:
        self.begun = 0
        self.ending: BaseException | asyncio.Event | None = None
        self.call = make()(self.work)

    async def work(self) -> None:
        self.begun += 1
        if isinstance(self.ending, BaseException):
            raise self.ending
        if self.ending is not None:
            await self.ending.wait()

    async def refused(self, ending: Any, timeout: float | None = None) -> bool:
        """Make one call that ends so; whether it was refused before it began."""
        before, self.ending = self.begun, ending
        try:
            await asyncio.wait_for(self.call(), timeout)
        except Exception:
            return self.begun == before
        return False


async def probes(subject: Subject) -> int:
    """How many of 200 concurrent callers reach the dependency in half-open."""
    for _ in range(50):
        await subject.refused(TimeoutError())
    await asyncio.sleep(2 * WAIT_S)
    before, gate = subject.begun, asyncio.Event()
    subject.ending = gate
    calls = [asyncio.ensure_future(subject.call()) for _ in range(CALLERS)]
    for _ in range(20):
        await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*calls, return_exceptions=True)
    return subject.begun - before


async def opens_at_half(subject: Subject) -> bool:
    """Whether 200 calls of which every second one fails open it."""
    return any([await subject.refused(TimeoutError() if i % 2 else None) for i in range(200)])


async def counts_timeouts(subject: Subject) -> bool:
    """Whether 30 calls that an outer wait_for gives up open it."""
    return any([await subject.refused(asyncio.Event(), TIMEOUT_S) for _ in range(30)])


async def counts_refused(subject: Subject) -> bool:
    """Whether 30 refused connections open it."""
    return any([await subject.refused(ConnectionRefusedError()) for _ in range(30)])


SITUATIONS: dict[str, tuple[str, Callable[[Subject], Awaitable[Any]], Callable[[Any], bool]]] = {
    "probes_of_200": ("probes of 200", probes, lambda found: 1 <= found <= PERMITTED),
    "opens_at_50_percent": ("opens at 50 %", opens_at_half, bool),
    "counts_outer_timeouts": ("outer timeouts", counts_timeouts, bool),
    "counts_refused_connections": ("refused connections", counts_refused, bool),
}


async def behaviour(makers: dict[str, Callable[[], Decorator]]) -> dict[str, dict[str, Any]]:
    """What each contestant does in each situation."""
    table: dict[str, dict[str, Any]] = {name: {} for name in makers}
    for name, make in makers.items():
        say(f"behaviour: {name}")
        for key, (_, situation, _) in SITUATIONS.items():
            table[name][key] = await situation(Subject(make))
    return table


# ---- the command


def report(found: dict[str, Any]) -> str:
    """Both tables for people."""
    lines = [f"bare await {found['price']['bare_us']} us; over it, with 95 % intervals:"]
    for name, row in found["price"]["over_bare"].items():
        line = f"  {name:<15}{row['overhead_us']:>7.2f} us {row['interval_us']!s:<16}"
        if "ours_ratio" in row:
            line += f"  ours costs {row['ours_ratio']:.2f} of it {row['interval']}"
        lines.append(line)
    titles = [title for title, *_ in SITUATIONS.values()]
    lines.append(" " * 17 + "".join(f"{title:>21}" for title in titles))
    for name, row in found["behaviour"].items():
        words = [("no", "yes")[v] if isinstance(v, bool) else str(v) for v in row.values()]
        lines.append(f"  {name:<15}" + "".join(f"{word:>21}" for word in words))
    if found["missing"]:
        lines.append(f"not measured, could not be installed: {', '.join(found['missing'])}")
    return "\n".join(lines)


def main() -> int:
    """Measure, and print; 1 if our breaker is wrong in a situation (never for a time)."""
    asked = options(__doc__, RESULT, quick="fewer and shorter blocks")
    makers, missing = contestants()
    rounds, calls = (100, 500) if asked.quick else (400, 1000)
    found = {
        "benchmark": "breaker",
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "load_average": [round(x, 1) for x in os.getloadavg()],
        },
        "versions": {name: PINS[name] for name in MODULES if name not in missing},
        "missing": missing,
        "rounds": rounds,
        "calls_a_block": calls,
        "price": asyncio.run(price(makers | VARIANTS, rounds, calls)),
        "behaviour": asyncio.run(behaviour(makers)),
    }
    found["ours_right"] = {
        key: right(found["behaviour"][OURS][key]) for key, (_, _, right) in SITUATIONS.items()
    }
    publish(found, asked, RESULT, report)
    return 0 if all(found["ours_right"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
