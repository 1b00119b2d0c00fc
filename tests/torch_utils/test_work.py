"""Finished blocks of work are found again by the same work only; a folder knows its run."""

import numpy as np
import pytest
import torch
from torch import nn

from dnnlib.cli import UserError
from torch_utils import work
from torch_utils.work import MANIFEST, NETWORK, STATE, Parts, begin, digest, finish, shared_rows


def counted(calls):
    def work(rows):
        calls.append(rows.start)
        return torch.arange(rows.start, rows.stop)[:, None].float()

    return work


def test_finished_blocks_are_not_computed_again(tmp_path):
    folder, calls = tmp_path / ".x.parts", []
    first = shared_rows(counted(calls), 10, 4, "rows", Parts(folder, {"seed": 1}))
    assert torch.equal(first, torch.arange(10.0)[:, None])
    assert calls == [0, 4, 8]
    parts = Parts(folder, {"seed": 1})
    assert parts.count() == 3
    assert torch.equal(shared_rows(counted(calls), 14, 4, "rows", parts)[:10], first)
    assert calls == [0, 4, 8, 8, 12]  # the last block was shorter
    shared_rows(counted(calls), 10, 4, "rows", Parts(folder, {"seed": 2}))
    shared_rows(counted(calls), 10, 4, "rows", parts.also(eps=0.1))
    assert len(calls) == 11
    parts.clear()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [
    lambda raw: raw[:-30], lambda raw: b"", lambda raw: raw.replace(b"\x80?", b"\x80>"),
])  # fmt: skip
def test_a_damaged_block_is_computed_again(tmp_path, damage):
    parts, calls = Parts(tmp_path / "p", {}), []
    whole = shared_rows(counted(calls), 6, 3, "rows", parts)
    path = min((tmp_path / "p").iterdir())
    raw = path.read_bytes()
    assert damage(raw) != raw
    path.write_bytes(damage(raw))
    assert torch.equal(shared_rows(counted(calls), 6, 3, "rows", parts), whole)
    assert calls == [0, 3, 0]


def test_nothing_is_kept_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = []
    for _ in range(2):
        shared_rows(counted(calls), 4, 2, "rows", Parts(None, {}).also(x=1))
    assert calls == [0, 2, 0, 2]
    assert not list(tmp_path.iterdir())


def test_digests_know_values_shapes_types_and_weights():
    torch.manual_seed(0)
    net = nn.Linear(2, 2)
    x = np.arange(6.0)
    values = [
        {"a": 1}, {"a": 2}, {"b": 1}, {"a": x}, {"a": x.reshape(2, 3)}, {"a": x.astype(int)},
        {"a": torch.from_numpy(x) + 1}, {"a": net}, {"a": nn.Linear(2, 2)}, {"a": [1, None]},
    ]  # fmt: skip
    found = [digest(v) for v in values]
    assert len(set(found)) == len(values)
    assert found == [digest(v) for v in values]
    assert digest({"a": torch.from_numpy(x)}) == digest({"a": x})


def test_several_tensors_of_a_block():
    def both(rows):
        x = torch.arange(rows.start, rows.stop)
        return {"x": x, "squares": x[:, None] ** 2}

    found = work.compute(both, 7, 3, "rows")
    assert found["x"].tolist() == list(range(7))
    assert found["squares"].tolist() == [[k * k] for k in range(7)]
    assert [list(rows) for rows in work.blocks(3, 2, "rows")] == [[0, 1], [2]]


def test_identities_differ_by_name():
    assert work.differing({"a": [1, 2], "b": None}, {"a": (1, 2), "c": None}) == []
    assert work.differing({"a": 1, "z": 2, "b": 3}, {"a": 1, "z": 1}) == ["b", "z"]


FACTS = {NETWORK: "a" * 64, "seed": 1, "eps": None}


def left(folder):
    (folder / STATE).mkdir()
    (folder / STATE / "flow-chain00.npz").touch()


def test_the_same_command_goes_on_with_an_unfinished_run(tmp_path, capsys):
    assert begin(tmp_path, FACTS, resume=False) is False
    left(tmp_path)
    for resume in (False, True):
        assert begin(tmp_path, FACTS, resume) is False
        assert "Going on with the unfinished run" in capsys.readouterr().out
        assert list((tmp_path / STATE).iterdir())
    for other, why in (({"seed": 2}, "--seed=1, now --seed=2"), ({NETWORK: "b" * 64}, "another")):
        with pytest.raises(UserError, match=why):
            begin(tmp_path, FACTS | other, resume=False)
    finish(tmp_path, FACTS)
    assert not (tmp_path / STATE).exists()
    assert begin(tmp_path, FACTS, resume=True) is True
    assert begin(tmp_path, FACTS | {"seed": 2}, resume=False) is False  # a new run


def test_what_is_not_there_or_damaged(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        begin(tmp_path, FACTS, resume=True)
    for text in ("", "[]", '{"facts": {}}', '{"facts": 1, "finished": true}'):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(UserError, match=r"run.json there is damaged"):
            begin(tmp_path, FACTS, resume=False)
