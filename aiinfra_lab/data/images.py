"""Labelled images in fixed splits, and where they come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Images:
    """Some images with their labels; the arrays are read-only.

    Attributes
    ----------
    pixels : array of uint8, shape (n, height, width)
        0 is background, 255 full ink.
    labels : array of uint8, shape (n,)
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.labels):
            raise ValueError(f"{len(self.pixels)} images but {len(self.labels)} labels")
        self.pixels.setflags(write=False)
        self.labels.setflags(write=False)

    def __len__(self) -> int:
        return len(self.labels)

    def scaled(self) -> NDArray[np.float32]:
        """The pixels as float32 in 0..1, shape (n, height, width); a copy."""
        import numpy as np

        return self.pixels.astype(np.float32) / np.float32(255)

    @property
    def digest(self) -> str:
        """SHA-256 over pixels and labels as ``sha256:<hex>``."""
        total = hashlib.sha256(self.pixels.tobytes())
        total.update(self.labels.tobytes())
        return f"sha256:{total.hexdigest()}"


@dataclass(frozen=True)
class ImageSet:
    """A data set in three splits that share no image, with its papers.

    Models are compared on the same images of ``test``; nothing is ever chosen by looking at it.
    """

    name: str
    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...]
    source: str
    licence: str

    @property
    def digest(self) -> str:
        """SHA-256 over the three splits as ``sha256:<hex>``."""
        parts = "".join(part.digest for part in (self.train, self.validation, self.test))
        return f"sha256:{hashlib.sha256(parts.encode()).hexdigest()}"
