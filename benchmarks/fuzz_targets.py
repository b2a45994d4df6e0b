"""The readers that `benchmarks.fuzz` runs: for each, valid files, what is drawn of them, and the call that reads one case."""

import copy
import hashlib
import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image

from lightning_gradood.core import image_suffixes, read_picture
from lightning_gradood.networks import CifarResNet

Case = Any
Target = tuple[st.SearchStrategy[Case], Callable[[Case], None]]

_NUMBERS = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x01\0\0\0"]
_ODD = [
    "",
    "nan",
    "null",
    "~",
    "1e999",
    "-1",
    "1" * 5000,
    "a\0b",
    "\ud800",
    "${x}",
    "${oc.env:X}",
    "${",
    "!!int ''",
    "&a [*a]",
    "[" * 3000,
]


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """One of some files, changed in one to four places; one in eight is bytes of no file."""
    if draw(st.integers(0, 7)) == 0:
        return draw(st.binary(max_size=300))
    content = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 4))):
        start, other = (draw(st.integers(0, max(0, len(content) - 1))) for _ in range(2))
        length = draw(st.integers(1, 64))
        change = draw(st.sampled_from(["flip", "flip", "cut", "insert", "remove", "double", "swap", "number"]))
        if change == "flip" and content:
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del content[start:]
        elif change == "insert":
            content[start:start] = draw(st.binary(min_size=1, max_size=16))
        elif change == "remove":
            del content[start : start + length]
        elif change == "double":
            content[start:start] = content[start : start + length]
        elif change == "swap":
            one, two = bytes(content[start : start + length]), bytes(content[other : other + length])
            content[start : start + length], content[other : other + length] = two, one
        else:
            content[start : start + 4] = draw(st.sampled_from(_NUMBERS))
    return bytes(content)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(_ODD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def edited(draw: st.DrawFn, documents: list[Any]) -> Any:
    """One of some nested documents with a branch exchanged, removed, renamed or put elsewhere, once or twice."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(document))
        if not places:
            return draw(values)
        parent, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(["value", "value", "remove", "rename", "copy"]))
        if change == "value":
            parent[key] = draw(values)
        elif change == "remove":
            del parent[key]
        elif change == "rename" and isinstance(parent, dict):
            parent[draw(st.text(max_size=8))] = parent.pop(key)
        else:
            other, where = draw(st.sampled_from(places))
            with suppress(KeyError, IndexError):  # it has gone with its branch
                parent[key] = copy.deepcopy(other[where])
    return document


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value[:5]) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def image(folder: Path) -> Target:
    """`read_picture` on files of all formats that Pillow writes."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    files = []
    for suffix in sorted(image_suffixes()):
        for mode in ("RGB", "P", "L"):
            buffer = io.BytesIO()
            with suppress(Exception):  # formats that are read only, or not in this mode
                picture.convert(mode).save(buffer, Image.registered_extensions()[suffix], exif=exif)
                files.append(buffer.getvalue())
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        buffer = io.BytesIO()
        picture.save(buffer, "TIFF", compression=compression)
        files.append(buffer.getvalue())

    def read(content: bytes) -> None:
        (folder / "image.png").write_bytes(content)
        read_picture(folder / "image.png")

    return damaged(files), read


def records(folder: Path) -> Target:
    """Shards, states and tables of scores; checksums are made to fit, so that what lies behind them is reached."""
    import safetensors.torch

    from lightning_gradood.records import (
        RecordCache,
        Records,
        read_rows,
        write_rows,
    )
    from lightning_gradood.records.cache import _FORMAT

    ids, cache = [f"a/{row}" for row in range(6)], RecordCache(folder / "cache")
    cache.write_shard(
        "k" * 64, Records.build(ids, source="a", values={"norms": np.ones((6, 2))}, names={"norms": ["w", "b"]})
    )
    entry = folder / "cache" / ("k" * 64)
    (shard,) = entry.glob("*.parquet")
    cache.write_state("s" * 64, {"means": torch.rand(3, 4)})
    (state,) = (folder / "cache" / ("s" * 64)).iterdir()
    for suffix in ("parquet", "csv", "jsonl"):
        row = {"path": "a", "score": 1.0, "flagged": True}
        write_rows([row], {name: type(value) for name, value in row.items()}, folder / f"t.{suffix}")
    files = {name: (folder / f"t.{name}").read_bytes() for name in ("parquet", "csv", "jsonl")}
    files |= {"shard": shard.read_bytes(), "state": state.read_bytes()}
    shard.unlink()
    drawn = [st.tuples(st.just(kind), damaged([content])) for kind, content in files.items()]

    def read(case: tuple[str, Any]) -> None:
        kind, content = case
        if kind == "shard":
            path = entry / f"{hashlib.sha256(f'{_FORMAT}/{entry.name}/'.encode() + content).hexdigest()}.parquet"
            path.write_bytes(content)
            try:
                RecordCache(folder / "cache").read(entry.name, ids)
            finally:
                path.unlink()
        elif kind == "state":
            state.write_bytes(content)
            cache.read_state("s" * 64)
            safetensors.torch.load(content)
        else:
            path = folder / f"case.{kind}"
            path.write_bytes(content)
            read_rows(path)
            if kind == "parquet":
                read_rows(path)

    return st.one_of(*drawn), read


def guard(folder: Path) -> Target:
    """A guard's folder, its hashes made to fit in one half of the cases; what loads scores a batch."""
    from lightning_gradood.guard import Guard

    place = saved_guard(folder)
    about = json.loads((place / "guard.json").read_text())
    names = sorted(about["files"])
    whole = {name: (place / name).read_bytes() for name in [*names, "guard.json"]}
    documents = edited([about])
    broken = st.sampled_from(sorted(whole)).flatmap(
        lambda name: st.tuples(st.just(name), damaged([whole[name]]), st.booleans())
    )

    def read(case: tuple[str, Any, bool]) -> None:
        name, content, fits = case
        for other, original in whole.items():
            (place / other).write_bytes(original)
        document = content if name == "document" else about
        if name != "document":
            (place / name).write_bytes(content)
        if fits and name != "guard.json" and isinstance(document, dict):
            (place / "guard.json").write_text(json.dumps(signed(document, place, names)))
        Guard.load(place)(torch.rand(2, 3, 8, 8))

    return broken | st.tuples(st.just("document"), documents, st.just(True)), read


def signed(document: dict[str, Any], place: Path, names: list[str]) -> dict[str, Any]:
    """A guard's document with the hashes of its files as they are now."""
    files = {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in names}
    rest = {**document, **({"files": files} if isinstance(document.get("files"), dict) else {})}
    rest.pop("digest", None)
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return {**rest, "digest": hashlib.sha256(text.encode()).hexdigest()}


def saved_guard(folder: Path) -> Path:
    """A network that was not trained with a fitted detector, as `detect` saves it."""
    from lightning_gradood.cli import main

    (folder / "work").mkdir()
    (folder / "fuzz.yaml").write_text(CONFIG)
    torch.save(CifarResNet(blocks_per_stage=1, num_classes=3).state_dict(), folder / "weights.pt")
    words = [
        "--model.weights",
        str(folder / "weights.pt"),
        "--data.limits.images",
        "30",
        "--cache_dir",
        str(folder / "cache"),
        "--run_dir",
        str(folder / "run"),
    ]
    before, sys.argv = sys.argv, ["lightning_gradood"]
    with redirect_stderr(io.StringIO()):
        stdout, sys.stdout = sys.stdout, io.StringIO()
        try:
            main(["detect", "--config", str(folder / "fuzz.yaml"), *words])
        finally:
            sys.stdout, sys.argv = stdout, before
    return folder / "run" / "guard"


def score(folder: Path) -> Target:
    """The verb `score` with a list of files on standard input: names, folders, patterns and whatever else a line may be."""
    import os

    from lightning_gradood.cli.score import score as verb

    place = saved_guard(folder)
    os.chdir(folder / "work")
    Path("photos/more").mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/more/{number}.png")
    Path("photos/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    os.mkfifo("photos/pipe.png")
    os.symlink("..", "photos/up")
    lines = [
        b"photos",
        b"photos/*.png",
        b"photos/**/*.png",
        b"photos/more/0.png",
        b"photos/pipe.png",
        b"missing.png",
        b"photos/[",
        b"~",
        b"-",
    ]
    text = b"\n".join(lines)

    def read(content: bytes) -> None:
        kept = b"\n".join(
            line.lstrip(b"/~ \t.") for line in content.split(b"\n")
        )  # patterns over the whole machine take their time
        sys.stdin = io.TextIOWrapper(io.BytesIO(kept))
        with redirect_stderr(io.StringIO()):
            verb(["--guard", str(place), "--output", str(folder / "out.csv"), "--overwrite"])

    return damaged([text, *lines]) | st.lists(st.sampled_from(lines) | st.binary(max_size=40), max_size=6).map(
        b"\n".join
    ), read


CONFIG = """
seed_everything: 0
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_progress_bar: false
  logger: false
  callbacks: [{class_path: ReportCallback, init_args: {figures: false}}]
model:
  class_path: ClassificationTask
  init_args:
    network: {class_path: lightning_gradood.networks.CifarResNet, init_args: {blocks_per_stage: 1, num_classes: 3}}
data:
  class_path: ImageDataModule
  init_args:
    train: {class_path: DigitsSource, init_args: {digits: [0, 1, 2], part: train}}
    normal: {class_path: DigitsSource, init_args: {digits: [0, 1, 2], part: test}}
    anomalies: {photographs: {class_path: PhotoPatches}}
    transform: {class_path: torchvision.transforms.v2.Resize, init_args: {size: [8, 8]}}
    batch_size: 64
    limits: {images: 20}
detection: {resamples: 20, false_positive_rate: 0.2, detectors: [Energy], mlp: {max_epochs: 3}}
run_dir: null
"""


def config(folder: Path) -> Target:
    """The command line with an experiment file of which one entry or the text is changed; it is parsed and not run."""
    from lightning_gradood.cli.parsing import interpolation, trusting
    from lightning_gradood.cli.program import configuration_of

    path = folder / "fuzz.yaml"
    flags = st.sampled_from(
        [
            "--trainer.max_epochs",
            "--data.split.fractions",
            "--model",
            "--data.anomalies",
            "--detection",
            "--trainer.callbacks",
        ]
    )
    words = st.tuples(flags, st.sampled_from(_ODD) | values.map(json.dumps)).map(list)

    def read(case: Any) -> None:
        more, content = (case, CONFIG.encode()) if isinstance(case, list) else ([], case)
        if isinstance(content, dict):
            content = yaml.safe_dump(content, allow_unicode=False).encode(errors="backslashreplace")
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with interpolation(), trusting(["own"]), redirect_stderr(io.StringIO()):
            configuration_of(["fit", "--config", str(path), *more])

    return st.one_of(edited([yaml.safe_load(CONFIG)]), words, damaged([CONFIG.encode()])), read


TARGETS = {one.__name__: one for one in (image, records, guard, score, config)}
