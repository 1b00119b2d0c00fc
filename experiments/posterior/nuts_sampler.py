r"""The sampler `nuts`: pyro's No-U-Turn sampler on weights and latents together.

Its position is one vector (v, q): v = logits of the weights but for the last, which is held at
zero, as the posterior does not change if all logits are shifted together (and neither does the
paper's flat prior on them); q = the latents in the whitened units of `energy.LatentTarget`. Labels
are summed out. All latents move, and are accepted, together, so that one step must suit the
steepest; pyro adapts the units of all to each other (its diagonal mass matrix) in the warm-up.

Reference: Hoffman and Gelman 2014, "The No-U-Turn sampler".
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.posterior.chains import Chain, Facts, Sampler, of_gradients, seeded
from experiments.posterior.energy import LatentTarget, log_joint
from experiments.posterior.options import SamplerOptions
from experiments.posterior.posterior import Draws, Problem, Truth, start_weights
from torch_utils import seeding

SITE = "position"
START_STEP = 0.5  # pyro looks for a better one itself


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
        v, q = (position * self.scale).split([self.free, self.target.centre.numel()])
        log_w = torch.log_softmax(torch.cat([v, v.new_zeros(1)]), 0)
        return log_w, self.target.latents(q.reshape(self.target.centre.shape))


def begin(target: LatentTarget, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Where a chain begins and in which units, each [K - 1 + n d]: apart from other chains."""
    q = target.begin(rng)
    w = torch.from_numpy(start_weights(len(target.problem.concentration), rng)).to(q)
    logits = (w[:-1] / w[-1]).log()
    spread = ((1 / w[:-1] + 1 / w[-1]) / len(q)).sqrt()  # of logits, if the labels were known
    scale = torch.cat([spread, torch.ones_like(q).flatten()])
    return torch.cat([logits, q.flatten()]) / scale, scale


class State(NamedTuple):
    """A chain that is warm; a warm-up that is cut short is repeated.

    Attributes:
        position: [K - 1 + n d].
        scale: what it is multiplied by, [K - 1 + n d].
        step_size: what warm-up has made of it.
        spent: gradients in all.
        spent_warm: gradients after warm-up.
        diverged: draws whose energy diverged.
    """

    position: Tensor
    scale: Tensor
    step_size: float
    spent: float
    spent_warm: int = 0
    diverged: int = 0


class NutsSampler(Sampler):
    """The No-U-Turn sampler on weights and latents together.

    `burn` is warm-up, a step size given is that to begin with, `traj_length` the most leapfrog
    steps of a draw: 15 are a tree of depth 4. Trajectories hold, for each recorded draw, logits and
    latents in the order of evaluation. Every draw seeds the generator that pyro draws from, so that
    a saved chain needs no random state, and other users of that generator do not notice.

    Raises:
        ValueError: if pyro is missing, or the flow is not finite on the data.
    """

    name, state = "nuts", State

    def __init__(
        self, problem: Problem, truth: Truth, options: SamplerOptions, folder: Path | None = None
    ):
        pyro_nuts()
        self.target = LatentTarget(problem, options.seed, folder)
        self.kernels: dict[int, tuple[Joint, Any]] = {}  # of chains that are warm
        super().__init__(self.target.problem, options, options.mcmc_n)

    def init(self, chain: Chain) -> State:
        """Adapt step size and units."""
        o = self.options
        position, scale = begin(self.target, self.random(chain.number, 0))
        joint = Joint(self.target, scale)
        with self._seeded(chain, 0):
            kernel = self._kernel(joint, position, o.step_size or START_STEP, o.burn)
        for iteration in range(o.burn):
            position = self._draw(joint, kernel, iteration, chain)
            chain.tell(iteration + 1, {"step": f"{kernel.step_size:.2g}"})
        if o.burn:
            (variance,) = kernel.inverse_mass_matrix.values()
            position, scale = position / variance.sqrt(), scale * variance.sqrt()
        return State(position, scale, float(kernel.step_size), float(joint.gradients))

    def step(self, state: State, draw: int, chain: Chain) -> tuple[State, int, Facts]:
        """The next draw of a warm chain."""
        if chain.number not in self.kernels:
            joint = Joint(self.target, state.scale)
            kernel = self._kernel(joint, state.position, state.step_size, 0)
            self.kernels[chain.number] = joint, kernel
        joint, kernel = self.kernels[chain.number]
        before = joint.gradients
        position = self._draw(joint, kernel, self.options.burn + draw, chain)
        log_w, z = joint.split(position)
        chain.draw(draw, log_w.exp()[None].cpu().numpy(), lambda draws: z[None].cpu().numpy())
        spent, diverged = joint.gradients - before, kernel.diagnostics()["divergences"]
        state = state._replace(
            position=position, spent=state.spent + spent, spent_warm=state.spent_warm + spent,
            diverged=state.diverged + len(diverged),
        )  # fmt: skip
        diverged.clear()
        return state, self.options.burn + draw + 1, {"gradients": str(spent)}

    def summary(self, found: dict[str, np.ndarray]) -> Draws:
        """The draws, with what there is to know about the chains."""
        target, o = self.target, self.options
        made = o.chains * max(1, o.mcmc_n)
        statistics = {
            "step_size": found["step_size"].tolist(),
            "gradients_per_draw": float(found["spent_warm"].sum() / made),
            "divergent_share": float(found["diverged"].sum() / made),
            "tree_depth_at_most": tree_depth(o.traj_length),
            "logits": "the last is held at 0",
            **of_gradients(self, target.cost),
        }
        gradients = found["spent"].sum()
        cost = target.setup_evaluations + int(target.cost * len(target.centre) * gradients)
        return Draws(found["weights"], statistics=statistics, evaluations=cost)

    def _kernel(self, joint: Joint, position: Tensor, step_size: float, warm_up: int) -> Any:
        """A kernel at a position; it adapts step size and units for `warm_up` draws."""
        kernel = pyro_nuts()(
            potential_fn=joint,
            step_size=step_size,
            adapt_step_size=warm_up > 0,
            adapt_mass_matrix=warm_up > 0,
            target_accept_prob=self.options.acpt,
            max_tree_depth=tree_depth(self.options.traj_length),
        )
        kernel.initial_params = {SITE: position}
        kernel.setup(warm_up)
        return kernel

    def _draw(self, joint: Joint, kernel: Any, iteration: int, chain: Chain) -> Tensor:
        """The next position; its trajectory is recorded if it is one of those."""
        path: list[Tensor] | None = [] if chain.store.records(iteration) else None
        joint.path = path
        with self._seeded(chain, iteration + 1):
            position = kernel.sample(kernel.initial_params)[SITE].detach()
        joint.path = None
        if path is not None:
            length = 2 ** tree_depth(self.options.traj_length) - 1
            path = path[:length] + [path[-1]] * (length - len(path))
            chain.record(iteration, torch.stack(path).cpu().numpy())
        return position

    def _seeded(self, chain: Chain, iteration: int) -> AbstractContextManager[None]:
        """Random numbers for one iteration of a chain."""
        seed = seeding.integer(self.options.seed, "nuts", chain.number, iteration)
        return seeded(self.target.centre.device, seed)


def tree_depth(leapfrog_steps: int) -> int:
    """Doublings of a trajectory of at most so many leapfrog steps, at least one."""
    return max(1, math.floor(math.log2(leapfrog_steps + 1)))
