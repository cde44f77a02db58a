"""The models that the course trains, by name: small ones for a laptop, ResNet-50 for the chapter.

``build`` draws the start from torch's global generator, so ``torch.manual_seed`` before it decides
every weight.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor, nn
from torch.nn import functional

from aiinfra_lab.errors import InputError

SIDE = 32  # pixels; what mlp takes exactly, and what the others were made for

Norm = Callable[[int], nn.Module]


def build(name: str, *, classes: int = 10, channels: int = 1, dropout: float = 0.0) -> nn.Module:
    """A freshly initialised classifier: (n, ``channels``, 32, 32) float to (n, ``classes``) logits.

    Parameters
    ----------
    name : str
        A key of ``MODELS``: ``mlp``, ``resnet20``, ``resnet20-gn`` or ``resnet50``.
    classes, channels : int
    dropout : float
        Probability that an activation before a linear layer is dropped, in [0, 1). It does not
        change the names of the parameters.

    Raises
    ------
    InputError
        There is no model of that name, or a number is out of its range.

    Notes
    -----
    ``mlp`` and ``resnet20-gn`` have no batch statistics: a sample's output does not depend on
    its batch, so any number of ranks computes the same gradient as one process. ``resnet20`` and
    ``resnet50`` normalise over the rank's own batch.
    """
    if name not in MODELS:
        raise InputError(f"there is no model {name!r}", needed=f"one of {', '.join(MODELS)}")
    for what, value in (("classes", classes), ("channels", channels)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{what} must be a whole number of at least 1", found=repr(value))
    if not 0 <= dropout < 1:
        raise InputError("dropout must lie in [0, 1)", found=repr(dropout))
    return MODELS[name](classes, channels, dropout)


class ResNet(nn.Module):
    """The residual network for 32 × 32 images of He et al., depth ``6 n + 2``.

    A 3 × 3 convolution to 16 channels, three stages of ``n`` blocks with 16, 32 and 64 channels at
    32, 16 and 8 pixels, the mean over the pixels, one linear layer. Shortcuts have no parameters
    (the paper's option A). With ``n=3`` and 10 classes it has 269 722 parameters for 3 channels
    (the paper's 0.27 M) and 269 434 for one; 41 million multiply-adds a sample.

    Parameters
    ----------
    n : int
        Blocks of a stage.
    classes, channels : int
    dropout : float
        Before the linear layer; not in the paper.
    norm : callable
        Makes the normalisation of so many channels.

    References
    ----------
    He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2015), section 4.2;
    initialisation: the same authors, "Delving deep into rectifiers" (2015).
    """

    def __init__(
        self, n: int, *, classes: int, channels: int, dropout: float = 0.0, norm: Norm
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(channels, 16), norm(16), nn.ReLU())
        widths = [16] * (n + 1) + [32] * n + [64] * n
        self.blocks = nn.Sequential(*(_Block(a, b, norm) for a, b in itertools.pairwise(widths)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(64, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, height, width)."""
        features: Tensor = self.blocks(self.stem(images)).mean(dim=(2, 3))
        logits: Tensor = self.head(self.dropout(features))
        return logits


class _Block(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut; a wider output has half the pixels."""

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.more = outputs - inputs
        self.conv1, self.norm1 = _conv(inputs, outputs, self.stride), norm(outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs), norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)))
        # Every second pixel, and channels of zeros behind the others.
        same = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return functional.relu(self.norm2(self.conv2(inner)) + same)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def mlp(classes: int, channels: int, dropout: float) -> nn.Module:
    """Two hidden layers of 64 units on 32 × 32 pixels; 70 410 parameters for 1 channel."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * SIDE * SIDE, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, classes),
    )


def resnet20(classes: int, channels: int, dropout: float) -> nn.Module:
    """``ResNet`` with three blocks a stage and batch normalisation, as in the paper."""
    return ResNet(3, classes=classes, channels=channels, dropout=dropout, norm=nn.BatchNorm2d)


def resnet20_gn(classes: int, channels: int, dropout: float) -> nn.Module:
    """``resnet20`` with group normalisation over 8 groups (Wu and He 2018): no batch statistics.

    The number of parameters is the same.
    """
    norm = functools.partial(nn.GroupNorm, 8)
    return ResNet(3, classes=classes, channels=channels, dropout=dropout, norm=norm)


def resnet50(classes: int, channels: int, dropout: float) -> nn.Module:
    """torchvision's ResNet-50 with fresh weights; 23 528 522 parameters for 3 channels, 10 classes.

    He et al. (2015), with the stride in the 3 × 3 convolution. It was made for 224 × 224 pixels
    and takes any size; 32 × 32 are 1 pixel at its end.
    """
    from torchvision.models import resnet50 as torchvisions  # type: ignore[import-untyped]

    model = torchvisions(weights=None, num_classes=classes)
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    # The pool has no parameters, so the names stay what they are without dropout.
    model.avgpool = nn.Sequential(model.avgpool, nn.Dropout(dropout))
    network: nn.Module = model
    return network


MODELS: Mapping[str, Callable[[int, int, float], nn.Module]] = MappingProxyType(
    {"mlp": mlp, "resnet20": resnet20, "resnet20-gn": resnet20_gn, "resnet50": resnet50}
)
