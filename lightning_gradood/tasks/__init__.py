"""Tasks: the two LightningModules. `ClassificationTask` trains the classifier, `DetectionTask` the MLP detector.

`ResumeCheckpoint` keeps a checkpoint after every epoch from which training goes on exactly.

    >>> import torch
    >>> from lightning_gradood.tasks import ClassificationTask
    >>> task = ClassificationTask(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)))
    >>> task(torch.rand(2, 3, 2, 2)).shape
    torch.Size([2, 3])
"""

from lightning_gradood.networks import MLPSettings
from lightning_gradood.tasks.classification import IMAGENET, ClassificationTask, Normalization, OneCycle, check_network
from lightning_gradood.tasks.detection import DetectionTask, Member, Trained, train_detection
from lightning_gradood.tasks.resuming import ResumeCheckpoint

__all__ = [
    "IMAGENET", "ClassificationTask", "DetectionTask", "MLPSettings", "Member", "Normalization", "OneCycle",
    "ResumeCheckpoint", "Trained", "check_network", "train_detection",
]  # fmt: skip
