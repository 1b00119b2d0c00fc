"""How the loss of a training went, as a drawing."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from dnnlib.util import Json

MAX_POINTS = 600  # of a chart
WINDOW = 9  # ticks of the running median, as in loss.png
DECADES = 1.5  # of losses from which their axis is logarithmic
SOFT = "#5b6670"
COLOURED = "axes.edge", "axes.label", "grid.", "text.", "xtick.", "ytick."
# No text of a folder gets into a drawing; drawings of the same numbers are the same.
STYLE: Any = {"svg.hashsalt": "report"} | dict.fromkeys([f"{c}color" for c in COLOURED], SOFT)


def loss_lines(ticks: Sequence[Json]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Abscissa [n], kimg, and lines [n] of the loss: each tick, and the running median."""
    kimg, loss = np.array([(r["kimg"], r["loss"]) for r in ticks], dtype=float).T
    lines, half = {"each tick": loss}, WINDOW // 2
    if len(loss) > 2 * WINDOW:  # of fewer, the ends would mislead
        near = [loss[max(0, i - half) : i + half + 1] for i in range(len(loss))]
        lines["running median"] = np.array([np.median(values) for values in near])
    picks = np.linspace(0, len(loss) - 1, min(len(loss), MAX_POINTS)).round().astype(int)
    return kimg[picks], {name: line[picks] for name, line in lines.items()}


def loss_chart(ticks: Sequence[Json]) -> tuple[str, str]:
    """The loss of two ticks or more: SVG as a data: address, and what it shows."""
    kimg, lines = loss_lines(ticks)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for (name, line), colour in zip(lines.items(), ("#7ba3bd", "#17618f"), strict=False):
            axes.plot(kimg, line, label=name, color=colour, linewidth=1.6)
        loss = lines["each tick"]
        if loss.min() > 0 and math.log10(loss.max() / loss.min()) > DECADES:
            axes.set_yscale("log")
        axes.set(xlabel="kimg", ylabel="training loss")
        axes.grid(alpha=0.2)
        axes.legend(frameon=False)
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    address = f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
    return address, f"Training loss, from {loss[0]:.4g} to {loss[-1]:.4g}"
