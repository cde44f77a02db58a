"""What a client refuses before it has opened anything, and what its options lead to."""

import random
import subprocess
import sys

import pytest

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience import (
    Default,
    Hedge,
    LastGoodModel,
    MLServiceClient,
    Retry,
    Rules,
    Verdict,
    Verdicts,
)
from aiinfra_lab.resilience.answers import ask_many, ask_one
from aiinfra_lab.resilience.failures import ClientClosed, RequestRejected

A, B, C = "http://a:8000", "http://b:8000", "http://c:8000"


@pytest.mark.parametrize(
    ("endpoints", "options", "words"),
    [
        ([], {}, "at least one URL"),
        (None, {}, "at least one URL"),
        ([A, 3], {}, "base URL"),
        (["a:8000"], {}, "base URL"),
        (["ftp://a"], {}, "base URL"),
        (["http://"], {}, "base URL"),
        (["http://a:99999"], {}, "base URL"),
        (["http://[a"], {}, "base URL"),
        (["http://a?x=1"], {}, "base URL"),
        (["http://me:secret@a"], {}, "base URL"),
        ([A, A + "/"], {}, "named twice"),
        ([A], {"fallback": LastGoodModel(A)}, "named twice"),
        ([A], {"fallback": [LastGoodModel(B), LastGoodModel(B, 0.1)]}, "named twice"),
        ([A], {"deadline": 0}, "deadline"),
        ([A], {"deadline": float("nan")}, "deadline"),
        ([A], {"deadline": float("inf")}, "deadline"),
        ([A], {"attempt_timeout": -1}, "attempt_timeout"),
        ([A], {"attempt_timeout": 2.0}, "longer than the deadline"),
        ([A], {"connect_timeout": 0}, "connect_timeout"),
        ([A], {"pool": 0}, "pool"),
        ([A], {"pool": 1.5}, "pool"),
        ([A], {"rules": 3}, "rules"),
        ([A], {"retry": 3}, "retry"),
        ([A], {"hedge": 0.2}, "hedge"),
        ([A], {"hedge": Hedge(1.0)}, "hedge.after"),
        ([A], {"hedge": Hedge(0.7), "fallback": LastGoodModel(B)}, "hedge.after"),
        ([A], {"observe": 3}, "observe"),
        ([A], {"fallback": "7"}, "LastGoodModel or a Default"),
        ([A], {"fallback": [Default("7"), C]}, "LastGoodModel or a Default"),
        ([A], {"fallback": [Default("7"), LastGoodModel(B)]}, "behind it"),
        ([A], {"fallback": LastGoodModel(B, reserve=1.0)}, "no time for the endpoints"),
    ],
)
def test_a_bad_option_is_refused_in_one_sentence(endpoints, options, words):
    with pytest.raises(InputError) as caught:
        MLServiceClient(endpoints, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LastGoodModel("b"),
        lambda: LastGoodModel(B, reserve=0),
        lambda: Default(7),
        lambda: Default("7", [float("nan")]),
        lambda: Default("7", 0.5),
    ],
)
def test_a_bad_fallback_is_refused(make):
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize(
    "instance",
    ["image.png", b"\0", None, {"x": 1}, {1, 2}, True, [[1, "x", object()]], [float("nan")]],
)
def test_what_is_no_array_of_numbers_is_not_sent(instance):
    for ask, given in ((ask_one, instance), (ask_many, [instance])):
        if ask is ask_many and not isinstance(instance, list):
            continue  # the server knows what an instance of its model is
        with pytest.raises(InputError):
            ask(given)


def test_a_list_that_holds_itself_is_not_sent():
    loop = []
    loop.append(loop)
    with pytest.raises(InputError, match="JSON"):
        ask_one(loop)


@pytest.mark.parametrize("batch", [[], (), 3, "12", iter([1])])
def test_a_batch_has_at_least_one_instance(batch):
    with pytest.raises(InputError, match="batch"):
        ask_many(batch)


def test_rules_without_verdicts_of_their_own_learn_http():
    for rules in (None, Rules(sliding_window_size=7)):
        client = MLServiceClient([A], rules=rules)
        verdicts = client.breakers[0].rules.verdicts
        assert verdicts.of_error(RequestRejected(422, "", A)) is not Verdict.FAILURE
        assert verdicts.of_error(ConnectionError()) is Verdict.FAILURE
        assert verdicts.of_error(ClientClosed()) is Verdict.IGNORE
    assert client.breakers[0].rules.sliding_window_size == 7
    own = Rules(verdicts=Verdicts(record=ValueError))
    assert MLServiceClient([A], rules=own).breakers[0].rules is own


def test_a_call_is_slow_before_its_attempt_times_out():
    for options, limit in (
        ({}, 0.4),
        ({"deadline": 0.4, "fallback": LastGoodModel(B)}, 0.2),
        ({"deadline": 0.4, "fallback": [LastGoodModel(B), LastGoodModel(C)]}, 0.2),
    ):
        client = MLServiceClient([A], **options)
        rules = client.breakers[0].rules
        assert rules.slow_call_duration_threshold == pytest.approx(0.8 * limit)
        assert rules.is_slow(0.95 * limit)


def test_every_server_has_a_breaker_under_its_own_name_and_clients_share_no_budget():
    options = {"fallback": [LastGoodModel(C + "/"), Default("7")], "clock": ManualClock()}
    client = MLServiceClient([A + "/", B], rng=random.Random(3), **options)
    assert [breaker.name for breaker in client.breakers] == [A, B, C]
    assert client.statistics.attempts == {A: 0, B: 0, C: 0}
    other = MLServiceClient(A)
    assert client._dispatcher._budget is not other._dispatcher._budget
    shared = Retry()
    clients = [MLServiceClient(A, retry=shared) for _ in range(2)]
    assert {id(each._dispatcher._budget) for each in clients} == {id(shared.budget)}


def test_statistics_are_a_copy():
    client = MLServiceClient(A)
    client.statistics.fallbacks["default"] = 9
    client.statistics.attempts[A] = 9
    assert client.statistics.fallbacks == {}
    assert client.statistics.attempts == {A: 0}


def test_the_breaker_alone_does_not_pay_for_the_client():
    script = """
import sys
from aiinfra_lab.resilience import CircuitBreaker, Rules, http_verdicts
sys.exit(bool({"aiohttp", "pydantic", "numpy"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
