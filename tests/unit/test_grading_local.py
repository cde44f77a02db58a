"""The place without walls: it runs what it is given, side by side, and says what it lacks."""

from __future__ import annotations

import asyncio
import threading

import pytest
from builders import code, notebook

from aiinfra_lab.course.runner import CellRun
from aiinfra_lab.errors import ProcessError
from aiinfra_lab.grading.local import LocalWorkplace

NOTEBOOK = notebook(code("a", "1"))


class Executor:
    def __init__(self, run):
        self._run = run

    def run(self, notebooks):
        return {key: self._run(made) for key, made in notebooks.items()}


def cells(made):
    return {cell["id"]: CellRun(cell["id"], []) for cell in made["cells"]}


async def test_it_gives_what_the_executor_gave_and_the_time_it_took():
    async with LocalWorkplace(executor=Executor(cells)) as place:
        run = await place.run(NOTEBOOK)
    assert run.cells == cells(NOTEBOOK)
    assert run.limit == ""
    assert run.seconds > 0


async def test_two_notebooks_run_at_the_same_time():
    both = threading.Barrier(2, timeout=30)

    def meet(made):
        both.wait()
        return cells(made)

    async with LocalWorkplace(executor=Executor(meet)) as place:
        await asyncio.gather(place.run(NOTEBOOK), place.run(NOTEBOOK))


async def test_an_executor_that_is_broken_is_the_workplaces_error():
    def broken(made):
        raise ProcessError("no kernel")

    async with LocalWorkplace(executor=Executor(broken)) as place:
        with pytest.raises(ProcessError, match="no kernel"):
            await place.run(NOTEBOOK)


async def test_nobody_waits_for_a_run_after_an_interrupt():
    go = threading.Event()

    def slow(made):
        go.wait(30)
        return cells(made)

    async with LocalWorkplace(executor=Executor(slow)) as place:
        task = asyncio.create_task(place.run(NOTEBOOK))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (thread,) = (t for t in threading.enumerate() if t.name == "grading")
        assert thread.daemon
        go.set()
        thread.join(30)
        await asyncio.sleep(0)


def test_it_says_which_walls_are_missing_and_why():
    place = LocalWorkplace(cell_timeout_s=7, why="bwrap is not there")
    missing = {wall.name: wall.detail for wall in place.walls if not wall.stood}
    assert set(missing) == {"files", "network", "processes", "memory"}
    assert all("bwrap is not there" in detail for detail in missing.values())
    assert [wall.detail for wall in place.walls if wall.stood] == ["7 s for each cell"]


async def test_where_no_sandbox_starts_the_place_without_walls_says_why(monkeypatch):
    from aiinfra_lab.course.checking import Lab
    from aiinfra_lab.course.metadata import read_metadata
    from aiinfra_lab.errors import MissingNeed
    from aiinfra_lab.grading import workplace
    from aiinfra_lab.grading.local import best_workplace

    class Nothing:
        def __init__(self, *args, **kwargs):
            pass

        async def __aenter__(self):
            raise MissingNeed("bwrap is not there")

        async def __aexit__(self, *error):
            raise AssertionError("it was never entered")

    monkeypatch.setattr(workplace, "SandboxWorkplace", Nothing)
    lab = Lab(read_metadata(notebook(), "m"), notebook(), (), 1, {}, {})
    async with best_workplace(lab) as place:
        assert isinstance(place, LocalWorkplace)
        assert any("bwrap is not there" in wall.detail for wall in place.walls)
