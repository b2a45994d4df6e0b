"""Run folders: a new one each time, never someone else's, held by one run at a time, nothing overwritten by accident."""

import os
import signal
import sys
from datetime import datetime

import filelock
import pytest
import yaml
from asserts import assert_refused
from programs import Program, run_program

from lightning_gradood.core import Refusal, claim, hold, new_run_folder, refuse_foreign, runs

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
        folders.append(folder.name)
    assert folders == ["2026-11-22_14-05-09", "2026-11-22_14-05-09_2", "2026-11-22_14-05-09_3"]
    with pytest.raises(ZeroDivisionError), new_run_folder(tmp_path) as folder:
        raise ZeroDivisionError
    assert not folder.exists(), "nothing was put into it"


def test_processes_that_the_run_starts_get_its_folder_and_those_of_another_launcher_must_name_it(tmp_path, monkeypatch):
    with new_run_folder(tmp_path) as folder:
        with new_run_folder(tmp_path / "elsewhere") as child:
            assert child == folder
        assert folder.is_dir()
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


def test_a_place_where_no_folder_can_be_made_or_written_is_refused(tmp_path):
    place, guard = tmp_path / "runs", tmp_path / "mine" / "guard"  # a result folder's name
    guard.parent.mkdir()
    for path in (place, guard):
        path.write_text("a file")
    words = "`run_dir` should be a folder that can be made. Got `run_dir = "
    assert_refused(
        (lambda: new_run_folder(place / "digits").__enter__(), words),
        (lambda: claim(place / "mine", CONFIG, IDENTITY), words),
        (lambda: claim(place, CONFIG, IDENTITY), f"Got `run_dir = {place}`, which is no folder or"),
        (lambda: hold(place / "mine").__enter__(), words),
        (lambda: hold(guard.parent).__enter__(), "`--run_dir` should be a place that can be written. Got .*guard"),
    )


def test_the_first_configuration_is_written_and_stays_and_looking_writes_nothing(tmp_path):
    folder = tmp_path / "a" / "b"
    refuse_foreign(folder, CONFIG, IDENTITY)
    assert not folder.exists()
    claim(folder, CONFIG, IDENTITY)
    (folder / "results.json").touch()
    claim(folder, CONFIG | {"trainer": {"devices": 2}}, IDENTITY)
    assert yaml.safe_load((folder / "config.yaml").read_text()) == CONFIG


CHANGES = [
    ({"seed": 2}, "seed"), ({"model": {"width": 32, "norm": {"mean": [0.5, 0.5]}}}, "model.width"),
    ({"model": {"width": 64, "norm": {"mean": [0.5, 0.4]}}}, "model.norm.mean"), ({"model": None}, "model"),
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
    assert_refused((lambda: look(mine, CONFIG, IDENTITY), "holds other files and no config.yaml. Name another folder"))
    assert [path.name for path in mine.iterdir()] == ["holiday.jpg"]


HOLDING = (
    "import sys, time\nfrom pathlib import Path\nfrom lightning_gradood.core import hold\n"
    "with hold(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


def test_the_first_wins_and_the_second_names_it_and_a_killed_run_keeps_no_one_out(tmp_path):
    holder = Program([sys.executable, "-c", HOLDING, str(tmp_path)])
    assert holder.stdout.readline() == "held\n"
    words = f"`run_dir = {tmp_path}`, held by process {holder.pid} on .* since 20.*Wait for it, or name another"
    for _ in range(2):  # whoever is refused leaves the name where it is
        with pytest.raises(Refusal, match=words), hold(tmp_path):
            pass
    holder.kill()
    holder.communicate()
    with hold(tmp_path), pytest.raises(Refusal, match=f"held by process {os.getpid()} on"), hold(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_file_system_without_locks_is_given_a_file_as_lock(tmp_path, monkeypatch):
    def missing(*_):
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(filelock._unix.fcntl, "flock", missing)
    with hold(tmp_path), pytest.raises(Refusal, match=f"held by {os.getpid()} "), hold(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_a_folder_is_claimed_does_not_lock_it(tmp_path):
    """The process ends while the configuration is written: its temporary file and lock stay."""
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom lightning_gradood.core import claim, hold\n"
        "folder = Path(sys.argv[1])\nheld = hold(folder)\nheld.__enter__()\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), 9)\nclaim(folder, {'seed': 1}, ('seed',))"
    )
    assert run_program([sys.executable, "-c", script, str(tmp_path)]).returncode == -signal.SIGKILL
    assert any(path.name.endswith(".tmp") for path in tmp_path.iterdir())
    with hold(tmp_path):
        claim(tmp_path, CONFIG, IDENTITY)
    assert (tmp_path / "config.yaml").is_file()
