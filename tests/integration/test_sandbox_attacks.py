"""What a submission may try, and the wall that it meets: each shown by the wall's own evidence.

No attack that harms is ever run without the sandbox. The fixture refuses to hand out a workplace
of which a wall is missing, and every attack begins with lines that end it where it finds itself
outside.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from aiinfra_lab.grading import Bounds, SandboxWorkplace
from aiinfra_lab.grading.runs import Run
from aiinfra_lab.sandbox import Limits
from aiinfra_lab.sandbox.cgroups import Cgroup

pytestmark = pytest.mark.needs("sandbox", "ipykernel")

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
LIMITS = Limits(
    memory=400 * MIB, cpu_s=20, wall_s=60, processes=64, file_size=8 * MIB, scratch=24 * MIB
)
BOUNDS = Bounds(cell_bytes=256 << 10, total_bytes=2 * MIB, messages=500, cell_s=5, grace_s=5)
AFTER = "print('after')"


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """The workplace is bound to no loop, so each test may have one of its own."""
    return asyncio.run(work)


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that exists outside, and whose content nobody inside may know."""
    path = tmp_path_factory.mktemp("canary") / "canary"
    path.write_text("a secret of the grader")
    return path


@pytest.fixture(scope="module")
def place(canary: Path) -> Iterator[SandboxWorkplace]:
    place = SandboxWorkplace(
        ("aiinfra_lab.resilience",), ("numpy",), limits=LIMITS, bounds=BOUNDS, kind="nested"
    )
    run(place.__aenter__())
    try:
        missing = [wall.name for wall in place.walls if not wall.stood]
        assert not missing, "nothing that harms is run without these walls"
        yield place
    finally:
        run(place.__aexit__(None, None, None))
        assert canary.read_text() == "a secret of the grader"


def notebook(canary: Path, *sources: str) -> dict[str, Any]:
    guard = (
        "import os\n"
        f"if os.getpid() != 1 or os.getuid() != 65534 or os.path.exists({str(canary)!r}):\n"
        "    os._exit(3)\n"
    )
    return {
        "cells": [
            {"cell_type": "code", "id": f"c{n}", "metadata": {}, "source": guard + source}
            for n, source in enumerate(sources)
        ]
    }


def attack(place: SandboxWorkplace, canary: Path, *sources: str) -> Run:
    found: Run = run(place.run(notebook(canary, *sources)))
    assert list(found.cells) == [f"c{n}" for n in range(len(sources))]
    assert nothing_left(place)
    return found


def nothing_left(place: SandboxWorkplace) -> bool:
    """Only bubblewrap and the server itself, no fork and nothing that one started."""
    outermost = psutil.Process(place.pid)
    for _ in range(100):  # the last keeper may be on its way out of the process table
        family = outermost.children(recursive=True)
        if len(family) <= 2:
            return True
        psutil.wait_procs(family[2:], timeout=0.1)
    return False


def text(found: Run, cell: str = "c0") -> str:
    return "".join(o["text"] for o in found.cells[cell].outputs if o["output_type"] == "stream")


def said(found: Run, cell: str = "c0") -> Any:
    """What a cell printed as JSON, without a failure."""
    assert not found.cells[cell].failure
    return json.loads(text(found, cell))


def works(place: SandboxWorkplace, canary: Path) -> bool:
    found = attack(place, canary, "print(6 * 7)")
    return text(found) == "42\n" and not found.limit


def test_attacks_refuse_to_run_outside(canary: Path) -> None:
    async def whole() -> Run:
        async with SandboxWorkplace(kind="bare") as place:
            return await place.run(notebook(canary, "print('this would be an attack')"))

    found = run(whole())
    assert found.cells["c0"].failure == "the kernel died"
    assert text(found) == ""


# Bombs.


def test_fork_bomb_meets_the_limit_of_processes(
    place: SandboxWorkplace, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cgroup, "make", classmethod(lambda *_: None))  # which has one of its own
    bomb = """
import errno, json, time
count = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    except OSError as error:
        print(json.dumps([count, error.errno == errno.EAGAIN]))
        break
    count += 1
"""
    found = attack(place, canary, bomb, AFTER)
    count, refused = said(found)
    assert refused
    assert 5 < count < LIMITS.processes
    assert text(found, "c1") == "after\n"


def test_fork_bomb_without_end_is_ended(place: SandboxWorkplace, canary: Path) -> None:
    bomb = """
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    found = attack(place, canary, bomb, AFTER)
    assert found.limit
    assert found.cells["c0"].failure
    assert works(place, canary)


MEMORY_BOMB = "held = []\nwhile True:\n    held.append(bytearray(8 << 20))\n"


def test_memory_bomb_by_the_cgroup(place: SandboxWorkplace, canary: Path) -> None:
    if (group := Cgroup.make(LIMITS)) is None:
        pytest.skip("this process may make no cgroup")
    group.remove()
    found = attack(place, canary, MEMORY_BOMB, AFTER)
    assert found.limit == "memory: more than 400 MB"
    assert found.cells["c0"].failure == found.limit
    assert works(place, canary)


def test_memory_bomb_by_the_watcher(
    place: SandboxWorkplace, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cgroup, "make", classmethod(lambda *_: None))
    # Slow enough that the watcher, and not the machine, is what ends it.
    bomb = "import time\nheld = []\nfor _ in range(200):\n    held.append(bytearray(8 << 20))\n"
    bomb += "    time.sleep(0.01)\nprint('survived')\n"
    found = attack(place, canary, bomb, AFTER)
    assert found.limit == "memory: more than 400 MB"
    assert "survived" not in text(found)
    assert works(place, canary)


def test_memory_of_children_counts_too(
    place: SandboxWorkplace, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cgroup, "make", classmethod(lambda *_: None))
    bomb = """
import time
for _ in range(6):
    if os.fork() == 0:
        held = bytearray(80 << 20)
        time.sleep(30)
        os._exit(0)
time.sleep(30)
"""
    assert attack(place, canary, bomb).limit == "memory: more than 400 MB"


def test_file_bomb_fills_its_own_small_tmp(place: SandboxWorkplace, canary: Path) -> None:
    bomb = """
import errno, json
found = {}
for folder in ("/tmp", "/dev/shm"):
    total = 0
    try:
        for number in range(100):
            with open(f"{folder}/{number}", "wb") as file:
                for _ in range(4):
                    total += file.write(bytes(1 << 20))
    except OSError as error:
        found[folder] = [total >> 20, errno.errorcode[error.errno]]
    for name in os.listdir(folder):
        if name.isdigit():
            os.unlink(f"{folder}/{name}")
try:
    with open("/tmp/one", "wb") as file:
        while True:
            file.write(bytes(1 << 20))
except OSError as error:
    found["one"] = [os.path.getsize("/tmp/one") >> 20, errno.errorcode[error.errno]]
print(json.dumps(found))
"""
    found = said(attack(place, canary, bomb))
    for folder in ("/tmp", "/dev/shm"):
        size, reason = found[folder]
        assert reason == "ENOSPC"
        assert size <= LIMITS.scratch // MIB
    assert found["one"] == [LIMITS.file_size // MIB, "EFBIG"]


def test_open_files_are_limited(place: SandboxWorkplace, canary: Path) -> None:
    bomb = """
import errno, json
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    for handle in held: os.close(handle)
    print(json.dumps([len(held), errno.errorcode[error.errno]]))
"""
    count, reason = said(attack(place, canary, bomb))
    assert reason == "EMFILE"
    assert count < LIMITS.files


@pytest.mark.parametrize(
    "flood",
    [
        "while True: print('x' * 10_000)",
        "import sys\nfor _ in range(10**9): sys.stderr.write('y' * 1000)",
        "from IPython.display import publish_display_data as p\nwhile True: p({'text/plain': ''})",
        "while True: os.write(1, b'z' * 10_000)",
        "print('x' * (50 << 20))",
    ],
    ids=["prints", "stderr", "messages", "descriptor", "one large"],
)
def test_flood_is_cut_and_costs_its_cell(place: SandboxWorkplace, canary: Path, flood: str) -> None:
    found = attack(place, canary, flood, AFTER)
    assert "more than" in found.cells["c0"].failure
    assert len(json.dumps(found.cells["c0"].outputs)) < 2 * BOUNDS.cell_bytes
    # On a busy machine the kernel's own queue may reach the limit of memory first.
    assert text(found, "c1") == "after\n" or found.limit.startswith("memory")


def test_processor_time_is_counted_over_all_processes(canary: Path) -> None:
    bomb = """
for _ in range(3):
    if os.fork() == 0:
        while True: pass
import time
time.sleep(30)
"""

    async def whole() -> Run:
        limits = Limits(cpu_s=1.0)
        bounds = Bounds(cell_s=30)
        async with SandboxWorkplace(limits=limits, bounds=bounds, kind="nested") as place:
            return await place.run(notebook(canary, bomb))

    found = run(whole())
    assert found.limit == "processor time: more than 1 s"
    assert found.cpu_s >= 1.0


# Endings.


def test_exit_in_a_cell_loses_that_run_only(place: SandboxWorkplace, canary: Path) -> None:
    found = attack(place, canary, "print('first')", "os._exit(0)", AFTER)
    assert text(found) == "first\n"
    assert found.cells["c1"].failure == "the kernel died"
    assert found.cells["c2"].failure == "the cell was not run: the kernel died"
    assert not found.limit


def test_interrupt_that_is_ignored_is_followed_by_a_kill(
    place: SandboxWorkplace, canary: Path
) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    found = attack(place, canary, deaf + "while True: pass", AFTER)
    assert found.cells["c0"].failure == (
        "the cell ran longer than 5 s, and could not be interrupted"
    )
    assert "not run" in found.cells["c1"].failure
    assert found.limit == found.cells["c0"].failure


def test_long_cell_is_interrupted_and_the_next_one_runs(
    place: SandboxWorkplace, canary: Path
) -> None:
    found = attack(place, canary, "import time\ntime.sleep(1000)", AFTER)
    assert found.cells["c0"].failure == "the cell ran longer than 5 s"
    assert text(found, "c1") == "after\n"
    assert not found.limit


def test_stopping_and_killing_whatever_can_be_reached(
    place: SandboxWorkplace, canary: Path
) -> None:
    kill = """
import json, signal
own = [int(name) for name in os.listdir("/proc/self/task")]
for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGSEGV):
    os.kill(os.getpid(), number)  # process 1 is safe from itself
seen = []
for pid in [os.getppid(), -1, *range(2, 2000)]:
    for number in (signal.SIGSTOP, signal.SIGKILL):
        try:
            if pid and pid not in own:
                os.kill(pid, number)
                seen.append(pid)
        except ProcessLookupError:
            pass
print(json.dumps([os.getppid(), seen]))
"""
    assert said(attack(place, canary, kill)) == [0, []]
    assert works(place, canary)


def test_daemons_end_with_the_run(place: SandboxWorkplace, canary: Path) -> None:
    daemon = """
import subprocess
subprocess.Popen(["sleep", "3600"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import time
        time.sleep(3600)
    os._exit(0)
print("started")
"""
    assert text(attack(place, canary, daemon)) == "started\n"  # and nothing_left() in attack()


def test_thread_that_goes_on_ends_with_the_run(place: SandboxWorkplace, canary: Path) -> None:
    begin = """
import threading, time
def later():
    while True:
        time.sleep(0.01)
for _ in range(5):
    threading.Thread(target=later).start()
"""
    found = attack(place, canary, begin, AFTER)
    assert text(found, "c1") == "after\n"
    assert not found.limit


# Looking around.


def test_files_of_the_grader_are_not_there(place: SandboxWorkplace, canary: Path) -> None:
    wanted = [
        str(canary),
        str(ROOT / "solutions"),
        str(ROOT / "labs"),
        str(ROOT / "tests"),
        str(ROOT / "notebooks"),
        str(ROOT / ".git"),
        str(Path.home() / ".bash_history"),
        str(Path.home() / ".ssh"),
        "/etc/shadow",
        "/var/log",
        "/run/aiinfra",
        "/sys/kernel",
        "/home",
    ]
    look = f"""
import json
links = []
for number, path in enumerate({wanted!r}):
    os.symlink(path, f"/tmp/link{{number}}")
    links.append(f"/tmp/link{{number}}")
print(json.dumps([path for path in {wanted!r} + links if os.path.exists(path)]))
"""
    assert said(attack(place, canary, look)) == []


def test_environment_is_built_from_nothing(canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADER_TOKEN", "secret-7c1f")
    look = "import json\nprint(json.dumps(dict(os.environ)))"
    deeper = "print(open('/proc/self/environ').read(), open('/proc/1/environ').read())"

    async def whole() -> Run:
        async with SandboxWorkplace(kind="nested") as place:
            return await place.run(notebook(canary, look, deeper))

    found = run(whole())
    variables = said(found)
    assert "GRADER_TOKEN" not in variables
    assert variables["HOME"] == "/tmp"
    assert variables["OMP_NUM_THREADS"] == "1"
    assert "secret-7c1f" not in text(found, "c1")


def test_answers_are_neither_importable_nor_readable(place: SandboxWorkplace, canary: Path) -> None:
    look = """
import json, pathlib, aiinfra_lab
found = []
for name in ("aiinfra_lab.resilience", "aiinfra_lab.resilience.breaker"):
    try:
        __import__(name)
    except ImportError as error:
        found.append(str(error))
folder = pathlib.Path(aiinfra_lab.__file__).parent / "resilience"
print(json.dumps([found, sorted(path.name for path in folder.rglob("*"))]))
"""
    sentence = "aiinfra_lab.resilience is the answer of this lab: write it yourself"
    assert said(attack(place, canary, look)) == [[sentence, sentence], ["__init__.py"]]


def test_network_has_a_loopback_of_its_own_and_nothing_else(
    place: SandboxWorkplace, canary: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as hidden:
        hidden.bind("\0aiinfra-test-abstract-" + str(os.getpid()))
        hidden.listen()
        look = f"""
import json, socket
found = {{"interfaces": [name for _, name in socket.if_nameindex()]}}
def reach(kind, address):
    with socket.socket(kind) as s:
        s.settimeout(2)
        try:
            s.connect(address)
            return "connected"
        except OSError as error:
            return type(error).__name__
found["host"] = reach(socket.AF_INET, ("127.0.0.1", {server.getsockname()[1]}))
found["abstract"] = reach(socket.AF_UNIX, {hidden.getsockname().decode()!r})
found["outside"] = reach(socket.AF_INET, ("192.0.2.1", 80))
with socket.create_server(("127.0.0.1", 0)) as own:
    found["own"] = reach(socket.AF_INET, own.getsockname())
print(json.dumps(found))
"""
        found = said(attack(place, canary, look))
    assert found == {
        "interfaces": ["lo"],
        "host": "ConnectionRefusedError",
        "abstract": "ConnectionRefusedError",
        "outside": "OSError",
        "own": "connected",
    }


def test_nothing_outside_tmp_can_be_written(place: SandboxWorkplace, canary: Path) -> None:
    look = """
import json
found = []
points = [line.split()[4] for line in open("/proc/self/mountinfo")]
for folder in ["/", "/etc", "/usr/lib", "/work", "/run", "/dev", *points]:
    path = f"{folder}/attack" if os.path.isdir(folder) else folder
    try:
        os.close(os.open(path, os.O_WRONLY | (os.O_CREAT if path != folder else 0)))
        found.append(folder)
    except OSError:
        pass
print(json.dumps(sorted(set(found))))
"""
    devices = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}
    assert set(said(attack(place, canary, look))) - devices == {"/tmp", "/dev/shm"}


def test_neighbours_do_not_see_each_other(place: SandboxWorkplace, canary: Path) -> None:
    write = """
import socket, time
open("/tmp/mine", "w").write("my answers")
open("/dev/shm/mine", "w").write("my answers")
with socket.create_server(("127.0.0.1", 5555)), socket.socket(socket.AF_UNIX) as hidden:
    hidden.bind("\\0mine")
    hidden.listen()
    time.sleep(2.0)
"""
    look = """
import json, socket, time
def reach(kind, address):
    with socket.socket(kind) as s:
        return s.connect_ex(address) == 0
time.sleep(0.8)
pids = [name for name in os.listdir("/proc") if name.isdigit()]
found = [reach(socket.AF_INET, ("127.0.0.1", 5555)), reach(socket.AF_UNIX, "\\0mine")]
print(json.dumps([pids, os.path.exists("/tmp/mine"), os.listdir("/dev/shm"), found]))
"""

    async def both() -> list[Run]:
        runs = (place.run(notebook(canary, source)) for source in (write, look))
        return await asyncio.gather(*runs)

    writer, reader = run(both())
    assert not writer.cells["c0"].failure
    assert said(reader) == [["1"], False, [], [False, False]]


def test_no_open_handle_leads_outside(place: SandboxWorkplace, canary: Path) -> None:
    look = """
import json, stat
kinds = {}
for name in os.listdir("/proc/self/fd"):
    try:
        target = os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        continue
    if target.startswith("/") and not target.startswith(("/dev/null", "/proc", "/dev/pts")):
        kinds[name] = target
print(json.dumps(kinds))
"""
    assert said(attack(place, canary, look)) == {}


# Climbing out.


def test_namespaces_and_mounts_are_refused(place: SandboxWorkplace, canary: Path) -> None:
    climb = """
import ctypes, errno, json
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *words):
    ctypes.set_errno(0)
    done = getattr(libc, name)(*words)
    return "done" if done == 0 else errno.errorcode[ctypes.get_errno()]
found = {}
for name, flag in {"mount": 0x20000, "pid": 0x20000000, "net": 0x40000000,
                   "ipc": 0x8000000, "uts": 0x4000000, "cgroup": 0x2000000}.items():
    found[name] = call("unshare", flag)
found["remount"] = call("mount", b"none", b"/usr", None, ctypes.c_ulong(32 | 4096), None)
found["tmpfs"] = call("mount", b"tmpfs", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None)
found["umount"] = call("umount2", b"/proc", 2)
found["chroot"] = call("chroot", b"/tmp")
found["setuid"] = call("setuid", 0)
found["sethostname"] = call("sethostname", b"x", 1)
found["mknod"] = call("mknod", b"/tmp/disk", 0o60666, ctypes.c_ulong(0xfe00))
found["ptrace"] = call("ptrace", 16, 2, 0, 0)
for pid in ("1", "self"):
    handle = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    found[f"setns {pid}"] = call("setns", handle, 0)
    os.close(handle)
for setting in ("max_user_namespaces", "max_pid_namespaces"):
    try:
        open(f"/proc/sys/user/{setting}", "w").write("100")
        found[setting] = "done"
    except OSError as error:
        found[setting] = "refused"
read, write = os.pipe()
if os.fork() == 0:  # only a process of one thread may try for a user namespace
    os.write(write, call("unshare", 0x10000000).encode())
    os._exit(0)
found["user"] = os.read(read, 100).decode()
settings = [f"/proc/sys/user/{n}" for n in os.listdir("/proc/sys/user") if "_namespaces" in n]
found["namespaces"] = sorted({open(path).read().strip() for path in settings})
lines = open("/proc/self/status").read().splitlines()
found["capabilities"] = sorted({line.split()[1] for line in lines if line.startswith("Cap")})
print(json.dumps(found))
"""
    found = said(attack(place, canary, climb))
    # Without the filter of system calls these two would be what refuses.
    assert found.pop("namespaces") == ["0"]
    assert found.pop("capabilities") == ["0000000000000000"]
    assert set(found.values()) <= {"EPERM", "EINVAL", "refused"}


def test_set_user_id_programs_give_nothing(place: SandboxWorkplace, canary: Path) -> None:
    climb = """
import json, subprocess
status = open("/proc/self/status").read()
fields = dict(line.split(":\\t", 1) for line in status.splitlines() if ":\\t" in line)
inside = subprocess.run(["grep", "-E", "Cap|NoNew", "/proc/self/status"], capture_output=True,
                        text=True).stdout.split()
print(json.dumps([fields["NoNewPrivs"], inside[1::2], fields["Uid"].split()]))
"""
    new, sets, users = said(attack(place, canary, climb))
    assert new == "1"
    assert {int(value, 16) for value in sets[:-1]} == {0}
    assert users == ["65534"] * 4


def test_memory_cannot_be_hidden(place: SandboxWorkplace, canary: Path) -> None:
    hide = """
import ctypes, errno, json
libc = ctypes.CDLL(None, use_errno=True)
found = {}
for name, words in {"memfd_create": (b"x", 0), "shmget": (0, 1 << 30, 0o1600),
                    "msgget": (0, 0o1600), "semget": (0, 1, 0o1600)}.items():
    done = getattr(libc, name)(*words)
    found[name] = "done" if done >= 0 else errno.errorcode[ctypes.get_errno()]
print(json.dumps(found))
"""
    assert set(said(attack(place, canary, hide)).values()) == {"EPERM"}
