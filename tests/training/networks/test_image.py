"""Image networks against published shapes and outputs, and against their own definitions."""

import copy
import json

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.helpers import CONFORMANCE, conformance, fill_weights, random_basis
from training.network_file import build, network_from_dict, network_to_dict
from training.networks.image import IMAGE_NETWORKS, PRESETS, DhariwalUNet, SongUNet
from training.networks.layers import ResampledConv2d, image_attention

NCSNPP = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
VARIANTS = {
    "ddpmpp": (SongUNet, {}),
    "ncsnpp": (SongUNet, NCSNPP),
    "skips": (SongUNet, {"encoder_type": "skip", "decoder_type": "skip"}),
    "adm": (DhariwalUNet, {"model_channels": 32}),
}
all_variants = pytest.mark.parametrize("variant", VARIANTS)


def published(name):
    """A published network with the conformance weights, and the arrays of its file."""
    with np.load(CONFORMANCE / f"net_{name}.npz") as data:
        config = json.loads(str(data["config"]))
    salt, kind = config.pop("salt"), config.pop("model_type")
    _, arrays = conformance(f"net_{name}")
    return fill_weights(IMAGE_NETWORKS[kind](**config), salt).eval(), arrays


@torch.no_grad()
def small(variant="ddpmpp", **kwargs):
    """A small network in evaluation mode whose last layers are random too, not (almost) zero."""
    network, settings = VARIANTS[variant]
    base = {
        "model_channels": 16,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
        "augment_dim": 9,
        "dropout": 0.0,
    }
    net = network(8, 3, 3, **{**base, **settings, **kwargs})
    draw = torch.Generator().manual_seed(0)
    for p in net.parameters():
        std = p[0].numel() ** -0.5 if p.dim() > 1 else 0.1
        p.copy_(std * torch.randn(p.shape, generator=draw) + (p if p.dim() == 1 else 0))
    return net.eval()


def batch(n=4):
    """Images, and noise labels over the whole range that flows use."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((n, 3, 8, 8))).float()
    return x, torch.tensor([0.0, 1.3, 300.0, 7001.7])[:n]


# Published numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ddpmpp", "ncsnpp", "adm"])
def test_parameter_names_and_shapes_are_the_published_ones(name):
    shapes = json.loads((CONFORMANCE / "image_state_dict_shapes.json").read_text())
    network, _ = published(name)
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == shapes[name]


@pytest.mark.parametrize("name", ["ddpmpp", "ncsnpp", "adm"])
@torch.no_grad()
def test_published_outputs(name):
    net, a = published(name)
    labels = a["labels"] if a["labels"].numel() else None
    augment = a["augment_labels"].float() if a["augment_labels"].numel() else None
    # The published float32 outputs are up to 1e-4 from what the same weights give in float64, and
    # adm's float32 is as far again on some processors (2.4e-4 with AVX-512).
    for dtype, atol in ((torch.float64, 1.5e-4), (torch.float32, 4e-4)):
        net, x = net.to(dtype), a["x"].to(dtype)
        for extra, wanted in ((None, a["F"]), (augment, a["F_aug"])):
            F = net(x, a["noise_labels"], labels, None if extra is None else extra.to(dtype))
            torch.testing.assert_close(F.float(), wanted, rtol=1e-4, atol=atol)


@pytest.mark.parametrize(
    ("preset", "millions", "data"),
    [
        ("ddpmpp", 55.7, {"img_resolution": 32}),
        ("ncsnpp", 56.4, {"img_resolution": 32}),
        ("adm", 295.9, {"img_resolution": 64, "label_dim": 1000}),
    ],
)
def test_presets_have_the_published_sizes(preset, millions, data):
    network = PRESETS[preset]
    with torch.device("meta"):
        net = IMAGE_NETWORKS[network["class"]](
            in_channels=3, out_channels=3, **data, **network["kwargs"]
        )
    count = sum(p.numel() for p in net.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


# Labels ----------------------------------------------------------------------------------------


@all_variants
@torch.no_grad()
def test_class_labels(variant):
    net = small(variant, label_dim=3, label_dropout=1.0)
    x, t = batch()
    labels = torch.eye(3)[[0, 1, 2, 0]]
    given, none = net(x, t, labels), net(x, t)
    assert float((given - none).abs().amax(dim=(1, 2, 3)).min()) > 1e-4
    torch.testing.assert_close(none, net(x, t, torch.zeros(4, 3)), rtol=0, atol=0)
    torch.testing.assert_close(given[3:], net(x[3:], t[3:], labels[:1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.train()(x, t, labels), none, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_label_dropout_hides_some_samples_labels():
    net = small(label_dim=3, label_dropout=0.25).train()
    x, t = batch(1)
    x, t = x.expand(400, -1, -1, -1), t.expand(400)
    labels = torch.eye(3)[:1].expand(400, -1)
    out = net(x, t, labels)
    hidden = (out - net(x, t)).abs().amax(dim=(1, 2, 3)) < 1e-5
    kept = (out - net.eval()(x, t, labels)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert bool((hidden ^ kept).all())
    assert 0.15 < float(hidden.float().mean()) < 0.35  # 4.6 standard errors


@torch.no_grad()
def test_song_class_labels_enter_beside_augment_labels_times_root_label_dim():
    net = small(label_dim=4)
    net.map_augment.weight[:, :4] = 2 * net.map_label.weight
    x, t = batch()
    labels = torch.eye(4)[[3, 1, 2, 0]]
    as_augment = net(x, t, None, torch.nn.functional.pad(labels, (0, 5)))
    torch.testing.assert_close(net(x, t, labels), as_augment, rtol=1e-4, atol=1e-5)


@all_variants
@torch.no_grad()
def test_augment_labels(variant):
    net = small(variant)
    x, t = batch()
    plain = net(x, t)
    augmented = net(x, t, None, torch.ones(4, 9))
    assert float((augmented - plain).abs().amax(dim=(1, 2, 3)).min()) > 1e-4
    torch.testing.assert_close(net(x, t, None, torch.zeros(4, 9)), plain, rtol=0, atol=0)


# Numbers ---------------------------------------------------------------------------------------


@all_variants
@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
@torch.no_grad()
def test_half_precision(variant, dtype, close):
    """Relative rms errors of 4 to 8 roundings; labels of 7,000 must keep their phase."""
    net = small(variant)
    x, t = batch()
    exact = net(x, t)
    half = copy.deepcopy(net).to(dtype)(x.to(dtype), t)
    assert half.dtype == dtype
    error = (half.float() - exact).square().mean(dim=(1, 2, 3)).sqrt()
    assert float((error / exact.square().mean(dim=(1, 2, 3)).sqrt()).max()) < close


@all_variants
def test_gradients_are_finite_and_reach_every_parameter(variant):
    net = small(variant, label_dim=3, dropout=0.1).train()
    x, t = batch()
    net(x, t, torch.eye(3)[[0, 1, 2, 0]], torch.ones(4, 9)).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.isfinite().all()), name
        assert float(p.grad.abs().max()) > 0, name


@all_variants
def test_higher_and_forward_derivatives_without_fused_attention(variant):
    net = small(variant).double()
    x, t = (v.double()[:2] for v in batch())
    v, w = torch.randn(2, *x.shape, dtype=x.dtype)
    with sdpa_kernel(SDPBackend.MATH):
        _, Jv = torch.func.jvp(lambda z: net(z, t), (x,), (v,))
        z = x.clone().requires_grad_()
        (wJ,) = torch.autograd.grad((net(z, t) * w).sum(), z, create_graph=True)
        torch.testing.assert_close((wJ * v).sum(), (Jv * w).sum())
        (second,) = torch.autograd.grad((wJ * v).sum(), z)
        h = 1e-5
        moved = [torch.func.vjp(lambda z: net(z, t), x + s * v)[1](w)[0] for s in (h, -h)]
    along = (second * v).sum()
    finite = ((moved[0] - moved[1]) * v).sum() / (2 * h)
    torch.testing.assert_close(along, finite, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_attention_is_a_softmax_over_pixels(heads, layout):
    qkv = torch.randn(2, 24, 3, 5).to(memory_format=layout)
    out = image_attention(qkv, heads)
    q, k, v = qkv.reshape(2, heads, 8 // heads, 3, 15).unbind(3)
    logits = torch.einsum("nhcq,nhck->nhqk", q, k) / (8 // heads) ** 0.5
    expected = torch.einsum("nhqk,nhck->nhcq", logits.softmax(dim=-1), v)
    torch.testing.assert_close(out, expected.reshape(2, 8, 3, 5), rtol=1e-4, atol=1e-6)
    assert out.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
@torch.no_grad()
def test_resampling(taps):
    x = torch.randn(2, 3, 8, 8)
    shrunk = ResampledConv2d(3, 3, 0, "down", taps)(x)
    grown = ResampledConv2d(3, 3, 0, "up", taps)(x)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    if taps == (1, 1):
        torch.testing.assert_close(shrunk, torch.nn.functional.avg_pool2d(x, 2))
        torch.testing.assert_close(grown, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    else:  # away from the border the long filter interpolates linearly
        linear = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
        torch.testing.assert_close(grown[inner], linear[inner])
    # A kernel that picks the centre makes fused and plain shrinking the same, but at the border.
    fused = ResampledConv2d(3, 3, 3, "down", taps, fused=True)
    fused.weight.copy_(torch.zeros(3, 3, 3, 3))
    fused.weight[range(3), range(3), 1, 1] = 1.0
    fused.bias.zero_()
    torch.testing.assert_close(fused(x), shrunk)


@torch.no_grad()
def test_skip_decoder_adds_images_of_every_resolution():
    """Without the finest layer only a 4 x 4 image is left, grown by the box filter."""
    net = small("skips")
    x, t = batch()
    net.dec["8x8_aux_conv"].weight.zero_()
    net.dec["8x8_aux_conv"].bias.zero_()
    out = net(x, t)
    coarse = out[:, :, ::2, ::2]
    assert float(coarse.std()) > 1e-3
    torch.testing.assert_close(out, coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))


@torch.no_grad()
def test_skip_encoder_shows_the_shrunk_input_to_every_resolution():
    """Without the first layer's weights the auxiliary path alone carries the input, shrunk."""
    net = small("skips")
    x, t = batch()
    net.enc["8x8_conv"].weight.zero_()
    out = net(x, t)
    checkerboard = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).tile(4, 4)  # averages to zero
    torch.testing.assert_close(net(x + checkerboard, t), out, rtol=1e-4, atol=1e-5)
    assert float((net(x + 1, t) - out).abs().max()) > 1e-3


# Use -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "most"), [("ddpmpp", 1e-2), ("ncsnpp", 1e-2), ("adm", 0.0)])
@torch.no_grad()
def test_new_networks_start_near_zero(variant, most):
    network, settings = VARIANTS[variant]
    torch.manual_seed(0)
    net = network(8, 3, 3, **{"model_channels": 16, "channel_mult": [1, 2], **settings})
    assert float(net(*batch()).abs().max()) <= most
    inner = [p for name, p in net.named_parameters() if name.endswith("conv0.weight")]
    assert all(float(p.std()) > 1e-3 for p in inner)


@all_variants
@torch.no_grad()
def test_channels_last_goes_through(variant):
    net = small(variant)
    x, t = batch()
    out = net(x, t)
    last = torch.channels_last
    ours = net.to(memory_format=last)(x.to(memory_format=last), t)
    assert ours.is_contiguous(memory_format=last)
    torch.testing.assert_close(ours, out, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["ncsnpp", "adm"])
@torch.no_grad()
def test_compiles_as_one_graph(variant):
    net = small(variant, label_dim=3, label_dropout=0.1)
    x, t = batch()
    labels, augment = torch.eye(3)[[0, 1, 2, 0]], torch.ones(4, 9)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    out = net(x, t, labels, augment)
    torch.testing.assert_close(compiled(x, t, labels, augment), out)


@all_variants
@torch.no_grad()
def test_network_files_restore_image_networks(variant):
    network, settings = VARIANTS[variant]
    kwargs = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, **settings}
    kwargs |= {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1}
    spec = {"class": network.__name__, "kwargs": kwargs}
    basis = random_basis(np.linspace(2, 0.1, 192).tolist())
    precond = {"space": "IS", "shape": [3, 8, 8]}
    model = build(spec, {"dims_to_keep": 192}, basis, precond).eval()
    fill_weights(model.model)
    restored, _ = network_from_dict(network_to_dict(model, spec, {}))
    u, t = torch.randn(2, 192), torch.tensor([0.5, 3.0])
    torch.testing.assert_close(restored.eval()(u, t), model(u, t), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"embedding_type": "sine"}, "embedding_type='sine'"),
        ({"encoder_type": "deep"}, "encoder_type='deep'"),
        ({"decoder_type": "residual"}, "decoder_type='residual'"),
        ({"channel_mult": [1, 1, 1, 1, 1]}, "img_resolution=8"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SongUNet(8, 3, 3, model_channels=16, **kwargs)
