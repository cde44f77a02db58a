"""The runtime of ``cluster/kind/dockerd.sh`` that asks for one capability less: with a runc that
does nothing but repeat its words."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from docker_machine import SCRIPT

KINDS = ("bounding", "effective", "permitted", "inheritable", "ambient")


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    text = SCRIPT.read_text().split("<<'RUNTIME'\n")[1].split("RUNTIME\n")[0]
    file = tmp_path / "bounded-runc"
    file.write_text(text)
    file.chmod(0o755)
    return file


def asked(runtime: Path, *words: str) -> list[str]:
    """The words that runc is given."""
    runc = runtime.parent / "runc"
    runc.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    runc.chmod(0o755)
    path = f"{runtime.parent}:{os.environ['PATH']}"
    done = subprocess.run([runtime, *words], env={"PATH": path}, capture_output=True, check=True)
    return done.stdout.decode().splitlines()


def document(indent: int | None, *names: str) -> str:
    words = ["capsh", "--drop", "CAP_SYS_RESOURCE", 'say "CAP_SYS_RESOURCE", twice', "]"]
    caps = {kind: list(names) for kind in KINDS}
    return json.dumps({"process": {"args": words, "capabilities": caps}}, indent=indent)


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize(
    "names",
    [
        ("CAP_SYS_RESOURCE",),
        ("CAP_SYS_RESOURCE", "CAP_CHOWN"),
        ("CAP_CHOWN", "CAP_SYS_RESOURCE"),
        ("CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_KILL", "CAP_SYS_RESOURCE"),
        ("CAP_CHOWN",),
        (),
    ],
)
@pytest.mark.parametrize("option", ["--bundle {}", "--bundle={}", "-b {}", "-b={}"])
def test_one_capability_is_taken_out_and_nothing_else(
    runtime: Path, tmp_path: Path, indent: int | None, names: tuple[str, ...], option: str
) -> None:
    bundle = tmp_path / "a bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text(document(indent, *names))
    words = ["--root", "/x", "create", *(w.format(bundle) for w in option.split()), "id"]
    assert asked(runtime, *words) == words
    kept = [name for name in names if name != "CAP_SYS_RESOURCE"]
    assert json.loads((bundle / "config.json").read_text()) == json.loads(document(None, *kept))


@pytest.mark.parametrize("option", ["--process", "-p", "--process="])
def test_an_exec_asks_for_less_too(runtime: Path, tmp_path: Path, option: str) -> None:
    file = tmp_path / "process.json"
    file.write_text(document(None, "CAP_KILL", "CAP_SYS_RESOURCE"))
    word = [f"{option}{file}"] if option.endswith("=") else [option, str(file)]
    asked(runtime, "exec", *word, "--pid-file", "/x", "id")
    assert json.loads(file.read_text()) == json.loads(document(None, "CAP_KILL"))


def test_other_calls_are_handed_on(runtime: Path) -> None:
    assert asked(runtime, "state", "an id", "") == ["state", "an id", ""]
    assert asked(runtime, "create", "--bundle", "/nowhere", "id")[-1] == "id"
