"""What is proved about the network's gradients, kept beside its records: the next run need not prove it again."""

import hashlib
import json
from contextlib import suppress

import torch
from torch import nn

from lightning_gradood import __version__
from lightning_gradood.errors import Refusal
from lightning_gradood.gradients import adopt_proofs, proofs_of
from lightning_gradood.networks import architecture, state_digest
from lightning_gradood.records import StateStore


class ProofStore:
    """A network's proofs in a store of tensors, under a key of its weights, structure and the versions of the code.

    Made while the network is in the state that is probed, it adopts what an earlier run left.

    Args:
        network: whose gradients are read.
        store: beside the records.
    """

    def __init__(self, network: nn.Module, store: StateStore) -> None:
        self.network, self.store = network, store
        about = [state_digest(network), architecture(network), torch.__version__, __version__]
        self.key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        if store.has(self.key):
            with suppress(Refusal, KeyError, UnicodeDecodeError):  # damaged: it will be proved anew
                self._adopt(bytes(store.read(self.key)["json"].tolist()))

    def keep(self) -> None:
        """Write what is proved by now, if anything is."""
        text = proofs_of(self.network)
        if text is not None:
            self.store.write(self.key, {"json": torch.tensor(list(text.encode()), dtype=torch.uint8)})

    def _adopt(self, text: bytes) -> None:
        adopt_proofs(self.network, text.decode())
