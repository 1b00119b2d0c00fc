"""Files of torch.save are read as torch.load reads them, and storages within pickles too."""

import io
import pickle
import zipfile

import pytest
import torch

from torch_utils.files.inert_pickle import RefusedError, read, table
from torch_utils.files.tensor_files import TENSORS, read_storage, read_zip

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool]  # fmt: skip
PICKLED = table(
    TENSORS | {"torch.storage._load_from_bytes": read_storage}, "which this test does not need"
)


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_kind(dtype):
    x = (torch.arange(24) % 5).to(dtype).reshape(2, 3, 4)
    values = [x, x.transpose(0, 2).clone(), x[1:, :, ::2].clone(), torch.empty(0, 3, dtype=dtype)]
    values += [x[0, 0, 0].clone(), torch.nn.Parameter(x.float().clone()).data]
    for found in (read_zip(saved(values)), read(pickle.dumps(values), PICKLED)):
        for a, b in zip(found, values, strict=True):
            assert a.dtype == b.dtype
            assert a.stride() == b.stride() or not a.numel()
            assert torch.equal(a, b)
            a.zero_()  # the memory is its own


def test_a_view_of_part_of_a_storage():
    x = torch.arange(10.0)
    (found,) = read_zip(saved([x[2:8:3]]))
    assert found.tolist() == [2.0, 5.0]


def test_states_of_modules_and_optimizers():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GroupNorm(2, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.9, 0.99))
    net(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
    found = read_zip(saved(state))
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GroupNorm(2, 4))
    other.load_state_dict(found["net"])
    optimizer.load_state_dict(found["optimizer"])
    assert found["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.99)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_damage_to_the_data_is_noticed():
    data = bytearray(saved([torch.arange(1000.0)]).getvalue())
    at = data.find(torch.arange(1000.0).numpy().tobytes()[400:440])
    data[at] ^= 1
    with pytest.raises(RefusedError, match="CRC"):
        read_zip(io.BytesIO(bytes(data)))


def test_archives_of_other_programs_are_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(RefusedError, match=r"not of torch\.save"):
        read_zip(file)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file := io.BytesIO())
    with pytest.raises(RefusedError):
        read_zip(file)
