"""Latents that generation starts from: Gaussian, or in part those of data.

Where a schedule does not inflate the compressed dimensions, their latents keep some of the data's
own shape, and the schedule's Gaussian is the wrong distribution to draw them from. "empirical"
latents are Gaussian with the variances that inflated data has, as published. Those of "donors" are
Gaussian in the kept dimensions and take the compressed ones, together, from a donor: the latent of
a random image of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from flow.flow import Flow
from flow.steppers import value_of
from torch_utils import distributed, seeding
from training.data.image_labels import spelled

FEW = 100  # samples, of which variances are known to 14 %


@dataclass
class Donors:
    """Inflated data whose compressed dimensions are lent out.

    Attributes:
        rows: whitened latents, [m, d].
        classes: class of each, [m]; None without classes.
    """

    rows: Tensor
    classes: np.ndarray | None = None

    def of_class(self, number: int | None) -> Donors:
        """The donors of one class, by its number; all of them for None, or without classes.

        Raises:
            ValueError: if there is none.
        """
        if number is None or self.classes is None:
            return self
        mine = np.flatnonzero(self.classes == number)
        if not len(mine):
            raise ValueError(
                "--class: the inflated data has no sample of this class to take "
                "compressed latents from; inflate more (--bs), or use --gen_source=diag"
            )
        return Donors(self.rows[torch.from_numpy(mine)], self.classes[mine])

    def picks(self, seed: int, start: int, stop: int) -> np.ndarray:
        """Donors of the samples start..stop of a seed's stream, [stop - start]."""
        draws = seeding.rows(lambda n, rng: rng.integers(0, 2**62, n), seed, "donors", start, stop)
        return draws % len(self.rows)

    def lend(self, flow: Flow, u: Tensor, picks: np.ndarray) -> Tensor:
        """Whitened Gaussian latents u [n, d] with the compressed dimensions of donors [n]."""
        k = flow.schedule.dims_to_keep
        return torch.cat([u[:, :k], self.rows[torch.from_numpy(picks)][:, k:].to(u)], dim=1)


@dataclass
class Empirical:
    """Variances of inflated data, which Gaussian latents get.

    Attributes:
        sds: of whitened latents, [d].
    """

    sds: Tensor
    classes: ClassVar[None] = None  # variances are those of all classes

    def of_class(self, _: int | None) -> Empirical:
        """Itself, for any class."""
        return self

    def picks(self, _: int, start: int, stop: int) -> np.ndarray:
        """No donors, [stop - start]."""
        return np.zeros(stop - start, dtype=np.int64)

    def lend(self, _: Flow, u: Tensor, __: np.ndarray) -> Tensor:
        """Whitened Gaussian latents u [n, d] with these variances."""
        return u * self.sds.to(u)


Lender = Donors | Empirical | None


def lender(gen_source: str, rows: Tensor, classes: np.ndarray | None) -> Lender:
    """What --gen_source makes of inflated data; None for "diag", which needs none.

    Args:
        gen_source: one of `options.GEN_SOURCES`.
        rows: whitened latents as `Flow.carry` gives them, [m, ...].
        classes: class of each, [m]; None without classes.

    Raises:
        ValueError: if there are too few of them for a variance.
    """
    if gen_source == "diag":
        return None
    rows = value_of(rows)
    if gen_source == "donors":
        return Donors(rows, classes)
    m = len(rows)
    if m < 2:
        raise ValueError(f"--gen_source=empirical takes variances of an inflation of {m} sample")
    if m < FEW:
        distributed.print0(
            f"Note: --gen_source=empirical takes variances of {m} samples, which know them to "
            f"{100 / np.sqrt(m / 2):.0f} %"
        )
    return Empirical(rows.std(0))


def seed_latents(
    flow: Flow,
    seeds: range,
    eps: float | None,
    donors: Lender,
    t: float | None = None,
) -> Tensor:
    """One whitened latent a seed, at time t (None: tmax), whatever the other seeds, [n, d].

    That of seed k is the first of `flow.latents(1, k)`.
    """
    d = flow.schedule.data_dim
    z = np.stack([seeding.generator(k, "latents").standard_normal(d) for k in seeds])
    u = flow.colour(torch.from_numpy(z), eps, t)
    if donors is None:
        return u
    return donors.lend(flow, u, np.array([int(donors.picks(k, 0, 1)[0]) for k in seeds]))


def _label_dim(flow: Flow) -> int:
    return int(getattr(getattr(flow.model, "model", None), "label_dim", 0))


def classes_of(flow: Flow) -> int:
    """Classes that the network is given, 0 for none."""
    return 0 if flow.unlabelled else _label_dim(flow)


def one_hot(flow: Flow, classes: np.ndarray | None) -> Tensor | None:
    """Class numbers [n] as the labels that the network takes, [n, classes]."""
    if classes is None:
        return None
    number = torch.from_numpy(classes.astype(np.int64))
    return torch.nn.functional.one_hot(number, classes_of(flow)).float()


def class_labels(flow: Flow) -> np.ndarray:
    """What the data called each class of a network, increasing, int64 [classes]."""
    classes = _label_dim(flow)
    stored = _per_class(flow, "class_labels", classes)
    if stored is None or (np.diff(stored) <= 0).any():
        return np.arange(classes)  # of files that do not say
    return stored


def drawn_of(flow: Flow) -> np.ndarray:
    """Numbers of the classes that random classes are drawn from: those with training images."""
    classes = _label_dim(flow)
    images = _per_class(flow, "class_images", classes)
    if images is None or not images.any():
        return np.arange(classes)
    return np.flatnonzero(images)


def _per_class(flow: Flow, key: str, classes: int) -> np.ndarray | None:
    stored = flow.info.get("data", {}).get(key)
    if not isinstance(stored, list) or len(stored) != classes:
        return None
    fit = all(type(k) is int and 0 <= k < 2**62 for k in stored)
    return np.array(stored, np.int64) if fit else None


def class_number(flow: Flow, label: int | str | None) -> int | None:
    """The number of the class that the data called `label`; None for None.

    Raises:
        ValueError: saying which labels there are.
    """
    if label is None:
        return None
    labels = class_labels(flow)
    if not len(labels):
        raise ValueError(f"--class={label}: the network is not conditional; leave --class out")
    if label not in labels:
        raise ValueError(f"--class={label}: the network's classes are {spelled(labels)}")
    return int(np.searchsorted(labels, label))


def random_classes(seed: int, start: int, stop: int, classes: int) -> np.ndarray:
    """Classes of the samples start..stop of a seed's stream, [stop - start]."""
    return seeding.rows(lambda n, rng: rng.integers(0, classes, n), seed, "classes", start, stop)


def latent_summary(flow: Flow, latents: np.ndarray, stop: float) -> dict[str, float]:
    """How Gaussian the latents of data are, by group of dimensions.

    Args:
        flow: the flow.
        latents: scaled_es latents, [n, d].
        stop: their time.

    Returns:
        participation ratio, and for kept, compressed and born-compressed dimensions the rms of
        the whitened latents (1 if Gaussian as assumed) and their mean excess kurtosis (0).
    """
    schedule = flow.schedule
    u = latents / schedule.latent_variance(stop).sqrt().cpu().numpy()
    born = (schedule.xi < schedule.gamma0).cpu().numpy() & (not schedule.proportional)
    kept = np.arange(schedule.data_dim) < schedule.dims_to_keep
    variances = torch.from_numpy(latents.var(0))
    summary = {
        "participation_ratio": float(variances.sum() ** 2 / variances.square().sum()),
        "share_born_compressed": float(born.mean()),
    }
    for name, group in {"kept": kept & ~born, "compressed": ~kept & ~born, "born": born}.items():
        if group.any():
            v = u[:, group]
            z = (v - v.mean(0)) / v.std(0).clip(1e-300)
            summary[f"latent_rms_{name}"] = float(np.sqrt(np.mean(v**2)))
            summary[f"excess_kurtosis_{name}"] = float(np.mean(z**4) - 3)
    return summary
