"""One step's gradient is that of the mean over all samples, however they are spread."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from aiinfra_lab.training.sampler import piece
from aiinfra_lab.training.step import TrainStep, evaluate


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(6)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    torch.manual_seed(7)
    return torch.randn(11, 1, 4, 4), torch.randint(0, 4, (11,))


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def step_of(model: nn.Module, **words: object) -> tuple[nn.Module, TrainStep]:
    twin = copy.deepcopy(model)
    return twin, TrainStep(twin, torch.optim.SGD(twin.parameters(), lr=0.0), **words)  # type: ignore[arg-type]


def whole(model: nn.Module, samples: tuple[Tensor, Tensor]) -> list[Tensor]:
    twin = copy.deepcopy(model)
    torch.autograd.backward(nn.functional.cross_entropy(twin(samples[0]), samples[1]))
    return gradients(twin)


@pytest.mark.parametrize("accumulate", [1, 2, 3, 11, 15])
def test_micro_batches_of_any_size_give_the_gradient_of_the_whole(
    model: nn.Module, samples: tuple[Tensor, Tensor], accumulate: int
) -> None:
    twin, step = step_of(model, accumulate=accumulate)

    sums = step(*samples, count=11, total=11)

    for found, wanted in zip(gradients(twin), whole(model, samples), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    loss = nn.functional.cross_entropy(model(samples[0]), samples[1], reduction="sum")
    assert sums[0].item() == pytest.approx(loss.item(), rel=1e-6)
    assert sums[2].item() == 11


@pytest.mark.parametrize("world", [2, 3, 12])
def test_the_average_over_uneven_ranks_is_the_gradient_of_the_whole(
    model: nn.Module, samples: tuple[Tensor, Tensor], world: int
) -> None:
    pixels, labels = samples
    total: list[Tensor] = [torch.zeros_like(p) for p in model.parameters()]
    counted = 0.0
    for rank in range(world):
        own = range(11)[piece(11, rank, world)]
        indices = torch.tensor([*own] or [0])
        twin, step = step_of(model, world=world)
        counted += step(pixels[indices], labels[indices], count=len(own), total=11)[2].item()
        total = [t + g for t, g in zip(total, gradients(twin), strict=True)]

    assert counted == 11
    for found, wanted in zip(total, whole(model, samples), strict=True):
        torch.testing.assert_close(found / world, wanted, rtol=1e-5, atol=1e-7)


def test_the_gradient_is_clipped_as_a_whole(
    model: nn.Module, samples: tuple[Tensor, Tensor]
) -> None:
    twin, step = step_of(model, clip_norm=0.01)

    step(*samples, count=11, total=11)

    norm = torch.cat([g.flatten() for g in gradients(twin)]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_leaves_weights_and_gradients_in_float32(
    model: nn.Module, samples: tuple[Tensor, Tensor]
) -> None:
    twin, step = step_of(model, precision="bfloat16")

    step(*samples, count=11, total=11)

    assert {p.dtype for p in twin.parameters()} == {torch.float32}
    for found, wanted in zip(gradients(twin), whole(model, samples), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.02)
        assert not torch.equal(found, wanted)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_an_evaluation_counts_each_sample_once_and_keeps_the_mode(
    model: nn.Module, samples: tuple[Tensor, Tensor], batch_size: int
) -> None:
    model.train()

    loss, right, count = evaluate(model, *samples, batch_size=batch_size).tolist()

    logits = model(samples[0])
    assert loss / count == pytest.approx(
        nn.functional.cross_entropy(logits, samples[1]).item(), rel=1e-6
    )
    assert right == (logits.argmax(1) == samples[1]).sum().item()
    assert count == 11
    assert model.training
