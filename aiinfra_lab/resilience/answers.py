"""What goes to a model server and what comes back, checked to the last field.

A server that answers 200 with half a body or the wrong number of predictions is as broken as one
that does not answer, so the form is checked where it arrives, not where it is used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from aiinfra_lab.errors import InputError

Source = Literal["live", "last_good", "default"]


class Prediction(BaseModel):
    """One prediction.

    Attributes
    ----------
    label : str
    probabilities : tuple of float
        In the order of the model's classes; empty in a default that claims none.
    """

    model_config = ConfigDict(frozen=True)

    label: str
    probabilities: tuple[FiniteFloat, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gives.

    Attributes
    ----------
    predictions : tuple of Prediction
        One for each instance, in their order.
    model, version : str
        Who predicted; empty for a declared default.
    source : {"live", "last_good", "default"}
        ``live`` is one of the client's endpoints; the others are its fallbacks.
    reason : str
        Why the answer is not live; empty if it is.
    endpoint : str
        The URL that answered; empty for a declared default.
    """

    predictions: tuple[Prediction, ...]
    model: str
    version: str
    source: Source = "live"
    reason: str = ""
    endpoint: str = ""

    @property
    def prediction(self) -> Prediction:
        """The first prediction, which after ``predict`` is the only one."""
        return self.predictions[0]


@dataclass(frozen=True, slots=True)
class Question:
    """A request as it goes over the wire, made once for all its attempts.

    ``instances`` is the number of predictions that it asks for; None for a single one, which the
    contract spells otherwise than a batch of one.
    """

    body: bytes
    instances: int | None = None

    @property
    def size(self) -> int:
        """How many predictions answer it."""
        return 1 if self.instances is None else self.instances


def ask_one(instance: object) -> Question:
    """The question for one instance; see ``MLServiceClient.predict``."""
    return Question(_encode("instance", _plain("an instance", instance)))


def ask_many(instances: object) -> Question:
    """The question for a batch; see ``MLServiceClient.predict_batch``."""
    rows = _plain("a batch", instances)
    if not isinstance(rows, (list, tuple)) or not rows:
        raise InputError(
            "a batch is a sequence of at least one instance", found=type(instances).__name__
        )
    return Question(_encode("instances", rows), len(rows))


def _plain(what: str, value: object) -> object:
    """``value`` with an array's ``tolist`` applied: numpy is not needed to recognise its arrays."""
    value = getattr(value, "tolist", lambda: value)()
    if isinstance(value, (list, tuple)) or (
        isinstance(value, (int, float)) and not isinstance(value, bool)
    ):
        return value
    raise InputError(
        f"{what} is made of numbers: an array or nested lists", found=type(value).__name__
    )


def _encode(key: str, value: object) -> bytes:
    try:
        return _encoder.encode({key: value}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the {key} cannot be sent as JSON: {error}",
            needed="finite numbers in arrays or nested lists",
        ) from None


def _array(value: object) -> object:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no number")


_encoder = json.JSONEncoder(default=_array, allow_nan=False, separators=(",", ":"))


class _WireAnswer(BaseModel):
    model: str
    version: str


class _One(_WireAnswer):
    prediction: Prediction


class _Many(_WireAnswer):
    predictions: tuple[Prediction, ...]


def read_answer(payload: bytes, question: Question, endpoint: str, source: Source) -> Answer:
    """The answer in ``payload``.

    Raises
    ------
    ValueError
        It is no JSON, lacks a field, or holds another number of predictions than was asked for.
        The message is a phrase without the payload.
    """
    found: _One | _Many
    try:
        # Strict: a probability in quotes is another contract.
        if question.instances is None:
            found = _One.model_validate_json(payload, strict=True)
            predictions: Sequence[Prediction] = (found.prediction,)
        else:
            found = _Many.model_validate_json(payload, strict=True)
            predictions = found.predictions
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None
    if len(predictions) != question.size:
        raise ValueError(f"{len(predictions)} predictions for {question.size} instances")
    return Answer(tuple(predictions), found.model, found.version, source=source, endpoint=endpoint)
