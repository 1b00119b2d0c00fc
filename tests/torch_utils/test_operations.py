"""Counted operations beside those of PyTorch's own counter."""

import subprocess
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers import random_basis
from torch_utils.operations import Operations
from training.networks.image import DhariwalUNet, SongUNet
from training.networks.toy import ToyConvUNet, ToyMLP
from training.precond import InflationPrecond
from training.schedule import Schedule

IMAGES = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "model_channels": 16}
FIRS = {"embedding_type": "fourier", "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]}
NETWORKS = {
    "ddpmpp": lambda: (SongUNet(**IMAGES, attn_resolutions=[4]), (3, 8, 8)),
    "ncsnpp": lambda: (SongUNet(**IMAGES, attn_resolutions=[8], **FIRS), (3, 8, 8)),
    "adm": lambda: (DhariwalUNet(**IMAGES, attn_resolutions=[8]), (3, 8, 8)),
    "toy": lambda: (ToyMLP(2), None),
    "published toy": lambda: (ToyConvUNet(2), None),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_what_is_counted_is_what_pytorch_counts(name):
    network, shape = NETWORKS[name]()
    basis = random_basis(torch.linspace(2, 1, 192 if shape else 2).tolist())
    model = InflationPrecond(network, Schedule(basis.xi, 2), basis, space="IS", shape=shape)
    u, t = torch.zeros(2, len(basis.xi), dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    with FlopCounterMode(display=False) as theirs, sdpa_kernel(SDPBackend.MATH):
        model(u, t)
    with Operations() as ours:
        model(u, t)
    assert ours.total == theirs.get_total_flops() > 0


OPENED = """
import sys
from tests.helpers import random_basis
from training.network_file import build, network_from_dict, network_to_dict
for network, d in (("ToyMLP", 3), ("SongUNet", 192)):
    kwargs = {"in_channels": 3} if d == 3 else dict(
        in_channels=3, out_channels=3, img_resolution=8, model_channels=16)
    made = {"class": network, "kwargs": kwargs}
    precond = {"space": "ES", "shape": None if d == 3 else [3, 8, 8]}
    basis = random_basis([1.0] * d)
    model = build(made, {"dims_to_keep": 2, "tmax": 5.0}, basis, precond)
    network_from_dict(network_to_dict(model, made, {}))[0].operations(1)
print(sorted({"torch._dynamo", "sympy"} & sys.modules.keys()))
"""


def test_opening_a_network_does_not_import_the_compiler():
    """That takes 2 seconds, at the start of every command."""
    found = subprocess.run(
        [sys.executable, "-c", OPENED], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["[]"]
