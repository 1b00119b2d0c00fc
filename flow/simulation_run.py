"""The three simulations of a run, inflation, round trip and generation, for toys and images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib import cli
from dnnlib.cli import UserError
from dnnlib.util import atomic_path
from flow.flow import Flow
from flow.latents import Lender, class_labels, drawn_of, everywhere, lender, random_classes
from flow.simulation import Method, Result, simulate
from torch_utils import distributed
from torch_utils.peers import agree_on_file
from training.batches import Source
from training.data.toys import own_dimensions, trained_on

KINDS = ("melt", "roundtrip", "gen")


@dataclass
class Simulations:
    """What to simulate.

    Attributes:
        flow: the flow.
        method: how to integrate.
        total: samples of each simulation.
        kinds: which of `KINDS`.
        seed: of the latents (and classes) of generation.
        x: data in its own units, [total, d]; needed to inflate.
        inflated: whitened final states of an earlier inflation, [total, d], or [total, 2, d] of
            the reversible solver; needed by a round trip without inflation.
        classes: of the network; 0 for none.
        data_classes: numbers of the classes of the data, [total]; None without.
        eps: see `Flow.latents`.
        donors: of an earlier inflation, see `latents.lender`; None for none.
        gen_source: what generation takes of this run's own inflation, if it makes one.
        gen_class: number of the class to generate; None for random ones, or those of the donors.
        save_freq: see `simulation.kept_steps`.
        dtype: of the arrays that are kept.
    """

    flow: Flow
    method: Method
    total: int
    kinds: tuple[str, ...]
    seed: int
    x: Tensor | None = None
    inflated: Tensor | None = None
    classes: int = 0
    data_classes: np.ndarray | None = None
    eps: float | None = None
    donors: Lender = None
    gen_source: str = "diag"
    gen_class: int | None = None
    save_freq: int | None = None
    dtype: torch.dtype = torch.float64

    def run(self) -> dict[str, Result]:
        """Simulate, in a session; every rank must call this.

        Raises:
            UserError: if there are no donors of the class.
        """
        results: dict[str, Result] = {}
        if "melt" in self.kinds:
            results["melt"] = self._simulate(self._data, False, "inflation", self.data_classes)
        if "roundtrip" in self.kinds:
            melt = results.get("melt")

            def latents(number: int, block: range) -> Tensor:
                if melt is not None:
                    return melt.final[number]
                assert self.inflated is not None
                return self._pair(self.inflated[block.start : block.stop])

            results["roundtrip"] = self._simulate(latents, True, "round trip", self.data_classes)
        if "gen" in self.kinds:
            results["gen"] = self._generate(results.get("melt"))
        return results

    def _generate(self, melt: Result | None) -> Result:
        donors = self.donors
        if self.gen_source != "diag" and melt is not None:
            states = everywhere(melt.final, self.total, self.flow.block)
            with cli.user_errors():
                donors = lender(self.gen_source, states, self.data_classes)
        picks, classes = None, None
        if donors is not None:
            with cli.user_errors():
                donors = donors.of_class(self.gen_class)
            picks = donors.picks(self.seed, 0, self.total)
        if self.gen_class is not None:
            classes = np.full(self.total, self.gen_class)
        elif self.classes and donors is not None and donors.classes is not None:
            classes = donors.classes[picks]
        elif self.classes:
            drawn = drawn_of(self.flow)
            classes = drawn[random_classes(self.seed, 0, self.total, len(drawn))]

        def latents(_: int, block: range) -> Tensor:
            n, stop = len(block), self.method.stop
            u = self.flow.latents(n, self.seed, self.eps, block.start, t=stop)
            if donors is not None and picks is not None:
                u = donors.lend(self.flow, u, picks[block.start : block.stop])
            return self._pair(u)

        return self._simulate(latents, True, "generation", classes)

    def _simulate(
        self, start: Any, backward: bool, label: str, classes: np.ndarray | None
    ) -> Result:
        labels = None
        if classes is not None:
            number = torch.from_numpy(classes.astype(np.int64))
            labels = torch.nn.functional.one_hot(number, self.classes).float()
        result = simulate(
            self.flow, self.method, self.total, start, backward, self.save_freq, label,
            self.dtype, labels,
        )  # fmt: skip
        if classes is not None and result.arrays:
            result.arrays["classes"] = class_labels(self.flow)[classes]
        return result

    def _data(self, _: int, block: range) -> Tensor:
        assert self.x is not None
        x = self.x[block.start : block.stop]
        return self._pair(self.flow.to_whitened(x, self.method.start, "unscaled"))

    def _pair(self, u: Tensor) -> Tensor:
        """States as the solver carries them: the reversible one carries two, [2, n, d]."""
        if u.dim() == 3:
            return u.transpose(0, 1)
        return torch.stack([u, u]) if self.method.solver == "reversible" else u


def save_results(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as an .npz, atomically."""
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]


def check_gen_source(flow: Flow, gen_source: str, eps: float | None) -> None:
    """Check --gen_source against --eps and the schedule.

    Raises:
        UserError: if both say what compressed latents are.
    """
    if gen_source == "diag":
        return
    if eps is not None:
        raise UserError(
            f"--eps={eps:g} and --gen_source={gen_source} both say what compressed latents are: "
            "give one of them"
        )
    if gen_source == "donors" and flow.schedule.name == "PRP":
        distributed.print0("Note: nothing is compressed in PRP, so --gen_source=donors means diag")


def check_network_dimensions(flow: Flow, options: dict[str, Any]) -> None:
    """Check what options say of the network: dimensions, latent variance, size of its images.

    Raises:
        UserError: naming the option and both values.
    """
    s, shape = flow.schedule, getattr(flow.model, "shape", None) or (None, None)
    known: dict[str, Any] = {"data_dim": s.data_dim, "dims_to_keep": s.dims_to_keep}
    known |= {"end_vars": s.A0**2, "img_ch": shape[0], "img_size": shape[-1]}
    data = flow.info.get("data", {})
    if "augment_to" in data and options["data_dim"] == own_dimensions(trained_on(flow.info)):
        known.pop("data_dim")  # published commands give those of the set that is embedded
    for option, value in known.items():
        if options.get(option) not in (None, value):
            raise UserError(
                f"--{option}={options[option]} contradicts the network, which has {option}={value} "
                f"(schedule {s.name}); leave the option out or name another network"
            )


def check_content(flow: Flow, source: Source, option: str, shown: object) -> None:
    """Compare data among processes, and say where they are not what the network was trained on.

    Raises:
        UserError: naming a process that has other data.
    """
    agree_on_file(option, shown, source.content_hash())
    if flow.info.get("data", {}).get("sha256") not in (None, source.content_hash()):
        distributed.print0(
            f"Note: {option}={shown} is not the data that the network was trained on (other "
            "content)"
        )


def check_results(
    path: str | Path, made_from: dict[str, str | None], option: str = "--save_dir"
) -> None:
    """Check, on rank 0, that results to be written are not there already of something else.

    Args:
        path: .json of the results, which says what they were made from.
        made_from: network_sha256 or data_sha256, wherever the .json has it -> the digest now.
        option: that names the folder.

    Raises:
        UserError: if they are.
    """
    if not distributed.is_main() or not Path(path).exists():
        return
    ((key, digest),) = made_from.items()
    try:
        before = _entry(json.loads(Path(path).read_text()), key)
    except (OSError, ValueError, RecursionError):
        before = None
    if before != digest:
        what = key.removesuffix("_sha256")
        made = f"another {what}" if before else f"a {what} that it does not name"
        raise UserError(
            f"{option}={Path(path).parent}: {Path(path).name} there is of {made} (sha256 "
            f"{str(before)[:12]}, now {str(digest)[:12]}); name another folder, or remove what is "
            "there"
        )


def _entry(value: Any, key: str) -> Any:
    """The first entry of that name in nested dicts; None if there is none."""
    if not isinstance(value, dict):
        return None
    inner = (_entry(v, key) for v in value.values())
    return value.get(key) or next((v for v in inner if v is not None), None)
