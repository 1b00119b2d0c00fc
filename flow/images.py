"""Networks of images and their images, as scripts open, check and label them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.cli import UserError, user_errors
from flow.flow import Flow, open_flow
from flow.latents import class_labels, class_number, classes_of, drawn_of, one_hot
from flow.method import IMAGE_PILOTS, Method, image_method, pilots_of
from flow.options import (
    COMPILED_IMAGES,
    UNLABELLED,
    BlockOptions,
    FieldOptions,
    ImageNetworkOptions,
    ImageSolverOptions,
)
from flow.results import check_content, check_network
from torch_utils import distributed
from torch_utils.work import Parts
from training.data.images import ImageSource, to_pixels
from training.precond import InflationPrecond


def open_network(options: ImageNetworkOptions) -> tuple[Flow, str]:
    """The flow of --network, and the name of its data: --data_name, or what the network says.

    Raises:
        UserError: if it is not a network of images, or another option contradicts it.
    """
    flow = open_flow(options)
    if isinstance(options, BlockOptions) and options.bs is not None:
        flow.block = options.bs
    if getattr(options, "tf32", False):
        distributed.allow_tf32(flow.device)
    if not flow.images or len(shape_of(flow)) != 3:
        raise UserError(
            f"--network={options.network} was not trained on images; see toy_pfODE_int.py"
        )
    check_network(flow, options)
    name = options.data_name or flow.info.get("data", {}).get("name", "images")
    if Path(name).name != name:
        raise UserError(f"--data_name={name} becomes part of file names: give a plain name")
    return flow, name


def set_arithmetic(flow: Flow, options: FieldOptions, count: int) -> None:
    """Have the network compute in less digits, or compiled, as the options say.

    Args:
        flow: the flow.
        options: of the script.
        count: images to generate, by which compiling pays or not.
    """
    assert isinstance(flow.model, InflationPrecond)
    if options.bf16:
        flow.model.amp_dtype = torch.bfloat16
    compiled = options.compile
    if compiled is None:
        compiled = count >= COMPILED_IMAGES and distributed.compiles(flow.device.type)
    if compiled:
        flow.model.compile()


def shape_of(flow: Flow) -> tuple[int, ...]:
    """Channels, height and width of the network's images."""
    return tuple(flow.model.shape)  # type: ignore[arg-type, union-attr]  # an image network's shape is a tuple


def check_class(flow: Flow, label: int | str | None) -> int | None:
    """Check --class, a label as the data has it; with "none" the network gets zeros from here on.

    Returns:
        the number of the class to generate; None for all of them, or without classes.

    Raises:
        UserError: saying which classes there are.
    """
    classes = classes_of(flow)
    if classes and label is None:
        distributed.print0(
            f"Note: this network has {classes} classes, and its samples have their labels; the "
            f"published scripts gave it zeros, as --class={UNLABELLED} does"
        )
    if classes and label == UNLABELLED:
        flow.unlabelled = True
        return None
    with user_errors():
        return class_number(flow, label)


def pilot_classes(flow: Flow) -> np.ndarray | None:
    """Numbers of the classes of pilots, [IMAGE_PILOTS]; None without classes."""
    return np.resize(drawn_of(flow), IMAGE_PILOTS) if classes_of(flow) else None


def open_data(flow: Flow, path: str | None) -> ImageSource:
    """The images of --data_root, checked against the network.

    Raises:
        UserError: naming the option and both values.
    """
    if path is None:
        raise UserError("--data_root is missing: name a zip or folder made by dataset_tool.py")
    with user_errors("--data_root"):
        source = ImageSource(path, use_labels=classes_of(flow) > 0, class_labels=class_labels(flow))
    if source.shape != shape_of(flow):
        raise UserError(
            f"--data_root={path} has images of {_size(source.shape)}; the network was trained on "
            f"{_size(shape_of(flow))}: name its data, or convert these with dataset_tool.py"
        )
    check_content(flow, source, "--data_root", path)
    return source


@dataclass(frozen=True)
class Drawn:
    """Images drawn from all that there are, with what a network wants of them.

    Image i is the same whatever `total` is: a longer run has the blocks of a shorter one.

    Attributes:
        flow: the network's.
        source: the images.
        seed: of the choice.
        total: how many.
    """

    flow: Flow
    source: ImageSource
    seed: int
    total: int

    @classmethod
    def most(cls, flow: Flow, source: ImageSource, seed: int, wanted: int, option: str) -> Drawn:
        """As many as wanted, or all that there are, which is said."""
        if wanted > len(source):
            distributed.print0(
                f"Note: {option}={wanted}, but there are {len(source)} images: all used"
            )
        return cls(flow, source, seed, min(wanted, len(source)))

    def data(self, rows: range) -> Tensor:
        """Images, [n, d]."""
        return self.source.samples(self.seed, rows.start, rows.stop, "drawn")

    def classes(self, rows: range) -> np.ndarray | None:
        """Numbers of their classes, [n]; None without classes."""
        labels = self.source.labels(self.seed, rows.start, rows.stop, "drawn")
        return None if labels is None else labels.argmax(1).numpy()

    def labels(self, rows: range) -> Tensor | None:
        """The labels that the network takes with them, [n, classes]."""
        return one_hot(self.flow, self.classes(rows))

    def indices(self) -> np.ndarray:
        """Which images of the source these are, [total]."""
        return self.source.picks(self.seed, 0, self.total, "drawn")

    def method(self, options: ImageSolverOptions, points: int) -> Method:
        """How to integrate them; see `method_for`."""
        some = range(pilots_of(self.total, IMAGE_PILOTS))
        return method_for(self.flow, self.data(some), self.classes(some), options, points)

    def parts(self, folder: Path, **identity: Any) -> Parts:
        """What keeps finished blocks over a kill, which is said where there are some."""
        identity |= {"network": self.flow.digest, "data": self.source.content_hash()}
        identity |= {"unlabelled": True} if self.flow.unlabelled else {}
        parts = Parts(folder, {**identity, "seed": self.seed, "block": self.flow.block})
        if parts.others() and not parts.count():
            distributed.print0(
                f"Note: {folder} holds {parts.others()} blocks of a run that was interrupted, of "
                "other options (--bs is one): they are not used"
            )
        if parts.count():
            distributed.print0(f"Going on: {parts.count()} blocks of an interrupted run are there")
        return parts


def method_for(
    flow: Flow,
    x: Tensor | None,
    classes: np.ndarray | None,
    options: ImageSolverOptions,
    points: int,
    tolerance: float | None = None,
) -> Method:
    """The method of a script, its steps found, where a tolerance is given, on pilots.

    Args:
        flow: the flow.
        x: pilots [n, d]; None, where there is no data, for images generated from fixed latents.
        classes: numbers of their classes; None without classes.
        options, points, tolerance: see `method.image_method`.
    """
    classes = pilot_classes(flow) if x is None else classes
    here = flow.given(one_hot(flow, classes))

    def pilots() -> Tensor:
        some = here.sample(IMAGE_PILOTS, seed=0, steps=16) if x is None else x
        return here.to_whitened(some, 0.0, "unscaled")

    return image_method(here, pilots, options, points, tolerance)


def pixel_errors(x: Tensor, back: Tensor) -> dict[str, np.ndarray]:
    """Squared errors of each image in pixel units (0 to 255), mean over its d values, float64.

    Args:
        x: images in [-1, 1], [n, d].
        back: the same after a round trip, [n, d].

    Returns:
        mse: of both rounded to the nearest pixel value; mse_uint8_wrapped: the same with the
        difference and its square in unsigned 8-bit arithmetic, modulo 256, as published numbers
        were computed; mse_unrounded. Each [n].
    """
    flat = (x.shape[1], 1, 1)
    a, b = (to_pixels(v, flat)[:, 0, 0] for v in (x, back))
    wrapped = np.square(a - b, dtype=np.uint8)
    exact = 127.5 * (back.cpu().double() - x.cpu().double())
    return {
        "mse": np.square(a.astype(np.float64) - b).mean(1),
        "mse_uint8_wrapped": wrapped.astype(np.float64).mean(1),
        "mse_unrounded": exact.square().mean(1).numpy(),
    }


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]} with {shape[0]} channel{'s' if shape[0] > 1 else ''}"
