"""Settings come from the environment at first use, and a slip is named by its variable."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.errors import InputError
from aiinfra_lab.settings import Settings, settings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AIINFRA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AIINFRA_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_a_bad_value_is_refused_by_the_name_of_its_variable(monkeypatch):
    monkeypatch.setenv("AIINFRA_PROGRESS", "loud")
    with pytest.raises(InputError) as refusal:
        settings()
    assert "AIINFRA_PROGRESS" in str(refusal.value)
    assert "'loud'" in str(refusal.value)
    assert "off" in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_an_empty_variable_is_an_unset_one(monkeypatch):
    usual = settings().cache
    for name in ("PROGRESS", "CACHE", "SCRATCH_ROOT", "VALKEY_URL"):
        monkeypatch.setenv(f"AIINFRA_{name}", "")
    settings.cache_clear()
    assert settings().progress is None
    assert settings().valkey_url is None
    assert settings().scratch_root is None
    assert settings().cache == usual


def test_settings_are_read_once_and_cannot_be_changed(monkeypatch):
    first = settings()
    monkeypatch.setenv("AIINFRA_HOME", "/elsewhere")
    assert settings() is first
    with pytest.raises(ValueError, match="frozen"):
        first.home = Path("/elsewhere")


@pytest.mark.parametrize("name", ["home", "cache", "scratch_root"])
def test_a_folder_means_the_same_in_every_working_folder(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for given_as, meant in [("state", tmp_path / "state"), ("~/state", tmp_path / "me" / "state")]:
        monkeypatch.setenv(f"AIINFRA_{name.upper()}", given_as)
        assert getattr(Settings(), name) == meant


def test_scratch_lies_in_home_unless_it_is_told_otherwise(monkeypatch, tmp_path):
    assert settings().scratch("03") == tmp_path / "home" / "scratch" / "03"
    monkeypatch.setenv("AIINFRA_SCRATCH_ROOT", str(tmp_path / "fast"))
    folder = Settings().scratch("03")
    assert folder == tmp_path / "fast" / "03"
    assert folder.is_dir()


def test_clearing_one_chapters_scratch_leaves_the_others():
    (settings().scratch("03") / "deep").mkdir()
    (settings().scratch("03") / "deep" / "x").write_text("x")
    (settings().scratch("06") / "y").write_text("y")
    assert list(settings().clear_scratch("03").iterdir()) == []
    assert [path.name for path in settings().scratch("06").iterdir()] == ["y"]


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "a/b", "/tmp"])
def test_clearing_never_leaves_the_scratch_folder(name, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "kept").write_text("x")
    with pytest.raises(InputError, match="plain name"):
        settings().clear_scratch(name)
    assert (tmp_path / "home" / "kept").read_text() == "x"


def test_a_home_that_cannot_be_written_is_said_in_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AIINFRA_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(InputError, match="cannot be made") as refusal:
        settings().scratch("00")
    assert "AIINFRA_HOME" in refusal.value.fix


def test_a_user_without_a_usable_home_gets_a_folder_of_his_own(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("AIINFRA_HOME")
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    temporary = Path(tempfile.gettempdir())
    found = Settings()
    assert found.home.is_relative_to(temporary)
    assert found.cache.is_relative_to(temporary)
    assert found.home != found.cache
    assert str(os.getuid()) in str(found.home)


need = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=6)


@law(deadline=None)
@given(st.lists(need, max_size=5), st.sampled_from([",", " ", ", ", " ,, "]))
def test_required_needs_are_separated_by_blanks_or_commas(names, separator):
    assert Settings(require=separator.join(names)).required_needs == frozenset(names)


def test_the_image_table_is_a_json_object(monkeypatch):
    assert Settings().images == {}
    monkeypatch.setenv("AIINFRA_IMAGES", '{"acme/*": "python", "x:1": {"command": ["sh"]}}')
    assert Settings().images == {"acme/*": "python", "x:1": {"command": ["sh"]}}


@pytest.mark.parametrize("value", ["{acme}", '["python"]', '{"acme/*": 3}'])
def test_an_image_table_of_another_shape_is_refused_by_its_name(monkeypatch, value):
    monkeypatch.setenv("AIINFRA_IMAGES", value)
    with pytest.raises(InputError, match="AIINFRA_IMAGES cannot be used"):
        settings()
