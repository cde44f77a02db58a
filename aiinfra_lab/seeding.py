"""One seed for everything that draws, and named streams that do not disturb each other.

``seed_everything(3)`` sets the global generators of Python and numpy, and those of torch and
TensorFlow when they are already imported: seeding must not be what makes a program slow to
start. Code of the course draws from ``stream(seed, name)``: a new consumer under a new name
then changes nobody else's numbers, which one shared generator cannot promise.
"""

from __future__ import annotations

import hashlib
import random
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def substream_seed(seed: int | str, *names: str) -> int:
    """A 64-bit seed that depends on ``seed`` and every name, and on their order.

    SHA-256 keeps the sub-streams unrelated also for neighbouring seeds, where ``seed + 1``
    would give two parts of a program the same numbers.

    Raises
    ------
    ValueError
        A name holds a NUL, which stands between the names.
    """
    parts = [str(seed), *names]
    if any("\0" in part for part in parts):
        raise ValueError(f"a name of a stream must not hold a NUL: {parts}")
    text = "\0".join(parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def stream(seed: int | str, *names: str) -> np.random.Generator:
    """A numpy generator of its own for the consumer called ``names``."""
    import numpy as np

    return np.random.default_rng(substream_seed(seed, *names))


def seed_everything(seed: int) -> None:
    """Seed Python and numpy, and torch and TensorFlow if this process has imported them.

    ``seed`` must fit in 32 bits without a sign, which is what numpy's legacy generator takes.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in 0..2**32-1, found {seed}")
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.random.set_seed(seed)
