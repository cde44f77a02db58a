"""Train an image classifier on one rank or many; ``train`` reads from top to bottom.

    from aiinfra_lab.training import TrainingConfig, train
    result = train(TrainingConfig.of(epochs=1), "out")

Every rank calls it. In the folder ``out`` rank 0 leaves ``config.json``, ``checkpoints/``,
``metrics.jsonl`` (a line each ``log_every`` steps and at the end of an epoch), ``model/`` (a bundle
of the registry) and ``result.json``. A folder in which a run was cut off is gone on with: with the
same number of ranks to the same bits, with another number in the same order of the data.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from aiinfra_lab.data import Images, load_digits
from aiinfra_lab.errors import InputError
from aiinfra_lab.observability import Reporter, progress
from aiinfra_lab.seeding import seed_everything, substream_seed
from aiinfra_lab.training import models
from aiinfra_lab.training.checkpoint import Checkpoints
from aiinfra_lab.training.config import TrainingConfig
from aiinfra_lab.training.distributed import Group, process_group
from aiinfra_lab.training.faults import read_fault
from aiinfra_lab.training.journal import Journal
from aiinfra_lab.training.parallel import full_state, parallel
from aiinfra_lab.training.product import digest_weights, register, write_model
from aiinfra_lab.training.reduce import reduce_sums
from aiinfra_lab.training.result import Result, write_result
from aiinfra_lab.training.run_state import RunState
from aiinfra_lab.training.sampler import Batch, BatchOrder, piece
from aiinfra_lab.training.step import TrainStep, evaluate

SIDE = 32  # pixels: the digits' 28 with a margin of two
EVALUATION_BATCH = 256


def train(config: TrainingConfig, out: str | Path) -> Result:
    """Train, or go on with the run in ``out``; the same result on every rank.

    Raises
    ------
    InputError
        Another run lies in ``out``, the batch is larger than the data set, there are more ranks
        than samples in a batch, or the ranks differ in data or configuration.
    CheckpointError
        A checkpoint could not be written.
    RankLost
        Another rank does not answer any more.
    RegistryAway
        The model is trained and kept, and waits for the registry.
    """
    folder = Path(out).absolute()
    fault = read_fault()
    with process_group(device=config.device, timeout_s=config.timeout_s) as group:
        data = load_digits()
        pixels, labels = as_tensors(data.train, group.device, config.samples)
        test_pixels, test_labels = as_tensors(data.test, group.device, None)
        order = BatchOrder(len(labels), config.batch_size, seed=config.seed)
        agree(config, group, data.digest, folder)

        seed_everything(config.seed)  # the same start on every rank
        torch.use_deterministic_algorithms(True)
        # It would also fill every new tensor, which no operation here reads before it writes.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        model = parallel(
            models.build(config.model, dropout=config.dropout).to(group.device),
            strategy=config.strategy,
            compress=config.compress,
            device=group.device,
        )
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        steps = order.steps_per_epoch * config.epochs
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_then_cosine(config, steps))
        step = TrainStep(
            model,
            optimizer,
            world=group.world,
            accumulate=config.accumulate,
            precision=config.precision,
            clip_norm=config.clip_norm,
        )
        # Each rank drops other units, which the one seed of the start would not give.
        torch.manual_seed(substream_seed(config.seed, "rank", str(group.rank)) % 2**63)

        checkpoints = Checkpoints(
            folder / "checkpoints",
            keep=config.keep,
            before_write=lambda at: (
                fault.before_save(at, attempt=group.restarts) if fault else None
            ),
        )
        state = RunState(group, model, optimizer, schedule)
        resumed_from = state.restore(checkpoints)
        journal = Journal(folder, enabled=group.first, step=state.step)
        log_sums = torch.zeros_like(state.epoch_sums)
        model.train()
        with report(steps, state.step, group) as reporter:
            for batch in order.batches(config.epochs, epoch=state.epoch, offset=state.offset):
                if fault:
                    fault.before_step(state.step + 1, rank=group.rank, attempt=group.restarts)
                own_pixels, own_labels, count = share(batch, pixels, labels, group)
                sums = step(own_pixels, own_labels, count=count, total=len(batch))
                schedule.step()
                state.advance(batch, sums, ends_epoch=batch.end == order.length)
                log_sums += sums
                if state.step % config.log_every == 0 or state.offset == 0:
                    loss, accuracy = means(reduce_sums(log_sums))
                    journal.write(step=state.step, epoch=batch.epoch, loss=loss, accuracy=accuracy)
                    reporter.note(loss=loss)
                    log_sums.zero_()
                if state.step % config.checkpoint_every == 0 or state.step == steps:
                    state.save(checkpoints)
                reporter.update(state.step)

        own = piece(len(test_labels), group.rank, group.world)
        test_sums = reduce_sums(
            evaluate(model, test_pixels[own], test_labels[own], batch_size=EVALUATION_BATCH)
        )
        checkpoints.wait()
        weights = full_state(model, optimizer).get("model", {})  # whole on rank 0
        train_loss, train_accuracy = means(state.train_sums)
        test_loss, test_accuracy = means(test_sums)
        result = Result(
            model_sha256=str(group.gather(digest_weights(weights))[0]),
            model=config.model,
            seed=config.seed,
            epochs=config.epochs,
            steps=state.step,
            world=group.world,
            samples=order.length,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            test_samples=len(test_labels),
            resumed_from=resumed_from,
            restarts=group.restarts,
            out=str(folder),
        )
        if group.first:
            write_model(folder, weights, config, result, data)
            write_result(folder, result)
    # Outside the group: the others need not wait while rank 0 talks to the registry.
    if group.first and config.register_as:
        register(folder, config)
    return result


def as_tensors(images: Images, device: torch.device, limit: int | None) -> tuple[Tensor, Tensor]:
    """Pixels in 0..1, shape (n, 1, 32, 32), and labels, shape (n,), on ``device``."""
    margin = (SIDE - images.pixels.shape[1]) // 2
    pixels = torch.from_numpy(images.scaled()[:limit]).unsqueeze(1)
    labels = torch.from_numpy(images.labels[:limit].astype("int64"))
    return nn.functional.pad(pixels, [margin] * 4).to(device), labels.to(device)


def agree(config: TrainingConfig, group: Group, digest: str, folder: Path) -> None:
    """Refuse what cannot work before the first step, with one sentence on every rank."""
    if group.world > config.batch_size:
        raise InputError(
            f"{group.world} ranks cannot share a batch of {config.batch_size} samples",
            fix="Take fewer ranks or a larger batch.",
        )
    seen = group.gather((digest, config.decisive))
    for rank, value in enumerate(seen):
        if value != seen[0]:
            raise InputError(
                f"rank {rank} on {group.hosts[rank]} has other data or another configuration "
                "than rank 0",
                fix="Give every host the same course and the same words.",
            )
    problem: object = None
    if group.first:
        try:
            config.claim(folder)
        except InputError as error:
            problem = error
    first = group.gather(problem)[0]
    if isinstance(first, InputError):
        raise first


def warm_up_then_cosine(config: TrainingConfig, steps: int) -> Callable[[int], float]:
    """The share of the learning rate at a step: a line up, then half a cosine to zero.

    Goyal et al. 2017 (arXiv:1706.02677), section 2.2, and Loshchilov and Hutter 2017
    (arXiv:1608.03983), without restarts.
    """
    rising = max(1, round(config.warmup * steps))

    def at(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return at


def share(batch: Batch, pixels: Tensor, labels: Tensor, group: Group) -> tuple[Tensor, Tensor, int]:
    """This rank's samples of a batch, at least one, and how many of them count."""
    own = torch.from_numpy(batch.of(group.rank, group.world))
    count = len(own)
    if not count:
        own = torch.from_numpy(batch.indices[:1])
    return pixels[own], labels[own], count


def means(sums: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy out of the sums of ``TrainStep``."""
    loss, right, count = sums.tolist()
    return loss / count, right / count


def report(steps: int, done: int, group: Group) -> Reporter[int]:
    """Rank 0's progress: lines for the launcher under torchrun, else what suits the output."""
    if not group.first:
        return progress(steps, initial=done, mode="off")
    if "RANK" in os.environ:
        return progress(steps, initial=done, mode="off", lines=sys.stderr)
    return progress(steps, "training", initial=done)
