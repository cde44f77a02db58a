"""A log line is one JSON object whatever was logged, and nobody gets one unasked."""

import asyncio
import io
import json
import logging
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.errors import InputError
from aiinfra_lab.observability import logs

log = logging.getLogger("course.test")


@pytest.fixture(autouse=True)
def _root_as_it_was():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def written():
    """The log's lines as objects, with logging configured to write them."""
    stream = io.StringIO()
    logs.configure("INFO", json=True, stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def one(message, *args, **extra):
    record = logging.LogRecord("n", logging.INFO, "f.py", 1, message, args, None)
    vars(record).update(extra)
    return logs.JsonFormatter().format(record)


def test_a_line_has_its_moment_in_utc_its_level_logger_and_message(written):
    before = datetime.now(UTC)
    log.warning("model %s is late", "digits")
    (entry,) = written()
    moment = datetime.fromisoformat(entry.pop("ts"))
    assert moment.utcoffset() == timedelta(0)
    assert before - timedelta(seconds=1) <= moment <= datetime.now(UTC)
    assert entry == {
        "level": "WARNING",
        "logger": "course.test",
        "message": "model digits is late",
    }


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@law(deadline=None)
@given(message=st.text(), value=values)
def test_anything_that_is_logged_becomes_one_line_of_json(message, value):
    line = one(message, value=value)
    assert "\n" not in line
    assert line.isascii()  # a stream of any encoding can take it
    entry = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert entry["message"] == message
    assert "value" in entry


@law(deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.integers(-(2**50), 2**50) | st.text(), max_size=4))
def test_what_json_has_arrives_as_it_was(fields):
    assert json.loads(one("x", value=fields))["value"] == fields


class Stubborn:
    def __repr__(self):
        raise RuntimeError("no")


def test_a_line_is_written_whatever_it_carries():
    loop = []
    loop.append(loop)
    for value in (Stubborn(), {"deep": Stubborn()}, loop, {(1, 2): 3}, float("inf"), 10**5000):
        assert isinstance(json.loads(one("x", value=value))["value"], str | dict | list | None)
    assert "too %s" in json.loads(one("too %s %s", 1))["message"]
    assert json.loads(one("%s", Stubborn()))["message"].startswith("%s")


@pytest.mark.parametrize("name", ["ts", "level", "logger"])
def test_an_extra_field_cannot_take_the_place_of_ours(written, name):
    log.info("x", extra={name: "forged"})
    (entry,) = written()
    assert entry[name] != "forged"
    assert entry[f"{name}_"] == "forged"


def test_an_exception_and_a_stack_are_fields_of_the_line(written):
    try:
        raise KeyError("gone")
    except KeyError:
        log.exception("failed", stack_info=True)
    (entry,) = written()
    assert "KeyError: 'gone'" in entry["exception"]
    assert "Traceback" in entry["exception"]
    assert "test_logs.py" in entry["stack"]


def test_bound_fields_are_on_every_line_of_their_block_and_no_other(written):
    with logs.bind(job="a", step=1):
        with logs.bind(step=2):
            log.info("inner", extra={"loss": 0.5})
        log.info("outer")
    with pytest.raises(ValueError, match="x"), logs.bind(job="b"):
        raise ValueError("x")
    log.info("outside")
    got = [
        {key: value for key, value in entry.items() if key in {"job", "step", "loss"}}
        for entry in written()
    ]
    assert got == [{"job": "a", "step": 2, "loss": 0.5}, {"job": "a", "step": 1}, {}]


def test_tasks_and_threads_do_not_see_each_others_fields(written):
    async def work(name):
        with logs.bind(task=name):
            await asyncio.sleep(0)
            log.info(name)

    async def both():
        await asyncio.gather(work("a"), work("b"))

    asyncio.run(both())
    with logs.bind(task="main"):
        thread = threading.Thread(target=log.info, args=("thread",))
        thread.start()
        thread.join()
    assert [(e["message"], e.get("task")) for e in written()] == [
        ("a", "a"),
        ("b", "b"),
        ("thread", None),
    ]


def test_configuring_again_replaces_and_leaves_other_handlers_alone():
    root = logging.getLogger()
    other = logging.NullHandler()
    root.addHandler(other)
    before = len(root.handlers)
    streams = [io.StringIO(), io.StringIO()]
    for stream in streams:
        logs.configure("WARNING", json=True, stream=stream)
    log.warning("x")
    log.info("below the level")
    assert streams[0].getvalue() == ""
    assert len(streams[1].getvalue().splitlines()) == 1
    assert len(root.handlers) == before + 1
    assert other in root.handlers


def test_the_standard_error_of_the_moment_is_written(monkeypatch):
    logs.configure("INFO", json=True)
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    log.info("x")
    assert json.loads(later.getvalue())["message"] == "x"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "is_json"), [(io.StringIO(), True), (Terminal(), False)])
def test_people_at_a_terminal_get_text(stream, is_json):
    logs.configure("INFO", stream=stream)
    log.info("hello", extra={"job": "a"})
    line = stream.getvalue()
    assert line.startswith("{") == is_json
    assert "hello" in line
    assert "job" in line


def test_text_has_the_exception_too():
    stream = Terminal()
    logs.configure("INFO", stream=stream)
    try:
        raise KeyError("gone")
    except KeyError:
        log.exception("failed")
    assert "KeyError: 'gone'" in stream.getvalue()


def test_a_level_that_is_none_is_refused_before_anything_changes():
    before = list(logging.getLogger().handlers)
    with pytest.raises(InputError, match="LOUD"):
        logs.configure("LOUD")
    assert logging.getLogger().handlers == before
