"""Display names: the literature's where there is one, the user's own otherwise, and never one name for two things."""

import pytest

from lightning_gradood.corruptions import KINDS
from lightning_gradood.report import detector_title, source_title
from lightning_gradood.report.names import source_titles


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("cw", "C&W"),
        ("bim", "BIM"),
        ("pgd", "PGD"),
        ("fgsm", "FGSM"),
        ("iterll", "IterLL"),
        ("tiny_imagenet", "TinyImageNet"),
        ("tiny_imagenet_resize", "TinyImageNet"),
        ("lsun", "LSUN"),
        ("lsun_resize", "LSUN"),
        ("svhn", "SVHN"),
        ("gaussian_noise", "gaussian noise"),
        ("builtin_cw", "C&W (built in)"),
        ("builtin_defocus_blur", "defocus blur (built in)"),
        ("normal", "normal"),
        ("my_camera_2", "my_camera_2"),
    ],
)
def test_sources_have_the_names_of_the_literature(source, title):
    assert source_title(source) == title


def test_no_corruption_has_an_underscore():
    assert not [kind for kind in KINDS if "_" in source_title(kind)]


def test_two_sources_of_one_figure_never_share_a_name():
    assert source_titles(["normal", "lsun_crop", "lsun_resize", "cw"]) == {
        "normal": "normal",
        "lsun_crop": "lsun_crop",
        "lsun_resize": "lsun_resize",
        "cw": "C&W",
    }


@pytest.mark.parametrize(
    ("detector", "title"),
    [("mahalanobis_p_fe", "M(P+FE)"), ("knn", "kNN"), ("mine", "mine"), ("odin@cw", "ODIN (trained on C&W)")],
)
def test_detectors_have_the_names_of_the_tables(detector, title):
    assert detector_title(detector) == title
