r"""The probability-flow ODE: one vector field for every use.

In whitened coordinates u the ODE is du = -F dphi, F being what the network outputs. It is
integrated in the arc length a of the angles, with a float64 state. The paper's coordinates are
affine maps of u at the ends: see `training.coordinates`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.cli import user_errors
from torch_utils import distributed
from training import seeding
from training.coordinates import CoordinateMaps, Coordinates
from training.precond import Conditioned, FieldModel, InflationPrecond
from training.schedule import IMAGE_STEP_GROWTH, STEP_GROWTH, Arc
from training.solvers import PAPER_SOLVERS, SOLVERS

BLOCK = 2048  # samples integrated together; fixed, so that results do not depend on the total
IMAGE_BLOCK = 64  # the same for images; convolutions of other batch sizes round differently
Watcher = Callable[[int, float, Tensor], None]  # (step, time t, whitened state)
# (time t, whitened states [n, d], angle rates [d]) -> the field F [n, d] there, and the rates of
# quantities that are integrated along the path in m further columns of the state, [n, m].
Rate = Callable[[float, Tensor, Tensor], tuple[Tensor, Tensor]]


class Flow(CoordinateMaps):
    """An inflationary flow, ready to carry samples between data and latent.

    Args:
        model: exact or trained vector field with its schedule and basis.
        dtype: dtype of the integrated state (float64; float32 where there is no float64).
        info: what is known about the network (data, training), plain values.

    Attributes:
        block: samples integrated together.
        evaluations: calls of the network so far.
    """

    def __init__(
        self, model: FieldModel, dtype: torch.dtype = torch.float64, info: dict | None = None
    ):
        super().__init__(model, dtype)
        images = getattr(model, "shape", None) is not None
        self.arc = Arc(model.schedule, growth=IMAGE_STEP_GROWTH if images else STEP_GROWTH)
        self.info = info or {}
        self.block = IMAGE_BLOCK if images else BLOCK
        self.evaluations = 0

    def given(self, class_labels: Tensor | None) -> Flow:
        """The flow of samples of given classes, which must pass through it together.

        Args:
            class_labels: one-hot classes of the samples, [n, classes]; None changes nothing.
        """
        if class_labels is None:
            return self
        assert isinstance(self.model, InflationPrecond)
        flow = copy.copy(self)
        flow.model = Conditioned(self.model, class_labels)
        flow.block, flow.evaluations = len(class_labels), 0
        return flow

    # The field ---------------------------------------------------------------------------------

    def field(self, u: Tensor, t: float) -> Tensor:
        """The network output F(u, t), [n, d]; each call counts as one evaluation."""
        self.evaluations += 1
        when = torch.full((1,), t, dtype=self.model.W.dtype, device=u.device)  # embedded once
        return self.model.field(u, when)

    def velocity(self, a: float, y: Tensor, rate: Rate | None = None) -> Tensor:
        """du/da = -F dphi/da at arc length a, [n, d], and the further columns of `rate`."""
        turn = torch.as_tensor(self.arc.turn(a), dtype=y.dtype, device=y.device)
        if rate is None:
            return -turn * self.field(y, self.arc.time(a))
        F, further = rate(self.arc.time(a), y[:, : len(turn)], turn)
        return torch.cat([-turn * F, further], 1)

    def paper_velocity(self, t: float, x: Tensor, rate: Rate | None = None) -> Tensor:
        """dx~/dt in the paper's coordinates, for x~ = scaled_es states, [n, d] (eq. 8).

        Raises:
            ValueError: for a schedule whose angle is not regular in t.
        """
        if self.schedule.proportional:
            raise ValueError("g_type=proportional is not regular in t: use an angle solver")
        stretch = self.stretch(t, "scaled_es")
        if rate is None:
            return self.paper_rate(t, x, self.field(x / stretch, t))
        x = x[:, : len(stretch)]
        F, further = rate(t, x / stretch, self.schedule.angle(t)[1].to(x))
        return torch.cat([self.paper_rate(t, x, F), further], 1)

    def paper_rate(self, t: float, x: Tensor, F: Tensor) -> Tensor:
        """dx~/dt for scaled_es states x and the field F at them, [n, d].

        x~ = s sqrt(S) u, so dx~/dt = (s'/s + S'/2S) x~ - s sqrt(S) F dphi/dt: no division by gamma.
        """
        s, ds = self.schedule.scale(t)
        dS, S = self.schedule.gamma(t)[1], self.schedule.total(t)
        growth, turn = ds / s + dS / (2 * S), s * S.sqrt() * self.schedule.angle(t)[1]
        return growth.to(x) * x - turn.to(x) * F

    # Integration -------------------------------------------------------------------------------

    def integrate(
        self,
        u: Tensor,
        start: float,
        stop: float,
        solver: str = "rk4",
        steps: int = 32,
        times: Sequence[float] | None = None,
        callback: Watcher | None = None,
        rate: Rate | None = None,
        differentiable: bool = False,
        **settings: float,
    ) -> Tensor:
        """Carry whitened states from time `start` to time `stop`.

        Args:
            u: states [n, d]; for the reversible solver also a pair [2, n, d].
            start, stop: times in [0, tmax].
            solver: a name of `SOLVERS` (steps of `Arc.grid`), or of `PAPER_SOLVERS`
                (the paper's, in scaled coordinates, on `times`).
            steps: steps of the angle solvers.
            times: time grid of the paper's solvers, between start and stop, in either order.
            callback: called with (step, t, whitened state) at every state.
            rate: evaluates the field, where u has further columns to be integrated along.
            differentiable: keep the graph, so that autograd differentiates through the steps.
            settings: passed to the solver (rtol, atol, coupling).

        Returns:
            states of the shape of u.
        """
        with torch.set_grad_enabled(differentiable):
            if solver in PAPER_SOLVERS:
                if times is None:
                    raise ValueError("the paper's solvers need their time grid: see ifs_times")
                times = sorted(times, reverse=stop < start)
                return self._integrate_paper(u, PAPER_SOLVERS[solver], times, callback, rate)
            grid = self.arc.grid(start, stop, steps)
            watch = None
            if callback is not None:

                def watch(k: int, a: float, y: Tensor) -> None:
                    callback(k, self.arc.time(a), y)

            velocity = partial(self.velocity, rate=rate)
            if solver != "reversible":
                return SOLVERS[solver](velocity, u, grid, watch, **settings)
            pair = u if u.dim() == 3 else torch.stack([u, u])
            pair = SOLVERS[solver](velocity, pair, grid, watch, **settings)
            return pair if u.dim() == 3 else pair[0]

    def _integrate_paper(
        self,
        u: Tensor,
        method: Callable,
        times: Sequence[float],
        callback: Watcher | None,
        rate: Rate | None,
    ) -> Tensor:
        d = self.schedule.data_dim

        def whiten(x: Tensor, t: float) -> Tensor:
            return torch.cat([self.to_whitened(x[:, :d], t, "scaled_es"), x[:, d:]], 1)

        watch = None
        if callback is not None:

            def watch(k: int, t: float, x: Tensor) -> None:
                callback(k, t, whiten(x, t))

        x = torch.cat([self.from_whitened(u[:, :d], times[0], "scaled_es"), u[:, d:]], 1)
        x = method(partial(self.paper_velocity, rate=rate), x, times, watch)
        return whiten(x, times[-1])

    def ends(
        self, solver: str = "rk4", times: Sequence[float] | None = None, **_: Any
    ) -> tuple[float, float]:
        """Times at which data enters and latents leave, for arguments of `integrate`.

        These are 0 and tmax, but the paper's solvers take data to be at the first time of their
        grid (0.01 on `vp_ode_times`) and latents at its last.
        """
        if solver in PAPER_SOLVERS and times is not None:
            return min(times), max(times)
        return 0.0, self.schedule.tmax

    def inflate(
        self, x: Tensor | np.ndarray, coords: Coordinates = "scaled_es", **how: Any
    ) -> Tensor:
        """Data to latents.

        Args:
            x: data in its own units, [n, d].
            coords: coordinates of the latents: "scaled_es" (the paper's, variances
                `schedule.latent_variance()`) or "whitened" (unit variances), or any other.
            how: solver, steps, callback, ... of `integrate`.

        Returns:
            latents [n, d], float64, on the flow's device.
        """
        t0, T = self.ends(**how)
        u = self.to_whitened(x, t0, "unscaled")
        u = self._in_blocks(u, lambda b: self.integrate(b, t0, T, **how), how)
        return self.from_whitened(u, T, coords)

    def generate(
        self, z: Tensor | np.ndarray, coords: Coordinates = "scaled_es", **how: Any
    ) -> Tensor:
        """Latents to data: the inverse of `inflate`, same arguments.

        Args:
            z: latents in the coordinates `coords`, [n, d].
            coords: see `inflate`.
            how: see `inflate`.

        Returns:
            data in its own units, [n, d].
        """
        t0, T = self.ends(**how)
        u = self.to_whitened(z, T, coords)
        u = self._in_blocks(u, lambda b: self.integrate(b, T, t0, **how), how)
        return self.from_whitened(u, t0, "unscaled")

    def round_trip(self, x: Tensor | np.ndarray, **how: Any) -> Tensor:
        """Data to latent and back, [n, d] to [n, d]; exact with solver="reversible"."""
        t0, T = self.ends(**how)

        def there_and_back(u: Tensor) -> Tensor:
            pair = torch.stack([u, u]) if how.get("solver") == "reversible" else u
            pair = self.integrate(self.integrate(pair, t0, T, **how), T, t0, **how)
            return pair[0] if pair.dim() == 3 else pair

        u = self._in_blocks(self.to_whitened(x, t0, "unscaled"), there_and_back, how)
        return self.from_whitened(u, t0, "unscaled")

    def log_prob(self, x: Tensor | np.ndarray, **how: Any) -> Tensor:
        """Log density of data x [n, d] in its own units, nats, [n]; see `likelihood.log_prob`."""
        from training.likelihood import log_prob

        return log_prob(self, x, **how).value

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

    def sample(self, n: int, seed: int = 0, eps: float | None = None, **how: Any) -> Tensor:
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
            back = self.integrate(z, stop, 0.0, solver, steps)
            error = max(_rms(z - finer), _rms(back - u))
            if error <= tolerance or steps >= limit:
                return steps, error
            steps, z = 2 * steps, finer

    def _in_blocks(self, u: Tensor, step: Callable[[Tensor], Tensor], how: dict) -> Tensor:
        """Apply `step` block by block, so that memory stays flat; a callback sees all at once."""
        if how.get("callback") is not None or len(u) <= self.block:
            return step(u)
        return torch.cat([step(b) for b in u.split(self.block)])


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
        sha256, tmax, fallback_tmax: see `torch_utils.checkpoint.load_network`.

    Raises:
        ValueError: if the file is not a network, saying what it is.
    """
    from torch_utils import checkpoint
    from training.model import network_from_dict

    where = distributed.pick_device(device)
    content = checkpoint.load_network(path, sha256, tmax, fallback_tmax)
    model, info = network_from_dict(content)
    if where.type == "mps":
        model = model.float()
    model = model.to(where).eval().requires_grad_(False)
    default = torch.float32 if where.type == "mps" else torch.float64
    return Flow(model, dtype or default, info)


def open_flow(options: dict[str, Any], fallback_tmax: float | None = None) -> Flow:
    """The flow of a script's --network, by its --device, --sha256 and --tmax.

    Args:
        options: of the script; the last two may be missing.
        fallback_tmax: end time of an older file, where neither it nor --tmax tells it.

    Raises:
        UserError: naming the option.
    """
    with user_errors("--network"):
        flow = load_flow(
            options["network"],
            options["device"],
            sha256=options.get("sha256"),
            tmax=options.get("tmax"),
            fallback_tmax=fallback_tmax,
        )
    if flow.device.type == "cpu":
        distributed.use_threads(flow.model.operations(flow.block))
    return flow


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
