"""The task that trains and evaluates the classifier, its schedules, and what is refused before the first step.

A schedule is any class whose first parameters are the optimizer and the total number of steps; it advances after each.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    ClosedUnitInterval,
    Refusal,
    check_logits_shape,
    first_line,
    frozen_network,
    logits_in,
    refused_as,
)
from lightning_gradood.networks import Outputs, classifier, load_weights, two_logits

_ROUNDING, _SUM = 1e-5, 1e-4  # of two equal computations on a GPU, and of a sum of probabilities
_COPIES = ("ToCopy", "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Clone", "Slice", "Select")  # in autograd


def check_network(network: nn.Module, images: Tensor, classes: int | None) -> int:
    """Run images, float [N, C, H, W], through the network and return the number of its outputs.

    A Refusal if the forward fails, the output is not [N, outputs], is no logits, or is another one in a second call, or
    the data have more `classes`, of which a single output tells two apart; None where their number is unknown.
    """
    try:
        with frozen_network(network), torch.no_grad():
            logits, again = network(images.clone()), network(images.clone())
    except Refusal:
        raise
    except Exception as error:  # a network raises whatever it likes at images that do not fit it
        raise Refusal(
            f"The network should accept images of shape {list(images.shape[1:])}. Got: {first_line(error)}. Give "
            "`data.transform` a resize or channel conversion to the network's input, or the network the images' size and "
            "channels."
        ) from error
    check_logits_shape(logits, len(images))
    logits, again = logits.float(), again.float()
    if ((again - logits).abs() > _ROUNDING * (1 + logits.abs().max())).any():
        raise Refusal(
            "The network should give the same logits for the same images. Got others in a second call, e.g. because dropout "
            "is on in eval mode or a buffer counts calls. Let its output depend on images and weights alone."
        )
    if made := _instead_of_logits(network, images, logits):
        raise Refusal(
            f"The network should give logits. Got outputs of {made}, whose energies, temperatures and gradients mean "
            f"something else. Leave that layer out, or write --model.outputs {made} to take its logarithm back."
        )
    outputs = int(logits.shape[1])
    if classes is not None and classes > max(outputs, 2):
        raise Refusal(
            f"The network should have at least as many outputs as the data have classes, {classes}. Got {outputs} "
            f"outputs. Of a trained network, give images of its own classes alone (others belong into --data.anomalies), or "
            "images without classes, in a flat folder; one that is yet to be trained is built with e.g. "
            f"--model.network.num_classes {classes}."
        )
    return outputs


def _instead_of_logits(network: nn.Module, images: Tensor, outputs: Tensor) -> Outputs | None:
    """What outputs [N, C] are, if they are probabilities or their logarithms."""
    inside, several = bool(((outputs >= 0) & (outputs <= 1)).all()), outputs.shape[1] > 1
    if several and ((outputs.sum(1) - 1).abs() < _SUM).all() and inside:
        return "softmax"
    if several and (outputs.logsumexp(1).abs() < _SUM).all() and (outputs <= 0).all():
        return "log_softmax"
    if not inside:
        return None
    with frozen_network(network):  # logits may lie there as well: what computed them decides
        made = network(images.clone().requires_grad_().clone()).grad_fn
    while made is not None and made.name().startswith(_COPIES):
        made = made.next_functions[0][0]
    return "sigmoid" if made is not None and made.name().startswith("Sigmoid") else None


Batch = tuple[Tensor, ...]  # images [N, C, H, W] in [0, 1], labels int64 [N], then whatever the data adds


@dataclass
class Normalization:
    """Per-channel mean and standard deviation of the training images, pixels in [0, 1], applied inside the network."""

    mean: list[float]
    std: list[float]


IMAGENET = Normalization([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Statistics that most networks for photographs are trained with."""


def sgd(parameters: Any) -> Optimizer:
    """SGD with Nesterov momentum .9, learning rate .1 and weight decay 5e-4."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


class OneCycle(OneCycleLR):
    """Rise to the optimizer's learning rate and anneal to zero over the optimizer steps of the whole training.

    Args:
        warmup: fraction of the steps spent rising.

    Reference:
        Smith and Topin 2018, "Super-Convergence".
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: ClosedUnitInterval = 0.3) -> None:
        peaks = [group["lr"] for group in optimizer.param_groups]
        super().__init__(optimizer, max_lr=peaks, total_steps=total_steps, pct_start=warmup)


class ClassificationTask(LightningModule):
    """Train and evaluate a classifier: cross entropy (binary for one logit), accuracy, any optimizer.

    Logs `train/loss`, `train/accuracy`, `val/loss`, `val/accuracy`, `test/loss` and `test/accuracy`, means over images.

    Args:
        network: images in, logits [N, classes] out; any `nn.Module` or a function that returns one.
        normalize: channel statistics applied inside the network, in Python also as a dict; null for a network that
            normalises by itself; `as_trained` for those that torchvision, timm or Hugging Face name for the network of an
            experiment file, ImageNet's for others.
        weights: file with initial weights of the plain network (state dict, Lightning checkpoint or safetensors).
        weights_prefix: what the names of the network's tensors start with in a file that holds several networks, such
            as `student` or `model_ema`.
        optimizer: factory from parameters to the optimizer; SGD with Nesterov momentum by default.
        scheduler: factory from (optimizer, total steps) to a schedule advanced after each step, e.g. `OneCycle`.
        label_smoothing: as in `torch.nn.functional.cross_entropy`.
        channels_last: keep the network's weights and images in the memory format that is fastest on GPUs.
        outputs: what the network gives; of anything but logits the logarithm is taken back (`networks.Logits`).
    """

    def __init__(
        self,
        network: nn.Module,
        normalize: Normalization | Literal["as_trained"] | None = None,
        weights: str | None = None,
        weights_prefix: str | None = None,
        optimizer: OptimizerCallable = sgd,
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        label_smoothing: ClosedUnitInterval = 0.0,
        channels_last: bool = False,
        outputs: Outputs = "logits",
    ) -> None:
        super().__init__()
        if normalize == "as_trained":
            normalize = IMAGENET
        if isinstance(normalize, Mapping):  # as in experiment files
            normalize = Normalization(**normalize)
        self.network, self.outputs = classifier(network, vars(normalize) if normalize else None, outputs), outputs
        self.normalize, self.weights, self.weights_prefix = normalize, weights, weights_prefix
        self.logits_read: Tensor | None = None
        """What the next `predict_step` returns, where a callback has already read the network for its batch."""
        self._initialised, self._continued = False, dict[str, Any]()
        self.optimizer_factory, self.scheduler_factory = optimizer, scheduler
        self.label_smoothing, self.channels_last = label_smoothing, channels_last
        # with an underscore, as "train" is a method
        self.accuracy = nn.ModuleDict(
            {f"{stage}_": MulticlassAccuracy(average="micro") for stage in ("train", "val", "test")}
        )

    def use_float32(self) -> None:
        """Cast the network to float32, in which it is trained and probed, and print a line if it was not."""
        if any(one.is_floating_point() and one.dtype != torch.float32 for one in self.network.parameters()):
            rank_zero_info("The network is cast to float32, in which it is trained and probed.")
            self.network.float()

    def load_initial_weights(self) -> None:
        """Read the file named by `weights`, once: later calls keep trained weights."""
        self.use_float32()
        if self.weights is not None and not self._initialised:
            with refused_as(path="model.weights"):
                self._load(self.weights, self.weights_prefix)
        self._initialised = True

    def try_optimizer(self, trainer: Any) -> None:
        """Refuse an optimizer or a schedule that cannot be built, and a schedule for a training without an end."""
        if self.scheduler_factory is not None and trainer.max_epochs == -1 and trainer.max_steps == -1:
            raise Refusal(
                "`trainer.max_epochs` should be a number of epochs where `scheduler` is given, which needs to know the end. "
                "Got `trainer.max_epochs = -1`. Write e.g. 40, or `scheduler: null`."
            )
        flag = "model.optimizer"
        try:
            optimizer = self.optimizer_factory([nn.Parameter(torch.ones(2, 2))])
            if self.scheduler_factory is not None:
                flag = "model.scheduler"
                self.scheduler_factory(optimizer, 1000)
        except Exception as error:  # each optimizer has words of its own
            raise Refusal(
                f"`{flag}` should have settings that it can be built with. Got {type(error).__name__}: "
                f"{first_line(error)}. Correct that setting, or leave it out for its default."
            ) from error

    def load_trained_weights(self, path: str) -> None:
        """Read weights that take the place of the initial ones."""
        self.use_float32()
        self._load(path, None if self.weights else self.weights_prefix)
        self._initialised = True

    def _load(self, path: str, prefix: str | None) -> None:
        for note in load_weights(self.network, path, prefix):
            rank_zero_info(note)

    @override
    def setup(self, stage: str) -> None:
        self.load_initial_weights()
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W] in [0, 1]; [0, z] for a network with one logit z."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return two_logits(logits_in(self.network(images)))

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")

    @override
    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        logits, self.logits_read = self.logits_read, None
        return self(batch[0]) if logits is None else logits

    @override
    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        self._continued = {name: checkpoint.get(name, []) for name in ("lr_schedulers", "optimizer_states")}

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory(self.parameters())
        scheduler = None
        if self.scheduler_factory is not None:
            scheduler = self.scheduler_factory(optimizer, int(self.trainer.estimated_stepping_batches))
        refuse_other_schedule(self._continued, optimizer, scheduler, self.trainer.ckpt_path)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _step(self, batch: Batch, stage: str) -> Tensor:
        images, labels, *_ = batch
        logits = self(images)
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        accuracy = cast(MulticlassAccuracy, self.accuracy[f"{stage}_"])
        accuracy(logits.detach(), labels)
        means = partial(self.log, on_step=False, on_epoch=True, batch_size=len(labels))
        means(f"{stage}/loss", loss, sync_dist=True)
        means(f"{stage}/accuracy", accuracy, prog_bar=True)
        return loss


def refuse_other_schedule(
    checkpoint: Mapping[str, Any], optimizer: Optimizer, scheduler: LRScheduler | None, path: object
) -> None:
    """Refuse to continue a run with another schedule or peak, which would take over the state of the first."""
    groups: list[Any] = next((state["param_groups"] for state in checkpoint.get("optimizer_states", [])), [])
    stored = next(iter(checkpoint.get("lr_schedulers", [])), None)
    then = {"learning rates": _rates(groups), "schedule": "none" if stored is None else "one"}
    now = {"learning rates": _rates(optimizer.param_groups), "schedule": "none" if scheduler is None else "one"}
    if stored is not None and scheduler is not None:  # what it was built with, as far as its state holds it
        given = {name for kind in type(scheduler).__mro__ for name in inspect.signature(kind).parameters}
        now |= {name: value for name, value in scheduler.state_dict().items() if name in given and name != "last_epoch"}
    then |= {name: (stored or {}).get(name, "unknown") for name in now.keys() - then.keys()}
    place = f"in `ckpt_path = {path}`"
    differing = [f"{name} {then[name]} {place} and {now[name]} now" for name in now if then[name] != now[name]]
    if groups and differing:
        raise Refusal(
            "`trainer.max_epochs`, `model.scheduler` and `model.optimizer` should be those of the run that is continued, with "
            "as many steps in an epoch: its learning rate follows one schedule to the end. Got "
            f"{', '.join(differing)}. Continue with its settings; or begin a new run from its weights, with a schedule of its "
            f"own, by --model.weights {path} in another --run_dir."
        )


def _rates(groups: Iterable[Mapping[str, Any]]) -> list[float]:
    return [group.get("initial_lr", group["lr"]) for group in groups]
