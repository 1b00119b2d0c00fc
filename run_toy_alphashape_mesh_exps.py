"""Coverage of spheres in the latent, after generation and back; held-out data in the latent."""

from __future__ import annotations

from dnnlib import cli
from dnnlib.options import takes
from experiments.coverage.run import TOLERANCE, CoverageOptions, check, data, held_out_rows, run
from flow.flow import open_flow
from flow.method import fallback_tmax, pilots_of, toy_method
from flow.toys import how_many, network_source
from torch_utils import distributed

EXAMPLE = """
python run_toy_alphashape_mesh_exps.py --network=out --save_dir=toy_mesh_exps-tmp
python run_toy_alphashape_mesh_exps.py --network=out --save_dir=tmp --boundary=alphashape
python run_toy_alphashape_mesh_exps.py --network=out --save_dir=tmp --experiment=data
"""


@cli.command(EXAMPLE)
@takes(CoverageOptions)
def main(options: CoverageOptions) -> None:
    """Measure coverage: the share of latents within spheres of given Mahalanobis radii.

    It is counted in the latent, after generation, and after inflating back, and compared with the
    chi-square distribution. Writes {data}_{schedule}_coverages_{latent,gen,roundtrip}.json,
    ..._coverages.npz, of alpha shapes in three dimensions ..._{stage}_r{radius}.ply, and pictures.
    After an interruption the same command goes on. --experiment=data inflates held-out data
    instead, says PASS or FAIL, and writes ..._held_out.json, .npz and .png.
    """
    flow = open_flow(options, fallback_tmax(options))
    source = network_source(flow, options)
    check(flow, options)
    count = how_many(source, pilots_of(options.test_pts * options.num_seeds))
    pilots = source.samples(options.seed, 0, count)
    with distributed.session(options.device):
        pilots = flow.to_whitened(pilots, 0.0, "unscaled")
        method, options = toy_method(flow, lambda: pilots, options, TOLERANCE)
        name = source.description()["name"]
        if options.experiment == "data":
            data(flow, method, name, held_out_rows(flow, source, options), options)
        else:
            run(flow, method, name, options)


if __name__ == "__main__":
    main()
