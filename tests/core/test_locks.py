"""Run folders are held by one run at a time, and a run that died keeps nobody out; with real processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from programs import Program, run_program

from lightning_gradood.core import Refusal, claim, hold, refuse_foreign
from lightning_gradood.core.locks import _SILENT

HOLDING = (
    "import sys, time\nfrom pathlib import Path\nfrom lightning_gradood.core.locks import hold\n"
    "with hold(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(float(sys.argv[2]))\n"
)
CONFIG, IDENTITY = {"seed": 1}, ("seed",)


def started(folder, seconds=60.0):
    """Start a process that holds a folder."""
    return Program([sys.executable, "-c", HOLDING, str(folder), str(seconds)])


def locks(folder):
    return sorted(path.name for path in folder.glob(".run-*.lock"))


def test_the_first_wins_and_the_second_names_it_then_a_killed_run_is_taken_over(tmp_path, capsys):
    command = [sys.executable, "-c", HOLDING, str(tmp_path), "60"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # a child of this process
    assert holder.stdout.readline() == "held\n"
    words = f"`run_dir = {tmp_path}`, held by process {holder.pid} on .* since 20.*If it has died, delete "
    with pytest.raises(Refusal, match=words), hold(tmp_path):
        pass
    assert locks(tmp_path) == [".run-1.lock"]
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    with hold(tmp_path):
        assert locks(tmp_path) == [".run-2.lock"]
        assert f"taken over from process {holder.pid} on " in capsys.readouterr().err
    holder.communicate()
    assert locks(tmp_path) == []


def test_of_many_that_start_at_once_on_a_dead_runs_folder_one_wins(tmp_path):
    dead = started(tmp_path)
    dead.stdout.readline()
    dead.kill()
    dead.communicate()
    others = [started(tmp_path, 4.0) for _ in range(3)]
    said = [other.communicate()[0] for other in others]
    assert sorted(said) == ["", "", "held\n"]


def test_a_run_on_another_machine_holds_while_it_shows_signs_of_life(tmp_path, capsys):
    with hold(tmp_path):
        content = json.loads((tmp_path / ".run-1.lock").read_text())
    lock = tmp_path / ".run-7.lock"
    lock.write_text(json.dumps(content | {"host": "elsewhere"}))
    with pytest.raises(Refusal, match=re.escape(f"on elsewhere since {content['since']}")), hold(tmp_path):
        pass
    os.utime(lock, (time.time() - 2 * _SILENT,) * 2)
    with hold(tmp_path):
        assert locks(tmp_path) == [".run-8.lock"]
    assert "taken over from process" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"machine": "another boot/pid:[1]"}, {"ticks": "1"}, {"pid": 2**22 + 1}])
def test_a_holder_before_a_restart_or_whose_number_was_used_again_has_died(tmp_path, change):
    with hold(tmp_path):
        content = json.loads((tmp_path / ".run-1.lock").read_text())
    (tmp_path / ".run-1.lock").write_text(json.dumps(content | change))
    with hold(tmp_path):
        assert locks(tmp_path) == [".run-2.lock"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}'])
def test_a_lock_that_says_nothing_holds_for_a_while_only(tmp_path, text):
    lock = tmp_path / ".run-1.lock"
    lock.write_text(text)
    with pytest.raises(Refusal, match="held by an unknown run"), hold(tmp_path):
        pass
    os.utime(lock, (time.time() - 2 * _SILENT,) * 2)
    with hold(tmp_path):
        pass


def test_a_crash_while_a_folder_is_claimed_does_not_lock_it(tmp_path):
    """The process ends while the configuration is written: its temporary file and lock stay."""
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom lightning_gradood.core import claim, hold\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), 9)\nhold(Path(sys.argv[1])).__enter__()"
    )
    late = script.replace("os.fsync = ", "die = ").replace(
        "hold(Path(sys.argv[1])).__enter__()",
        "held = hold(Path(sys.argv[1]))\nheld.__enter__()\nos.fsync = die\nclaim(Path(sys.argv[1]), {'seed': 1}, ('seed',))",
    )
    for number, text in enumerate((script, late)):
        folder = tmp_path / str(number)
        assert run_program([sys.executable, "-c", text, str(folder)]).returncode == -signal.SIGKILL
        assert any(path.name.endswith(".tmp") for path in folder.iterdir())
        refuse_foreign(folder, CONFIG, IDENTITY)
        with hold(folder):
            claim(folder, CONFIG, IDENTITY)
        assert (folder / "config.yaml").is_file()


def test_a_place_for_results_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "guard").write_text("a file")
    with (
        pytest.raises(Refusal, match=r"`--run_dir` should be a place that can be written\. Got .*guard"),
        hold(tmp_path),
    ):
        pass


def test_a_user_without_the_right_to_write_gets_a_sentence(tmp_path):
    """As another user where the tests run as root, whom no right is refused."""
    own = tmp_path / "own"
    own.mkdir(mode=0o555)
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom lightning_gradood.core import Refusal, hold\n"
        "if os.getuid() == 0: os.seteuid(65534)\n"
        "try:\n    hold(Path(sys.argv[1])).__enter__()\nexcept Refusal as refusal: print(refusal)"
    )
    for place in (own, own / "deeper" / "run"):
        found = run_program([sys.executable, "-c", script, str(place)])
        found.check_returncode()
        assert re.search(r"Permission denied\. (Ask for the right to write there, or n|N)ame another", found.stdout)
