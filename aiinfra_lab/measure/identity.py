"""What a measurement was made on, to stand beside its numbers."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from aiinfra_lab.measure.capacity import memory, usable_cores


def machine() -> dict[str, Any]:
    """The machine in a few words: processor, usable cores, memory, system, Python, and its load.

    The load is the run queue's mean over the last minute; above the number of cores, somebody
    else was at work and absolute times are worth little. No host name and no path is in it.
    """
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gib": round(memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
