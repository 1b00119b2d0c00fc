"""The floating-point operations of matrix products and convolutions, counted as they are called.

PyTorch's own counter (torch.utils.flop_counter) counts the same, for every operator that there is,
and imports PyTorch's compiler: 2 seconds at the start of every command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Function -> multiplications and additions, of its arguments and its result.
PRODUCTS: dict[Any, Callable[..., int]] = {
    nn.functional.linear: lambda out, x, *_: out.numel() * x.shape[-1],
    Tensor.matmul: lambda out, x, *_: out.numel() * x.shape[-1],
    torch.conv2d: lambda out, x, w, *_: out.numel() * w[0].numel(),
    torch.conv_transpose2d: lambda out, x, w, *_: x.numel() * w[0].numel(),
    nn.functional.scaled_dot_product_attention: lambda out, q, k, *_: (
        q.numel() * k.shape[-2] + out.numel() * k.shape[-2]
    ),
}


class Operations(TorchFunctionMode):
    """Counts within its `with` block.

    Attributes:
        total: multiplications and additions so far, two of a fused one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch, and count what it does."""
        out = func(*args, **(kwargs or {}))
        if func in PRODUCTS:
            self.total += 2 * PRODUCTS[func](out, *args)
        return out
