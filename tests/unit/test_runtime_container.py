"""What may be asked of the runtime, and that it arrives as it was sent."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.runtime.container import checked
from aiinfra_lab.kube.runtime.containers import checked_seconds
from aiinfra_lab.kube.runtime.failures import NotRunning, described, error_of
from aiinfra_lab.kube.runtime.spec import ContainerSpec, Mount

GOOD = ContainerSpec(
    id="0b9e-1.main.0",
    argv=("sh", "-c", "true"),
    env={"A": "=1\n", "B": ""},
    log=Path("/var/log/a.log"),
    cwd="/tmp",
    mounts=(Mount(source=Path("/a"), target="/b", read_only=True),),
    memory=1 << 20,
    cpus=0.5,
    user=0,
    group=7,
    labels={"uid": "1"},
)


def test_good_spec_crosses_the_socket_unchanged() -> None:
    document = json.loads(json.dumps(GOOD.to_json()))
    assert checked(ContainerSpec.from_json(document)) == GOOD


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"id": ""}, "id is wrong"),
        ({"id": "../x"}, "id is wrong"),
        ({"id": "ä"}, "id is wrong"),
        ({"id": "x" * 513}, "id is wrong"),
        ({"argv": ()}, "no program"),
        ({"argv": ("",)}, "no program"),
        ({"argv": ("sh", "a\0b")}, "zero byte"),
        ({"env": {"A": "secret\0"}}, "zero byte"),
        ({"env": {"A\0": ""}}, "zero byte"),
        ({"cwd": "/\0"}, "zero byte"),
        ({"env": {"": "1"}}, "name is empty"),
        ({"env": {"A=B": "1"}}, "holds '='"),
        ({"cwd": "tmp"}, "relative"),
        ({"log": Path("a.log")}, "relative"),
        ({"mounts": (Mount(source=Path("/a"), target="b"),)}, "relative"),
        ({"memory": 0}, "memory is 0"),
        ({"memory": -1}, "memory is -1"),
        ({"cpus": 0.0}, "cpus is 0"),
        ({"cpus": float("nan")}, "cpus is nan"),
        ({"user": -1}, "user is -1"),
        ({"group": -1}, "group is -1"),
    ],
)
def test_bad_spec_is_refused_by_name(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        checked(dataclasses.replace(GOOD, **fields))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), 2e9])
def test_time_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="grace"):
        checked_seconds("grace", value)
    assert checked_seconds("grace", 0) == 0


def test_errors_cross_the_socket_with_their_fields() -> None:
    error = InputError("wrong", needed="a", found="b", fix="C.")
    again = error_of(json.loads(json.dumps(described(error))))
    assert (type(again), str(again)) == (InputError, str(error))
    assert isinstance(error_of(described(NotRunning("gone"))), NotRunning)


def test_runtime_is_small() -> None:
    # Each of these would add to every start and to its memory.
    code = (
        "import sys, aiinfra_lab.kube.runtime.__main__\n"
        "print(*{'asyncio', 'psutil', 'pydantic', 'aiohttp', 'subprocess'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"
