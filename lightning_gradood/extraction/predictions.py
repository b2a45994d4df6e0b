"""Predictions of the classifier for every image of a predict loop, as one table for all processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from typing_extensions import override

from lightning_gradood.data import ImageBatch, ImageDataModule, class_name
from lightning_gradood.records import write_columns

_COLUMNS = ("id", "path", "source", "label", "prediction", "probability")


class PredictionWriter(BasePredictionWriter):
    """Write `id`, `path`, `source`, `label`, `prediction` and `probability` of every image to a Parquet file.

    `path` is empty where images are no files, `label` where it is unknown; classes are named where they have names.

    Args:
        path: of the file, which the first process writes when all have finished.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(write_interval="batch")
        self.path = path
        self._rows: list[tuple[Any, ...]] = []

    @override
    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning's data connector
        name = data.predict_sources[dataloader_idx]
        source = data.detection_sources[name]
        values, predicted = prediction.float().softmax(dim=1).max(dim=1)
        _, labels, rows = batch
        columns = (part.tolist() for part in (rows, labels, predicted, values))
        for row, label, index, value in zip(*columns, strict=True):
            names = (class_name(label, source.classes), class_name(index, data.classes))
            self._rows.append((source.ids[row], source.path(row), name, *names, value))

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_predict_end(trainer, pl_module)
        parts = [self._rows]
        if dist.is_initialized():
            parts = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(parts, self._rows)
        if trainer.is_global_zero:
            rank = {name: number for number, name in enumerate(trainer.datamodule.predict_sources)}  # type: ignore[attr-defined]
            found = {row[0]: row for part in parts for row in part}
            rows = sorted(found.values(), key=lambda row: (rank[row[2]], row[0]))
            write_columns(self.path, {name: [row[place] for row in rows] for place, name in enumerate(_COLUMNS)})
        self._rows = []
