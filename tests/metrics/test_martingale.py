"""The sequential test: false alarms of any stream within their bound, drifts found, pauses without effect."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import binom, kstest

from lightning_gradood.metrics import DriftTest
from lightning_gradood.metrics.drift import bet_factors

DRAWS = {"normal": lambda rng, size: rng.normal(size=size), "few values": lambda rng, size: rng.integers(0, 4, size)}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("references", [4, 60])
def test_streams_without_drift_raise_an_alarm_as_rarely_as_is_promised_however_few_the_references(draw, references):
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(200):
        scores = DRAWS[draw](rng, references + 250).astype(float)
        alarms += DriftTest(scores[:references], 0.2).after(scores[references:]).alarm > 0
    assert alarms <= binom(200, 0.2).ppf(0.999)


def test_p_values_are_uniform_and_independent_of_those_before_and_fair_bets_are_made_on_them():
    found = []
    for seed in range(1500):
        scores = np.random.default_rng(seed).integers(0, 3, 12).astype(float)
        test, draws = DriftTest(scores[:3], 0.1), np.random.default_rng(10_000 + seed).random((9, 2))
        found.append(test.p_values(scores[3:], draws)[0][[0, 4, 8]])
    first, later, last = np.transpose(found)
    assert min(kstest(one, "uniform").pvalue for one in (first, later, last, last[later < 0.3])) > 1e-3
    v = (np.arange(2000) + 0.5) / 2000  # u = v⁴ / 2 makes the bets' poles smooth
    halves = [bet_factors(u) * 2 * v[:, None] ** 3 for u in (v**4 / 2, 1 - v**4 / 2)]
    np.testing.assert_allclose(sum(halves).mean(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("quiet", [0, 3000])
def test_drifts_are_found_also_after_a_long_quiet_time(quiet):
    rng = np.random.default_rng(1)
    reference, before, after = rng.normal(size=400), rng.normal(size=quiet), rng.normal(size=700)
    some = np.where(rng.random(700) < 0.1, 6.0, after)
    for drifted, most in ((after + 1, 110), (after - 1, 110), (after + 6, 15), (some, 700)):
        test = DriftTest(reference, 0.01).after(np.concatenate([before, drifted]))
        assert quiet < test.alarm <= quiet + most
        assert test.largest >= np.log(100)


def test_a_stream_goes_on_where_it_was_as_if_there_had_been_no_pause():
    scores = np.random.default_rng(2).normal(size=2590).round(1)
    whole = DriftTest(scores[:30], 0.05).after(scores[30:])
    test = DriftTest(scores[:30], 0.05)
    for part in np.split(scores[30:], [1, 7, 7, 1040]):
        told = json.loads(json.dumps(dataclasses.asdict(test.after(part)) | {"reference": []}))
        test = DriftTest(scores[:30], **{name: value for name, value in told.items() if name != "reference"})
    assert dataclasses.asdict(test) | {"reference": 0} == dataclasses.asdict(whole) | {"reference": 0}
