"""The flow, for use from Python and by the scripts: inflate, generate, sample, likelihood.

How it is integrated is in `flow.integration`; the paper's coordinates are affine maps of
whitened states at the ends, see `flow.coordinates`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from dnnlib.cli import user_errors
from flow import likelihood
from flow.arguments import How, VolumeHow, check_coordinates, check_latents, check_state
from flow.coordinates import Coordinates
from flow.inference.propagation import Propagated, propagate
from flow.integration import Integrator
from flow.options import NetworkOptions
from torch_utils import checkpoint, distributed, seeding
from training.data.tables import reading_of
from training.network_file import load_network, network_from_dict
from training.precond import Conditioned, FieldModel, InflationPrecond


class Flow(Integrator):
    """An inflationary flow, ready to carry samples between data and latent.

    Args:
        model: exact or trained vector field with its schedule and basis.
        dtype: dtype of the integrated state (float64; float32 where there is no float64).
        info: what is known about the network (data, training), plain values.

    Attributes:
        digest: SHA-256 of the network's file, where a script has opened it; None for others.
        unlabelled: whether a class-conditional network is to get zero labels.
    """

    digest: str | None = None
    unlabelled = False

    def __init__(
        self, model: FieldModel, dtype: torch.dtype = torch.float64, info: dict | None = None
    ):
        super().__init__(model, dtype)
        self.info = info or {}
        reading = reading_of(self.info)
        self.columns = reading["columns"] if reading and reading["header"] else None

    def given(self, class_labels: Tensor | None) -> Flow:
        """The same flow with no evaluations so far, of samples of given classes.

        Args:
            class_labels: one-hot classes [n, classes] of samples that must pass through the flow
                together; None for no classes.
        """
        flow = copy.copy(self)
        flow.evaluations = 0
        if class_labels is not None:
            assert isinstance(self.model, InflationPrecond)
            flow.model, flow.block = Conditioned(self.model, class_labels), len(class_labels)
        return flow

    def inflate(self, x: Any, coords: Coordinates = "scaled_es", **how: Unpack[How]) -> Tensor:
        """Data to latents.

        Args:
            x: data in its own units, [n, d]: tensor, array or DataFrame, see `admit`.
            coords: coordinates of the latents: "scaled_es" (the paper's, variances
                `schedule.latent_variance()`) or "whitened" (unit variances), or any other.
            how: solver, steps, callback, ... of `integrate`.

        Returns:
            latents [n, d], float64, on the flow's device.
        """
        check_coordinates(coords)
        t0, T = self.ends(**how)
        u = self.admit(x, t0, "unscaled")
        u = self._in_blocks(lambda b: self.integrate(b, t0, T, **how), u, how)
        return self.from_whitened(u, T, coords)

    def generate(self, z: Any, coords: Coordinates = "scaled_es", **how: Unpack[How]) -> Tensor:
        """Latents to data: the inverse of `inflate`, same arguments.

        Args:
            z: latents in the coordinates `coords`, [n, d].
            coords: see `inflate`.
            how: see `inflate`.

        Returns:
            data in its own units, [n, d].
        """
        t0, T = self.ends(**how)
        u = self.admit(z, T, coords)
        u = self._in_blocks(lambda b: self.integrate(b, T, t0, **how), u, how)
        return self.from_whitened(u, t0, "unscaled")

    def round_trip(self, x: Any, **how: Unpack[How]) -> Tensor:
        """Data to latent and back, [n, d] to [n, d]; exact with solver="reversible"."""
        t0, T = self.ends(**how)

        def there_and_back(u: Tensor) -> Tensor:
            return self.integrate(self.carry(u, t0, T, **how)[1], T, t0, **how)

        u = self._in_blocks(there_and_back, self.admit(x, t0, "unscaled"), how)
        return self.from_whitened(u, t0, "unscaled")

    @torch.no_grad()
    def denoise(self, x: Any, t: float) -> Tensor:
        """The denoiser D(x, t) = E[data | x], in the data's own units, [n, d].

        Args:
            x: noisy data, the data plus its noise at time t: `coords="unscaled"`, [n, d].
            t: time, in [0, tmax].
        """
        u = self.admit(x, t, "unscaled")
        cos, sin = (v.to(u) for v in self.schedule.cos_sin(t))
        return self.model.decode(self.schedule.xi.to(u).sqrt() * (cos * u + sin * self.field(u, t)))

    def log_prob(self, x: Any, **how: Unpack[VolumeHow]) -> Tensor:
        """Log density of data x [n, d] in its own units, nats, [n]; see `likelihood.log_prob`."""
        return likelihood.log_prob(self, x, **how).value

    def propagate(self, x: Any = None, cov: Any = None, **how: Any) -> Propagated:
        """Carry N(x, cov), or samples=, to the latent or to="data"; see `propagation.propagate`."""
        return propagate(self, x, cov, **how)

    def latents(
        self,
        n: int,
        seed: int,
        eps: float | None = None,
        start: int = 0,
        t: float | None = None,
    ) -> Tensor:
        """Whitened Gaussian latents start..start+n of a seed's stream, [n, d].

        Args:
            n: how many.
            seed: their seed; latent i is the same whatever n and start are.
            eps: variance of the compressed dimensions in the paper's coordinates, where kept
                ones then get A0^2; None for the schedule's own variances.
            start: first index.
            t: time of the latents; None for tmax.
        """
        check_latents(n, seed, eps, start)
        z = seeding.normals(seed, "latents", start, start + n, self.schedule.data_dim)
        return self.colour(torch.from_numpy(z), eps, t)

    def colour(self, z: Tensor, eps: float | None, t: float | None = None) -> Tensor:
        """Standard normals [n, d] to whitened latents with the variances of `latents`."""
        u = z.to(self.device, self.dtype)
        if eps is None:
            return u
        wanted = torch.full_like(self.schedule.xi, self.schedule.A0**2)
        wanted[self.schedule.dims_to_keep :] = eps
        return u * (wanted / self.schedule.latent_variance(t)).sqrt().to(u)

    def sample(self, n: int, seed: int = 0, eps: float | None = None, **how: Unpack[How]) -> Tensor:
        """Generate n samples in the data's own units, [n, d]; see `latents` and `inflate`."""
        latents = self.latents(n, seed, eps, t=self.ends(**how)[1])
        return self.generate(latents, coords="whitened", **how)

    def steps_for(
        self, u: Tensor, stop: float, tolerance: float, solver: str = "rk4", limit: int = 1024
    ) -> tuple[int, float]:
        """Fewest steps (a power of two) that inflate and regenerate pilots to a tolerance.

        Args:
            u: whitened pilot states at t = 0, [n, d].
            stop: end time of the flow.
            tolerance: rms error allowed in whitened latents and in the round trip.
            solver: a fixed-step angle solver.
            limit: most steps to try.

        Returns:
            steps, and the error estimated for them (latent: against twice the steps).
        """
        steps = 4
        z = self.integrate(u, 0.0, stop, solver, steps)
        while True:
            finer = self.integrate(u, 0.0, stop, solver, 2 * steps)
            error = _rms(z - finer)
            if error <= tolerance or steps >= limit:  # else the way back would not matter
                error = max(error, _rms(self.integrate(z, stop, 0.0, solver, steps) - u))
            if error <= tolerance or steps >= limit:
                return steps, error
            steps, z = 2 * steps, finer


def ifs_times(steps: int, h: float, backward: bool = False) -> list[float]:
    """The paper's toy grid: `steps` points from 0 to steps * h, or back."""
    times = np.linspace(0.0, steps * h, steps)
    return (times[::-1] if backward else times).tolist()


def vp_ode_times(n: int, tmax: float, backward: bool = False, first: float = 1e-2) -> list[float]:
    """The paper's image grid: n points from `first` to tmax, or back."""
    times = tmax + np.arange(n) / (n - 1) * (first - tmax)
    return (times if backward else times[::-1]).tolist()


def load_flow(
    path: str | Path,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    *,
    sha256: str | None = None,
    tmax: float | None = None,
    fallback_tmax: float | None = None,
) -> Flow:
    """Open a network file as a flow; nothing in the file is run.

    Args:
        path: network file, https:// address, or a run folder (its latest snapshot).
        device: auto, cpu, cuda or mps.
        dtype: of the state; None for float64 (float32 on mps).
        sha256, tmax, fallback_tmax: see `training.network_file.load_network`.

    Raises:
        ValueError: if the file is not a network, saying what it is.
    """
    check_state(dtype)
    where = distributed.pick_device(str(device))
    with torch.inference_mode(False):  # whose tensors have no derivatives, which likelihoods take
        content = load_network(path, sha256, tmax, fallback_tmax)
        model, info = network_from_dict(content)
        if where.type == "mps":
            model = model.float()
        model = model.to(where).eval().requires_grad_(False)
    default = torch.float32 if where.type == "mps" else torch.float64
    return Flow(model, dtype or default, info)


def open_flow(options: NetworkOptions, fallback_tmax: float | None = None) -> Flow:
    """The flow of a script's --network, by its --device, --sha256 and --tmax.

    Args:
        options: of the script.
        fallback_tmax: end time of an older file, where neither it nor --tmax tells it.

    Raises:
        UserError: naming the option.
    """
    with user_errors("--network"):
        path, digest = checkpoint.agreed_network(options.network)
        flow = load_flow(
            path,
            options.device,
            sha256=options.sha256,
            tmax=options.tmax,
            fallback_tmax=fallback_tmax,
        )
    flow.digest = digest
    if flow.device.type == "cpu":
        distributed.use_threads(flow.model.operations(flow.block))
    return flow


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
