"""A child starts and becomes ready, or says why not; its log and its pid file keep their word."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes_family import WALL, Family, eventually, kill_script, make_family, read_until

from aiinfra_lab.errors import InputError, MissingNeed, ProcessError
from aiinfra_lab.files import write_json
from aiinfra_lab.processes import (
    Child,
    FileText,
    HttpAnswers,
    LogLine,
    PortBound,
    PortOpen,
    pidfile,
)

SERVER = """
import http.server
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print("port", server.server_port)
server.serve_forever()
"""


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    for family in make_family(tmp_path):
        monkeypatch.setenv("TEST_FAMILY", family.token)
        yield family


# Ready.


def test_a_server_on_port_0_is_found_in_four_ways(family: Family) -> None:
    code = SERVER.replace("print(", "open('port', 'w').write(f'{server.server_port}\\n');print(")
    with Child(family.argv(code), log=family.folder / "log", cwd=family.folder) as child:
        port = int(child.ready(LogLine(r"^port (\d+)$"))[1])
        assert child.ready(PortBound()) == port
        assert child.ready(PortOpen(port)) == port
        assert child.ready(HttpAnswers(f"http://127.0.0.1:{port}/log?x=1")) == 200
        assert child.ready(HttpAnswers(f"http://127.0.0.1:{port}/no", status=404)) == 404
        assert int(child.ready(FileText(family.folder / "port", r"(\d+)\n"))[1]) == port
        assert child.ports() == [port]
        with pytest.raises(ProcessError, match=r"waited for http://127.0.0.1:\d+/no to answer"):
            child.ready(HttpAnswers(f"http://127.0.0.1:{port}/no"), timeout=0.1)


def test_anothers_port_does_not_make_a_child_ready(family: Family) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with Child(family.argv("polite"), log=family.folder / "log") as child:
            with pytest.raises(ProcessError, match=f"waited for TCP port {port} on 127.0.0.1"):
                child.ready(PortOpen(port), timeout=0.2)
            assert child.ready(PortOpen(port, own=False)) == port


def test_a_child_that_dies_says_its_last_words_at_once(family: Family) -> None:
    code = "say('\\x1b[31mno such model\\x1b[0m'); print('why', file=sys.stderr); sys.exit(7)"
    began = time.monotonic()
    with Child(family.argv(code), name="trainer", log=family.folder / "log") as child:
        with pytest.raises(ProcessError) as caught:
            child.ready(PortOpen(1), timeout=60)
        assert str(caught.value) == (
            "trainer ended with exit status 7 before it was ready; "
            "waited for TCP port 1 on 127.0.0.1\nno such model\nwhy"
        )
        assert caught.value.returncode == 7
        with pytest.raises(ProcessError, match="trainer ended with exit status 7"):
            child.wait(check=True)
    assert time.monotonic() - began < WALL


def test_a_callable_is_asked_until_it_says_yes(family: Family) -> None:
    answers = iter([None, False, OSError("refused"), "yes"])

    def ask() -> str | None:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer or None

    with Child(family.argv("polite"), log=family.folder / "log") as child:
        assert child.ready(ask) == "yes"
        with pytest.raises(ProcessError, match=r"within 0.05 s; waited for the moon \(No such"):
            child.ready(lambda: Path("/no/such").stat(), timeout=0.05, what="the moon")
        with pytest.raises(ZeroDivisionError):
            child.ready(lambda: 1 // 0)
        with pytest.raises(ProcessError, match=r"still runs after 0\.05 s"):
            child.wait(timeout=0.05)


def test_a_file_from_before_the_start_does_not_count(family: Family) -> None:
    path = family.folder / "port"
    path.write_text("1\n")
    os.utime(path, (time.time() - 10,) * 2)
    with Child(family.argv("polite"), log=family.folder / "log") as child:
        with pytest.raises(ProcessError, match="waited for the file"):
            child.ready(FileText(path), timeout=0.1)
        path.write_text("2\n")
        assert child.ready(FileText(path))[0] == "2\n"


# Refused, with one sentence.


def test_what_cannot_be_started_is_refused_and_leaves_nothing(family: Family) -> None:
    folder = family.folder
    (folder / "text").write_text("no program")
    (folder / "text").chmod(0o755)
    (folder / "plain").write_text("")
    log = folder / "log"
    cases: list[tuple[list[str], dict[str, object], type[Exception], str]] = [
        (["no-such-program"], {}, MissingNeed, "the program 'no-such-program' was not found; need"),
        (["/no/such"], {}, InputError, "the program /no/such does not exist"),
        ([str(folder)], {}, InputError, "cannot be executed"),
        ([str(folder / "plain")], {}, InputError, "cannot be executed"),
        ([str(folder / "text")], {}, InputError, "cannot be executed; found Exec format error"),
        (["true"], {"cwd": folder / "no"}, InputError, "true cannot run in .*/no"),
        (["true"], {"log": folder / "plain" / "log"}, InputError, "the log .* cannot be written"),
        (["true"], {"log": folder}, InputError, "the log .* cannot be written; found Is a dir"),
        (["true"], {"log": "/proc/no/log"}, InputError, "the log /proc/no/log cannot be written"),
        (["true", "a\0b"], {}, InputError, "holds a zero byte"),
        (["true"], {"env": {"A=B": "secret"}}, InputError, "holds '='$"),
        ([], {}, InputError, "a list of words"),
        (["true"], {"grace": -1}, InputError, "grace is -1"),
        (["true"], {"max_log": 10}, InputError, "max_log is 10 bytes; at least 131072"),
        (["true"], {"pid_file": folder / "text"}, InputError, "is not a pid file"),
        (["true"], {"pid_file": folder / "plain" / "x"}, InputError, "cannot be used"),
        (
            ["sleep", "9"],
            {"pid_file": "/proc/x"},
            InputError,
            "the pid file /proc/x cannot be written",
        ),
    ]
    began = time.monotonic()
    for argv, options, kind, sentence in cases:
        with pytest.raises(kind, match=sentence):
            Child(argv, **{"log": log, "grace": 60, **options}).start()  # type: ignore[arg-type]
        assert not family.living()
    assert time.monotonic() - began < 30, "a refusal must not wait for the grace"
    assert (folder / "text").read_text() == "no program"
    assert {path.name for path in folder.iterdir()} <= {"text", "plain", "log", "log.1"}


def test_a_child_is_started_once(family: Family) -> None:
    child = Child(["true"], log=family.folder / "log")
    assert child.stop() is None
    assert child.returncode is None
    with pytest.raises(RuntimeError, match="true has not been started"):
        child.wait()
    assert child.start().wait() == 0
    with pytest.raises(RuntimeError, match="make a new Child"):
        child.start()
    assert child.stop() == 0


def test_words_and_variables_arrive_unchanged(family: Family) -> None:
    words = ["", "ü\udcff", "a b\n", "$HOME"]
    env = {"PATH": os.environ["PATH"], "ODD": "x=y\n\udcfe", "EMPTY": ""}
    code = "import json; say(json.dumps([sys.argv[2:], dict(os.environ), os.getcwd()]))"
    child = Child([*family.argv(code), *words], log=family.folder / "log", env=env, cwd="/")
    assert child.start().wait(check=True) == 0
    argv, environ, cwd = json.loads(child.log.read_text())
    mark = environ.pop("AIINFRA_PROCESS")
    environ.pop("LC_CTYPE", None)  # what Python itself sets in a C locale
    assert (argv, environ, cwd) == (words, {**env, "PYTHONUNBUFFERED": "1"}, "/")
    assert len(mark) == 32


def test_a_large_environment_arrives(family: Family) -> None:
    env = {**os.environ, **{f"LARGE_{number}": "x" * 100_000 for number in range(8)}}
    code = "say(str(sum(map(len, os.environ.values())) > 800_000))"
    with Child(family.argv(code), log=family.folder / "log", env=env) as child:
        assert child.wait(check=True) == 0
        assert child.tail() == "True"


# The log.


def test_a_loud_child_fills_neither_memory_nor_disk_and_is_not_held_up(family: Family) -> None:
    limit = 1 << 20
    code = """
        line = b"x" * 99 + b"\\n"
        for _ in range(300): os.write(1, line * 1000)
        say("all said")
        while True: os.write(1, line)
    """
    with Child(family.argv(code), log=family.folder / "log", max_log=limit, grace=0.2) as child:
        with pytest.raises(ProcessError, match="waited for a line like 'never'"):
            child.ready(LogLine("never"), timeout=0.5)
        # It wrote 30 MB and went on.
        assert eventually(lambda: (child.log.with_name("log.1")).exists())
        reaper = psutil.Process(child.pid).parent()
        assert reaper is not None
        assert reaper.memory_info().rss < 60 << 20
        assert child.tail(3).splitlines()[0] == "x" * 99
        for _ in range(20):
            with contextlib.suppress(FileNotFoundError):  # between a rename and the new file
                size = sum(path.stat().st_size for path in family.folder.glob("log*"))
                assert size <= limit
    assert not family.living()
    assert sum(path.stat().st_size for path in family.folder.glob("log*")) <= limit


def test_every_byte_of_output_arrives_in_order(family: Family) -> None:
    code = """
        for number in range(20_000):
            os.write(1 + number % 2, f"{number}\\n".encode())
    """
    with Child(family.argv(code), log=family.folder / "log") as child:
        child.wait(check=True)
    assert child.log.read_text().split() == [str(number) for number in range(20_000)]


def test_the_log_of_the_run_before_is_kept(family: Family) -> None:
    for text in ("one", "two", "three"):
        Child(["echo", text], log=family.folder / "log").start().wait(check=True)
    assert (family.folder / "log").read_text() == "three\n"
    assert (family.folder / "log.1").read_text() == "two\n"


def test_a_device_as_log_is_left_in_place(family: Family) -> None:
    for device in (Path("/dev/null"), Path("/dev/full")):
        before = device.stat()
        child = Child(["sh", "-c", "echo lost && exit 4"], log=device)
        assert child.start().wait() == 4
        assert device.stat().st_rdev == before.st_rdev
        assert not device.with_name(device.name + ".1").exists()


def test_the_log_is_for_its_owner_alone(family: Family) -> None:
    Child(["echo", "token"], log=family.folder / "log").start().wait()
    assert (family.folder / "log").stat().st_mode & 0o777 == 0o600


def test_no_secret_of_the_environment_is_shown(family: Family) -> None:
    env = {**os.environ, "PASSWORD": "hunter2"}
    child = Child(family.argv("sys.exit(1)"), log=family.folder / "log", env=env).start()
    with pytest.raises(ProcessError) as caught:
        child.wait(check=True)
    assert "hunter2" not in str(caught.value) + repr(caught.value) + repr(child)


# Pid files.


def test_a_pid_file_stands_while_the_child_runs(family: Family) -> None:
    path = family.folder / "run" / "child.pid"
    with Child(family.argv("polite"), log=family.folder / "log", pid_file=path) as child:
        record = json.loads(path.read_text())
        assert record["pid"] == child.pid
        assert record["start_time"] == psutil.Process(child.pid).create_time()
    assert not path.exists()
    assert not list(path.parent.iterdir())


def test_a_pid_file_that_somebody_replaced_is_not_removed(family: Family) -> None:
    path = family.folder / "pid"
    with Child(family.argv("polite"), log=family.folder / "log", pid_file=path):
        path.write_text("of another")
    assert path.read_text() == "of another"


def test_a_child_that_ends_at_once_needs_no_pid_file(family: Family) -> None:
    path = family.folder / "pid"
    children = [Child(["true"], log=family.folder / f"{n}", pid_file=path) for n in range(15)]
    assert [child.start().wait() for child in children] == [0] * 15
    assert not path.exists()


def test_what_a_killed_reaper_and_a_killed_parent_left_is_ended_by_the_next_start(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pidfile, "OTHERS_GRACE", 0.2)
    script = family.script(
        """
        child = Child(argv(programs["daemon"]), log=folder + "/log", pid_file=folder + "/pid")
        child.start().ready(LogLine("^daemon .* up$"))
        print("pids", child._life.supervisor.pid, flush=True)
        time.sleep(60)
        """
    )
    reaper = psutil.Process(int(read_until(script, "pids").split()[1]))
    script.send_signal(signal.SIGSTOP)  # so that it cannot clean when it sees its reaper go
    reaper.kill()
    kill_script(script)
    assert eventually(lambda: len(family.living()) == 1), "the daemon alone survives"
    with Child(family.argv("polite"), log=family.folder / "log", pid_file=family.folder / "pid"):
        assert len(family.living()) == 2, "the new child and its reaper"


def test_a_reused_pid_is_not_touched(family: Family) -> None:
    path = family.folder / "pid"
    with Child(family.argv("polite"), log=family.folder / "bystander") as bystander:
        assert bystander.pid is not None
        born = psutil.Process(bystander.pid).create_time()
        other = {"start_time": born - 100, "mark": "f" * 32}
        other |= {"supervisor_pid": bystander.pid, "supervisor_start_time": born + 100}
        write_json(path, {"pid": bystander.pid, **other})
        for choice in ("stop", "refuse"):
            with Child(
                ["sleep", "60"],
                log=family.folder / "log",
                pid_file=path,
                if_running=choice,  # type: ignore[arg-type]
            ):
                assert bystander.returncode is None


def test_a_child_that_runs_is_refused_or_stopped_in_order(family: Family) -> None:
    path, log = family.folder / "pid", family.folder / "log"
    script = family.script(
        """
        code = "def end(*_): say('TERM'); sys.exit(9)\\nsignal.signal(signal.SIGTERM, end)\\n"
        code = argv(code + "say('up'); sleep()")
        child = Child(code, log=folder + "/old", pid_file=folder + "/pid").start()
        child.ready(LogLine("^up$"))
        print("started", flush=True)
        print("status", child.wait())
        """
    )
    read_until(script, "started")
    with pytest.raises(InputError, match=r"server is already running as process \d+. Stop it"):
        Child(["true"], name="server", log=log, pid_file=path, if_running="refuse").start()
    assert path.exists()
    with Child(family.argv("polite"), log=log, pid_file=path):
        assert read_until(script, "status") == "status 9"
        assert path.exists(), "the old reaper must not remove the new child's file"
        script.communicate()
    assert (family.folder / "old").read_text() == "up\nTERM\n"
    assert not path.exists()


def test_a_second_start_in_one_program_ends_the_first(family: Family) -> None:
    path = family.folder / "pid"
    with Child(family.argv("daemon"), log=family.folder / "a", pid_file=path, grace=0.1) as first:
        first.ready(LogLine("^up$"))
        with Child(family.argv("polite"), log=family.folder / "b", pid_file=path) as second:
            assert first.returncode == -signal.SIGTERM
            assert len(family.living()) == 2
            assert second.returncode is None
            first.stop()
            assert path.exists()
    assert not path.exists()


def test_two_starts_with_one_pid_file_do_not_both_win(family: Family) -> None:
    children = [
        Child(
            family.argv("polite"),
            log=family.folder / f"{number}.log",
            pid_file=family.folder / "pid",
            if_running="refuse",
        )
        for number in range(4)
    ]
    refused: list[InputError] = []

    def start(child: Child) -> None:
        try:
            child.start()
        except InputError as error:
            refused.append(error)

    threads = [threading.Thread(target=start, args=[child]) for child in children]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    assert len(family.living()) == 2
    for child in children:
        child.stop()


# On an event loop.


def test_the_loop_goes_on_while_children_start_and_end(family: Family) -> None:
    turns = 0

    def block() -> str | None:
        before = turns
        time.sleep(0.1)
        return "in a thread" if turns > before else "on the loop"

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    async def one(number: int) -> int | None:
        async with Child(
            family.argv("stubborn"),
            log=family.folder / str(number),
            pid_file=family.folder / f"{number}.pid",
            grace=0.3,
        ) as child:
            await child.ready_async(LogLine("^up$"))

            async def later() -> bool:
                return turns > 20

            assert await child.ready_async(later)
            assert await child.ready_async(block) == "in a thread"
            with pytest.raises(ProcessError, match="still runs"):
                await child.wait_async(timeout=0.01)
        return child.returncode

    async def all_of_them() -> list[int | None]:
        counting = asyncio.create_task(count())
        try:
            return await asyncio.gather(*(one(number) for number in range(5)))
        finally:
            counting.cancel()

    assert asyncio.run(all_of_them()) == [-signal.SIGKILL] * 5
    assert turns > 50
    assert not family.living()


def test_a_cancelled_start_leaves_nothing(family: Family) -> None:
    async def cancel_after(seconds: float) -> None:
        child = Child(
            family.argv("daemon"),
            log=family.folder / f"{seconds}",
            pid_file=family.folder / f"{seconds}.pid",
            grace=0.1,
        )
        task = asyncio.create_task(child.start_async())
        await asyncio.sleep(seconds)
        if not task.cancel():
            await child.stop_async()
            return
        with pytest.raises(asyncio.CancelledError):
            await task
        if child.pid is not None:
            assert child.returncode is not None, "cancelled, and yet not ended"

    async def all_of_them() -> None:
        await asyncio.gather(*(cancel_after(0.007 * number) for number in range(12)))

    asyncio.run(all_of_them())
    assert not family.living()
    assert not list(family.folder.glob("*.pid"))


def test_a_start_whose_loop_is_abandoned_leaves_nothing(family: Family) -> None:
    child = Child(family.argv("daemon"), log=family.folder / "log", grace=0.1)
    steps = child.start_async()
    loop = asyncio.new_event_loop()
    task = loop.create_task(steps)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    steps.close()
    assert family.gone()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    child.stop()


def test_the_blocking_calls_work_beside_a_running_loop(family: Family) -> None:
    async def cell() -> int | None:
        with Child(family.argv("polite"), log=family.folder / "log") as child:
            child.ready(LogLine("up"))
        return child.returncode

    assert asyncio.run(cell()) == -signal.SIGTERM
