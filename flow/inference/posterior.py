r"""The door to posteriors: a flow of the data, a likelihood of what was measured, draws.

from flow import load_flow, Posterior, observe

flow = load_flow("out")
posterior = Posterior(flow, observe([0.3, float("nan")], noise=0.1))
draws = posterior.sample(2000, seed=0)  # draws.x [2000, d], draws.log_evidence, ...
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Unpack, get_args

import numpy as np
import torch
from torch import Tensor

from flow.arguments import How, check_integration, positive, whole
from flow.flow import Flow
from flow.inference.diagnostics import inference_data
from flow.inference.hmc import Hmc, Start
from flow.inference.importance import Importance
from flow.inference.smc import Smc
from flow.inference.target import LogLikelihood, Outcome, Progress, Target, drive
from flow.latents import class_number, classes_of, one_hot
from torch_utils import seeding

SETTINGS: dict[str, type[Smc] | type[Hmc] | type[Importance]] = {
    "smc": Smc, "hmc": Hmc, "importance": Importance,
}  # fmt: skip
HOW: How = {"solver": "rk4", "steps": 4}  # of vectors
IMAGE_HOW: How = {"solver": "ab2", "steps": 16}
# Of images, for what their networks cost, where it is not given.
IMAGE_SETTINGS: dict[str, dict[str, Any]] = {
    "smc": {"particles": 256},
    "hmc": {"start": "annealing", "warmup": 6, "draws": 4, "leapfrogs": 8},
}


class Draws(NamedTuple):
    """Draws of a posterior, equally weighted.

    Attributes:
        x: data in its own units, [n, d], float64, on the flow's device.
        z: their whitened latents, [n, d]: N(0, I) in the prior.
        log_evidence: log p(y), nats; NaN with hmc, which does not tell it.
        effective: independent draws that these are worth.
        chains: all draws by chain (hmc), or all of them as one, [chains, draws, d]: x, then z.
        facts: of the sampler, plain values.
        notes: what must be known of these draws, a sentence each.
        columns: names of the data's columns, where a table named them.
    """

    x: Tensor
    z: Tensor
    log_evidence: float
    effective: float
    chains: tuple[Tensor, Tensor]
    facts: dict[str, Any]
    notes: tuple[str, ...]
    columns: tuple[str, ...] | None = None

    def to_arviz(self) -> Any:
        """As arviz's InferenceData; from arviz 1 on, as xarray's DataTree.

        Raises:
            ValueError: if arviz is not installed.
        """
        x, z = (v.cpu().numpy() for v in self.chains)
        names = self.columns or tuple(f"x{j}" for j in range(x.shape[2]))
        latents = [f"z{j}" for j in range(z.shape[2])]
        labels = {
            "coords": {"column": list(names), "latent": latents},
            "dims": {"x": ["column"], "z": ["latent"]},
        }
        return inference_data({"x": x, "z": z}, **labels)


class Posteriors:
    """Posteriors of several observations through one flow, sampled side by side.

    Args:
        flow: of the data.
        log_likelihoods: one for each observation: observation models of `observe`, or functions of
            data x [n, d], float64, that give log likelihoods [n]. A NaN counts as impossible.
        class_labels: of a class-conditional flow: the class of each observation, as the data
            calls it, or one-hot labels [observations, classes].
        how: solver, steps, ... of every integration; by default RK4 in 4 steps, of images AB2
            in 16.

    Raises:
        ValueError: naming what does not fit.
    """

    def __init__(
        self,
        flow: Flow,
        log_likelihoods: Sequence[Any],
        class_labels: Any = None,
        **how: Unpack[How],
    ):
        self.flow = flow
        self.how: How = {**(IMAGE_HOW if flow.images else HOW), **how}
        told = self.how
        settings = {k: v for k, v in told.items() if k not in ("solver", "steps", "times")}
        check_integration(told["solver"], told["steps"], told.get("times"), settings, graph=False)
        self.log_likelihoods = [likelihood(v, flow) for v in log_likelihoods]
        self.labels = labels_of(flow, class_labels, len(self.log_likelihoods))

    def sample(
        self,
        n: int,
        seed: int = 0,
        method: str = "smc",
        *,
        first: int = 0,
        progress: Progress | None = None,
        **settings: Any,
    ) -> list[Draws]:
        """Draw from all posteriors.

        Args:
            n: draws of each.
            seed: of all random numbers; those of an observation depend on its number alone, not
                on what is sampled with it.
            method: "smc": tempered, without gradients, for several modes, with evidence. "hmc":
                gradients through the flow, chains side by side. "importance": few dimensions.
            first: number of the first observation.
            progress: see `target.drive`.
            settings: of the sampler, see `smc.Smc`, `hmc.Hmc` and `importance.Importance`.

        Raises:
            ValueError: naming the argument, or if a likelihood is zero everywhere.
        """
        whole("n", n, 1)
        whole("seed", seed, 0)
        chosen = settings_of(method, n, self.flow.images, settings)
        target = Target(self.flow, self.log_likelihoods, self.labels, self.how)
        like, d = self.flow.latents(1, 0), self.flow.schedule.data_dim
        numbers = range(first, first + len(self.log_likelihoods))
        seeds = [seeding.integer(seed, "observation", i) for i in numbers]
        samplers = [chosen.sample(s, d, like) for s in seeds]
        outcomes = drive(samplers, target, progress)
        notes = self._notes(target)
        facts = {"method": method, "evaluations": target.evaluations // len(outcomes)}
        columns = None if self.flow.columns is None else tuple(self.flow.columns)
        return [
            gathered(o, n, s, facts, notes, columns) for o, s in zip(outcomes, seeds, strict=True)
        ]

    def _notes(self, target: Target) -> tuple[str, ...]:
        """What must be known of the draws, which is also a warning where it went wrong."""
        notes = compressed(self.flow)
        if target.impossible:
            line = f"log_likelihood was NaN of {target.impossible} latents: taken as impossible"
            warnings.warn(line, stacklevel=3)
            notes.append(line)
        return tuple(notes)


class Posterior:
    """The posterior of one observation through a flow; arguments of `Posteriors`, but for one."""

    def __init__(
        self, flow: Flow, log_likelihood: Any, class_labels: Any = None, **how: Unpack[How]
    ):
        labels = None if class_labels is None else [class_labels]
        self.all = Posteriors(flow, [log_likelihood], labels, **how)

    @staticmethod
    def batch(
        flow: Flow, log_likelihoods: Sequence[Any], class_labels: Any = None, **how: Unpack[How]
    ) -> Posteriors:
        """Posteriors of several observations, sampled side by side."""
        return Posteriors(flow, log_likelihoods, class_labels, **how)

    def sample(self, n: int, seed: int = 0, method: str = "smc", **settings: Any) -> Draws:
        """Draw; see `Posteriors.sample`. What comes is the first of a batch's with that seed."""
        (draws,) = self.all.sample(n, seed, method, **settings)
        return draws


def settings_of(
    method: str, n: int, images: bool, settings: dict[str, Any]
) -> Smc | Hmc | Importance:
    """The settings of a sampler, with enough particles or chains for n draws.

    Raises:
        ValueError: naming what it has not.
    """
    if method not in SETTINGS:
        raise ValueError(f"method={method!r} is none of {', '.join(SETTINGS)}")
    kind = SETTINGS[method]
    known = [f.name for f in fields(kind)]
    for name in settings:
        if name not in known:
            raise ValueError(f"method={method!r} has no {name}; it has {', '.join(known)}")
    here = IMAGE_SETTINGS.get(method, {}) if images else {}
    chosen = kind(**{**here, **settings})
    for f in fields(kind):
        value = getattr(chosen, f.name)
        if isinstance(f.default, int):
            whole(f.name, value, {"n": 0, "warmup": 2}.get(f.name, 1))
        elif isinstance(f.default, float):
            positive(f.name, value)
    if isinstance(chosen, Hmc):
        if chosen.start not in get_args(Start):
            raise ValueError(f"start={chosen.start!r} is none of {', '.join(get_args(Start))}")
        if chosen.start == "annealing" and "moves" in settings:
            raise ValueError("moves are of start='smc', and start='annealing' makes none")
    return chosen.enough(n)


def likelihood(given: Any, flow: Flow) -> LogLikelihood:
    """The function of an observation model, or the function itself.

    Raises:
        ValueError: if it is neither, or of data of other dimensions.
    """
    d, dim = flow.schedule.data_dim, getattr(given, "dim", None)
    if dim is not None and dim != d:
        raise ValueError(f"the observation is of data of {dim} dimensions; this flow has {d}")
    found = getattr(given, "log_likelihood", given)
    if not callable(found):
        raise ValueError(
            f"a {type(given).__name__} is no likelihood: give observe(...), or a function of data "
            "[n, d] that gives log likelihoods [n]"
        )
    return found


def labels_of(flow: Flow, given: Any, count: int) -> Tensor | None:
    """One-hot classes [count, classes] of observations; None for a flow without classes.

    Raises:
        ValueError: if they are missing, or the flow has none.
    """
    classes = classes_of(flow)
    if given is None:
        if classes:
            raise ValueError(f"this flow has {classes} classes: say by class_labels of which it is")
        return None
    if not classes:
        raise ValueError("class_labels: this flow is not conditional; leave them out")
    labels = [v if isinstance(v, Tensor) else torch.as_tensor(v) for v in given]
    if len(labels) != count:
        raise ValueError(f"class_labels: {len(labels)} for {count} observations")
    if all(v.dim() == 0 for v in labels):
        numbers = np.array([class_number(flow, int(v)) for v in labels])
        found = one_hot(flow, numbers)
        assert found is not None
        return found.to(flow.device)
    if any(v.shape != (classes,) for v in labels):
        raise ValueError(f"class_labels: give a class each, or one-hot labels of {classes} classes")
    return torch.stack(labels).float().to(flow.device)


def gathered(
    outcome: Outcome,
    n: int,
    seed: int,
    facts: dict[str, Any],
    notes: tuple[str, ...],
    columns: tuple[str, ...] | None,
) -> Draws:
    """n draws of those of a sampler: as far apart within chains as can be, chains at random."""
    chains, length, _ = outcome.z.shape
    each = -(-n // chains)
    when = length - 1 - np.arange(each) * length // each  # the last ones first
    order = seeding.generator(seed, "chosen").permutation(chains)
    rows = torch.from_numpy((order * length + when[:, None]).flatten()[:n])
    x, z = (v.flatten(0, 1)[rows.to(v.device)] for v in outcome[:2])
    effective = 1 / (1 / n + 1 / outcome.effective)
    told = {**facts, **outcome.facts}
    kept = outcome[:2] if facts["method"] == "hmc" else (x[None], z[None])
    return Draws(x, z, outcome.log_evidence, effective, kept, told, notes, columns)


def compressed(flow: Flow) -> list[str]:
    """What the prior is in the compressed dimensions, and where its latents are not Gaussian."""
    s = flow.schedule
    notes = [f"prior: {warning}" for warning in s.warnings()]
    if s.dims_to_keep < s.data_dim:
        rest = s.latent_variance()[s.dims_to_keep :]
        low, high = float(rest.min()), float(rest.max())
        notes.insert(
            0,
            f"the posterior is that of all {s.data_dim} latents: {s.dims_to_keep} kept, of "
            f"variance {s.A0**2:g}, and {len(rest)} compressed, of variance {low:.3g}"
            + (f" to {high:.3g}" if high > 1.001 * low else "")
            + " in the paper's coordinates; z is whitened, of unit variances in the prior",
        )
    return notes
