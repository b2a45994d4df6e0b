"""Settings of a benchmark file: experiments, seeds, tables."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_gradood.core import Refusal, Seed, experiment_file

_OURS = ("config", "run_dir", "cache_dir", "detection.seed", "data.split.seed")  # what the benchmark sets itself
_SAME = {  # sources as the experiment files name them, and as the paper's Table 2 does; resized images only
    "svhn": "SVHN",
    "cifar10": "CIFAR-10",
    "tiny_imagenet_resize": "ImageNet",
    "lsun_resize": "LSUN",
}


@dataclass(frozen=True)
class Experiment:
    """One experiment file with its place in the tables.

    Args:
        config: the experiment file, relative to the working directory, or one that comes with the package.
        dataset: what the classifier was trained on, as the tables are to say it, e.g. CIFAR-10.
        network: the classifier, as the tables are to say it, e.g. ResNet.
        flags: further flags by dotted name, e.g. {data.limits.images: 100}; see `fit --help` for their names.
        paper: whose of the paper's numbers stand beside ours, e.g. CIFAR-10 ResNet; by default those of `dataset` and
            `network`, if the paper has them.
    """

    config: str
    dataset: str
    network: str
    flags: dict[str, Any] = field(default_factory=dict)
    paper: Literal["CIFAR-10 ResNet", "CIFAR-10 DenseNet", "SVHN ResNet", "SVHN DenseNet"] | None = None

    @property
    def of_the_paper(self) -> tuple[str, str]:
        """Dataset and network under which the paper's numbers are looked up."""
        dataset, network = self.paper.split() if self.paper else (self.dataset, self.network)
        return dataset, network

    def __post_init__(self) -> None:
        experiment_file(self.config, "config")
        if taken := sorted(set(self.flags) & set(_OURS)):
            raise Refusal(
                f"`flags` should leave {', '.join(_OURS)} to the benchmark. Got `flags` with {', '.join(taken)}. "
                "Set `seeds`, `run_dir` or `cache_dir` of the benchmark."
            )


@dataclass(frozen=True)
class TableSettings:
    """Settings of the tables and the page.

    Args:
        accuracy: which accuracy Table 2 shows; `detection_accuracy` is the oracle's (Lee et al. 2018), the best
            balanced accuracy of any threshold.
        aupr: which side is positive in Table 2's AUPR, the anomalous (`aupr_out`) or the normal (`aupr_in`); the paper
            does not say which its column has.
        columns: detectors of Table 2 in the paper's layout, those that were run; every detector stands in the full
            table.
        same: source name to the paper's name of the same images, for the paper's numbers beside ours.
        near: the source whose image is the near one of Figure 1; by default the first that is no attack.
        far: the source whose image is the far one; by default the last that is no attack.
    """

    accuracy: Literal["detection_accuracy", "accuracy_at_val_threshold", "accuracy_at_0.5"] = "detection_accuracy"
    aupr: Literal["aupr_out", "aupr_in"] = "aupr_out"
    columns: list[str] = field(
        default_factory=lambda: ["baseline", "odin", "mahalanobis_p_fe", "energy", "mlp_all_ones", "mlp"]
    )
    same: dict[str, str] = field(default_factory=lambda: dict(_SAME))
    near: str | None = None
    far: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """Experiment files times seeds, and the tables made of them.

    Args:
        experiments: by name, which becomes a folder's; each with config, dataset, network and flags.
        seeds: of the splits and the detectors; the classifier is trained once, with the first.
        detectors: the detectors beside the MLP in every experiment, as for `--detection.detectors`; by default each
            file's own.
        run_dir: where runs and tables go; by default runs/benchmarks/ and the benchmark file's name.
        cache_dir: where records are kept and found again by later seeds.
        tables: how the tables and the page are made.
    """

    experiments: dict[str, Experiment]
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    detectors: list[Any] | None = None
    run_dir: str | None = None
    cache_dir: str = "runs/.records"
    tables: TableSettings = field(default_factory=TableSettings)

    def __post_init__(self) -> None:
        if not self.experiments:
            raise Refusal(
                "`experiments` should name at least one. Got none. "
                "Write e.g. {digits: {config: configs/digits.yaml, dataset: Digits, network: ResNet}}."
            )
        for name in self.experiments:
            if not re.fullmatch(r"[\w+-][\w.+-]*", name):
                raise Refusal(
                    f"`experiments` should have names that can be folders'. Got {name!r}. Use letters, digits, . _ + and -."
                )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise Refusal(
                f"`seeds` should be different numbers, none below 0. Got `seeds = {self.seeds}`. Write e.g. [0, 1, 2]."
            )
        both = [name for name, one in self.experiments.items() if "detection.detectors" in one.flags]
        if self.detectors is not None and both:
            raise Refusal(
                f"`detectors` should be set once. Got them for all and in the flags of {', '.join(both)}. Remove one of both."
            )
