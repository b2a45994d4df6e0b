"""Probes that learn from the training images do so once for all runs, and again when anything they depend on changes."""

import re

import pytest
import torch
from preparing_experiment import LAYERS, STEPPING, CountedProbe, trained_data
from small_experiment import data, probe, probes, tables, task
from torch import nn

from lightning_gradood.core import Refusal, as_float
from lightning_gradood.data import DigitsSource
from lightning_gradood.detectors import MahalanobisProbe
from lightning_gradood.records import RecordCache

# Where every record is there already, Lightning warns of the empty loop; `Trainer.extract` keeps that from users.
pytestmark = pytest.mark.filterwarnings("ignore:Total length of .* across ranks is zero")


def states(folder):
    return sorted(path.name for path in folder.glob("*.safetensors"))


def test_records_equal_a_probe_prepared_by_hand(tmp_path):
    counted, model, sources = CountedProbe(STEPPING), task(), trained_data()
    found = tables(probe(tmp_path, model, sources, [counted]))
    train = sources.train_source
    assert (counted.prepared, counted.loaded) == (len(train), 1)
    by_hand = MahalanobisProbe(STEPPING, LAYERS)
    images, labels = as_float(train.images(range(len(train)))), torch.from_numpy(train.labels)
    by_hand.load(by_hand.prepare(model.network, [(images, labels)]))
    for name, source in sources.detection_sources.items():
        records = found[name, counted.name]
        rows = [source.ids.index(row_id) for row_id in records.ids]
        expected = by_hand(model.network, as_float(source.images(rows)))
        torch.testing.assert_close(torch.tensor(records.probe(counted.name)), expected, rtol=1e-3, atol=1e-3)
        assert records.names(counted.name) == [f"{layer} m={m}" for layer in LAYERS for m in ("0", "0.01")]


def test_a_second_run_prepares_nothing_and_probes_nothing(tmp_path):
    first = probe(tmp_path, task(), trained_data(), [CountedProbe()])
    counted = CountedProbe()
    second = probe(tmp_path, task(), trained_data(), [counted])
    assert (counted.prepared, counted.loaded, second.plan.missing) == (0, 0, [])
    assert second.entries == first.entries


def test_a_new_source_is_probed_with_what_was_learnt_before(tmp_path):
    probe(tmp_path, task(), trained_data(), [CountedProbe()])
    counted = CountedProbe()
    again = probe(tmp_path, task(), trained_data(normal=[1]), [counted])
    assert (counted.prepared, counted.loaded) == (0, 1)
    assert {entry.source for entry in again.plan.missing} == {"normal"}


def test_probes_that_agree_on_what_is_learnt_share_it(tmp_path):
    plain, stepping = CountedProbe(), CountedProbe(STEPPING)
    found = tables(probe(tmp_path, task(), trained_data(), [plain, stepping]))
    assert (plain.prepared > 0, stepping.prepared, stepping.loaded) == (True, 0, 1)
    assert len(states(tmp_path)) == 1
    for source in ("normal", "nine"):
        without_step = found[source, stepping.name].probe(stepping.name)[:, ::2]
        assert without_step == pytest.approx(found[source, plain.name].probe(plain.name), rel=1e-6)


def changed_training_images():
    return task(), trained_data(train=DigitsSource([0, 1], "all"))


def changed_transform():
    return task(), trained_data(transform=lambda image: image.rotate(180))


def changed_weights():
    model = task()
    with torch.no_grad():
        model.network[0].bias[0] += 1e-3
    return model, trained_data()


def changed_structure():
    model = task()
    model.network[2] = nn.LeakyReLU(0.1)
    return model, trained_data()


@pytest.mark.parametrize("change", [changed_training_images, changed_transform, changed_weights, changed_structure])
def test_what_changed_is_learnt_and_probed_again(tmp_path, change):
    first = probe(tmp_path, task(), trained_data(), [CountedProbe()])
    model, sources = change()
    counted = CountedProbe()
    second = probe(tmp_path, model, sources, [counted])
    assert counted.prepared > 0
    assert not {entry.key for entry in first.entries} & {entry.key for entry in second.entries}
    assert len(second.plan.missing) == 2
    assert len(states(tmp_path)) == 2


def test_training_images_are_no_part_of_what_other_probes_depend_on(tmp_path):
    first = probe(tmp_path, task(), trained_data(), probes())
    second = probe(tmp_path, task(), data(), probes())
    assert [entry.key for entry in first.entries] == [entry.key for entry in second.entries]
    assert states(tmp_path) == []


def test_without_training_images_it_is_refused_before_anything_is_read(tmp_path):
    words = "`data.train` should name the classifier's training images, as mahalanobis/2+penultimate must be fitted on"
    with pytest.raises(Refusal, match=re.escape(words) + ".*Got `data.train = None`. Give `data.train`, or leave out"):
        probe(tmp_path, task(), data(), [*probes(), CountedProbe()])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named_and_made_again(tmp_path, capsys):
    probe(tmp_path, task(), trained_data(), [CountedProbe()])
    (name,) = states(tmp_path)
    before = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(b"half of it")
    probe(tmp_path, task(), trained_data(normal=[1]), [CountedProbe()])
    assert f"Damaged: {tmp_path / name} holds what cannot be read" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before


def test_an_interrupted_preparation_leaves_nothing_and_is_done_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(CountedProbe, "prepare", lambda *_: {}["lost"])
        with pytest.raises(KeyError):
            probe(tmp_path, task(), trained_data(), [CountedProbe()])
    assert states(tmp_path) == []
    callback = probe(tmp_path, task(), trained_data(), [CountedProbe()])
    assert all(RecordCache(tmp_path).has(entry.key) for entry in callback.entries)


def test_the_network_is_left_as_it_was(tmp_path):
    model = task()
    model.network[2].eval()
    before = [module.training for module in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    probe(tmp_path, model, trained_data(), [CountedProbe(STEPPING)])
    assert [module.training for module in model.modules()] == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in model.state_dict().items())
