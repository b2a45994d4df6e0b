"""What Lightning's loops show and write: a progress bar with images per second, and the classifier's predictions."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter, TQDMProgressBar
from torch import Tensor
from typing_extensions import override

from lightning_gradood.core import ProgressLines, gathered
from lightning_gradood.data import ImageBatch, ImageDataModule, class_name
from lightning_gradood.extraction.callback import ProbeCallback
from lightning_gradood.records import write_columns


class ImageProgressBar(TQDMProgressBar):
    """Show images per second, and in the predict loop which source is being probed.

    Where standard output is no terminal, write a line for each epoch of training, and one for each source and percent.

    Args:
        refresh_rate: batches between two updates; 0 switches the bar off.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._images = 0
        self._start = 0.0
        self._plain = False
        self._lines = ProgressLines("", 0, "", sys.stdout)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._plain = self.refresh_rate > 0 and not self.is_disabled and not sys.stdout.isatty()
        if self._plain:
            self.disable()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        if self._plain:
            self.enable()

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self._restart()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._images += len(batch[0]) * trainer.world_size
        super().on_train_batch_end(trainer, pl_module, outputs, batch, *args)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self._plain:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            found = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
            sys.stdout.write(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {found}, {self._rate()} images/s\n"
            )
            sys.stdout.flush()

    @override
    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return metrics | {"images/s": self._rate()}

    @override
    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self._restart()
            self._show_rate("")  # clear the rate of the last source
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        data = getattr(trainer, "datamodule", None)
        source = (
            data.predict_sources[dataloader_idx] if isinstance(data, ImageDataModule) else f"loader {dataloader_idx}"
        )
        if not self.is_disabled:
            self.predict_progress_bar.set_description(source)
        if self._plain and batch_idx == 0:
            batches = trainer.num_predict_batches[dataloader_idx]
            self._lines = ProgressLines(f"reading {source}", int(batches), "batches", sys.stdout)

    @override
    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._images += len(batch[0]) * trainer.world_size
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        left = "".join(one.work.left for one in callbacks if isinstance(one, ProbeCallback))
        note = f"{self._rate()} images/s{f', {left} of all reading' if left else ''}"
        self._show_rate(note)
        if self._plain:
            self._lines.advance(note=note)
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, *args)

    def _show_rate(self, text: str) -> None:
        if not self.is_disabled:
            self.predict_progress_bar.set_postfix_str(text, refresh=False)

    def _restart(self) -> None:
        self._images, self._start = 0, time.perf_counter()

    def _rate(self) -> str:
        return f"{self._images / max(time.perf_counter() - self._start, 1e-9):.0f}"


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
        source = data.sources.clean[name]
        values, predicted = prediction.float().softmax(dim=1).max(dim=1)
        _, labels, rows = batch
        columns = (part.tolist() for part in (rows, labels, predicted, values))
        for row, label, index, value in zip(*columns, strict=True):
            names = (class_name(label, source.classes), class_name(index, data.sources.classes))
            self._rows.append((source.ids[row], source.path(row), name, *names, value))

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_predict_end(trainer, pl_module)
        parts = gathered(self._rows)
        if trainer.is_global_zero:
            rank = {name: number for number, name in enumerate(trainer.datamodule.predict_sources)}  # type: ignore[attr-defined]
            found = {row[0]: row for part in parts for row in part}
            rows = sorted(found.values(), key=lambda row: (rank[row[2]], row[0]))
            write_columns(self.path, {name: [row[place] for row in rows] for place, name in enumerate(_COLUMNS)})
        self._rows = []
