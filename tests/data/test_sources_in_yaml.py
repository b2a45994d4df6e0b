"""The datamodule as users write it: YAML and flags, through the parser that Lightning's command line uses."""

import pytest
from jsonargparse import ArgumentParser
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from lightning_gradood.data import (
    DatasetSource,
    DigitsSource,
    FolderSource,
    ImageDataModule,
    PhotoPatches,
    RandomCropFlip,
)

EXPERIMENT = """
data:
  train: {class_path: DigitsSource, init_args: {digits: [0, 1], part: train}}
  normal:
    class_path: lightning_gradood.data.DatasetSource
    init_args:
      dataset: {class_path: torchvision.datasets.CIFAR10, init_args: {root: nowhere, train: false}}
  anomalies:
    folder: some/folder
    explicit: {class_path: FolderSource, init_args: {root: some/other}}
    photographs: {class_path: PhotoPatches}
    svhn:
      class_path: DatasetSource
      init_args: {dataset: {class_path: torchvision.datasets.SVHN, init_args: {root: nowhere, split: test}}}
    fake:
      class_path: DatasetSource
      init_args: {dataset: {class_path: torchvision.datasets.FakeData, init_args: {size: 6, image_size: [3, 32, 32]}}}
  transform:
    class_path: torchvision.transforms.v2.Compose
    init_args:
      transforms:
        - {class_path: torchvision.transforms.v2.Resize, init_args: {size: 16}}
        - {class_path: torchvision.transforms.v2.CenterCrop, init_args: {size: [16, 16]}}
  augment: {class_path: RandomCropFlip, init_args: {padding: 2, fill: reflect}}
  split: [0.5, 0.25, 0.25]
  limit: 5
"""


@pytest.fixture
def parse(tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(ImageDataModule, "data")
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)

    def parse(*flags):
        parsed = parser.parse_args(["--config", str(tmp_path / "experiment.yaml"), *flags])
        return parsed, parser.instantiate(parsed).data, parser

    return parse


def test_every_source_is_what_the_file_says_and_works_when_it_is_opened(parse, monkeypatch):
    parse()  # what the parser knows of a signature it keeps
    with monkeypatch.context() as patch:
        patch.setattr(FakeData, "__init__", lambda *_, **__: pytest.fail("built while parsing"))
        _, data, _ = parse()
    kinds = [type(source) for source in (data.train, data.normal, *data.anomalies.values())]
    assert kinds == [DigitsSource, DatasetSource, str, FolderSource, PhotoPatches, DatasetSource, DatasetSource]
    assert isinstance(data.augment, RandomCropFlip)
    assert tuple(data.split) == (0.5, 0.25, 0.25)
    fake = data.opening.load("fake", data.anomalies["fake"])
    assert (len(fake), fake.shape) == (6, (3, 16, 16))
    assert isinstance(data.opening.transform, v2.Compose)


def test_flags_override_the_file_and_one_anomaly_is_changed_or_added_by_its_own(parse):
    flags = ["normal=my/folder", "anomalies={noise: my/noise}", "split=[0.4, 0.4, 0.2]", "train=null", "limit=null"]
    _, data, _ = parse(*(f"--data.{flag}" for flag in flags), "--data.augment.init_args.padding=1")
    assert (data.normal, data.anomalies, data.train, data.limit) == ("my/folder", {"noise": "my/noise"}, None, None)
    assert data.augment.padding == 1
    _, data, _ = parse("--data.anomalies.folder=my/folder", "--data.anomalies.more=my/more")
    assert (data.anomalies["folder"], data.anomalies["more"], len(data.anomalies)) == ("my/folder", "my/more", 6)


def test_what_is_misspelt_or_out_of_range_is_refused_by_the_parser(parse):
    flags = ["split=[0.5, 0.5]", "normal.class_path=FodlerSource", "batch_sise=3", "limit=many", "limits={cw: 0}"]
    flags += ["batch_size=0", "probe_batch_size=0", "num_workers=-1", "memory_limit_gib=-1", "max_megapixels=0"]
    flags += ["validation_fraction=1.0", "limit=0", "split_seed=-1", "augment.init_args.padding=-1"]
    for flag in flags:
        with pytest.raises(Exception, match=flag.partition("=")[0].rpartition(".")[2]):
            parse(f"--data.{flag}")
