"""Likelihood of data under a flow: nats of vectors, bits a dimension of images."""

from __future__ import annotations

from dataclasses import replace

import dnnlib  # noqa: F401  (before torch)

# isort: split
from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import takes
from experiments.density.run import NetOptions, ToyOptions, check, run_images, run_toys
from flow.dequantization import IMAGE_HALF_WIDTH, dequantization
from flow.flow import open_flow
from flow.images import Drawn, check_class, open_data, open_network
from flow.toys import how_many, network_source
from torch_utils import distributed

TOYS_EXAMPLE = """
python calc_nll.py toys --save_dir=out/nll --network=out --data_name=circles
"""
NET_EXAMPLE = """
python calc_nll.py net --save_dir=out/nll --network=out --data_root=datasets/digits-8x8.zip
"""


@cli.group()
def main() -> None:
    """Likelihood of data under a flow: nats of vectors, bits a dimension of images."""


@cli.subcommand(main, TOYS_EXAMPLE)
@takes(ToyOptions)
def toys(options: ToyOptions) -> None:
    """Likelihood of toy data or of your own vectors.

    Writes {data}_{schedule}_nll.json, .npz (log_prob, latents, points), _latents.png and, in one
    or two dimensions, _density.png.
    """
    flow = open_flow(options)
    source = network_source(flow, options)
    options = replace(options, total_samples=how_many(source, options.total_samples))
    check(flow, options)
    with distributed.session(options.device):
        run_toys(flow, source, options)


@cli.subcommand(main, NET_EXAMPLE)
@takes(NetOptions)
def net(options: NetOptions) -> None:
    """Likelihood of images, in bits a dimension.

    Writes {data}_{schedule}_nll.json, .npz (log_prob and latents of each image, indices),
    _values.png and _latents.png. After an interruption the same command goes on.
    """
    flow, name = open_network(options)
    check_class(flow, options.class_)
    source = open_data(flow, options.data_root)
    check(flow, options)
    q = None
    if options.dequantization != "none":
        with cli.user_errors("--dequantization"):
            q = dequantization(flow, options.dequantization, IMAGE_HALF_WIDTH)
    elif options.num_importance > 1:
        raise UserError(
            f"--num_importance={options.num_importance} averages over dequantization, and "
            "--dequantization=none has none: leave one of them out"
        )
    with distributed.session(options.device):
        wanted, option = options.total_samples, "--total_samples"
        images = Drawn.most(flow, source, options.seed, wanted, option)
        run_images(images, q, replace(options, data_name=name, bs=flow.block))


if __name__ == "__main__":
    main()
