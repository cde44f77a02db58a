"""The loops that ``training.py`` compares, and what it starts on ranks.

All of them learn the same model from the same tensors with the same optimiser. ``recipe`` is the
body of ``aiinfra_lab.training.recipe.train``, piece by piece, without its checkpoints.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from aiinfra_lab.measure import usable_cores
from aiinfra_lab.observability import progress
from aiinfra_lab.training import BatchOrder, Group, TrainStep, models
from aiinfra_lab.training.distributed import process_group
from aiinfra_lab.training.journal import Journal
from aiinfra_lab.training.parallel import parallel
from aiinfra_lab.training.recipe import means, share
from aiinfra_lab.training.reduce import reduce_sums
from aiinfra_lab.training.run_state import RunState

BATCH = 64  # samples of a step, over all ranks
SAMPLES = 4096
LOG_EVERY = 10  # as the recipe does by default
BARE, OURS, FREE = "bare DDP", "aiinfra_lab", "  not deterministic"
ACCELERATE, FABRIC = "accelerate", "Lightning Fabric"
THREADS, ONE = "1 process, all cores", "1 process, its share"
Loop = Callable[[int], None]
Data = tuple[Tensor, Tensor]


class Null(nn.Module):
    """A model that costs as little as autograd lets it: ten of the pixels, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels[:, 0, 0, :10] * self.weight


def drawn(samples: int = SAMPLES) -> Data:
    """Images of noise and labels; what a step costs does not depend on what is in them."""
    generator = torch.Generator().manual_seed(6)
    pixels = torch.rand(samples, 1, 32, 32, generator=generator)
    return pixels, torch.randint(10, (samples,), generator=generator)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)


def bare(
    model: Any,
    optimizer: Any,
    data: Data,
    batch: int,
    backward: Callable[[Tensor], object] = torch.autograd.backward,
) -> Loop:
    """Forward, backward, step on shuffled samples; the peers' way but for ``backward``."""
    pixels, labels = data
    order = torch.randperm(len(labels))
    begins = itertools.cycle(range(0, len(labels) - batch + 1, batch))

    def steps(count: int) -> None:
        for begin in itertools.islice(begins, count):
            index = order[begin : begin + batch]
            optimizer.zero_grad(set_to_none=True)
            backward(functional.cross_entropy(model(pixels[index]), labels[index]))
            optimizer.step()

    return steps


def recipe(
    model: nn.Module,
    data: Data,
    group: Group,
    folder: Path,
    *,
    batch: int = BATCH,
    deterministic: bool = True,
) -> Loop:
    """The recipe's loop, with all that it does beside learning."""
    pixels, labels = data
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    step = TrainStep(model, optimizer, world=group.world)
    state = RunState(group, model, optimizer, schedule)
    order = BatchOrder(len(labels), batch, seed=6)
    batches = order.batches(1_000_000)
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder, enabled=group.first, step=0)
    lines = Path(os.devnull).open("w") if group.first else None  # noqa: SIM115
    reporter = progress(None, mode="off", lines=lines)
    log_sums = torch.zeros_like(state.epoch_sums)

    def steps(count: int) -> None:
        torch.use_deterministic_algorithms(deterministic)
        for drawn_batch in itertools.islice(batches, count):
            own_pixels, own_labels, own = share(drawn_batch, pixels, labels, group)
            sums = step(own_pixels, own_labels, count=own, total=len(drawn_batch))
            schedule.step()
            state.advance(drawn_batch, sums, ends_epoch=drawn_batch.end == order.length)
            log_sums.add_(sums)
            if state.step % LOG_EVERY == 0 or state.offset == 0:
                loss, accuracy = means(reduce_sums(log_sums))
                journal.write(
                    step=state.step, epoch=drawn_batch.epoch, loss=loss, accuracy=accuracy
                )
                reporter.note(loss=loss)
                log_sums.zero_()
            reporter.update(state.step)
        torch.use_deterministic_algorithms(False)

    return steps


# ---- on ranks, started by torchrun


def contest(rounds: int, steps: int, folder: Path) -> None:
    """Time blocks of all contestants in turn; rank 0 writes seconds a step to ``contest.json``."""
    data, seconds = drawn(), dict[str, list[float]]()
    with process_group(device="cpu", timeout_s=120) as group:
        loops, missing = contestants(data, group, folder)
        for loop in loops.values():
            loop(3)  # DDP builds its buckets anew after the first step
        order, dice = [*loops], torch.Generator().manual_seed(6)  # the same on all ranks
        for _ in range(rounds):
            for i in torch.randperm(len(order), generator=dice).tolist():
                dist.barrier()
                began = time.perf_counter()
                loops[order[i]](steps)
                dist.barrier()
                seconds.setdefault(order[i], []).append((time.perf_counter() - began) / steps)
        logs = []
        for _ in range(20 * rounds):
            began = time.perf_counter()
            reduce_sums(torch.zeros(3, dtype=torch.float64))
            logs.append(time.perf_counter() - began)
        if group.first:
            document = {
                "world": group.world,
                "threads": torch.get_num_threads(),
                "missing": missing,
                "seconds": {name: seconds[name] for name in loops},
                "log_s": sorted(logs)[len(logs) // 2],
            }
            (folder / "contest.json").write_text(json.dumps(document), "utf-8")


def contestants(data: Data, group: Group, folder: Path) -> tuple[dict[str, Loop], list[str]]:
    """All loops by name, and the names of those that are not installed here."""
    own, missing = BATCH // group.world, []
    cpu = torch.device("cpu")

    def model() -> nn.Module:
        torch.manual_seed(6)
        return models.build("resnet20")

    first = parallel(model(), device=cpu)
    loops = {BARE: bare(first, sgd(first), data, own)}
    for name, deterministic in ((OURS, True), (FREE, False)):
        wrapped = parallel(model(), device=cpu)
        loops[name] = recipe(
            wrapped, data, group, folder / name.strip(), deterministic=deterministic
        )
    try:
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        its = model()
        prepared, optimizer = accelerator.prepare(its, sgd(its))
        loops[ACCELERATE] = bare(prepared, optimizer, data, own, accelerator.backward)
    except ImportError:
        missing.append(ACCELERATE)
    try:
        from lightning_fabric import Fabric

        fabric = Fabric(accelerator="cpu", devices=group.local_world, strategy="ddp")
        fabric.launch()
        its = model()
        prepared, optimizer = fabric.setup(its, sgd(its))
        loops[FABRIC] = bare(prepared, optimizer, data, own, fabric.backward)
    except ImportError:
        missing.append(FABRIC)
    share_of_threads = torch.get_num_threads()
    for name, batch, threads in (
        (THREADS, BATCH, max(1, int(usable_cores()))),
        (ONE, own, share_of_threads),
    ):
        loops[name] = _alone(bare(*_with_sgd(model()), data, batch), threads, group)
    return loops, missing


def _with_sgd(model: nn.Module) -> tuple[nn.Module, torch.optim.SGD]:
    return model, sgd(model)


def _alone(loop: Loop, threads: int, group: Group) -> Loop:
    """``loop`` on rank 0 with so many threads, while the others sleep in the next barrier."""

    def steps(count: int) -> None:
        if not group.first:
            return
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        loop(count)
        torch.set_num_threads(before)

    return steps


if __name__ == "__main__":
    contest(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.flush()
    os._exit(0)  # as the recipe's ranks end: gloo's threads may abort a process that is done
