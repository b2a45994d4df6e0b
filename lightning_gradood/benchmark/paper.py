"""The numbers of the paper's Tables 1 and 2, to stand beside ours."""

METHODS_1 = ("baseline", "lid", "mahalanobis_v", "mahalanobis_p", "mahalanobis_fe", "mahalanobis_p_fe", "ours")
METHODS_2 = ("baseline", "odin", "mahalanobis_p_fe", "energy", "ours")
METRICS_2 = ("accuracy", "auroc", "aupr")

# Lee et al. 2022, Table 1: CIFAR-10, AUROC in %; the columns are METHODS_1.
_TABLE_1 = """
ResNet   FGSM     51.20 90.06 81.69 84.25 99.95 99.95 93.45
ResNet   BIM      49.94 99.21 87.09 89.20 100.0 100.0 96.19
ResNet   C&W      53.40 76.47 74.51 75.71 92.78 92.79 97.07
ResNet   PGD      50.03 67.48 56.27 57.57 65.23 75.98 95.82
ResNet   IterLL   60.40 85.17 62.32 64.10 85.10 92.10 98.17
ResNet   Semantic 52.29 86.25 64.18 65.79 83.95 84.38 90.15
DenseNet FGSM     52.76 98.23 86.88 87.24 99.98 99.97 96.83
DenseNet BIM      49.67 100.0 89.19 89.17 100.0 100.0 96.85
DenseNet C&W      54.53 80.58 75.77 76.16 90.83 90.76 97.05
DenseNet PGD      49.87 83.01 70.39 66.52 86.94 83.61 96.77
DenseNet IterLL   55.43 83.16 70.17 66.61 83.20 77.84 98.53
DenseNet Semantic 53.54 81.41 62.16 62.15 67.98 67.29 89.55
"""

# Lee et al. 2022, Table 2: in %; the columns are METHODS_2 for each of METRICS_2. Energy has no accuracy there. The paper's
# "Mahalanobis" is taken for its best variant, with preprocessing and ensemble.
_TABLE_2 = """
CIFAR-10 ResNet   SVHN     83.36 88.81 91.95 - 98.04   88.30 94.93 97.10 95.72 99.84   88.26 95.45 96.12 97.26 99.98
CIFAR-10 ResNet   ImageNet 84.01 85.21 97.45 - 91.28   90.06 91.86 99.68 84.95 96.92   89.26 91.60 99.60 84.60 97.21
CIFAR-10 ResNet   LSUN     87.34 88.42 98.60 - 98.37   92.79 94.48 99.86 92.39 99.86   92.30 94.22 99.82 95.40 99.87
SVHN     ResNet   CIFAR-10 79.98 80.12 88.84 - 97.90   81.50 81.49 95.05 98.85 99.79   81.01 80.95 90.25 99.57 98.11
SVHN     ResNet   ImageNet 81.70 81.92 96.17 - 97.74   83.69 83.82 99.23 98.18 99.77   82.54 82.60 98.17 99.30 97.93
SVHN     ResNet   LSUN     80.96 81.15 97.50 - 99.04   82.85 82.98 99.54 97.72 99.93   81.97 82.01 98.84 99.09 99.21
CIFAR-10 DenseNet SVHN     87.71 86.80 95.75 - 98.92   93.51 94.51 98.96 89.33 99.94   94.60 95.20 97.21 94.01 99.99
CIFAR-10 DenseNet ImageNet 84.93 91.16 96.83 - 90.07   91.50 96.93 99.45 86.17 96.44   91.02 96.85 99.29 87.20 96.41
CIFAR-10 DenseNet LSUN     85.58 91.91 98.08 - 99.20   92.09 97.51 99.74 92.77 99.96   91.71 97.51 99.72 95.57 99.96
SVHN     DenseNet CIFAR-10 86.61 86.25 96.50 - 98.34   91.90 91.76 99.02 90.63 99.82   92.12 92.38 94.40 94.30 98.36
SVHN     DenseNet ImageNet 90.22 90.31 98.89 - 98.21   94.78 95.08 99.84 87.51 99.81   94.76 95.53 99.37 92.15 98.16
SVHN     DenseNet LSUN     89.14 89.13 99.49 - 99.52   94.12 94.52 99.92 83.45 99.96   94.32 95.20 99.54 89.33 99.70
"""


def paper_number(dataset: str, network: str, source: str, method: str, metric: str) -> float | None:
    """Look up one number of the paper.

    Args:
        dataset: the classifier's, CIFAR-10 or SVHN.
        network: ResNet or DenseNet.
        source: attack (FGSM, BIM, C&W, PGD, IterLL, Semantic) or images (SVHN, CIFAR-10, ImageNet, LSUN).
        method: one of METHODS_1 or METHODS_2.
        metric: one of METRICS_2; Table 1 has `auroc` only.

    Returns:
        A share in [0, 1], or None where the paper has no such number.

    Reference:
        Lee et al. 2022, Tables 1 and 2.
    """
    text = _NUMBERS.get((dataset, network, source, method, metric), "-")
    return None if text == "-" else float(text) / 100


def _numbers() -> dict[tuple[str, str, str, str, str], str]:
    found = {}
    for line in _TABLE_1.strip().splitlines():
        network, source, *values = line.split()
        for method, value in zip(METHODS_1, values, strict=True):
            found["CIFAR-10", network, source, method, "auroc"] = value
    for line in _TABLE_2.strip().splitlines():
        dataset, network, source, *values = line.split()
        columns = [(method, metric) for metric in METRICS_2 for method in METHODS_2]
        for (method, metric), value in zip(columns, values, strict=True):
            found[dataset, network, source, method, metric] = value
    return found


_NUMBERS = _numbers()
