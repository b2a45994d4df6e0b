"""Records: what the probes read from the network, one row an image, in memory and on disk.

`Records` is an Arrow table of images: `id`, `origin_id` (the clean image it comes from), `source`, `attack` (empty when
clean), `label`, `prediction`, `success`, `target_hit`, `l2`, `linf`, and one fixed-size list of numbers per probe.
`RecordCache` keeps them as Parquet shards under a key that covers everything they depend on (`entry_key`), so a second
run with the same weights and images reads instead of probing, and what probes learnt from the training images beside
them.

    >>> import numpy as np
    >>> from lightning_gradood.records import Records
    >>> records = Records.build(["a/0", "a/1"], source="a", values={"logits": np.eye(2)})
    >>> records.probe("logits").shape, records.anomalous.tolist()
    ((2, 2), [1, 1])
"""

from lightning_gradood.records.cache import Damaged, RecordCache, entry_key
from lightning_gradood.records.table import (
    ENDINGS,
    NORMAL,
    SPLITS,
    SYNTHETIC,
    LinearHead,
    Records,
    detection_dataset,
    normal_records,
    read_rows,
    write_rows,
)

__all__ = [
    "ENDINGS", "NORMAL", "SPLITS", "SYNTHETIC", "Damaged", "LinearHead", "RecordCache", "Records",
    "detection_dataset", "entry_key", "normal_records", "read_rows", "write_rows",
]  # fmt: skip
