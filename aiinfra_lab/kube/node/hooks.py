"""Lifecycle hooks: what a container asks to be done after its start and before its end."""

from __future__ import annotations

import asyncio
import math

from aiinfra_lab.clock import Clock, SystemClock
from aiinfra_lab.kube.node.actions import (
    ActionError,
    ActionFailed,
    Executor,
    Object,
    http_get,
    run_command,
)


async def run_hook(
    handler: Object,
    run: str,
    ip: str,
    runtime: Executor,
    container: Object,
    timeout: float,
    *,
    clock: Clock | None = None,
) -> str:
    """Run one ``postStart`` or ``preStop`` handler.

    Parameters
    ----------
    handler : mapping
        One of ``exec``, ``httpGet`` and ``sleep``, as the API has them.
    run, ip : str
        The runtime's name of the container, and its pod's address.
    runtime : Executor
        Runs the command of ``exec``.
    container : mapping
        As the API has it; its ports have names.
    timeout : float
        Seconds, or infinity; the hook is given up after them.
    clock : Clock, optional
        What ``sleep`` sleeps on.

    Returns
    -------
    str
        Empty, or a sentence that says what failed. As in the kubelet, any HTTP answer is a success.
    """
    limit = None if math.isinf(timeout) else timeout
    try:
        async with asyncio.timeout(limit):
            return await _run(handler, run, ip, runtime, container, limit, clock or SystemClock())
    except TimeoutError:
        return f"the hook did not end within {timeout:g} s"
    except (ActionFailed, ActionError) as error:
        return str(error)


async def _run(
    handler: Object,
    run: str,
    ip: str,
    runtime: Executor,
    container: Object,
    timeout: float | None,
    clock: Clock,
) -> str:
    if "exec" in handler:
        argv = handler["exec"].get("command") or []
        if not argv:
            return "the hook has no command"
        ran = await run_command(runtime, run, argv, timeout=timeout)
        if ran.exit_code:
            said = ran.output.decode(errors="replace").strip()
            sentence = f"command {' '.join(argv)!r} exited with {ran.exit_code}"
            return f"{sentence}: {said}" if said else sentence
    elif "httpGet" in handler:
        await http_get(handler["httpGet"], container, ip, timeout=timeout, agent="lifecycle")
    elif "sleep" in handler:
        await clock.sleep(float(handler["sleep"].get("seconds", 0)))
    else:
        kinds = ", ".join(sorted(handler)) or "nothing"
        return f"this node runs hooks of exec, httpGet and sleep, not {kinds}"
    return ""
