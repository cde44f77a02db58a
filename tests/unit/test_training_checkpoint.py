"""Checkpoints: whole or absent, verified, read without running code, and complete."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aiinfra_lab.errors import InputError
from aiinfra_lab.training.checkpoint import (
    CheckpointError,
    Checkpoints,
    random_state,
    restore_random_state,
)
from aiinfra_lab.training.faults import Fault

CPU = torch.device("cpu")


def state(value: float = 1.0) -> dict[str, Any]:
    return {"model": {"w": torch.full((3,), value)}, "step": 4}


@pytest.mark.parametrize("background", [True, False])
def test_the_newest_is_read_as_it_was_written(tmp_path: Path, background: bool) -> None:
    checkpoints = Checkpoints(tmp_path / "c", background=background)
    for step in (5, 10):
        checkpoints.save(step, state(step), {"epoch": step // 5})
    checkpoints.wait()

    found = Checkpoints(tmp_path / "c").latest()

    assert found is not None
    assert (found.step, found.about["epoch"]) == (10, 2)
    assert torch.equal(found.state["model"]["w"], torch.full((3,), 10.0))


def test_a_folder_without_any_has_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "nowhere").latest() is None


def test_only_the_last_ones_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 6):
        checkpoints.save(step, state(), {})
    checkpoints.wait()

    assert checkpoints.steps() == [4, 5]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


@pytest.mark.parametrize("harm", ["cut", "flipped", "no json", "no state"])
def test_a_damaged_one_is_passed_over_and_named(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path, background=False)
    checkpoints.save(1, state(1), {})
    checkpoints.save(2, state(2), {})
    file = tmp_path / "step-00000002" / "state.pt"
    data = bytearray(file.read_bytes())
    match harm:
        case "cut":
            file.write_bytes(data[: len(data) // 2])
        case "flipped":
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        case "no json":
            (file.parent / "checkpoint.json").unlink()
        case "no state":
            file.unlink()

    found = checkpoints.latest()

    assert found is not None
    assert found.step == 1
    assert "step-00000002" in capsys.readouterr().err


def test_one_that_was_being_written_is_none(tmp_path: Path) -> None:
    (tmp_path / ".step-00000007.part").mkdir()
    (tmp_path / ".step-00000007.part" / "state.pt").write_bytes(b"half")

    assert Checkpoints(tmp_path).latest() is None


def test_one_of_a_later_version_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, background=False)
    checkpoints.save(1, state(), {})
    file = tmp_path / "step-00000001" / "checkpoint.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2}))

    with pytest.raises(InputError, match=r"later version.*format 2"):
        checkpoints.latest()


def test_reading_one_runs_no_code_out_of_it(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    checkpoints = Checkpoints(tmp_path / "c", background=False)
    checkpoints.save(1, {"model": Evil()}, {})

    with pytest.raises(InputError, match="more than tensors"):
        checkpoints.latest()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_is_said_and_the_one_before_stays(tmp_path: Path, background: bool) -> None:
    fault = Fault("diskfull", step=2)
    checkpoints = Checkpoints(
        tmp_path,
        background=background,
        before_write=lambda step: fault.before_save(step, attempt=0),
    )
    checkpoints.save(1, state(), {})

    def save_and_wait() -> None:
        checkpoints.save(2, state(), {})
        checkpoints.wait()

    with pytest.raises(CheckpointError, match=r"step 2 .*No space left.*that of step 1 is whole"):
        save_and_wait()

    assert checkpoints.steps() == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    checkpoints.wait()  # said once


def test_writing_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, background=False)
    checkpoints.save(1, state(1), {})
    checkpoints.save(1, state(2), {})

    found = checkpoints.latest()
    assert found is not None
    assert found.state["model"]["w"][0] == 2


def test_a_run_keeps_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        Checkpoints(tmp_path, keep=0)


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    def drawn() -> list[float]:
        return [float(torch.rand(())), random.random(), random.gauss(0, 1), *np.random.randn(3)]

    random.gauss(0, 1)  # leaves a second number behind, which is part of the state
    np.random.randn()
    checkpoints = Checkpoints(tmp_path, background=False)
    checkpoints.save(1, random_state(CPU), {})
    wanted = drawn()
    found = checkpoints.latest()
    assert found is not None
    drawn()

    restore_random_state(found.state, CPU)

    assert drawn() == wanted
