"""Run folders: a new one each time, never someone else's, nothing overwritten by accident."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
import yaml
from asserts import assert_refused

from lightning_gradood.core import Refusal, claim, new_run_folder, refuse_foreign, runs

IDENTITY = ("seed", "model")
CONFIG = {"seed": 1, "model": {"width": 64, "norm": {"mean": [0.5, 0.5]}}, "trainer": {"devices": 1}}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Take away what a launcher may have set."""
    for name in ("WORLD_SIZE", "SLURM_NTASKS", runs._CHOSEN):
        monkeypatch.delenv(name, raising=False)


def test_it_is_named_by_the_moment_and_never_the_same_within_a_second(tmp_path, monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 11, 22, 14, 5, 9)

    monkeypatch.setattr(runs, "datetime", Stopped)
    folders = []
    for _ in range(3):
        with new_run_folder(tmp_path / "runs" / "digits") as folder:
            (folder / "results.json").touch()
        assert folder.is_dir()
        folders.append(folder.name)
    assert folders == ["2026-11-22_14-05-09", "2026-11-22_14-05-09_2", "2026-11-22_14-05-09_3"]
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: runs._make_new(tmp_path), range(32)))) == 32


def test_it_is_removed_if_nothing_was_put_into_it_even_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), new_run_folder(tmp_path) as folder:
        raise ZeroDivisionError
    assert not folder.exists()
    with new_run_folder(tmp_path) as folder:
        folder.rmdir()  # by someone else, in the middle of the run
    assert list(tmp_path.iterdir()) == []


def test_processes_that_the_run_starts_get_its_folder_and_those_of_another_launcher_must_name_it(tmp_path, monkeypatch):
    """The first inherit its environment, and leave the folder alone, into which they put nothing."""
    with new_run_folder(tmp_path) as folder:
        with new_run_folder(tmp_path / "elsewhere") as child:
            assert child == folder
        assert folder.is_dir()
    assert runs._CHOSEN not in os.environ
    assert not (tmp_path / "elsewhere").exists()
    words = "`run_dir` should be given where torchrun or a cluster starts the processes.*--run_dir runs/first"
    for variable in ("WORLD_SIZE", "SLURM_NTASKS"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "2")
            with pytest.raises(Refusal, match=words), new_run_folder(tmp_path):
                pass
            patch.setenv(variable, "1")
            with new_run_folder(tmp_path) as folder:
                assert folder.is_dir()


def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path):
    place = tmp_path / "runs"
    place.write_text("a file")
    words = "`run_dir` should be a folder that can be made. Got `run_dir = "
    assert_refused(
        (lambda: new_run_folder(place / "digits").__enter__(), words),
        (lambda: claim(place / "mine", CONFIG, IDENTITY), words),
        (lambda: claim(place, CONFIG, IDENTITY), f"Got `run_dir = {place}`, which is no folder or"),
    )


def test_the_first_configuration_is_written_and_stays_and_looking_writes_nothing(tmp_path):
    folder = tmp_path / "a" / "b"
    refuse_foreign(folder, CONFIG, IDENTITY)
    assert not folder.exists()
    claim(folder, CONFIG, IDENTITY)
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]
    (folder / "results.json").touch()
    claim(folder, CONFIG | {"trainer": {"devices": 2}}, IDENTITY)
    assert yaml.safe_load((folder / "config.yaml").read_text()) == CONFIG


CHANGES = [
    ({"seed": 2}, "seed"), ({"model": {"width": 32, "norm": {"mean": [0.5, 0.5]}}}, "model.width"),
    ({"model": {"width": 64, "norm": {"mean": [0.5, 0.4]}}}, "model.norm.mean"),
    ({"model": {"width": 64, "norm": None}}, "model.norm"), ({"model": None}, "model"),
    ({"model": {"width": 1, "norm": {"mean": []}, "new": 1}}, "model.width, model.norm.mean, model.new"),
]  # fmt: skip


@pytest.mark.parametrize("look", [claim, refuse_foreign])
def test_another_experiment_or_other_things_are_refused_and_left_alone(tmp_path, look):
    mine, config = tmp_path / "mine", tmp_path / "mine" / "config.yaml"
    claim(mine, CONFIG, IDENTITY)
    before, got = config.read_text(), f"Got `run_dir = {mine}`, whose config.yaml differs in "
    changes = ((CONFIG | change, f"{got}{named}. Name another folder, or none") for change, named in CHANGES)
    assert_refused(*((lambda changed=changed: look(mine, changed, IDENTITY), words) for changed, words in changes))
    assert config.read_text() == before
    for text in ("", "- a list", "a: [unclosed", "just words", "\x00"):
        config.write_text(text)
        assert_refused((lambda: look(mine, CONFIG, IDENTITY), "config.yaml differs in seed, model. Name another"))
        assert config.read_text() == text
    config.rename(mine / "holiday.jpg")
    words = "holds other files and no config.yaml. Name another folder"
    assert_refused((lambda: look(mine, CONFIG, IDENTITY), words))
    assert [path.name for path in mine.iterdir()] == ["holiday.jpg"]
