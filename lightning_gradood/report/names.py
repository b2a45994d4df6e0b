"""Display names of detectors and sources, for figures and tables; files and loggers keep the names of the run."""

from collections.abc import Iterable

from lightning_gradood.data import BUILT_IN
from lightning_gradood.perturbations import KINDS

_DETECTORS = {
    "baseline": "Baseline",
    "odin": "ODIN",
    "lid": "LID",
    "mahalanobis_v": "M(V)",
    "mahalanobis_p": "M(P)",
    "mahalanobis_fe": "M(FE)",
    "mahalanobis_p_fe": "M(P+FE)",
    "energy": "Energy",
    "mlp_all_ones": "MLP (all ones)",
    "mlp": "MLP",
    "gradnorm": "GradNorm",
    "knn": "kNN",
    "gradient_gaussian": "Gradient Gaussian",
    "gradient_knn": "Gradient kNN",
    "mahalanobis_pp": "Mahalanobis++",
    "consistency": "Consistency",
    "synthetic_outliers": "Synthetic outliers",
    "mlp_on_synthetic": "MLP (synthetic outliers)",
    "one_pass": "One pass",
    "no_anomalies": "No anomalies",
    "image_statistics": "Image statistics",
}
_SOURCES: dict[str, str] = {
    "fgsm": "FGSM",
    "bim": "BIM",
    "cw": "C&W",
    "pgd": "PGD",
    "iterll": "IterLL",
    "semantic": "Semantic",
    "svhn": "SVHN",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tiny_imagenet": "TinyImageNet",
    "tiny_imagenet_resize": "TinyImageNet",
    **{str(kind): kind.replace("_", " ") for kind in KINDS},
}


def detector_title(detector: str) -> str:
    """The literature's name of a detector, also of `<detector>@<source>`; an unknown name is returned unchanged.

    Example:
        >>> detector_title("mahalanobis_p_fe"), detector_title("odin@fgsm"), detector_title("mine")
        ('M(P+FE)', 'ODIN (trained on FGSM)', 'mine')
    """
    name, sign, source = detector.partition("@")
    title = _DETECTORS.get(name, name)
    return f"{title} (trained on {source_title(source)})" if sign else title


def source_title(source: str) -> str:
    """The literature's name of an attack, a corruption or a data set; an unknown name is returned unchanged.

    Example:
        >>> source_title("cw"), source_title("lsun_resize"), source_title("builtin_gaussian_noise")
        ('C&W', 'LSUN', 'gaussian noise (built in)')
    """
    if source.startswith(BUILT_IN):
        return f"{source_title(source.removeprefix(BUILT_IN))} (built in)"
    return "LSUN" if source.startswith("lsun") else _SOURCES.get(source, source)


def source_titles(sources: Iterable[str]) -> dict[str, str]:
    """Display names of the sources of one figure; sources that would share one keep their own names.

    Example:
        >>> source_titles(["svhn", "lsun_crop", "lsun_resize"])
        {'svhn': 'SVHN', 'lsun_crop': 'lsun_crop', 'lsun_resize': 'lsun_resize'}
    """
    titles = {source: source_title(source) for source in sources}
    shown = list(titles.values())
    return {source: title if shown.count(title) == 1 else source for source, title in titles.items()}
