"""What the Python door takes and refuses."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from flow.flow import Flow, load_flow
from tests.helpers import three_blobs

FLOW, X = three_blobs(2, 2, tmax=3.0)
X = X[:5].numpy()
NAMED = Flow(FLOW.model, info={"data": {"reading": {"columns": ["a", "b"], "header": True}}})
FRAME = pd.DataFrame(X, columns=["a", "b"])


@pytest.mark.parametrize(
    "x",
    [
        X.tolist(),
        X.astype(">f8"),
        X[::-1][::-1],
        torch.from_numpy(X),
        pd.DataFrame(X),
        FRAME,
        FRAME.convert_dtypes(),
    ],
    ids=["list", "big-endian", "view", "tensor", "frame", "named", "nullable"],
)
def test_arrays_of_every_kind_are_the_same(x):
    assert torch.equal(FLOW.inflate(x, steps=4), FLOW.inflate(X, steps=4))


def test_frames_are_read_by_name():
    other = FRAME.assign(text="x")[["b", "text", "a"]]
    for method in (NAMED.inflate, NAMED.round_trip, partial(NAMED.log_prob, trace="exact")):
        torch.testing.assert_close(method(other, steps=4), method(X, steps=4))
    latents = NAMED.inflate(X, steps=4)
    frame = pd.DataFrame(latents.numpy(), columns=["z1", "z2"])  # latents have no such names
    assert torch.equal(NAMED.generate(frame, steps=4), NAMED.generate(latents, steps=4))
    with pytest.raises(ValueError, match=r"must have the columns a, b, each once, and has 0, 1"):
        NAMED.inflate(pd.DataFrame(X))


HOLED = X.copy()
HOLED[1, 0] = np.nan
DATES = FRAME.assign(b=pd.Timestamp("2020-01-01"))
BAD = {
    "NaN": (lambda: FLOW.inflate(HOLED), "1 values are NaN or infinite, the first in row 1, col"),
    "inf": (lambda: FLOW.round_trip(X / 0.0), "10 values are NaN or infinite"),
    "NaN latents": (lambda: FLOW.generate(HOLED), "NaN or infinite"),
    "NaN density": (lambda: FLOW.log_prob(HOLED), "NaN or infinite"),
    "width": (lambda: FLOW.inflate(X[:, :1]), r"2 dimensions; got .* \(5, 1\), not \[n, 2\]"),
    "one sample": (lambda: FLOW.generate(X[0]), r"of shape \(2,\), not \[n, 2\]"),
    "objects": (lambda: FLOW.inflate(X.astype(object)), "an array of object holds no real numb"),
    "text": (lambda: FLOW.inflate([["a", "b"]]), "holds no real numbers"),
    "complex": (lambda: FLOW.inflate(torch.from_numpy(X + 0j)), "holds no real numbers"),
    "ragged": (lambda: FLOW.inflate([[1.0, 2], [3]]), "no array of numbers"),
    "dates": (lambda: FLOW.inflate(DATES), "column 'b' holds datetime64"),
    "gap": (lambda: FLOW.inflate(FRAME.astype("Float64").replace(X[0, 0], pd.NA)), "NaN"),
    "n": (lambda: FLOW.sample(-1), "n=-1: give a whole number, 0 or more"),
    "n of 1.5": (lambda: FLOW.sample(1.5), "n=1.5: give a whole number"),
    "seed": (lambda: FLOW.sample(2, seed=-1), "seed=-1: give a whole"),
    "eps": (lambda: FLOW.sample(2, eps=0), "eps=0: give a number above 0"),
    "start": (lambda: FLOW.latents(2, 0, start=-3), "start=-3: give a whole"),
    "steps": (lambda: FLOW.sample(2, steps=0), "steps=0: give a whole number, 1 or more"),
    "steps of 2.5": (lambda: FLOW.inflate(X, steps=2.5), "steps=2.5: give a whole"),
    "solver": (
        lambda: FLOW.sample(2, solver="dopri5"),
        "solver=.dopri5.: known are angle_euler, ang",
    ),
    "grid": (lambda: FLOW.inflate(X, solver="euler"), "needs a grid: times="),
    "no grid": (lambda: FLOW.inflate(X, times=[0.0, 1.0]), "times is for euler and heun, not for"),
    "setting": (lambda: FLOW.inflate(X, rtol=1e-3), "solver='rk4' has no rtol; it has none"),
    "tolerance": (lambda: FLOW.inflate(X, solver="adaptive", rtol=0), "rtol=0: give a number"),
    "coords": (lambda: FLOW.inflate(X, coords="es"), "coords='es' is none of whitened, scaled_es"),
    "input coords": (lambda: FLOW.generate(X, coords=None), "coords=None is none of"),
    "trace": (lambda: FLOW.log_prob(X, trace="full"), "trace='full' is none of exact, hutchinson"),
    "probes": (lambda: FLOW.log_prob(X, trace="hutchinson", probes=0), "probes=0: give a whole"),
    "dtype": (lambda: load_flow("x.pkl", dtype=torch.int32), "dtype=torch.int32: give torch.flo"),
    "device": (lambda: load_flow("x.pkl", device="warp"), "--device=warp"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_wrong_arguments_are_one_clear_line(case):
    call, reason = BAD[case]
    before = FLOW.evaluations
    with pytest.raises(ValueError, match=reason) as error:
        call()
    assert "\n" not in str(error.value)
    assert FLOW.evaluations == before  # refused before any work


def test_no_samples_are_none():
    assert FLOW.sample(0, steps=4).shape == (0, 2)
    assert FLOW.inflate(X[:0], steps=4).shape == (0, 2)


def test_likelihoods_within_inference_mode():
    expected = FLOW.log_prob(X, steps=4)
    estimate = FLOW.log_prob(X, trace="hutchinson", probes=2, steps=4)
    with torch.inference_mode():
        assert torch.equal(FLOW.log_prob(X, steps=4), expected)
        assert torch.equal(FLOW.log_prob(torch.tensor(X), steps=4), expected)
        again = FLOW.log_prob(X, trace="hutchinson", probes=2, steps=4)
        assert torch.equal(again, estimate)
        with pytest.raises(ValueError, match="differentiable=True"):
            FLOW.inflate(X, steps=4, differentiable=True)
