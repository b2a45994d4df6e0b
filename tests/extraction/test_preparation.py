"""Probes that learn from the training images do so once for all runs, and again when anything they depend on changes."""

import re

import pytest
import torch
from asserts import state_of
from small_experiment import LAYERS, STEPPING, CountedProbe, data, probe, probes, tables, task, trained_data

from lightning_gradood.core import Refusal, as_float
from lightning_gradood.data import DigitsSource
from lightning_gradood.detectors import MahalanobisProbe
from lightning_gradood.records import RecordCache

# Where every record is there already, Lightning warns of the empty loop; `Trainer.extract` keeps that from users.
pytestmark = pytest.mark.filterwarnings("ignore:Total length of .* across ranks is zero")


def states(folder):
    return sorted(folder.glob("*/*.safetensors"))


def test_records_equal_a_probe_prepared_by_hand_and_the_network_is_left_as_it_was(tmp_path):
    counted, model, sources = CountedProbe(STEPPING), task(), trained_data()
    model.network[2].eval()
    before = state_of(model)
    found = tables(probe(tmp_path, model, sources, [counted]))
    assert state_of(model) == before
    train = sources.sources.train
    assert counted.prepared == [len(train)]
    images, labels = as_float(train.images(range(len(train)))), torch.from_numpy(train.labels)
    by_hand = MahalanobisProbe(STEPPING, LAYERS).prepare(model.network, [(images, labels)])
    for name, source in sources.sources.clean.items():
        records = found[name, counted.name]
        rows = [source.ids.index(row_id) for row_id in records.ids]
        expected = by_hand(model.network, as_float(source.images(rows)))
        torch.testing.assert_close(torch.tensor(records.probe(counted.name)), expected, rtol=1e-3, atol=1e-3)
        assert records.names(counted.name) == [f"{layer} m={m}" for layer in LAYERS for m in ("0", "0.01")]


def test_what_is_learnt_is_learnt_once_for_all_runs_sources_and_probes_that_agree_on_it(tmp_path):
    plain, stepping = CountedProbe(), CountedProbe(STEPPING)
    first = probe(tmp_path, task(), trained_data(), [plain, stepping])
    assert (len(plain.prepared), stepping.prepared) == (1, [])
    found = tables(first)
    for source in ("normal", "nine"):
        without_step = found[source, stepping.name].probe(stepping.name)[:, ::2]
        assert without_step == pytest.approx(found[source, plain.name].probe(plain.name), rel=1e-6)
    again = CountedProbe()
    second = probe(tmp_path, task(), trained_data(), [again])
    assert (again.prepared, second.reader.plan.missing) == ([], [])
    elsewhere = probe(tmp_path, task(), trained_data(normal=[1]), [again])
    assert again.prepared == []
    assert {entry.source for entry in elsewhere.reader.plan.missing} == {"normal"}
    assert len(states(tmp_path)) == 1


def test_what_changed_is_learnt_and_probed_again_and_other_probes_do_not_depend_on_it(tmp_path):
    first = probe(tmp_path, task(), trained_data(), [CountedProbe()])
    changes = {
        "training images": (task(), trained_data(train=DigitsSource([0, 1], "all"))),
        "transform": (task(), trained_data(transform=lambda image: image.rotate(180))),
        "weights": (task(seed=1), trained_data()),
    }
    for number, (change, (model, sources)) in enumerate(changes.items()):
        counted = CountedProbe()
        second = probe(tmp_path, model, sources, [counted])
        assert counted.prepared, change
        assert not {entry.key for entry in first.entries} & {entry.key for entry in second.entries}, change
        assert (len(second.reader.plan.missing), len(states(tmp_path))) == (2, number + 2), change
    trained, without = (probe(tmp_path / "others", task(), sources) for sources in (trained_data(), data()))
    assert [entry.key for entry in trained.entries] == [entry.key for entry in without.entries]
    assert states(tmp_path / "others") == []


def test_an_interrupted_preparation_leaves_no_file_and_a_damaged_one_is_made_again(tmp_path, capsys, monkeypatch):
    words = "`data.train` should name the classifier's training images, as mahalanobis/2+penultimate must be fitted on"
    with pytest.raises(Refusal, match=re.escape(words) + ".*Got `data.train = None`. Give `data.train`, or leave out"):
        probe(tmp_path, task(), data(), [*probes(), CountedProbe()])
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(CountedProbe, "prepare", lambda *_: {}["lost"])
        with pytest.raises(KeyError):
            probe(tmp_path, task(), trained_data(), [CountedProbe()])
    assert states(tmp_path) == []
    callback = probe(tmp_path, task(), trained_data(), [CountedProbe()])
    assert all(RecordCache(tmp_path).done(entry.key) for entry in callback.entries)
    (path,) = states(tmp_path)
    before = path.read_bytes()
    path.write_bytes(b"half of it")
    probe(tmp_path, task(), trained_data(normal=[1]), [CountedProbe()])
    assert f"Damaged: {path} holds content that differs from its checksum" in capsys.readouterr().err
    assert path.read_bytes() == before
