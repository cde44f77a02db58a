"""The images from nothing to a tag: what is there is taken, and the rest is made once.

Nothing half done counts: a program has its stamp, a step its mark and the archive its name only
when they are whole, so a build that was cut off goes on where it was.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from aiinfra_lab.errors import AIInfraLabError, ProcessError
from aiinfra_lab.kube.installation import take_turn, unwritable
from aiinfra_lab.kube.kind.engine import Engine, last_line, run, sentence
from aiinfra_lab.kube.kind.messages import say
from aiinfra_lab.kube.kind.node_image import checks, leftovers
from aiinfra_lab.kube.kind.node_image.archive import find_archive, load_archive, save_archive
from aiinfra_lab.kube.kind.node_image.estimate import Meter, Task, duration
from aiinfra_lab.kube.kind.node_image.programs import (
    PROGRAMS,
    Wanted,
    compile_program,
    gather,
    present,
    wanted_programs,
)
from aiinfra_lab.kube.kind.node_image.recipe import NODE, PYTHON, Recipe, images_folder
from aiinfra_lab.kube.kind.node_image.steps import Script, is_no_space, no_space

#: The steps of the node image in their order, with their seconds on two cores.
STEPS = {"system": 60.0, "images": 20.0, "node": 40.0}
_ARCHIVE, _ARCHIVE_S = "archive", 30.0
_PYTHON, _PYTHON_S = "python", 45.0
_TAG_S = 60.0
# GB that a build takes: of Go's caches if all has to be compiled, of the course's cache, of Docker.
_GO_GB, _CACHE_GB, _DOCKER_GB = 4.0, 3.0, 3.0
_PYTHON_GB = 0.5  # of the cache and of Docker


def make_node_image(*, again: bool = False, archive: bool = True) -> str:
    """Have the node image of this course, and give its name.

    It is the local one of this key, else one out of the archive in the cache, else it is made,
    which takes minutes and needs root.

    Parameters
    ----------
    again : bool
        Make it even where it is; the programs that are compiled stay.
    archive : bool
        Also have it in a file of the cache.

    Raises
    ------
    MissingNeed
        The machine lacks something; said before anything is begun wherever that can be known.
    ProcessError
        A step failed; what was done before is kept.
    """
    recipe, engine = Recipe.find(), Engine.docker()  # the script speaks to no other
    if not again and engine.has_image(recipe.tag) and (find_archive(recipe) or not archive):
        return recipe.tag
    with _turn():
        work = images_folder() / f"build-{recipe.key}"
        if again:
            leftovers.remove_folder(work)
        if again or not (engine.has_image(recipe.tag) or load_archive(engine, recipe)):
            _build_node(recipe, engine, work, archive=archive)
        elif archive and not find_archive(recipe):
            task = Task(_ARCHIVE, "step", _ARCHIVE_S)
            with Meter([task], "archive of the node image, seconds") as meter:
                _archive(recipe, engine, meter)
        leftovers.remove_builds()
        leftovers.remove_old_images(engine, NODE, recipe.tag)
        if path := find_archive(recipe):
            leftovers.remove_old_archives(path)
    return recipe.tag


def make_python_image(*, again: bool = False) -> str:
    """Have the small Debian image with Python, also called ``latest``, and give its name.

    Raises
    ------
    MissingNeed, ProcessError
        As ``make_node_image``.
    """
    recipe, engine = Recipe.find(), Engine.docker()  # the script speaks to no other
    if again or not engine.has_image(recipe.python_tag):
        with _turn():
            if again or not engine.has_image(recipe.python_tag):
                _build_python(recipe, engine, again=again)
            leftovers.remove_old_images(engine, PYTHON, recipe.python_tag)
    done = run((engine.program, "tag", recipe.python_tag, f"{PYTHON}:latest"), _TAG_S)
    if done.returncode != 0:
        raise ProcessError(f"the image got no second name: {last_line(done.stderr)}")
    return recipe.python_tag


def _build_node(recipe: Recipe, engine: Engine, work: Path, *, archive: bool) -> None:
    programs = wanted_programs(recipe)
    lacking = [wanted for wanted in programs if present(wanted) is None]
    env = {"PROGRAMS": str(work / "programs"), "KUBERNETES": recipe.version, "TAG": recipe.tag}
    script = Script(recipe.script, work, "the node image", env)
    script.see_to("node", "images")  # its image is not there, or is to be made anew
    tasks = [Task(wanted.name, "compile", PROGRAMS[wanted.name]) for wanted in lacking]
    tasks += [Task(step, "step", STEPS[step]) for step in STEPS if not script.is_done(step)]
    tasks += [Task(_ARCHIVE, "step", _ARCHIVE_S)] if archive else []
    checks.check_system("the node image", "cluster node-image")
    checks.check_go(len(lacking))
    _check_room(engine, lacking, recipe.tag, tasks)
    work.mkdir(parents=True, exist_ok=True)
    with _full_disk_said("the node image"), Meter(tasks, "node image, seconds") as meter:
        for wanted in lacking:
            with meter.task(wanted.name, f"compiling {wanted.name} {wanted.tool.version}".strip()):
                compile_program(wanted, meter.tick)
        gather(programs, work / "programs")
        for step in STEPS:
            with meter.task(step), _healed(script, step):
                script.run(step, meter.tick, meter.say)
        _see_image(engine, recipe.tag, script)
        if archive:
            _archive(recipe, engine, meter)


def _build_python(recipe: Recipe, engine: Engine, *, again: bool) -> None:
    work = images_folder() / f"build-python-{recipe.python_key}"
    if again:
        leftovers.remove_folder(work)
    words = "the Python image"
    checks.check_system(words, "cluster python-image")
    _check_room(engine, [], recipe.python_tag, [Task(_PYTHON, "step", _PYTHON_S)])
    work.mkdir(parents=True, exist_ok=True)
    script = Script(recipe.script, work, words, {"PYTHON_TAG": recipe.python_tag})
    script.see_to(_PYTHON)
    task = Task(_PYTHON, "step", _PYTHON_S)
    with _full_disk_said(words), Meter([task], "Python image, seconds") as meter:
        with meter.task(_PYTHON):
            script.run(_PYTHON, meter.tick, meter.say)
        _see_image(engine, recipe.python_tag, script)
    leftovers.remove_folder(work)


def _check_room(engine: Engine, lacking: list[Wanted], tag: str, tasks: list[Task]) -> None:
    """Say what it will take, and see that it is there."""
    only_python = [task.name for task in tasks] == [_PYTHON]
    cache, images = (_PYTHON_GB, _PYTHON_GB) if only_python else (_CACHE_GB, _DOCKER_GB)
    share = sum(PROGRAMS[wanted.name] for wanted in lacking) / sum(PROGRAMS.values())
    room = {images_folder(): cache, checks.go_folder(): _GO_GB * share}
    if folder := checks.docker_folder(engine):
        room[folder] = images
    checks.check_disk(room)
    time = duration(sum(task.seconds for task in tasks))
    first = " the first time" if len(lacking) == len(PROGRAMS) else ""
    say(f"making {tag}: {time}{first}, {sum(room.values()):.0f} GB of disk meanwhile")


def _archive(recipe: Recipe, engine: Engine, meter: Meter) -> None:
    """Have the archive too; without it the image is as good, so nothing fails."""
    log = images_folder() / "archive.log"
    try:
        with meter.task(_ARCHIVE, "writing the archive"):
            save_archive(engine, recipe, log, meter.tick)
    except (AIInfraLabError, OSError) as error:
        why = sentence(error) if isinstance(error, AIInfraLabError) else error.strerror
        say(f"the image is there, but no archive of it: {why}")
    finally:
        for path in (log, log.with_name(f"{log.name}.1")):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _healed(script: Script, step: str) -> Iterator[None]:
    """After a node that failed, make its images again too: Docker may have lost them."""
    try:
        yield
    except AIInfraLabError:
        if step == "node":
            script.forget("images")
        raise


def _see_image(engine: Engine, tag: str, script: Script) -> None:
    if not engine.has_image(tag):
        raise ProcessError(
            f"all steps of {script.words} ended well, and yet there is no image {tag}",
            fix=f"What they said: {script.work / 'logs'}",
        )


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """Be the only one that makes images into this cache."""
    folder = images_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        turn = contextlib.ExitStack()
        turn.enter_context(take_turn(folder / "build.lock", "another build of an image"))
    except OSError as error:
        raise unwritable(folder, error) from None
    with turn:
        try:
            yield
        except KeyboardInterrupt:
            say("what is done so far is kept: the same command goes on from there")
            raise


@contextlib.contextmanager
def _full_disk_said(words: str) -> Iterator[None]:
    try:
        yield
    except ProcessError as error:
        if is_no_space(error.tail):
            raise no_space(words, "compiling") from None
        raise
    except (OSError, shutil.Error) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(words, error.filename or "") from None
        raise
