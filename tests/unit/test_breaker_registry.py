"""One breaker for each version of each model, and the metrics that a scrape reads from them."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience import (
    BreakerCollector,
    BreakerRegistry,
    CircuitBreaker,
    Rules,
    State,
    SyncCircuitBreaker,
)

SMALL = Rules(sliding_window_size=2)


def refuse():
    raise ConnectionRefusedError


def opened(breaker):
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            breaker.call(refuse)
    assert breaker.state is State.OPEN


def test_a_bad_version_does_not_shut_the_good_one_out():
    breakers = BreakerRegistry(SyncCircuitBreaker, SMALL)
    opened(breakers.get("digits", 4))
    assert breakers.get("digits", "4") is breakers.get("digits", 4)
    assert breakers.get("digits", 3).state is State.CLOSED
    assert [b.name for b in breakers] == ["digits/4", "digits/3"]
    assert len(breakers) == 2


def test_overrides_hold_for_their_key_alone():
    breakers = BreakerRegistry(CircuitBreaker, overrides={("digits", "3"): SMALL})
    assert breakers.get("digits", 3).rules is SMALL
    assert breakers.get("digits", 4).rules == Rules()
    assert isinstance(breakers.get("digits", 4), CircuitBreaker)


def test_a_retired_version_is_forgotten():
    breakers = BreakerRegistry(SyncCircuitBreaker, SMALL)
    opened(breakers.get("digits", 4))
    breakers.retire("digits", 4)
    breakers.retire("digits", 4)
    assert len(breakers) == 0
    assert breakers.get("digits", 4).state is State.CLOSED


def test_threads_that_ask_at_once_get_the_same_breaker():
    breakers, start = BreakerRegistry(SyncCircuitBreaker), threading.Barrier(8)

    def ask():
        start.wait()
        return breakers.get("digits", 1)

    with ThreadPoolExecutor(8) as pool:
        found = {id(f.result()) for f in [pool.submit(ask) for _ in range(8)]}
    assert len(found) == 1


def test_a_listener_hears_breakers_made_before_and_after():
    breakers, heard = BreakerRegistry(SyncCircuitBreaker, SMALL), []
    before = breakers.get("digits", 1)
    breakers.listen(lambda change: 1 / 0)  # its error stays in the log
    stop = breakers.listen(lambda change: heard.append(change.name))
    after = breakers.get("digits", 2)
    opened(before)
    opened(after)
    stop()
    stop()
    before.reset()
    after.reset()
    breakers.get("digits", 3).reset()
    assert heard == ["digits/1", "digits/2"]


def test_a_seed_gives_each_breaker_a_stream_of_its_own():
    def waits():
        breakers = BreakerRegistry(SyncCircuitBreaker, SMALL, clock=ManualClock(), seed=3)
        for version in (1, 2):
            opened(breakers.get("digits", version))
        return [b.snapshot().retry_after for b in breakers]

    assert waits() == waits()
    assert len(set(waits())) == 2


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (("", 1), "model"),
        (("a/b", 1), "model"),
        (("a", ""), "version"),
        (("a", None), "version"),
        (("a", True), "version"),
        ((3, 1), "model"),
    ],
)
def test_a_key_that_is_no_model_and_version_is_refused_by_name(key, name):
    with pytest.raises(InputError, match=name):
        BreakerRegistry(CircuitBreaker).get(*key)
    with pytest.raises(InputError, match="kind"):
        BreakerRegistry(dict)


def scraped(collector):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for metric in collector.collect()
        for sample in metric.samples
    }


def test_a_scrape_shows_what_the_breakers_hold_at_that_moment():
    from prometheus_client import CollectorRegistry, generate_latest

    clock = ManualClock()
    breakers = BreakerRegistry(SyncCircuitBreaker, Rules(sliding_window_size=4), clock=clock)
    registry = CollectorRegistry()
    collector = BreakerCollector(breakers)
    registry.register(collector)
    breaker = breakers.get("digits", 3)
    breaker.call(int)
    seen = scraped(collector)
    assert seen["circuit_calls_total", "digits/3", "success"] == 1
    assert seen["circuit_state", "digits/3", "closed"] == 1
    assert seen["circuit_window_calls", "digits/3"] == 1
    assert ("circuit_failure_rate", "digits/3") not in seen, "one call of four is no rate"
    for _ in range(3):
        breaker.call(int)
    assert scraped(collector)["circuit_failure_rate", "digits/3"] == 0.0
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            breaker.call(refuse)
    seen = scraped(collector)
    assert seen["circuit_state", "digits/3", "open"] == 1
    assert seen["circuit_state", "digits/3", "closed"] == 0
    assert seen["circuit_transitions_total", "digits/3", "open"] == 1
    assert seen["circuit_calls_total", "digits/3", "failure"] == 2
    assert seen["circuit_calls_total", "digits/3", "success"] == 4
    assert seen["circuit_half_open_permits", "digits/3"] == 0
    text = generate_latest(registry).decode()
    assert 'circuit_state{name="digits/3",state="open"} 1.0' in text


def test_quick_successes_of_an_asyncio_breaker_are_in_the_metrics():
    breaker = CircuitBreaker("digits/3", Rules(sliding_window_size=2))

    async def nothing(): ...

    async def many():
        for _ in range(50):
            await breaker.call(nothing)

    asyncio.run(many())
    breaker.reset()
    assert scraped(BreakerCollector([breaker]))["circuit_calls_total", "digits/3", "success"] == 50


def test_a_breaker_alone_needs_no_prometheus_and_no_numbers():
    script = """
import sys
from aiinfra_lab.resilience import BreakerRegistry, CircuitBreaker, SyncCircuitBreaker
from aiinfra_lab.resilience import http_verdicts
CircuitBreaker("x"), BreakerRegistry(SyncCircuitBreaker).get("digits", 1), http_verdicts()
sys.exit(sorted({"prometheus_client", "numpy", "pydantic", "aiohttp"} & set(sys.modules)) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
