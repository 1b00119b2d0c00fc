"""What was measured: files, masks and operators, as observation models of rows of data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnnlib.arrays import load_npy, load_npz
from dnnlib.cli import UserError, user_errors
from experiments.inference.options import HALVES, InferenceOptions
from flow.flow import Flow
from flow.images import shape_of
from flow.inference.observe import Normal, Operator, Poisson, identity, measured, observe
from flow.inference.operators import Separable, blur, downsample
from torch_utils import seeding
from training.data.image_decode import SUFFIXES as IMAGES
from training.data.image_decode import BadImageError, decode
from training.data.images import ImageSource
from training.data.tables import SUFFIXES, TableOptions, read_table, reading_of


@dataclass(frozen=True)
class Observations:
    """Measurements with their models.

    Attributes:
        y: measured values, NaN where there is none, [observations, m].
        models: their observation models.
        operator: what was measured of the data.
        truth: data that was measured by a simulation, [observations, d]; None of real measurements.
        said: what was read, in one line.
    """

    y: np.ndarray
    models: list[Normal | Poisson]
    operator: Operator
    truth: np.ndarray | None
    said: str
    counts: bool = False

    @property
    def plain(self) -> bool:
        """Whether the data's own values were measured."""
        return self.operator is identity and not self.counts


def read(flow: Flow, options: InferenceOptions) -> Observations:
    """The measurements that the options name, checked against the network.

    Raises:
        UserError: naming the option.
    """
    shape = shape_of(flow) if flow.images else None
    operator = operator_of(options.operator, flow, shape)
    option = "--image" if options.image else "--observations"
    with user_errors(f"{option}={options.image or options.observations}"):
        rows, said = images(options, shape) if options.image else vectors(options, flow)
        rows, there = rows[: options.count], len(rows)
        if len(rows) < there:
            said += f"; the first {len(rows)} of {there}"
        d = flow.schedule.data_dim
        outputs = d if options.simulate or operator is identity else outputs_of(operator)
        if rows.shape[1] != outputs:
            raise ValueError(
                f"{rows.shape[1]} values each, where {outputs} are wanted: "
                + ("those of a datum of this network" if outputs == d else "the operator's")
            )
        if options.simulate and np.isnan(rows).any():
            raise ValueError("holds missing values; --simulate measures whole data")
    if options.relative_noise is not None:
        if operator is not identity:
            raise UserError(
                "--relative_noise is of the data's own values; with --operator: --noise"
            )
        sds = tuple((options.relative_noise * spread_of(flow)).tolist())
        options = replace(options, noise=sds)
    truth = rows if options.simulate else None
    y = simulated(operator, rows, options) if options.simulate else rows
    seen = mask_of(options.mask, y.shape[1], None if shape is None else size_of(operator, shape))
    y = np.where(seen, y, np.nan)
    models = []
    for i, row in enumerate(y):
        with user_errors(f"{option}, row {i + 1}"):
            models.append(model_of(row, operator, options, shape is not None))
    return Observations(y, models, operator, truth, said, options.likelihood == "poisson")


def model_of(
    y: np.ndarray, operator: Operator, options: InferenceOptions, image: bool
) -> Normal | Poisson:
    """The observation model of measurements [m]."""
    if options.likelihood == "poisson":
        exposure, background = options.exposure or 1.0, options.background or 0.0
        return observe.poisson(
            y, None if operator is identity else operator,
            exposure=exposure, offset=float(image), background=background,
        )  # fmt: skip
    if operator is identity:
        return observe(y, noise=options.noise)
    return observe.linear(operator, y, noise=options.noise)


def simulated(operator: Operator, truth: np.ndarray, options: InferenceOptions) -> np.ndarray:
    """Measurements [observations, m] of data [observations, d]; row i depends on seed and i."""
    signal = measured(operator, torch.from_numpy(truth)).numpy()
    if options.likelihood == "normal":
        noise = seeding.normals(options.seed, "measured", 0, *signal.shape)
        return signal + np.array(options.noise) * noise
    offset = float(options.image is not None)
    rate = (options.exposure or 1.0) * np.maximum(signal + offset, 0) + (options.background or 0.0)
    draws = [seeding.generator(options.seed, "counts", i).poisson(r) for i, r in enumerate(rate)]
    return np.stack(draws).astype(np.float64)


def vectors(options: InferenceOptions, flow: Flow) -> tuple[np.ndarray, str]:
    """Rows [observations, m] of --observations, NaN where values are missing, and what was read.

    Raises:
        ValueError: what is wrong with the file.
    """
    path = Path(str(options.observations))
    if not path.is_file():
        raise ValueError("no such file")
    if path.suffix.lower() in SUFFIXES:
        like = reading_of(flow.info) if options.operator is None or options.simulate else None
        table = read_table(path, TableOptions(missing="keep"), like)
        return table.values, table.said
    if path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError("not a .npy, .npz or .csv file; save it as one of these")
    array = one_array(path, ("y", "x", "data"))
    array = array[None] if array.ndim == 1 else array.reshape(len(array), -1)
    if array.dtype.kind not in "fiub" or not array.size:
        raise ValueError(f"holds a {array.dtype} array of shape {array.shape}, not numbers [n, m]")
    return array.astype(np.float64), f"{len(array)} rows of {array.shape[1]} values"


def one_array(path: Path, names: tuple[str, ...]) -> np.ndarray:
    """The array of a .npy file, or that of an .npz with one of the names, or its only one."""
    if path.suffix.lower() == ".npy":
        return load_npy(path)
    arrays = load_npz(path)
    chosen = [k for k in names if k in arrays] or list(arrays)
    if not chosen or (len(arrays) > 1 and chosen[0] not in names):
        raise ValueError(f"holds the arrays {', '.join(arrays) or 'none'}; name one {names[0]}")
    return arrays[chosen[0]]


def images(
    options: InferenceOptions, shape: tuple[int, ...] | None
) -> tuple[np.ndarray, str]:  # fmt: skip
    """Images of --image in [-1, 1], [images, m], and what was read.

    Raises:
        ValueError: what is wrong with them.
    """
    path = Path(str(options.image))
    if shape is None:
        raise ValueError("the network was not trained on images; see --observations")
    if path.suffix.lower() in IMAGES:
        rows = grey_or_colour(path, shape[0])
        return rows.flatten()[None] / 127.5 - 1, f"one image of {rows.shape[1:]}"
    source = ImageSource(path)
    return source.samples(0, 0, len(source)).double().numpy(), f"{len(source)} {source.kind} images"


def grey_or_colour(path: Path, channels: int) -> np.ndarray:
    """Pixels of an image file, [channels, H, W], 0 to 255.

    Raises:
        ValueError: if it cannot be read.
    """
    if not path.is_file():
        raise ValueError("no such file")
    try:
        image = decode(path.read_bytes())
    except BadImageError as error:
        raise ValueError(str(error)) from None
    pixels = np.array(image.convert("L" if channels == 1 else "RGB"), np.float64)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def operator_of(name: str | None, flow: Flow, shape: tuple[int, ...] | None) -> Operator:
    """The operator that --operator names.

    Raises:
        UserError: naming the option.
    """
    if name is None:
        return identity
    kind, _, number = name.partition(":")
    with user_errors(f"--operator={name}"):
        if kind in ("blur", "downsample"):
            if shape is None:
                raise ValueError("the network was not trained on images; give a matrix (.npz)")
            try:
                size = float(number or 1.0) if kind == "blur" else int(number)
            except ValueError:
                raise ValueError("give blur:SD, such as blur:1.5, or downsample:K") from None
            whole = (int(shape[0]), int(shape[1]), int(shape[2]))
            return blur(whole, size) if kind == "blur" else downsample(whole, int(size))
        path = Path(name)
        if not path.is_file():
            raise ValueError("neither a file nor blur[:SD] nor downsample:K")
        A, d = one_array(path, ("A",)), flow.schedule.data_dim
        if A.ndim != 2 or A.shape[1] != d or A.dtype.kind not in "fiub":
            raise ValueError(f"A has shape {A.shape}; for this network it must be [m, {d}]")
        if not np.isfinite(A).all():
            raise ValueError("A holds NaN or infinite values")
    return torch.from_numpy(A.astype(np.float64))


def outputs_of(operator: Operator) -> int:
    """How many values an operator gives."""
    return len(operator) if isinstance(operator, Tensor) else int(getattr(operator, "outputs"))  # noqa: B009


def size_of(operator: Operator, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Channels, height and width of measured images; None where they are no images."""
    if isinstance(operator, Separable):
        return operator.size
    return shape if operator is identity else None


def mask_of(name: str | None, m: int, size: tuple[int, ...] | None) -> np.ndarray:
    """Which of m values --mask says were measured, bool [m].

    Raises:
        UserError: naming the option.
    """
    if name is None:
        return np.ones(m, bool)
    with user_errors(f"--mask={name}"):
        if name in HALVES:
            if size is None:
                raise ValueError("halves are of images; give a .npy of true and false")
            seen = np.zeros(size, bool)
            axis, first = (2, "left") if name in ("left", "right") else (1, "top")
            half = size[axis] // 2
            part = slice(None, half) if name == first else slice(half, None)
            seen[(slice(None),) * axis + (part,)] = True
            return seen.flatten()
        path = Path(name)
        if path.suffix.lower() in IMAGES and size is not None:
            found = grey_or_colour(path, size[0]) > 127.5
        elif path.is_file() and path.suffix.lower() in (".npy", ".npz"):
            found = one_array(path, ("mask",)).astype(bool)
        else:
            raise ValueError(f"no file of true and false; halves are {', '.join(HALVES)}")
        if found.size != m:
            raise ValueError(f"{found.size} values for {m} measurements")
        if not found.any():
            raise ValueError("nothing of it says that it was measured")
    return found.flatten()


def spread_of(flow: Flow) -> np.ndarray:
    """Standard deviations of the values of the network's data, [d]."""
    W, xi = flow.model.W.double(), flow.schedule.xi.double()
    return ((W.square() @ xi).sqrt() * flow.model.scale.double()).cpu().numpy()
