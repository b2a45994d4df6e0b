"""What `fit` refuses before its first step: files from which it cannot go on, and training without keeping the classifier."""

from typing import Any

import torch

from lightning_gradood.core import Refusal, refused_as
from lightning_gradood.networks import read_state_dict
from lightning_gradood.tasks import ClassificationTask


def check_resumable(path: str, model: ClassificationTask) -> None:
    """Refuse a file from which `fit` cannot go on, before the first step.

    Args:
        path: a Lightning checkpoint, which holds the optimizer's state and the epoch beside the weights.
        model: the task that is trained; its network holds the file's weights afterwards.

    Raises:
        Refusal: if it is no checkpoint, would execute code, holds weights only, or those of another architecture.
    """
    with refused_as(path="ckpt_path"):
        read_state_dict(path)  # says what is wrong with the file, and never executes code
    content: Any = {} if path.endswith(".safetensors") else torch.load(path, map_location="cpu", weights_only=True)
    if "pytorch-lightning_version" not in content:
        raise Refusal(
            f"`ckpt_path` should be a Lightning checkpoint from which `fit` can go on. Got `ckpt_path = {path}`, which "
            f"holds weights only. To start from these weights use --model.weights {path}."
        )
    with refused_as(path="ckpt_path"):
        model.load_trained_weights(path)


def check_checkpointing(trainer: Any) -> None:
    """Refuse to train for stage two without keeping the classifier.

    Args:
        trainer: Lightning's Trainer.

    Raises:
        Refusal: if it keeps no checkpoints.
    """
    if trainer.checkpoint_callback is None:
        raise Refusal(
            "`trainer.enable_checkpointing` should be on, as stage two probes the best checkpoint. Got false. "
            "Leave it on, or stop after the classifier with --detection null."
        )
