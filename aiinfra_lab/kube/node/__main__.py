"""``python -m aiinfra_lab.kube.node ORDER``: the agent of one node; see ``order`` for the file.

TERM ends it within a second and leaves the containers to the runtime and the next agent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from aiinfra_lab.errors import AIInfraLabError, InputError


def main(words: list[str]) -> int:
    """Be the agent; the exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        if len(words) != 1:
            raise InputError("the node agent needs one word: the file with its order")
        asyncio.run(_serve(words[0]))
    except AIInfraLabError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


async def _serve(order: str) -> None:
    from aiinfra_lab.kube.node.agent import Agent
    from aiinfra_lab.kube.node.order import Order

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Agent(Order.read(order)).run(stop)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # A thread that waits for a slow disk must not hold up the end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
