"""A flow as a `torch.distributions` distribution, such as a prior of pyro models.

from flow import load_flow
from flow.inference.distribution import FlowDistribution

prior = FlowDistribution(load_flow("out"), steps=8)
x = pyro.sample("x", prior)  # differentiable: pyro's NUTS takes it
"""

from __future__ import annotations

from typing import Any, ClassVar, Unpack, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from flow.arguments import How, VolumeHow
from flow.flow import Flow
from flow.likelihood import log_prob


class FlowDistribution(Distribution):
    """The data of a flow, in their own units, with the noise of t = 0.

    Args:
        flow: the flow.
        how: solver, steps, trace, probes, ... of `likelihood.inflate_with_volume`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, flow: Flow, **how: Unpack[VolumeHow]):
        d = flow.schedule.data_dim
        self.flow, self.how = flow, how
        path = {k: v for k, v in how.items() if k not in ("trace", "probes", "seed")}
        self.path = cast(How, path)
        super().__init__(torch.Size(), torch.Size([d]), validate_args=False)

    @property
    def support(self) -> Any:
        """All of R^d."""
        return constraints.independent(constraints.real, 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Distribution:
        """Independent copies, of a batch shape."""
        new = type(self)(self.flow, **self.how)
        new._batch_shape = torch.Size(batch_shape)
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Samples [*sample_shape, *batch_shape, d]; autograd goes through the steps.

        Latents come from torch's own generator (`torch.manual_seed`).
        """
        return self.from_latents(self._latents(sample_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """The same without a graph."""
        return self.from_latents(self._latents(sample_shape), differentiable=False)

    def __call__(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """`rsample`: how pyro draws."""
        return self.rsample(sample_shape)

    def _latents(self, sample_shape: Any) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return torch.randn(shape, dtype=self.flow.dtype, device=self.flow.device)

    def from_latents(self, z: Tensor, differentiable: bool = True) -> Tensor:
        """Whitened latents [..., d] to data."""
        how: How = {**self.path, "differentiable": differentiable}
        x = self.flow.generate(z.reshape(-1, z.shape[-1]), coords="whitened", **how)
        return x.reshape(z.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, nats, [...], of data [..., d]; differentiable where the data are."""
        rows = value.reshape(-1, value.shape[-1])
        how: VolumeHow = {
            **self.how,
            "differentiable": torch.is_grad_enabled() and value.requires_grad,
        }
        return log_prob(self.flow, rows, **how).value.reshape(value.shape[:-1])
