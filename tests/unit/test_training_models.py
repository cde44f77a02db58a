"""The models have the sizes of their papers, and their start is the seed's."""

import pytest
import torch

from aiinfra_lab.errors import InputError
from aiinfra_lab.training import models

LAPTOP = ["mlp", "resnet20", "resnet20-gn"]


def parameters(name, **options):
    return sum(p.numel() for p in models.build(name, **options).parameters())


@pytest.mark.parametrize(
    ("name", "channels", "number"),
    [
        ("mlp", 1, 70_410),
        ("resnet20", 1, 269_434),
        ("resnet20", 3, 269_722),
        ("resnet20-gn", 3, 269_722),
        ("resnet50", 3, 23_528_522),
    ],
)
def test_the_number_of_parameters_is_the_documented_one(name, channels, number):
    assert parameters(name, channels=channels) == number


@pytest.mark.parametrize("name", models.MODELS)
def test_images_become_logits_and_every_parameter_learns(name):
    model = models.build(name, classes=7, channels=2, dropout=0.1)
    logits = model(torch.randn(3, 2, 32, 32))
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", models.MODELS)
def test_the_seed_decides_the_start_and_dropout_changes_no_name(name):
    def start(seed, **options):
        torch.manual_seed(seed)
        return models.build(name, **options).state_dict()

    first, again, dropped, other = start(6), start(6), start(6, dropout=0.5), start(7)
    assert list(first) == list(dropped)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(("name", "depends"), [*((n, n == "resnet20") for n in LAPTOP)])
def test_only_batch_normalisation_makes_a_sample_depend_on_its_batch(name, depends):
    torch.manual_seed(6)
    model = models.build(name).train()
    images = torch.randn(8, 1, 32, 32)
    alone, among = model(images[:2]), model(images)[:2]
    assert torch.allclose(alone, among, atol=1e-5) is not depends


@pytest.mark.parametrize("name", LAPTOP)
def test_dropout_drops_in_training_only(name):
    torch.manual_seed(6)
    model, images = models.build(name, dropout=0.5), torch.randn(4, 1, 32, 32)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_the_layers_of_resnet20_halve_the_pixels_twice():
    model = models.build("resnet20")
    sizes = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    model(torch.zeros(1, 1, 32, 32))
    assert sizes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3


def test_a_wider_block_passes_every_second_pixel_on_with_zeros_behind():
    block = models.build("resnet20").blocks[3]
    torch.nn.init.zeros_(block.norm2.weight)  # the convolutions say nothing
    images = torch.rand(2, 16, 32, 32)
    out = block(images)
    assert torch.equal(out[:, :16], images[:, :, ::2, ::2])
    assert not out[:, 16:].any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet18"}, "'resnet18'; needed one of mlp, resnet20, resnet20-gn, resnet50"),
        ({"name": "mlp", "classes": 0}, "classes must be .* found 0"),
        ({"name": "mlp", "channels": 1.5}, "channels must be .* found 1.5"),
        ({"name": "mlp", "dropout": 1.0}, "dropout .* found 1.0"),
        ({"name": "mlp", "dropout": float("nan")}, "dropout .* found nan"),
    ],
)
def test_what_no_model_has_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        models.build(**arguments)
