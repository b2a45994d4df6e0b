"""The paper's numbers: those of its own method typed a second time from the text, and the shape of the rest."""

import itertools

import pytest

from lightning_gradood.experiments.tables import METHODS_1, METHODS_2, METRICS_2, paper_number

ATTACKS = ["FGSM", "BIM", "C&W", "PGD", "IterLL", "Semantic"]
OURS_1 = {
    "ResNet": [93.45, 96.19, 97.07, 95.82, 98.17, 90.15],
    "DenseNet": [96.83, 96.85, 97.05, 96.77, 98.53, 89.55],
}
OUT = {"CIFAR-10": ["SVHN", "ImageNet", "LSUN"], "SVHN": ["CIFAR-10", "ImageNet", "LSUN"]}
OURS_2 = {  # AUROC, detection accuracy
    ("CIFAR-10", "ResNet"): [(99.84, 98.04), (96.92, 91.28), (99.86, 98.37)],
    ("SVHN", "ResNet"): [(99.79, 97.90), (99.77, 97.74), (99.93, 99.04)],
    ("CIFAR-10", "DenseNet"): [(99.94, 98.92), (96.44, 90.07), (99.96, 99.20)],
    ("SVHN", "DenseNet"): [(99.82, 98.34), (99.81, 98.21), (99.96, 99.52)],
}


@pytest.mark.parametrize("network", OURS_1)
def test_table_1_has_the_paper_s_method(network):
    found = [paper_number("CIFAR-10", network, attack, "ours", "auroc") for attack in ATTACKS]
    assert found == pytest.approx([number / 100 for number in OURS_1[network]])


@pytest.mark.parametrize(("dataset", "network"), OURS_2)
def test_table_2_has_the_paper_s_method(dataset, network):
    for source, (auroc, accuracy) in zip(OUT[dataset], OURS_2[dataset, network], strict=True):
        assert paper_number(dataset, network, source, "ours", "auroc") == pytest.approx(auroc / 100)
        assert paper_number(dataset, network, source, "ours", "accuracy") == pytest.approx(accuracy / 100)


def test_other_methods_stand_in_their_columns():
    assert paper_number("CIFAR-10", "ResNet", "FGSM", "mahalanobis_p_fe", "auroc") == pytest.approx(0.9995)
    assert paper_number("CIFAR-10", "DenseNet", "Semantic", "lid", "auroc") == pytest.approx(0.8141)
    assert paper_number("SVHN", "DenseNet", "LSUN", "energy", "aupr") == pytest.approx(0.8933)
    assert paper_number("CIFAR-10", "ResNet", "SVHN", "odin", "accuracy") == pytest.approx(0.8881)


def test_energy_alone_lacks_numbers():
    cells = list(
        itertools.product(OUT, ("ResNet", "DenseNet"), ("SVHN", "CIFAR-10", "ImageNet", "LSUN"), METHODS_2, METRICS_2)
    )
    missing = {
        (method, metric)
        for *place, method, metric in cells
        if place[2] in OUT[place[0]] and not paper_number(*place, method, metric)
    }
    assert missing == {("energy", "accuracy")}
    assert all(paper_number("CIFAR-10", n, a, m, "auroc") for n in OURS_1 for a in ATTACKS for m in METHODS_1)


@pytest.mark.parametrize(
    "place",
    [
        ("Digits", "ResNet", "FGSM", "ours", "auroc"),
        ("SVHN", "ResNet", "FGSM", "ours", "auroc"),
        ("CIFAR-10", "ResNet-20", "SVHN", "ours", "auroc"),
        ("CIFAR-10", "ResNet", "Places", "ours", "auroc"),
        ("CIFAR-10", "ResNet", "FGSM", "ours", "accuracy"),
    ],
)
def test_nothing_stands_where_the_paper_has_nothing(place):
    assert paper_number(*place) is None
