"""The files of the folder ``cluster`` that the package reads.

They are found in the course's folder (``AIINFRA_COURSE``, else the checkout of this package), else
where a wheel leaves them: ``share/aiinfra`` below the environment's own folder.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from aiinfra_lab.errors import MissingNeed
from aiinfra_lab.settings import settings

PLACE, SHARE = Path("cluster"), Path("share/aiinfra")


def find_shared(name: str, what: str) -> Path:
    """The file ``cluster/<name>`` of this installation; ``what`` it is, for the error.

    Raises
    ------
    MissingNeed
        There is none: the package was installed without it.
    """
    roots = [settings().course, Path(__file__).resolve().parents[2]]
    files = [root / PLACE / name for root in roots if root]
    files.append(Path(sysconfig.get_path("data")) / SHARE / name)
    for file in files:
        if file.is_file():
            return file
    raise MissingNeed(
        f"{what} is not here",
        needed=str(PLACE / name),
        fix="Set AIINFRA_COURSE to a checkout of the course.",
    )
