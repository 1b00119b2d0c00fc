"""Line charts as inline SVG: readable without scripts, in light and dark, on any width."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from matplotlib.ticker import LogLocator, MaxNLocator

from experiments.report.entry import Curve, text

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 26, 12, 46
DECADES = 1.5  # of a positive ordinate from which its axis is logarithmic


@dataclass
class Axis:
    """Values to positions on one axis.

    Args:
        low, high: range of the values.
        start, stop: positions of these.
        logarithmic: whether decades are equally long.
    """

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Position of a value, to a hundredth of a unit."""
        low, high, v = self.low, self.high, value
        if self.logarithmic:
            low, high, v = math.log10(low), math.log10(high), math.log10(v)
        share = (v - low) / (high - low)
        return round(self.start + share * (self.stop - self.start), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Positions and labels of round values."""
        locator = LogLocator(numticks=6) if self.logarithmic else MaxNLocator(5)
        values = [float(v) for v in locator.tick_values(self.low, self.high)]
        inside = [v for v in values if self.low <= v <= self.high]
        return [(self.at(v), f"{v:.6g}") for v in inside]


def drawing(curve: Curve) -> dict:
    """Everything the page needs to draw a chart: positions, ticks, lines, and what points say."""
    every = [v for line in curve.lines.values() for v in line]
    low, high = min(every), max(every)
    logarithmic = low > 0 and math.log10(high / low) > DECADES
    if not logarithmic:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - margin, high + margin
    across = Axis(min(curve.x), max(curve.x) + (max(curve.x) == min(curve.x)), LEFT, WIDTH - RIGHT)
    up = Axis(low, high, HEIGHT - BOTTOM, TOP, logarithmic)
    xs = [across.at(v) for v in curve.x]
    lines = []
    for k, (name, values) in enumerate(curve.lines.items()):
        points = " ".join(f"{x},{up.at(v)}" for x, v in zip(xs, values, strict=True))
        lines.append({"name": name, "points": points, "style": f"line{k % 4}"})
    said = []
    for i, x in enumerate(curve.x):
        numbers = [f"{name} {v[i]:.5g}" for name, v in curve.lines.items()]
        notes = [curve.notes[i]] if curve.notes and curve.notes[i] else []
        said.append("; ".join([f"{curve.labels[0]} {x:.6g}", *numbers, *notes]))
    return {
        "title": curve.title,
        "labels": curve.labels,
        "width": WIDTH,
        "height": HEIGHT,
        "frame": (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        "xticks": across.ticks(),
        "yticks": up.ticks(),
        "lines": lines,
        "positions": json.dumps(xs),
        "said": json.dumps(said),
        "summary": "; ".join(
            f"{k} from {text(v[0])} to {text(v[-1])}" for k, v in curve.lines.items()
        ),
    }
