"""What memory does not suffice for is done in smaller portions; float64 is computed where it exists."""

import platform
from pathlib import Path

import pytest
import torch

from lightning_gradood.core import Portions, Refusal, devices, give_back_memory
from lightning_gradood.gradients import AllOnes, Uniform, squared_gradient_norms
from tests.gradients.toys import make, pictures

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")


def work_that_fits(most, error, seen):
    def work(rows):
        seen.append(rows.stop - rows.start)
        if seen[-1] > most:
            raise error
        return list(range(rows.start, rows.stop))

    return work


def test_every_row_is_done_once_and_in_order(capsys):
    for error, number in ((CUDA, 1), (CUDA, 64), (CPU, 7), (MemoryError(), 4)):
        seen, portions = [], Portions()
        parts = portions.run(work_that_fits(3, error, seen), number)
        assert [row for part in parts for row in part] == list(range(number))
        assert ("Out of memory with " in capsys.readouterr().err) == (number > 3)
        seen.clear()
        portions.run(work_that_fits(3, error, seen), number)
        assert max(seen) <= 3, "what did not fit is not tried again"


def test_one_row_that_does_not_fit_is_refused_and_other_errors_pass_on():
    words = r"one image at a time\. Got: CUDA out of memory\. Tried to allocate 2\.00 GiB\. End"
    with pytest.raises(Refusal, match=words):
        Portions().run(work_that_fits(0, CUDA, []), 8)
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")):
        with pytest.raises(type(error)):
            Portions().run(work_that_fits(0, error, []), 8)
    with pytest.raises(Refusal, match="one image at a time"):
        Portions().run(lambda rows: torch.empty(2**58), 2)


def test_what_is_summed_in_float64_goes_to_the_cpu_first(monkeypatch):
    """The CPU plays the device."""
    network, images = make("residual", torch.float32), pictures(4, torch.float32)
    normal = squared_gradient_norms(network, images, [AllOnes(), Uniform()])
    journeys = []
    monkeypatch.setattr(devices, "_WITHOUT_FLOAT64", {"cpu"})
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: (journeys.append(tensor.shape), tensor.clone())[1])
    for number in (4, 1):
        found = squared_gradient_norms(network, images[:number], [AllOnes(), Uniform()])
        torch.testing.assert_close(found, normal[:number], rtol=1e-4, atol=0)
    logits, parameters = (4, 5), {parameter.shape for parameter in network.parameters()}
    assert logits in journeys
    assert parameters <= set(journeys), "the loop's gradients, one image at a time"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has a heap of another kind")
def test_blocks_freed_between_records_that_stay_are_given_back():
    def resident_mib():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024

    blocks = [b"x" * 50_000 for _ in range(6000)]
    del blocks[::2]
    before = resident_mib()
    give_back_memory()
    assert resident_mib() < before - len(blocks) // 30
