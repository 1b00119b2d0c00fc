r"""The sampler `nuts`: pyro's No-U-Turn sampler on weights and latents together.

Its position is one vector (v, q): v = logits of the weights but for the last, which is held at
zero, as the posterior does not change if all logits are shifted together (and neither does the
paper's flat prior on them); q = the latents in the whitened units of `energy.LatentTarget`. Labels
are summed out. All latents move, and are accepted, together, so that one step must suit the
steepest: every latent is measured in units of the step that suits it, which a few iterations of
`parallel` find out, and from where these end the chain warms up.

Reference: Hoffman and Gelman 2014, "The No-U-Turn sampler".
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.posterior import gradient_samplers
from experiments.posterior.chain_store import (
    ChainStore,
    fingerprint,
    gather,
    kept,
    my_chains,
    progress_in_turn,
    record_every,
    seeded,
)
from experiments.posterior.energy import LatentTarget, log_joint
from experiments.posterior.posterior import Draws, Problem, Truth
from torch_utils import seeding

if TYPE_CHECKING:
    from experiments.posterior.mcmc import Settings

SITE = "position"
START_STEP = 0.5  # pyro looks for a better one itself
PILOT = 100  # iterations of `parallel` before
PILOT_ACCEPT = 0.99  # at most, in these: all latents are accepted only if each is
LOGIT_STEP = 0.3  # posterior sds: a leapfrog step that hardly costs acceptance


def pyro_nuts() -> Any:
    """pyro's kernel.

    Raises:
        ValueError: saying how to install it, where it is missing.
    """
    try:
        from pyro.infer import NUTS
    except ImportError:
        raise ValueError(
            "--sampler=nuts needs pyro, which is not installed: pip install pyro-ppl"
        ) from None
    return NUTS


class Joint:
    """The potential energy of positions (v, q), and a count of its evaluations.

    Args:
        target: the latents' units.
        scale: what positions are multiplied by, [K - 1 + n d].

    Attributes:
        gradients: evaluations so far.
        path: logits and latents evaluated, where a list is put here.
    """

    def __init__(self, target: LatentTarget, scale: Tensor):
        self.target, self.scale = target, scale
        self.free = len(target.problem.concentration) - 1
        self.gradients = 0
        self.path: list[Tensor] | None = None

    def __call__(self, position: dict[str, Tensor]) -> Tensor:
        """-log p(v, q | x) up to a constant; inf where it cannot be computed."""
        self.gradients += 1
        log_w, z = self.split(position[SITE])
        if self.path is not None:
            self.path.append(torch.cat([log_w, z.flatten()]).detach())
        return -log_joint(self.target.problem, z, log_w)

    def split(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Log weights [K] and latents [n, d] of a position."""
        v, q = (position * self.scale).split([self.free, self.target.start.numel()])
        log_w = torch.log_softmax(torch.cat([v, v.new_zeros(1)]), 0)
        return log_w, self.target.latents(q.reshape(self.target.start.shape))


def pilot(target: LatentTarget, settings: Settings, number: int) -> tuple[Tensor, Tensor, int]:
    """Where a chain begins and in which units, from a few iterations of `parallel`.

    Returns:
        position and scale, each [K - 1 + n d], and the gradients of one latent spent.
    """
    n, d = target.start.shape
    accept = min(settings.accept ** (1 / n), PILOT_ACCEPT)
    few = replace(
        settings, burn=PILOT, draws=0, keep_z=0, checkpoint=None, step_size=None, accept=accept
    )
    chain = gradient_samplers.Chain(target, few, number)
    while not chain.done:
        chain.advance()
    w = torch.from_numpy(chain.w).to(target.start).clamp_min(1 / n)
    logits = (w[:-1] / w[-1]).log()
    spread = ((1 / w[:-1] + 1 / w[-1]) / n).sqrt()  # of logits, if the labels were known
    units = chain.steps.log_average.exp()[:, None].expand(n, d)
    scale = torch.cat([LOGIT_STEP * spread, units.flatten()])
    return torch.cat([logits, chain.point.q.flatten()]) / scale, scale, chain.moves


class Chain:
    """One chain. Its state is saved once it is warm; a warm-up that is cut short is repeated.

    Every draw seeds the generator that pyro draws from, so that a saved chain needs no random
    state, and other users of that generator do not notice.

    Args:
        target: the latents' posterior.
        settings: of the run.
        number: of the chain.
    """

    def __init__(self, target: LatentTarget, settings: Settings, number: int):
        self.target, self.settings, self.number = target, settings, number
        problem = target.problem
        every = record_every(problem, settings)
        digest = fingerprint(problem, settings)
        self.store = ChainStore(settings.checkpoint, "nuts", number, digest, every)
        self.kept = kept(settings)
        saved = self.store.load()
        self.warm = saved is not None
        self.arrays: dict[str, np.ndarray] = saved or {
            "position": np.empty(0),
            "scale": np.empty(0),
            "step_size": np.array(settings.step_size or START_STEP),
            "done": np.array(0),
            "counts": np.zeros(3),  # gradients in all, gradients while warm, divergences
            "weights": np.empty((settings.draws, len(problem.concentration))),
            "z": np.empty((len(self.kept), *problem.x.shape)),
        }

    def run(self, progress: Callable[[int, dict], None]) -> None:
        """Warm up, unless that has been done, and draw.

        Args:
            progress: called with (iterations of this chain, facts).
        """
        if not self.warm:
            self._warm_up(progress)
        a, s = self.arrays, self.settings
        scale, position = (
            torch.from_numpy(a[name]).to(self.target.start) for name in ("scale", "position")
        )
        self.joint = Joint(self.target, scale)
        kernel = self._kernel(position, 0)
        while int(a["done"]) < s.draws:
            draw = int(a["done"])
            before = self.joint.gradients
            position = self._draw(kernel, s.burn + draw)
            log_w, z = self.joint.split(position)
            a["weights"][draw] = log_w.exp().cpu().numpy()
            for place, which in enumerate(self.kept):
                if which == draw:
                    a["z"][place] = z.cpu().numpy()
            a["position"], a["done"] = position.cpu().numpy(), np.array(draw + 1)
            spent = self.joint.gradients - before
            a["counts"] = a["counts"] + np.array([spent, spent, 0])
            diverged = kernel.diagnostics()["divergences"]
            a["counts"][2] += len(diverged)
            diverged.clear()
            if self.store.due or draw + 1 == s.draws:
                self.store.save(a)
            progress(s.burn + draw + 1, {"gradients": spent})

    def _warm_up(self, progress: Callable[[int, dict], None]) -> None:
        """Adapt the step size from where the pilot ended, and save what it has become."""
        a, s = self.arrays, self.settings
        position, scale, moves = pilot(self.target, s, self.number)
        self.joint = Joint(self.target, scale)
        with self._seeded(0):
            kernel = self._kernel(position, s.burn)
        for iteration in range(s.burn):
            position = self._draw(kernel, iteration)
            progress(iteration + 1, {"step": f"{kernel.step_size:.2g}"})
        a["position"], a["scale"] = position.cpu().numpy(), scale.cpu().numpy()
        a["step_size"] = np.array(kernel.step_size)
        spent = self.joint.gradients + moves / len(self.target.start)
        a["counts"] = np.array([spent, 0, 0], dtype=np.float64)
        self.store.save(a)

    def _kernel(self, position: Tensor, warm_up: int) -> Any:
        """A kernel at a position that adapts for `warm_up` draws."""
        kernel = pyro_nuts()(
            potential_fn=self.joint,
            step_size=float(self.arrays["step_size"]),
            adapt_step_size=warm_up > 0,
            adapt_mass_matrix=False,
            target_accept_prob=self.settings.accept,
            max_tree_depth=tree_depth(self.settings.traj_length),
        )
        kernel.initial_params = {SITE: position}
        kernel.setup(warm_up)
        return kernel

    def _draw(self, kernel: Any, iteration: int) -> Tensor:
        """The next position; its trajectory is recorded if it is one of those."""
        self.joint.path = [] if self.store.records(iteration) else None
        with self._seeded(iteration + 1):
            position = kernel.sample(kernel.initial_params)[SITE].detach()
        path, self.joint.path = self.joint.path, None
        if path is not None:
            length = 2 ** tree_depth(self.settings.traj_length) - 1
            path = path[:length] + [path[-1]] * (length - len(path))
            self.store.record(iteration, torch.stack(path).cpu().numpy())
        return position

    def _seeded(self, iteration: int) -> AbstractContextManager[None]:
        """Random numbers for one iteration of this chain."""
        seed = seeding.integer(self.settings.seed, "nuts", self.number, iteration)
        return seeded(self.target.start.device, seed)


def tree_depth(leapfrog_steps: int) -> int:
    """Doublings of a trajectory of at most so many leapfrog steps, at least one."""
    return max(1, math.floor(math.log2(leapfrog_steps + 1)))


def sample(problem: Problem, truth: Truth, settings: Settings) -> Draws:
    """Draw weights and latents by the No-U-Turn sampler on all of them together.

    Processes share the chains, and each runs its own one after another.

    Args:
        problem: with data x [n, d].
        truth: not used.
        settings: `draws`, `burn` (warm-up), `chains`, `seed`, `step_size` (to begin with),
            `traj_length` (most leapfrog steps of a draw: 15 are a tree of depth 4), `accept`,
            `thin`, `keep_z`, `checkpoint`, `progress`.

    Returns:
        the draws on rank 0, none on other ranks; seconds are those since the start or resume.
        Trajectories hold, for each recorded draw, logits and latents in the order of evaluation.

    Raises:
        ValueError: if pyro is missing, the flow is not finite on the data, or a checkpoint is of
            another run.
    """
    pyro_nuts()
    began = time.monotonic()
    target = LatentTarget(problem, settings.seed)
    chains = [Chain(target, settings, number) for number in my_chains(settings)]
    for place, chain in enumerate(chains):
        chain.run(progress_in_turn(settings, place, len(chains)))
    total = settings.burn + settings.draws
    found = gather(
        [
            {name: c.arrays[name] for name in ("weights", "z", "counts", "step_size")}
            | {"trajectories": c.store.trajectories(total)}
            for c in chains
        ],
        settings.chains,
    )
    if found is None:
        return Draws(np.empty((0, settings.draws, len(problem.concentration))))
    gradients, while_warm, diverged = found["counts"].sum(0)
    made = settings.chains * max(1, settings.draws)
    statistics = {
        "step_size": found["step_size"].tolist(),
        "gradients_per_draw": float(while_warm / made),
        "divergent_share": float(diverged / made),
        "tree_depth_at_most": tree_depth(settings.traj_length),
        "logits": "the last is held at 0",
        "integration": target.problem.how,
        "evaluations_per_gradient": target.cost,
        "trajectory_every": record_every(target.problem, settings),
    }
    return Draws(
        found["weights"],
        found["z"] if settings.keep_z else None,
        found["trajectories"],
        statistics,
        target.setup_evaluations + int(target.cost * len(problem.x) * gradients),
        time.monotonic() - began,
    )
