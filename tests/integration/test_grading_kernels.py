"""Notebooks in the sandbox: by our own client and by nbclient, a lab, and a lying kernel."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from aiinfra_lab.errors import ProcessError
from aiinfra_lab.grading import Bounds, SandboxWorkplace
from aiinfra_lab.grading.runs import Run

pytestmark = pytest.mark.needs("sandbox", "ipykernel")

MIB = 1 << 20
BOUNDS = Bounds(cell_s=20, cell_bytes=MIB)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@pytest.fixture(scope="module")
def place() -> Iterator[SandboxWorkplace]:
    place = SandboxWorkplace(("aiinfra_lab.resilience",), ("numpy",), bounds=BOUNDS)
    run(place.__aenter__())
    yield place
    run(place.__aexit__(None, None, None))


def notebook(*sources: str, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "cells": [
            {"cell_type": "code", "id": f"c{n}", "metadata": {"tags": list(tags)}, "source": s}
            for n, s in enumerate(sources)
        ]
    }


def text(found: Run, cell: str) -> str:
    return "".join(o["text"] for o in found.cells[cell].outputs if o["output_type"] == "stream")


# What a notebook gives.


def test_outputs_are_those_of_a_notebook(place: SandboxWorkplace) -> None:
    found: Run = run(
        place.run(
            notebook(
                "print('a')\nprint('b')",
                "1 / 0",
                "import sys\nprint('warned', file=sys.stderr)\n[1, 2]",
                "import aiinfra_lab.course.records as r\nr.show('x', 3)",
                "!echo from a child",
                "from IPython.display import clear_output\nprint('x')\nclear_output()\nprint('y')",
                "await __import__('asyncio').sleep(0)\nprint('awaited')",
            )
        )
    )
    stream = {"output_type": "stream", "name": "stdout", "text": "a\nb\n"}
    assert found.cells["c0"].outputs == [stream]
    assert found.cells["c1"].failure == "ZeroDivisionError: division by zero"
    error = found.cells["c1"].error
    assert error is not None
    assert error["ename"] == "ZeroDivisionError"
    assert [o["output_type"] for o in found.cells["c2"].outputs] == ["stream", "execute_result"]
    assert found.cells["c2"].outputs[1]["data"] == {"text/plain": "[1, 2]"}
    record = found.cells["c3"].outputs[0]["data"]["application/vnd.aiinfra.record+json"]
    assert record["value"] == 3
    assert text(found, "c4").strip() == "from a child"
    assert text(found, "c5") == "y\n"
    assert text(found, "c6") == "awaited\n"
    assert not found.limit
    assert found.seconds > 0
    assert 0 < found.cpu_s < 20


def test_a_tag_gives_a_cell_its_own_time(place: SandboxWorkplace) -> None:
    slow = notebook("import time\ntime.sleep(60)", tags=("timeout=0.5",))
    found = run(place.run(slow))
    assert found.cells["c0"].failure == "the cell ran longer than 0.5 s"


def test_runs_side_by_side_are_their_own(place: SandboxWorkplace) -> None:
    async def several() -> list[Run]:
        return await asyncio.gather(*(place.run(notebook(f"x = {n}", "print(x)")) for n in "123"))

    assert [text(found, "c1") for found in run(several())] == ["1\n", "2\n", "3\n"]


@pytest.mark.parametrize("kind", ["single", "bare"])
def test_lesser_kinds_run_and_say_what_they_lack(kind: Any) -> None:
    async def whole() -> tuple[Run, dict[str, bool]]:
        async with SandboxWorkplace(kind=kind) as place:
            walls = {wall.name: wall.stood for wall in place.walls}
            assert place.pid is None  # a server for each run
            return await place.run(notebook("print(1)", "import os\nos._exit(0)")), walls

    found, walls = run(whole())
    assert text(found, "c0") == "1\n"
    assert found.cells["c1"].failure == "the kernel died"
    lacking = {name for name, stood in walls.items() if not stood}
    if kind == "single":
        assert lacking == set()
    else:
        assert lacking >= {"files", "network", "processes", "neighbours"}


def test_walls_that_cannot_be_had_are_reported_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aiinfra_lab.errors import MissingNeed
    from aiinfra_lab.sandbox import bubblewrap

    def refuse(*_: str) -> None:
        raise MissingNeed("this needs a sandbox (only Linux has namespaces)")

    monkeypatch.setattr(bubblewrap, "require", refuse)

    async def whole() -> SandboxWorkplace:
        async with SandboxWorkplace() as place:
            return place

    place = run(whole())
    assert place.kind == "bare"
    network = next(wall for wall in place.walls if wall.name == "network")
    assert not network.stood
    assert "only Linux has namespaces" in network.detail


def test_a_module_that_cannot_be_imported_is_one_sentence() -> None:
    async def whole() -> None:
        async with SandboxWorkplace(preload=["no_such_module"], kind="nested"):
            pass

    with pytest.raises(ProcessError, match="no_such_module"):
        run(whole())


# Kernels that lie.

LIE = """
import json
from IPython import get_ipython
kernel = get_ipython().kernel
parent = kernel.get_parent("shell")
sockets = kernel.iopub_socket
def say(kind, content, parent=parent):
    kernel.session.send(sockets, kind, content, parent=parent)
def raw(*frames):
    sockets.send_multipart([b"t", *frames])
def message(content, kind="stream"):
    header = json.dumps({"msg_type": kind, "msg_id": "x"}).encode()
    mine = json.dumps({"msg_id": parent["header"]["msg_id"]}).encode()
    return b"<IDS|MSG>", b"", header, mine, b"{}", content
print("begin")
LIES
print("end")
"""


@pytest.mark.parametrize(
    "lies",
    [
        "raw(b'nothing that could be read')",
        "raw(*message(b'{'))",
        "raw(*message(b'[1]'))",
        "raw(*message(b'[' * 100_000))",
        "raw(*message(b'{\"a\":' * 5000 + b'1' + b'}' * 5000))",
        "raw(*message(b'\\xff\\xfe'))",
        "raw(*message(b'1' * 5000))",
        "raw(*message(json.dumps({'name': 'stdout', 'text': ['list']}).encode()))",
        "raw(*message(json.dumps({'name': 7, 'text': 'x'}).encode()))",
        "raw(*message(json.dumps({'data': 'x'}).encode(), 'display_data'))",
        "say('stream', {'name': 'stdout', 'text': 'x'}, {'header': {'msg_id': 'other'}})",
        "say('stream', {'name': 'stdout', 'text': 'x'}, {})",
        "say('no_such_kind', {})",
        "raw(*[b'' for _ in range(5000)])",
    ],
)
def test_what_cannot_be_read_is_ignored(place: SandboxWorkplace, lies: str) -> None:
    found = run(place.run(notebook(LIE.replace("LIES", lies), "print('after')")))
    assert found.cells["c0"].outputs == [
        {"output_type": "stream", "name": "stdout", "text": "begin\nend\n"}
    ]
    assert text(found, "c1") == "after\n"


def test_half_a_surrogate_pair_can_be_written_to_a_file(place: SandboxWorkplace) -> None:
    lie = LIE.replace("LIES", r"""raw(*message(b'{"name": "stdout", "text": "<\\ud800>"}'))""")
    found = run(place.run(notebook(lie)))
    assert "<?>" in text(found, "c0")
    json.dumps(found.cells["c0"].outputs, ensure_ascii=False).encode()


def test_an_end_that_is_forged_moves_no_output_to_another_cell(place: SandboxWorkplace) -> None:
    lie = """
import time
say("status", {"execution_state": "idle"})
kernel.session.send(kernel.shell_stream, "execute_reply", {"status": "ok"}, parent=parent,
                    ident=parent.get("idents"))
time.sleep(0.3)
print("late")
"""
    found = run(place.run(notebook(LIE.replace("LIES", lie), "print('mine')")))
    assert text(found, "c1") == "mine\n"


def test_a_message_without_end_does_not_fill_the_graders_memory(place: SandboxWorkplace) -> None:
    endless = """
import zmq
for _ in range(300):
    kernel.iopub_thread.socket.send(bytes(1 << 20), zmq.SNDMORE)
kernel.iopub_thread.socket.send(b"")
"""
    before = psutil.Process().memory_info().rss
    found = run(place.run(notebook(LIE.replace("LIES", endless), "print('after')")))
    assert psutil.Process().memory_info().rss - before < 60 * MIB
    assert "more than" in found.cells["c0"].failure


def test_bytes_that_are_not_the_protocol_end_the_run(place: SandboxWorkplace) -> None:
    noise = """
import os, socket
for name in os.listdir("/proc/self/fd"):
    try:
        handle = socket.socket(fileno=os.dup(int(name)))
        handle.getpeername()
        handle.send(b"\\xff" * 4096)
    except OSError:
        pass
import time
time.sleep(30)
"""
    found = run(place.run(notebook(noise, "print('after')")))
    assert found.cells["c0"].failure == "the kernel died"
    assert "not run" in found.cells["c1"].failure


# Nothing is left.


def test_killed_grader_leaves_no_process(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio, sys
        from aiinfra_lab.grading import SandboxWorkplace

        async def whole():
            async with SandboxWorkplace(kind="nested") as place:
                print(place.pid, flush=True)
                cell = {"cell_type": "code", "id": "c", "metadata": {}, "source":
                        "import subprocess, time; subprocess.Popen(['sleep', '3600'],"
                        " start_new_session=True); time.sleep(3600)"}
                await place.run({"cells": [cell]})

        asyncio.run(whole())
        """
    )
    too_long_for_a_socket = tmp_path / ("x" * 100)
    too_long_for_a_socket.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(too_long_for_a_socket)},
    ) as grader:
        assert grader.stdout is not None
        outermost = psutil.Process(int(grader.stdout.readline()))
        family: list[psutil.Process] = []
        for _ in range(400):
            family = [outermost, *outermost.children(recursive=True)]
            if any(process.name() == "sleep" for process in family):
                break
            psutil.wait_procs([outermost], timeout=0.05)
        assert any(process.name() == "sleep" for process in family)
        grader.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


def test_the_next_grader_removes_what_a_killed_one_left() -> None:
    program = textwrap.dedent(
        """
        import asyncio, sys
        from aiinfra_lab.grading import SandboxWorkplace

        async def whole():
            async with SandboxWorkplace(kind="nested") as place:
                print("entered", flush=True)
                sys.stdin.read()

        asyncio.run(whole())
        """
    )
    with tempfile.TemporaryDirectory(prefix="killed-", dir="/tmp") as folder:

        def grader() -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "TMPDIR": folder},
            )

        def left() -> list[str]:
            return sorted(path.name.rpartition("-")[0] for path in Path(folder).iterdir())

        with grader() as killed:
            assert killed.stdout is not None
            assert killed.stdout.readline() == "entered\n"
            killed.send_signal(signal.SIGKILL)
        assert left() == ["aiinfra-kernel", "aiinfra-sandbox"]
        with grader() as following:
            assert following.stdout is not None
            assert following.stdout.readline() == "entered\n"
            assert left() == ["aiinfra-kernel", "aiinfra-sandbox"]  # its own
            following.communicate("")
        assert left() == []


# Other clients.


@pytest.mark.needs("nbclient", "nbformat")
def test_nbclient_runs_unmodified_in_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    from aiinfra_lab.grading import provisioner

    provisioner.register()
    chosen = {
        "provisioner_name": provisioner.NAME,
        "config": {"answers": ["aiinfra_lab.resilience"]},
    }
    spec = KernelSpec(
        argv=["unused"],
        display_name="sandboxed",
        language="python",
        metadata={"kernel_provisioner": chosen},
    )
    monkeypatch.setattr(AsyncKernelManager, "kernel_spec", spec)
    sources = (
        "import os, socket\nprint(os.getuid(), [n for _, n in socket.if_nameindex()])",
        "import aiinfra_lab.resilience.breaker",
        "import time\ntime.sleep(60)",
        "print(6 * 7)",
    )
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    book = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(book, timeout=3, interrupt_on_timeout=True, allow_errors=True)
    client.execute()
    assert book.cells[0].outputs[0].text == "65534 ['lo']\n"
    assert "is the answer of this lab" in book.cells[1].outputs[0].evalue
    assert book.cells[2].outputs[0].ename == "KeyboardInterrupt"
    assert book.cells[3].outputs[0].text == "42\n"
    names = [child.name() for child in psutil.Process().children(recursive=True)]
    assert names.count("bwrap") <= 2  # those of the module's own workplace


def test_a_secret_that_can_be_read_is_a_wall_that_does_not_stand() -> None:
    async def whole() -> dict[str, bool]:
        async with SandboxWorkplace(secrets=[Path(sys.executable)], kind="nested") as place:
            return {wall.name: wall.stood for wall in place.walls}

    walls = run(whole())
    assert not walls.pop("files")
    assert all(walls.values())


@pytest.mark.parametrize("kind", ["nested", "bare"])
def test_a_variable_that_the_sandbox_sets_itself_is_no_leak(
    monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    # Where a grader is started by a notebook, its own kernel has set the same variable.
    monkeypatch.setenv("PYDEVD_USE_FRAME_EVAL", "NO")

    async def whole() -> tuple[str, dict[str, bool]]:
        async with SandboxWorkplace(kind=kind) as place:
            look = "import os\nprint(os.environ.get('PYDEVD_USE_FRAME_EVAL'))"
            found = await place.run(notebook(look))
            return text(found, "c0"), {wall.name: wall.stood for wall in place.walls}

    there, walls = run(whole())
    assert there == "NO\n"  # set inside, by what a kernel imports
    assert walls["environment"]


def test_a_variable_of_the_grader_inside_is_a_wall_that_does_not_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aiinfra_lab.sandbox.bubblewrap import Bubblewrap

    real = Bubblewrap._words

    def leaking(self: Bubblewrap, *words: Any) -> list[str]:
        return [word for word in real(self, *words) if word != "--clearenv"]

    monkeypatch.setattr(Bubblewrap, "_words", leaking)
    monkeypatch.setenv("AAA_GRADER_TOKEN", "secret")

    async def whole() -> dict[str, str]:
        async with SandboxWorkplace(kind="nested") as place:
            return {wall.name: wall.detail for wall in place.walls if not wall.stood}

    missing = run(whole())
    assert missing.keys() == {"environment"}
    assert "AAA_GRADER_TOKEN" in missing["environment"]


def test_entry_point_names_the_provisioner(root: Path) -> None:
    import tomllib

    from aiinfra_lab.grading import provisioner

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    place = project["entry-points"]["jupyter_client.kernel_provisioners"][provisioner.NAME]
    assert place == f"{provisioner.__name__}:{provisioner.SandboxProvisioner.__name__}"
