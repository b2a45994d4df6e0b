"""OpenOOD's benchmarks: our files name its lists, folders and groups, and run on tiny copies of its layout."""

import csv
import re
from importlib import resources
from pathlib import Path

import pytest
import torch
from parsed import verdict
from PIL import Image
from tiny import only_run, refused
from torchvision import models

from lightning_gradood.cli import main
from lightning_gradood.core import experiment_file
from lightning_gradood.data import ListSource
from lightning_gradood.networks import resnet18
from lightning_gradood.report import Run

SMALL_FAR = ["mnist", "svhn", "texture", "places365"]
LARGE = {"near": ["ssb_hard", "ninco"], "far": ["inaturalist", "textures", "openimage_o"]}
GROUPS = {  # of OpenOOD's `openood/evaluation_api/datasets.py`
    "cifar10": {"near": ["cifar100", "tin"], "far": SMALL_FAR},
    "cifar100": {"near": ["cifar10", "tin"], "far": SMALL_FAR},
    "imagenet200": LARGE | {"shifted": ["imagenet_v2", "imagenet_r"]},
    "imagenet": LARGE | {"shifted": ["imagenet_v2", "imagenet_r", "imagenet_es"]},
}


def theirs(classes):
    """Weights as OpenOOD names them."""
    return {name.replace("downsample", "shortcut"): tensor for name, tensor in resnet18(classes).state_dict().items()}


CHECKPOINTS = {
    "cifar10": (lambda: theirs(10), "cifar10_resnet18_32x32_base_e100_lr0.1_default/s0/best.ckpt"),
    "cifar100": (lambda: theirs(100), "cifar100_resnet18_32x32_base_e100_lr0.1_default/s0/best.ckpt"),
    "imagenet200": (
        lambda: models.resnet18(num_classes=200).state_dict(),
        "imagenet200_resnet18_224x224_base_e90_lr0.1_default/s0/best.ckpt",
    ),
    "imagenet": (lambda: models.resnet50().state_dict(), "resnet50-0676ba61.pth"),  # torchvision's, among torch.hub's
}
LIST = re.compile(r'root: "\$\{[^}]*\}/(images_\w+)", list: "\$\{[^}]*\}/benchmark_imglist/(\w+)/(\w+)\.txt"')


def place(benchmark, classes=10, images=10, size=(40, 36)):
    """Write the lists that an experiment file names, in OpenOOD's layout, noisy images of one colour, and a checkpoint."""
    found = LIST.findall(Path(experiment_file(f"openood_{benchmark}")).read_text())
    for folder, of, name in found:
        own, lines = re.search(f"_{of}(_|$)", name), []
        for row in range(2 * images if own or name.startswith("val") else images):
            path = Path(name.partition("_")[2], name.partition("_")[0], f"{row:04d}.png")
            Path("data", folder, path).parent.mkdir(parents=True, exist_ok=True)
            colour = 20 * (row % classes) if own else 255 - 3 * row
            Image.effect_noise(size, 40).convert("RGB").point(lambda value, c=colour: (value + c) // 2).save(
                Path("data", folder, path)
            )
            lines.append(f"{path.as_posix()} {row % classes if own else -1}\n")
        Path("data", "benchmark_imglist", of).mkdir(parents=True, exist_ok=True)
        Path("data", "benchmark_imglist", of, f"{name}.txt").write_text("".join(lines))
    build, path = CHECKPOINTS[benchmark]
    checkpoint = Path("results" if path.startswith(benchmark) else "torch/hub/checkpoints", path)
    checkpoint.parent.mkdir(parents=True)
    torch.save(build(), checkpoint)


@pytest.mark.parametrize("benchmark", GROUPS)
def test_files_name_openood_s_lists_folders_and_groups(benchmark, workplace):
    place(benchmark, images=2)
    config = verdict(verb="detect", file=experiment_file(f"openood_{benchmark}"))
    data, settings = config.data.init_args, config.detection
    own, small = f"{benchmark}/", benchmark.startswith("cifar")
    assert data.groups == GROUPS[benchmark]
    assert [settings.protocol, settings.fit_on, settings.leaderboard] == ["openood", "train", benchmark]
    assert set(data.anomalies) == {settings.validation, *(name for names in data.groups.values() for name in names)}
    parts = {"train": data.train, **data.normal, "validation": data.anomalies[settings.validation]["fit+val"]}
    parts |= {name: given["test"] for name, given in data.anomalies.items() if "test" in given}
    shifted = {name: f"test_{benchmark}_{name.partition('_')[2]}" for name in data.groups.get("shifted", [])}
    for name, source in parts.items():
        role = {"train": f"train_{benchmark}", "fit+val": f"val_{benchmark}", "test": f"test_{benchmark}"}
        role |= {"validation": f"val_{'tin' if small else 'openimage_o'}"} | shifted
        assert source.init_args.list == f"data/benchmark_imglist/{own}{role.get(name, f'test_{name}')}.txt"
        classic = small or name == "textures"
        assert source.init_args.root == f"data/images_{'classic' if classic else 'largescale'}"
        labels = ListSource(**vars(source.init_args)).open().labels
        assert (min(labels) == -1) == (name in {"validation", *data.groups["near"], *data.groups["far"]})


def test_missing_archives_are_named_before_anything_is_read(capsys, workplace):
    place("cifar10", images=2)
    for path in Path("data/images_classic/tin").rglob("*.png"):
        path.unlink()
    words = ["detect", "--config", "openood_cifar10", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    assert "unpack `tin.zip` in `data/images_classic/tin`" in refused(words, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", GROUPS)
def test_a_benchmark_runs_from_its_checkpoint_to_a_table_with_the_leaderboard(
    benchmark, capsys, workplace, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(workplace / "torch"))
    large = benchmark.startswith("imagenet")
    place(benchmark, images=5)
    flags = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--data.num_workers=0", "--detection.resamples=20"]
    flags += ["--detection.preset=paper", "--detection.false_positive_rate=0.2"]
    flags += ["--trainer.callbacks", "[{class_path: ReportCallback, init_args: {figures: false}}]"]
    flags += ["--data.transform", "{class_path: torchvision.transforms.v2.Resize, init_args: {size: [32, 32]}}"] * large
    main(["detect", "--config", f"openood_{benchmark}", *flags])
    run, printed = Run.read(only_run(f"openood_{benchmark}")), capsys.readouterr().out
    assert run.failures == []
    assert {one.source for one in run.outcomes} == {name for names in GROUPS[benchmark].values() for name in names}
    assert {"mlp", "mdsens", "odin", "mahalanobis_v", "image_statistics"} == {one.detector for one in run.outcomes}
    published = csv.DictReader(
        resources.files("lightning_gradood.report").joinpath("openood_leaderboard.csv").read_text().splitlines()
    )
    (odin,) = (row for row in published if (row["benchmark"], row["detector"]) == (benchmark, "odin"))
    for group in ("near", "far"):
        (row,) = (line for line in printed.splitlines() if re.match(rf"{group} +odin ", line))
        assert odin[group].partition(" ")[0] in row
    assert "OpenOOD = AUROC of its leaderboard" in printed
    assert ("full spectrum = AUROC" in printed) == large
