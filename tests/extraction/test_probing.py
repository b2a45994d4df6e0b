"""Probes in Lightning's predict loop: every image once, the right numbers, nothing read twice, nothing lost."""

import re
from contextlib import contextmanager
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from asserts import state_of
from lightning.pytorch import LightningDataModule
from small_experiment import QUIET, data, probe, probes, read, tables, task
from torch import nn

from lightning_gradood.core import ProgressLines, Refusal, as_float
from lightning_gradood.data import LoadedSource
from lightning_gradood.extraction import ProbeCallback, batch_records, callbacks, entries
from lightning_gradood.gradients import AllOnes, AllZeros, costs, parameter_names, squared_gradient_norms
from lightning_gradood.perturbations import FGSM
from lightning_gradood.probes import GradientProbe, LogitsProbe, Probe
from lightning_gradood.records import RecordCache

# Where every record is there already, Lightning warns of the empty loop; `Trainer.extract` keeps that from users.
pytestmark = pytest.mark.filterwarnings("ignore:Total length of .* across ranks is zero")


def flat(batches):
    return sorted(name for _, ids in batches for name in ids)


def all_ids(sources):
    return sorted(name for source in sources.sources.clean.values() for name in source.ids)


def keys(callback):
    return [entry.key for entry in callback.entries]


class LogitsAsTheyCome(Probe):
    name = "as they come"

    def __call__(self, network, images):
        return network(images)


@pytest.mark.parametrize(
    "settings", [{"inference_mode": True}, {"inference_mode": False}, {"precision": "bf16-mixed"}], ids=str
)
def test_records_are_complete_and_equal_to_direct_calls(tmp_path, settings):
    model, sources = task(), data()
    found = tables(probe(tmp_path, model, sources, [*probes(), LogitsAsTheyCome()], **settings))
    assert len(found) == 2 * 3
    for (name, kind), records in found.items():
        source = sources.sources.clean[name]
        rows = [source.ids.index(row_id) for row_id in records.ids]
        images = as_float(source.images(rows))
        assert sorted(rows) == list(range(12))
        assert records.column("label").tolist() == source.labels[rows].tolist()
        assert (set(records.column("source")), set(records.column("attack"))) == ({name}, {""})
        with torch.no_grad():
            logits = model.network.eval()(images)
        assert records.column("prediction").tolist() == logits.argmax(1).tolist()
        norms = squared_gradient_norms(model.network, images, AllOnes())
        expected = norms if kind == "gradients/all_ones" else logits.double()
        torch.testing.assert_close(torch.tensor(records.probe(kind)), expected, rtol=1e-4, atol=1e-12)
        assert records.stored(kind).dtype == ("float64" if expected is norms else "float32")
        assert records.names(kind) == (parameter_names(model.network) if expected is norms else [])


def test_the_keys_name_the_weights_that_are_read(tmp_path):
    torch.save(task(seed=1).network.state_dict(), tmp_path / "weights.pt")
    given = keys(probe(tmp_path / "given", task(seed=1), data()))
    assert keys(probe(tmp_path / "named", task(weights=str(tmp_path / "weights.pt")), data())) == given
    saving = pl.Trainer(max_epochs=0, enable_model_summary=False, **QUIET)
    saving.strategy.connect(task(seed=1))
    saving.save_checkpoint(tmp_path / "late.ckpt", weights_only=True)
    assert keys(probe(tmp_path / "late", task(), data(), ckpt_path=tmp_path / "late.ckpt")) == given

    class Late(pl.LightningModule):  # a task of the user's own, which loads its weights when Lightning sets it up
        network = task().network

        def setup(self, stage):
            self.network.load_state_dict(torch.load(tmp_path / "weights.pt"))

        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            return self.network(batch.images)

    assert keys(probe(tmp_path / "own", Late(), data())) == given
    for precision in ("bf16-true", "64-true"):
        with pytest.raises(Refusal, match=f"should leave the weights in float32.* Got `precision = {precision}`"):
            probe(tmp_path / "other", task(), data(), precision=precision)


def test_large_activations_are_read_in_parts_and_counted_as_they_come(tmp_path, monkeypatch, capsys, caplog):
    whole = tables(probe(tmp_path / "whole", task(), data(attacks={"fgsm": FGSM()})))
    monkeypatch.setattr(batch_records, "images_at_once", lambda network, image: 2)
    monkeypatch.setattr(batch_records.BatchReader, "read", counting(batch_records.BatchReader.read, sizes := []))
    bar, settings = callbacks.ImageProgressBar(), {"enable_progress_bar": True}
    monkeypatch.setattr(callbacks, "ProgressLines", partial(ProgressLines, seconds=0.0))
    with caplog.at_level("INFO", "lightning_gradood"):
        found = probe(tmp_path / "parts", task(), data(attacks={"fgsm": FGSM()}), callbacks=[bar], **settings)
    assert set(sizes) == {1, 2}, "five images in a batch"
    assert "reading normal: 8 % (2/24 images)" in capsys.readouterr().out
    assert [line for line in caplog.messages if "gradient norms" in line] == ["gradient norms: closed forms"]
    for key, records in tables(found).items():
        assert records.column("prediction").tolist() == whole[key].column("prediction").tolist()
        np.testing.assert_allclose(records.probe(key[1]), whole[key].probe(key[1]), rtol=1e-3, atol=1e-6)


def counting(function, sizes):
    return lambda self, probes, images: sizes.append(len(images.ids)) or function(self, probes, images)


def test_only_missing_images_are_loaded_where_it_is_asked_for_and_none_is_read_again(tmp_path, probed):
    model, images = task(), []
    first = probe(tmp_path / "one", model, data())
    model.network.register_forward_pre_hook(lambda _, inputs: images.append(len(inputs[0])))
    for only_missing, predicted in ((False, [1, 1, 5, 5, 2, 5, 5, 2]), (True, [1, 1])):  # two look at the outputs
        probed.clear(), images.clear()
        again = probe(tmp_path / "one", model, data(), only_missing=only_missing)
        assert (probed, again.reader.plan.missing, keys(again)) == ([], [], keys(first))
        assert images == predicted
        assert again.reader.data.predict_sources == ([] if only_missing else ["normal", "nine"])
    other = probe(tmp_path / "other", model, data(), only_missing=True)
    assert flat(probed) == all_ids(data())
    for entry in other.entries:
        assert read(other, entry).table.equals(read(first, entry).table)


@pytest.mark.parametrize("only_missing", [False, True])
def test_weights_and_images_are_hashed_once_and_each_image_takes_one_forward_pass(tmp_path, monkeypatch, only_missing):
    hashed, images, model = [], [], task()
    for kind, name in ((entries, "state_digest"), (LoadedSource, "digest")):
        whole = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *a, whole=whole, name=name: hashed.append(name) or whole(*a))
    probe(tmp_path, model, data(attacks={"fgsm": FGSM()}, keep_pixels="uint8"))  # the first call looks the network over
    assert sorted(hashed) == ["digest", "digest", "state_digest"]
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=0))  # else one in a hundred is compared
    model.network.register_forward_pre_hook(lambda _, inputs: images.append(len(inputs[0])))
    probe(tmp_path / "first", model, data(limit=20))
    images.clear()
    probe(tmp_path / "second", model, data(limit=20), only_missing=only_missing)
    assert sum(images) == 40 + 3, (
        "the prediction is that of the reading; three images, to look at outputs and activations"
    )


def altered(layer, name=None):
    model = task()
    if name is None:
        model.network[layer] = nn.LeakyReLU(0.0)
        return model
    with torch.no_grad():
        getattr(model.network[layer], name)[0] += 1e-6
    return model


class Namesake(AllZeros):
    name = "all_ones"


CHANGES = {  # network, images, probes, and how many of four entries are others then
    "weights": (lambda: altered(5, "bias"), data, probes, 4),
    "buffer": (lambda: altered(1, "running_mean"), data, probes, 4),
    "structure": (lambda: altered(2), data, probes, 4),
    "transform": (task, lambda: data(transform=lambda image: image.rotate(180)), probes, 4),
    "namesake": (task, data, lambda: [GradientProbe(Namesake()), LogitsProbe()], 2),
    "source": (task, lambda: data(normal=[1, 2]), probes, 2),
}


def test_what_changed_is_probed_again_and_nothing_else(tmp_path):
    first = probe(tmp_path / "one", task(), data())
    for change, (model, sources, reading, expected) in CHANGES.items():
        truth = tables(probe(tmp_path / change, model(), sources(), reading()))
        second = probe(tmp_path / "one", model(), sources(), reading())
        assert len(second.reader.plan.missing) == len({*keys(second)} - {*keys(first)}) == expected, change
        for key, records in tables(second).items():
            assert records.table.equals(truth[key].table), change
        assert all(len(records) == 12 for records in tables(first).values()), "the old entries are still there"


@contextmanager
def failing_after(monkeypatch, batches):
    """Within, the reading of another batch after so many fails."""
    read, left = batch_records.read_probes, iter(range(batches, -1, -1))
    with monkeypatch.context() as patch:
        patch.setattr(batch_records, "read_probes", lambda *args: (1 / next(left), read(*args))[1])
        with pytest.raises(ZeroDivisionError):
            yield


def test_an_error_half_way_loses_nothing_and_the_next_run_probes_only_the_rest(tmp_path, monkeypatch, probed):
    model, sources = task(), data()
    for batches in (4, 0):  # 12 normal images in 3 batches, 5 of the nines; then at once
        with failing_after(monkeypatch, batches):
            probe(tmp_path, model, sources)
    before = flat(probed[:4])
    probed.clear()
    resumed, predicted = ProbeCallback(probes(), RecordCache(tmp_path)), data(probe_batch_size=4)
    logits = pl.Trainer(callbacks=[resumed], devices=1, **QUIET).predict(model, datamodule=predicted)
    assert sorted(before + flat(probed)) == all_ids(sources)
    assert len(flat(probed)) == 7
    for found, source in zip(logits, sources.sources.clean.values(), strict=True):  # of batches read in part, too
        with torch.no_grad():
            truth = model.network.eval()(as_float(source.images(range(12))))
        torch.testing.assert_close(torch.cat(found), truth, rtol=1e-4, atol=1e-6)


def test_what_was_written_before_a_kill_or_a_full_disk_serves_the_next_run(tmp_path, monkeypatch, probed):
    write, written = RecordCache.write_shard, []

    def write_shard(self, key, records):
        written.append(key)
        if len(written) > 2:
            raise Refusal("The disk is full.")
        write(self, key, records)

    def resumed(folder, limit=12):
        probed.clear()
        found = tables(probe(tmp_path / folder, task(), data(limit=limit)))
        assert all(len(records) == limit for records in found.values())
        return len(flat(probed))

    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "_BATCHES", 2)
        patch.setattr(ProbeCallback, "on_exception", lambda *_: None)  # no time for more
        with failing_after(monkeypatch, 3):
            probe(tmp_path / "killed", task(), data(limit=20))
    assert resumed("killed", limit=20) == 40 - 10
    with monkeypatch.context() as patch:
        patch.setattr(RecordCache, "write_shard", write_shard)
        patch.setattr(callbacks, "_BATCHES", 1)
        with pytest.raises(Refusal, match="The disk is full"):
            probe(tmp_path / "full", task(), data())
        patch.setattr(callbacks, "_BATCHES", 64)
        with failing_after(monkeypatch, 1):  # the full disk does not hide the error
            probe(tmp_path / "full", task(), data())
    assert resumed("full") == 24 - 5


def test_the_task_is_left_as_it_was_and_what_cannot_be_probed_is_refused(tmp_path):
    model, ids = task(), data().sources.normal.ids
    before = state_of(model)
    probe(tmp_path, model, data(attacks={"fgsm": FGSM()}))
    assert state_of(model) == before
    with torch.no_grad():
        model.network[5].bias[0] = float("nan")
    with pytest.raises(Refusal, match=re.escape(f"These are {', '.join(ids[:5])}")):
        probe(tmp_path, model, data())
    with pytest.raises(Refusal, match=r"should be an ImageDataModule\. Got `datamodule = LightningDataModule`"):
        probe(tmp_path, task(), LightningDataModule())
