"""Quantities: the same numbers as the official client's, and nothing else."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node.provision.quantity import milli, parse_quantity, whole

NUMBERS = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.decimals(-(10**6), 10**6, places=4).map(lambda number: format(number, "f")),
    st.integers(0, 10**6).map("{}.".format),
    st.integers(0, 10**6).map(".{}".format),
)
SUFFIXES = ["", *"numkMGTPE", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "e3", "E3", "e-2", "E+5"]


@pytest.mark.needs("kubernetes")
@law(deadline=None, max_examples=500)
@given(number=NUMBERS, suffix=st.sampled_from(SUFFIXES))
def test_a_quantity_is_the_number_of_the_official_client(number, suffix):
    from kubernetes.utils import parse_quantity as official

    assert parse_quantity(number + suffix) == official(number + suffix)


@pytest.mark.parametrize(
    ("text", "units", "thousandths"),
    [
        ("250m", 1, 250),
        ("1.5Gi", 1610612736, 1610612736000),
        ("0", 0, 0),
        ("1n", 1, 1),
        ("0.1", 1, 100),
        ("-1.5", -2, -1500),
        (2, 2, 2000),
        (0.5, 1, 500),
        ("1E", 10**18, 10**21),
        ("1E2", 100, 100_000),
    ],
)
def test_whole_units_and_thousandths_are_rounded_away_from_zero(text, units, thousandths):
    assert whole(text) == units
    assert milli(text) == thousandths


@pytest.mark.parametrize(
    "text",
    ["", "Mi", "1 Gi", "1gi", "1ki", "1mi", "0x10", "1e", "NaN", "inf", "1_000", "1MiB", "１"],
)
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(InputError, match="is no quantity"):
        parse_quantity(text)


def test_a_quantity_is_exact():
    assert parse_quantity("0.1") * 3 == Decimal("0.3")
