"""Drift against counting by hand and against scipy."""

import numpy as np
import pytest
from scipy.stats import kstest

from lightning_gradood.core import Refusal
from lightning_gradood.metrics import score_drift


@pytest.mark.parametrize("ties", [False, True])
def test_every_number_is_what_counting_gives(ties):
    rng = np.random.default_rng(1)
    reference, new = rng.normal(size=60), rng.normal(0.5, size=45)
    if ties:
        reference, new = reference.round(), new.round()
    found = score_drift(reference, new, reference > 1, new > 1)
    pairs = new[:, None] - reference
    assert found.effect == pytest.approx((pairs > 0).mean() - (pairs < 0).mean())
    cuts = np.concatenate([reference, new])
    distances = [abs((reference <= cut).mean() - (new <= cut).mean()) for cut in cuts]
    assert found.distance == pytest.approx(max(distances))
    assert found.p_value == pytest.approx(kstest(reference, new).pvalue)
    assert (found.reference, found.new) == (60, 45)
    assert found.new_flagged == (new > 1).mean()
    assert found.low <= found.new_flagged <= found.high
    for cut in cuts:  # whatever the threshold, the share flagged differs by no more than the distance
        assert abs((reference > cut).mean() - (new > cut).mean()) <= found.distance + 1e-12


def test_nothing_to_compare_is_refused():
    none, some = np.empty(0), np.ones(3)
    for reference, new in ((none, some), (some, none)):
        with pytest.raises(Refusal, match="Both tables should hold scored images"):
            score_drift(reference, new, reference > 0, new > 0)
