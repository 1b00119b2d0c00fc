"""Posteriors of your own measurements, with the flow of the data as prior."""

from __future__ import annotations

from dnnlib import cli
from dnnlib.options import takes
from experiments.inference.observations import read
from experiments.inference.options import InferenceOptions
from experiments.inference.run import draw, facts_of, finish, posteriors_of
from flow.flow import open_flow
from flow.inference.diagnostics import arviz
from flow.inference.posterior import compressed, settings_of
from torch_utils import distributed, work

EXAMPLE = """
python calc_posterior.py --network=out/wine --observations=incomplete.csv --noise=0.1 \\
    --outdir=out/imputed
torchrun --nproc_per_node=2 calc_posterior.py --network=out/digits --image=digits.zip --mask=top \\
    --noise=0.1 --outdir=out/halves
"""


@cli.command(EXAMPLE)
@takes(InferenceOptions)
def main(options: InferenceOptions) -> None:
    """Posteriors of your own measurements, with the flow of the data as prior.

    Writes draws.npz, posterior.nc (for arviz), summary.json and pictures. After an interruption the
    same command goes on.
    """
    folder = cli.check_writable(options.outdir, "--outdir")
    flow = open_flow(options)
    seen = read(flow, options)
    with cli.user_errors():
        arviz()
        posteriors_of(flow, seen, range(len(seen.models)), options)
        sampler = settings_of(options.method, options.n, flow.images, options.settings())
    with distributed.session(options.device):
        distributed.print0(f"{seen.said}; {options.n} draws of each by {sampler}")
        for note in compressed(flow):
            distributed.print0(f"Note: {note}")
        if options.dry_run:
            return
        facts = facts_of(options) | {work.NETWORK: flow.digest, "measured": work.digest(seen.y)}
        if work.begin(folder, facts, options.resume):
            distributed.print0(f"{folder} holds this run's results: nothing left to do")
            return
        with cli.user_errors():
            found = draw(flow, seen, options, folder)
            if found is None:
                return
            finish(flow, found, seen, options, folder)
        work.finish(folder, facts)
        print(f"Results: {folder}", flush=True)


if __name__ == "__main__":
    main()
