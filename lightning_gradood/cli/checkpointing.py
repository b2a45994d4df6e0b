"""Lightning's ModelCheckpoint for run folders, which may be moved between two sessions."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_gradood.runs import CHECKPOINTS


class RunCheckpoint(ModelCheckpoint):
    """Keep the most accurate and the last checkpoint of a run.

    Lightning saves absolute paths. In a folder that was moved or copied it would forget the best accuracy, so that the
    next epoch became the best whatever its accuracy, and stage two would look for the best checkpoint in the old place.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder / CHECKPOINTS, "best", "val/accuracy", mode="max", save_last=True, enable_version_counter=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called by Lightning when a fit goes on; paths are those in this folder if the files are here."""
        before, now = str(state_dict["dirpath"]), str(self.dirpath)
        if before != now and Path(now, Path(state_dict["best_model_path"]).name).is_file():
            state_dict = {key: _moved(value, before, now) for key, value in state_dict.items()}
        super().load_state_dict(state_dict)


def _moved(value: Any, before: str, now: str) -> Any:
    if isinstance(value, str) and value.startswith(before):
        return now + value[len(before) :]
    if isinstance(value, dict):
        return {_moved(key, before, now): score for key, score in value.items()}
    return value
