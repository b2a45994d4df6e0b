"""Run by test_datamodule_ddp.py: predict on two gloo processes, writing the ids that each of them saw."""

import json
import sys
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from lightning_gradood.data import ImageDataModule

RESTRICTED = {"all": {"normal": range(8), "odd": range(7)}, "some": {"odd": [2, 4, 5]}, "few": {"odd": [1]}}


class Ids(LightningModule):
    """Keep the ids of the images given."""

    def __init__(self, data, sources):
        super().__init__()
        self.data, self.sources, self.seen = data, sources, []

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        source = self.data.detection_sources[self.sources[dataloader_idx]]
        self.seen += [source.ids[row] for row in batch.rows]


def main(folder: Path) -> None:
    data = ImageDataModule(str(folder / "normal"), {"odd": str(folder / "odd")}, probe_batch_size=2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    for name, rows in RESTRICTED.items():
        trainer, module = Trainer(accelerator="cpu", devices=2, strategy="ddp", **quiet), Ids(data, list(rows))
        trainer.predict(module, data.probe_dataloaders(rows, processes=2), return_predictions=False)
        (folder / f"{name}-{trainer.global_rank}.json").write_text(json.dumps(module.seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
