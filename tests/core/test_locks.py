"""Run folders are held by one run at a time, and a run that died keeps nobody out; with real processes."""

import os
import signal
import sys

import filelock
import pytest
from programs import Program, run_program

from lightning_gradood.core import Refusal, claim, hold, refuse_foreign

HOLDING = (
    "import sys, time\nfrom pathlib import Path\nfrom lightning_gradood.core import hold\n"
    "with hold(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)
CONFIG, IDENTITY = {"seed": 1}, ("seed",)


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
    with pytest.raises(KeyError), hold(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_file_system_without_locks_is_given_a_file_as_lock(tmp_path, monkeypatch):
    def missing(*_):
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(filelock._unix.fcntl, "flock", missing)
    with hold(tmp_path):
        with pytest.raises(Refusal, match=f"held by {os.getpid()} "), hold(tmp_path):
            pass
        assert len(list(tmp_path.iterdir())) == 1
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
    refuse_foreign(tmp_path, CONFIG, IDENTITY)
    with hold(tmp_path):
        claim(tmp_path, CONFIG, IDENTITY)
    assert (tmp_path / "config.yaml").is_file()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    guard = tmp_path / "guard"  # a result folder's name
    guard.write_text("a file")
    place, made = (
        r"`--run_dir` should be a place that can be written\. Got .*guard",
        "should be a folder that can be made",
    )
    for folder, words in ((tmp_path, place), (guard, made), (guard / "run", made)):
        with pytest.raises(Refusal, match=words), hold(folder):
            pass
