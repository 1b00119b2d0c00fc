"""Work on rows, block by block, shared by all processes and known to all."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from tqdm import tqdm

from torch_utils import distributed


def shared_rows(work: Callable[[range], Tensor], count: int, block: int, label: str) -> Tensor:
    """work(rows) of all blocks of rows, computed by all ranks, with a progress bar on rank 0.

    Args:
        work: rows -> tensor with a row for each, on any device. What it gives may depend on the
            rows alone, so that the result does not depend on the number of processes.
        count: rows in all.
        block: rows at a time.
        label: of the progress bar.

    Returns:
        [count, ...] on the CPU of every rank, in order.
    """
    mine = distributed.share(count, block)
    hidden = None if distributed.is_main() else True
    bar = tqdm(mine, desc=label, unit="block", disable=hidden, leave=False)
    gathered = distributed.gather_blocks([work(rows) for rows in bar], count, block)
    everyone = distributed.broadcast(gathered)
    assert isinstance(everyone, Tensor)
    return everyone
