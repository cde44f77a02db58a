"""``python -m aiinfra_lab.kube.runtime FOLDER``: the container runtime of one node.

It serves until TERM, which ends all its containers within two seconds. Whoever starts it (a
``Child``) has a reaper above it: if the runtime is killed, the reaper ends what ran.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.kube.runtime.server import Server
from aiinfra_lab.processes.reaper import PR_SET_CHILD_SUBREAPER, prctl


def main(words: list[str]) -> int:
    """Serve; the exit code."""
    try:
        if len(words) != 1:
            raise InputError("the runtime needs one word: its folder")
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        Server(Path(words[0])).run()
    except AIInfraLabError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
