"""The same work on a CUDA device gives what the CPU gives."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import toy_pfODE_int
import toy_train
from flow.flow import load_flow

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("options", [["--dims_to_keep=2"], ["--dims_to_keep=1", "--space=IS"]])
def test_train_and_simulate_on_the_gpu(tmp_path, options):
    args = [f"--outdir={tmp_path}", "--data_name=circles", "--duration=0.1", "--device=cuda"]
    result = CliRunner().invoke(toy_train.main, [*args, *options, "--no-plot"])
    assert result.exit_code == 0, result.output
    here, there = load_flow(tmp_path, "cpu"), load_flow(tmp_path, "cuda")
    x = np.random.default_rng(0).standard_normal((500, 2))
    z = there.inflate(x, steps=16)
    assert z.device.type == "cuda"
    torch.testing.assert_close(z.cpu(), here.inflate(x, steps=16), rtol=1e-3, atol=1e-4)
    assert float((there.round_trip(x, solver="reversible", steps=8).cpu() - x).abs().max()) < 1e-12
    args = ["net", f"--network={tmp_path}", f"--save_dir={tmp_path / 'r'}", "--device=cuda"]
    result = CliRunner().invoke(toy_pfODE_int.main, [*args, "--total_samples=500", "--no-plot"])
    assert result.exit_code == 0, result.output
