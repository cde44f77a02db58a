"""Telemetry is off unless the user chose otherwise."""

import os

from aiinfra_lab.telemetry import silence_telemetry


def test_telemetry_is_silenced_but_a_choice_of_the_users_stands(monkeypatch):
    for name in ("DO_NOT_TRACK", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    before = dict(os.environ)
    try:
        silence_telemetry()
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert os.environ["DO_NOT_TRACK"] == "1"
        assert os.environ["FLWR_TELEMETRY_ENABLED"] == "1"
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
