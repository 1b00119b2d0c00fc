"""Dropout masks by sample and layer: SplitMix64, and nothing of the batch."""

import copy
import math

import numpy as np
import pytest
import torch

from torch_utils import philox
from training.networks.dropout import dropout, kept, split_mix
from training.networks.image import DhariwalUNet, SongUNet

KEYS = philox.words(0, "dropout", 0, 1500, 1)[:, 0]


def test_known_answer():
    """The first words for the seed 1234567, as of the generator's C code (Vigna)."""
    words = split_mix(torch.tensor([1234567]), 0, 5)[0].numpy().view(np.uint64)
    assert words.tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
        16408922859458223821,
    ]  # fmt: skip
    assert np.array_equal(split_mix(torch.tensor([1234567]), 2, 3)[0].numpy().view(np.uint64),
                          words[2:])  # fmt: skip


@pytest.mark.parametrize("p", [0.02, 0.13, 0.5, 0.9])
def test_each_element_is_dropped_as_often_as_said(p):
    keep = kept(KEYS, 3, 403, p).double()
    z = math.sqrt(len(KEYS) / (p * (1 - p)))
    assert abs(float(keep.mean()) - (1 - p)) * z * math.sqrt(403) < 4.5
    assert float((keep.mean(0) - (1 - p)).abs().max()) * z < 5
    others = [kept(KEYS, 4, 403, p).double(), kept(KEYS.roll(1), 3, 403, p).double()]
    others += [keep.roll(k, 1) for k in (1, 2, 3, 4, 8)]
    for other in others:  # no two layers, samples or elements drop together
        corr = float(((keep - 1 + p) * (other - 1 + p)).mean()) / (p * (1 - p))
        assert abs(corr) * math.sqrt(keep.numel()) < 4.5


def test_what_stays_has_the_mean_of_all():
    x = torch.ones(500, 8, 6, 6, requires_grad=True)
    y = dropout(x, 0.13, KEYS[:500], 0)
    assert float(y.detach().mean()) == pytest.approx(1, abs=4 * math.sqrt(0.13 / 0.87 / y.numel()))
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert torch.equal(dropout(x[7:9], 0.13, KEYS[7:9], 0), y[7:9])
    assert torch.equal(dropout(x.to(memory_format=torch.channels_last), 0.13, KEYS[:500], 0), y)


@pytest.mark.parametrize("cls", [SongUNet, DhariwalUNet])
def test_networks_drop_by_sample_alone(cls):
    """A sample's output is the same in any batch; without keys it is not."""
    size = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "label_dim": 2}
    size |= {"model_channels": 32, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    torch.manual_seed(0)
    net = cls(**size, dropout=0.5, label_dropout=0.5).train()
    for parameter in net.parameters():  # no layer that starts at zero
        torch.nn.init.normal_(parameter, std=0.2)
    numbers = [m.number for m in net.modules() if hasattr(m, "number")]
    assert sorted(numbers) == list(range(len(numbers)))
    x, t, labels = torch.randn(6, 3, 8, 8), torch.rand(6), torch.eye(2)[[0, 1, 0, 1, 0, 1]]
    with torch.no_grad():
        whole = net(x, t, labels, dropout_keys=KEYS[:6])
        parts = [net(x[i], t[i], labels[i], dropout_keys=KEYS[i]) for i in (slice(0, 4), [4], [5])]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-4)
        other = net(x, t, labels, dropout_keys=KEYS[6:12])
        plain = copy.deepcopy(net).eval()(x, t, labels)
        drawn = [net(x, t, labels) for _ in range(2)]
    for a, b in ((whole, other), (whole, plain), drawn):
        assert float((a - b).abs().mean()) > 1e-2


@pytest.mark.slow
def test_compiled_masks_are_the_same():
    x, keys = torch.randn(6, 8, 5, 5), KEYS[:6]
    found = torch.compile(lambda x, k: [dropout(x, 0.3, k, layer) for layer in (0, 1, 60)])(x, keys)
    for layer, y in zip((0, 1, 60), found, strict=True):
        torch.testing.assert_close(y, dropout(x, 0.3, keys, layer))
