"""Results that are one .json with pictures beside it, shown as names and values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from experiments.report.entry import (
    Entry,
    Table,
    dig,
    flatten,
    is_records,
    is_rows,
    number,
    records_table,
    rows_table,
    text,
)
from experiments.report.files import Folder

# What a .json says of how it was made: it unfolds, and is not repeated among the results.
MADE_BY = ("options", "schedule", "method", "settings", "integration", "reference", "identity")


@dataclass
class Plain:
    """One kind of .json.

    Attributes:
        kind: chapter.
        pattern: of its name; group 1 is what the names of its pictures start with.
        title: heading, with the first group for {0}.
        headline: (text with {} for the value, keys that lead to it).
        results: key under which results lie, or "" for the whole.
    """

    kind: str
    pattern: str
    title: str = "{0}"
    headline: tuple[tuple[str, tuple[str, ...]], ...] = ()
    results: str = "results"


RMSE = ("round-trip rmse {}", ("results", "round_trip_rmse"))
MSE = ("round-trip MSE {} px²", ("results", "round_trip_mse_unrounded_pixels"))
EVALUATIONS = ("{} evaluations one way", ("results", "evaluations_one_way"))
NLL = ("NLL {} nats", ("results", "nll_nats", "mean"))
BITS = ("{} bits/dim", ("results", "bits_per_dim", "mean"))
KS = ("KS distance from the truth: ODE {}", ("results", "ODE", "ks_from_truth"))
KS_SDE = ("SDE {}", ("results", "SDE", "ks_from_truth"))
MADE = ("{} images", ("results", "images_in_all"))
IMAGES = ("{} images", ("result", "images"))
SBC = ("{} data sets", ("results", "data_sets"))
TARP = ("{} latents", ("results", "latents"))
# Those whose pictures have longer names come first.
PLAIN = (
    Plain("Likelihood", r"(.+_nll)\.json", headline=(NLL, BITS)),
    Plain("Likelihood", r"(.+_langevin)\.json", headline=(KS, KS_SDE)),
    Plain("Calibration by simulation", r"(sbc)\.json", "Ranks of the truth (SBC)", (SBC,)),
    Plain("Calibration by simulation", r"(tarp)\.json", "Expected coverage (TARP)", (TARP,)),
    Plain(
        "Round-trip error",
        r"(.+_Roundtrip_MSE_.+)\.json",
        headline=(("MSE {} px²", ("mse",)), ("unrounded {}", ("mse_unrounded",))),
        results="",
    ),
    Plain(
        "Sample quality",
        r"(.+)-fid\.json",
        "FID of {0}",
        (("FID {}", ("results", "fid")), ("{} images", ("results", "images"))),
    ),
    Plain("Sample quality", r"(gen_fid_samples)_options\.json", "Generated images", (MADE,)),
    Plain("Residual correlations", r"(.+_residuals.*)\.json", "Extracted: {0}", results="run"),
    Plain("Simulations", r"(.+)_HD_pfODE_int_sim_params\.json", headline=(MSE, EVALUATIONS)),
    Plain("Simulations", r"(.+_net)_sim_params\.json", headline=(RMSE, EVALUATIONS)),
    Plain("Simulations", r"(.+)_sim_params\.json", "{0}, exact score", (RMSE, EVALUATIONS)),
    Plain("Other results", r"(.+)-options\.json", headline=(IMAGES,), results="result"),
)


def plain_results(folder: Folder) -> Iterator[Entry]:
    """Sections of the kinds above, and of any other .json that tells its options."""
    for plain in PLAIN:
        for name, match in folder.matches(plain.pattern):
            entry = _entry(folder, plain, name, match[1])
            if entry is not None:
                yield entry
    folder.claim("run.json")  # progress of an experiment, not a result
    for name, _ in folder.matches(r".+\.json"):
        entry = _entry(folder, Plain("Other results", ""), name, name.removesuffix(".json"))
        if entry is not None and "Options" in entry.details:
            yield entry


def _entry(folder: Folder, plain: Plain, name: str, stem: str) -> Entry | None:
    date = folder.date(name)
    content = folder.read(name)
    if content is None:
        return None
    results = content.get(plain.results) if plain.results else None
    results = results if isinstance(results, dict) else content
    warnings = results.get("warnings")
    said = [(words, dig(content, *keys)) for words, keys in plain.headline]
    return Entry(
        plain.kind,
        plain.title.format(stem.replace("_", " ")),
        f"{folder.label}/{name}",
        date,
        headline=", ".join(w.format(text(v)) for w, v in said if number(v) is not None),
        facts=flatten(results, (*MADE_BY, "warnings")),
        tables=tables_of(results),
        pictures=folder.claim_pictures(stem),
        details=details_of(content),
        notes=[text(w) for w in warnings] if isinstance(warnings, list) else [],
    )


def details_of(content: dict[str, Any], keys: tuple[str, ...] = MADE_BY) -> dict[str, Any]:
    """The parts of a .json that unfold."""
    return {k.capitalize(): content[k] for k in keys if isinstance(content.get(k), dict)}


def tables_of(content: dict[str, Any], name: str = "", depth: int = 0) -> list[Table]:
    """Lists of objects anywhere in a .json, a table each."""
    found = []
    for key, value in content.items():
        label = f"{name} {key}".strip().replace("_", " ")
        if is_records(value):
            found.append(records_table(value, label))
        elif is_rows(value):
            found.append(rows_table(value, label))
        elif isinstance(value, dict) and depth < 6:
            found += tables_of(value, label, depth + 1)
    return found
