"""`fit_guard` takes images in every form, gives the guard of `detect`, and leaves nothing behind."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from asserts import assert_refused, random_states, state_of
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset, default_collate
from torchvision.transforms import Compose, Normalize, Resize, ToTensor
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import to_pil_image

from lightning_gradood import Guard, fit_guard, fitting
from lightning_gradood.cli import main
from lightning_gradood.core import as_float, to_pixels
from lightning_gradood.detectors import Energy, MahalanobisPP
from lightning_gradood.networks import Logits, Normalized, resnet20

HANDLERS = set()  # of SIGTERM while a network is read
HALF = {"mean": [0.5] * 3, "std": [0.25] * 3}
CONFIG = """
trainer: {accelerator: cpu, enable_progress_bar: false, callbacks: [{class_path: ReportCallback, init_args: {figures: false}}]}
model:
  class_path: ClassificationTask
  init_args:
    network: {class_path: lightning_gradood.networks.resnet20, init_args: {num_classes: 4}}
    normalize: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
    weights: weights.pt
data:
  class_path: ImageDataModule
  init_args:
    normal: photos
    transform: {class_path: torchvision.transforms.Resize, init_args: {size: [8, 8]}}
detection: {detectors: [MahalanobisPP], resamples: 5, false_positive_rate: 0.1}
"""


class Stream(IterableDataset):
    def __iter__(self):
        return iter(pixels(60))


class Augmented(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, row):
        return torch.rand(3, 8, 8)


def pixels(number, seed=1):
    return torch.randint(0, 256, (number, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def network():
    torch.manual_seed(0)
    return resnet20(num_classes=4).train()


class Watch(nn.Module):
    def forward(self, values):
        HANDLERS.add(signal.getsignal(signal.SIGTERM))
        return values


def probabilities():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Softmax(1))


def opened(given):
    listing = fitting._source("normal_images", given).open()
    return [np.asarray(listing.read(row)) for row in range(len(listing.keys))], listing.labels


def test_images_in_every_form_arrive_as_they_are_and_others_are_refused():
    shown, labels = pixels(6), torch.arange(6) % 3
    labelled = TensorDataset(shown, labels)
    for given, expected in (
        (shown, [-1] * 6),
        (list(shown), [-1] * 6),
        ([(one, 2) for one in shown], [2] * 6),
        (labelled, labels.tolist()),
        (DataLoader(labelled, batch_size=4, shuffle=True), labels.tolist()),
        (DataLoader(labelled, batch_size=4, collate_fn=lambda rows: torch.stack([one for one, _ in rows])), [-1] * 6),
        (DataLoader(labelled, batch_size=4, collate_fn=lambda rows: default_collate(rows)), labels.tolist()),
    ):
        assert opened(given)[1] == expected
        assert [one.tolist() for one in opened(given)[0]] == [one.tolist() for one in shown]
    images = opened([to_pil_image(one) for one in shown])[0]
    assert [one.transpose(2, 0, 1).tolist() for one in images] == shown.tolist()
    part = DataLoader(labelled, sampler=SubsetRandomSampler([4, 1]))
    assert [one.tolist() for one in opened(part)[0]] == [shown[1].tolist(), shown[4].tolist()]
    assert len(opened(DataLoader(Stream(), batch_size=16))[0]) == 60
    fit = lambda given, **settings: lambda: fit_guard(network(), given, **settings)  # noqa: E731
    assert_refused(
        (fit(shown.float()), "`normal_images` should be pixels in [0, 1]. Got values from .* leave normalisation out"),
        (fit(Normalize(**HALF)(shown / 255)), "`normalize={'mean': [...], 'std': [...]}`"),
        (fit(np.zeros((6, 8, 8, 3))), "`normal_images` should give PIL images or tensors [C, H, W].*Got a ndarray"),
        (fit([{"pixels": shown[0]}]), "Got a dict"),
        (fit(Stream()), "Got a Stream. Give a data set whose rows can be read by their number"),
        (fit(7), "`normal_images` should be a folder, a tensor .* a data set, list or DataLoader of images. Got a int."),
        (fit(shown[0]), "Got a tensor [8, 8]"),
        (fit(Augmented()), "Got another one, as from a random transform"),
        (fit(shown, anomalies={"far": 3}), "`anomalies['far']` should be a folder"),
        (fit(shown, anomalies={"far": DataLoader(shown, collate_fn=dict.fromkeys)}), "`anomalies['far']` should be a DataLoader"),
        (fit(DataLoader([], batch_size=4, collate_fn=list)), "Got batches of nothing"),
        (fit("nowhere"), "`normal_images` should be a folder of images. Got `normal_images = nowhere`, which does not exist"),
        (fit(pixels(60), false_positive_rate=2.0), "`false_positive_rate` should be between 0 and 1"),
        (lambda: fit_guard(probabilities(), pixels(60)), "Leave that layer out, or give networks.Logits(network, 'softmax')"),
        (fit(shown, budget="fast"), "`budget` should be one of quick, standard, thorough. Got `budget = fast`"),
        (fit(shown), "`normal_images` should have at least 20 images in `train` for .* name other detectors with `detectors`."),
    )  # fmt: skip


def test_the_guard_is_that_of_detect_and_nothing_else_changes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for row, one in enumerate(torch.nn.functional.interpolate(pixels(60), scale_factor=2)):
        to_pil_image(one).save(f"photos/{row:02d}.png")
    net, temporary = network(), tmp_path / "temporary"
    torch.save(net.state_dict(), "weights.pt")
    Path("own.yaml").write_text(CONFIG)
    main(["detect", "--config", "own.yaml", "--run_dir", "run"])
    given = Normalized(net, **HALF)
    before, generators, files = state_of(given), random_states(), sorted(tmp_path.rglob("*"))
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    capsys.readouterr()
    transform = Compose([Resize([8, 8]), ToTensor(), Normalize(**HALF)])
    settings = {"detectors": [MahalanobisPP()], "resamples": 5, "false_positive_rate": 0.1}
    with torch.inference_mode():
        guard = fit_guard(net, "photos", transform=transform, **settings)
    out, error = capsys.readouterr()
    assert ("Guard: `mahalanobis_pp`, fitted on normal images alone" in out, "Tip" in error) == (True, False)
    assert (state_of(given), random_states()) == (before, generators)
    assert [one for one in sorted(tmp_path.rglob("*")) if one != temporary] == files
    of_detect = Guard.load("run/guard")
    assert (guard.threshold, guard.about.calibration) == (of_detect.threshold, of_detect.about.calibration)
    expected = [one.score for one in of_detect.score_files("photos")]
    assert [one.score for one in guard.score_files("photos")] == expected
    assert guard(sorted(Path("photos").iterdir())).scores.tolist() == pytest.approx(expected)
    guard.save("saved")
    assert [one.score for one in Guard.load("saved").score_files("photos")] == expected


def test_a_network_that_nothing_builds_again_is_guarded_in_this_process_and_anomalies_may_be_known(capsys):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Watch(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    bright = {"bright": pixels(60, seed=2) // 2 + 128}
    guard = fit_guard(
        net, pixels(60), anomalies=bright, normalize=HALF, guard="mlp", resamples=5, false_positive_rate=0.2
    )
    assert {signal.getsignal(signal.SIGTERM)} == HANDLERS  # whoever stops the program stops it
    assert (guard.about.trained_on, guard.about.detector_name, len(guard.calibration)) == ("bright", "mlp", 12)
    assert (
        "The guard works in this process and cannot be saved. A network that is saved should keep"
        in capsys.readouterr().err
    )
    assert_refused((lambda: guard.save("nowhere"), "Got torch.nn.Sequential, which does not"))
    settings = {"detectors": [Energy()], "resamples": 5, "false_positive_rate": 0.1}
    assert (
        fit_guard(Normalized(Logits(probabilities(), "softmax"), **HALF), pixels(60), **settings).about.outputs
        == "softmax"
    )
    net[0].weight.data.zero_()  # of the caller's network, of which the guard has a copy
    assert guard.bare_network[0].weight.any()


def test_normalisation_at_the_end_of_a_transform_becomes_the_network_s():
    picture, preset = to_pil_image(pixels(1)[0]), ImageClassification(crop_size=6, resize_size=7)
    for transform in (preset, Compose([Resize([6, 6]), ToTensor(), Normalize(**HALF)])):
        plain, normalize = fitting._without_normalize(transform)
        found = to_pixels(picture, plain, "picture")
        found = Normalized(nn.Identity(), **normalize)(as_float(found)[None])[0]
        torch.testing.assert_close(found, transform(picture))
    assert fitting._without_normalize(Resize(6))[1] is None


def test_the_front_door_loads_nothing_before_it_is_asked():
    script = "import sys, lightning_gradood; print({'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
