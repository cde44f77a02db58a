"""What answers when no endpoint does: another server with an older model, or a declared default.

A fallback is an answer of another worth, so it says so: ``Answer.source`` and ``Answer.reason``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.answers import Prediction
from aiinfra_lab.resilience.checks import positive
from aiinfra_lab.resilience.endpoints import checked_url


@dataclass(frozen=True)
class LastGoodModel:
    """Another server, with the model that was good before.

    Parameters
    ----------
    url : str
        Its base URL. It has a breaker of its own and gets one attempt, from no retry budget.
    reserve : float, optional
        Seconds of the deadline that the live endpoints must leave to it; by default the client's
        ``attempt_timeout``, but at most half of the deadline.
    """

    url: str
    reserve: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", checked_url(self.url))
        if self.reserve is not None:
            positive("reserve", self.reserve)


@dataclass(frozen=True)
class Default:
    """A declared answer, the same for every instance.

    Parameters
    ----------
    label : str
    probabilities : sequence of float
        In the order of the classes; empty where the default claims none.
    """

    label: str
    probabilities: Sequence[float] = ()

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "probabilities", tuple(self.probabilities))
            self.prediction()
        except (TypeError, ValueError):
            raise InputError(
                "a default has a label, and probabilities that are finite numbers",
                found=f"{self.label!r}, {self.probabilities!r}",
            ) from None

    def prediction(self) -> Prediction:
        """It as a prediction."""
        return Prediction(label=self.label, probabilities=tuple(self.probabilities))


Fallback = LastGoodModel | Default


def checked_fallbacks(given: Fallback | Sequence[Fallback] | None) -> tuple[Fallback, ...]:
    """``given`` as a tuple, in the order in which they are tried.

    Raises
    ------
    InputError
        Something else than a fallback, or one that stands behind a ``Default``.
    """
    if given is None:
        return ()
    found = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    for each in found:
        if not isinstance(each, (LastGoodModel, Default)):
            raise InputError(
                "a fallback is a LastGoodModel or a Default, or a list of them", found=repr(each)
            )
    if any(isinstance(each, Default) for each in found[:-1]):
        raise InputError(
            "a Default always answers, so nothing behind it is ever asked",
            fix="Put it at the end of the fallbacks.",
        )
    return found
