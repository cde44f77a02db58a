"""Charts as inline SVG without a script or an image: they follow the page's colours and width.

Horizontal places are percentages and vertical ones pixels, so that a chart fills any width while
its text keeps its size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from aiinfra_lab.grading.pages import number

_MOST_BINS = 16
_HEIGHT, _TOP, _FOOT = 150, 18, 36  # of the bars, above them, below them; pixels
_LEFT = 5.0  # per cent, for the title of the vertical axis
_LABELS = 6


def histogram(values: Sequence[float], *, top: float, unit: str, noun: str) -> Markup:
    """How many values lie where between 0 and ``top``; the last bin includes its end."""
    width = _nice_width(top)
    bins = max(1, math.ceil(top / width - 1e-9))
    counts = Counter(min(int(value / width + 1e-9), bins - 1) for value in values)
    tallest = max(counts.values(), default=1)
    step = (100 - 2 * _LEFT) / bins
    base = _TOP + _HEIGHT
    parts = []
    for index in range(bins):
        count = counts[index]
        height = count / tallest * _HEIGHT
        place = f"{number(index * width, 3)} to {number((index + 1) * width, 3)} {unit}"
        x = _LEFT + index * step
        parts.append(
            Markup(
                '<g><title>{}: {}</title><rect class="bar" x="{:.2f}%" y="{:.1f}"'
                ' width="{:.2f}%" height="{:.1f}"/>'
            ).format(place, count, x + 0.06 * step, base - height, 0.88 * step, height)
        )
        if count:
            parts.append(_text(x + step / 2, base - height - 5, str(count), "count"))
        parts.append(Markup("</g>"))
    every = math.ceil(bins / _LABELS)
    parts += [
        _text(_LEFT + edge * step, base + 15, number(edge * width, 3), "tick")
        for edge in range(0, bins + 1, every)
    ]
    parts.append(
        Markup('<line class="axis" x1="{}%" x2="{}%" y1="{}" y2="{}"/>').format(
            _LEFT, 100 - _LEFT, base, base
        )
    )
    parts.append(_text(50, base + 31, unit, "unit"))
    label = f"{noun} by {unit}: {len(values)} values from 0 to {number(top, 3)}"
    return _svg(parts, base + _FOOT, label)


def _nice_width(top: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are not too many bins."""
    if not top > 0:
        return 1.0
    exponent = math.floor(math.log10(top / _MOST_BINS))
    # The rounding keeps 0.1 from becoming 0.1000001, which would cost a bin.
    widths = (round(factor * 10.0**exponent, 12) for factor in (1, 2, 5, 10))
    return next(width for width in widths if top / width <= _MOST_BINS + 1e-9)


def shares(counts: Mapping[str, int], *, height: int = 14) -> Markup:
    """One bar in parts, each of the class that is its key."""
    total = sum(counts.values()) or 1
    parts, x = [], 0.0
    for name, count in counts.items():
        width = 100 * count / total
        if count:
            parts.append(
                Markup(
                    '<rect class="{}" x="{:.2f}%" width="{:.2f}%" height="{}"><title>{}: {}'
                    "</title></rect>"
                ).format(name.replace(" ", "-"), x, width, height, name, count)
            )
        x += width
    label = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return _svg(parts, height, label or "none")


def _text(x: float, y: float, text: str, name: str) -> Markup:
    return Markup('<text class="{}" x="{:.2f}%" y="{:.1f}">{}</text>').format(name, x, y, text)


def _svg(parts: Sequence[Markup], height: int, label: str) -> Markup:
    return Markup('<svg role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(
        label, height, Markup("").join(parts)
    )
