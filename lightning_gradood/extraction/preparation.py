"""Before images are read: a trial on a few, and what probes learn from training images, once for all processes."""

from collections.abc import Generator, Sequence
from contextlib import closing, suppress

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_gradood.core import NotFinite, Refusal, as_float, generator_states, progress, restore_generators
from lightning_gradood.data import ImageDataModule
from lightning_gradood.extraction.plan import Plan, make_plan
from lightning_gradood.networks import TwoLogits
from lightning_gradood.probes import GradientProbe, Probe, read_probes
from lightning_gradood.records import RecordCache, StateStore, entry_key


def with_two_logits(network: nn.Module) -> nn.Module:
    """A network with one logit as `TwoLogits`."""
    return network if isinstance(network, TwoLogits) else TwoLogits(network)


def try_probes(probes: Sequence[Probe], network: nn.Module, images: Tensor, outputs: int) -> None:
    """Read a few images, float [N, C, H, W] on the network's device, to refuse an unfit network before long work.

    Probes that need training images are left out, and gradient probes too, which compare their formulas with autograd
    in their first batch. Network and random generators are restored. With one of `outputs` the network is taken as
    `TwoLogits`.

    Raises:
        Refusal: a probe does not fit the network.
    """
    ready = [probe for probe in probes if not probe.needs_preparation and not isinstance(probe, GradientProbe)]
    generators = generator_states()
    try:
        with suppress(NotFinite):  # handled where all images are read
            read_probes(ready, with_two_logits(network) if outputs == 1 else network, images)
    finally:
        restore_generators(generators)


def refuse_without_training_images(probes: Sequence[Probe], datamodule: ImageDataModule) -> None:
    """Refuse probes that need the training images where none are named."""
    needy = [probe.name for probe in probes if probe.needs_preparation]
    if needy and datamodule.train is None:
        raise Refusal(
            f"`data.train` should name the classifier's training images, as {', '.join(needy)} must be fitted on them. "
            "Got `data.train = None`. Give `data.train`, or leave out the detectors that read this."
        )


def preparation_key(probe: Probe, plan: Plan) -> str:
    """Digest of the probe, the network with its weights, and the training images."""
    return entry_key(
        {
            "prepared": probe.describe_preparation(),
            "images": plan.training_images,
            "weights": plan.weights,
            "network": plan.structure,
        }
    )


def prepare(
    probes: Sequence[Probe],
    network: nn.Module,
    data: ImageDataModule,
    plan: Plan,
    store: StateStore,
    trainer: pl.Trainer,
) -> None:
    """Load into each probe what it learnt from the training images; the first process learns what is not stored."""
    for probe in probes:
        key = preparation_key(probe, plan)
        if trainer.is_global_zero:
            store.mend(key)
        if trainer.is_global_zero and not store.has(key):
            with closing(_batches(data, network, probe.name)) as batches:  # ends the bar's line before a refusal
                store.write(key, probe.prepare(network, batches))
        trainer.strategy.barrier(f"prepared {probe.name}")
        probe.load(store.read(key))


def prepared_states(
    probes: Sequence[Probe], network: nn.Module, data: ImageDataModule, cache: RecordCache, trainer: pl.Trainer
) -> dict[str, dict[str, Tensor]]:
    """What probes learn from the training images, by probe name; read from the cache where it is stored."""
    if not probes:
        return {}
    plan, store = make_plan(network, data, probes, cache), StateStore(cache.folder)
    prepare(probes, network, data, plan, store, trainer)
    return {probe.name: store.read(preparation_key(probe, plan)) for probe in probes}


def _batches(data: ImageDataModule, network: nn.Module, name: str) -> Generator[tuple[Tensor, Tensor]]:
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    loader = data.preparation_dataloader()
    for images, labels, _ in progress(loader, f"preparing {name}", len(loader), "batches"):
        yield as_float(images.to(device)), labels.to(device)
