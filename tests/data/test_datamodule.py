"""The datamodule in a real Trainer: which images each stage sees, once each, as float pixels, and its refusals."""

import re

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from PIL import Image
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.data import DigitsSource, ImageBatch, ImageDataModule
from lightning_gradood.data.loaders import refuse_fewer_than_processes

# Lightning 2.6 asks torch 2.15's pytree in a way that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


class Watcher(LightningModule):
    """A linear classifier that keeps what it was given at each stage."""

    def __init__(self, pixels=3 * 8 * 8, classes=2):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))
        self.seen: dict[str, list[ImageBatch]] = {}

    def _step(self, stage, batch):
        self.seen.setdefault(stage, []).append(batch)
        return nn.functional.cross_entropy(self.network(batch.images), batch.labels)

    def training_step(self, batch, _):
        return self._step("train", batch)

    def validation_step(self, batch, _):
        self._step("val", batch)

    def test_step(self, batch, batch_idx):
        self._step("test", batch)

    def predict_step(self, batch, _, dataloader_idx=0):
        self.seen.setdefault(dataloader_idx, []).append(batch)
        return self.network(batch.images)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def rows(self, stage):
        return torch.cat([batch.rows for batch in self.seen[stage]]).tolist()


def trainer(**options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**({"accelerator": "cpu", "max_epochs": 1, "num_sanity_val_steps": 0} | quiet | options))


@pytest.fixture
def settings(image_folder):
    return {
        "train": image_folder("train", {"a": 20, "b": 30}),
        "normal": image_folder("normal", {"a": 6, "b": 7}),
        "anomalies": {"near": image_folder("near", {".": 9}), "far": image_folder("far", {"x": 5, "y": 6})},
        "batch_size": 8,
        "probe_batch_size": 4,
    }


def test_fit_sees_training_images_and_a_stratified_part_of_them_for_validation(settings):
    module, data = Watcher(), ImageDataModule(**settings, validation_fraction=0.2)
    trainer(max_epochs=2).fit(module, data)
    train, val = module.rows("train"), module.rows("val")
    assert len(train) == 2 * 40
    assert sorted({*train, *val}) == list(range(50))
    assert not set(train) & set(val)
    assert data.train_source.labels[sorted(set(val))].tolist() == [0] * 4 + [1] * 6
    assert train[:40] != train[40:]
    assert "detection_sources" not in vars(data)  # a classifier can be trained before the anomalies are there


def test_images_arrive_as_float_and_only_training_is_augmented(settings):
    class Blacken(nn.Module):
        def forward(self, images):
            assert images.dtype == torch.float32
            return images * 0

    module, data = Watcher(), ImageDataModule(**settings, augment=Blacken())
    trainer(num_sanity_val_steps=1).fit(module, data)
    trainer().test(module, data, verbose=False)
    trainer().predict(module, data)
    assert all(batch.images.max() == 0 for batch in module.seen["train"])
    for stage, source in [
        ("val", data.train_source),
        ("test", data.normal_source),
        (1, data.detection_sources["near"]),
    ]:
        for batch in module.seen[stage]:
            assert torch.equal(batch.images, source.images(batch.rows) / 255)


def test_the_trainers_seed_fixes_the_order_of_training(settings):
    orders = []
    for seed in (1, 1, 2):
        seed_everything(seed, verbose=False)
        module = Watcher()
        trainer().fit(module, ImageDataModule(**settings))
        orders.append(module.rows("train"))
    assert orders[0] == orders[1] != orders[2]


def test_test_sees_the_normal_images_with_their_labels(settings):
    module, data = Watcher(), ImageDataModule(**settings)
    trainer().test(module, data, verbose=False)
    assert module.rows("test") == list(range(13))
    assert torch.cat([batch.labels for batch in module.seen["test"]]).tolist() == [0] * 6 + [1] * 7


def test_predict_sees_every_detection_source_once_and_in_order(settings):
    module, data = Watcher(), ImageDataModule(**settings)
    trainer().predict(module, data)
    assert data.predict_sources == ["normal", "near", "far"]
    assert [module.rows(index) for index in range(3)] == [list(range(count)) for count in (13, 9, 11)]
    assert data.detection_sources["far"].ids[0] == "far/x/000.png"
    assert torch.cat([batch.labels for batch in module.seen[1]]).tolist() == [-1] * 9


def test_loaders_can_be_made_for_some_rows_of_some_sources(settings):
    (loader,) = ImageDataModule(**settings).probe_dataloaders({"far": [3, 7]}, processes=1)
    assert [row for batch in loader for row in batch.rows.tolist()] == [3, 7]


def test_loaders_of_an_unknown_source_are_refused(settings):
    data = ImageDataModule(**settings)
    with pytest.raises(
        Refusal,
        match=r"`rows` should name detection sources\. Got `rows` with \['fra'\]\. Choose among \['normal', 'near'",
    ):
        data.probe_dataloaders({"fra": [0]}, processes=1)


def test_sources_too_large_for_memory_are_decoded_by_workers(settings):
    module, data = Watcher(), ImageDataModule(**settings, memory_limit_gib=0, num_workers=2)
    assert data.val_dataloader().num_workers == 2
    trainer().predict(module, data)
    assert torch.equal(module.seen[1][0].images, data.detection_sources["near"].images(range(4)) / 255)


def test_sources_in_memory_need_no_workers_nor_lightnings_advice_to_add_some(settings, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.data_connector.suggested_max_num_workers", lambda _: 8)
    data = ImageDataModule(**settings, num_workers=2)
    trainer().predict(Watcher(), data)  # a warning would be an error here
    assert data.val_dataloader().num_workers == 0


def test_a_refusal_from_a_worker_keeps_its_own_words_only(settings, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "near" / "005.png")
    data = ImageDataModule(**settings, memory_limit_gib=0, num_workers=2)
    with pytest.raises(Refusal, match=r"^`near` should hold images of one shape, .*with size \[32, 32\]\.$"):
        trainer().predict(Watcher(), data)


def test_a_refusal_outside_workers_keeps_its_words(settings, tmp_path):
    (tmp_path / "near" / "005.png").write_bytes(b"")
    with pytest.raises(Refusal, match=r"^`root` should hold readable images\. Got .*005\.png.*whole one\.$"):
        trainer().predict(Watcher(), ImageDataModule(**settings))


def test_the_trainers_precision_holds_for_images(settings):
    module = Watcher()
    trainer(precision="64-true").test(module, ImageDataModule(**settings), verbose=False)
    assert module.seen["test"][0].images.dtype == torch.float64


def test_the_manifest_covers_every_detection_image_and_does_not_depend_on_the_order_of_sources(settings):
    data = ImageDataModule(**settings)
    assert set(data.manifest.split_of) == {name for source in data.detection_sources.values() for name in source.ids}
    swapped = settings | {"anomalies": dict(reversed(settings["anomalies"].items()))}
    assert ImageDataModule(**swapped).manifest == data.manifest
    assert ImageDataModule(**settings, split_seed=1).manifest != data.manifest
    assert ImageDataModule(**settings, split=(0.5, 0.25, 0.25)).manifest.counts["near"] == {
        "train": 5,
        "val": 2,
        "test": 2,
    }


def test_the_images_of_a_limit_have_a_seed_of_their_own(settings):
    """Several splits of the same images need no further probing."""
    one = ImageDataModule(**settings, limit=10)
    split_again = ImageDataModule(**settings, limit=10, split_seed=1)
    assert one.normal_source.ids == split_again.normal_source.ids
    assert one.normal_source.digest() == split_again.normal_source.digest()
    assert one.manifest != split_again.manifest
    assert one.normal_source.ids != ImageDataModule(**settings, limit=10, limit_seed=1).normal_source.ids


def test_a_limit_holds_for_detection_but_not_for_training(settings):
    data = ImageDataModule(**settings, limit=10)
    assert {name: len(source) for name, source in data.detection_sources.items()} == {
        "normal": 10,
        "near": 9,
        "far": 10,
    }
    assert len(data.train_source) == 50


def test_the_classes_are_those_of_training_or_of_the_normal_images(settings, image_folder):
    assert ImageDataModule(**settings).num_classes == 2
    without = settings | {"train": None}
    assert ImageDataModule(**without).num_classes == 2
    assert ImageDataModule(**without | {"normal": image_folder("flat", {".": 9})}).num_classes is None


def test_digits_need_no_files():
    data = ImageDataModule(DigitsSource([0, 1], "test"), {"two": DigitsSource([2])}, DigitsSource([0, 1], "train"))
    assert data.num_classes == 2
    assert not set(data.normal_source._listing.keys) & set(data.train_source._listing.keys)


def test_normal_labels_follow_the_classes_of_training(settings, image_folder):
    data = ImageDataModule(**settings | {"normal": image_folder("some", {"b": 4})})
    assert data.normal_source.labels.tolist() == [1] * 4
    with pytest.raises(Refusal, match=r"`normal` should have the classes of `train`.* with class `c`"):
        _ = ImageDataModule(**settings | {"normal": image_folder("other", {"c": 4})}).normal_source


def test_fit_without_training_images_is_refused(settings):
    with pytest.raises(
        Refusal, match=r"`data\.train` should name .*Got `data\.train = None`.*`detect` in place of `fit`"
    ):
        trainer().fit(Watcher(), ImageDataModule(**settings | {"train": None}))


@pytest.mark.parametrize(("setting", "verb"), [("train", "fit"), ("normal", "test")])
def test_images_without_classes_cannot_train_or_test_a_classifier(settings, image_folder, setting, verb):
    data = ImageDataModule(**settings | {setting: image_folder("flat", {".": 9})})
    words = rf"`{setting}` should have a class for every image, .*Got `{setting}` with 9 of 9 without"
    with pytest.raises(Refusal, match=words):
        getattr(trainer(), verb)(Watcher(), data)


def test_too_few_training_images_for_validation_are_refused(settings, image_folder):
    data = ImageDataModule(**settings | {"train": image_folder("few", {"a": 1, "b": 1})})
    with pytest.raises(
        Refusal, match=r"`train` should have enough images .*Got `train` with 2 and `validation_fraction = 0\.1`"
    ):
        data.train_dataloader()


@pytest.mark.parametrize("setting", ["train", "anomaly"])
def test_another_shape_is_refused_with_both(settings, image_folder, setting):
    large = image_folder("large", {"a": 5, "b": 5}, size=16)
    changed = {"train": large} if setting == "train" else {"anomalies": {"large": large}}
    with pytest.raises(Refusal, match=r"`(train|large)` should hold images of shape \[3, 8, 8\] .* with \[3, 16, 16\]"):
        _ = ImageDataModule(**settings | changed).detection_sources


def test_a_source_too_small_to_split_is_refused(settings, image_folder):
    data = ImageDataModule(**settings | {"anomalies": {"few": image_folder("few", {".": 2})}})
    with pytest.raises(Refusal, match=r"`few` should have at least 3 images, .*Got `few` with 2\. Add images"):
        _ = data.manifest


def test_fewer_images_than_processes_are_refused(settings):
    source = ImageDataModule(**settings).detection_sources["near"]
    refuse_fewer_than_processes(source, [1, 2], 2)
    with pytest.raises(
        Refusal,
        match=r"`near` should have at least one image for each process\. Got `near` with 2 to probe and 3 processes\.",
    ):
        refuse_fewer_than_processes(source, [1, 2], 3)


@pytest.mark.parametrize("name", ["normal", "mean", "a/b", "", ".", "..", "a\nb"])
def test_ambiguous_names_are_refused(name):
    with pytest.raises(
        Refusal,
        match=r"names without a slash, of at most 100 letters, other than .*\. Got `anomalies` with the name "
        + re.escape(f"`{name.encode('unicode_escape').decode()}`"),
    ):
        ImageDataModule("here", {name: "there"})


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"batch_size": 0}, r"`batch_size` should be at least 1\. Got `batch_size = 0`"),
        ({"probe_batch_size": 0}, r"`probe_batch_size` should be at least 1"),
        ({"limit": 0}, r"`limit` should be at least 1"),
        ({"num_workers": -1}, r"`num_workers` should be at least 0\. Got `num_workers = -1`"),
        ({"memory_limit_gib": -1.0}, r"`memory_limit_gib` should be at least 0"),
        (
            {"validation_fraction": 1.0},
            r"`validation_fraction` should be between 0 and 1\. Got `validation_fraction = 1\.0`",
        ),
        ({"validation_fraction": 0.0}, r"`validation_fraction` should be between 0 and 1"),
        (
            {"split": (0.5, 0.5, 0.5)},
            r"`split` should be positive fractions that sum to 1\. Got `split = \[0\.5, 0\.5, 0\.5\]`",
        ),
    ],
)
def test_settings_out_of_range_are_refused_at_once(setting, words):
    with pytest.raises(Refusal, match=words):
        ImageDataModule("here", {}, **setting)


def test_the_constructor_touches_no_disk():
    data = ImageDataModule("nowhere", {"a": "elsewhere"}, "no/more")
    with pytest.raises(Refusal, match=r"Got `data\.train = no/more`"):
        _ = data.detection_sources


def test_a_batch_without_a_trainer_becomes_float(settings):
    data = ImageDataModule(**settings, augment=nn.Identity())
    batch = data.on_after_batch_transfer(data.normal_source.__getitems__([0, 1]), 0)
    assert np.isclose(batch.images.numpy() * 255, data.normal_source.images([0, 1]).numpy()).all()
