"""A run of calc_posterior.py: draws of every observation, over all ranks, and a summary."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnnlib.results import Measured, enclosed
from dnnlib.util import Json, aligned, atomic_path, write_json
from experiments.inference import plots
from experiments.inference.observations import Observations
from experiments.inference.options import InferenceOptions
from flow.flow import Flow
from flow.inference.diagnostics import arviz, inference_data
from flow.inference.posterior import Draws, Posteriors, compressed
from flow.results import document, save_results
from torch_utils.work import NETWORK, STATE, Parts, compute

NOT_FACTS = ("outdir", "network", "device")
TOGETHER = 4  # observations of vectors sampled together
PATH = 256  # temperatures or rounds that are kept of an observation
QUANTILES = (0.025, 0.05, 0.5, 0.95, 0.975)
TOLD = 64  # values of a datum that summary.json has numbers of; the .npz has all
FEW = 100  # effective draws below which there is a warning
CONVERGED = 1.01  # largest R-hat without a warning


def facts_of(options: InferenceOptions) -> Json:
    """The options that say what the results are."""
    return {k: v for k, v in options.record().items() if k not in NOT_FACTS}


def posteriors_of(
    flow: Flow, seen: Observations, rows: range, options: InferenceOptions
) -> Posteriors:
    """The posteriors of some observations."""
    labels = None if options.class_ is None else [options.class_] * len(rows)
    return Posteriors(flow, [seen.models[i] for i in rows], labels, **options.how())


def draw(
    flow: Flow, seen: Observations, options: InferenceOptions, folder: Path
) -> dict[str, np.ndarray] | None:
    """Draws of all observations, computed by all ranks; on rank 0.

    Returns:
        name -> [observations, ...]: x and z [draws, d], log_evidence, effective, path,
        evaluations; of hmc also chains_x, chains_z [chains, draws, d].
    """
    identity = {"facts": facts_of(options), "y": seen.y, NETWORK: flow.digest}

    def work(rows: range) -> dict[str, Tensor]:
        posteriors = posteriors_of(flow, seen, rows, options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is in the notes
            found = posteriors.sample(
                options.n, options.seed, options.method, first=rows.start, **options.settings()
            )
        return stacked(found)

    together = options.bs or (1 if flow.images else TOGETHER)
    parts = Parts(folder / STATE, identity)
    found = compute(work, len(seen.models), together, f"posteriors of {together}", parts)
    return None if found is None else {name: t.numpy() for name, t in found.items()}


def stacked(found: list[Draws]) -> dict[str, Tensor]:
    """Draws of several observations as tensors with a row for each."""
    told = {
        "x": torch.stack([d.x for d in found]),
        "z": torch.stack([d.z for d in found]),
        "log_evidence": torch.tensor([d.log_evidence for d in found]),
        "effective": torch.tensor([d.effective for d in found]),
        "evaluations": torch.tensor([d.facts["evaluations"] for d in found]),
    }
    path = torch.full((len(found), PATH), torch.nan, dtype=torch.float64)
    for row, d in zip(path, found, strict=True):
        steps = d.facts.get("temperatures") or d.facts["effective_by_round"]
        row[: len(steps)] = torch.tensor(steps[:PATH])
    if found[0].facts["method"] == "hmc":
        told["chains_x"] = torch.stack([d.chains[0] for d in found])
        told["chains_z"] = torch.stack([d.chains[1] for d in found])
    return {name: t.double().cpu() for name, t in {**told, "path": path}.items()}


def names_of(flow: Flow) -> list[str]:
    """Names of the values of a datum."""
    return flow.columns or [f"x{j}" for j in range(flow.schedule.data_dim)]


def report(found: dict[str, np.ndarray], seen: Observations, names: list[str]) -> list[Json]:
    """What the summary says of each observation, plain values."""
    rows = []
    for i in range(len(found["x"])):
        x = found["x"][i]
        quantiles = np.quantile(x, QUANTILES, axis=0)
        row: Json = {
            **(
                {}
                if np.isnan(found["log_evidence"][i])
                else {"log_evidence": float(found["log_evidence"][i])}
            ),
            "effective": float(found["effective"][i]),
            "evaluations": int(found["evaluations"][i]),
        }
        if "chains_x" in found:
            row |= diagnosed(found["chains_z"][i])
        if len(names) <= TOLD:
            row["values"] = {
                name: {"mean": float(x[:, j].mean()), "sd": float(x[:, j].std(ddof=1)),
                       "interval_90": quantiles[[1, 3], j].tolist(),
                       "interval_95": quantiles[[0, 4], j].tolist()}
                for j, name in enumerate(names)
            }  # fmt: skip
        if seen.truth is not None:
            truth = seen.truth[i]
            inside = (quantiles[1] <= truth) & (truth <= quantiles[3])
            row["truth_in_interval_90"] = float(inside.mean())
            row["rmse_of_mean"] = float(np.sqrt(np.mean((x.mean(0) - truth) ** 2)))
        rows.append(row)
    return rows


def diagnosed(chains: np.ndarray) -> dict[str, float]:
    """The worst R-hat and effective size of latents [chains, draws, d], by arviz."""
    az = arviz()
    columns = [chains[..., j] for j in range(chains.shape[2])]
    sizes = [float(az.ess(c, method="bulk")) for c in columns]
    return {"r_hat": max(float(az.rhat(c)) for c in columns), "ess_bulk": min(sizes)}


def finish(
    flow: Flow, found: dict[str, np.ndarray], seen: Observations, options: InferenceOptions,
    folder: Path,
) -> None:  # fmt: skip
    """Write draws, posterior.nc, pictures and summary.json; print a table."""
    names, x = names_of(flow), found["x"]
    rows = report(found, seen, names)
    quantiles = np.quantile(x, QUANTILES, axis=1).swapaxes(0, 1)
    arrays = {k: v for k, v in found.items() if k not in ("chains_x", "chains_z")}
    arrays |= {"y": seen.y, "mean": x.mean(1), "sd": x.std(1, ddof=1), "quantiles": quantiles}
    if seen.truth is not None:
        arrays["truth"] = seen.truth
    save_results(folder / "draws.npz", arrays)
    save_arviz(folder / "posterior.nc", found, names)
    pictures = plots.draw(folder, flow, found, seen, options.method) if options.plot else []
    notes = [*compressed(flow), *warnings_of(rows)]
    content = {
        **document(flow, options), NETWORK: flow.digest, "quantiles": list(QUANTILES),
        "observations": rows, "notes": notes,
    }  # fmt: skip
    header, cells = table(rows, seen)
    content = enclosed(
        content, f"Posteriors of {len(rows)} observations", figures(rows, seen),
        kind="Posteriors", inputs={"network": flow.digest}, arrays=["draws.npz", "posterior.nc"],
        tables=[("Posteriors", header, cells)], pictures=pictures, notes=notes,
    )  # fmt: skip
    write_json(folder / "summary.json", content)
    print(aligned(header, cells))
    for note in warnings_of(rows):
        print(f"Warning: {note}")


def save_arviz(path: Path, found: dict[str, np.ndarray], names: list[str]) -> None:
    """Draws for arviz: x and z [chain, draw, observation, ...]."""
    z = found.get("chains_z", found["z"][:, None])
    chains = {"x": found.get("chains_x", found["x"][:, None]), "z": z}
    labels = {
        "coords": {"column": names, "latent": [f"z{j}" for j in range(z.shape[-1])]},
        "dims": {"x": ["observation", "column"], "z": ["observation", "latent"]},
    }
    with atomic_path(path) as temporary:
        inference_data({k: np.moveaxis(v, 0, 2) for k, v in chains.items()}, **labels).to_netcdf(
            str(temporary)
        )


def table(rows: list[Json], seen: Observations) -> tuple[list[str], list[list[str]]]:
    """A row of text for each observation."""
    keys = [k for k in rows[0] if k not in ("values", "evaluations")]
    names = [k.replace("_", " ") for k in keys]
    measured = np.isfinite(seen.y).sum(1)
    cells = [
        [str(i + 1), str(measured[i]), *(f"{row[k]:.4g}" for k in keys)]
        for i, row in enumerate(rows)
    ]
    return ["observation", "values", *names], cells


def figures(rows: list[Json], seen: Observations) -> list[Measured]:
    """What can be compared with something: how often intervals hold the truth."""
    if seen.truth is None:
        return []
    share = float(np.mean([row["truth_in_interval_90"] for row in rows]))
    return [Measured("truth in 90 % intervals", share, yardstick=0.9, source="nominal")]


def warnings_of(rows: list[Json]) -> list[str]:
    """Observations whose draws are worth little."""
    notes = []
    few = [i + 1 for i, row in enumerate(rows) if row["effective"] < FEW]
    if few:
        notes.append(
            f"fewer than {FEW} effective draws of {len(few)} observations (the first: {few[0]}): "
            "give more --particles, or another --method"
        )
    apart = [i + 1 for i, row in enumerate(rows) if row.get("r_hat", 1.0) > CONVERGED]
    if apart:
        notes.append(
            f"R-hat is over {CONVERGED} in {len(apart)} observations (the first: {apart[0]}): "
            "chains do not mix, perhaps between modes; compare with --method=smc"
        )
    return notes
