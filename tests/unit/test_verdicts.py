"""What counts as an outage: a table of errors and answers, and predicates that are wrong."""

import asyncio
import logging
from datetime import timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience import Verdict, Verdicts, http_verdicts, status_of

SUCCESS, FAILURE, IGNORE = Verdict.SUCCESS, Verdict.FAILURE, Verdict.IGNORE


class StatusError(Exception):
    """As aiohttp.ClientResponseError: the status is on the error."""

    def __init__(self, status, headers=None):
        super().__init__(status)
        self.status, self.headers = status, headers


class ResponseError(Exception):
    """As httpx.HTTPStatusError and requests.HTTPError: the error carries the response."""

    def __init__(self, status, headers=None):
        super().__init__(status)
        self.response = SimpleNamespace(status_code=status, headers=headers or {})


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ConnectionRefusedError(), FAILURE),
        (ConnectionResetError(), FAILURE),
        (TimeoutError(), FAILURE),
        (OSError("no such host"), FAILURE),
        (StatusError(0), FAILURE),  # aiohttp's "no status"
        (StatusError(400), SUCCESS),
        (StatusError(404), SUCCESS),
        (ResponseError(422), SUCCESS),
        (StatusError(429), FAILURE),
        (ResponseError(429), FAILURE),
        (StatusError(500), FAILURE),
        (ResponseError(503), FAILURE),
        (ResponseError(504), FAILURE),
        (KeyError("ours"), IGNORE),
    ],
    ids=repr,
)
def test_which_errors_of_http_are_an_outage(error, verdict):
    assert http_verdicts(ignore=KeyError).of_error(error) is verdict


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, SUCCESS),
        (304, SUCCESS),
        (404, SUCCESS),
        (429, FAILURE),
        (500, FAILURE),
        (599, FAILURE),
    ],
)
def test_which_answers_of_http_are_an_outage(status, verdict):
    for name in ("status", "status_code"):
        assert http_verdicts().of_result(SimpleNamespace(**{name: status})) is verdict
        silent = http_verdicts(judge_results=False)
        assert silent.of_result(SimpleNamespace(**{name: status})) is SUCCESS
    assert http_verdicts().of_result({"json": "body"}) is SUCCESS


@pytest.mark.parametrize(
    ("status", "text", "seconds"),
    [
        (503, "120", 120.0),
        (429, "0", 0.0),
        (429, "1.5", 1.5),
        (503, "-5", 0.0),
        (503, "soon", 0.0),
        (503, "nan", 0.0),
        (503, "inf", 0.0),
        (503, "Wed, 30 Feb 2026 99:00", 0.0),
        (503, None, 0.0),
        (500, "120", 0.0),
        (404, "120", 0.0),
    ],
)
def test_how_long_the_other_side_asks_to_be_left_alone(status, text, seconds):
    headers = {} if text is None else {"Retry-After": text}
    verdicts = http_verdicts()
    for found in (
        StatusError(status, headers),
        ResponseError(status, {k.lower(): v for k, v in headers.items()}),
        SimpleNamespace(status=status, headers=headers),
    ):
        assert verdicts.pause(found) == seconds
    assert verdicts.pause(StatusError(status, None)) == 0.0


@pytest.mark.parametrize(("after", "seconds"), [(90, 90.0), (-90, 0.0)])
def test_retry_after_may_be_a_date(after, seconds):
    clock = ManualClock()
    date = format_datetime(clock.now() + timedelta(seconds=after), usegmt=True)
    error = StatusError(503, {"Retry-After": date})
    assert http_verdicts(clock=clock).pause(error) == seconds


def test_status_of_what_has_none():
    for found in (None, "503", SimpleNamespace(status="ok"), SimpleNamespace(status_code=99)):
        assert status_of(found) is None


def test_parsed_json_is_a_success_and_a_mapping_with_a_status_is_judged_by_it():
    class Answer(dict):
        status = 503

    verdicts = http_verdicts()
    assert verdicts.of_result({"status": 503}) is Verdict.SUCCESS
    assert verdicts.of_result(Answer()) is Verdict.FAILURE


def test_ignore_wins_over_record_and_the_rest_is_a_success():
    verdicts = Verdicts(record=(OSError, KeyError), ignore=ConnectionResetError)
    assert verdicts.of_error(ConnectionResetError()) is IGNORE
    assert verdicts.of_error(ConnectionRefusedError()) is FAILURE
    assert verdicts.of_error(ValueError()) is SUCCESS
    by_predicate = Verdicts(record=lambda e: "bad" in str(e), ignore=lambda e: "own" in str(e))
    assert by_predicate.of_error(ValueError("own bad")) is IGNORE
    assert by_predicate.of_error(ValueError("bad")) is FAILURE
    assert by_predicate.of_error(ValueError("?")) is SUCCESS


def test_a_result_may_be_judged_by_a_verdict_or_by_yes_and_no():
    verdicts = Verdicts(result=lambda found: found)
    assert [verdicts.of_result(r) for r in (True, False, None, *Verdict)] == [
        FAILURE,
        SUCCESS,
        SUCCESS,
        *Verdict,
    ]
    assert Verdicts().of_result(True) is SUCCESS


def test_a_predicate_that_breaks_costs_nobody_an_answer(caplog):
    def broken(found):
        raise RuntimeError("predicate")

    verdicts = Verdicts(record=broken, result=broken, retry_after=broken)
    with caplog.at_level(logging.ERROR, logger="aiinfra_lab.resilience"):
        assert verdicts.of_error(ValueError()) is FAILURE
        assert verdicts.of_result(1) is SUCCESS
        assert verdicts.pause(1) == 0.0
    assert len(caplog.records) == 3


@pytest.mark.parametrize("name", ["record", "ignore"])
@pytest.mark.parametrize(
    "value",
    [int, "OSError", (OSError, str), OSError(), 5, None, BaseException, asyncio.CancelledError],
)
def test_what_is_no_exception_type_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        Verdicts(**{name: value})


@pytest.mark.parametrize("name", ["result", "retry_after"])
def test_what_is_no_predicate_is_refused_by_name(name):
    with pytest.raises(InputError, match=name):
        Verdicts(**{name: True})
