"""Nothing is left running: however a child behaves, and however its parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from processes_family import (
    PROGRAMS,
    PYTHON,
    WALL,
    Family,
    alive,
    eventually,
    kill_script,
    make_family,
    read_until,
)

from aiinfra_lab.errors import ProcessError
from aiinfra_lab.processes import Child, LogLine, pidfile, supervisor
from aiinfra_lab.processes import life as life_module
from aiinfra_lab.processes.steps import Steps, run


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    for family in make_family(tmp_path):
        monkeypatch.setenv("TEST_FAMILY", family.token)
        yield family


@pytest.fixture(params=["linux", "portable"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With all that Linux has, and with only what macOS has too."""
    world: str = request.param
    if world == "portable":
        monkeypatch.setattr(supervisor, "_MORE_WORDS", ["portable"])
    return world


def started(family: Family, program: str, **options: object) -> Child:
    """A child that has printed "up"."""
    options = {"log": family.folder / f"{program}.log", "name": program, **options}
    child = Child(family.argv(program), **options).start()  # type: ignore[arg-type]
    child.ready(LogLine("^up$"))
    if program == "daemon":
        child.ready(LogLine(r"^daemon \d+ up$"))
    return child


def reaper_of(child: Child) -> psutil.Process:
    process = psutil.Process(child.pid).parent()
    assert process is not None
    assert "import reaper" in " ".join(process.cmdline())
    return process


# How children behave.


def test_every_kind_of_child_is_ended(family: Family, world: str) -> None:
    kinds = [kind for kind in PROGRAMS if (kind, world) != ("stranger", "portable")]
    children = {kind: started(family, kind, grace=0.3) for kind in kinds}
    # Reapers, children, and what they started.
    assert len(family.living()) >= 2 * len(kinds) + 3
    threads = [threading.Thread(target=child.stop) for child in children.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not family.living()
    assert children["polite"].returncode == -signal.SIGTERM
    assert children["stubborn"].returncode == -signal.SIGKILL
    assert children["forking"].returncode == -signal.SIGKILL
    assert all(child.stop() == child.returncode for child in children.values())


def test_what_a_child_leaves_behind_ends_with_it(family: Family, world: str) -> None:
    code = "if os.fork() == 0: stubborn(); sleep()\ndaemonise(); time.sleep(0.1); sys.exit(3)"
    with Child(family.argv(code), log=family.folder / "log", grace=0.2) as child:
        assert child.wait() == 3
        assert not family.living()


def test_a_group_gets_one_term_and_time_to_end_in_order(family: Family) -> None:
    # The worker ignores nothing: it must be ended by its server, not beside it.
    code = """
        def end(*_):
            say('server: TERM'); os.kill(worker, signal.SIGTERM); os.wait()
            say('server: end'); sys.exit(5)
        def end_worker(*_):
            say('worker: TERM'); time.sleep(0.1); say('worker: end'); os._exit(0)
        worker = os.fork()
        if worker == 0:
            os.setsid(); signal.signal(signal.SIGTERM, end_worker); say('worker up'); sleep()
        signal.signal(signal.SIGTERM, end)
        say('up'); sleep()
    """
    child = started(family, code, log=family.folder / "log", name="server")
    child.ready(LogLine("worker up"))
    assert child.stop() == 5
    said = [line for line in child.tail().splitlines() if ":" in line]
    assert said == ["server: TERM", "worker: TERM", "worker: end", "server: end"]


def test_the_whole_group_gets_term(family: Family) -> None:
    code = """
        def end(*_):
            say('member: TERM'); os._exit(0)
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, end); say('member up')
        else:
            say('up')
        sleep()
    """
    child = started(family, code, log=family.folder / "log", name="server")
    child.ready(LogLine("member up"))
    child.stop()
    assert child.tail(1) == "member: TERM"


def test_an_orphan_gets_term_before_kill(family: Family, world: str) -> None:
    code = """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                def end(*_):
                    say('daemon: TERM'); time.sleep(0.1); say('daemon: end'); os._exit(0)
                signal.signal(signal.SIGTERM, end); say('daemon up'); sleep()
            os._exit(0)
        os.wait(); say('up'); sleep()
    """
    child = started(family, code, log=family.folder / "log", name="server")
    child.ready(LogLine("daemon up"))
    assert child.stop() == -signal.SIGTERM
    assert child.tail(2).splitlines() == ["daemon: TERM", "daemon: end"]


def test_a_stopped_child_takes_term(family: Family) -> None:
    child = started(family, "polite")
    child.send_signal(signal.SIGSTOP)
    assert eventually(lambda: psutil.Process(child.pid).status() == psutil.STATUS_STOPPED)
    assert child.stop() == -signal.SIGTERM


def test_signals_blocked_or_ignored_by_the_parent_are_not_inherited(family: Family) -> None:
    script = family.script(
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD, signal.SIGINT])
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        with Child(argv("say('up'); sleep()"), log=folder + "/a") as a:
            a.ready(LogLine("up")); print("status", a.stop())
        with Child(argv("say('up'); sleep()"), log=folder + "/b") as b:
            b.ready(LogLine("up")); b.send_signal(signal.SIGUSR1); print("status", b.wait())
        """
    )
    assert read_until(script, "status") == f"status {-signal.SIGTERM}"
    assert read_until(script, "status") == f"status {-signal.SIGUSR1}"
    assert script.communicate() == ("", None)


# How parents end.


def test_a_killed_parent_leaves_nothing(family: Family) -> None:
    code = """
        kind, place = words[0], "-".join([folder + "/", *words])
        supervisor._MORE_WORDS += words[1:]
        child = Child(argv(programs[kind]), log=place, pid_file=place + ".pid", grace=0.3).start()
        child.ready(LogLine("^up$"))
        print("started", flush=True)
        time.sleep(60)
    """
    wanted = [*((kind,) for kind in PROGRAMS), ("forking", "portable"), ("daemon", "portable")]
    scripts = [family.script(code, *words) for words in wanted]
    for script in scripts:
        read_until(script, "started")
    assert len(list(family.folder.glob("*.pid"))) == len(scripts)
    for script in scripts:
        kill_script(script)
    assert family.gone()
    assert not list(family.folder.glob("*.pid"))


def test_a_parent_killed_while_it_starts_a_child_leaves_nothing(family: Family) -> None:
    scripts = [
        family.script(
            """
            code = argv("daemonise(); say('up'); sleep()")
            child = Child(code, log=f"{folder}/{words[0]}", grace=0.1,
                          pid_file=f"{folder}/{words[0]}.pid")
            print("go", flush=True)
            child.start()
            time.sleep(60)
            """,
            str(number),
        )
        for number in range(10)
    ]
    for number, script in enumerate(scripts):
        read_until(script, "go")
        time.sleep(0.006 * number)
        kill_script(script)
    assert family.gone()


def test_a_forked_copy_that_holds_the_socket_does_not_hide_the_death(family: Family) -> None:
    # A fork in C runs none of Python's hooks: the copy keeps the parent's end open.
    scripts = [
        family.script(
            """
            import ctypes
            supervisor._MORE_WORDS += words
            log = "-".join([folder + "/log", *words])
            child = Child(argv("say('up'); sleep()"), log=log).start()
            child.ready(LogLine("up"))
            copy = ctypes.PyDLL(None).fork()
            if copy:
                print("pids", child.pid, copy, flush=True)
            time.sleep(60)
            """,
            *words,
        )
        for words in ([], ["portable"])
    ]
    for script in scripts:
        child, copy = map(int, read_until(script, "pids").split()[1:])
        script.kill()
        script.wait()
        assert eventually(lambda child=child: not alive(child))  # type: ignore[misc]
        assert alive(copy)
        os.kill(copy, signal.SIGKILL)
        assert script.stdout is not None
        script.stdout.close()


def test_ctrl_c_during_start_leaves_nothing(family: Family) -> None:
    scripts = [
        family.script(
            """
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                print("go", flush=True)
                while True:
                    with Child(argv("daemonise(); sleep()"), log=f"{folder}/{words[0]}",
                               grace=0.1, pid_file=f"{folder}/{words[0]}.pid"):
                        pass
            except KeyboardInterrupt:
                print("interrupted", flush=True)
                time.sleep(60)
            """,
            str(number),
        )
        for number in range(8)
    ]
    for number, script in enumerate(scripts):
        read_until(script, "go")
        time.sleep(0.01 * number)
        script.send_signal(signal.SIGINT)
    # Python itself loses an interrupt that strikes in a callback of its import system.
    again = threading.Timer(3.0, lambda: [script.send_signal(signal.SIGINT) for script in scripts])
    again.start()
    for script in scripts:
        read_until(script, "interrupted")
    again.cancel()
    # The parents still live: their own cleaning must have done it.
    alone = eventually(lambda: len(family.living()) == len(scripts))
    for script in scripts:
        kill_script(script)
    assert alone
    assert not list(family.folder.glob("*.pid"))


def test_an_interrupt_at_any_point_of_a_start_leaves_nothing(family: Family) -> None:
    class Struck(BaseException):
        """As KeyboardInterrupt, which pytest takes for itself."""

    env = {**os.environ, **{f"LARGE_{number}": "x" * 100_000 for number in range(4)}}
    points = 0
    while True:
        child = Child(
            family.argv("daemonise(); sleep()"),
            log=family.folder / "log",
            pid_file=family.folder / "pid",
            env=env,
            grace=0.1,
        )
        steps = child._life.begin()
        try:
            step = next(steps)
            for _ in range(points):
                answer = step() if callable(step) else time.sleep(0.005)
                step = steps.send(answer)
        except StopIteration:
            break
        began = time.monotonic()
        with pytest.raises(Struck):
            run(_thrown(steps, Struck()))
        assert time.monotonic() - began < WALL
        assert not family.living()
        assert not (family.folder / "pid").exists()
        points += 1
    child.stop()
    assert points > 5


def _thrown(steps: Steps[None], error: BaseException) -> Steps[None]:
    step = steps.throw(error)
    while True:
        step = steps.send((yield step))


def test_an_interrupt_right_after_a_start_leaves_nothing(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Struck(BaseException):
        pass

    def strike(fd: int) -> None:
        os.close(fd)
        raise Struck

    fake = type("os", (), {**vars(os), "close": staticmethod(strike)})
    monkeypatch.setattr(pidfile, "os", fake)
    child = Child(
        family.argv("daemon"), log=family.folder / "log", pid_file=family.folder / "pid", grace=0.1
    )
    with pytest.raises(Struck):
        child.start()
    assert child.pid is not None
    assert not family.living()


def test_two_interrupts_leave_nothing(family: Family) -> None:
    script = family.script(
        """
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            code = argv("stubborn(); say('up'); sleep()")
            with Child(code, log=folder + "/log", grace=1) as child:
                child.ready(LogLine("up"))
                print("go", flush=True)
                time.sleep(60)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    read_until(script, "go")
    script.send_signal(signal.SIGINT)
    time.sleep(0.1)
    script.send_signal(signal.SIGINT)
    read_until(script, "interrupted")
    assert script.wait() == 0
    assert family.gone()
    assert script.communicate() == ("", None)


def test_ctrl_c_at_the_terminal_does_not_reach_the_child(family: Family) -> None:
    script = family.script(
        """
        signal.signal(signal.SIGINT, signal.default_int_handler)
        child = Child(argv("say('up'); sleep()"), log=folder + "/log").start()
        child.ready(LogLine("up"))
        alone = os.getsid(child.pid) == child.pid == os.getpgid(child.pid)
        try:
            print("session", alone, flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(0.2)
            print("status", child.returncode, flush=True)
        """
    )
    assert read_until(script, "session") == "session True"
    os.killpg(script.pid, signal.SIGINT)
    assert read_until(script, "status") == "status None"
    assert script.communicate() == ("", None)


def test_a_parent_that_forgets_its_child_ends_it_at_its_exit(family: Family) -> None:
    script = family.script(
        """
        Child(argv("stubborn(); say('up'); sleep()"), log=folder + "/log", grace=0.2).start()
        print("forgotten", flush=True)
        """
    )
    read_until(script, "forgotten")
    assert script.communicate() == ("", None)
    # Not "soon": the exit itself waited.
    assert not family.living()


def test_a_forked_copy_of_the_parent_stops_nothing(family: Family) -> None:
    script = family.script(
        """
        child = Child(argv("say('up'); sleep()"), log=folder + "/log").start()
        child.ready(LogLine("up"))
        copy = os.fork()
        if copy == 0:
            with child.__class__(argv("sleep()"), log=folder + "/own") as own:
                assert own.pid != child.pid
            assert child.stop() is None and child.returncode is None
            sys.exit(7)
        print("copy", os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]))
        time.sleep(0.2)
        print("status", child.returncode, child.stop())
        """
    )
    assert read_until(script, "copy") == "copy 7"
    assert read_until(script, "status") == f"status None {-signal.SIGTERM}"
    assert script.communicate() == ("", None)


def test_the_thread_that_started_a_child_may_end(family: Family) -> None:
    children: list[Child] = []
    thread = threading.Thread(target=lambda: children.append(started(family, "polite")))
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert children[0].returncode is None
    assert children[0].stop() == -signal.SIGTERM


def test_a_child_may_have_children_of_its_own(family: Family) -> None:
    # A supervised parent: the outer child is killed, or its own parent ends it.
    inner = """
        child = Child(argv("def end(*_): say('inner: TERM')\\n"
                           "signal.signal(signal.SIGTERM, end)\\n"
                           "say('up'); time.sleep(60); time.sleep(60)"),
                      log=f"{folder}/{words[0]}", grace=0.3).start()
        child.ready(LogLine("up")); print("up", flush=True); time.sleep(60)
    """
    commands = [family.script_argv(inner, str(number)) for number in range(2)]
    killed, stopped = (
        Child(command, log=family.folder / f"outer{number}").start()
        for number, command in enumerate(commands)
    )
    killed.ready(LogLine("^up$"))
    stopped.ready(LogLine("^up$"))
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert stopped.stop() == -signal.SIGTERM
    assert not family.living()
    for number in range(2):
        assert (family.folder / str(number)).read_text() == "up\ninner: TERM\n"


# When the reaper itself is attacked.


def test_a_killed_reaper_takes_the_child_along(family: Family) -> None:
    child = started(family, "daemon", pid_file=family.folder / "pid")
    pid = child.pid
    reaper_of(child).kill()
    # The kernel's doing: nobody has called anything.
    assert eventually(lambda: not alive(pid))
    assert len(family.living()) == 1
    with pytest.raises(ProcessError, match=r"ended by SIGKILL \(its supervisor was killed\)"):
        child.wait(check=True)
    assert not family.living()
    assert not (family.folder / "pid").exists()
    assert child.stop() == -signal.SIGKILL


def test_a_reaper_killed_during_start_is_an_error(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_COMMAND", ["/bin/sh", "-c", "exit 1"])
    with pytest.raises(ProcessError, match="its supervisor is silent"):
        Child(family.argv("polite"), log=family.folder / "log").start()
    monkeypatch.setattr(supervisor, "_COMMAND", ["/no/such/python"])
    with pytest.raises(ProcessError, match="supervisor cannot be started: No such file"):
        Child(family.argv("polite"), log=family.folder / "log").start()


def test_processes_that_cannot_be_ended_are_named(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, sys; os.write(int(sys.argv[1]), b'started 7\\nexited -9\\nleft 7 8\\ngone\\n')"
    )
    monkeypatch.setattr(supervisor, "_COMMAND", [*PYTHON, code])
    child = Child(["true"], log=family.folder / "log").start()
    with pytest.raises(ProcessError, match="true: could not end the processes 7 8"):
        child.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_reaper_asked_to_end_ends_its_child_first(family: Family, number: int) -> None:
    child = started(family, "daemon", grace=0.2)
    reaper_of(child).send_signal(number)
    assert child.wait(timeout=10) == -signal.SIGTERM
    assert not family.living()


def test_a_reaper_that_does_not_answer_is_killed(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life_module, "END_WALL", 0.2)
    child = started(family, "daemon", grace=0.1)
    reaper_of(child).suspend()
    assert child.stop() == -signal.SIGKILL
    assert not family.living()


# Order and company.


def test_an_exception_in_the_block_ends_the_child(family: Family) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        Child(family.argv("polite"), log=family.folder / "log") as child,
    ):
        raise ZeroDivisionError
    assert child.returncode == -signal.SIGTERM
    assert not family.living()


def test_an_exit_stack_ends_children_in_reverse_order(family: Family) -> None:
    code = """
        def end(*_):
            os.write(fd, f"{name}\\n".encode()); os._exit(0)
        name = os.environ['NAME']
        fd = os.open(os.environ['ORDER'], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        signal.signal(signal.SIGTERM, end); say('up'); sleep()
    """
    order = family.folder / "order"
    with ExitStack() as stack:
        for name in ("store", "server", "client"):
            env = {**os.environ, "NAME": name, "ORDER": str(order)}
            log = family.folder / f"{name}.log"
            child = stack.enter_context(Child(family.argv(code), log=log, env=env))
            child.ready(LogLine("up"))
    assert order.read_text().split() == ["client", "server", "store"]


def test_another_thread_may_stop_a_child_that_is_waited_for(family: Family) -> None:
    waited, hoped = started(family, "polite"), started(family, "stubborn", grace=0.1)
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(waited.wait())),
        threading.Thread(target=lambda: results.append(str(_error(hoped)))),
        *(threading.Thread(target=child.stop) for child in (waited, hoped) for _ in range(3)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not family.living()
    assert -signal.SIGTERM in results
    assert any("was ended by SIGKILL before it was ready" in str(result) for result in results)


def _error(child: Child) -> ProcessError:
    with pytest.raises(ProcessError) as caught:
        child.ready(LogLine("never"))
    return caught.value


def test_twenty_children_at_once(family: Family) -> None:
    children: list[Child] = []
    threads = [
        threading.Thread(
            target=lambda number=number: children.append(  # type: ignore[misc]
                started(family, "polite", log=family.folder / f"{number}.log")
            )
        )
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({child.pid for child in children}) == 20
    assert len(family.living()) == 40
    threads = [threading.Thread(target=child.stop) for child in children]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not family.living()
    assert {child.returncode for child in children} == {-signal.SIGTERM}


def test_a_reaper_rests_while_its_child_works(family: Family) -> None:
    # A child that closed its output must not make the reaper spin.
    child = started(
        family,
        "say('up'); os.close(1); os.close(2); sleep()",
        log=family.folder / "log",
        name="quiet",
    )
    reaper = reaper_of(child)
    before = sum(reaper.cpu_times()[:2])
    time.sleep(0.5)
    assert sum(reaper.cpu_times()[:2]) - before < 0.05
    child.stop()


def test_no_zombie_is_left(family: Family) -> None:
    with Child(family.argv("polite"), log=family.folder / "log"):
        pass
    mine = psutil.Process().children()
    assert not [process for process in mine if process.status() == psutil.STATUS_ZOMBIE]


def test_subprocess_is_left_alone(family: Family) -> None:
    with Child(family.argv("polite"), log=family.folder / "log"):
        assert subprocess.run(["true"], check=False).returncode == 0
