"""What happens in the middle of a long run: too little memory, images for which the network breaks down, and its log."""

import json
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import run_program
from tiny import FILE, refused, results, table

import lightning_gradood.extraction.reading as reading
from lightning_gradood.attacks import FGSM
from lightning_gradood.cli import main
from lightning_gradood.guard import Guard
from lightning_gradood.records import read_columns

ATTACK = [
    "--data.attacks",
    "{fgsm: FGSM, pgd: PGD}",
    "--detection.detectors",
    "[Baseline, Energy]",
    "--data.batch_size",
    "20",
]
ONE = ["--data.attacks", "{fgsm: FGSM}", "--data.batch_size", "20"]
BRITTLE = """
import torch
from lightning_gradood.networks import CifarResNet

class Brittle(CifarResNet):
    share = 0.15

    def forward(self, images):
        logits = super().forward(images)
        broken = (images.detach().double().sum((1, 2, 3)) * 7) % 1 < self.share
        return torch.where(broken[:, None], torch.full_like(logits, torch.nan), logits)
"""
NETWORK = ["--model.network.class_path", "brittle.Brittle"]


def detect(run, *more):
    main(["detect", *FILE, "--ckpt_path", str(run / "checkpoints/best.ckpt"), *more])


@pytest.fixture
def brittle(workplace, monkeypatch):
    """A network that gives NaN for some images of every source."""
    Path("brittle.py").write_text(BRITTLE)
    monkeypatch.syspath_prepend(workplace)
    yield
    sys.modules.pop("brittle", None)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["cuda", "cpu"],
)
def test_a_run_with_too_little_memory_goes_on_with_smaller_batches_and_gives_the_same_table(
    run, capsys, monkeypatch, error
):
    detect(run, *ATTACK, "--run_dir", "whole", "--cache_dir", "whole_records")
    expected = table(capsys.readouterr().out)
    read, craft = reading.read_probes, FGSM._craft
    sizes = {"read": [], "craft": []}

    def starved(probes, network, images):
        sizes["read"].append(len(images))
        if len(images) > 6:
            raise error
        return read(probes, network, images)

    def starved_craft(self, network, images, labels, ids):
        sizes["craft"].append(len(images))
        if len(images) > 3:
            raise error
        return craft(self, network, images, labels, ids)

    monkeypatch.setattr(reading, "read_probes", starved)
    monkeypatch.setattr(FGSM, "_craft", starved_craft)
    monkeypatch.setattr("lightning_gradood.trainer.try_probes", lambda *_: None)
    detect(run, *ATTACK, "--run_dir", "starved", "--cache_dir", "starved_records")
    said = capsys.readouterr()
    assert table(said.out) == expected
    assert "Out of memory with 20 images at once (" in said.err
    assert max(sizes["read"]) == 20
    assert sizes["read"].count(20) == 1, "the batch that did not fit is not tried again"
    assert max(sizes["craft"][1:]) <= 10


def test_an_image_for_which_the_network_is_not_finite_is_refused_by_name(run, brittle, capsys):
    words = ["detect", *FILE, *NETWORK, "--ckpt_path", str(run / "checkpoints/best.ckpt"), "--run_dir", "none"]
    sentence = refused(words, capsys)
    assert re.search(r"should be finite\. Got NaN or infinity in \d+ of 20 rows", sentence)
    assert re.search(r"These are (normal|nine|photographs)/\S+", sentence)
    assert "`--detection.on_bad_image skip` goes on without them" in sentence


def test_skipped_images_are_named_and_the_numbers_are_those_of_the_others(run, brittle, capsys):
    flags = [*NETWORK, *ONE, "--detection.on_bad_image", "skip"]
    detect(run, *flags, "--run_dir", "skipped", "--cache_dir", "records")
    said = capsys.readouterr()
    left_out = results(Path("skipped"))["provenance"]["left_out"]
    assert left_out["photographs"]
    assert re.search(
        rf"Note: photographs: {len(left_out['photographs'])} images are left out, as the network is not finite",
        said.out,
    )
    assert re.search(
        r"photographs: the network's logits are not finite for \d+ images, which are left out: photographs/", said.err
    )
    scores = read_columns(Path("skipped/scores.parquet"))
    assert np.isfinite(scores["score"]).all()
    assert not {name for names in left_out.values() for name in names} & set(scores["id"])
    again = [*flags, "--run_dir", "again", "--cache_dir", "records"]
    detect(run, *again)
    assert table(capsys.readouterr().out) == table(said.out), "from the records"
    words = [
        "detect",
        *FILE,
        *NETWORK,
        *ONE,
        "--ckpt_path",
        str(run / "checkpoints/best.ckpt"),
        "--cache_dir",
        "records",
    ]
    assert re.match(
        "the network should be finite for every image. Got records of an earlier run", refused(words, capsys)
    )
    guard = Guard.load("skipped/guard", trust=["brittle"])
    assert torch.isfinite(torch.as_tensor(guard(torch.full((2, 3, 8, 8), 0.3)).scores)).all()


def test_a_network_that_is_nowhere_finite_is_refused_whatever_is_asked(run, brittle, capsys, monkeypatch):
    import brittle as module

    monkeypatch.setattr(module.Brittle, "share", 2.0)
    words = [
        "detect",
        *FILE,
        *NETWORK,
        "--ckpt_path",
        str(run / "checkpoints/best.ckpt"),
        "--detection.on_bad_image",
        "skip",
    ]
    assert "Got NaN or infinity for every one of the first 20 images" in refused(words, capsys)


def test_the_log_of_a_run_says_what_ran_how_long_and_how_fast(capsys):
    main(["fit", *FILE, "--run_dir", "one"])
    log = Path("one/run.log").read_text()
    assert re.search(r"^# versions: lightning_gradood \S+, python \S+, torch \S+, torchvision", log, re.MULTILINE)
    assert "# seeds: seed_everything 0, data.init_args.split_seed 0, detection.seed 0\n" in log
    for stage in ("training", "probing", "fitting detectors", "reporting", "guard"):
        assert re.search(rf"INFO stage `{stage}` took \d+\.\d s$", log, re.MULTILINE), stage
    entry = json.loads(next(Path("runs/.records").glob("*/entry.json")).read_text())
    assert f"network: weights {entry['description']['weights']}" in log
    assert re.search(r"images of `normal`: [0-9a-f]{64}", log)
    assert re.search(r"process 0: 60 images in \d+\.\d s, \d+\.\d images/s", log)
    before = log
    main(["fit", *FILE, "--run_dir", "one"])
    log = Path("one/run.log").read_text()
    assert log.startswith(before), "a run that goes on adds to it"
    assert "nothing is trained again" in log[len(before) :]


def test_the_log_keeps_warnings_refusals_and_signals(run, brittle, capsys):
    with pytest.warns(UserWarning, match="NO WEIGHTS"):
        refused(["detect", *FILE, *NETWORK, "--run_dir", "bad"], capsys)
    log = Path("bad/run.log").read_text()
    assert "WARNING NO WEIGHTS" in log
    assert re.search(r"ERROR refused: .* should be finite", log)
    assert re.search(r"stage `probing` stopped after", log)
    Path("killer.py").write_text(
        "import os, signal\nfrom lightning_gradood.networks import CifarResNet\n\n"
        "class Killer(CifarResNet):\n    calls = 0\n    def forward(self, images):\n"
        "        Killer.calls += len(images) > 2\n        if Killer.calls == 2:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "        return super().forward(images)\n"
    )
    words = ["detect", *FILE, "--model.network.class_path", "killer.Killer", "--run_dir", "stopped"]
    ended = run_program([sys.executable, "-m", "lightning_gradood", *words])
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    assert "ERROR stopped by SIGTERM" in Path("stopped/run.log").read_text()


def test_a_profiler_names_our_stages_and_each_attack(run, capsys, caplog):
    detect(run, *ATTACK, "--trainer.profiler", "simple")
    summary = caplog.text
    for name in ("making fgsm", "making pgd", "reading probes", "probing", "fitting detectors", "reporting", "guard"):
        assert f"gradood: {name} " in summary, name


def test_the_rest_is_estimated_in_passes_of_each_attack(run, capsys, monkeypatch):
    """An attack of forty passes takes forty times the share of one pass, so the estimate does not fall short by them."""
    from lightning_gradood.extraction.work import Work

    seen = []
    advance = Work.advance
    monkeypatch.setattr(
        Work, "advance", lambda self, *given: (advance(self, *given), seen.append((self.done, self.total)))[0]
    )
    detect(
        run,
        "--data.attacks",
        "{pgd: {class_path: PGD, init_args: {eps: 0.03, step: 0.01, steps: 40}}}",
        "--cache_dir",
        "new",
        "--trainer.enable_progress_bar",
        "true",
    )
    (done, total) = seen[-1]
    assert done == pytest.approx(total)
    reading_pass = 3  # forward, and two of the all-ones label
    assert total == pytest.approx(60 * reading_pass + 20 * (reading_pass + 40))
    assert re.search(r"images/s, \d+ s left of all reading", capsys.readouterr().out)
