"""Settings of the papers at one scale (papers.yaml), as the rules and the tables take them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SETTINGS = HERE / "papers.yaml"
SCALES = ("smoke", "small", "paper")
TABLES = ("toys", "coverage", "hmc", "correlations", "images", "likelihood")
YARDSTICKS = ("held-out real", "Gaussian noise")  # rows of metrics.digit_quality
Case = dict[str, Any]


def load(path: str | Path = SETTINGS) -> dict[str, Any]:
    """Settings from a file, checked against the schema.

    Raises:
        ValueError: naming the file, the place in it, and what is wrong there.
    """
    import jsonschema
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
        schema = json.loads((HERE / "papers.schema.json").read_text())
        faults = jsonschema.Draft202012Validator(schema).iter_errors(content)
        if fault := jsonschema.exceptions.best_match(faults):
            raise ValueError(f"{fault.json_path}: {fault.message}")
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())[:300]}") from None
    return content


def words(options: str, only: tuple[str, ...] = ()) -> str:
    """Options of a command in words."""
    said = [o.removeprefix("--") for o in options.split()]
    shown = [o for o in said if not only or o.split("=")[0] in only]
    return ", ".join(shown) or "the defaults of the script"


def trained(options: str) -> str:
    """What matters of a training, in words."""
    return "trained with " + words(options, ("arch", "duration"))


@dataclass(frozen=True)
class Papers:
    """The settings of one run.

    Attributes:
        scale: one of `SCALES`.
        seed: added to the seeds of all commands.
        data: image set -> the user's zip of it, or what it is made of.
        path: file of the settings.
    """

    scale: str = "smoke"
    seed: int = 0
    data: Mapping[str, str] = field(default_factory=dict)
    path: str = str(SETTINGS)

    @functools.cached_property
    def all(self) -> dict[str, Any]:
        """The whole file."""
        return load(self.path)

    @property
    def here(self) -> dict[str, Any]:
        """The settings of the scale."""
        return self.all["scales"][self.scale]

    def kinds(self, name: str) -> list[str]:
        """The two schedules of a toy set, by name."""
        return ["PRP", f"PRRto{self.here['toys'][name] - 1}D"]

    def toy_schedule(self, kind: str) -> str:
        """Options of toy_train.py for a schedule."""
        if kind == "PRP":
            return self.all["preserving"]["options"]
        kept = kind.removeprefix("PRRto").removesuffix("D")
        return f"--dims_to_keep={kept} {self.all['reducing']['options']}"

    def euler(self, kind: str) -> str:
        """Options of the paper's integrator, at its scale; else the scripts' own choice."""
        if (step := self.here.get("euler_step")) is None:
            return ""
        tmax = self.all["preserving" if kind == "PRP" else "reducing"]["tmax"]
        return f"--steps={round(tmax / step)} --h={step}"

    def image_file(self, name: str) -> tuple[str, list[str]]:
        """The zip of an image set, and the step that it takes: none if the user has one."""
        source = self.data.get(name, self.all["image_sets"][name]["source"])
        if source.endswith(".zip"):
            return source, []
        size = "8x8" if name == "digits" else "32x32"
        return f"data/{name}/{name}-{size}.zip", [f"data/{name}/done"]

    def image_schedule(self, net: str) -> str:
        """Options of train.py for a network of images, from its name: digits-d2-gap1.02."""
        name, kept, *gap = net.split("-")
        options = [f"--dims_to_keep={kept.removeprefix('d')}"]
        options += [f"--inflation_gap={float(g.removeprefix('gap')) - 1:.2f}" for g in gap]
        if name == "digits":
            options.append(self.all["digits_tmax"]["PRR" if gap else "PRP"])
        return " ".join([*options, self.here["image_training"][name]])

    def image_net(self, name: str, keep: int, gap: float) -> str:
        """The name of a network of images."""
        reducing = keep < self.all["image_sets"][name]["dimensions"]
        return f"{name}-d{keep}" + (f"-gap{gap:.2f}" if reducing else "")

    def image_names(self, tables: tuple[str, ...]) -> set[str]:
        """Image sets that tables need."""
        here, found = self.here, set()
        if "images" in tables:
            found |= set(here["images"])
        if "correlations" in tables:
            found.add(here["residual_images"].split("-")[0])
        if "likelihood" in tables:
            found |= {net.split("-")[0] for net in here["likelihoods"]}
        return found

    def cases(self, each: str) -> Iterator[Case]:
        """What a row of a table is made for, by the name of the cases; keys are in papers.yaml."""
        here = self.here
        told = {k: words(v) if isinstance(v, str) else v for k, v in here.items()}
        told["toy_training"] = trained(here["toy_training"])
        for case in getattr(self, f"_{each}")():
            yield {**told, "seeds": 1, **case}

    def _toy(self, names: Any = None) -> Iterator[Case]:
        for name in names or self.here["toys"]:
            for kind in self.kinds(name):
                how = self.euler(kind)
                integrator = words(how) if how else "angle integrator at --tol"
                yield {"set": name, "kind": kind, "integrator": integrator}

    def _circles(self) -> Iterator[Case]:
        for case in self._toy(["circles"]):
            options = self.here["posterior"][case["kind"][:3]]
            said = words(options) if options else "data-space proposals, 4 chains"
            yield {**case, "posterior": said}

    def _radius(self) -> Iterator[Case]:
        for case in self._toy(self.here["coverage_sets"]):
            for i, r in enumerate(self.all["radii"]):
                yield {**case, "i": i, "r": r}

    def _weight(self) -> Iterator[Case]:
        for case in self._circles():
            for i, weight in enumerate(self.all["weights"]):
                yield {**case, "i": i, "number": i + 1, "weight": weight}

    def _residual_images(self) -> Iterator[Case]:
        net = self.here["residual_images"]
        yield {"net": net, "name": self.all["image_sets"][net.split("-")[0]]["name"]}

    def _image(self) -> Iterator[Case]:
        for name, pairs in self.here["images"].items():
            about = self.all["image_sets"][name]
            for keep, gap in pairs:
                net = self.image_net(name, keep, gap)
                label = f"{about['name']}, d={keep}"
                made = f"images/{net}-made0/images"
                yield {
                    "net": net,
                    "label": label + (f", gap {gap:.2f}" if "gap" in net else ""),
                    "measure": about["measure"],
                    "seeds": self.here["image_seeds"],
                    "image_training": trained(self.here["image_training"][name]),
                    "quality": f"images/digits-quality/quality.json: rows|{made}|"
                    "classifier_frechet_distance" if name == "digits"
                    else f"images/{net}-made{{seed}}-fid/fid.json: results|fid",
                    **{k: self._published(k, name, keep, gap) for k in ("fid", "mse")},
                }  # fmt: skip

    def _published(self, measure: str, name: str, keep: int, gap: float) -> list | str | None:
        """A published figure and its spread; as text where it is not of the same quantity."""
        figures, found = self.all["published"], None
        if gap != 1.02:
            found, of = figures[f"gap_{measure}"][gap], f"AFHQv2, d=2, gap {gap:.2f}"
        elif name != "digits":
            found, of = figures[measure][name][keep], "50,000 images"
        elif (d := figures["beside"].get(keep)) is not None:
            said = "FID of " if measure == "fid" else ""
            found, of = figures[measure]["cifar10"][d], f"{said}CIFAR-10, d={d}"
        same = name != "digits" and (measure == "mse" or self.scale == "paper")
        return found if found is None or same else f"{figure(found)} ({of})"

    def _yardstick(self) -> Iterator[Case]:
        if "digits" in self.here["images"]:
            yield from ({"row": row} for row in YARDSTICKS)

    def _density(self) -> Iterator[Case]:
        yield from ({"set": name} for name in self.all["density_sets"])

    def _bits(self) -> Iterator[Case]:
        ran = self.here["likelihoods"]
        for net, label in ran.items():
            settings = (
                f"{words(self.here['bits'])}; {trained(self.here['likelihood_training'][net])}"
            )
            name = self.all["image_sets"][net.split("-")[0]]["name"]
            name += ", augmented" if "augmented" in net else ""
            beside = f"{figure(self.all['published']['bits'][label][:1])} ({label})"
            yield {"net": net, "label": name, "figure": beside, "settings": settings}
        for label, (value, *why) in self.all["published"]["bits"].items():
            if label not in ran.values():
                yield {"net": None, "label": label, "figure": figure([value]),
                       "settings": f"not run: {why[0]}"}  # fmt: skip


def figure(value: Any) -> str:
    """A published figure as text."""
    return " ± ".join(f"{v:.2f}" for v in value) if isinstance(value, list) else str(value)
