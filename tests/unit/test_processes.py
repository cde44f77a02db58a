"""The parts of ``processes`` one by one; what needs whole families of processes is integration."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiinfra_lab.errors import InputError, MissingNeed
from aiinfra_lab.processes import (
    Child,
    FileText,
    HttpAnswers,
    LogLine,
    PortBound,
    PortOpen,
    reaper,
    tree,
)
from aiinfra_lab.processes.life import fate
from aiinfra_lab.processes.order import Order
from aiinfra_lab.processes.pidfile import describe, read_pid_file, remove_pid_file
from aiinfra_lab.processes.steps import Steps, Wait, pauses, run, run_async
from aiinfra_lab.processes.tail import follow, read_tail

Driver = Callable[[Steps[Any]], Any]


def _drive_async(steps: Steps[Any]) -> Any:
    return asyncio.run(run_async(steps))


@pytest.fixture(params=[run, _drive_async])
def drive(request: pytest.FixtureRequest) -> Driver:
    driver: Driver = request.param
    return driver


def test_a_child_starts_becomes_ready_and_ends(tmp_path: Path) -> None:
    with Child(["sh", "-c", "echo ready; exec sleep 60"], log=tmp_path / "logs" / "log") as child:
        assert child.ready(LogLine("^ready$"))[0] == "ready"
        assert child.returncode is None
        assert repr(child) == f"<Child sh pid={child.pid}>"
    assert child.returncode == -signal.SIGTERM
    assert child.tail() == "ready"


def test_opening_the_package_imports_nothing_of_weight() -> None:
    code = (
        "import sys, aiinfra_lab.processes as room; "
        "assert not {'psutil', 'asyncio', 'subprocess', 'socket'} & set(sys.modules); "
        "from aiinfra_lab.processes import Child; "
        "assert not {'psutil', 'asyncio'} & set(sys.modules); "
        "print(*dir(room))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wanted = {"Child", "FileText", "HttpAnswers", "LogLine", "PortBound", "PortOpen", "Probe"}
    assert wanted <= set(shown.stdout.split())


# Steps.


def test_steps_get_values_errors_and_their_result(drive: Driver) -> None:
    def fail() -> None:
        raise OSError("no")

    def steps() -> Steps[list[object]]:
        seen: list[object] = [(yield lambda: 7), (yield Wait(0.0))]
        try:
            yield fail
        except OSError as error:
            seen.append(str(error))
        return seen

    assert drive(steps()) == [7, None, "no"]


def test_an_error_that_steps_do_not_catch_comes_out(drive: Driver) -> None:
    def steps() -> Steps[None]:
        yield lambda: 1 // 0

    with pytest.raises(ZeroDivisionError):
        drive(steps())


def test_steps_may_clean_up_after_a_cancellation() -> None:
    done: list[str] = []

    def steps() -> Steps[None]:
        try:
            yield Wait(60)
        except asyncio.CancelledError:
            yield Wait(0.001)
            done.append("cleaned")
            raise

    async def cancel() -> None:
        task = asyncio.create_task(run_async(steps()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert done == ["cleaned"]


def test_pauses_start_fine_and_stay_bounded() -> None:
    taken = [pause for pause, _ in zip(pauses(), range(50), strict=False)]
    assert taken[0] == 0.005
    assert taken == sorted(taken)
    assert taken[-1] == 0.25


# The order.


def _order(**changes: Any) -> Order:
    fields: dict[str, Any] = {
        "argv": ["true"],
        "name": "true",
        "log": Path("/tmp/log"),
        "env": {"PATH": "/bin:/usr/bin"},
        "cwd": Path("/"),
        "grace": 5.0,
        "max_log": None,
        "pid_file": None,
        "if_running": "stop",
    }
    return Order(**{**fields, **changes})


def test_a_program_is_looked_up_where_the_child_would(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "tool"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    by_path = _order(argv=["tool"], env={"PATH": str(program.parent)}, log=tmp_path / "log")
    by_folder = _order(argv=["bin/tool"], cwd=tmp_path, log=tmp_path / "log")
    assert by_path.fields("m")[6] == by_folder.fields("m")[6] == os.fsencode(program)
    with pytest.raises(MissingNeed, match="the program 'tool' was not found; needed tool on"):
        _order(argv=["tool"], log=tmp_path / "log").fields("m")
    with pytest.raises(InputError, match="does not exist"):
        _order(argv=["bin/tool"], log=tmp_path / "log").fields("m")


def test_marks_add_up_in_children_of_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIINFRA_PROCESS", "outer")
    assert b"AIINFRA_PROCESS=outer inner" in _order(log=tmp_path / "log").fields("inner")


def test_failures_of_the_reaper_are_explained() -> None:
    sentences = [str(_order().explain(step, 13)) for step in ("log", "cwd", "exec", "fork")]
    assert sentences == [
        "the log /tmp/log cannot be written; found Permission denied",
        "true cannot run in /; found Permission denied",
        "the program true cannot be executed; found Permission denied",
        "true could not be started: Permission denied",
    ]


def test_an_exit_status_is_said_in_words() -> None:
    assert fate(0) == "ended with exit status 0"
    assert fate(-11) == "was ended by SIGSEGV"
    assert fate(-63) == "was ended by signal 63"


# The log.


def test_the_log_rotates_without_losing_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = reaper.Log(os.fsencode(path), 200)
    for number in range(30):
        log.write(b"line %04d\n" % number)
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 200
    os.close(log.fd)
    kept = [*path.with_name("log.1").read_text().split("\n"), *path.read_text().split("\n")]
    numbers = [int(line[5:]) for line in kept if line]
    assert numbers == list(range(numbers[0], 30))
    assert len(numbers) > 10


def test_the_last_lines_span_a_rotation_of_this_run_only(tmp_path: Path) -> None:
    log, before = tmp_path / "log", tmp_path / "log.1"
    before.write_text("a\nb\n")
    log.write_text("c\n")
    assert read_tail(log, 2, since=0.0) == "b\nc"
    assert read_tail(log, 9, since=before.stat().st_mtime + 1) == "c"
    assert read_tail(log, 0, since=0.0) == ""
    assert read_tail(tmp_path / "none", 2, since=0.0) == ""


def test_the_last_lines_hold_no_control_characters(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\x1b[1;31mred\x1b[0m\x07 \xff\n10 %\r20 %\r\n\n\tt\xc3\xbcr " + b"x" * 900)
    lines = read_tail(log, 9, since=0.0).split("\n")
    assert lines[:3] == ["red \N{REPLACEMENT CHARACTER}", "10 %", "20 %"]
    assert lines[3] == "x" * 500


@given(st.binary(max_size=300))
def test_the_last_lines_of_anything_can_be_printed(data: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        text = read_tail(Path(file.name), 20, since=0.0)
    assert all(char in "\t\n" or char.isprintable() or ord(char) >= 0xA0 for char in text)
    assert text.count("\n") < 20


def test_a_log_is_followed_by_whole_lines_and_through_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = follow(log)
    assert next(lines) is None
    log.write_text("one\ntw")
    assert [next(lines), next(lines)] == ["one", None]
    with log.open("a") as file:
        file.write("o\nthree\n")
    log.rename(tmp_path / "log.1")
    log.write_text("four\n")
    assert [next(lines) for _ in range(4)] == ["two", "three", "four", None]
    lines.close()  # type: ignore[attr-defined]


def test_following_pauses_beside_a_loud_child(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 999 + b"\n" + b"y\n" * (4 << 20))
    lines = follow(log)
    assert None in {line for line, _ in zip(lines, range(2_100_000), strict=False)}
    lines.close()  # type: ignore[attr-defined]


# Pid files and trees.


def test_a_pid_file_is_read_back_and_removed_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text(describe(pid=os.getpid(), supervisor_pid=os.getppid(), mark="mine"))
    record = read_pid_file(path)
    assert record is not None
    assert record.start_time == psutil.Process().create_time()
    remove_pid_file(path, "another")
    assert path.exists()
    remove_pid_file(path, "mine")
    assert read_pid_file(path) is None
    path.touch()
    assert read_pid_file(path) is None


@pytest.mark.parametrize("text", ["1234", "no json", "{}", '{"pid": 1}', "[]", "null"])
def test_a_file_that_is_something_else_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pid"
    path.write_text(text)
    with pytest.raises(InputError, match="exists and is not a pid file of this program"):
        read_pid_file(path)
    assert path.read_text() == text


def test_a_process_is_known_by_pid_and_start() -> None:
    born = psutil.Process().create_time()
    assert tree.same_process(os.getpid(), born)
    assert tree.same_process(os.getpid(), born + tree.START_TOLERANCE / 2)
    assert not tree.same_process(os.getpid(), born + 2 * tree.START_TOLERANCE)
    ended = subprocess.Popen(["true"])
    assert tree.start_time(ended.pid) is None or ended.poll() is None
    ended.wait()
    assert not tree.same_process(ended.pid, born)


def test_a_mark_never_names_us_or_our_ancestors(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = os.urandom(16).hex()
    environment = {**os.environ, tree.MARK: f"other {mark}"}
    code = (
        "import sys; from aiinfra_lab.processes import tree; import subprocess\n"
        "kid = subprocess.Popen(['sleep', '60'])\n"
        "assert [process.pid for process in tree.marked(sys.argv[1])] == [kid.pid]\n"
        "assert tree.end(sys.argv[1]) == []\n"
        "assert kid.wait() is not None\n"
    )
    subprocess.run([sys.executable, "-c", code, mark], env=environment, check=True)


def test_the_listing_of_ps_is_understood() -> None:
    listing = b"""\
    1     0     1 Ss   /sbin/launchd
  812     1   812 S+   python x.py A=1 AIINFRA_PROCESS=aa bb
  813   812   812 Z    (python)
  814     1   814 R
"""
    assert list(reaper.parse_ps(listing, b"bb")) == [
        (1, 0, 1, False),
        (812, 1, 812, True),
        (814, 1, 814, False),
    ]
    assert not any(row[3] for row in reaper.parse_ps(listing, b""))


def test_the_process_table_shows_this_process() -> None:
    rows = {row[0]: row for row in reaper.read_table(b"")}
    assert rows[os.getpid()] == (os.getpid(), os.getppid(), os.getpgrp(), False)


# Probes.


def test_probes_say_what_they_wait_for() -> None:
    probes = [
        PortOpen(80),
        HttpAnswers("http://h/x"),
        HttpAnswers("http://h/x", status=204),
        PortBound(),
        LogLine(r"port (\d+)"),
        FileText("port.txt"),
    ]
    assert list(map(str, probes)) == [
        "TCP port 80 on 127.0.0.1",
        "http://h/x to answer",
        "http://h/x to answer 204",
        "a TCP port to listen on",
        r"a line like 'port (\\d+)' in its log",
        "the file port.txt",
    ]


@pytest.fixture
def broken_server() -> Iterator[int]:
    """A port whose server answers with something that is not HTTP."""
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"what?\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_an_answer_that_is_not_http_is_not_yet_ready(tmp_path: Path, broken_server: int) -> None:
    child = Child(["true"], log=tmp_path / "log")
    assert HttpAnswers(f"http://127.0.0.1:{broken_server}/", own=False).watch(child)() is None
