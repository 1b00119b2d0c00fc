"""Result files: what they say of a run, and that they are not there of another."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.cli import UserError
from dnnlib.options import Options
from dnnlib.results import Measured, enclosed
from dnnlib.util import Json, atomic_path, write_json
from flow.flow import Flow
from flow.method import Method
from flow.options import KnownOptions, LatentOptions
from torch_utils import distributed
from torch_utils.peers import agree_on_file
from training.data.source import Source
from training.data.toys import own_dimensions, trained_on


def document(flow: Flow, options: Options, method: Method | None = None) -> Json:
    """What the .json of results says beside them: options, schedule, method."""
    schedule = {**flow.schedule.settings(), "name": flow.schedule.name}
    told = {"options": options.record(), "schedule": schedule}
    return told if method is None else {**told, "method": method.describe()}


def save_results(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as an .npz, atomically."""
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own argument


@dataclass(frozen=True)
class Record:
    """The .json of a run, checked before the work and written after it, by rank 0.

    Attributes:
        path: of the .json.
        document: what ran.
        made_from: see `check_results`.
        started: when, `time.monotonic`.
    """

    path: Path
    document: Json
    made_from: dict[str, str | None]
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(
        cls,
        path: str | Path,
        flow: Flow,
        options: Options,
        method: Method | None = None,
        made_from: dict[str, str | None] | None = None,
    ) -> Record:
        """Check that results of something else are not there; made from the network by default."""
        made_from = made_from or {"network_sha256": flow.digest}
        check_results(path, made_from)
        return cls(Path(path), document(flow, options, method), made_from)

    def save(self, path: str | Path, arrays: dict[str, np.ndarray]) -> None:
        """Write arrays of the run, unless by now results of something else are there."""
        check_results(self.path, self.made_from)
        save_results(Path(path), arrays)

    def finish(
        self,
        results: Json,
        shown: str,
        kind: str,
        figures: Sequence[Measured] = (),
        flat: bool = False,
    ) -> Json:
        """Write and print the results.

        Args:
            results: plain values.
            shown: the files, as a line names them.
            kind: of results, for a report.
            figures: those of them that have a yardstick.
            flat: whether to put the results beside the document, not within.

        Returns:
            the results with what they were made from and how long it took.
        """
        results = {**self.made_from, **results, "seconds": time.monotonic() - self.started}
        content = {**self.document, **(results if flat else {"results": results})}
        write_json(self.path, enclosed(content, self.path.stem, figures, kind=kind))
        print(json.dumps(results, indent=2))
        print(f"Results: {shown}", flush=True)
        return results


def check_gen_source(flow: Flow, options: LatentOptions) -> None:
    """Check --gen_source against --eps and the schedule.

    Raises:
        UserError: if both say what compressed latents are.
    """
    gen_source = options.gen_source
    if gen_source == "diag":
        return
    if options.eps is not None:
        raise UserError(
            f"--eps={options.eps:g} and --gen_source={gen_source} both say what compressed latents "
            "are: give one of them"
        )
    if gen_source == "donors" and flow.schedule.name == "PRP":
        distributed.print0("Note: nothing is compressed in PRP, so --gen_source=donors means diag")


def check_network(flow: Flow, options: KnownOptions) -> None:
    """Check what options say of the network: dimensions, latent variance, size of its images.

    Raises:
        UserError: naming the option and both values.
    """
    s, shape = flow.schedule, getattr(flow.model, "shape", None) or (None, None)
    known: Json = {"data_dim": s.data_dim, "dims_to_keep": s.dims_to_keep}
    known |= {"end_vars": s.A0**2, "img_ch": shape[0], "img_size": shape[-1]}
    data, told = flow.info.get("data", {}), vars(options)
    if "augment_to" in data and options.data_dim == own_dimensions(trained_on(flow.info)):
        known.pop("data_dim")  # published commands give those of the set that is embedded
    for option, value in known.items():
        if told.get(option) not in (None, value):
            raise UserError(
                f"--{option}={told[option]} contradicts the network, which has {option}={value} "
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
