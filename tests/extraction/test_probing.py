"""Probes in Lightning's predict loop: every image once, the right numbers, nothing read twice, nothing lost."""

import re
from contextlib import contextmanager

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import LightningDataModule
from small_experiment import QUIET, data, probe, probes, tables, task
from torch import nn

from lightning_gradood.core import Refusal, as_float
from lightning_gradood.data import DigitsSource, LoadedSource
from lightning_gradood.extraction import ProbeCallback, ProbeTask
from lightning_gradood.extraction import plan as plan_module
from lightning_gradood.extraction import reader as reader_module
from lightning_gradood.extraction import reading as reading_module
from lightning_gradood.gradients import AllOnes, AllZeros, costs, parameter_names, squared_gradient_norms
from lightning_gradood.perturbations import FGSM
from lightning_gradood.probes import GradientProbe, LogitsProbe
from lightning_gradood.records import RecordCache

# Where every record is there already, Lightning warns of the empty loop; `Trainer.extract` keeps that from users.
pytestmark = pytest.mark.filterwarnings("ignore:Total length of .* across ranks is zero")


def flat(batches):
    return [name for _, ids in batches for name in ids]


def all_ids(sources):
    return sorted(name for source in sources.detection_sources.values() for name in source.ids)


def keys(callback):
    return [entry.key for entry in callback.entries]


def extract(folder, model, sources):
    """Probe all sources by the task of our Trainer; return its plan."""
    reading = ProbeTask(model.network, sources, probes(), RecordCache(folder))
    pl.Trainer(devices=1, **QUIET).predict(reading, return_predictions=False)
    return reading.reader.plan


@pytest.mark.parametrize(
    "settings", [{"inference_mode": True}, {"inference_mode": False}, {"precision": "bf16-mixed"}], ids=str
)
def test_records_are_complete_and_equal_to_direct_calls(tmp_path, settings):
    """In inference mode too, Lightning's default, in which no gradient can be taken."""
    model, sources = task(), data()
    found = tables(probe(tmp_path, model, sources, **settings))
    assert set(found) == {(s, p) for s in ("normal", "nine") for p in ("gradients/all_ones", "logits")}
    for (name, kind), records in found.items():
        source = sources.detection_sources[name]
        rows = [source.ids.index(row_id) for row_id in records.ids]
        images = as_float(source.images(rows))
        assert sorted(rows) == list(range(12))
        assert records.column("label").tolist() == source.labels[rows].tolist()
        assert set(records.column("source")) == {name}
        assert records.column("attack").tolist() == [""] * 12
        with torch.no_grad():
            logits = model.network.eval()(images)
        assert records.column("prediction").tolist() == logits.argmax(1).tolist()
        expected = logits.double() if kind == "logits" else squared_gradient_norms(model.network, images, AllOnes())
        torch.testing.assert_close(torch.tensor(records.probe(kind)), expected, rtol=1e-4, atol=1e-12)
        assert records.names(kind) == ([] if kind == "logits" else parameter_names(model.network))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 autocast needs a GPU")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision_on_a_gpu_gives_the_records_of_float32(tmp_path, precision):
    full = tables(probe(tmp_path / "full", task(), data(), precision="32-true"))
    mixed = tables(probe(tmp_path / "mixed", task(), data(), precision=precision, accelerator="gpu"))
    for key, records in full.items():
        assert mixed[key].probe(key[1]) == pytest.approx(records.probe(key[1]), rel=1e-3)


def test_weights_are_there_before_the_keys_and_later_ones_are_refused(tmp_path):
    torch.save(task(seed=1).network.state_dict(), tmp_path / "weights.pt")
    named = probe(tmp_path / "named", task(weights=str(tmp_path / "weights.pt")), data())
    assert keys(named) == keys(probe(tmp_path / "given", task(seed=1), data()))
    for precision in ("bf16-true", "64-true"):
        with pytest.raises(Refusal, match=f"Got others, .* converted to `precision = {precision}`"):
            probe(tmp_path / "late", task(), data(), precision=precision)
    saving = pl.Trainer(max_epochs=0, enable_model_summary=False, **QUIET)
    saving.strategy.connect(task(seed=1))
    saving.save_checkpoint(tmp_path / "late.ckpt", weights_only=True)
    late = pl.Trainer(callbacks=[ProbeCallback(probes(), RecordCache(tmp_path / "late"))], **QUIET)
    with pytest.raises(Refusal, match=r"Got others, read from its `ckpt_path`.*as `Trainer.extract` does"):
        late.predict(task(), datamodule=data(), ckpt_path=tmp_path / "late.ckpt", return_predictions=False)
    assert not list((tmp_path / "late").rglob("*.parquet"))


def test_the_task_reads_what_the_callback_reads_and_a_second_run_reads_nothing(tmp_path, probed):
    model, images = task(), []
    model.network.register_forward_pre_hook(lambda _, inputs: images.append(len(inputs[0])))
    callback = probe(tmp_path / "callback", model, data())
    assert sorted(flat(probed)) == all_ids(data())
    probed.clear()
    plan = extract(tmp_path / "task", model, data())
    assert (plan.entries, len(plan.missing)) == (callback.plan.entries, 4)
    assert sorted(flat(probed)) == all_ids(data())
    for entry in plan.entries:
        assert RecordCache(tmp_path / "task").read(entry.key).table.equals(callback.cache.read(entry.key).table)
    probed.clear(), images.clear()
    again = extract(tmp_path / "task", model, data())
    assert (probed, again.missing, again.entries) == ([], [], plan.entries)
    assert images == [1], "one image, to count the network's outputs"


def test_weights_and_images_are_hashed_once_and_each_image_takes_one_forward_pass(tmp_path, monkeypatch):
    hashed, images, model = [], [], task()
    for kind, name in ((plan_module, "state_digest"), (LoadedSource, "digest")):
        whole = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *a, whole=whole, name=name: hashed.append(name) or whole(*a))
    sources = data(attacks={"fgsm": FGSM()}, train=DigitsSource([0, 1], "train"), keep_pixels="uint8")
    extract(tmp_path, model, sources)  # the first call looks the network over
    assert sorted(hashed) == ["digest", "digest", "state_digest"]
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=0))  # else one in a hundred is compared
    model.network.register_forward_pre_hook(lambda _, inputs: images.append(len(inputs[0])))
    sources = data(limit=20)
    extract(tmp_path / "first", model, sources)
    images.clear()
    extract(tmp_path / "second", model, sources)
    assert sum(images) == 40


def changed(change):
    """The small experiment with one thing changed."""
    model, sources, reading = task(), data(), probes()
    with torch.no_grad():
        if change == "weights":
            model.network[5].bias[0] += 1e-6
        if change == "buffer":
            model.network[1].running_mean[0] += 1e-6
    if change == "structure":
        model.network[2] = nn.LeakyReLU(0.0)
    if change == "transform":
        sources = data(transform=lambda image: image.rotate(180))
    if change == "design":
        reading = [GradientProbe(AllZeros()), LogitsProbe()]
    if change == "source":
        sources = data(normal=[1, 2])
    return model, sources, reading


def test_what_changed_is_probed_again_and_nothing_else(tmp_path):
    """In one cache: records of other weights, images or designs are never mixed."""
    first = probe(tmp_path / "one", task(), data())
    new = {"weights": 4, "buffer": 4, "structure": 4, "transform": 4, "design": 2, "source": 2}
    for change, expected in new.items():
        model, sources, reading = changed(change)
        truth = tables(probe(tmp_path / change, model, sources, reading))
        second = probe(tmp_path / "one", model, sources, reading)
        assert len(second.plan.missing) == len({*keys(second)} - {*keys(first)}) == expected, change
        for key, records in tables(second).items():
            assert records.table.equals(truth[key].table), change
        assert all(len(records) == 12 for records in tables(first).values()), "the old entries are still there"


@contextmanager
def failing_after(monkeypatch, batches):
    """Within, the reading of another batch after so many fails."""
    read, done = reading_module.read_probes, []

    def read_probes(*args):
        if len(done) == batches:
            raise ZeroDivisionError
        done.append(1)
        return read(*args)

    with monkeypatch.context() as patch:
        patch.setattr(reading_module, "read_probes", read_probes)
        with pytest.raises(ZeroDivisionError):
            yield


def test_an_error_half_way_loses_nothing_and_the_next_run_probes_only_the_rest(tmp_path, monkeypatch, probed):
    model, sources = task(), data()
    for batches in (4, 0):  # 12 normal images in 3 batches, 5 of the nines; then at once
        with failing_after(monkeypatch, batches):
            probe(tmp_path, model, sources)
    assert sources.predict_sources == ["normal", "nine"]
    assert model.predict_step([torch.rand(2, 3, 32, 32)], 0).shape == (2, 2)
    before = flat(probed[:4])
    probed.clear()
    resumed = probe(tmp_path, model, sources)
    assert sorted(before + flat(probed)) == all_ids(sources)
    assert len(flat(probed)) == 7
    whole = tables(probe(tmp_path / "whole", task(), data()))
    for key, records in tables(resumed).items():
        assert records.ids == whole[key].ids
        assert records.probe(key[1]) == pytest.approx(whole[key].probe(key[1]), rel=1e-6)


def test_what_was_written_before_a_kill_a_full_disk_or_the_last_step_serves_the_next_run(tmp_path, monkeypatch, probed):
    write, written = RecordCache.write_shard, []

    def write_shard(self, key, records):
        if len(written) == 2:
            raise Refusal("The disk is full.")
        written.append(key)
        write(self, key, records)

    def resumed(folder, limit=12):
        """How many images a run still probes, which ends with complete entries."""
        probed.clear()
        found = tables(probe(tmp_path / folder, task(), data(limit=limit)))
        assert all(len(records) == limit for records in found.values())
        return len(flat(probed))

    with monkeypatch.context() as patch:
        patch.setattr(reader_module, "_SHARD", 10)
        patch.setattr(ProbeCallback, "on_exception", lambda *_: None)  # no time for more
        with failing_after(monkeypatch, 3):
            probe(tmp_path / "killed", task(), data(limit=20))
    assert resumed("killed", limit=20) == 40 - 10
    with monkeypatch.context() as patch:
        patch.setattr(RecordCache, "write_shard", write_shard)
        patch.setattr(reader_module, "_SHARD", 5)
        with pytest.raises(Refusal, match="The disk is full"):
            probe(tmp_path / "full", task(), data())
        patch.setattr(reader_module, "_SHARD", 1000)
        with failing_after(monkeypatch, 1):  # the full disk does not hide the error
            probe(tmp_path / "full", task(), data())
    assert resumed("full") == 24 - 5
    with monkeypatch.context() as patch:
        patch.setattr(RecordCache, "commit", lambda *_: {}["lost"])
        with pytest.raises(KeyError):
            probe(tmp_path / "last", task(), data())
    assert resumed("last") == 0


def test_the_task_is_left_as_it_was_and_what_cannot_be_probed_is_refused(tmp_path):
    class Other(LightningDataModule):
        def predict_dataloader(self):
            return []

    model, ids = task(), data().normal_source.ids
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    probe(tmp_path, model, data(attacks={"fgsm": FGSM()}))
    assert {(parameter.grad, parameter.requires_grad) for parameter in model.parameters()} == {(None, True)}
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())
    with torch.no_grad():
        model.network[5].bias[0] = float("nan")
    with pytest.raises(Refusal, match=re.escape(f"These are {', '.join(ids[:5])}")):
        probe(tmp_path, model, data())
    trainer = pl.Trainer(callbacks=[ProbeCallback(probes(), RecordCache("never-written"))], **QUIET)
    with pytest.raises(Refusal, match=re.escape("should be an ImageDataModule. Got `datamodule = Other`.")):
        trainer.predict(task(), datamodule=Other(), return_predictions=False)
