"""The body of a prediction request, and its answer: JSON on the outside, one array inside.

Every refusal is an ``InputError`` that names what one instance must be. A value is looked at
by numpy as a whole; only a request that is about to be refused is searched for its culprit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from aiinfra_lab.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aiinfra_lab.serving.bundle import InputSpec, Manifest

_ONE, _MANY = "instance", "instances"
_SHOWN = 40  # characters of a wrong value that a refusal repeats


class MalformedJson(Exception):
    """The body is no JSON at all."""


def parse_json(body: bytes) -> Any:
    """The JSON value in ``body``.

    Raises
    ------
    MalformedJson
        It is no JSON, or is nested so deep that no reader takes it.
    """
    try:
        return json.loads(body)
    except RecursionError:
        raise MalformedJson("the body is nested too deep to be read") from None
    except ValueError as error:
        # Also bytes that are no text, and integers of thousands of digits.
        raise MalformedJson(f"the body is no JSON: {str(error)[:200]}") from None


def parse_instances(body: bytes, spec: InputSpec, max_batch: int) -> tuple[NDArray[Any], bool]:
    """The instances of a request as one array, and whether it was a single one.

    Parameters
    ----------
    body : bytes
        ``{"instances": [x, ...]}`` or ``{"instance": x}`` in JSON.
    spec : InputSpec
        What x must be.
    max_batch : int
        The largest number of instances.

    Returns
    -------
    array of shape (n, *spec.shape) and type spec.dtype, bool

    Raises
    ------
    MalformedJson
        The body is no JSON.
    InputError
        It is JSON, and anything else is wrong.
    """
    document = parse_json(body)
    given, single = _given(document, spec)
    if not single and not isinstance(given, list):
        raise InputError(
            f"{_MANY} must be a list of instances",
            found=_kind(given),
            needed=f"a list of {spec}",
        )
    batch = [given] if single else given
    if not batch:
        raise InputError(f"{_MANY} is empty", needed=f"at least one of {spec}")
    if len(batch) > max_batch:
        raise InputError(
            f"{_MANY} holds too many for one request",
            found=str(len(batch)),
            needed=f"at most {max_batch} of {spec}",
        )
    # numpy takes a truth value among numbers for 0 or 1. In ASCII its word stands in the body;
    # UTF-16 and UTF-32, which JSON may come in, show as other bytes or as zeros.
    suspicious = b"true" in body or b"false" in body or not body.isascii() or b"\0" in body
    numbers = _numbers(batch)
    if numbers is None or numbers.shape[1:] != spec.shape or suspicious:
        for index, instance in enumerate(batch):
            _check_instance(_name(index, single), instance, spec)
        if numbers is None:
            numbers = np.asarray(batch, dtype=np.float64)
    _check_range(numbers, spec, single)
    return numbers.astype(spec.dtype), single


def _given(document: Any, spec: InputSpec) -> tuple[Any, bool]:
    needed = f'{{"{_MANY}": [x, ...]}} or {{"{_ONE}": x}} with x of {spec}'
    if not isinstance(document, dict):
        raise InputError("the body must be an object", found=_kind(document), needed=needed)
    unknown = [name for name in document if name not in (_ONE, _MANY)]
    if unknown:
        raise InputError(f"the field {_shown(unknown[0])} is unknown", needed=needed)
    if len(document) != 1:
        found = "both" if document else "neither"
        raise InputError("the body must hold one of two fields", found=found, needed=needed)
    return next(iter(document.values())), _ONE in document


def _numbers(batch: list[Any]) -> NDArray[Any] | None:
    """The batch as an array of numbers; None where it is ragged or holds something else."""
    try:
        numbers = np.asarray(batch)
    except (ValueError, OverflowError):
        return None
    return numbers if numbers.dtype.kind in "iuf" else None


def _check_instance(name: str, instance: Any, spec: InputSpec) -> None:
    try:
        leaves, shape = list(_leaves(instance, "")), _shape(instance)
    except RecursionError:
        raise InputError(
            f"{name} has the wrong shape", found="lists nested too deep", needed=str(spec)
        ) from None
    for where, value in leaves:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{name}{where} is no number", found=_kind(value), needed=str(spec))
        if isinstance(value, int) and not -(2**53) <= value <= 2**53:
            raise InputError(
                f"{name}{where} is out of range", found=_shown(value), needed=str(spec)
            )
    if shape != spec.shape:
        found = "ragged lists" if shape is None else "×".join(map(str, shape)) or "a bare number"
        raise InputError(f"{name} has the wrong shape", found=found, needed=str(spec))


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{where}[{index}]")
    else:
        yield where, value


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of nested lists; None where they are ragged."""
    if not isinstance(value, list):
        return ()
    if not value:
        return (0,)
    shapes = {_shape(part) for part in value}
    inner = shapes.pop()
    return None if shapes or inner is None else (len(value), *inner)


def _check_range(numbers: NDArray[Any], spec: InputSpec, single: bool) -> None:
    # Asked this way round, NaN is outside too.
    inside = (numbers >= spec.low) & (numbers <= spec.high)
    word = "is out of range"
    if inside.all() and spec.dtype == "uint8" and numbers.dtype.kind == "f":
        inside, word = numbers == np.floor(numbers), "is no whole number"
    if not inside.all():
        place = tuple(int(i) for i in np.argwhere(~inside)[0])
        where = "".join(f"[{i}]" for i in place[1:])
        raise InputError(
            f"{_name(place[0], single)}{where} {word}",
            found=f"{numbers[place]:g}",
            needed=str(spec),
        )


def _name(index: int, single: bool) -> str:
    return _ONE if single else f"{_MANY}[{index}]"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {_shown(value)}"
        case dict():
            return "an object"
        case list():
            return "a list"
    return _shown(value)


def _shown(value: Any) -> str:
    # json, not repr: its writer sees JSON, and it takes integers of any length only up to a
    # limit of Python's, which parse_json has already kept.
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def answer(manifest: Manifest, probabilities: NDArray[np.float32], single: bool) -> bytes:
    """The JSON body of the answer to a request that ``parse_instances`` took."""
    predictions = [
        {"label": manifest.labels[best], "probabilities": row}
        for best, row in zip(
            probabilities.argmax(axis=1), probabilities.astype(float).round(7).tolist(), strict=True
        )
    ]
    document: dict[str, Any] = {"model": manifest.name, "version": manifest.version}
    document |= {"prediction": predictions[0]} if single else {"predictions": predictions}
    return json.dumps(document).encode()
