"""A folder knows what run it belongs to: the same command goes on, another is refused."""

import pytest

from dnnlib.cli import UserError
from experiments.posterior.mcmc import STATE
from torch_utils.run_state import MANIFEST, NETWORK, begin, finish

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
