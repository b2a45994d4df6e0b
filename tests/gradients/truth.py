"""The independent judge: torch's own losses, one image at a time, plain backward; nothing of the package's."""

import copy

import torch
import torch.nn.functional as F


def all_ones(logits):
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def all_zeros(logits):
    return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))


def k_hot(*classes):
    def loss(logits):
        label = torch.zeros_like(logits)
        label[:, list(classes)] = 1
        return F.binary_cross_entropy_with_logits(logits, label)

    return loss


def predicted(logits):
    return F.cross_entropy(logits, logits.argmax(1))


def uniform(logits):
    return F.cross_entropy(logits, torch.full_like(logits, 1 / logits.shape[1]))


def second_best(logits):
    return F.cross_entropy(logits, logits.argsort(1)[:, -2])


def gradients(network, image, loss=all_ones):
    """One image's gradient of every parameter behind two copies of it, as torch's batch norm is wrong for batches of one."""
    network = copy.deepcopy(network).requires_grad_(True)
    loss(network(torch.cat([image, image]))[:1]).backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]


def pair_norms(network, images, loss=all_ones):
    """float64 [N, L], the squared norms of `gradients`."""
    rows = [[float(g.double().square().sum()) for g in gradients(network, image, loss)] for image in images.split(1)]
    return torch.tensor(rows, dtype=torch.float64)


def true_norms(network, images, loss=all_ones):
    """float64 [N, L], by `loss.backward()` on each image alone."""
    return _norms(network, (lambda image=image: loss(network(image[None])) for image in images))


def norms_behind_one_forward(network, images):
    """float64 [N, L], image n's loss backpropagated alone, but through one forward pass of all: a batch's rounding."""
    logits = network(images)
    return _norms(network, (lambda row=row: all_ones(row) for row in logits.split(1)))


def _norms(network, losses):
    rows, flags = [], [parameter.requires_grad for parameter in network.parameters()]
    network.requires_grad_(True)
    for loss in losses:
        network.zero_grad()
        loss().backward(retain_graph=True)
        norms = [0.0 if p.grad is None else float(p.grad.double().square().sum()) for p in network.parameters()]
        rows.append(norms)
    network.zero_grad()
    for parameter, flag in zip(network.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
    return torch.tensor(rows, dtype=torch.float64)


def excess(found, truth):
    """Where |a − b| ≤ 1e-10·b + 1e-20·max b, the float64 contract of `squared_gradient_norms`, fails; empty where it holds."""
    if found.dtype != torch.float64 or found.shape != truth.shape:
        return f"{found.dtype} {list(found.shape)}, not float64 {list(truth.shape)}"
    beyond = ((found - truth).abs() - (1e-10 * truth + 1e-20 * truth.max())).nan_to_num(torch.inf).flatten()
    worst = int(beyond.argmax())
    return f"entry {worst}: {found.flatten()[worst]} for {truth.flatten()[worst]}" if beyond[worst] > 0 else ""


def assert_exact(found, truth):
    assert not (text := excess(found, truth)), text


def assert_none(wrong):
    """No case failed; the message names all that did."""
    assert not {case: text for case, text in wrong.items() if text}
