"""What a team sees of a run in W&B, through the real client and a stand-in for its server."""

import sys
import time
from pathlib import Path

import pytest
from programs import Program, run_program
from tiny import FILE, results
from wandb_server import wandb_server

LOGGED = ["--trainer.logger", "WandbLogger"]


def detect(run, server, home, *flags):
    """A `detect` in a process of its own, on records that exist."""
    checkpoint = ["--ckpt_path", str(run / "checkpoints/best.ckpt")]
    command = [sys.executable, "-m", "lightning_gradood", "detect", *FILE, *LOGGED, *checkpoint, *flags]
    return run_program(command, environment=server.environment(home), timeout=200)


def sent_artifacts(server):
    """Name to aliases, those of the table aside, which W&B makes itself."""
    return {
        one["artifactCollectionName"]: sorted(alias["alias"] for alias in one["aliases"])
        for one in server.artifacts
        if one["artifactTypeName"] != "run_table"
    }


def test_a_run_is_found_by_project_group_verb_and_tags_and_keeps_its_guard(run, workplace):
    with wandb_server() as server:
        done = detect(run, server, workplace)
        assert done.returncode == 0, done.stderr
        ((_, sent),) = server.runs.items()
        folder = Path("runs/tiny", sent.about["displayName"].removeprefix("tiny/"))
        assert (folder / "results.json").is_file()  # the run's name is its folder's
        assert (sent.about["project"], sent.about["groupName"], sent.about["jobType"]) == (
            "lightning_gradood",
            "tiny",
            "detect",
        )
        assert sent.about["tags"] == ["CifarResNet", "DigitsSource", "AllOnes"]
        mean = results(folder)["mean"]["mlp"]["val"]["auroc"]
        assert sent.summary["detection/mean/mlp/val/auroc"] == mean
        assert not [key for row in sent.history for key in row if key.startswith("detection/")]
        assert sent_artifacts(server) == {"guard-tiny": ["best", "latest"], "results-tiny": ["latest"]}
        assert sent.config["detection"]["mlp"]["width"] == 128


@pytest.mark.parametrize(("auroc", "aliases"), [(0.0, ["best", "latest"]), (1.1, ["latest"])])
def test_a_guard_is_the_best_only_where_it_beats_the_best(auroc, aliases, run, workplace):
    with wandb_server() as server:
        server.best = auroc
        done = detect(run, server, workplace, "--logging.artifacts", "guard")
        assert done.returncode == 0, done.stderr
        assert sent_artifacts(server) == {"guard-tiny": aliases}


def test_no_artifacts_and_names_of_the_user_s_own(run, workplace):
    own = ["--trainer.logger.project", "mine", "--trainer.logger.name", "first", "--trainer.logger.tags", "[a]"]
    with wandb_server() as server:
        done = detect(run, server, workplace, *own, "--logging.artifacts", "none")
        assert done.returncode == 0, done.stderr
        ((_, sent),) = server.runs.items()
        assert [sent.about[key] for key in ("project", "displayName", "tags")] == ["mine", "first", ["a"]]
        assert sent_artifacts(server) == {}


def test_a_detector_that_fails_and_a_classifier_near_chance_are_alerted_of(run, workplace):
    Path("mine.py").write_text(
        "from lightning_gradood.detectors import Energy\n\n\n"
        "class Broken(Energy):\n"
        "    def score(self, records):\n"
        "        raise ValueError('no score today')\n"
    )
    untrained = ["--ckpt_path", "null", "--cache_dir", "other"]
    with wandb_server() as server:
        done = detect(run, server, workplace, "--detection.detectors", "[mine.Broken]")
        assert done.returncode == 3, done.stderr
        assert "no score today" in done.stdout
        (failure,) = server.alerts
        assert failure["title"].endswith("detectors have failed")
        assert "`energy` on `nine`: ValueError: no score today." in failure["text"]
    with wandb_server() as server:
        done = detect(run, server, workplace, *untrained)
        assert done.returncode == 0, done.stderr
        (low,) = server.alerts
        assert low["title"].endswith("the classifier is hardly better than chance")


def test_a_setting_that_is_none_is_refused(run, workplace):
    done = run_program([sys.executable, "-m", "lightning_gradood", "detect", *FILE, "--logging.artifacts", "some"])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: `logging.artifacts`: ")


def test_a_run_whose_connection_is_lost_goes_on_and_ends(run, workplace):
    command = [sys.executable, "-m", "lightning_gradood", "detect", *FILE, *LOGGED, "--run_dir", "lost"]
    with wandb_server() as server:
        variables = server.environment(workplace) | {"WANDB_FINISH_TIMEOUT": "5"}
        process = Program([*command, "--ckpt_path", str(run / "checkpoints/best.ckpt")], environment=variables)
        deadline = time.monotonic() + 120
        while not server.runs:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    error = process.communicate(timeout=200)[1]
    assert process.returncode == 0, error
    assert "Traceback" not in error
    assert "W&B could not be reached: " in error
    assert "`wandb sync lost/wandb/run-" in error.replace(str(workplace) + "/", "")
    assert results(Path("lost"))["outcomes"]
    assert Path("lost/guard/guard.json").is_file()
