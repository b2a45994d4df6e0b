"""Where advertorch cannot be imported: what needs it is refused in a sentence, all else works."""

import subprocess
import sys

SCRIPT = """
import sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "advertorch":
            raise AttributeError("torch has no such function any more")

sys.meta_path.insert(0, Broken())
import torch
from torch import nn
from lightning_gradood.attacks import BIM, FGSM, PGD, AdvertorchAttack, CarliniWagner, FunctionAttack, IterLL, Semantic
from lightning_gradood.core import Refusal
from lightning_gradood.corruptions import Corruption

images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
assert torch.equal(Semantic().perturb(network, images, labels).images, 1 - images)
assert Corruption("brightness", 3).perturb(network, images, labels).images.shape == images.shape
for make in (FGSM, BIM, PGD, IterLL, CarliniWagner, lambda: AdvertorchAttack("advertorch.attacks.MomentumIterativeAttack")):
    try:
        make()
    except Refusal as refusal:
        print(refusal)
"""


def test_only_the_attacks_that_need_it_are_refused():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    for line in lines:
        assert line.startswith(
            "FGSM, BIM, PGD, IterLL, C&W and AdvertorchAttack need advertorch 0.2.3. Got, with torch "
        )
        assert line.endswith(
            "AttributeError: torch has no such function any more. Install the torch of constraints.txt; all other attacks and "
            "corruptions work."
        )
