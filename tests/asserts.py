"""Properties that hold for everything of a kind, each written once."""

import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from programs import run_program
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import Detector, NotFittedError, load_detector, save_detector
from lightning_gradood.guard import component_of
from lightning_gradood.probes import PixelProbe, Probe, read_probes
from lightning_gradood.records import Records

_SCORE = """
import json, sys
import numpy as np
import pyarrow.parquet as pq
from lightning_gradood.detectors import load_detector
from lightning_gradood.records import Records
for name, (saved, records, scores) in json.loads(sys.argv[1]).items():
    np.save(scores, load_detector(saved).detector.score(Records(pq.read_table(records))))
"""


def assert_saved_scores_are_equal(fitted: Mapping[str, tuple[Detector, Records]], folder: Path) -> None:
    """A fresh process that loads each detector gives each record the score of the one that was saved, to the last bit.

    Args:
        fitted: by name, a fitted detector and records for it to score.
        folder: empty, for files.
    """
    files = {}
    for name, (detector, records) in fitted.items():
        saved, table, scores = (str(folder / f"{name}.{ending}") for ending in ("safetensors", "parquet", "npy"))
        save_detector(saved, detector, 0.5, records)
        pq.write_table(records.table, table)
        files[name] = (saved, table, scores)
    run_program([sys.executable, "-c", _SCORE, json.dumps(files)]).check_returncode()
    for name, (detector, records) in fitted.items():
        found, expected = np.load(files[name][2]), detector.score(records)
        assert (found.dtype, found.shape) == (np.float64, (len(records),)), name
        assert found.tobytes() == expected.tobytes(), name
        loaded = load_detector(files[name][0])
        assert type(loaded.detector) is type(detector), name
        assert component_of(loaded.detector).encoded() == component_of(detector).encoded(), name
        assert (loaded.flag(records) == (expected > 0.5)).all(), name


def assert_scores_belong_to_their_records(detector: Detector, records: Records) -> None:
    """Scores are finite float64, follow their records into any order, and depend on no other record."""
    detector.fit(records, seed=0)
    scores = detector.score(records)
    assert (scores.dtype, scores.shape) == (np.float64, (len(records),))
    assert np.isfinite(scores).all()
    order = np.random.default_rng(1).permutation(len(records))
    np.testing.assert_allclose(detector.score(Records(records.table.take(order))), scores[order], rtol=1e-6, atol=1e-7)
    for row in order[:3].tolist():
        np.testing.assert_allclose(
            detector.score(Records(records.table.slice(row, 1))), scores[[row]], rtol=1e-6, atol=1e-7
        )


def assert_fit_is_reproducible_and_leaves_random_numbers_alone(detector: Detector, records: Records) -> None:
    """The same seed gives the same scores whatever the caller's random numbers are, and these stay as they were."""
    scores = []
    for seed in (5, 6):
        np.random.seed(seed), torch.manual_seed(seed), random.seed(seed)
        before = np.random.get_state()[1].tolist(), torch.get_rng_state(), random.getstate()
        detector.fit(records, seed=3)
        scores.append(detector.score(records).tobytes())
        assert np.random.get_state()[1].tolist() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])
        assert random.getstate() == before[2]
    assert scores[0] == scores[1]


def assert_nothing_of_test_is_learnt(detector: Detector, records: Records) -> None:
    """A detector that was fitted without the `test` rows gives the same scores."""
    detector.fit(records, seed=3)
    scores = detector.score(records)
    seen = Records(records.table.filter(records.column("split") != "test"))
    detector.fit(seen, seed=3)
    assert detector.score(records).tobytes() == scores.tobytes()


def assert_anomalous_score_higher(detector: Detector, records: Records) -> None:
    """Higher is more anomalous, where the records can be told apart at all."""
    detector.fit(records, seed=3)
    test = records.where(split="test")
    assert roc_auc_score(test.anomalous, detector.score(test)) > 0.5


def assert_refuses_before_fitting(detector: Detector, records: Records) -> None:
    """Scores and state of an unfitted detector are one error, with the detector's name."""
    words = f"{type(detector).__name__} should be fitted before it scores or is saved"
    for ask in (lambda: detector.score(records), detector.state_dict):
        with pytest.raises(NotFittedError, match=words):
            ask()


def state_of(network: nn.Module) -> tuple[object, ...]:
    """Everything of a network, and of torch, that reading it could leave changed."""
    return (
        [module.training for module in network.modules()],
        [(parameter.requires_grad, parameter.grad) for parameter in network.parameters()],
        [(name, value.tolist()) for name, value in network.state_dict().items()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()],
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
    )


def assert_reading_leaves_everything_as_it_was(probe: Probe, network: nn.Module, images: Tensor) -> None:
    """Network, images and torch's modes stay, also when the images cannot be read; reading again gives the same bits."""
    before, given = state_of(network), images.clone()
    values = probe(network, given)
    assert torch.equal(given, images)
    assert not given.requires_grad
    assert not values.requires_grad
    assert torch.equal(probe(network, given), values)
    assert state_of(network) == before
    if isinstance(probe, PixelProbe):
        return  # it copies any images
    with pytest.raises((Refusal, RuntimeError)):
        probe(network, images[:, 0])
    assert state_of(network) == before


def assert_rows_belong_to_their_images(probe: Probe, network: nn.Module, images: Tensor) -> None:
    """A row follows its image into any order, and depends on no other image."""
    values = probe(network, images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(probe(network, images[order]), values[order], rtol=1e-4, atol=1e-6)
    for row in order[:3].tolist():
        torch.testing.assert_close(probe(network, images[row : row + 1]), values[row : row + 1], rtol=1e-4, atol=1e-6)


def assert_modes_of_the_caller_change_nothing(probe: Probe, network: nn.Module, images: Tensor) -> None:
    """Inference mode, where Lightning's predict hooks run, and autocast give the values of plain float32."""
    expected = probe(network, images)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = read_probes([probe], network, images.clone()).values[probe.name]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
