"""The digits: the same images in the same splits on every machine, and never another set."""

import numpy as np
import pytest

from aiinfra_lab.data import digits
from aiinfra_lab.data.images import Images
from aiinfra_lab.errors import AIInfraLabError


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(digits, "_cache_file", lambda: tmp_path / "digits.npz")
    digits.load_digits.cache_clear()
    yield
    digits.load_digits.cache_clear()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "_cache_file", lambda: tmp_path_factory.mktemp("whole") / "d.npz")
        return digits._from_package()


@pytest.fixture
def read(monkeypatch, whole):
    """The set, without reading the package again."""
    monkeypatch.setattr(digits, "_from_package", lambda: whole)
    return digits.load_digits()


def test_the_splits_have_their_sizes_and_every_digit_equally(read):
    for part, n in ((read.train, 350), (read.validation, 50), (read.test, 100)):
        assert np.bincount(part.labels, minlength=10).tolist() == [n] * 10
        assert part.pixels.shape == (10 * n, 28, 28)
        assert part.pixels.dtype == np.uint8


def test_no_image_is_in_two_splits_and_none_is_lost(read, whole):
    parts = [
        {image.tobytes() for image in p.pixels} for p in (read.train, read.validation, read.test)
    ]

    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert set().union(*parts) == {image.tobytes() for image in whole.pixels}


def test_no_split_is_sorted_by_label(read):
    for part in (read.train, read.validation, read.test):
        assert len(set(part.labels[:40].tolist())) >= 8


def test_the_splits_are_those_of_every_machine(read):
    assert read.digest == "sha256:16246e2c93f9b781effc751ed284f7c7ef9ff38314a3982cf1a572ae51f19030"


def test_the_splits_do_not_depend_on_the_order_of_the_images(whole):
    turned = Images(whole.pixels[::-1].copy(), whole.labels[::-1].copy())

    assert [p.digest for p in digits._splits(turned)] == [p.digest for p in digits._splits(whole)]


def test_a_label_says_what_the_image_shows(read):
    # A nearest-mean classifier knows four fifths of handwritten digits.
    means = np.stack([read.train.scaled()[read.train.labels == d].mean(axis=0) for d in range(10)])
    distances = ((read.test.scaled()[:, None] - means) ** 2).sum(axis=(2, 3))

    assert (distances.argmin(axis=1) == read.test.labels).mean() > 0.75


def test_pixels_are_scaled_to_one_and_cannot_be_changed_in_place(read):
    scaled = read.test.scaled()

    assert (scaled.dtype, scaled.min(), scaled.max()) == (np.float32, 0.0, 1.0)
    with pytest.raises(ValueError, match="read-only"):
        read.test.pixels[0] = 0


def test_the_second_reading_comes_from_the_cache(monkeypatch):
    first = digits.load_digits()
    digits.load_digits.cache_clear()
    monkeypatch.setattr(digits, "_from_package", lambda: pytest.fail("read the package again"))

    assert digits.load_digits().digest == first.digest


@pytest.mark.parametrize("damage", [lambda b: b[:-200], lambda b: b"", lambda b: b"nonsense"])
def test_a_damaged_cache_is_made_again(damage, monkeypatch, whole):
    digits.load_digits()
    path = digits._cache_file()
    path.write_bytes(damage(path.read_bytes()))
    digits.load_digits.cache_clear()

    assert len(digits.load_digits().test) == 1000


def test_other_images_are_refused(monkeypatch, whole):
    pixels = whole.pixels.copy()
    pixels[0, 0, 0] ^= 1
    monkeypatch.setattr(digits, "_from_package", lambda: Images(pixels, whole.labels))

    with pytest.raises(AIInfraLabError, match="not those of the course"):
        digits.load_digits()


def test_images_and_labels_must_be_as_many(whole):
    with pytest.raises(ValueError, match="images but"):
        Images(whole.pixels, whole.labels[:-1])
