"""Likelihood of a data set: log densities of all samples, and the truth where it is known."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from flow.arguments import How, VolumeHow
from flow.dequantization import Dequantization, check_levels
from flow.elbo import elbo
from flow.exact import MixtureField
from flow.flow import Flow
from flow.likelihood import Trace, log_prob
from torch_utils import seeding
from torch_utils.work import NOTHING_KEPT, Parts, compute
from training.basis import Basis
from training.data.toys import exact_mixture

FAR = 10.0  # whitened distance, in sds, beyond which a network has not seen data
Reader = Callable[[range], Tensor]
PARTS = ("log_prob", "standard_error", "prior", "diffusion", "rest")


@dataclass(frozen=True)
class Settings:
    """What is computed of each sample.

    Attributes:
        trace: see `likelihood.inflate_with_volume`; None by the number of dimensions.
        probes: of the Hutchinson trace.
        seed: of noise and probes.
        dequantize: for 8-bit levels; None for real vectors.
        draws: importance draws K of the dequantization.
        noise: give real vectors the noise that the flow's density has at t = 0.
        times: of the variational bound; 0 for no bound.
        how: solver, steps, ... of `Flow.integrate`.
    """

    trace: Trace | None = None
    probes: int = 1
    seed: int = 0
    dequantize: Dequantization | None = None
    draws: int = 1
    noise: bool = True
    times: int = 0
    how: How = field(default_factory=How)

    def asked(self, start: int = 0) -> VolumeHow:
        """Arguments of `log_prob` for samples from number `start` on."""
        return {
            **self.how, "trace": self.trace, "probes": self.probes, "seed": self.seed,
            "start": start,
        }  # fmt: skip


@dataclass
class Evaluation:
    """Results of all samples, on rank 0.

    Attributes:
        table: columns of `PARTS`, nats, [n, 5]; NaN where not computed. log_prob is of the
            levels, if they were dequantized, otherwise a density; prior, diffusion and rest are
            the parts of the bound on its negative.
        points: where the density was evaluated (the first draw), [n, d].
        latents: whitened, of these points, [n, d].
        evaluations: network evaluations a sample, all draws and the bound included.
    """

    table: np.ndarray
    points: np.ndarray
    latents: np.ndarray
    evaluations: int

    def column(self, name: str) -> np.ndarray:
        """One of `PARTS`, [n]."""
        return self.table[:, PARTS.index(name)]

    @property
    def bound(self) -> np.ndarray:
        """The variational bound on -log p, nats, [n]; NaN where not computed."""
        return self.table[:, 2:].sum(1)


def evaluate(
    flow: Flow,
    read: Reader,
    total: int,
    settings: Settings,
    labels: Callable[[range], Tensor | None] = lambda _: None,
    parts: Parts = NOTHING_KEPT,
) -> Evaluation | None:
    """Log densities of a data set, block by block, each block on one rank.

    Args:
        flow: the flow.
        read: gives a range of samples, in the data's units, [n, d].
        total: samples in all.
        settings: what to compute.
        labels: gives their one-hot classes, [n, classes], or None.
        parts: keeps finished blocks on disk.

    Returns:
        results on rank 0, None elsewhere.

    Raises:
        ValueError: for data that is not what `settings` says, or a schedule without a bound.
    """

    def work(block: range) -> dict[str, Tensor]:
        here = flow.given(labels(block))
        done = _block(here, read(block), block.start, settings)
        return {"rows": torch.cat([done, done.new_full((len(done), 1), here.evaluations)], 1)}

    found = compute(work, total, flow.block, "log density", parts)
    if found is None:
        return None
    widths = np.cumsum([len(PARTS), flow.schedule.data_dim, flow.schedule.data_dim])
    table, points, latents, count = np.split(found["rows"].double().numpy(), widths, axis=1)
    return Evaluation(table, points, latents, int(count.max()))


def _block(flow: Flow, x: Tensor, start: int, settings: Settings) -> Tensor:
    """Columns PARTS, points and latents of one block of data, [n, 5 + 2 d]."""
    x = x.to(flow.device, flow.dtype)
    q, half_width = settings.dequantize, None
    how = settings.asked(start)
    if q is None:
        point = x
        if settings.noise:
            point = x + noise_at_start(flow, settings.seed, start, start + len(x))
        density = log_prob(flow, point, **how)
        value, error, latents = density.value, density.standard_error, density.latents
    else:
        half_width = float(q.half_width[0])
        check_levels(x, half_width, start)
        values, errors = [], []
        for k in range(settings.draws):
            e = q.draw(settings.seed, start, start + len(x), k).to(x)
            # The same probes for every draw: their error is then common, and passes through the
            # mean of exponentials as it is, instead of raising it.
            density = log_prob(flow, x + e, **how)
            values.append(density.value - q.log_prob(e).to(x))
            if density.standard_error is not None:
                errors.append(density.standard_error)
            if k == 0:
                point, latents = x + e, density.latents
        stacked = torch.stack(values)  # [K, n]
        value = torch.logsumexp(stacked, 0) - math.log(settings.draws)
        error = None
        if errors:
            error = (torch.softmax(stacked, 0) * torch.stack(errors)).sum(0)
    nothing = torch.full_like(value, torch.nan)
    columns = [value, nothing if error is None else error]
    if settings.times:
        bound = elbo(flow, x, settings.times, settings.seed, start, half_width)
        columns += [bound.prior, bound.diffusion, bound.rest]
    else:
        columns += [nothing] * 3
    return torch.cat([torch.stack(columns, 1), point, latents], 1).cpu()


def noise_at_start(flow: Flow, seed: int, start: int, stop: int) -> Tensor:
    """The noise N(0, gamma0) of t = 0 in the data's units, of samples start..stop, [n, d]."""
    s = flow.schedule
    n = torch.from_numpy(seeding.normals(seed, "noise at t = 0", start, stop, s.data_dim))
    gamma0 = 0.0 if s.proportional else float(s.gamma0)
    n = n.to(flow.device, flow.dtype)
    return math.sqrt(gamma0) * flow.model.scale.to(n) * n


def log_density_on(flow: Flow, points: Tensor, settings: Settings) -> np.ndarray | None:
    """Log density at points [m, d], of which nothing is drawn, [m] on rank 0, None elsewhere."""
    exact = Settings(settings.trace, settings.probes, noise=False, how=settings.how)
    found = evaluate(flow, lambda r: points[r.start : r.stop], len(points), exact)
    return None if found is None else found.column("log_prob")


def true_model(flow: Flow, name: str) -> MixtureField | None:
    """The exact model of a toy set, with its own density at t = 0 (the flow's noise included).

    Args:
        flow: its schedule, of which gamma0 matters, and basis.
        name: of the toy set.

    Returns:
        None where no closed form is known.
    """
    try:
        mixture = exact_mixture(name)
    except KeyError:
        return None
    if mixture["means"].shape[1] != flow.schedule.data_dim:
        return None
    on_cpu, basis = copy.deepcopy(flow.schedule).cpu(), flow.model.basis
    basis = Basis(basis.mean.cpu(), basis.scale.cpu(), on_cpu.xi, basis.W.cpu())
    return MixtureField(on_cpu, basis, **mixture)


def true_log_density(model: MixtureField, x: np.ndarray) -> np.ndarray:
    """Log density of the noisy data of t = 0 at points x [n, d] in the data's units, [n]."""
    value = model.log_density(model.encode(torch.from_numpy(x)), 0.0)
    return (value - model.scale.log().sum()).numpy()


def far_from_the_network(flow: Flow, x: Tensor) -> tuple[int, float]:
    """How many samples lie beyond `FAR` sds of what the network knows, and the median distance.

    Args:
        flow: the flow.
        x: data [n, d].

    Returns:
        the number, and the median over samples of the largest whitened coordinate.
    """
    largest = flow.to_whitened(x, 0.0, "unscaled").abs().amax(1)
    return int((largest > FAR).sum()), float(largest.median())
