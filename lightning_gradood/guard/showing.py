"""How a guard and what it says of images show themselves: a table of facts; a histogram above the most anomalous images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from lightning_gradood.core import as_float, atomic_write
from lightning_gradood.records import NORMAL

if TYPE_CHECKING:  # `Guard` imports this file
    from lightning_gradood.guard.guard import Guard

_BARS, _WIDTH, _HEIGHT = 40, 640, 160  # of the histogram, in pixels
_COLOURS = {"normal": "#9aa5b1", "these images": "#1f77b4"}


def facts(guard: Guard) -> dict[str, str]:
    """What a reader wants to know of a guard, each in a few words."""
    about, calibration = guard.about, guard.calibration
    share = 100 * float((calibration > guard.threshold).sum() + 1) / (len(calibration) + 1)
    tested = [one["test/auroc"] for one in about.metrics.values() if "test/auroc" in one]
    found = {
        "network": type(guard.bare_network).__name__ + (f", {len(about.classes)} classes" if about.classes else ""),
        "images": " × ".join(map(str, about.image_shape)) + ("" if guard.transform is None else " after its transform"),
        "detector": f"{about.detector_name}, fitted on {about.trained_on} images",
        "threshold": f"{guard.threshold:.4g}, which at most {share:.3g} % of normal images exceed",
        "calibrated on": f"{len(calibration)} normal images",
    }
    if NORMAL in about.metrics:
        normal = about.metrics[NORMAL]
        found["measured on"] = (
            f"{normal['test/images']:.0f} other normal images, of which {100 * normal['test/flagged']:.1f} % "
            f"[{100 * normal['low']:.1f}, {100 * normal['high']:.1f}] were above {about.threshold:.4g}"
        )
    if tested:
        kinds = "built-in anomalies" if about.built_in else "anomalies"
        found["AUROC"] = f"{100 * float(np.mean(tested)):.1f} %, mean over {len(tested)} {kinds}"
    return found


def table_html(rows: Mapping[str, str]) -> str:
    """A table of two columns."""
    cells = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
    return f"<table>{''.join(cells)}</table>"


@dataclass(frozen=True)
class GuardReport:
    """What a guard says of some images; a notebook shows its HTML.

    Args:
        rows: of all images, as `Verdict.rows` gives them.
        html: summary, histogram and the most anomalous images.
    """

    rows: list[dict[str, Any]]
    html: str

    @classmethod
    def of(
        cls, guard: Guard, images: Tensor, rows: list[dict[str, Any]], names: Sequence[str], most: int
    ) -> GuardReport:
        """Draw the `most` anomalous of images [N, C, H, W], with rows and names of all."""
        scores, flagged = np.array([row["score"] for row in rows]), sum(row["flagged"] for row in rows)
        order = np.argsort(-scores, kind="stable")[:most].tolist()
        shown = [_picture(images[row], names[row], rows[row]) for row in order]
        head = f"<p>{flagged} of {len(rows)} images are flagged.</p>"
        return cls(rows, head + histogram(guard.calibration, scores, guard.threshold) + "".join(shown))

    def save(self, path: str | Path) -> None:
        """Write a page."""
        with atomic_write(Path(path), "path") as file:
            file.write(f"<!doctype html><meta charset='utf-8'><title>Guard</title>{self.html}".encode())

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        flagged = sum(row["flagged"] for row in self.rows)
        return f"GuardReport({flagged} of {len(self.rows)} images are flagged; `save('report.html')` writes a page)"


def histogram(normal: np.ndarray, scores: np.ndarray, threshold: float) -> str:
    """SVG of two sets of scores [n], each in shares of its set, and the threshold; the outermost bars hold all beyond."""
    known = np.concatenate([normal, scores])
    bounds = np.quantile(known, [0.01, 0.99]).tolist()
    low, high = min([*bounds, threshold]), max([*bounds, threshold])
    low, high = (low, high) if np.isfinite(high - low) and low < high else (known.min() - 1, known.max() + 1)
    edges = np.linspace(low, high, _BARS + 1)
    sets = dict(zip(_COLOURS, (normal, scores), strict=True))
    shares = {name: np.histogram(np.clip(one, low, high), edges)[0] / max(len(one), 1) for name, one in sets.items()}
    scale, step = _HEIGHT / max(float(one.max()) for one in shares.values()), _WIDTH / _BARS
    drawn = [
        f'<rect x="{step * bar:.1f}" y="{_HEIGHT - scale * share:.1f}" width="{step:.1f}" height="{scale * share:.1f}" '
        f'fill="{_COLOURS[name]}" fill-opacity="0.6"/>'
        for name, one in shares.items()
        for bar, share in enumerate(one.tolist())
    ]
    place = _WIDTH * float(np.clip((threshold - low) / (high - low), 0, 1))
    drawn.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="0" y2="{_HEIGHT}" stroke="#c0392b" stroke-width="2"/>')
    legend = " ".join(f'<tspan fill="{colour}">■ {name}</tspan>' for name, colour in _COLOURS.items())
    texts = {
        f'x="0" y="{_HEIGHT + 16}"': f"{low:.4g}",
        f'x="{_WIDTH}" y="{_HEIGHT + 16}" text-anchor="end"': f"{high:.4g}",
        f'x="{_WIDTH / 2}" y="{_HEIGHT + 34}" text-anchor="middle"': f"score (higher = more anomalous) {legend} "
        f'<tspan fill="#c0392b">| threshold {threshold:.4g}</tspan>',
    }
    drawn += [f'<text {where} font-size="12">{text}</text>' for where, text in texts.items()]
    size = f'width="{_WIDTH}" height="{_HEIGHT + 40}" style="display:block" font-family="sans-serif"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(drawn)}</svg>'


def _picture(image: Tensor, name: str, row: Mapping[str, Any]) -> str:
    """One image [C, H, W] above its verdict; grey where it has not three channels."""
    pixels, buffer = as_float(image.detach().cpu()), io.BytesIO()
    shown = (pixels if len(pixels) == 3 else pixels.mean(dim=0).expand(3, -1, -1)).permute(1, 2, 0)
    Image.fromarray((shown * 255).round().byte().numpy()).save(buffer, "PNG")
    content = base64.b64encode(buffer.getvalue()).decode()
    said = [name, f"score {row['score']:.4g}, p-value {row['p_value']:.2g}", f"taken for {row['prediction']}"]
    return (
        '<figure style="display:inline-block;vertical-align:top;margin:4px;font:12px sans-serif;width:140px">'
        f'<img alt="{escape(name)}" style="width:140px;image-rendering:pixelated" '
        f'src="data:image/png;base64,{content}"><figcaption>{"<br>".join(map(escape, said))}'
        f"{'<br><b>flagged</b>' if row['flagged'] else ''}</figcaption></figure>"
    )
