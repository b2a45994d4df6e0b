"""HTML elements of the page, and the figures of one experiment."""

import base64
import itertools
import json
from collections.abc import Sequence
from html import escape

import numpy as np

from lightning_gradood.experiments.artifacts import Material
from lightning_gradood.experiments.jobs import RESULTS, Call
from lightning_gradood.experiments.settings import Benchmark, TableSettings
from lightning_gradood.records import NORMAL, RecordCache
from lightning_gradood.report import activation_norms, as_png, layer_norms, method_rocs, sample_sheet, weight_gradients

_MANY = 10  # columns that the width of the text has room for
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 64rem; margin: 0 auto; padding: 0 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e5e5e5; }
thead th { vertical-align: bottom; } th.text, td.text { text-align: left; }
th.key { position: sticky; left: 0; background: #fff; text-align: left; white-space: normal; min-width: 5.5rem; }
.full table { font-size: .8rem; } .full thead th { white-space: normal; } .full th, .full td { padding: .2rem .4rem; }
@media (min-width: 66rem) {
  .full { margin-left: calc(33rem - 50vw); margin-right: calc(33rem - 50vw); } .full th.key { min-width: 10rem; }
}
td small { color: #666; display: block; }
pre { overflow-x: auto; background: #f5f5f5; padding: .6rem; font-size: .8rem; }
figure { margin: 1rem 0; } .scroll { overflow-x: auto; } .scroll img { max-width: none; width: max(100%, 44rem); }
 img { max-width: 100%; height: auto; } figcaption, .note { color: #555; font-size: .85rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page."""
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{_STYLE}</style>\n</head>\n<body>\n'
    )
    return f"{head}{chr(10).join(parts)}\n</body>\n</html>\n"


def heading(text: str, level: int = 2) -> str:
    """A heading of a section."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str | None = None) -> str:
    """A paragraph; `note` is the small kind."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def verbatim(text: str) -> str:
    """Text as it is typed."""
    return f"<pre>{escape(text)}</pre>"


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], keys: int = 1) -> str:
    """A table that scrolls inside the page; one of many columns may be wider than the text.

    Args:
        heads: of the columns, text.
        rows: cells, HTML; of rows with the same first cell only the first shows it.
        keys: how many columns on the left are text; the first stays in sight.
    """
    top = "".join(f"<th{_kind(place, keys)}>{escape(head)}</th>" for place, head in enumerate(heads))
    lines = []
    for key, group in itertools.groupby(rows, key=lambda row: row[0]):
        rests = ["".join(f"<td{_kind(place, keys)}>{row[place]}</td>" for place in range(1, len(row))) for row in group]
        head = f'<th class="key" rowspan="{len(rests)}">{key}</th>'
        lines += [head + rests[0], *rests[1:]]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    kind = "wide full" if len(heads) > _MANY else "wide"
    return f'<div class="{kind}"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def picture(png: bytes, caption: str, wide: bool = False) -> str:
    """A figure inside the page; a wide one keeps its size on a phone and scrolls."""
    data = base64.b64encode(png).decode()
    text = escape(caption)
    kind = ' class="scroll"' if wide else ""
    return (
        f'<figure{kind}><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
    )


def _kind(place: int, keys: int) -> str:
    return ' class="key"' if place == 0 else ' class="text"' if place < keys else ""


_LAYERS = "features/layers"


def drawn(experiment: str, calls: Sequence[Call], benchmark: Benchmark) -> list[str]:
    """Every figure there is material for; where there is none, a sentence says why.

    Args:
        experiment: its name.
        calls: of the experiment, the first seed's first.
        benchmark: where records are, and which images are near and far.
    """
    call = calls[0]
    material = Material.read(call.folder)
    return [
        heading(f"{experiment}: ROC curves"),
        paragraph(f"Seed {call.seed}.", "note"),
        '<div class="figures">',
        *(
            picture(as_png(method_rocs(source, scores)), f"ROC on {source}")
            for source, scores in material.scores.items()
        ),
        "</div>",
        heading(f"{experiment}: layer by layer (Figure 3)"),
        _gradients(material),
        _activations(call, benchmark),
        heading(f"{experiment}: images"),
        _samples(material),
        heading(f"{experiment}: what one image asks to change (Figure 1)"),
        _first_layer(material, benchmark.tables),
    ]


def _gradients(material: Material) -> str:
    if not material.norms:
        return paragraph("3a is not drawn: no detector of this run reads gradient norms.")
    return picture(
        as_png(layer_norms(material.norms, material.layer_names)), "3a: gradient norms of every source", wide=True
    )


def _activations(call: Call, benchmark: Benchmark) -> str:
    keys = json.loads((call.folder / RESULTS).read_text())["provenance"]["records"]
    entries = {name.removesuffix(f"/{_LAYERS}"): key for name, key in keys.items() if name.endswith(f"/{_LAYERS}")}
    if not entries:
        return paragraph("3b is not drawn: no detector of this run reads the network's features. LID does.")
    cache = RecordCache(benchmark.cache_dir)
    if not all(cache.has(key) for key in entries.values()):
        return paragraph("3b is not drawn: the records of the network's features are no longer in the cache.")
    records = {source: cache.read(key) for source, key in entries.items()}
    names = records[NORMAL].names(_LAYERS)
    features = {source: table.probe(_LAYERS) for source, table in records.items()}
    return picture(as_png(activation_norms(features, names)), "3b: activation norms of every source", wide=True)


def _samples(material: Material) -> str:
    if not material.samples:
        return paragraph("None were kept.")
    text = "Images from all over each source; attacked ones only where data.keep_pixels keeps them"
    return picture(as_png(sample_sheet({name: images[:8] for name, images in material.samples.items()})), text)


def _first_layer(material: Material, tables: TableSettings) -> str:
    kept = material.first_layer
    if not kept:
        return paragraph("Not drawn: the network has no convolution.")
    others = [source for source in kept["images"] if source != NORMAL]
    asked = {
        "normal": NORMAL,
        "near": tables.near or next(iter(others), None),
        "far": tables.far or (others or [None])[-1],
    }
    chosen = {
        role if role == source else f"{role}: {source}": source
        for role, source in asked.items()
        if source in kept["images"]
    }
    gradients: dict[str, np.ndarray] = {caption: kept["gradients"][source] for caption, source in chosen.items()}
    images = {caption: kept["images"][source] for caption, source in chosen.items()}
    caption = f"{kept['name']} and the gradient of the all-ones loss for one image each"
    return picture(as_png(weight_gradients(kept["name"], kept["weights"], gradients, images)), caption)
