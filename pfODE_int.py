"""Inflate, round-trip and generate images by the probability-flow ODE."""

from __future__ import annotations

from dataclasses import replace

import dnnlib  # noqa: F401  (before torch)

# isort: split
from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.options import takes
from flow.image_run import ImageFlowOptions, run
from flow.images import check_class, open_data, open_network
from flow.inflation_file import read_melt
from flow.results import check_gen_source
from torch_utils import distributed

EXAMPLE = """
python pfODE_int.py --save_dir=out/flow --network=out --data_root=datasets/digits-8x8.zip --bs=64
python pfODE_int.py --save_dir=out/flow --network=out --sim_type=gen --bs=64 --seed=1
"""


@cli.command(EXAMPLE)
@takes(ImageFlowOptions)
def main(options: ImageFlowOptions) -> None:
    """Inflate, round-trip and generate images by the probability-flow ODE.

    Writes {data_name}_{schedule}_net_{melt,roundtrip,gen}_results.npz, pictures, and all options
    and measured errors in {data_name}_{schedule}_HD_pfODE_int_sim_params.json.
    """
    flow, name = open_network(options)
    number = check_class(flow, options.class_)
    check_gen_source(flow, options)
    melt = None
    if options.prev_melt is not None:
        with cli.user_errors("--prev_melt"):
            melt = read_melt(options.prev_melt, flow)
    check_inputs(options)
    source = open_data(flow, options.data_root) if "melt" in options.kinds else None
    cli.check_writable(options.save_dir, "--save_dir")
    with distributed.session(options.device):
        run(flow, source, melt, replace(options, data_name=name), number)


def check_inputs(options: ImageFlowOptions) -> None:
    """Check that there is something to start from.

    Raises:
        UserError: naming the option that is missing or not meant.
    """
    kinds = options.kinds
    if "melt" in kinds and options.prev_melt is not None:
        raise UserError(
            f"--prev_melt={options.prev_melt}: --sim_type={options.sim_type} makes its own "
            "inflation; leave it out, or use --sim_type=roundtrip or gen"
        )
    if kinds == ("roundtrip",) and options.prev_melt is None:
        raise UserError(
            "--prev_melt is missing: --sim_type=roundtrip starts from an inflation; name its "
            "*_melt_results.npz, or use --sim_type=all"
        )
    if kinds == ("gen",) and options.gen_source != "diag" and options.prev_melt is None:
        raise UserError(
            f"--gen_source={options.gen_source} looks at latents of data: name an inflation "
            "with --prev_melt, or use --sim_type=all"
        )


if __name__ == "__main__":
    main()
