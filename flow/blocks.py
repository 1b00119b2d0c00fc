"""Work on blocks of rows, shared by all ranks and gathered on the first."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor
from tqdm import tqdm

from torch_utils import distributed
from torch_utils.shared_work import NOTHING_KEPT, Parts


def my_blocks(count: int, block: int, label: str) -> Iterable[range]:
    """This rank's blocks of rows, with a progress bar on rank 0."""
    hidden = None if distributed.is_main() else True
    mine = distributed.share(count, block)
    return tqdm(mine, desc=label, unit="block", leave=False, disable=hidden)


def gathered(
    work: Callable[[range], dict[str, Tensor]],
    count: int,
    block: int,
    label: str,
    parts: Parts = NOTHING_KEPT,
) -> dict[str, Tensor] | None:
    """What work(rows) gives of all blocks; every rank must call this.

    Args:
        work: rows -> name -> tensor with a row for each. What it gives may depend on the rows
            alone, so that the result does not depend on the number of processes.
        count: rows in all.
        block: rows at a time.
        label: of the progress bar.
        parts: keeps finished blocks; what `work` gives must then be on the CPU.

    Returns:
        on rank 0 [count, ...] of each name, on the CPU, in order; elsewhere None.
    """
    done = [parts.get(rows, lambda r=rows: work(r)) for rows in my_blocks(count, block, label)]  # type: ignore[misc]
    names = distributed.broadcast(list(done[0]) if done else [])
    found = {k: distributed.gather_blocks([rows[k] for rows in done], count, block) for k in names}
    return {k: v for k, v in found.items() if v is not None} if distributed.is_main() else None
