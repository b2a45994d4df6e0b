"""What holds for every detector."""

import pytest
from asserts import (
    assert_anomalous_score_higher,
    assert_fit_is_reproducible_and_leaves_random_numbers_alone,
    assert_nothing_of_test_is_learnt,
    assert_refuses_before_fitting,
    assert_scores_belong_to_their_records,
)
from detector_cases import cases

from lightning_gradood import detectors
from lightning_gradood.detectors import Detector, FixedDetector

CASES = cases()
EVERY = pytest.mark.parametrize("name", CASES)


def test_no_kind_is_forgotten():
    ours = {kind for kind in vars(detectors).values() if isinstance(kind, type) and issubclass(kind, Detector)}
    assert {type(detector) for detector, _ in CASES.values()} == ours - {Detector, FixedDetector}


@EVERY
@pytest.mark.parametrize(
    "holds",
    [
        assert_scores_belong_to_their_records,
        assert_fit_is_reproducible_and_leaves_random_numbers_alone,
        assert_nothing_of_test_is_learnt,
        assert_anomalous_score_higher,
    ],
    ids=lambda holds: holds.__name__,
)
def test_it_holds(name, holds):
    detector, records = cases()[name]
    holds(detector, records)


@pytest.mark.parametrize("name", [name for name, (one, _) in CASES.items() if not isinstance(one, FixedDetector)])
def test_an_unfitted_detector_says_so(name):
    assert_refuses_before_fitting(*cases()[name])
