"""The telemetry of dependencies, switched off: the course sends nothing anywhere."""

from __future__ import annotations

import os

# Dependencies that report home by default.
_TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def silence_telemetry() -> None:
    """Tell every dependency, in this process and its children, to report nothing."""
    for name, value in _TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
