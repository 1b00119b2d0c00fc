"""Distances between two sets of images, as their features see them.

Both distances take features from any network: that of the FID, or a small classifier. Features of
a long stream are summed in float64 in one fixed order, so no number depends on the process count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.util import in_order
from torch_utils import distributed, seeding
from training.basis import moments

SEGMENT = 4096  # images whose features are gathered at a time
POOL = 10_000  # images whose features are kept for the kernel distance


@dataclass
class FeatureStatistics:
    """What is kept of the features of n images.

    Attributes:
        count: n.
        mu: mean, float64 [f].
        sigma: covariance with divisor n - 1, float64 [f, f].
        pool: features of up to POOL of the images, float32 [m, f], in the images' order; None where
            only the moments are known.
    """

    count: int
    mu: Tensor
    sigma: Tensor
    pool: Tensor | None


def feature_statistics(
    read: Callable[[range], np.ndarray],
    network: Callable[[Tensor], Tensor],
    width: int,
    count: int,
    batch: int,
    seed: int = 0,
) -> FeatureStatistics | None:
    """Mean, covariance and a pool of features in one pass; every rank must call this.

    Ranks compute whole batches, and rank 0 sums them in the order of the images, so the result is
    the same, bit for bit, under any number of processes. Rank 0 holds SEGMENT + POOL features:
    some 120 MB at 2,048 features, however many images there are.

    Args:
        read: gives a range of images, uint8 [n, C, H, W]; called in threads.
        network: turns them into features, float32 [n, width].
        width: number of features f.
        count: number of images, at least 2.
        batch: images at a time.
        seed: of the choice of the pool.

    Returns:
        the statistics on rank 0, on the CPU; None elsewhere.
    """
    chosen = np.sort(seeding.generator(seed, "feature pool").permutation(count)[:POOL])
    pool: list[Tensor] = []
    quiet = None if distributed.is_main() else True
    bar = tqdm(total=count, desc="features", unit="img", disable=quiet)

    def stream() -> Iterator[Tensor]:
        for start in range(0, count, SEGMENT):
            n = min(SEGMENT, count - start)
            blocks = [range(start + b.start, start + b.stop) for b in distributed.share(n, batch)]
            parts = []
            for images in in_order(read, blocks, workers=4, ahead=2):
                parts.append(network(torch.from_numpy(images)).cpu())
                bar.update(min(len(images) * distributed.world_size(), start + n - bar.n))
            gathered = distributed.gather_blocks(parts, n, batch)
            if gathered is None:
                yield torch.zeros(0, width)
                continue
            low, high = np.searchsorted(chosen, [start, start + n])
            pool.append(gathered[torch.from_numpy(chosen[low:high] - start)])
            yield gathered

    with bar:
        n, mu, sigma = moments(stream(), width)
    sigma = sigma.cpu() * (n / (n - 1))
    return FeatureStatistics(n, mu.cpu(), sigma, torch.cat(pool)) if pool else None


def statistics_of(features: Tensor) -> FeatureStatistics:
    """The same for features [n, f] that one process holds."""
    x = features.double()
    return FeatureStatistics(len(x), x.mean(0), torch.cov(x.T).reshape(x.shape[1], -1), features)


def frechet_distance(mu: Tensor, sigma: Tensor, mu_ref: Tensor, sigma_ref: Tensor) -> float:
    r"""Squared Frechet distance of two Gaussians.

    $|\mu - \mu_r|^2 + \mathrm{tr}(\Sigma + \Sigma_r - 2 (R \Sigma_r R)^{1/2})$ with
    $R = \Sigma^{1/2}$: R Sigma_r R is symmetric and has the eigenvalues of Sigma Sigma_r, so no
    square root of a general matrix is needed, and singular covariances are no special case.

    Args:
        mu, mu_ref: means, [f].
        sigma, sigma_ref: covariances, [f, f].

    Reference:
        Dowson and Landau, The Frechet distance between multivariate normal distributions, 1982.
    """
    mu, sigma, mu_ref, sigma_ref = (t.double() for t in (mu, sigma, mu_ref, sigma_ref))
    values, vectors = torch.linalg.eigh(sigma)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = torch.linalg.eigvalsh(root @ sigma_ref @ root)
    cross = product.clamp_min(0).sqrt().sum()
    distance = (mu - mu_ref).square().sum() + sigma.trace() + sigma_ref.trace() - 2 * cross
    return max(float(distance), 0.0)  # which rounding alone makes negative


def kernel_distance(
    x: Tensor, y: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy under the kernel (x.y / f + 1)^3, unbiased.

    Args:
        x, y: features, [n, f] and [m, f].
        subsets: how many pairs of random subsets to average over.
        size: images in a subset; fewer if there are fewer.
        seed: of the subsets.

    Returns:
        mean and standard deviation over the subsets; NaN for the latter where there is only one,
        that of all images.

    Raises:
        ValueError: if there are fewer than two images of either kind.

    Reference:
        Binkowski et al., Demystifying MMD GANs, 2018.
    """
    size = min(size, len(x), len(y))
    if size < 2:
        raise ValueError("a kernel distance needs at least 2 images of each kind")
    x, y = x.double(), y.double()
    if len(x) == len(y) == size:
        subsets = 1
    rng = seeding.generator(seed, "kernel subsets")
    values = []
    for _ in range(subsets):
        a = x[torch.from_numpy(rng.permutation(len(x))[:size])]
        b = y[torch.from_numpy(rng.permutation(len(y))[:size])]
        own = sum(k.sum() - k.trace() for k in (_kernel(a, a), _kernel(b, b)))
        values.append(float(own / (size * (size - 1)) - 2 * _kernel(a, b).mean()))
    return float(np.mean(values)), float(np.std(values)) if subsets > 1 else float("nan")


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3  # [n, m]
