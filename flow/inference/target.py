r"""What samplers of a posterior ask of a flow, and how several of them are answered in one call.

The prior of whitened latents z is N(0, I), exactly, and x = f(z) is what the flow generates, so

    p(z | y)  ~  N(z; 0, I) L(f(z)),        p(x | y) is what f makes of it,

for any likelihood L of data x. A sampler of one observation is a generator: it yields what it asks
of latents and is sent `Values` of them. `drive` runs the samplers of several observations side by
side and integrates the latents that they ask for together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dnnlib.util import Json
from flow.arguments import How
from flow.flow import Flow

LogLikelihood = Callable[[Tensor], Any]  # data [n, d] -> log likelihoods [n], up to a constant
ROWS = 64  # batches of vectors are multiples of it, of images whole: others round differently


class Values(NamedTuple):
    """What is known of latents.

    Attributes:
        z: whitened latents, [n, d].
        x: data f(z) in its own units, [n, d].
        log_like: log L(x), [n]; -inf where it is impossible.
        slope: its gradient by z, [n, d], where a sampler takes gradients.
    """

    z: Tensor
    x: Tensor
    log_like: Tensor
    slope: Tensor | None = None

    def rows(self, which: Tensor) -> Values:
        """Those of some rows."""
        slope = None if self.slope is None else self.slope[which]
        return Values(self.z[which], self.x[which], self.log_like[which], slope)

    def where(self, these: Tensor, others: Values) -> Values:
        """These rows, bool [n], and the others' elsewhere."""
        take, slope = these[:, None], None
        if self.slope is not None and others.slope is not None:
            slope = torch.where(take, self.slope, others.slope)
        z, x = torch.where(take, self.z, others.z), torch.where(take, self.x, others.x)
        return Values(z, x, torch.where(these, self.log_like, others.log_like), slope)


class Outcome(NamedTuple):
    """What a sampler has found.

    Attributes:
        x: draws, in the data's units, [chains, draws, d].
        z: their whitened latents, [chains, draws, d].
        log_evidence: log p(y), nats; NaN of a sampler that does not tell it.
        effective: independent draws that all of these are worth.
        facts: further plain values.
    """

    x: Tensor
    z: Tensor
    log_evidence: float
    effective: float
    facts: Json


class Ask(NamedTuple):
    """What a sampler asks.

    Attributes:
        z: whitened latents, [n, d].
        gradients: whether it wants the slopes, too.
    """

    z: Tensor
    gradients: bool = False


Sampler = Generator[Ask, Values, Outcome]
Progress = Callable[[int, int], Any]  # told calls of the flow so far, and samplers that are done


@dataclass
class Target:
    """Posteriors of several observations through one flow.

    Attributes:
        flow: the flow.
        log_likelihoods: of each observation.
        labels: classes [classes] of each observation's data; None without classes.
        how: solver, steps, ... of every integration.
        evaluations: of the network, of one sample each.
        impossible: latents whose likelihood was NaN.
    """

    flow: Flow
    log_likelihoods: Sequence[LogLikelihood]
    labels: Tensor | None = None
    how: How = field(default_factory=How)
    evaluations: int = 0
    impossible: int = 0

    def generate(self, z: Tensor, of: Tensor, gradients: bool = False) -> Tensor:
        """Data of whitened latents [n, d] that belong to observations `of` [n]."""
        short = -len(z) % (self.flow.block if self.flow.images else ROWS)
        z = torch.cat([z, z.new_zeros(short, z.shape[1])])
        of = torch.cat([of, of[:1].repeat(short)])
        x = []
        for rows, owners in zip(z.split(self.flow.block), of.split(self.flow.block), strict=True):
            flow = self.flow.given(None if self.labels is None else self.labels[owners])
            t0, T = flow.ends(**self.how)
            u = flow.integrate(rows, T, t0, differentiable=gradients, **self.how)
            x.append(flow.from_whitened(u, t0, "unscaled"))
            self.evaluations += flow.evaluations * len(rows)
        return torch.cat(x)[: len(z) - short]

    def values(self, asked: dict[int, Tensor], gradients: bool) -> dict[int, Values]:
        """What is known of the latents that samplers ask for, number of observation -> [n, d].

        Raises:
            ValueError: if a likelihood is not one.
        """
        z = torch.cat(list(asked.values()))
        of = torch.cat([torch.full((len(v),), i) for i, v in asked.items()])
        sound = torch.isfinite(z).all(1)
        inside = torch.where(sound[:, None], z, 0.0).requires_grad_(gradients)
        x = self.generate(inside, of, gradients)
        with torch.set_grad_enabled(gradients):
            parts = x.split([len(v) for v in asked.values()])
            found = torch.cat([self._log_like(i, p) for i, p in zip(asked, parts, strict=True)])
        slope = None
        if gradients:
            usable = torch.where(torch.isfinite(found), found, 0.0)
            slope = torch.autograd.grad(usable.sum(), inside)[0].nan_to_num(0.0)
        log_like = torch.where(sound, found.detach(), -math.inf)
        values = Values(z, x.detach(), log_like, slope)
        ends = torch.arange(len(z)).split([len(v) for v in asked.values()])
        return {i: values.rows(rows) for i, rows in zip(asked, ends, strict=True)}

    def _log_like(self, i: int, x: Tensor) -> Tensor:
        """Log likelihoods [n] of observation i; a NaN is impossible."""
        found = torch.as_tensor(self.log_likelihoods[i](x)).to(x)
        if found.shape != x.shape[:1]:
            raise ValueError(
                f"log_likelihood gives an array of shape {tuple(found.shape)} for data of shape "
                f"{tuple(x.shape)}; it must give one number a row, [n]"
            )
        if bool((found == math.inf).any()):
            raise ValueError("log_likelihood is infinite: a likelihood has no such values")
        nan = torch.isnan(found)
        self.impossible += int(nan.sum())
        return torch.where(nan, -math.inf, found)


def drive(
    samplers: Sequence[Sampler], target: Target, progress: Progress | None = None
) -> list[Outcome]:
    """Run samplers, of which number i is of observation i of the target, to their ends."""
    done: dict[int, Outcome] = {}
    asked = {i: next(sampler) for i, sampler in enumerate(samplers)}
    calls = 0
    while asked:
        answers: dict[int, Values] = {}
        for gradients in {ask.gradients for ask in asked.values()}:
            alike = {i: ask.z for i, ask in asked.items() if ask.gradients == gradients}
            answers |= target.values(alike, gradients)
        asked = {}
        for i, values in answers.items():
            try:
                asked[i] = samplers[i].send(values)
            except StopIteration as end:
                done[i] = end.value
        calls += 1
        if progress is not None:
            progress(calls, len(done))
    return [done[i] for i in range(len(samplers))]


def effective_size(chains: Tensor) -> float:
    """Independent draws that draws [chains, draws, d] are worth, of the worst dimension.

    It is the variance of draws over that of the mean of all, as chain means tell it. Chains that
    never mix count one each.
    """
    count, draws, _ = chains.shape
    total = chains.flatten(0, 1).var(0)
    of_means = chains.mean(1).var(0)
    worst = float((of_means / total.clamp(min=1e-300)).max())
    return min(count / max(worst, 1e-300), float(count * draws))
