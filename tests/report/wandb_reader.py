"""Read an offline W&B run back: wandb writes `run-*.wandb` files but has no public reader for them.

The file is a LevelDB log: a 7-byte header, then blocks of 32 KiB of chunks, each with a 7-byte header (CRC32, length, type) and
never across a block's end; the chunks from a first to a last one hold a `wandb.proto.wandb_internal_pb2.Record`.
"""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import wandb
from wandb.proto import wandb_internal_pb2

_HEADER, _BLOCK = 7, 32 * 1024
_FULL, _FIRST, _LAST = 1, 2, 4


@dataclass
class WandbRun:
    """Rows that were logged, final values, and each metric's x axis; media paths in `history` are relative to `files`."""

    files: Path
    history: list[dict] = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)

    def values(self, key):
        """Every value logged under `key`, in order."""
        return [row[key] for row in self.history if key in row]


def read_offline_run(save_dir):
    """Read the only offline run below `<save_dir>/wandb`, which must have been finished."""
    wandb.teardown()  # its service may write the file a moment after `finish` has returned
    (path,) = sorted(save_dir.glob("wandb/offline-run-*/run-*.wandb"))
    run = WandbRun(files=path.parent / "files")
    for record in _records(path.read_bytes()):
        run.history += [_items(record.history.item)] if record.HasField("history") else []
        run.summary |= _items(record.summary.update)
        run.config |= _items(record.run.config.update) | _items(record.config.update)
        if record.metric.step_metric:
            run.steps[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    return run


def _items(items):
    """Key to value; the parts of a nested key, such as those of an image, become a nested dict."""
    values = {}
    for item in items:
        *path, last = list(item.nested_key) or [item.key]
        place = values
        for part in path:
            place = place.setdefault(part, {})
        place[last] = json.loads(item.value_json)
    return values


def _records(data):
    place, body = _HEADER, b""
    while place + _HEADER <= len(data):
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if (left := _BLOCK - place % _BLOCK) < _HEADER or kind == 0:  # the padding at a block's end
            place += left
            continue
        place += _HEADER + length
        chunk = data[place - length : place]
        body = chunk if kind in (_FULL, _FIRST) else body + chunk
        if kind in (_FULL, _LAST):
            yield wandb_internal_pb2.Record.FromString(body)
