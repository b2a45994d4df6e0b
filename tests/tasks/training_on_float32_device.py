"""The detector's task on a device without float64; see tests/test_devices_without_float64.py."""

import lightning.pytorch as pl
import pytest
import torch
from float32_device import without_float64
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradood.tasks import DetectionTask, MLPSettings, RawBinaryAUROC


@pytest.fixture
def device():
    with without_float64() as device:
        yield device


def records(number=60):
    """Squared norms over many decades, as float64 records hold them."""
    values = torch.randn(number, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 20
    return values.exp(), (torch.arange(number) % 2)


def trained(accelerator, strategy):
    torch.manual_seed(0)
    values, anomalous = records()
    task = DetectionTask(values, MLPSettings(width=8, dropout=0.0))
    trainer = pl.Trainer(
        accelerator=accelerator, strategy=strategy, devices=1, max_epochs=3, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    batches = DataLoader(TensorDataset(values, anomalous), batch_size=20)
    trainer.fit(task, batches, batches)
    return task, {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*than the logging interval")
def test_a_detector_is_trained_as_on_the_cpu(device):
    (here, truth), (there, found) = trained("cpu", "auto"), trained(device.type, device.type)
    assert found == pytest.approx(truth, rel=1e-5)
    assert there.trainer.strategy.root_device.type == device.type
    values, _ = records()
    there.to(device)
    assert {tensor.dtype for tensor in there.buffers()} == {torch.float64}, "statistics are float64, on the CPU"
    logits = there(values)
    assert logits.device.type == device.type
    torch.testing.assert_close(logits.cpu(), here(values), rtol=1e-4, atol=1e-5)
    assert there.state_dict().keys() == here.state_dict().keys()


def test_auroc_of_raw_scores(device):
    metric = RawBinaryAUROC().to(device)
    metric.update(torch.tensor([-900.0, 1e6]).to(device), torch.tensor([0, 1]).to(device))
    metric.update(torch.tensor([5.0, 7.0], dtype=torch.bfloat16).to(device), torch.tensor([1, 0]).to(device))
    found = metric.compute()
    assert (found.device.type, found.dtype, found.item()) == (device.type, torch.float32, 0.75)
