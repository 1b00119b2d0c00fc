"""Valid files, damaged at random: read or refused in a line, nothing run, memory bounded."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow.flow import load_flow
from tests.helpers import random_basis
from tests.security.bounds import MIB, about_memory, memory_bound
from tests.security.legacy_writer import Persistent, converted, dump, module_state, source_text
from torch_utils import checkpoint
from torch_utils.files.safetensors import write_safetensors
from training.network_file import build, network_to_dict
from training.networks.image import SongUNet

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape")  # of pickletools
MOST = 256 * MIB  # beside what the process has; the files have less than 1 MiB
BAITS = [
    b"cos\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"cbuiltins\neval\n", b"R", b"b", b"\x81",
    b"\x85R", b"(", b"t", b"}", b"]", b"0", b"2", b"Q", b"\x82\x01", b"\x94", b"h\x00",
    b"r\xff\xff\xff\x7f", b"\x8e\0\0\0\0\0\x01\0\0", b"J\xff\xff\xff\x7f",
    b"\x8a\x08" + b"\x7f" * 8, b"G\x7f\xf8\0\0\0\0\0\0", b"K\xff", b"N", b".",
]  # fmt: skip
TOY = {"class": "ToyMLP", "kwargs": {"in_channels": 2, "width": 8, "depth": 1, "bands": 1}}
SMALL = {
    "img_resolution": 4, "in_channels": 1, "out_channels": 1, "model_channels": 8,
    "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def our_network() -> dict:
    basis = random_basis([1.0, 0.5])
    model = build(TOY, {"dims_to_keep": 1, "tmax": 7.0}, basis, {"space": "ES"})
    return network_to_dict(model, TOY, {"data": {"kind": "toy", "name": "circles"}, "kimg": 1.0})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a valid file of every layout."""
    folder = tmp_path_factory.mktemp("valid")
    content = our_network()
    checkpoint.save(folder / "ours.pkl", "network", content)
    content |= {"format": "inflationary-flow-network", "version": 1}
    write_safetensors(folder / "ours.safetensors", content)
    source = source_text(folder / "canary")
    inner = converted(SongUNet(**SMALL), source, **SMALL)
    attributes = {"g": torch.zeros(16), "W": torch.eye(16), "data_eigs": torch.ones(16),
                  "gamma0": 5e-4, "rho": 2.0, "M": 1000, "space": "IS"}  # fmt: skip
    state = module_state(modules={"model": inner}, **attributes)
    dump(folder / "older.pkl", Persistent("IFsPrecond", source, state), source)
    dump(folder / "older2.pkl", Persistent("IFsPrecond", source, state), source, protocol=2)
    for path in folder.iterdir():
        if path.suffix != ".json":
            load_flow(path, "cpu")  # each is valid
    return folder


def damaged(data: bytes, edits: list[tuple[str, float, bytes, int]]) -> bytes:
    """Some bytes changed, put in, or left out, at places given as shares of the length."""
    for kind, place, what, length in edits:
        at = int(place * len(data))
        if kind == "flip":
            what = bytes([data[at] ^ (what[0] or 1)]) if at < len(data) else b""
            data = data[:at] + what + data[at + 1 :]
        elif kind == "overwrite":
            data = data[:at] + what + data[at + len(what) :]
        elif kind == "insert":
            data = data[:at] + what + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + length :]
        elif kind == "double":
            data = data[: at + length] + data[at : at + length] + data[at + length :]
        else:
            data = data[:at]
    return data


def inside(archive: bytes, edits: list) -> bytes:
    """A zip archive whose pickle is damaged, and whose checksums are right."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new,
    ):
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, damaged(data, edits) if name.endswith("data.pkl") else data)
    return file.getvalue()


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "overwrite", "insert", "delete", "double", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.sampled_from(BAITS), st.binary(min_size=1, max_size=9)),
        st.integers(1, 400),
    ),
    min_size=1,
    max_size=4,
)
LAYOUTS = st.sampled_from(
    ["ours.pkl", "ours.pkl inside", "older.pkl", "older2.pkl", "ours.safetensors", "ours.json"]
)


def attempt(place: Path, layout: str, edits: list, folder: Path) -> bool:
    """Open a damaged copy; whether it was read."""
    name, _, part = layout.partition(" ")
    data = (place / name).read_bytes()
    (folder / name).write_bytes(inside(data, edits) if part else damaged(data, edits))
    other = {"ours.safetensors": "ours.json", "ours.json": "ours.safetensors"}.get(name)
    if other:
        (folder / other).write_bytes((place / other).read_bytes())
    opened = folder / ("ours.safetensors" if other else name)
    message = None
    try:
        with memory_bound(MOST):
            flow = load_flow(opened, "cpu")
            flow.integrate(torch.zeros(1, flow.schedule.data_dim).double(), 0.0, 0.01, "rk4", 1)
    except ValueError as error:  # what scripts turn into their one line; others end the test
        message = str(error)
    assert message is None or (message.isprintable() and not about_memory(message)), message
    assert not (place / "canary").exists()
    return message is None


def run(count: int, place: Path, folder: Path) -> dict[bool, int]:
    seen = {True: 0, False: 0}

    @settings(max_examples=count, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(LAYOUTS, EDITS)
    def trial(layout: str, edits: list) -> None:
        seen[attempt(place, layout, edits, folder)] += 1

    trial()
    return seen


def test_damaged_files_are_read_or_refused(place, tmp_path):
    seen = run(200, place, tmp_path)
    assert sum(seen.values()) >= 200
    assert seen[False] > 100


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_2000_times(place, tmp_path):
    seen = run(2000, place, tmp_path)
    assert sum(seen.values()) >= 2000
    assert seen[True] > 20  # some damage is to numbers
    assert seen[False] > 1000
    print(json.dumps({str(k): v for k, v in seen.items()}))
