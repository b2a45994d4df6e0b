"""Every kind of detector with records for it, for the tests of what holds for all."""

import numpy as np
from made_up_features import feature_records, rebuilt, with_outliers
from made_up_records import records
from test_odin_and_mahalanobis import mahalanobis_records, odin_records

from lightning_gradood.detectors import (
    KNN,
    LID,
    MLP,
    ODIN,
    Baseline,
    Combined,
    Consistency,
    Detector,
    Energy,
    GradientForest,
    GradientGaussian,
    GradientKNN,
    GradNorm,
    ImageStatistics,
    Mahalanobis,
    MahalanobisPP,
    SyntheticOutliers,
)
from lightning_gradood.gradients import AllOnes, KHot, Uniform
from lightning_gradood.records import Records
from lightning_gradood.synthetic import Blur, Zoom
from lightning_gradood.tasks import MLPSettings


def gradients(*names):
    """Records with the norms of several label designs, and classes."""
    table = records(width=4)
    norms = table.probe("gradients/all_ones")
    predictions = np.arange(len(table)) % 3
    parts = [
        Records.build(
            [name],
            source=source,
            values={f"gradients/{design}": norms[[row]] ** (1 + number) for number, design in enumerate(names)},
            prediction=[int(predictions[row])],
        )
        for row, (name, source) in enumerate(zip(table.ids, table.column("source"), strict=True))
    ]
    split_of = dict(zip(table.ids, table.column("split"), strict=True))
    return Records.concatenate(parts).with_splits(split_of)


def cases() -> dict[str, tuple[Detector, Records]]:
    """Every kind of detector, with other settings than its defaults, and records for it."""
    designs = [AllOnes(), Uniform(temperature=2.0), KHot((0, 2))]
    several = gradients(*(design.name for design in designs))
    features = feature_records()
    # anomalous images are those of which the classifier is less sure
    features = rebuilt(features, {"logits": features.probe("logits") * np.where(features.anomalous, 0.3, 3)[:, None]})
    outliers = [Blur(high=0.1), Zoom(seed=3)]
    against = with_outliers(features, "blur", "zoom")
    settings = MLPSettings(max_epochs=4, width=8, whitening=0.5)
    mahalanobis = {"magnitudes": [0.0, 0.01, 0.005], "layers": None}
    return {
        "mlp": (MLP(designs, settings, name="other"), several),
        "mlp_more": (MLP([], MLPSettings(max_epochs=4, width=8, inputs=["features", "confidence", "views"])), features),
        "synthetic_outliers": (SyntheticOutliers(outliers=outliers, strength=1.0), against),
        "synthetic_outliers_mlp": (
            SyntheticOutliers(["features", "confidence"], "mlp", outliers=outliers, settings=settings, name="other"),
            against,
        ),
        "combined_synthetic": (Combined([Energy(), SyntheticOutliers(["views"], outliers=outliers)], folds=3), against),
        "baseline": (Baseline(), features),
        "energy": (Energy(temperature=3.0), features),
        "gradnorm": (GradNorm(), features),
        "knn": (KNN(k=7), features),
        "lid": (LID(neighbours=[5, 20]), features),
        "image_statistics": (ImageStatistics(), features),
        "odin": (ODIN(temperatures=[1.0, 1000.0], magnitudes=[0.0, 0.01, 0.1]), odin_records()),
        "mahalanobis_p": (Mahalanobis(preprocessing=True, **mahalanobis), mahalanobis_records()),
        "mahalanobis_p_fe": (Mahalanobis(preprocessing=True, ensemble=True, **mahalanobis), mahalanobis_records()),
        "consistency": (Consistency(), features),
        "mahalanobis_pp": (MahalanobisPP(), features),
        "mahalanobis_pp_layers": (MahalanobisPP(all_layers=True), features),
        "combined": (Combined([Energy(2.0), KNN(k=5), Consistency()], rule="squares", folds=4), features),
        "gaussian": (GradientGaussian(designs, whitening=0.7), several),
        "gradient_knn": (GradientKNN(designs, k=3), several),
        "forest": (GradientForest(designs, trees=20), several),
    }
