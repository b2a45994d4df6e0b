"""What is read and attacked while a test runs."""

import pytest

from lightning_gradood.extraction.batch_records import BatchReader


@pytest.fixture
def probed(monkeypatch):
    batches, read = [], BatchReader._read

    def noting(self, probes, images):
        batches.append((images.source, images.ids))
        return read(self, probes, images)

    monkeypatch.setattr(BatchReader, "_read", noting)
    return batches
