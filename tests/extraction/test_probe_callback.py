"""Probes in Lightning's predict loop: every image once, the right numbers, nothing read twice, nothing lost."""

import pickle
import re
import warnings

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from small_experiment import data, probe, probes, tables, task
from torch import nn

from lightning_gradood.attacks import FGSM
from lightning_gradood.core import Refusal, as_float
from lightning_gradood.data import DigitsSource, LoadedSource
from lightning_gradood.extraction import ProbeCallback, ProbeTask
from lightning_gradood.extraction import plan as plan_module
from lightning_gradood.extraction import reader as reader_module
from lightning_gradood.extraction import reading as reading_module
from lightning_gradood.extraction.reading import ImageReader
from lightning_gradood.gradients import AllOnes, AllZeros, costs, parameter_names, squared_gradient_norms
from lightning_gradood.probes import GradientProbe, LogitsProbe
from lightning_gradood.records import RecordCache

# Where every record is there already, Lightning warns of the empty loop; `Trainer.extract` keeps that from users.
pytestmark = pytest.mark.filterwarnings("ignore:Total length of .* across ranks is zero")


class Calls:
    """Count the images that a network is given, by the forward passes of its first layer."""

    def __init__(self, task):
        self.images = 0
        task.network.register_forward_pre_hook(self.count)

    def count(self, module, inputs):
        self.images += len(inputs[0])


@pytest.fixture
def probed_ids(monkeypatch):
    """Return the ids that are probed, in order, batch by batch."""
    batches, read = [], ImageReader._read

    def noting(self, probes, images):
        batches.append(images.ids)
        return read(self, probes, images)

    monkeypatch.setattr(ImageReader, "_read", noting)
    return batches


def flat(batches):
    return [name for batch in batches for name in batch]


def all_ids(sources):
    return sorted(name for source in sources.detection_sources.values() for name in source.ids)


def test_records_are_complete_and_equal_to_direct_calls(tmp_path):
    model, sources = task(), data()
    found = tables(probe(tmp_path, model, sources))
    assert set(found) == {(s, p) for s in ("normal", "nine") for p in ("gradients/all_ones", "logits")}
    for (name, kind), records in found.items():
        source = sources.detection_sources[name]
        order = {row_id: row for row, row_id in enumerate(source.ids)}
        rows = [order[row_id] for row_id in records.ids]
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


@pytest.mark.parametrize("settings", [{"inference_mode": True}, {"inference_mode": False}], ids=str)
def test_inference_mode_makes_no_difference(tmp_path, settings):
    """Lightning's default is inference mode, in which no gradient can be taken."""
    found = tables(probe(tmp_path, task(), data(), **settings))
    truth = squared_gradient_norms(task().network, as_float(data().normal_source.images(range(12))))
    assert found["normal", "gradients/all_ones"].probe("gradients/all_ones") == pytest.approx(truth.numpy(), rel=1e-4)


def test_mixed_precision_gives_the_records_of_float32(tmp_path):
    full = tables(probe(tmp_path / "full", task(), data(), precision="32-true"))
    mixed = tables(probe(tmp_path / "mixed", task(), data(), precision="bf16-mixed"))
    for key, records in full.items():
        assert mixed[key].probe(key[1]) == pytest.approx(records.probe(key[1]), rel=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 autocast needs a GPU")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision_on_a_gpu_gives_the_records_of_float32(tmp_path, precision):
    full = tables(probe(tmp_path / "full", task(), data(), precision="32-true"))
    mixed = tables(probe(tmp_path / "mixed", task(), data(), precision=precision, accelerator="gpu"))
    for key, records in full.items():
        assert mixed[key].probe(key[1]) == pytest.approx(records.probe(key[1]), rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_weights_that_are_converted_on_the_way_are_refused(tmp_path, precision):
    with pytest.raises(Refusal, match=f"Got others, .* converted to `precision = {precision}`"):
        probe(tmp_path, task(), data(), precision=precision)
    assert not list(tmp_path.rglob("*.parquet"))


def test_weights_from_a_checkpoint_that_comes_too_late_are_refused(tmp_path):
    saving = Trainer(logger=False, accelerator="cpu", max_epochs=0, enable_model_summary=False)
    saving.strategy.connect(task(seed=1))
    saving.save_checkpoint(tmp_path / "late.ckpt", weights_only=True)
    callback = ProbeCallback(probes(), RecordCache(tmp_path / "cache"))
    late = Trainer(logger=False, accelerator="cpu", callbacks=[callback], enable_progress_bar=False)
    with pytest.raises(Refusal, match=r"Got others, read from its `ckpt_path`.*as `Trainer.extract` does"):
        late.predict(task(), datamodule=data(), ckpt_path=tmp_path / "late.ckpt", return_predictions=False)


def test_initial_weights_are_there_before_the_keys_are_made(tmp_path):
    torch.save(task(seed=1).network.state_dict(), tmp_path / "weights.pt")
    named = probe(tmp_path / "named", task(weights=str(tmp_path / "weights.pt")), data())
    given = probe(tmp_path / "given", task(seed=1), data())
    assert [entry.key for entry in named.entries] == [entry.key for entry in given.entries]


def test_a_second_run_reads_nothing(tmp_path, probed_ids):
    first = probe(tmp_path, task(), data())
    assert sorted(flat(probed_ids)) == all_ids(data())
    probed_ids.clear()
    second = probe(tmp_path, task(), data())
    assert probed_ids == []
    assert second.entries == first.entries
    assert second.plan.missing == []


def extract(folder, model, sources):
    """Probe all sources by the task of our Trainer; return its plan."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    reading = ProbeTask(model.network, sources, probes(), RecordCache(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Total length of .* across ranks is zero")
        pl.Trainer(accelerator="cpu", devices=1, **quiet).predict(reading, return_predictions=False)
    return reading.reader.plan


def test_the_task_reads_what_the_callback_reads(tmp_path, probed_ids):
    model = task()
    callback = probe(tmp_path / "callback", model, data())
    probed_ids.clear()
    plan = extract(tmp_path / "task", model, data())
    assert (str(plan), plan.entries) == (str(callback.plan), callback.plan.entries)
    assert len(flat(probed_ids)) == 24
    own = RecordCache(tmp_path / "task")
    for entry in plan.entries:
        assert own.read(entry.key).table.equals(callback.cache.read(entry.key).table)


def test_a_plan_says_what_is_complete_and_what_is_to_be_read(tmp_path):
    first = extract(tmp_path, task(), data())
    assert [line.split() for line in str(first).splitlines()] == [
        ["source", "probe", "records"],
        ["normal", "gradients/all_ones", "12", "to", "read"],
        ["normal", "logits", "12", "to", "read"],
        ["nine", "gradients/all_ones", "12", "to", "read"],
        ["nine", "logits", "12", "to", "read"],
    ]
    second = extract(tmp_path, task(), data(limit=13))
    assert {line.split()[-1] for line in str(second).splitlines()[1:]} == {"read"}  # other images, other entries
    third = extract(tmp_path, task(), data())
    assert {line.split()[-1] for line in str(third).splitlines()[1:]} == {"complete"}
    assert str(pickle.loads(pickle.dumps(first))) == str(first)


def test_the_task_s_second_run_gives_the_network_one_image_to_count_its_outputs(tmp_path):
    extract(tmp_path, task(), data())
    again = task()
    calls = Calls(again)
    extract(tmp_path, again, data())
    assert calls.images == 1


def test_weights_and_images_are_hashed_once(tmp_path, monkeypatch):
    hashed = []
    for kind, name in ((plan_module, "state_digest"), (LoadedSource, "digest")):
        whole = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *a, whole=whole, name=name: hashed.append(name) or whole(*a))
    sources = data(attacks={"fgsm": FGSM()}, train=DigitsSource([0, 1], "train"), keep_pixels="uint8")
    extract(tmp_path, task(), sources)
    assert sorted(hashed) == ["digest", "digest", "state_digest"]


def test_the_task_makes_one_forward_pass_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=0))  # else one in a hundred is compared
    model, sources = task(), data(limit=20)
    calls = Calls(model)
    extract(tmp_path / "first", model, sources)  # the first call looks the network over
    calls.images = 0
    extract(tmp_path / "second", model, sources)
    assert calls.images == 40


def changed_weights():
    model = task()
    with torch.no_grad():
        model.network[5].bias[0] += 1e-6
    return model, data(), probes()


def changed_buffer():
    model = task()
    model.network[1].running_mean[0] += 1e-6
    return model, data(), probes()


def changed_structure():
    model = task()
    model.network[2] = nn.LeakyReLU(0.0)
    return model, data(), probes()


def changed_transform():
    return task(), data(transform=lambda image: image.rotate(180)), probes()


def changed_design():
    return task(), data(), [GradientProbe(AllZeros()), LogitsProbe()]


@pytest.mark.parametrize(
    ("change", "expected"),
    [(changed_weights, 4), (changed_buffer, 4), (changed_structure, 4), (changed_transform, 4), (changed_design, 2)],
)
def test_what_changed_is_probed_again_and_nothing_else(tmp_path, change, expected):
    first = probe(tmp_path, task(), data())
    model, sources, reading = change()
    second = probe(tmp_path, model, sources, reading)
    assert len(second.plan.missing) == expected
    assert {e.key for e in second.plan.missing} | {e.key for e in first.entries} >= {e.key for e in second.entries}
    assert all(len(records) == 12 for records in tables(second).values())
    assert all(len(records) == 12 for records in tables(first).values())  # the old entries are still there


def test_a_changed_source_leaves_the_others_alone(tmp_path):
    probe(tmp_path, task(), data())
    second = probe(tmp_path, task(), data(normal=[1, 2]))
    assert [entry.source for entry in second.plan.missing] == ["normal", "normal"]


def failing_after(monkeypatch, batches, error):
    """Make the reading of the next batch fail."""
    read, done = reading_module.read_probes, []

    def read_probes(*args):
        if len(done) == batches:
            raise error
        done.append(1)
        return read(*args)

    monkeypatch.setattr(reading_module, "read_probes", read_probes)
    return lambda: monkeypatch.setattr(reading_module, "read_probes", read)


def test_an_error_half_way_loses_nothing_and_the_next_run_probes_only_the_rest(tmp_path, monkeypatch, probed_ids):
    mend = failing_after(monkeypatch, 4, ZeroDivisionError())  # 12 normal images in 3 batches, 5 of the nines
    sources = data()
    with pytest.raises(ZeroDivisionError):
        probe(tmp_path, task(), sources)
    mend()
    before = flat(probed_ids[:4])
    probed_ids.clear()
    resumed = probe(tmp_path, task(), sources)
    assert sorted(before + flat(probed_ids)) == all_ids(sources)
    assert len(flat(probed_ids)) == 7
    whole = tables(probe(tmp_path / "whole", task(), data()))
    for key, records in tables(resumed).items():
        assert records.ids == whole[key].ids
        assert records.probe(key[1]) == pytest.approx(whole[key].probe(key[1]), rel=1e-6)


def test_an_error_leaves_the_data_and_the_task_as_they_were(tmp_path, monkeypatch):
    model, sources = task(), data()
    for batches in (4, 0):  # the second run would only have probed the nines
        mend = failing_after(monkeypatch, batches, ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            probe(tmp_path, model, sources)
        mend()
    assert sources.predict_sources == ["normal", "nine"]
    assert model.predict_step([torch.rand(2, 3, 32, 32)], 0).shape == (2, 2)


def test_a_disk_that_is_full_as_well_does_not_hide_the_error(tmp_path, monkeypatch):
    def write_shard(self, key, records):
        raise Refusal("The disk is full.")

    failing_after(monkeypatch, 2, ZeroDivisionError())
    monkeypatch.setattr(RecordCache, "write_shard", write_shard)
    with pytest.raises(ZeroDivisionError):
        probe(tmp_path, task(), data())


def test_a_kill_loses_at_most_the_shard_in_memory(tmp_path, monkeypatch, probed_ids):
    monkeypatch.setattr(reader_module, "_SHARD", 10)
    monkeypatch.setattr(ProbeCallback, "on_exception", lambda *_: None)  # no time for more
    mend = failing_after(monkeypatch, 3, ZeroDivisionError())
    sources = data(limit=20)
    with pytest.raises(ZeroDivisionError):
        probe(tmp_path, task(), sources)
    mend()
    probed_ids.clear()
    resumed = probe(tmp_path, task(), sources)
    assert len(flat(probed_ids)) == 40 - 10
    assert all(len(records) == 20 for records in tables(resumed).values())


def test_a_disk_that_fills_half_way_is_refused_and_earlier_shards_serve_the_next_run(tmp_path, monkeypatch, probed_ids):
    monkeypatch.setattr(reader_module, "_SHARD", 5)
    write, written = RecordCache.write_shard, []

    def write_shard(self, key, records):
        if len(written) == 2:
            raise Refusal("The disk is full.")
        written.append(key)
        write(self, key, records)

    monkeypatch.setattr(RecordCache, "write_shard", write_shard)
    with pytest.raises(Refusal, match="The disk is full"):
        probe(tmp_path, task(), data())
    monkeypatch.setattr(RecordCache, "write_shard", write)
    probed_ids.clear()
    resumed = probe(tmp_path, task(), data())
    assert len(flat(probed_ids)) == 24 - 5
    assert all(len(records) == 12 for records in tables(resumed).values())


def test_an_interruption_between_the_last_batch_and_the_end_needs_no_probing(tmp_path, monkeypatch, probed_ids):
    commit = RecordCache.commit

    def fail(self, *args):
        raise ZeroDivisionError

    monkeypatch.setattr(RecordCache, "commit", fail)
    with pytest.raises(ZeroDivisionError):
        probe(tmp_path, task(), data())
    monkeypatch.setattr(RecordCache, "commit", commit)
    probed_ids.clear()
    resumed = probe(tmp_path, task(), data())
    assert probed_ids == []
    assert all(len(records) == 12 for records in tables(resumed).values())


def test_logits_that_are_not_finite_are_refused_with_the_images_of_the_batch(tmp_path):
    model = task()
    with torch.no_grad():
        model.network[5].bias[0] = float("nan")
    sources = data()
    ids = sources.normal_source.ids
    with pytest.raises(Refusal, match=re.escape(f"These are {', '.join(ids[:5])}")):
        probe(tmp_path, model, sources)


class Modes(Callback):
    """Note what the probes leave behind."""

    def on_predict_end(self, trainer, pl_module):
        self.grads = [parameter.grad for parameter in pl_module.parameters()]
        self.frozen = [not parameter.requires_grad for parameter in pl_module.parameters()]


def test_the_task_is_left_as_it_was(tmp_path):
    model, modes = task(), Modes()
    probe(tmp_path, model, data(), callbacks=[modes])
    assert not any(modes.frozen)
    assert all(grad is None for grad in modes.grads)
    assert model.training
    assert model.predict_step([torch.rand(2, 3, 32, 32)], 0).shape == (2, 2)


def test_another_datamodule_is_refused():
    class Other(LightningDataModule):
        def predict_dataloader(self):
            return []

    callback = ProbeCallback(probes(), RecordCache("never-written"))
    trainer = Trainer(logger=False, accelerator="cpu", callbacks=[callback], enable_progress_bar=False)
    with pytest.raises(Refusal, match=re.escape("should be an ImageDataModule. Got `datamodule = Other`.")):
        trainer.predict(task(), datamodule=Other(), return_predictions=False)
