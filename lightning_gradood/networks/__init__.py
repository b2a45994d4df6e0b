"""Classifiers for 32×32 images, the wrapper that takes pixels in [0, 1], and the safe reading of weights.

The networks are the paper's: torchvision's ResNet with a stem for small images, DenseNet-BC-100-12, and the small
ResNet-20 of He et al. Any other `nn.Module` serves as well. `Normalized` puts a network's own pixel statistics inside
it, so that attacks, probes and users work with pixels in [0, 1]. Weights are read without ever executing code, and fit
completely or are refused with the first names that differ::

    >>> import torch
    >>> from lightning_gradood.networks import Normalized, resnet20
    >>> network = Normalized(resnet20(num_classes=10), mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    >>> network(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])

`load_weights(network, "cifar10_resnet20.pt")` then fills it in place. `state_digest` and `architecture` together
identify what a network computes; the cache of records is keyed by them.
"""

from lightning_gradood.networks.architectures import (
    CifarResNet,
    Logits,
    Normalized,
    Outputs,
    TwoLogits,
    classifier,
    densenet_bc_100_12,
    efficientnet_lite0,
    efficientnet_lite2,
    resnet18,
    resnet20,
    resnet34,
    two_logits,
)
from lightning_gradood.networks.by_name import CentreSquare, TrainedNetwork, outputs_of, trained_network
from lightning_gradood.networks.hugging_face_networks import HuggingFaceImages, configuration_of, hugging_face
from lightning_gradood.networks.identity import architecture, state_digest
from lightning_gradood.networks.representation_mlp import MLPSettings, RepresentationMLP, Standardisation
from lightning_gradood.networks.weights import load_weights

__all__ = [
    "CentreSquare", "CifarResNet", "HuggingFaceImages", "Logits", "MLPSettings", "Normalized", "Outputs", "RepresentationMLP",
    "Standardisation", "TrainedNetwork", "TwoLogits", "architecture", "classifier", "configuration_of", "densenet_bc_100_12",
    "efficientnet_lite0", "efficientnet_lite2", "hugging_face", "load_weights", "outputs_of", "resnet18", "resnet20",
    "resnet34", "state_digest", "trained_network", "two_logits",
]  # fmt: skip
