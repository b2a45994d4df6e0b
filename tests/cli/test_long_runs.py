"""What happens in the middle of a long run: too little memory, images for which the network breaks down, and its log."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import FILE, called, detecting, refused, results, table

import lightning_gradood.extraction.batch_records as reading
from lightning_gradood.cli import main
from lightning_gradood.guard import Guard
from lightning_gradood.networks import CifarResNet
from lightning_gradood.records import read_rows

ATTACKS = ["--data.perturbations.attacks", "{fgsm: FGSM, pgd: PGD}", "--detection.detectors", "[Baseline, Energy]"]
BATCHES = ["--data.batch_size", "20"]
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


@pytest.fixture
def brittle(module):
    """The flag for a network that gives NaN for some images of every source."""
    module("brittle", BRITTLE)
    return ["--model.network.class_path", "brittle.Brittle"]


def test_a_run_with_too_little_memory_goes_on_with_smaller_batches_and_gives_the_same_table(run, capsys, monkeypatch):
    words = [*detecting(run), *ATTACKS, *BATCHES]
    _, expected, _ = called([*words, "--run_dir", "whole", "--cache_dir", "whole_records"], capsys)
    read, sizes = reading.read_probes, []

    def starved(probes, network, images):
        sizes.append(len(images))
        if len(images) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return read(probes, network, images)

    monkeypatch.setattr(reading, "read_probes", starved)
    monkeypatch.setattr("lightning_gradood.evaluation.settings.try_probes", lambda *_: None)
    _, out, err = called([*words, "--run_dir", "starved", "--cache_dir", "starved_records"], capsys)
    assert table(out) == table(expected)
    assert "Out of memory with 20 images at once (" in err
    assert sizes.count(20) == 1, "the batch that did not fit is not tried again"


def test_images_that_break_the_network_are_refused_by_name_or_skipped_and_the_numbers_are_those_of_the_others(
    run, brittle, capsys
):
    words = [*detecting(run), *brittle, *BATCHES, "--data.perturbations.attacks={fgsm: FGSM}", "--cache_dir", "records"]
    sentence = refused([*words, "--cache_dir", "other"], capsys)
    assert re.search(r"Got NaN or infinity in \d+ of 20 rows.*These are (normal|nine|photographs)/\S+", sentence)
    assert "`--detection.on_bad_image skip` goes on without them" in sentence
    skipping = [*words, "--detection.on_bad_image", "skip", "--run_dir"]
    _, out, err = called([*skipping, "skipped"], capsys)
    left_out = results("skipped")["provenance"]["left_out"]
    number = len(left_out["photographs"])
    assert f"Note: photographs: {number} images are left out, as the network is not finite" in out
    assert f"the network's logits are not finite for {number} images, which are left out: photographs/" in err
    scores = read_rows(Path("skipped/scores.parquet"))
    assert np.isfinite(scores["score"]).all()
    assert not {name for names in left_out.values() for name in names} & set(scores["id"])
    assert table(called([*skipping, "again"], capsys)[1]) == table(out), "from the records"
    assert refused(words, capsys).startswith(
        "the network should be finite for every image. Got records of an earlier run"
    )
    guard = Guard.load("skipped/guard", trust=["brittle"])
    assert np.isfinite(guard(torch.full((2, 3, 8, 8), 0.3)).scores).all()


def test_the_log_of_a_run_says_what_ran_how_long_and_how_fast(run):
    log = (run / "run.log").read_text()
    lines = [r"^# versions: lightning_gradood \S+, python \S+, torch \S+, torchvision"]
    lines += [r"^# seeds: seed_everything 0, data.init_args.split.seed 0, detection.seed 0$"]
    stages = ("training", "probing", "fitting detectors", "reporting", "guard")
    lines += [rf"INFO stage `{stage}` took \d+\.\d s$" for stage in stages]
    lines += [r"network: weights [0-9a-f]{64}$", r"images of `normal`: [0-9a-f]{64}$"]
    lines += [r"process 0: 60 images in \d+\.\d s, \d+\.\d images/s$"]
    assert [line for line in lines if not re.search(line, log, re.MULTILINE)] == []
    main(["fit", *FILE, "--run_dir", str(run)])
    again = (run / "run.log").read_text()
    assert again.startswith(log), "a run that goes on adds to it"
    assert "nothing is trained again" in again[len(log) :]


def test_the_log_keeps_warnings_and_refusals_and_a_full_disk_ends_no_run(module, capsys):
    module("wordy", BRITTLE.replace("return torch", "import warnings; warnings.warn('a word'); return torch"))
    torch.save(CifarResNet(1, 3).state_dict(), "some.pt")
    words = [
        "detect",
        *FILE,
        "--model.network.class_path",
        "wordy.Brittle",
        "--model.weights",
        "some.pt",
        "--run_dir",
        "bad",
    ]
    for number in range(2):
        with pytest.warns(UserWarning, match="a word"):
            assert "should be finite" in refused(words, capsys)
        if number == 0:
            log, lines = Path("bad/run.log").read_text(), ["WARNING a word", "ERROR refused: .* should be finite"]
            assert [line for line in lines if not re.search(line, log)] == []
            Path("bad/run.log").unlink()
            Path("bad/run.log").symlink_to("/dev/full")
