"""Checkpoints: all that a run needs to go on as if nothing had happened.

A checkpoint is a folder ``step-00000020`` with ``state.pt`` and ``checkpoint.json``, which holds
the digest of the first. It is written under another name, forced to the disk and renamed, so a
folder of that name is whole unless the disk lies; and that is what the digest finds. ``state.pt``
holds tensors and plain values only and is read with ``weights_only=True``: reading a checkpoint
runs no code out of it.

Writing happens on a thread. The training waits only for the copy of its tensors to be made, and,
when it saves again, for the writing before.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.files import digest_bytes, digest_file, write_bytes, write_json

FORMAT = 1
STATE, ABOUT = "state.pt", "checkpoint.json"
_NAME = re.compile(r"step-(\d{8})")


class CheckpointError(AIInfraLabError):
    """A checkpoint could not be written."""


@dataclass(frozen=True)
class Checkpoint:
    """One that was read and verified.

    Attributes
    ----------
    step : int
    about : dict
        What the run wrote down beside the state.
    state : dict
    folder : Path
    """

    step: int
    about: dict[str, Any]
    state: dict[str, Any]
    folder: Path


class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    folder : str or Path
        Made at the first save.
    keep : int
        How many stay; the newest.
    background : bool
        Write on a thread.
    before_write : callable, optional
        Called with the step in front of each writing: where tests let the disk be full.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 3,
        background: bool = True,
        before_write: Callable[[int], None] | None = None,
    ) -> None:
        if keep < 1:
            raise InputError("a run keeps at least one checkpoint", found=str(keep))
        self.folder, self.keep, self.background = Path(folder), keep, background
        self._before_write = before_write or (lambda step: None)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, step: int, state: dict[str, Any], about: dict[str, Any]) -> None:
        """Write a checkpoint; ``state`` must not change any more (give copies).

        Raises
        ------
        CheckpointError
            This one, or the one before it on the thread, could not be written.
        """
        self.wait()
        if not self.background:
            self._write(step, state, about)
            self.wait()
            return
        self._thread = threading.Thread(
            target=self._write, args=(step, state, about), name="checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last save is on the disk.

        Raises
        ------
        CheckpointError
            It could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint; damaged ones are named on stderr and passed over.

        Raises
        ------
        InputError
            The newest was written by a later version of this course.
        """
        for step in sorted(self.steps(), reverse=True):
            folder = self.folder / _name(step)
            try:
                return _read(step, folder)
            except (OSError, ValueError, KeyError) as error:
                print(f"aiinfra: passing over {folder}: {error}", file=sys.stderr)
        return None

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, in order."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def _write(self, step: int, state: dict[str, Any], about: dict[str, Any]) -> None:
        part = self.folder / f".{_name(step)}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            self._before_write(step)
            buffer = io.BytesIO()
            torch.save(state, buffer)
            with buffer.getbuffer() as data:  # not a second copy of the state
                write_bytes(part / STATE, data)
                digest = digest_bytes(data)
            write_json(part / ABOUT, {"format": FORMAT, "step": step, "sha256": digest} | about)
            target = self.folder / _name(step)
            shutil.rmtree(target, ignore_errors=True)  # a damaged one, or of the attempt before
            part.rename(target)
            _sync_folder(self.folder)
            for old in self.steps()[: -self.keep]:
                shutil.rmtree(self.folder / _name(old), ignore_errors=True)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            whole = max((s for s in self.steps() if s < step), default=None)
            last = "there is none before it" if whole is None else f"that of step {whole} is whole"
            self._failure = CheckpointError(
                f"the checkpoint of step {step} could not be written to {self.folder}: "
                f"{error.strerror or error}; {last}",
                fix="Make room and start again with the same --out: the run goes on from there.",
            )
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)
            self._failure = error


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _read(step: int, folder: Path) -> Checkpoint:
    about = json.loads((folder / ABOUT).read_text("utf-8"))
    if about["format"] > FORMAT:
        raise InputError(
            f"the checkpoint {folder} was written by a later version",
            found=f"format {about['format']}",
            needed=f"format {FORMAT}",
            fix="Update the course, or train in another folder.",
        )
    if (found := digest_file(folder / STATE)) != about["sha256"]:
        raise ValueError(f"{STATE} has the digest {found}, needed {about['sha256']}")
    try:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"the checkpoint {folder} holds more than tensors and plain values",
            found=str(error).strip().splitlines()[0],
            fix="It was not written by this course; do not use it.",
        ) from None
    return Checkpoint(step, about, state, folder)


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk when its folder is; where the system can (not Windows)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- random states


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every generator that a training draws from, on this rank."""
    version, keys, gauss = random.getstate()
    _, keys_of_numpy, *rest = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(keys), gauss],
        "numpy": [torch.from_numpy(np.asarray(keys_of_numpy).astype(np.int64)), *rest],
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set what ``random_state`` gave."""
    torch.set_rng_state(state["torch"])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
