"""A detector that fails costs nothing that the others found: it is a row that says why, and the exit code tells."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import FILE, only_run, refused, results, table

import lightning_gradood.detectors as detectors
from lightning_gradood.cli import main
from lightning_gradood.core import Refusal
from lightning_gradood.guard import Guard
from lightning_gradood.networks import CifarResNet
from lightning_gradood.records import read_columns

REASON = "`val` should have more images. Got 1. Add some."


@pytest.fixture
def broken(monkeypatch):
    """Let a detector's fit fail, on every source or where a source's images are among the records."""

    def broken(name, error, source=""):
        kind = getattr(detectors, name)
        fit = kind.fit

        def failing(self, records, seed):
            if any(one.startswith(source) for one in records.ids):
                raise error
            return fit(self, records, seed)

        monkeypatch.setattr(kind, "fit", failing)

    return broken


def detect(run, *more):
    main(["detect", *FILE, "--run_dir", "runs/again", "--ckpt_path", str(run / "checkpoints/best.ckpt"), *more])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Refusal(REASON), REASON),
        (np.linalg.LinAlgError("Singular matrix\nmore of it"), "LinAlgError: Singular matrix."),
        (RuntimeError("cholesky failed."), "RuntimeError: cholesky failed."),
        (KeyError(), "KeyError."),
    ],
)
def test_the_others_are_reported_and_the_exit_code_says_that_one_is_missing(run, broken, capsys, error, reason):
    broken("Energy", error)
    with pytest.raises(SystemExit) as ended:
        detect(run, "--detection.detectors", "[Energy, Baseline]")
    assert ended.value.code == 3
    said = capsys.readouterr()
    assert said.err.endswith("error: fits failed: 2, of `energy`; the table says why, and all else is reported.\n")
    assert f"failed: `energy` on `nine`: {reason}" in said.out
    rows = [line.split() for line in table(said.out).splitlines()]
    assert [row[row.index("energy") + 1 :].count("failed") for row in rows if "energy" in row] == [1, 1]
    folder = Path("runs/again")
    found = results(folder)
    assert {one["detector"] for one in found["outcomes"]} == {"mlp", "baseline"}
    assert [(one["source"], one["detector"], one["reason"]) for one in found["failures"]] == [
        ("nine", "energy", reason),
        ("photographs", "energy", reason),
    ]
    columns = read_columns(folder / "results.parquet")
    failed = [columns["detector"][row] for row, metric in enumerate(columns["metric"]) if metric == "failed"]
    assert failed == ["energy", "energy"]
    page = (folder / "report.html").read_text()
    assert "failed: `energy` on `nine`: " in page
    assert Guard.load(folder / "guard").about.detector_name == "baseline", "no guard is made of a failed detector"


def test_one_source_may_fail_alone(run, broken, capsys):
    broken("MLP", Refusal(REASON), "nine/")
    with pytest.raises(SystemExit) as ended:
        detect(run)
    assert ended.value.code == 3
    found = results(Path("runs/again"))
    assert {one["source"] for one in found["outcomes"]} == {"photographs"}
    assert [one["source"] for one in found["failures"]] == ["nine"]


def test_no_guard_is_saved_where_the_one_that_was_asked_for_failed(run, broken, capsys):
    broken("Energy", Refusal(REASON))
    with pytest.raises(SystemExit):
        detect(run, "--detection.detectors", "[Energy]", "--detection.guard", "energy")
    assert f"No guard is saved: `energy` cannot be one: {REASON}" in capsys.readouterr().out
    assert not Path("runs/again/guard").exists()


def test_a_run_in_which_all_failed_is_refused(run, broken, capsys):
    broken("MLP", Refusal(REASON))
    words = ["detect", *FILE, "--run_dir", "runs/again", "--ckpt_path", str(run / "checkpoints/best.ckpt")]
    sentence = refused(words, capsys)
    assert sentence.startswith(
        "At least one detector should be fitted. Got 2 failures, the first of `mlp` on `nine`: `val`"
    )
    assert not Path("runs/again/results.json").exists()
    assert only_run().is_dir()


HEADLESS = """
import torch
from lightning_gradood.networks import CifarResNet

class Scaled(CifarResNet):
    def forward(self, images):
        return torch.tanh(super().forward(images))  # what the last layer gives is changed again
"""


@pytest.mark.parametrize("verb", ["fit", "detect"])
def test_a_detector_that_cannot_read_the_network_is_refused_before_anything_is_trained_or_read(
    verb, probed, capsys, monkeypatch
):
    Path("headless.py").write_text(HEADLESS)
    monkeypatch.syspath_prepend(".")
    words = [verb, *FILE, "--model.network.class_path", "headless.Scaled", "--detection.detectors", "[GradNorm]"]
    if verb == "detect":
        torch.save(CifarResNet(1, 3).state_dict(), "headless.pt")
        words += ["--ckpt_path", "headless.pt"]
    sentence = refused([*words, "--run_dir", "none"], capsys)
    assert sentence.startswith("`gradnorm` needs a network whose logits are the output of its last nn.Linear.")
    assert not probed
    assert not Path("none/checkpoints").exists()
    assert not list(Path("runs").rglob("*.parquet"))


def test_no_guard_of_an_earlier_run_is_taken_for_this_ones(run, broken, capsys):
    words = ["detect", *FILE, "--run_dir", "runs/again", "--ckpt_path", str(run / "checkpoints/best.ckpt")]
    words += ["--detection.detectors", "[Energy]", "--detection.guard", "energy"]
    main(words)
    broken("Energy", Refusal(REASON))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(words)
    assert "The guard in runs/again/guard is that of an earlier run." in capsys.readouterr().out


def test_a_benchmark_ends_with_the_same_code_and_runs_again_what_failed(run, broken, capsys):
    Path("bench.yaml").write_text(
        "experiments: {one: {config: tiny.yaml, dataset: Digits, network: ResNet, flags: {trainer.max_epochs: 1}}}\nseeds: [0]\n"
    )
    words = ["benchmark", "--config", "bench.yaml", "--detectors", "[Energy, Baseline]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detectors.Energy, "fit", _fail)
        with pytest.raises(SystemExit) as ended:
            main(words)
    assert ended.value.code == 3
    said = capsys.readouterr()
    assert said.err.endswith(
        "error: some fits of `energy` failed: their runs say why, and all else is in the tables.\n"
    )
    assert "Tables and page:" in said.out
    main(words)
    assert "done before" not in capsys.readouterr().out
    main(words)
    assert "done before" in capsys.readouterr().out


def _fail(self, records, seed):
    raise Refusal(REASON)
