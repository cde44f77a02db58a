"""The progress line survives any log, and the reporter never gets in the way of the work."""

import io
import json
import math
import sys
from datetime import UTC, datetime, timedelta, timezone
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.observability import Progress, displays, parse_progress, progress
from aiinfra_lab.settings import settings

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

counts = st.integers(0, 10**12)
finite = st.floats(0, 1e300)
zones = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))


@st.composite
def states(draw):
    step = draw(counts)
    return Progress(
        step=step,
        total=draw(st.none() | counts.map(lambda more: step + more)),
        ts=draw(st.datetimes(datetime(1970, 1, 3), timezones=zones)),
        eta_s=draw(st.none() | finite),
        metrics=draw(st.dictionaries(st.text(max_size=8), st.none() | st.floats(), max_size=3)),
    )


def fields(**changes):
    """The fields of a good line, some of them changed."""
    good = {
        "aiinfra": "progress",
        "v": 1,
        "ts": "2026-01-01T12:00:00Z",
        "step": 3,
        "total": 12,
        "percent": 25.0,
        "eta_s": 9.0,
        "metrics": {"loss": 0.5},
    }
    return good | changes


# The line.


@law(deadline=None)
@given(states())
def test_what_is_written_is_read(state):
    line = state.line()
    assert "\n" not in line
    assert line.isascii()
    assert parse_progress(line) == state


@law(deadline=None)
@given(states(), st.text(), st.text())
def test_a_line_is_found_among_other_text(state, before, after):
    assert parse_progress(f"{before} {state.line()} {after}") == state


def test_the_line_is_the_one_of_the_design():
    state = Progress(step=3, total=12, ts=NOON, eta_s=9, metrics={"loss": 0.5})
    found = json.loads(state.line())
    assert list(found) == ["aiinfra", "v", "ts", "step", "total", "percent", "eta_s", "metrics"]
    assert found == fields(ts="2026-01-01T12:00:00+00:00")


@law(deadline=None, max_examples=100)
@given(
    st.text()
    | st.text().map(lambda text: '{"aiinfra":"progress"' + text)
    | st.builds(
        lambda line, at, text: line[:at] + text + line[at:],
        states().map(Progress.line),
        st.integers(0, 200),
        st.text(max_size=3),
    )
)
def test_no_text_makes_the_reader_fail(text):
    assert isinstance(parse_progress(text), Progress | None)


@pytest.mark.parametrize(
    "text",
    [
        '{"aiinfra":"progress","x":' + "[" * 100_000,
        '{"aiinfra":"progress","v":' + "9" * 10_000 + "}",
        '{"aiinfra":"progress"}',
        '{"aiinfra":"progress"} ' * 3,
    ],
    ids=["deep", "huge", "empty", "several"],
)
def test_hostile_text_is_no_progress(text):
    assert parse_progress(text) is None


@law(deadline=None, max_examples=40)
@given(states(), st.data())
def test_half_a_line_is_no_progress(state, data):
    line = state.line()
    assert parse_progress(line[: data.draw(st.integers(0, len(line) - 1))]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"v": "1"},
        {"ts": "2026-01-01T12:00:00"},
        {"ts": "yesterday"},
        {"ts": "0001-01-01T00:00:00+14:00"},
        {"ts": 5},
        {"step": -1},
        {"step": 3.0},
        {"step": True},
        {"step": "3"},
        {"step": 13},
        {"total": "12"},
        {"percent": "25"},
        {"percent": True},
        {"eta_s": -1},
        {"eta_s": "9"},
        {"eta_s": math.inf},
        {"eta_s": True},
        {"metrics": []},
        {"metrics": {"loss": "low"}},
        {"metrics": {"loss": True}},
        {"metrics": {"loss": math.nan}},
    ],
    ids=str,
)
def test_a_line_with_a_wrong_field_is_no_progress(change):
    assert parse_progress(json.dumps(fields())) is not None
    assert parse_progress(json.dumps(fields(**change))) is None


@pytest.mark.parametrize("name", [name for name in fields() if name != "aiinfra"])
def test_a_line_without_one_of_its_fields_is_no_progress(name):
    shorter = fields()
    del shorter[name]
    assert parse_progress(json.dumps(shorter)) is None


def test_a_later_writer_may_add_fields():
    assert parse_progress(json.dumps(fields(epoch=2))) == parse_progress(json.dumps(fields()))


def test_the_first_good_line_of_several_counts():
    broken, good = fields(step=-1), fields(step=4)
    found = parse_progress(f"[rank0]: {json.dumps(broken)}{json.dumps(good)}\x1b[0m")
    assert found.step == 4


@law(deadline=None)
@given(st.integers(1, 10**15), st.data())
def test_a_hundred_percent_is_the_end_and_nothing_else(total, data):
    step = data.draw(st.integers(0, total))
    percent = Progress(step=step, total=total, ts=NOON).percent
    assert 0 <= percent <= 100
    assert (percent == 100) == (step == total)
    assert abs(percent - 100 * step / total) <= 0.1 + 1e-9


def test_nearly_done_is_not_rounded_to_done():
    assert Progress(step=99_999, total=100_000, ts=NOON).percent == 99.9


def test_percent_without_steps():
    assert Progress(step=0, total=0, ts=NOON).percent == 100
    assert Progress(step=5, total=None, ts=NOON).percent is None


def test_a_loss_that_diverged_is_written_as_null():
    state = Progress(step=1, total=2, ts=NOON, metrics={"loss": math.nan, "lr": math.inf, "a": 1})
    assert json.loads(state.line())["metrics"] == {"loss": None, "lr": None, "a": 1.0}


def test_a_number_of_another_library_is_a_number():
    import numpy as np

    state = Progress(step=1, total=2, ts=NOON, metrics={"loss": np.float32(0.5)})
    assert json.loads(state.line())["metrics"] == {"loss": 0.5}


def test_a_state_cannot_be_changed():
    metrics = {"loss": 1.0}
    state = Progress(step=1, total=2, ts=NOON, metrics=metrics)
    metrics["loss"] = 2.0
    assert state.metrics == {"loss": 1.0}
    with pytest.raises(TypeError):
        state.metrics["loss"] = 3.0


# The reporter.


class Recorder:
    """A display that remembers what it was shown."""

    every_s = 2.0

    def __init__(self):
        self.shown = []

    def show(self, state, *, last):
        self.shown.append((state.step, last))


@pytest.fixture
def recorder(monkeypatch):
    display = Recorder()
    monkeypatch.setattr("aiinfra_lab.observability.reporter.open_display", lambda *_: display)
    return display


@pytest.fixture
def clock():
    return ManualClock()


@law(deadline=None)
@given(st.lists(st.integers()))
def test_the_items_come_through_as_they_are(items):
    assert list(progress(items, mode="off")) == items
    assert list(progress(iter(items), mode="off")) == items


def test_a_number_counts_its_steps():
    assert list(progress(3, mode="off")) == [0, 1, 2]
    assert list(progress(5, initial=3, mode="off")) == [3, 4]
    assert progress(5, initial=3, mode="off").state.percent == 60


def test_reports_come_now_and_then_and_at_the_end(recorder, clock):
    for _ in progress(range(10), clock=clock):
        clock.advance(0.7)
    # Three steps are 2.1 s, the first multiple that reaches the display's 2 s.
    assert recorder.shown == [(3, False), (6, False), (9, False), (10, True)]


def test_work_that_ends_at_once_reports_once(recorder, clock):
    list(progress(range(1000), clock=clock))
    assert recorder.shown == [(1000, True)]


def test_an_error_passes_and_the_last_state_is_reported(recorder, clock):
    bar = progress(10, clock=clock)

    def work():
        with bar:
            bar.advance(4)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert recorder.shown == [(4, True)]
    bar.close()
    assert recorder.shown == [(4, True)]


def test_leaving_a_loop_early_reports_where_it_stopped(recorder, clock):
    for item in progress(range(10), clock=clock):
        if item == 4:
            break
    assert recorder.shown == [(4, True)]


def test_the_remaining_time_follows_from_the_time_spent(clock):
    with progress(10, mode="off", clock=clock) as bar:
        assert bar.state.eta_s is None
        clock.advance(6)
        bar.advance(2)
        assert bar.state.eta_s == pytest.approx(24)
        bar.update(10)
        assert bar.state.eta_s == 0


def test_steps_of_an_earlier_run_do_not_shorten_the_estimate(clock):
    bar = progress(100, initial=90, mode="off", clock=clock)
    clock.advance(5)
    bar.advance()
    assert bar.state.eta_s == pytest.approx(45)


def test_more_steps_than_promised_do_not_end_the_work(clock):
    bar = progress(iter("abc"), total=2, mode="off", clock=clock)
    assert list(bar) == ["a", "b", "c"]
    assert (bar.state.step, bar.state.total) == (3, 3)


def test_work_of_unknown_length_has_no_share(clock):
    with progress(None, mode="off", clock=clock) as bar:
        clock.advance(1)
        bar.advance(5, loss=1.0)
        bar.advance(lr=0.1)
    assert bar.state == Progress(
        step=6, total=None, ts=clock.now(), metrics={"loss": 1.0, "lr": 0.1}
    )
    with pytest.raises(TypeError, match="no items"):
        iter(bar).__next__()


@pytest.mark.parametrize("arguments", [{"work": -1}, {"work": 3, "initial": 4}])
def test_impossible_counts_are_refused(arguments):
    with pytest.raises(ValueError, match="at least"):
        progress(mode="off", **arguments)
    with pytest.raises(ValueError, match="at least"):
        progress(10, initial=-1, mode="off")


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'loud'"):
        progress(3, mode="loud")


def test_machine_lines_are_written_once_a_second_and_at_the_end(clock):
    log = io.StringIO()
    for _ in progress(range(10), mode="off", lines=log, clock=clock):
        clock.advance(0.3)
    found = [parse_progress(line) for line in log.getvalue().splitlines()]
    assert [state.step for state in found] == [4, 8, 10]
    assert found[0].eta_s == pytest.approx(1.8)
    assert found[0].ts == clock.now() - timedelta(seconds=1.8)


class Closed(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize("mode", ["plain", "off"])
def test_a_closed_terminal_or_log_does_not_end_the_work(mode, clock):
    done = []
    for item in progress(range(5), mode=mode, stream=Closed(), lines=Closed(), clock=clock):
        clock.advance(10)
        done.append(item)
    assert done == [0, 1, 2, 3, 4]


# Where it is shown.


@pytest.fixture
def environment(monkeypatch):
    """The variables that the choice sees: none, until the test adds some."""
    monkeypatch.delenv("AIINFRA_PROGRESS", raising=False)
    monkeypatch.setattr(displays, "_kernel", lambda: None)
    # Not by delenv: pytest sets its own variable again before the test's body.
    variables = {}
    monkeypatch.setattr(displays, "os", SimpleNamespace(environ=variables))
    settings.cache_clear()
    yield variables
    settings.cache_clear()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(environment):
    assert displays.choose_mode(Terminal()) == "rich"
    assert displays.choose_mode(io.StringIO()) == "plain"


@pytest.mark.parametrize("name", ["CI", "PYTEST_CURRENT_TEST"])
def test_nothing_is_shown_where_nobody_watches(environment, name):
    environment[name] = "true"
    assert displays.choose_mode(Terminal()) == "off"


def test_ci_that_says_no_is_no_ci(environment):
    environment["CI"] = "false"
    assert displays.choose_mode(Terminal()) == "rich"


def test_a_kernel_shows_progress_only_to_a_person(environment, monkeypatch):
    shell = SimpleNamespace(user_ns={})
    monkeypatch.setattr(displays, "_kernel", lambda: shell)
    assert displays.choose_mode(Terminal()) == "off"  # papermill, nbval, nbclient
    shell.user_ns["__vsc_ipynb_file__"] = "x.ipynb"
    assert displays.choose_mode() == "notebook"
    shell.user_ns.clear()
    environment["JPY_SESSION_NAME"] = "x.ipynb"
    assert displays.choose_mode() == "notebook"


def test_a_shell_without_a_kernel_is_a_terminal(monkeypatch):
    ipython = ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    for shell, kernel in [
        (None, False),
        (SimpleNamespace(), False),
        (SimpleNamespace(kernel=1), 1),
    ]:
        ipython.get_ipython = lambda shell=shell: shell
        assert bool(displays._kernel()) == bool(kernel)


@pytest.mark.parametrize("mode", ["off", "plain", "rich", "notebook"])
def test_the_users_choice_goes_first(environment, monkeypatch, mode):
    environment["CI"] = "true"
    monkeypatch.setenv("AIINFRA_PROGRESS", mode)
    assert displays.choose_mode(Terminal()) == mode


def test_plain_lines_say_how_far_and_how_long(capsys, clock):
    for _ in (bar := progress(range(4), "training", mode="plain", clock=clock)):
        clock.advance(100)
        bar.note(loss=0.51239)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "training: 4/4 (100 %), loss 0.5124"
    assert "training: 1/4 (25 %), 5 min 00 s left, loss 0.5124" in err.splitlines()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7265, "2 h 01 min")],
)
def test_the_remaining_time_is_said_in_two_units(seconds, text):
    state = Progress(step=1, total=2, ts=NOON, eta_s=seconds)
    assert displays.describe(state) == f"1/2 (50 %), {text} left"


def test_a_measurement_that_is_not_finite_is_said():
    state = Progress(step=1, total=None, ts=NOON, metrics={"loss": math.nan})
    assert displays.describe(state) == "1, loss not finite"


def test_the_bar_is_drawn_on_standard_error_and_print_stays_where_it_was(
    capsys, monkeypatch, clock
):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    for _ in progress(range(2), "a [bold]bar[/bold]", mode="rich", clock=clock):
        clock.advance(1)
        print("result")
        print("log", file=sys.stderr)
    assert capsys.readouterr().out == "result\nresult\n"
    drawn = terminal.getvalue()
    assert "\x1b[" in drawn
    assert drawn.count("log") == 2
    assert "2/2 (100 %)" in drawn
    assert "a [bold]bar[/bold]" in drawn  # a description is text, not markup
    assert sys.stderr is terminal


def test_a_notebook_gets_one_output_that_is_replaced(monkeypatch, clock):
    shown = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(("update", data)))

    def display(data, raw, display_id):
        shown.append(("new", data))
        return handle

    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    for _ in progress(range(2), "<b>", mode="notebook", clock=clock):
        clock.advance(1)
    assert [kind for kind, _ in shown] == ["new", "update", "update"]
    assert 'value="1" max="2"' in shown[0][1]["text/html"]
    assert "&lt;b&gt;" in shown[0][1]["text/html"]
    assert shown[-1][1]["text/plain"] == "<b>: 2/2 (100 %)"
    list(progress(iter("a"), mode="notebook", clock=clock))
    assert "<progress></progress>" in shown[-1][1]["text/html"]
    list(progress(0, mode="notebook", clock=clock))
    assert 'value="1" max="1"' in shown[-1][1]["text/html"]
