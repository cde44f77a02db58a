"""Several processes, one circuit: on a real server, which dies, comes back and loses its memory.

Two stores in one loop stand for two processes where nothing must die; where somebody must, they
are processes.
"""

import asyncio
import contextlib
import functools
import gc
import logging
import random
import signal
import sys

import pytest

from aiinfra_lab.engines import ValkeyServer, connect_valkey_async
from aiinfra_lab.errors import InputError
from aiinfra_lab.processes import Child, LogLine
from aiinfra_lab.resilience import (
    BreakerCollector,
    BreakerRegistry,
    CircuitOpen,
    CircuitStore,
    Reopening,
    Rules,
    SharedCircuitBreaker,
    State,
)

LEASE_S = 0.6
RULES = Rules(
    minimum_number_of_calls=4,
    permitted_calls_in_half_open=3,
    max_wait_in_half_open=30.0,
    reopening=Reopening(first_wait=0.2, max_wait=30.0, jitter="none"),
)
STEADY = Rules(
    minimum_number_of_calls=4,
    permitted_calls_in_half_open=3,
    reopening=Reopening(first_wait=20.0, max_wait=60.0, jitter="none"),
)


@pytest.fixture(scope="module")
def server():
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def own_server():
    """A server for a test that ends it."""
    with ValkeyServer() as server:
        yield server


class Side:
    """What one process has: a client, a store, a breaker."""

    def __init__(self, server, name, rules=RULES, **options):
        self.client = connect_valkey_async(server.url)
        self.store = CircuitStore(self.client, lease=LEASE_S, **options)
        self.breaker = SharedCircuitBreaker(name, rules, store=self.store)

    async def close(self):
        await self.store.aclose()
        await self.client.aclose()


@contextlib.asynccontextmanager
async def sides(server, number=2, rules=RULES, **options):
    """So many processes in step; the circuit's name is the test's own."""
    name = f"circuit-{random.SystemRandom().random()}"
    made = [Side(server, name, rules, **options) for _ in range(number)]
    try:
        for side in made:
            assert await side.breaker.call(succeed) == "fine"
        yield made
    finally:
        for side in made:
            await side.close()


async def succeed():
    return "fine"


async def fail():
    raise ConnectionRefusedError


async def open_it(breaker):
    for _ in range(200):
        if breaker.state is State.OPEN:
            return
        with pytest.raises(ConnectionRefusedError):
            await breaker.call(fail)
    raise AssertionError("it never opened")


async def recover(*breakers):
    """Call until all are closed; permits that were lost would keep them half-open for 30 s."""
    async with asyncio.timeout(15):
        while {breaker.state for breaker in breakers} != {State.CLOSED}:
            for breaker in breakers:
                with contextlib.suppress(CircuitOpen):
                    await breaker.call(succeed)
            await asyncio.sleep(0.01)


async def until(test, seconds=10.0):
    """Wait for what another process brings about."""
    async with asyncio.timeout(seconds):
        while not test():
            await asyncio.sleep(0.005)


def states(made):
    return [side.breaker.state for side in made]


async def test_who_sees_the_failures_opens_the_circuit_for_all(server):
    async with sides(server, 3, STEADY) as made:
        heard = []
        made[2].breaker.listen(heard.append)
        await open_it(made[0].breaker)
        await until(lambda: states(made) == [State.OPEN] * 3)
        with pytest.raises(CircuitOpen) as refused:
            await made[1].breaker.call(succeed)
        assert 10.0 < refused.value.retry_after <= 20.0
        assert [change.after for change in heard] == [State.OPEN]
        assert made[1].breaker.snapshot().shared is True


async def test_a_newcomer_finds_the_circuit_open(server):
    async with sides(server, 1, STEADY) as (first,):
        await open_it(first.breaker)
        await first.breaker._say()
        newcomer = Side(server, first.breaker.name, STEADY)
        with pytest.raises(CircuitOpen):
            await newcomer.breaker.call(succeed)
        await newcomer.close()


async def test_all_together_send_the_permitted_probes(server):
    async with sides(server, 4) as made:
        await open_it(made[0].breaker)
        await until(lambda: states(made) == [State.OPEN] * 4)
        await asyncio.sleep(RULES.reopening.first_wait)
        gate, begun = asyncio.Event(), 0

        async def probe():
            nonlocal begun
            begun += 1
            await gate.wait()

        calls = [asyncio.create_task(side.breaker.call(probe)) for _ in range(25) for side in made]
        await until(lambda: sum(call.done() for call in calls) == 97)
        assert begun == 3
        gate.set()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, CircuitOpen) for result in done) == 97
        await until(lambda: states(made) == [State.CLOSED] * 4)


async def test_the_results_of_all_decide_and_the_waits_grow(server):
    async with sides(server, 3) as made:
        await open_it(made[0].breaker)
        await until(lambda: states(made) == [State.OPEN] * 3)
        await asyncio.sleep(RULES.reopening.first_wait)
        for side, work in zip(made, (fail, succeed, fail), strict=True):
            with contextlib.suppress(ConnectionRefusedError):
                await side.breaker.call(work)
        await until(lambda: states(made) == [State.OPEN] * 3)
        for side in made:
            assert 0.2 < side.breaker.snapshot().retry_after <= 0.4


@pytest.mark.parametrize("way", ["call", "decorated", "guard"])
async def test_a_cancelled_probe_gives_its_permit_back_to_all(server, way):
    async with sides(server) as (one, two):
        await open_it(one.breaker)
        await until(lambda: two.breaker.state is State.OPEN)
        await asyncio.sleep(RULES.reopening.first_wait)

        async def guarded():
            async with one.breaker.guard():
                await asyncio.Event().wait()

        ways = {
            "call": lambda: one.breaker.call(asyncio.Event().wait),
            "decorated": lambda: one.breaker(hang)(),
            "guard": guarded,
        }
        probes = [asyncio.ensure_future(ways[way]()) for _ in range(3)]
        await until(
            lambda: one.breaker.state is State.HALF_OPEN and not one.breaker.snapshot().permits
        )
        with pytest.raises(CircuitOpen):
            await two.breaker.call(succeed)
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        await until(lambda: not one.store._tasks or len(one.store._tasks) == 1)
        await recover(two.breaker)
        await until(lambda: states([one, two]) == [State.CLOSED] * 2)


async def hang():
    await asyncio.Event().wait()


async def test_a_probe_longer_than_the_lease_keeps_its_permit(server):
    async with sides(server) as (one, two):
        await open_it(one.breaker)
        await until(lambda: two.breaker.state is State.OPEN)
        await asyncio.sleep(RULES.reopening.first_wait)
        probes = [asyncio.create_task(one.breaker.call(hang)) for _ in range(3)]
        await until(
            lambda: one.breaker.state is State.HALF_OPEN and not one.breaker.snapshot().permits
        )
        await asyncio.sleep(2 * LEASE_S)
        with pytest.raises(CircuitOpen):
            await two.breaker.call(succeed)
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)


HOLDER = """
import asyncio, sys
from aiinfra_lab.engines import connect_valkey_async
from aiinfra_lab.resilience import *

async def main(url, name, lease):
    store = CircuitStore(connect_valkey_async(url), lease=float(lease))
    rules = Rules(permitted_calls_in_half_open=3, max_wait_in_half_open=30.0)
    breaker = SharedCircuitBreaker(name, rules, store=store)

    async def hang():
        print("holding", breaker.snapshot().permits, flush=True)
        await asyncio.Event().wait()

    async def hold():
        while True:
            try:
                await breaker.call(hang)
            except CircuitOpen:
                await asyncio.sleep(0.02)

    await asyncio.gather(*(hold() for _ in range(3)))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_the_permits_of_a_killed_process_are_free_again(server, tmp_path):
    async with sides(server, 1) as (here,):
        await open_it(here.breaker)
        await here.breaker._say()
        script = tmp_path / "holder.py"
        script.write_text(HOLDER)
        words = [sys.executable, script, server.url, here.breaker.name, str(LEASE_S)]
        async with Child(words, log=tmp_path / "holder.log") as holder:
            await holder.ready_async(LogLine("holding 0"), timeout=30)
            with pytest.raises(CircuitOpen) as refused:
                await here.breaker.call(succeed)
            assert refused.value.state is State.HALF_OPEN
            await asyncio.sleep(2 * LEASE_S)
            with pytest.raises(CircuitOpen):
                await here.breaker.call(succeed)
            holder.send_signal(signal.SIGKILL)
            await holder.wait_async(10)
        await recover(here.breaker)


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_a_lost_store_wedges_nobody_and_is_found_again(own_server, caplog, how):
    caplog.set_level(logging.WARNING, "aiinfra_lab.resilience")
    async with sides(own_server, 2, STEADY) as made:
        one, two = made
        if how == "stopped":
            await asyncio.to_thread(own_server.stop)
        else:
            own_server.child.send_signal(signal.SIGSTOP)
        await until(lambda: not one.store.connected and not two.store.connected)
        assert "lost" in caplog.text
        async with asyncio.timeout(2):
            await open_it(one.breaker)  # alone
            with pytest.raises(CircuitOpen):
                await one.breaker.call(succeed)
            assert await two.breaker.call(succeed) == "fine"
        assert one.breaker.snapshot().shared is False
        if how == "stopped":
            await asyncio.to_thread(own_server.start)
        else:
            own_server.child.send_signal(signal.SIGCONT)
        await until(lambda: states(made) == [State.OPEN] * 2, 20)
        assert one.breaker.snapshot().shared is True
        assert "back" in caplog.text


async def test_without_a_store_the_circuit_opens_probes_and_closes_by_itself(own_server):
    async with sides(own_server, 1) as (side,):
        await asyncio.to_thread(own_server.stop)
        await until(lambda: not side.store.connected)
        await open_it(side.breaker)
        await recover(side.breaker)
        assert side.breaker.snapshot().transitions[State.HALF_OPEN] == 1


async def test_what_others_decided_meanwhile_holds_when_one_comes_back(server):
    async with sides(server) as (one, two):
        await open_it(one.breaker)
        await until(lambda: two.breaker.state is State.OPEN)
        two.store._lose(OSError("for the test"))
        await asyncio.sleep(RULES.reopening.first_wait)
        for _ in range(3):
            await one.breaker.call(succeed)
        assert states([one, two]) == [State.CLOSED, State.OPEN]
        await until(lambda: two.breaker.state is State.CLOSED)


async def test_a_server_that_lost_its_memory_is_told_again(server):
    async with sides(server, 2, STEADY) as made:
        await open_it(made[0].breaker)
        await until(lambda: states(made) == [State.OPEN] * 2)
        await made[0].client.flushall()
        newcomer = Side(server, made[0].breaker.name, STEADY)

        async def refused():
            with contextlib.suppress(CircuitOpen):
                await newcomer.breaker.call(succeed)
            return newcomer.breaker.state is State.OPEN

        async with asyncio.timeout(10):
            while not await refused():
                await asyncio.sleep(0.02)
        await newcomer.close()
        assert states(made) == [State.OPEN] * 2


async def test_operators_speak_for_all(server):
    async with sides(server) as made:
        await open_it(made[1].breaker)  # on its way to the store
        made[0].breaker.force_open()
        await until(lambda: states(made) == [State.FORCED_OPEN] * 2)
        await asyncio.sleep(LEASE_S)
        assert states(made) == [State.FORCED_OPEN] * 2
        made[1].breaker.reset()
        await until(lambda: states(made) == [State.CLOSED] * 2)


async def test_a_late_answer_changes_no_newer_state(server):
    async with sides(server) as (one, two):
        gate = asyncio.Event()
        late = asyncio.create_task(two.breaker.call(gate.wait))
        await asyncio.sleep(0)
        await open_it(one.breaker)
        await until(lambda: two.breaker.state is State.OPEN)
        gate.set()
        await late
        assert two.breaker.state is State.OPEN
        assert two.breaker.snapshot().calls["late"] == 1


async def test_a_storm_of_sides_keeps_within_the_budget_and_loses_no_permit(server):
    rng = random.Random(3)
    rules = Rules(
        minimum_number_of_calls=4,
        sliding_window_size=8,
        permitted_calls_in_half_open=3,
        max_wait_in_half_open=1.0,
        reopening=Reopening(first_wait=0.01, max_wait=0.02, jitter="full"),
    )
    async with sides(server, 4, rules) as made:
        out: dict[int, int] = {}
        most = 0

        async def work(breaker):
            nonlocal most
            probing, epoch = breaker.state is State.HALF_OPEN, breaker._epoch
            if probing:
                out[epoch] = out.get(epoch, 0) + 1
                most = max(most, out[epoch])
            counts = True
            try:
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
                if rng.random() < 0.4:
                    raise ConnectionResetError
            except asyncio.CancelledError:
                counts = False
                raise
            finally:
                if probing and not counts:
                    out[epoch] -= 1

        async def client(side):
            for _ in range(60):
                task = asyncio.create_task(side.breaker.call(work, side.breaker))
                if rng.random() < 0.2:
                    await asyncio.sleep(0.001 * rng.random())
                    task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await asyncio.sleep(0.001 * rng.random())

        await asyncio.gather(*(client(side) for side in made for _ in range(4)))
        assert len(out) > 3, "the storm never reached half-open"
        assert most <= 3
        await recover(*(side.breaker for side in made))


async def test_a_server_with_an_older_memory_is_believed(server):
    async with sides(server) as (one, two):
        await open_it(one.breaker)
        await one.breaker._say()
        await until(lambda: two.breaker.state is State.OPEN)
        key = f"circuit:{{{one.breaker.name}}}"
        await one.client.hset(key, mapping={"epoch": "7", "state": "closed", "until": "-1"})
        await recover(one.breaker, two.breaker)


async def test_a_registry_makes_shared_breakers_and_retires_them(server):
    client = connect_valkey_async(server.url)
    async with CircuitStore(client) as store:
        breakers = BreakerRegistry(functools.partial(SharedCircuitBreaker, store=store), STEADY)
        breaker = breakers.get("digits", "registry")
        assert await breaker.call(succeed) == "fine"
        collected = {metric.name: metric for metric in BreakerCollector(breakers).collect()}
        assert [sample.value for sample in collected["circuit_shared"].samples] == [1.0]
        breakers.retire("digits", "registry")
        assert breaker.snapshot().shared is True
        assert breakers.get("digits", "registry") is not breaker
    await client.aclose()


async def test_one_name_has_one_breaker_in_a_process(server):
    async with sides(server, 1) as (side,):
        with pytest.raises(InputError, match="has a circuit"):
            SharedCircuitBreaker(side.breaker.name, store=side.store)
        with pytest.raises(InputError, match="async with"), side.breaker.guard():
            pass
        with pytest.raises(InputError, match="CircuitStore"):
            SharedCircuitBreaker("x", store=side.client)


def test_a_store_belongs_to_one_loop(server):
    async def begin():
        side = Side(server, "loops")
        assert await side.breaker.call(succeed) == "fine"
        return side

    async def in_another_loop(side):
        side.breaker.force_open()
        await side.breaker.call(succeed)

    with asyncio.Runner() as runner:
        side = runner.run(begin())
        with asyncio.Runner() as other, pytest.raises(InputError, match="another event loop"):
            other.run(in_another_loop(side))
        side.breaker.reset()
        runner.run(side.close())
        assert runner.run(side.breaker.call(succeed)) == "fine", "alone after the store's end"


# A task that is cancelled while it connects leaves a connection that nobody can close any more.
@pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("pause", [0.0, 0.05, 0.25])
def test_a_store_that_nobody_closed_does_not_keep_the_loop_from_ending(server, pause):
    async def leave():
        side = Side(server, "left")
        await side.breaker.call(succeed)
        await asyncio.sleep(pause)
        return side

    with asyncio.Runner() as runner:
        side = runner.run(leave())
        tasks = asyncio.all_tasks(runner.get_loop())
        for task in tasks:
            task.cancel()
        runner.run(asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10))
        runner.run(side.client.aclose())
    del side, tasks
    gc.collect()  # what is left behind is noticed in this test
