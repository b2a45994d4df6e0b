"""What is expensive is prepared once for all workers of pytest-xdist, in a folder that they share."""

import os
import tempfile
from pathlib import Path

from filelock import FileLock


def shared(tmp_path_factory, name, make):
    """A folder that the first worker who asks for it fills by `make(folder)`; tests change copies only."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has its own below it
    with FileLock(base / f"{name}.lock"):
        if not (base / name).is_dir():
            made = Path(tempfile.mkdtemp(dir=base))
            make(made)
            made.rename(base / name)
    return base / name
