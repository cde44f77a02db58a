"""Parameters: what is in the range is taken in its type, everything else is a sentence."""

from __future__ import annotations

import math

import pytest
from builders import notebook, parameters
from hypothesis import example, given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.course.notebooks import write_notebook
from aiinfra_lab.course.parameters import Parameter, parse_assignments, read_parameters, validate
from aiinfra_lab.errors import InputError

quick = law(deadline=None, max_examples=40)


def parameter(kind, *, is_list=False, **limits):
    return Parameter("n", kind, is_list, None, **limits)


def refused(parameter, given):
    with pytest.raises(InputError) as refusal:
        parameter.value(given)
    assert refusal.value.exit_code == 2
    return str(refusal.value)


# --- reading -------------------------------------------------------------------------------------


def read(tmp_path, *lines):
    write_notebook(tmp_path / "x.ipynb", notebook(parameters("\n".join(lines))))
    return read_parameters(tmp_path / "x.ipynb")


def test_each_annotated_line_is_a_parameter_in_order(tmp_path):
    found = read(
        tmp_path,
        "n_requests: int = 2_000  # 100..100_000 | calls sent during the drill",
        "rate: float = 0.5  # ..1 | share",
        'policy: str = "ours"  # {ours, naive} | which breaker',
        "verbose: bool = False  # say more",
        "sizes: list[int] = [1, 2]  # 1.. | sizes",
        'names: list[str] = ["a"]',
        "low: float = -0.5  # -1.5..1e3 | both signs",
    )
    assert found == [
        Parameter("n_requests", int, False, 2000, 100, 100_000, (), "calls sent during the drill"),
        Parameter("rate", float, False, 0.5, -math.inf, 1, (), "share"),
        Parameter("policy", str, False, "ours", choices=("ours", "naive"), help="which breaker"),
        Parameter("verbose", bool, False, False, help="say more"),
        Parameter("sizes", int, True, [1, 2], 1, math.inf, (), "sizes"),
        Parameter("names", str, True, ["a"]),
        Parameter("low", float, False, -0.5, -1.5, 1000, (), "both signs"),
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("n = 5", "parameter n has no type that can be checked"),
        ("n: complex = 5", "parameter n has no type that can be checked"),
        ("n: dict[str, int] = {}", "parameter n has no type that can be checked"),
        ("n: list = []", "parameter n has no type that can be checked"),
        ("n: int = 5  # a..b | x", "the range of parameter n cannot be read"),
        ("n: int = 5  # 1-9 | x", "the range of parameter n cannot be read"),
        ("n: str = 'a'  # 1..9 | x", "the range of parameter n cannot be read"),
        ("n: bool = True  # 0..1 | x", "the range of parameter n cannot be read"),
        ("n: int = 5  # 6..9 | x", r"parameter n; found 5; needed int in 6\.\.9"),
        ("n: str = 'c'  # {a, b} | x", "parameter n; found 'c'; needed one of a, b"),
        ("n: int = 0.5", r"parameter n; found 0\.5; needed int"),
        ("n: float = 10 ** -3", "default of parameter n is no plain value"),
        ("n: int = other", "default of parameter n is no plain value"),
    ],
)
def test_a_line_that_cannot_be_checked_is_refused(tmp_path, line, sentence):
    with pytest.raises(InputError, match=sentence):
        read(tmp_path, line)


def test_a_notebook_without_a_parameter_cell_has_none(tmp_path):
    write_notebook(tmp_path / "x.ipynb", notebook())
    assert read_parameters(tmp_path / "x.ipynb") == []


# --- numbers -------------------------------------------------------------------------------------


@quick
@given(st.integers(-(10**6), 10**6), st.integers(0, 10**6), st.data())
def test_a_whole_number_in_the_range_is_taken_however_it_is_written(low, width, data):
    n = data.draw(st.integers(low, low + width))
    ranged = parameter(int, low=low, high=low + width)
    for given_ in (n, str(n), float(n), f" {n} ", f"{n:_}"):
        found = ranged.value(given_)
        assert (found, type(found)) == (n, int)


@quick
@given(st.integers(-(10**6), 10**6), st.integers(0, 100), st.integers(1, 10**6))
def test_a_whole_number_outside_the_range_is_refused(low, width, step):
    ranged = parameter(int, low=low, high=low + width)
    for n in (low - step, low + width + step):
        for given_ in (n, str(n), float(n)):
            assert f"in {low:g}..{low + width:g}" in refused(ranged, given_)


@quick
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(0, 1))
def test_a_number_in_the_range_is_taken_however_it_is_written(low, width, share):
    ranged = parameter(float, low=low, high=low + width)
    number = min(low + share * width, low + width)
    for given_ in (number, repr(number)):
        found = ranged.value(given_)
        assert (found, type(found)) == (number, float)


@quick
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(1e-3, 1e9))
def test_a_number_outside_the_range_is_refused(low, width, step):
    ranged = parameter(float, low=low, high=low + width)
    for number in (low - step, low + width + step):
        refused(ranged, number)
        refused(ranged, repr(number))


@pytest.mark.parametrize("kind", [int, float])
@pytest.mark.parametrize("given_", [math.nan, "nan", "NaN", "-nan"])
@pytest.mark.parametrize("limits", [{}, {"low": 0}, {"high": 0}, {"low": 0, "high": 9}])
def test_nan_is_refused(kind, given_, limits):
    refused(parameter(kind, **limits), given_)


def test_infinity_is_taken_only_by_a_float_without_that_limit():
    assert parameter(float, low=0).value("inf") == math.inf
    refused(parameter(float, high=10), "inf")
    refused(parameter(int), "inf")
    refused(parameter(int), math.inf)


@pytest.mark.parametrize("kind", [int, float])
@pytest.mark.parametrize("given_", ["", "five", "1,5", "0x10", None, [1], {}, True, False, "True"])
def test_what_is_no_number_is_refused(kind, given_):
    assert refused(parameter(kind), given_) == (
        f"parameter n; found {given_!r}; needed {kind.__name__}"
    )


@pytest.mark.parametrize("given_", [0.5, "0.5", "5.0", "1e3"])
def test_a_whole_number_has_no_fraction(given_):
    refused(parameter(int), given_)


def test_numbers_beyond_all_measure_are_compared_and_never_an_error():
    assert parameter(int).value(10**400) == 10**400
    refused(parameter(int, high=10), 10**400)
    refused(parameter(int), "9" * 5000)
    refused(parameter(float), 10**400)


def test_a_float_takes_whole_numbers_as_floats():
    found = parameter(float, low=1, high=3).value("2")
    assert (found, type(found)) == (2.0, float)


# --- truth and text ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (True, True),
        (False, False),
        ("true", True),
        ("True", True),
        ("YES", True),
        ("1", True),
        (1, True),
        ("false", False),
        ("False", False),
        ("no", False),
        ("0", False),
        (0, False),
    ],
)
def test_truth_is_written_in_the_usual_ways(given_, expected):
    assert parameter(bool).value(given_) is expected


@quick
@given(st.text(max_size=5) | st.integers() | st.floats() | st.none())
def test_nothing_else_is_true_or_false(given_):
    if str(given_).lower() not in {"true", "yes", "1", "false", "no", "0"}:
        refused(parameter(bool), given_)


@quick
@given(st.text())
def test_any_text_is_text(text):
    assert parameter(str).value(text) == text


@pytest.mark.parametrize("given_", [5, None, True, ["a"]])
def test_text_is_not_made_of_other_values(given_):
    refused(parameter(str), given_)


@quick
@given(st.text(max_size=5))
def test_of_choices_only_the_listed_are_taken(text):
    chosen = parameter(str, choices=("ours", "naive"))
    assert chosen.value("naive") == "naive"
    if text not in ("ours", "naive"):
        assert refused(chosen, text) == f"parameter n; found {text!r}; needed one of ours, naive"


# --- lists ---------------------------------------------------------------------------------------

SIZES = parameter(int, is_list=True, low=1, high=9)


@quick
@given(st.lists(st.integers(1, 9)))
def test_a_list_is_taken_however_it_is_written(items):
    for given_ in (items, tuple(items), str(items), ",".join(map(str, items))):
        assert SIZES.value(given_) == items


@pytest.mark.parametrize(
    "given_",
    [5, None, {"a": 1}, "1,x", "1,10", [1, 10], [1, True], "[1, 10]", "[1", "[[1]]", "1;2"],
)
def test_a_list_with_one_wrong_item_is_refused(given_):
    assert "needed list[int] in 1..9" in refused(SIZES, given_)


@pytest.mark.parametrize("given_", ["[a", '["a"', "[a, b]"])
def test_broken_json_is_no_list_of_letters(given_):
    names = parameter(str, is_list=True)
    assert repr(given_) in refused(names, given_)
    assert names.value("a, b") == ["a", "b"]
    assert names.value('["a, b"]') == ["a, b"]


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (parameter(int), "int"),
        (parameter(float, low=0.5), "float in 0.5.."),
        (parameter(int, high=10), "int in ..10"),
        (parameter(int, low=1, high=10), "int in 1..10"),
        (parameter(int, is_list=True, low=1), "list[int] in 1.."),
        (parameter(str, is_list=True), "list[str]"),
        (parameter(str, choices=("a", "b")), "one of a, b"),
    ],
)
def test_what_is_allowed_is_told_in_words(made, words):
    assert made.allowed == words


# --- names ---------------------------------------------------------------------------------------

KNOWN = [
    Parameter("n_requests", int, False, 5, low=1),
    Parameter("policy", str, False, "ours"),
]


def test_what_is_valid_comes_back_in_its_types_and_nothing_is_added():
    assert validate(KNOWN, {"n_requests": "7"}) == {"n_requests": 7}
    assert validate(KNOWN, {"policy": "7", "n_requests": 7}) == {"policy": "7", "n_requests": 7}
    assert validate(KNOWN, {}) == {}


def test_an_unknown_name_suggests_the_near_one():
    with pytest.raises(
        InputError, match=r"there is no parameter n_request\. Did you mean n_requests"
    ):
        validate(KNOWN, {"n_request": 7})


def test_a_name_near_to_none_lists_what_there_is():
    with pytest.raises(InputError, match=r"no parameter xyz\. There is: n_requests, policy"):
        validate(KNOWN, {"xyz": 7})
    with pytest.raises(InputError, match="There is: none"):
        validate([], {"xyz": 7})


def test_one_refused_value_refuses_all():
    with pytest.raises(InputError, match="parameter n_requests"):
        validate(KNOWN, {"policy": "a", "n_requests": "0"})


@quick
@example({"url": "a=b=c"})
@given(st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), st.text(max_size=6), max_size=3))
def test_assignments_keep_their_names_and_values(given_):
    # A value may hold any sign, the equals sign too.
    assert parse_assignments([f"{name}={value}" for name, value in given_.items()]) == given_


@pytest.mark.parametrize("text", ["n", "", "=5", "1n=5", "n n=5", "n-1=5", " n=5"])
def test_what_is_no_assignment_is_refused(text):
    with pytest.raises(InputError, match="name=value"):
        parse_assignments(["a=1", text])


def test_a_name_given_twice_is_refused():
    with pytest.raises(InputError, match="parameter n is given twice"):
        parse_assignments(["n=1", "m=2", "n=1"])
