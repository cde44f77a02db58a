"""The container runtime: what it runs, how that ends, and what it tells of it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from runtime_host import Desk, alive, all_gone, child, connected, until

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.kube.runtime.client import NotRunning, Runtime
from aiinfra_lab.kube.runtime.place import socket_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
# Signals 32 and 33 are glibc's own: what posix_spawn started (make does) has them ignored, and
# no program may set them back.
OF_GLIBC = 1 << 31 | 1 << 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runtime") / "rt"
    with child(folder):
        yield folder


@pytest.fixture
async def desk(folder: Path) -> AsyncIterator[Desk]:
    async for desk in connected(folder):
        yield desk
        await desk.clear()


# How containers end.


@pytest.mark.parametrize(
    ("script", "code", "number", "reason"),
    [
        ("exit 0", 0, 0, "Completed"),
        ("exit 3", 3, 0, "Error"),
        ("kill -SEGV $$", 139, 11, "Error"),
        ("kill -KILL $$", 137, 9, "Error"),
    ],
)
async def test_exit_codes_are_those_of_kubernetes(
    desk: Desk, script: str, code: int, number: int, reason: str
) -> None:
    state, _ = await desk.finish("a", script, labels={"uid": "7"})
    assert (state.exit_code, state.signal, state.reason) == (code, number, reason)
    assert state.labels == {"uid": "7"}
    assert 0 < state.started_at <= state.finished_at


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nonesuch",), "on the PATH"),
        (("/no/such/program",), "no such file"),
        (("/etc/passwd",), "permission denied"),
        (("/",), "permission denied"),
    ],
)
async def test_program_that_cannot_be_started(
    desk: Desk, words: tuple[str, ...], sentence: str
) -> None:
    state = await desk.run("a", words)
    assert (state.status, state.exit_code, state.reason) == ("exited", 128, "StartError")
    assert f'exec "{words[0]}"' in state.message
    assert sentence in state.message


@pytest.mark.parametrize(
    ("content", "sentence"), [("#!/no/such/shell\n", "interpreter"), ("echo hi\n", "first line #!")]
)
async def test_file_that_is_no_program(
    desk: Desk, tmp_path: Path, content: str, sentence: str
) -> None:
    script = tmp_path / "script"
    script.write_text(content)
    script.chmod(0o755)
    state = await desk.run("a", (str(script),))
    assert (state.reason, state.exit_code) == ("StartError", 128)
    assert sentence in state.message


async def test_folder_that_cannot_be_entered_is_a_start_error(desk: Desk) -> None:
    state = await desk.run("a", "true", cwd="/etc/passwd")
    assert (state.reason, state.exit_code) == ("StartError", 128)
    assert "/etc/passwd" in state.message


# What they start with.


async def test_environment_is_the_given_one_and_a_mark(desk: Desk) -> None:
    _, text = await desk.finish("a", ("/usr/bin/env",), env={"A": "1", "B": "two words"})
    found = dict(line.split("=", 1) for line in text.splitlines())
    assert found.pop("AIINFRA_PROCESS")
    assert found == {"A": "1", "B": "two words"}


@linux
async def test_program_starts_clean(desk: Desk, tmp_path: Path) -> None:
    look = (
        "import os,signal,resource,json,sys;"
        "ign=[int(s) for s in signal.valid_signals() if signal.getsignal(s)==signal.SIG_IGN"
        " and s not in (signal.SIGPIPE, signal.SIGXFSZ)];"
        "s=open('/proc/self/status').read();"
        "w=lambda n: int(s.split(n+':')[1].split()[0],16);"
        "print(json.dumps([sorted(map(int,os.listdir('/proc/self/fd')))[:-1],ign,w('SigIgn'),"
        "w('SigBlk'),list(resource.getrlimit(resource.RLIMIT_NOFILE)),os.getsid(0)==os.getpid(),sys.stdin.read(),os.getcwd()]))"
    )
    program = (sys.executable, "-I", "-S", "-c", look)
    _, text = await desk.finish("a", program, cwd=str(tmp_path))
    fds, ignored, mask, blocked, files, leads, stdin, cwd = json.loads(text)
    assert tuple(files) == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert fds == [0, 1, 2]
    # Python itself ignores PIPE and XFSZ; before it nothing was.
    assert ignored == []
    assert mask & ~(1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1 | OF_GLIBC) == 0
    assert (blocked, leads, stdin, cwd) == (0, True, "", str(tmp_path))


@linux
async def test_ignored_pipe_signal_is_reset(desk: Desk) -> None:
    _, text = await desk.finish("a", "grep SigIgn /proc/self/status")
    assert int(text.split()[1], 16) & ~OF_GLIBC == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may choose a user")
async def test_user_and_group(desk: Desk) -> None:
    _, text = await desk.finish("a", "id -u; id -g; id -G", user=1234, group=4321)
    assert text.split() == ["1234", "4321", "4321"]


# Logs.


async def test_log_has_both_streams_in_the_format_of_the_cri(desk: Desk) -> None:
    await desk.finish("a", "echo one; echo two >&2; printf three")
    assert sorted(desk.lines("a")) == [
        ("stderr", "F", "two"),
        ("stdout", "F", "one"),
        ("stdout", "P", "three"),
    ]


async def test_whole_output_is_written_before_the_end_is_told(desk: Desk) -> None:
    for n in range(20):
        _, text = await desk.finish(f"a{n}", "seq 3000")
        assert text.splitlines()[-1] == "3000"


async def test_fifty_megabytes_of_lines_are_rotated_and_the_last_ones_are_there(
    desk: Desk,
) -> None:
    line = "x" * 1000
    _, text = await desk.finish("a", f"yes {line} | head -n 50000; echo the end")
    files = sorted((desk.folder / "logs").iterdir())
    assert [f.name for f in files] == ["a.log", *(f"a.log.{n}" for n in range(1, 5))]
    assert all(f.stat().st_size <= 10 << 20 for f in files)
    assert text.splitlines()[-1] == "the end"


async def test_disk_that_takes_nothing_stops_no_start_and_no_end(desk: Desk) -> None:
    # A pipe that nobody reads stands for a disk that does not take anything.
    logs = desk.folder / "logs"
    logs.mkdir(parents=True)
    os.mkfifo(logs / "slow.log")
    slow = os.open(logs / "slow.log", os.O_RDWR)
    try:
        await desk.run("slow", "yes")
        await desk.run("fast", "true")
        assert (await desk.ended("fast")).reason == "Completed"
        await desk.runtime.stop("slow", 0)
        assert (await desk.ended("slow")).signal == signal.SIGKILL
    finally:
        os.close(slow)


async def test_log_that_cannot_be_written_is_refused(desk: Desk) -> None:
    with pytest.raises(InputError, match="log /dev/null/a"):
        await desk.run("a", "true", log=Path("/dev/null/a"))
    assert await desk.runtime.list() == []


@linux
async def test_killed_logger_is_replaced_without_loss(desk: Desk, tmp_path: Path) -> None:
    await desk.run(
        "a", "echo one; until test -e go; do sleep 0.01; done; echo two", cwd=str(tmp_path)
    )
    await desk.line("a")
    runtime = desk.runtime.pid
    loggers = [pid for pid in _children(runtime) if pid != (await desk.state("a")).pid]
    os.kill(loggers[0], signal.SIGKILL)
    await until(lambda: not alive(loggers[0]))
    (tmp_path / "go").touch()
    await desk.ended("a")
    assert desk.text("a") == "one\ntwo\n"


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


# What is asked, and asked again.


async def test_known_id_is_not_run_again(desk: Desk) -> None:
    first = await desk.run("a", "sleep 100")
    again = await asyncio.gather(*(desk.run("a", "exit 1") for _ in range(5)))
    assert {state.pid for state in again} == {first.pid}
    together = await asyncio.gather(*(desk.run("b", "sleep 100") for _ in range(5)))
    assert len({state.pid for state in together}) == 1
    # Removed, the id is free again.
    await desk.runtime.stop("a", 0)
    await desk.ended("a")
    await desk.runtime.remove("a")
    assert (await desk.finish("a", "exit 4"))[0].exit_code == 4


async def test_running_container_is_not_removed_and_unknown_ones_are_no_error(desk: Desk) -> None:
    await desk.run("a", "sleep 100")
    with pytest.raises(InputError, match="still runs"):
        await desk.runtime.remove("a")
    await desk.runtime.remove("nobody")
    await desk.runtime.stop("nobody", 1)


async def test_removed_container_keeps_its_log(desk: Desk) -> None:
    await desk.finish("a", "echo kept")
    await desk.runtime.remove("a")
    assert await desk.runtime.list() == []
    assert desk.text("a") == "kept\n"


@pytest.mark.parametrize("name", ["", "a/b", "a b", "é", "x" * 600])
async def test_bad_ids_are_refused(desk: Desk, name: str) -> None:
    with pytest.raises(InputError, match="id is wrong"):
        await desk.run(name, "true", log=desk.folder / "a.log")


@pytest.mark.parametrize(
    "fields",
    [
        {"cwd": "here"},
        {"env": {"A=B": "1"}},
        {"env": {"A": "zero\0byte"}},
        {"memory": 0},
        {"cpus": -1.0},
        {"user": -1},
        {"log": Path("relative.log")},
    ],
)
async def test_bad_specs_are_refused(desk: Desk, fields: dict[str, object]) -> None:
    with pytest.raises(InputError, match="container a"):
        await desk.run("a", "true", **fields)
    with pytest.raises(InputError, match="no program"):
        await desk.run("a", ())


@pytest.mark.parametrize("grace", [-1.0, float("nan"), float("inf")])
async def test_bad_graces_are_refused(desk: Desk, grace: float) -> None:
    await desk.run("a", "sleep 100")
    with pytest.raises(InputError, match="grace"):
        await desk.runtime.stop("a", grace)


async def test_nonsense_ends_its_connection_and_nothing_else(folder: Path, desk: Desk) -> None:
    await desk.run("a", "sleep 100")
    for nonsense in (b"{\n", b"[]\n", b'{"do":"run"}\n', b"\xff\n"):
        reader, writer = await asyncio.open_unix_connection(str(socket_of(folder)))
        writer.write(nonsense)
        await reader.read()
        writer.close()
        await writer.wait_closed()
    reader, writer = await asyncio.open_unix_connection(str(socket_of(folder)))
    await reader.readline()
    for request in ({"do": "run", "spec": {"id": 1}}, {"do": "dance"}, {"do": "stop"}):
        writer.write(json.dumps({"n": 1} | request).encode() + b"\n")
        assert json.loads(await reader.readline())["error"] == "InputError"
    writer.close()
    await writer.wait_closed()
    assert (await desk.state("a")).status == "running"


async def test_events_reach_every_client_in_order(folder: Path, desk: Desk) -> None:
    async with await Runtime.connect(folder) as other:
        events = desk.runtime.events(), other.events()
        await desk.finish("a", "exit 5")
        for follower in events:
            started, ended = await anext(follower), await anext(follower)
            assert (started.id, started.status) == ("a", "running")
            assert (ended.status, ended.exit_code) == ("exited", 5)


async def test_two_hundred_containers_at_once(desk: Desk) -> None:
    names = [f"c{n}" for n in range(200)]
    states = await asyncio.gather(*(desk.run(n, "echo $$; exec sleep 100") for n in names))
    assert {state.status for state in states} == {"running"}
    assert len({state.pid for state in states}) == 200
    await asyncio.gather(*(desk.runtime.stop(name, 5) for name in names))
    ended = [await desk.ended(name) for name in names]
    assert {state.exit_code for state in ended} == {143}
    assert {desk.text(s.id).strip() for s in ended} == {str(s.pid) for s in ended}


# A program in a running container.


async def test_execute_gives_output_and_exit_code(desk: Desk) -> None:
    await desk.run("a", "sleep 100", env={"PATH": "/usr/bin:/bin", "WHO": "me"}, cwd="/usr")
    done = await desk.runtime.execute(
        "a", ["sh", "-c", "cat; echo $WHO >&2; pwd; exit 6"], stdin=b"in "
    )
    assert (done.exit_code, done.output, done.timed_out) == (6, b"in me\n/usr\n", False)
    assert (await desk.runtime.execute("a", ["sh", "-c", "kill -TERM $$"])).exit_code == 143


async def test_execute_of_a_missing_program_says_so(desk: Desk) -> None:
    await desk.run("a", "sleep 100")
    done = await desk.runtime.execute("a", ["nonesuch"])
    assert done.exit_code == 127
    assert b'exec "nonesuch"' in done.output


async def test_execute_at_its_time_kills_all_that_it_started(desk: Desk) -> None:
    await desk.run("a", "sleep 100")
    script = (
        "sleep 101 & echo $!; setsid sleep 102 & echo $!; (setsid sleep 103 & echo $!); sleep 104"
    )
    done = await desk.runtime.execute("a", ["sh", "-c", script], timeout=1.0)
    assert done.timed_out
    assert done.exit_code == 137
    pids = list(map(int, done.output.split()))
    assert len(pids) == 3
    await all_gone(pids)
    assert (await desk.state("a")).status == "running"


async def test_execute_keeps_its_limit_and_does_not_wait_for_the_background(desk: Desk) -> None:
    await desk.run("a", "sleep 100")
    done = await desk.runtime.execute(
        "a", ["sh", "-c", "yes | head -c 3000000; exit 2"], limit=1000
    )
    assert (done.exit_code, len(done.output)) == (2, 1000)
    async with asyncio.timeout(50):
        done = await desk.runtime.execute("a", ["sh", "-c", "sleep 100 & echo $!"])
    background = int(done.output)
    assert alive(background)
    await desk.runtime.stop("a", 0)
    await desk.ended("a")
    await all_gone([background])


async def test_execute_ends_with_its_container(desk: Desk) -> None:
    await desk.run("a", "sleep 100")
    asked = asyncio.create_task(desk.runtime.execute("a", ["sleep", "100"]))
    await asyncio.sleep(0.05)
    await desk.runtime.stop("a", 0)
    async with asyncio.timeout(50):
        assert (await asked).exit_code in (137, 127)


async def test_execute_needs_a_running_container(desk: Desk) -> None:
    await desk.finish("a", "true")
    for name in ("a", "nobody"):
        with pytest.raises(NotRunning, match=name):
            await desk.runtime.execute(name, ["true"])


@pytest.mark.parametrize(
    "options", [{"timeout": -1.0}, {"limit": -1}, {"limit": 1 << 40}, {"argv": []}]
)
async def test_execute_refuses_nonsense(desk: Desk, options: dict[str, object]) -> None:
    await desk.run("a", "sleep 100")
    with pytest.raises(InputError):
        await desk.runtime.execute("a", **({"argv": ["true"]} | options))  # type: ignore[arg-type]


# A program whose streams the client holds.


async def test_attached_program_has_three_streams(desk: Desk) -> None:
    await desk.run("a", "sleep 100", env={"PATH": "/usr/bin:/bin", "WHO": "me"})
    program = await desk.runtime.attach(
        "a", ["sh", "-c", "echo $WHO; tr a-z A-Z >&2; exit 7"], stdin=True
    )

    async def feed() -> None:
        await program.write(b"x" * 300_000 + b"\n")
        await program.end_input()

    feeding = asyncio.create_task(feed())
    found = {"stdout": b"", "stderr": b""}
    async for name, data in program.read():
        found[name] += data
    assert found == {"stdout": b"me\n", "stderr": b"X" * 300_000 + b"\n"}
    assert await program.wait() == 7
    await feeding
    await program.close()


async def test_attached_terminal(desk: Desk) -> None:
    await desk.run("a", "sleep 100")
    program = await desk.runtime.attach(
        "a",
        ["sh", "-c", "test -t 0 -a -t 2 && read x && stty size && echo got $x"],
        stdin=True,
        tty=True,
    )
    await program.resize(111, 33)
    await program.write(b"it\n")
    text = b"".join([data async for _, data in program.read()])
    assert text.splitlines() == [b"it", b"33 111", b"got it"]
    assert await program.wait() == 0
    await program.close()


async def test_interrupt_at_the_terminal_reaches_the_program(desk: Desk) -> None:
    await desk.run("a", "sleep 100")
    words = ["sh", "-c", "echo up; exec sleep 90"]
    program = await desk.runtime.attach("a", words, stdin=True, tty=True)
    await anext(program.read())
    await program.write(b"\x03")
    async with asyncio.timeout(50):
        assert await program.wait() == 128 + signal.SIGINT
    await program.close()


async def test_attached_program_dies_with_its_client(desk: Desk) -> None:
    await desk.run("a", "sleep 100")
    program = await desk.runtime.attach(
        "a", ["sh", "-c", "setsid sleep 99 & echo $!; echo $$; sleep 98"]
    )
    text = b""
    async for _, data in program.read():
        text += data
        if text.count(b"\n") == 2:
            break
    pids = list(map(int, text.split()))
    assert all(map(alive, pids))
    await program.close()
    await all_gone(pids)
    assert (await desk.state("a")).status == "running"


async def test_attached_program_that_leaves_something_in_the_background(desk: Desk) -> None:
    await desk.run("a", "sleep 100")
    program = await desk.runtime.attach("a", ["sh", "-c", "sleep 97 & kill -TERM $$"])
    async with asyncio.timeout(50):
        assert [item async for item in program.read()] == []
        assert await program.wait() == 143
    await program.close()


async def test_attach_says_why_not(desk: Desk) -> None:
    with pytest.raises(NotRunning, match="nobody"):
        await desk.runtime.attach("nobody", ["true"])
    await desk.run("a", "sleep 100")
    with pytest.raises(AIInfraLabError, match='exec "nonesuch"'):
        await desk.runtime.attach("a", ["nonesuch"])
    with pytest.raises(InputError, match="not a program"):
        await desk.runtime.attach("a", [])
