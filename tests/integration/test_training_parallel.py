"""Gradients, state and reductions on real ranks: two for DDP and FSDP, four for the ring.

Starting ranks costs seconds, so each part is one launch in which the ranks make all its checks in
order and write what became of each; the tests read that. This file is also the ranks' program.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from aiinfra_lab.errors import InputError
from aiinfra_lab.processes import Child
from aiinfra_lab.training import models, parallel, reduce

WALL = 150.0  # seconds for a launch; far more than it takes
BATCH = 10
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2}
CPU = torch.device("cpu")


# What the ranks do. Each check gets this rank and the number of ranks.


def _start(seed: int = 6) -> nn.Module:
    """In float64: AdamW makes whole steps of what is left of a sum, so float32 would show it."""
    torch.manual_seed(seed)
    return models.build("mlp").double()


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **SGD)


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def _batch(step: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(100 + step)
    images = torch.randn(BATCH, 1, 32, 32, generator=draw, dtype=torch.float64)
    return images, torch.randint(10, (BATCH,), generator=draw)


def _piece(rank: int, world: int) -> slice:
    """Uneven on purpose: rank 0 has 7 of the 10 samples when there are two ranks."""
    return slice(0, BATCH) if world == 1 else (slice(0, 7), slice(7, BATCH))[rank]


def _backward(
    model: nn.Module, step: int, rank: int, world: int, part: slice | None = None
) -> None:
    images, labels = _batch(step)
    mine = part or _piece(rank, world)
    loss = nn.functional.cross_entropy(model(images[mine]), labels[mine], reduction="sum")
    (loss * world / BATCH).backward()


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, rank: int, world: int
) -> None:
    for step in steps:
        optimizer.zero_grad()
        _backward(model, step, rank, world)
        optimizer.step()


def _look(model: nn.Module) -> Tensor:
    """An evaluation between two steps; FSDP leaves its parameters gathered after it."""
    with torch.no_grad():
        out: Tensor = model(_batch(0)[0])
    return out


def _gradients(model: nn.Module) -> list[Tensor]:
    return [parallel._whole(p.grad).clone() for p in model.parameters() if p.grad is not None]


def _exact(step: int) -> list[Tensor]:
    """The gradients of one process on the whole batch."""
    model = _start()
    _backward(model, step, 0, 1)
    return _gradients(model)


def _close(found: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-9) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


def _from_zero(value: Any) -> Any:
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def _same(a: Any, b: Any) -> bool:
    """Whether two states hold the same bits."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


STRATEGIES: tuple[parallel.Strategy, ...] = ("ddp", "fsdp")
OPTIMIZERS = (_sgd, _adamw)


def _spread(strategy: parallel.Strategy, seed: int = 6, **options: Any) -> nn.Module:
    return parallel.parallel(_start(seed), strategy=strategy, device=CPU, **options)


@contextlib.contextmanager
def _groups_of(numel: int) -> Iterator[None]:
    before, parallel.GROUP_NUMEL = parallel.GROUP_NUMEL, numel
    try:
        yield
    finally:
        parallel.GROUP_NUMEL = before


def check_ten_steps_equal_one_process(rank: int, world: int) -> None:
    for make in OPTIMIZERS:
        alone = _start()
        _train(alone, make(alone), range(10), 0, 1)
        wanted = list(alone.state_dict().values())
        for strategy in STRATEGIES:
            # The other rank's start must not matter.
            model = _spread(strategy, seed=6 + rank)
            _train(model, make(model), range(10), rank, world)
            found = [parallel._whole(v) for v in model.state_dict().values()]
            _close(found, wanted)
            moved = _start().state_dict().values()
            assert all(not torch.equal(a, b) for a, b in zip(moved, wanted, strict=True))


def check_modules_in_groups_of_their_own(rank: int, world: int) -> None:
    with _groups_of(1000):
        model = _spread("fsdp", seed=6 + rank)
    assert [n for n, m in model.named_modules() if parallel._is_sharded(m)] == ["", "1", "4"]
    _backward(model, 0, rank, world)
    _close(_gradients(model), _exact(0))
    shards = model.state_dict()["1.weight"].to_local()
    assert shards.shape == (32, 1024), "each rank holds half of the 64 rows"


def check_state_goes_from_every_strategy_to_every_other(rank: int, world: int) -> None:
    for make in OPTIMIZERS:
        states = {}
        for strategy in STRATEGIES:
            model = _spread(strategy)
            optimizer = make(model)
            _train(model, optimizer, range(3), rank, world)
            seen = _look(model)
            got = parallel.full_state(model, optimizer)
            assert (got == {}) is (rank != 0)
            states[strategy] = _from_zero(got)
            _train(model, optimizer, range(3, 6), rank, world)
            end = _from_zero(parallel.full_state(model, optimizer))
            # On with the same strategy: the same bits, as if nothing had been between.
            again = _spread(strategy, seed=7)
            optimizer = make(again)
            _look(again)
            parallel.load_full_state(again, optimizer, states[strategy])
            assert torch.equal(_look(again), seen)
            _train(again, optimizer, range(3, 6), rank, world)
            assert _same(_from_zero(parallel.full_state(again, optimizer)), end), strategy
        for state in states.values():
            assert list(state["model"]) == list(_start().state_dict())
            assert all(type(t) is Tensor for t in state["model"].values())
            # Alone: the state is what was loaded, and training goes on to the others' end.
            alone = _start(seed=7)
            optimizer = make(alone)
            parallel.load_full_state(alone, optimizer, state)
            assert _same(parallel.full_state(alone, optimizer), state)
            copied = _start()
            copied.load_state_dict(state["model"])
            assert torch.equal(_look(alone), _look(copied))
            _train(alone, optimizer, range(3, 6), 0, 1)
            _close(list(alone.state_dict().values()), list(end["model"].values()))
            for strategy in STRATEGIES:
                other = _spread(strategy, seed=8)
                optimizer = make(other)
                parallel.load_full_state(other, optimizer, state)
                assert _same(_from_zero(parallel.full_state(other, optimizer)), state)


def check_state_stands_still_while_training_goes_on(rank: int, world: int) -> None:
    for strategy in STRATEGIES:
        model = _spread(strategy)
        optimizer = _sgd(model)
        _train(model, optimizer, range(2), rank, world)
        state = parallel.full_state(model, optimizer)
        kept = copy.deepcopy(state)
        _train(model, optimizer, range(2, 4), rank, world)
        assert _same(state, kept)
        # A state that was loaded is not what trains on, either.
        state, kept = _from_zero(state), _from_zero(kept)
        parallel.load_full_state(model, optimizer, state)
        _train(model, optimizer, range(2, 4), rank, world)
        assert _same(state, kept)


def check_asking_for_a_state_before_the_first_step_changes_nothing(rank: int, world: int) -> None:
    for make in OPTIMIZERS:
        for strategy in STRATEGIES:
            ends = []
            for asked in (False, True):
                model = _spread(strategy)
                optimizer = make(model)
                if asked:
                    state = _from_zero(parallel.full_state(model, optimizer))
                    assert state["optimizer"]["state"] == {}
                _train(model, optimizer, range(2), rank, world)
                ends.append(_from_zero(parallel.full_state(model, optimizer)))
            assert _same(*ends)


def check_accumulation_sends_once(rank: int, world: int) -> None:
    mine = _piece(rank, world)
    parts = [slice(i, i + 1) for i in range(mine.start, mine.stop)]
    parts += [slice(0, 0)] * (7 - len(parts))  # the same number of micro-batches on both
    for strategy in STRATEGIES:
        model = _spread(strategy)
        with parallel.accumulating(model):
            for part in parts[:-1]:
                _backward(model, 0, rank, world, part)
            local = [p.grad for p in model.parameters()]
            if strategy == "ddp":
                others = [torch.empty_like(local[0]) for _ in range(world)]
                dist.all_gather(others, local[0])
                assert not torch.equal(*others), "nothing was averaged"
            else:
                assert local == [None] * len(local), "no shard of a gradient yet"
        _backward(model, 0, rank, world, parts[-1])
        _close(_gradients(model), _exact(0))
        # An error inside leaves communication on.
        with contextlib.suppress(KeyError), parallel.accumulating(model):
            raise KeyError
        model.zero_grad()
        _backward(model, 1, rank, world)
        _close(_gradients(model), _exact(1))


def check_clipping_is_by_the_norm_of_the_whole(rank: int, world: int) -> None:
    wanted = _exact(0)
    norm = torch.cat([g.flatten() for g in wanted]).norm()
    for strategy in STRATEGIES:
        model = _spread(strategy)
        for limit in (norm.item() * 2, norm.item() / 3, float("inf")):
            model.zero_grad()
            _backward(model, 0, rank, world)
            found = parallel.clip_gradients(model, limit)
            assert type(found) is Tensor
            torch.testing.assert_close(found, norm, rtol=1e-9, atol=0)
            scale = min(1.0, limit / (norm.item() + 1e-6))  # torch's guard against a norm of 0
            _close(_gradients(model), [g * scale for g in wanted])


def check_bf16_sends_bf16_and_stays_within_its_rounding(rank: int, world: int) -> None:
    model = _spread("ddp", compress="bf16")
    _backward(model, 0, rank, world)
    found = _gradients(model)
    local = _start()
    _backward(local, 0, rank, world)
    for g, exact, own in zip(found, _exact(0), _gradients(local), strict=True):
        assert torch.equal(g.bfloat16().double(), g)
        # Each rank rounds its part once, and their sum is rounded once: 2**-8 each.
        sizes = reduce.reduce_sums(own.abs()) / world
        assert ((g - exact).abs() <= 2**-8 * (sizes + exact.abs()) * 1.01).all()
    assert not all(torch.equal(a, b) for a, b in zip(found, _exact(0), strict=True))


def check_powersgd_sends_rank_one_after_its_warm_up(rank: int, world: int) -> None:
    torch.manual_seed(6)
    # Above 1 MB: DDP's default would make two buckets of it, which gloo does not survive.
    model = parallel.parallel(models.build("resnet20-gn"), compress="powersgd", device=CPU)
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(rank))
    weight = model.get_parameter("module.blocks.8.conv1.weight")
    ranks = []
    for _ in range(parallel.POWERSGD_WARM_UP + 4):
        model.zero_grad()
        nn.functional.cross_entropy(model(images), torch.tensor([1, 2])).backward()
        assert weight.grad is not None
        ranks.append(int(torch.linalg.matrix_rank(weight.grad.flatten(1), rtol=1e-4)))
    assert min(ranks[: parallel.POWERSGD_WARM_UP]) > 1
    assert ranks[-4:] == [1] * 4
    assert torch.equal(_from_zero(weight.grad), weight.grad), "the ranks agree"
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(InputError, match="one dtype"):
        parallel.parallel(mixed, compress="powersgd", device=CPU)


class _Branches(nn.Module):
    """Three layers, of which a rank uses the first and perhaps the second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.used, self.sometimes, self.never = (nn.Linear(4, 2).double() for _ in range(3))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x: Tensor, second: bool) -> Tensor:
        out: Tensor = self.used(x)
        return out + self.sometimes(x) if second else out


def check_average_gradients_weighs_by_samples(rank: int, world: int) -> None:
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mine = x[:6] if rank == 0 else x[6:]
    for bucket_bytes in (reduce.BUCKET_BYTES, 1):
        whole, model = _Branches(), _Branches()
        ((whole(x[:6], True).sum() + whole(x[6:], False).sum()) / 9).backward()
        model(mine, rank == 0).sum(1).mean().backward()
        reduce.average_gradients(model, count=len(mine), bucket_bytes=bucket_bytes)
        assert model.never.weight.grad is None
        assert model.frozen.grad is None
        _close(_gradients(model), _gradients(whole))
    # A rank without samples has nonsense for gradients, and adds nothing.
    model, alone = _Branches(), _Branches()
    alone(x[:6], True).sum(1).mean().backward()
    model(x[:6], True).sum(1).mean().backward()
    if rank == 1:
        for p in model.parameters():
            p.grad = None if p.grad is None else p.grad * float("nan")
    reduce.average_gradients(model, count=6 if rank == 0 else 0)
    _close(_gradients(model), _gradients(alone))
    with pytest.raises(InputError, match="no sample"):
        reduce.average_gradients(model, count=0)


def check_average_gradients_refuses_what_is_averaged(rank: int, world: int) -> None:
    for strategy, word in (("ddp", "DDP"), ("fsdp", "FSDP")):
        model = _spread(strategy)  # type: ignore[arg-type]
        _backward(model, 0, rank, world)
        for inside in (model, nn.Sequential(model)):
            with pytest.raises(InputError, match=f"{word} has averaged"):
                reduce.average_gradients(inside, count=1)


def check_a_mean_over_uneven_ranks(rank: int, world: int) -> None:
    values = torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mine = values[:50] if rank == 0 else values[50:]
    found = reduce.reduce_value(mine.sum(), len(mine))
    assert found == pytest.approx(values.mean().item(), rel=1e-12)
    assert abs(mine.mean().item() - found) > 1e-3, "a mean of means would be another number"
    # Past what float32 counts exactly.
    assert reduce.reduce_value((2**24 + 1) if rank == 0 else 0, 1 - rank) == 2**24 + 1
    assert reduce.reduce_sums(torch.tensor([rank, 1])).tolist() == [1, 2]
    with pytest.raises(InputError, match="on all ranks"):
        reduce.reduce_value(0.0, 0)


def check_an_optimiser_from_before_is_refused(rank: int, world: int) -> None:
    model = _start()
    optimizer = _sgd(model)
    model = parallel.parallel(model, strategy="fsdp", device=CPU)
    with pytest.raises(InputError, match="from what parallel"):
        parallel.full_state(model, optimizer)


def ring_of(size: int) -> Callable[[int, int], None]:
    def check(rank: int, world: int) -> None:
        group = dist.new_group(list(range(size)))
        if rank < size:
            for n in (0, 1, 2, 3, 5, 1000, 1001, 65_537):
                _ring(n, rank, size, group)

    return check


def _ring(n: int, rank: int, size: int, group: dist.ProcessGroup) -> None:
    draw = torch.Generator().manual_seed(1000 * n + rank)
    whole_numbers = torch.randint(-9, 9, (n,), generator=draw)
    for op, reference in (
        ("sum", dist.ReduceOp.SUM),
        ("prod", dist.ReduceOp.PRODUCT),
        ("max", dist.ReduceOp.MAX),
        ("min", dist.ReduceOp.MIN),
    ):
        found, wanted = whole_numbers.clone(), whole_numbers.clone()
        assert reduce.ring_all_reduce(found, op, group=group) is found
        if n:
            dist.all_reduce(wanted, op=reference, group=group)
        assert torch.equal(found, wanted), (n, op)
    numbers = torch.randn(n, generator=draw)
    wanted = numbers.clone()
    reduce.ring_all_reduce(numbers, group=group)
    if n == 0:
        return
    dist.all_reduce(wanted, group=group)
    torch.testing.assert_close(numbers, wanted, rtol=1e-5, atol=1e-5)
    if size == 2:
        assert torch.equal(numbers, wanted)
    everyones = [torch.empty_like(numbers) for _ in range(size)]
    dist.all_gather(everyones, numbers, group=group)
    assert all(torch.equal(numbers, other) for other in everyones), "the same bits on all ranks"


def check_a_ring_over_a_tensor_with_gaps(rank: int, world: int) -> None:
    table = torch.arange(24.0).view(4, 6) + rank
    column, rest = table[:, 1::2], table[:, ::2].clone()
    reduce.ring_all_reduce(column)
    assert torch.equal(table[:, 1::2], (torch.arange(24.0).view(4, 6) * 4 + 6)[:, 1::2])
    assert torch.equal(table[:, ::2], rest), "what lies between is not touched"
    parameter = nn.Parameter(torch.ones(3))
    reduce.ring_all_reduce(parameter)
    assert parameter.tolist() == [4, 4, 4]


TWO: dict[str, Callable[[int, int], None]] = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_") and "ring" not in name
}
FOUR: dict[str, Callable[[int, int], None]] = {
    **{f"a_ring_of_{size}_equals_all_reduce": ring_of(size) for size in (2, 3, 4)},
    "a_ring_over_a_tensor_with_gaps": check_a_ring_over_a_tensor_with_gaps,
}


def _main(part: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    rank, world = dist.get_rank(), dist.get_world_size()
    became: dict[str, str] = {}
    for name, check in (TWO if part == "TWO" else FOUR).items():
        try:
            check(rank, world)
            became[name] = "ok"
        except Exception:
            became[name] = traceback.format_exc()
        (folder / f"{part}.{rank}").write_text(json.dumps(became))
        if became[name] != "ok":  # the ranks may no longer be at the same place
            break
    dist.barrier()
    dist.destroy_process_group()


# The tests.


def _launched(part: str, nproc: int, folder: Path) -> list[dict[str, str]]:
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    argv += ["--nproc-per-node", str(nproc), __file__, part, folder]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::UserWarning"}
    with Child([str(word) for word in argv], log=folder / f"{part}.log", env=env) as child:
        child.wait(WALL)
        files = [folder / f"{part}.{rank}" for rank in range(nproc)]
        return [
            json.loads(file.read_text()) if file.exists() else {"": child.tail(60)}
            for file in files
        ]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    return _launched("TWO", 2, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    return _launched("FOUR", 4, tmp_path_factory.mktemp("ranks"))


def _judge(name: str, ranks: list[dict[str, str]]) -> None:
    for rank, became in enumerate(ranks):
        if became.get(name) != "ok":
            *_, last = became.values()
            pytest.fail(f"rank {rank}: {became.get(name) or f'not reached: {last}'}", pytrace=False)


@pytest.mark.parametrize("name", TWO)
def test_on_two_ranks(name: str, two: list[dict[str, str]]) -> None:
    _judge(name, two)


@pytest.mark.parametrize("name", FOUR)
def test_on_four_ranks(name: str, four: list[dict[str, str]]) -> None:
    _judge(name, four)


def test_one_process_needs_no_group(tmp_path: Path) -> None:
    model = _start()
    assert parallel.parallel(model, strategy="fsdp", device="cpu") is model
    optimizer = _sgd(model)
    with parallel.accumulating(model):
        _backward(model, 0, 0, 1)
    assert parallel.clip_gradients(model, 1e-3) > 1e-3
    total = torch.cat([g.flatten() for g in _gradients(model)]).norm()
    assert total == pytest.approx(1e-3, rel=1e-3)
    optimizer.step()
    torch.save(parallel.full_state(model, optimizer), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    other = _start(seed=7)
    optimizer = _sgd(other)
    parallel.load_full_state(other, optimizer, state)
    assert _same(parallel.full_state(other, optimizer), state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "tp"}, "strategy 'tp'; needed one of ddp, fsdp"),
        ({"compress": "fp8"}, "compression 'fp8'; needed one of none, bf16, powersgd"),
        ({"strategy": "fsdp", "compress": "bf16"}, "a hook of DDP"),
    ],
)
def test_what_cannot_be_spread_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parallel.parallel(_start(), device="cpu", **options)


@pytest.mark.parametrize("norm", [0, -1.0, float("nan")])
def test_a_limit_that_is_none_is_refused(norm: float) -> None:
    with pytest.raises(InputError, match="max_norm"):
        parallel.clip_gradients(_start(), norm)


def _broken_states() -> Iterator[tuple[str, Callable[[dict[str, Any]], Any], str]]:
    def change(path: tuple[str, ...], value: Any) -> Callable[[dict[str, Any]], Any]:
        def act(state: dict[str, Any]) -> None:
            *way, last = path
            for key in way:
                state = state[key]
            state[last] = value

        return act

    yield "nothing", lambda state: state.clear(), "no model and optimiser"
    yield "missing", lambda state: state["model"].pop("1.bias"), "'1.bias' .* found none"
    yield "shape", change(("model", "1.bias"), torch.ones(3)), r"'1.bias' .* \(3,\)"
    yield "dtype", change(("model", "1.bias"), torch.ones(64)), "found torch.float32"
    yield "unknown", change(("model", "9.bias"), torch.ones(64)), "'9.bias' .* needed none"
    yield "group", lambda state: state["optimizer"]["param_groups"].pop(), "found 0 groups"
    yield "options", lambda s: s["optimizer"]["param_groups"][0].update(betas=1), "options betas"
    yield "stranger", change(("optimizer", "state", "9.bias"), {}), "other parameters; found 9.bias"


@pytest.mark.parametrize(
    ("spoil", "words"), [pytest.param(*rest, id=name) for name, *rest in _broken_states()]
)
def test_a_state_of_something_else_changes_nothing(
    spoil: Callable[[dict[str, Any]], Any], words: str
) -> None:
    trained, model = _start(), _start(seed=7)
    optimizer = _sgd(trained)
    _train(trained, optimizer, range(1), 0, 1)
    state = parallel.full_state(trained, optimizer)
    spoil(state)
    optimizer = _sgd(model)
    before = parallel.full_state(model, optimizer)
    with pytest.raises(InputError, match=words):
        parallel.load_full_state(model, optimizer, state)
    assert _same(parallel.full_state(model, optimizer), before)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
