"""The forked child's side of a start: it becomes the program, or says why it cannot.

Everything here runs between fork and exec, in a copy of a process with one thread. What it has
to say goes through a pipe that a successful exec closes: ``@<mount namespace>``, with `` -`` where
its cgroup did not take it, then nothing; or ``!<sentence>``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from aiinfra_lab.kube.runtime import namespaces
from aiinfra_lab.kube.runtime.mounts import MountProblem, View
from aiinfra_lab.kube.runtime.namespaces import Isolation
from aiinfra_lab.kube.runtime.spec import ContainerSpec
from aiinfra_lab.sandbox.cgroups import Cgroup

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Host:
    """What all starts of one runtime have in common."""

    isolation: Isolation
    staging: str  # an empty folder
    files: tuple[int, int]  # the limits of open files that programs get


class StartProblem(Exception):
    """The program cannot be started; the text is a sentence for people."""


def become(
    spec: ContainerSpec,
    host: Host,
    cgroup: Cgroup | None,
    mark: Mapping[str, str],
    stdio: Sequence[int],
    report: int,
    *,
    argv: Sequence[str] = (),
    inside: int = 0,
    terminal: bool = False,
) -> NoReturn:
    """Become the container's program; or, with ``argv``, one more in the container ``inside``.

    Parameters
    ----------
    mark : mapping
        Variables by which the process and its descendants are known.
    stdio : sequence of int
        Three descriptors.
    report : int
        The pipe's end.
    inside : int
        The pid of a process of the container that runs already.
    terminal : bool
        Descriptor 0 is a terminal, which the new session gets for its own.
    """
    try:
        parent = os.getppid()
        _settle(stdio, terminal)
        namespaces.die_with_parent()
        refused = cgroup is not None and not cgroup.add(os.getpid())
        _enter(spec, host, inside)
        os.write(report, b"@%s%s\n" % (namespaces.of().encode(), b" -" if refused else b""))
        _change_user(spec)
        # Again: a new user, or a new namespace of users, has undone it.
        namespaces.die_with_parent()
        if os.getppid() != parent:
            os._exit(128)
        resource.setrlimit(resource.RLIMIT_NOFILE, host.files)
        os.umask(0o022)
        _execute(list(argv or spec.argv), {**spec.env, **mark})
    except (StartProblem, MountProblem) as problem:
        _say(report, str(problem))
    except OSError as error:
        _say(report, f"the container cannot be set up: {error.strerror or error}")
    except BaseException as error:
        _say(report, f"the container cannot be set up: {error!r}")
    finally:
        os._exit(128)


def _say(report: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(report, b"!" + text.encode("utf-8", "replace")[:2000])


def _settle(stdio: Sequence[int], terminal: bool) -> None:
    """A session of its own, the three descriptors, and signals as a program expects them."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)
    if terminal:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _enter(spec: ContainerSpec, host: Host, inside: int) -> None:
    if inside and host.isolation != "none":
        namespaces.join(inside, host.isolation)
    elif host.isolation != "none":
        namespaces.enter(host.isolation)
        view = View(host.staging)
        view.add(spec.mounts)
        # Every runtime makes a working folder that an image lacks.
        if not Path(spec.cwd).exists():
            view.place(spec.cwd, folder=True)
    try:
        os.chdir(spec.cwd)
    except OSError as error:
        raise StartProblem(f"the folder {spec.cwd} cannot be entered: {error.strerror}") from None


def _change_user(spec: ContainerSpec) -> None:
    user = os.geteuid() if spec.user is None else spec.user
    group = os.getegid() if spec.group is None else spec.group
    if (user, group) == (os.geteuid(), os.getegid()):
        return
    try:
        os.setgroups([group])
        os.setgid(group)
        os.setuid(user)
    except OSError as error:
        raise StartProblem(
            f"it cannot run as user {user} and group {group}: {error.strerror}; this node is "
            f"run by user {os.geteuid()}"
        ) from None


def _execute(argv: list[str], env: dict[str, str]) -> NoReturn:
    name = argv[0]
    folders = [""] if "/" in name else env.get("PATH", _PATH).split(":")
    refused = None
    for folder in folders:
        try:
            os.execve(f"{folder}/{name}" if folder else name, argv, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            refused = error
        except OSError as error:
            raise StartProblem(f'exec "{name}": {_explained(error)}') from None
    if refused is not None:
        raise StartProblem(f'exec "{name}": it may not be executed (permission denied)')
    if "/" not in name:
        raise StartProblem(f'exec "{name}": no such program on the PATH of the container')
    if Path(name).exists():
        raise StartProblem(f'exec "{name}": the interpreter that its first line names is missing')
    raise StartProblem(f'exec "{name}": no such file')


def _explained(error: OSError) -> str:
    if error.errno == errno.ENOEXEC:
        return "it is neither a program of this machine nor a script with a first line #!"
    if error.errno == errno.E2BIG:
        return "its words and variables are longer than the system takes"
    return error.strerror or str(error)
