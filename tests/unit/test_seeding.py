"""Sub-streams are named, stable and independent."""

import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.seeding import seed_everything, stream, substream_seed

name = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
path = st.tuples(st.integers(0, 2**40), st.lists(name, max_size=3).map(tuple))


@law(deadline=None)
@given(path, path)
def test_another_seed_or_name_gives_another_stream(one, other):
    assume(one != other)
    assert substream_seed(one[0], *one[1]) != substream_seed(other[0], *other[1])


@law(deadline=None)
@given(path)
def test_the_same_names_give_the_same_stream(one):
    seed = substream_seed(one[0], *one[1])
    assert seed == substream_seed(one[0], *one[1])
    assert 0 <= seed < 2**64


def test_the_border_between_two_names_counts():
    assert substream_seed(1, "ab", "c") != substream_seed(1, "a", "bc")
    with pytest.raises(ValueError, match="NUL"):
        substream_seed(1, "a\0b")


def test_the_numbers_are_the_same_on_every_machine():
    # Recorded results hang on these; a change of the rule is a change of all of them.
    assert substream_seed(7, "batches") == PINNED_SEED
    assert stream(7, "batches").integers(1000, size=3).tolist() == PINNED_DRAWS


PINNED_SEED = 10_282_862_448_161_743_452
PINNED_DRAWS = [521, 142, 941]


@law(deadline=None, max_examples=30)
@given(st.integers(0, 100), st.integers(0, 20))
def test_a_new_consumer_changes_nobody_elses_numbers(seed, drawn):
    alone = stream(seed, "weights").random(5)
    stream(seed, "noise").random(drawn)
    assert stream(seed, "weights").random(5).tolist() == alone.tolist()


def test_neighbouring_seeds_are_unrelated():
    draws = np.array([stream(seed, "x").random(2000) for seed in range(8)])
    correlation = np.corrcoef(draws) - np.eye(8)
    # Of 28 pairs of unrelated streams of 2000 numbers, the largest has about 0.05.
    assert np.abs(correlation).max() < 0.12


def test_one_seed_repeats_python_and_numpy():
    draws = []
    for _ in range(2):
        seed_everything(11)
        draws.append((random.random(), np.random.random()))
    seed_everything(12)
    assert draws[0] == draws[1]
    assert (random.random(), np.random.random()) != draws[0]


def test_frameworks_that_are_there_are_seeded(monkeypatch):
    seen = []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(manual_seed=seen.append))
    tensorflow = SimpleNamespace(random=SimpleNamespace(set_seed=seen.append))
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    seed_everything(5)
    assert seen == [5, 5]


def test_frameworks_that_are_not_there_are_not_imported():
    script = (
        "import sys; from aiinfra_lab.seeding import seed_everything; seed_everything(1);"
        "sys.exit('torch' in sys.modules or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_cannot_take_is_refused(seed):
    state = random.getstate()
    with pytest.raises(ValueError, match="seed must lie in"):
        seed_everything(seed)
    assert random.getstate() == state
