"""All figures of a run by name, drawn from its folder; those of images and of what they ask a network to change.

Samples, the images on which a detector was most wrong, attacked ones, an explained one; first-layer gradients (the
paper's Figure 1), gradient norms (3a) and activation norms (3b). Those of scores are in `score_figures`.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torchvision.utils import make_grid

from lightning_gradood.core import atomic_write, going_on_without
from lightning_gradood.records import NORMAL
from lightning_gradood.report import score_figures as scores
from lightning_gradood.report.figure_data import BOX
from lightning_gradood.report.run import Run
from lightning_gradood.report.tables import by_detector, compared, matrices, not_transferred

Format = Literal["png", "pdf", "svg"]


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """How a run is reported.

    Args:
        table: `short`, the printed table in 100 columns; `full`, with all columns of the page.
        formats: any of `png`, `pdf` and `svg`; the last two are vector graphics with their fonts, for papers.
        titles: whether figures have titles; in a paper the caption says it. Panels of one figure keep theirs.
    """

    table: Literal["short", "full"] = "short"
    formats: list[Format] = field(default_factory=lambda: ["png"])
    titles: bool = True


def figure_bytes(figure: Figure, kind: Format = "png") -> bytes:
    """A figure in one of the formats; PNG is sharp enough at a phone's width."""
    buffer, dpi = io.BytesIO(), 150 if kind == "png" else 300  # images inside vector figures have a resolution too
    dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    # Fonts as TrueType (journals refuse matplotlib's default, Type 3) or as paths; equal runs give equal files.
    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "lightning_gradood"}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=dates.get(kind))
    return buffer.getvalue()


_WHITE = 2  # pixels between images
_MOST_BARS = 8  # detectors whose AUROCs are drawn as bars; of more a map of numbers is drawn


def image_rows(
    rows: Mapping[str, np.ndarray], captions: Mapping[str, Sequence[str]] | None = None, heading: str = ""
) -> Figure:
    """Show a row of images, uint8 [k, H, W, 1 or 3], under each name, with a caption below each image."""
    count = max(len(images) for images in rows.values())
    _, height, width, _ = next(iter(rows.values())).shape
    figure = Figure(figsize=(0.9 * count + 0.2, (0.9 * height / width + 0.4) * len(rows) + 0.3), layout="constrained")
    figure.suptitle(heading, fontsize=11)
    for axes, (name, images) in zip(figure.subplots(len(rows), squeeze=False).flat, rows.items(), strict=True):
        strip = make_grid(torch.tensor(images).permute(0, 3, 1, 2), nrow=count, padding=_WHITE, pad_value=255)
        axes.imshow(strip.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set(xlim=(0, count * (width + _WHITE)), anchor="W")
        axes.set_title(name, fontsize=8, loc="left")
        axes.set_axis_off()
        for place, text in enumerate((captions or {}).get(name, ())):
            middle = (place + 0.5) * (width + _WHITE)
            axes.text(middle, strip.shape[1], text, ha="center", va="top", fontsize=6)
    return figure


def attacked_samples(pairs: Mapping[str, Any]) -> Figure:
    """Show a row per attack: clean image and attacked one with predictions, and their amplified difference on grey.

    The factor is the largest of 1, 2, 5, ... 100 that keeps 99 % of the values on the scale.
    """
    rows, captions = {}, {}
    for attack, one in pairs.items():
        changes = one["attacked"].astype(int) - one["clean"]
        largest = float(np.percentile(np.abs(changes), 99))
        factor = max((one for one in (1, 2, 5, 10, 20, 50, 100) if one * largest <= 127), default=1)
        difference = np.clip(128 + factor * changes, 0, 255).astype(np.uint8)
        triples = np.stack([one["clean"], one["attacked"], difference], axis=1)
        rows[attack] = triples.reshape(-1, *triples.shape[2:])
        captions[attack] = [text[:14] for both in one["predictions"] for text in (*both, f"× {factor}")]
    return image_rows(rows, captions, "Clean images, attacked ones, both predictions, and the difference")


def _mosaic(filters: np.ndarray, scale: float) -> np.ndarray:
    """The first 16 filters [n, C, h, w] in rows of four, float [H, W, 3] in [0, 1], grey for zero."""
    shown = torch.tensor(filters[:16])
    shown = shown if shown.shape[1] == 3 else shown.mean(dim=1, keepdim=True)
    grid = make_grid(0.5 + shown / (2 * scale or 1.0), nrow=4, padding=1, pad_value=1.0)
    return np.asarray(grid.clip(0, 1).permute(1, 2, 0).numpy())


def first_layer_figure(stored: Mapping[str, Any], chosen: Mapping[str, str] | None = None) -> Figure:
    """Show filters of the first convolution, and a row per image: the image, and its gradients on a common scale.

    `stored` is what `figure_data.first_layer` returns; `chosen` is caption to source, by default the normal one, the first
    anomaly source and the last (Lee et al. 2022, Figure 1).
    """
    others = [source for source in stored["images"] if source != NORMAL]
    chosen = chosen or {source: source for source in (NORMAL, *others[:1], *others[-1:])}
    figure = Figure(figsize=(4.2, 2.1 * (len(chosen) + 1)), layout="constrained")
    places = figure.subplots(len(chosen) + 1, 2)
    scale = max(float(np.abs(stored["gradients"][source][:16]).max()) for source in chosen.values())
    places[0][0].text(0.5, 0.5, f"{stored['name']}\n{list(stored['weights'].shape)}", ha="center", fontsize=8)
    places[0][1].imshow(_mosaic(stored["weights"], float(np.abs(stored["weights"][:16]).max())))
    places[0][1].set_title("weights", fontsize=8)
    for (left, right), (caption, source) in zip(places[1:], chosen.items(), strict=True):
        image, gradient = stored["images"][source], stored["gradients"][source]
        left.imshow(np.broadcast_to(image, (*image.shape[:2], 3)), interpolation="nearest")
        left.set_title(caption, fontsize=8)
        right.imshow(_mosaic(gradient, scale))
        right.set_title(f"gradient, norm² {np.square(gradient).sum():.3g}", fontsize=8)
    for axes in places.flat:
        axes.set_axis_off()
    return figure


def norm_boxes(boxes: Mapping[str, Any], kind: str) -> Figure:
    """Draw the distribution of squared norms over images, `boxes` of `figure_data`, of layers that represent the others.

    Reference:
        Lee et al. 2022, Figures 3a (gradients) and 3b (activations: there of whole feature maps, here of spatial averages,
        which detectors read).
    """
    names, sources = boxes["layers"].tolist(), boxes["boxes"]
    chosen, styles, width = representative_layers(names), scores.styles_of([*sources]), 0.8 / len(sources)
    size = (min(max(9.0, 1.5 + 0.13 * len(chosen) * (len(sources) + 2)), 14.0), 4.8)
    figure = Figure(figsize=size, layout="constrained")
    axes, handles = figure.subplots(), []
    for rank, (source, values) in enumerate(sources.items()):
        look: dict[str, Any] = {"facecolor": styles[source][0], "edgecolor": "black", "hatch": styles[source][2]}
        axes.bxp(
            [dict(zip(BOX, box, strict=True)) for box in values[chosen].tolist()],
            positions=np.arange(len(chosen)) - 0.4 + width * (rank + 0.5),
            widths=0.8 * width,
            showfliers=False,
            patch_artist=True,
            manage_ticks=False,
            boxprops={**look, "linewidth": 0.5},
            medianprops={"color": "black"},
        )
        handles.append(Patch(label=f"{source} ({int(boxes['images'][source])})", **look))
    labels = [names[column].removesuffix(".weight") for column in chosen]
    axes.set_xticks(range(len(chosen)), labels, rotation=35, ha="right", fontsize=8)
    axes.set_ylabel(f"log10 of the squared {kind} norm")
    figure.suptitle(f"{kind.capitalize()} norms per layer (box: quartiles, whiskers: 5 % and 95 %)", fontsize=11)
    axes.grid(alpha=0.3)
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure


def representative_layers(layer_names: Sequence[str]) -> list[int]:
    """Choose at most 12 increasing columns: weights of convolutions evenly through the network, and its last weight.

    Convolutions have `conv` in their module's name; a network without such names gets all weights, one without weights
    all tensors.
    """
    weights = [i for i, name in enumerate(layer_names) if name.endswith("weight")] or list(range(len(layer_names)))
    convolutions = [i for i in weights if "conv" in ".".join(layer_names[i].split(".")[-2:])] or weights
    candidates = [i for i in convolutions if i != weights[-1]]
    steps = np.linspace(0, len(candidates) - 1, min(11, len(candidates)))
    return [*(candidates[int(step)] for step in np.round(steps)), weights[-1]]


def explanation_figure(image: np.ndarray, heat: np.ndarray, contributions: Mapping[str, float], heading: str) -> Figure:
    """Show an image, uint8 [H, W, 1 or 3], which of its pixels raise the score, and the 10 largest contributions.

    `heat`, float [H, W], and `contributions`, by part or reading, are those of `guard.Explanation`.
    """
    largest = sorted(contributions, key=lambda name: abs(contributions[name]))[-10:]
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    figure.suptitle(heading, fontsize=10)
    picture, warmth, bars = figure.subplots(1, 3, width_ratios=(1, 1, 2.2))
    picture.imshow(np.broadcast_to(image, (*image.shape[:2], 3)), interpolation="nearest")
    shown = warmth.imshow(heat, cmap="magma", interpolation="bilinear")
    figure.colorbar(shown, shrink=0.7)
    warmth.set_title("fall of the score if covered here", fontsize=9)
    for axes in (picture, warmth):
        axes.set_axis_off()
    bars.barh(largest, [contributions[name] for name in largest])
    bars.tick_params(labelsize=7)
    bars.set_title("largest contributions to the score, beyond those of normal images", fontsize=9)
    bars.grid(alpha=0.3)
    return figure


_DRAWN: dict[str, Callable[[Any], Figure]] = {  # what is drawn of the arrays of a run, by figure
    "layer_norms": partial(norm_boxes, kind="gradient"),
    "activation_norms": partial(norm_boxes, kind="activation"),
    "first_layer": first_layer_figure,
    "samples": image_rows,
    "attacked_samples": attacked_samples,
}


def drawings(run: Run) -> dict[str, Callable[[], Figure]]:
    """What draws each figure that the run has data for, by name: of the whole run, and `<kind>_<detector>`."""
    aurocs = {pair: one for pair, (one,) in compared([run.outcomes]).items() if one}
    overview = scores.auroc_bars if len({name for _, name in aurocs}) <= _MOST_BARS else scores.auroc_map
    calls: dict[str, Callable[[], Figure]] = {"aurocs": partial(overview, aurocs)}
    for detector, outcomes in by_detector(not_transferred(run.scored)).items():
        by_source = {one.source: one for one in outcomes}
        calls[f"roc_{detector}"] = partial(scores.roc_curves, f"ROC of {detector}", by_source)
        calls[f"precision_recall_{detector}"] = partial(scores.precision_recall_curves, outcomes)
        calls[f"scores_{detector}"] = partial(scores.score_histograms, outcomes)
    for detector, matrix in matrices(run.outcomes).items():
        calls[f"matrix_{detector}"] = partial(scores.heat_map, detector, matrix)
    calls |= {name: partial(draw, run.arrays[name]) for name, draw in _DRAWN.items() if run.arrays.get(name)}
    for detector, rows in run.arrays.get("extremes", {}).items():
        captions = {name: [f"{score:.3g}" for score in row["scores"]] for name, row in rows.items()}
        images = {name: row["images"] for name, row in rows.items()}
        calls[f"extremes_{detector}"] = partial(image_rows, images, captions)
    return {re.sub(r"[^\w.+-]+", "_", name): draw for name, draw in calls.items()}


def draw_figures(
    calls: Mapping[str, Callable[[], Figure]], settings: ReportSettings | None = None, folder: Path = Path()
) -> dict[str, bytes]:
    """Draw figures as PNG with titles, by name, for pages and loggers; one that fails is left out.

    With settings they are also written into a folder.
    """
    pictures, settings = dict[str, bytes](), settings or ReportSettings(formats=[])
    for name, draw in calls.items():
        with going_on_without(f"the figure {name}"):
            figure = draw()
            pictures[name] = figure_bytes(figure)
            if not settings.titles:
                figure.suptitle("").set_in_layout(False)
            for kind in settings.formats:
                with atomic_write(folder / f"{name}.{kind}") as file:
                    file.write(pictures[name] if kind == "png" and settings.titles else figure_bytes(figure, kind))
    return pictures
