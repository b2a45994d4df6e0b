"""The datamodule in a real Trainer: which images each stage sees, once each, as float pixels, and its refusals."""

import re

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from PIL import Image
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.data import ImageBatch, ImageDataModule, Limits, Split


class Watcher(LightningModule):
    """A linear classifier that keeps what it was given at each stage, and of each source."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        self.seen: dict[str | int, list[ImageBatch]] = {}

    def _step(self, stage, batch):
        self.seen.setdefault(stage, []).append(batch)
        return self.network(batch.images)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self._step("train", batch), batch.labels)

    def validation_step(self, batch, _):
        self._step("val", batch)

    def test_step(self, batch, batch_idx):
        self._step("test", batch)

    def predict_step(self, batch, _, dataloader_idx=0):
        return self._step(dataloader_idx, batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def rows(self, stage):
        return torch.cat([batch.rows for batch in self.seen[stage]]).tolist()


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1, "num_sanity_val_steps": 0}
    return Trainer(**(quiet | options))


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
    orders = []
    for seed in (1, 1, 2):
        seed_everything(seed, verbose=False)
        module, data = Watcher(), ImageDataModule(**settings, split=Split(validation=0.2))
        trainer(max_epochs=2).fit(module, data)
        orders.append(module.rows("train"))
    assert orders[0] == orders[1] != orders[2], "the Trainer's seed fixes the order"
    train, val = orders[2], module.rows("val")
    assert len(train) == 2 * 40
    assert sorted({*train, *val}) == list(range(50))
    assert not set(train) & set(val)
    assert data.sources.train.labels[sorted(set(val))].tolist() == [0] * 4 + [1] * 6
    assert "clean" not in vars(data.sources)  # a classifier can be trained before the anomalies are there


class Blacken(nn.Module):
    def forward(self, images):
        assert images.dtype == torch.float32
        return images * 0


def test_images_arrive_as_float_with_labels_and_only_training_is_augmented(settings):
    module, data = Watcher(), ImageDataModule(**settings, augment=Blacken())
    trainer(num_sanity_val_steps=1).fit(module, data)
    trainer().test(module, data, verbose=False)
    trainer().predict(module, data)
    assert all(batch.images.max() == 0 for batch in module.seen["train"])
    sources = [("val", data.sources.train), ("test", data.sources.normal), (1, data.sources.clean["near"])]
    for stage, source in sources:
        for batch in module.seen[stage]:
            assert torch.equal(batch.images, source.images(batch.rows) / 255)
    assert module.rows("test") == list(range(13))
    assert torch.cat([batch.labels for batch in module.seen["test"]]).tolist() == [0] * 6 + [1] * 7
    assert data.predict_sources == ["normal", "near", "far"]
    assert [module.rows(index) for index in range(3)] == [list(range(count)) for count in (13, 9, 11)]
    assert torch.cat([batch.labels for batch in module.seen[1]]).tolist() == [-1] * 9
    trainer(precision="64-true").test(double := Watcher(), ImageDataModule(**settings), verbose=False)
    assert double.seen["test"][0].images.dtype == torch.float64


def test_sources_too_large_for_memory_are_decoded_by_workers_and_others_need_none(settings, monkeypatch):
    module, data = Watcher(), ImageDataModule(**settings, limits=Limits(memory_gib=0), num_workers=2)
    assert data.val_dataloader().num_workers == 2
    trainer().predict(module, data)
    assert torch.equal(module.seen[1][0].images, data.sources.clean["near"].images(range(4)) / 255)
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.data_connector.suggested_max_num_workers", lambda _: 8)
    kept = ImageDataModule(**settings, num_workers=2)
    trainer().predict(Watcher(), kept)  # a warning, Lightning's advice to add workers, would be an error here


def test_a_refusal_keeps_its_own_words_only_from_a_worker_too(settings, tmp_path):
    workers = {"limits": Limits(memory_gib=0), "num_workers": 2}
    (tmp_path / "near" / "005.png").write_bytes(b"")
    for more in ({}, workers):
        with pytest.raises(
            Refusal,
            match=r"^`\S+005\.png` should be a readable image\. Got: it is no image\. Of 9 .* 1 cannot be read: 005.png\. Rem",
        ):
            trainer().predict(Watcher(), ImageDataModule(**settings, **more))
    Image.new("RGB", (9, 9)).save(tmp_path / "near" / "005.png")
    with pytest.raises(Refusal, match=r"^`near` should hold images of one shape, .*with size \[32, 32\]\.$"):
        trainer().predict(Watcher(), ImageDataModule(**settings, **workers))


def test_the_manifest_covers_every_detection_image_and_depends_on_its_own_seed_alone(settings):
    data = ImageDataModule(**settings)
    assert set(data.sources.manifest.split_of) == {one for source in data.sources.clean.values() for one in source.ids}
    swapped = settings | {"anomalies": dict(reversed(settings["anomalies"].items()))}
    assert ImageDataModule(**swapped).sources.manifest == data.sources.manifest, "in whatever order the sources stand"
    counts = ImageDataModule(**settings, split=Split((0.5, 0.25, 0.25))).sources.manifest.counts
    assert counts["near"] == {"train": 5, "val": 2, "test": 2}
    # several splits of the same images need no further probing
    one, again = (ImageDataModule(**settings, limits=Limits(10), split=Split(seed=seed)) for seed in (0, 1))
    assert one.sources.normal.ids == again.sources.normal.ids
    assert one.sources.normal.digest() == again.sources.normal.digest()
    assert one.sources.manifest != again.sources.manifest
    assert one.sources.normal.ids != ImageDataModule(**settings, limits=Limits(10, seed=1)).sources.normal.ids
    single = ImageDataModule(**settings, limits=Limits(10, sources={"far": 5, "normal": 12}))
    assert [len(source) for source in single.sources.clean.values()] == [12, 9, 5]


def test_what_does_not_fit_is_refused(settings, image_folder):
    flat, large = image_folder("flat", {".": 9}), image_folder("large", {"a": 5, "b": 5}, size=16)
    few = {"train": image_folder("few", {"a": 1, "b": 1})}
    shape = r"should hold images of shape \[3, 8, 8\] .* with \[3, 16, 16\]"
    train, test = (lambda data: data.train_dataloader()), (lambda data: data.test_dataloader())
    manifest = lambda data: data.sources.manifest  # noqa: E731
    for changed, use, words in [
        ({"train": None}, train, r"`data\.train` should name .*`detect` in place"),
        ({"train": flat}, train, "`train` should have a class .* with 9 of 9 without"),
        ({"normal": flat}, test, "`normal` should have a class .* 9 of 9 without"),
        (few, train, r"Got `train` with 2 and `split.validation = 0\.1`"),
        ({"train": large}, manifest, f"`train` {shape}"),
        ({"anomalies": {"large": large}}, manifest, f"`large` {shape}"),
        ({"normal": image_folder("c", {"c": 4})}, manifest, "classes of `train`.* with class `c`"),
        ({"anomalies": {"few": image_folder("two", {".": 2})}}, manifest, "fill every split .*`few` with 2"),
        ({"limits": Limits(megapixels=1e-5)}, manifest, r"Got 8 × 8.*raise --data\.limits\.megapixels\."),
    ]:
        with pytest.raises(Refusal, match=words):
            use(ImageDataModule(**settings | changed))
    nowhere = ImageDataModule("nowhere", {"a": "elsewhere"}, "no/more")  # the constructor touches no disk
    with pytest.raises(Refusal, match=r"Got `data\.train = no/more`"):
        _ = nowhere.sources.clean
    for name in ("normal", "mean", "others", "a/b", "", ".", "..", "a\nb"):
        shown = re.escape(name.encode("unicode_escape").decode())
        with pytest.raises(Refusal, match=f"Got `anomalies` with the name `{shown}`"):
            ImageDataModule("here", {name: "there"})
