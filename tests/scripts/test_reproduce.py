"""reproduce.py: commands that exist, kills, failures, a cluster, clear refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import click
import psutil
import pytest
import yaml
from click.testing import CliRunner

import reproduce
from experiments.reproduce.papers import SCALES, SETTINGS, TABLES, load
from tests.commands import parsed
from tests.helpers import ROOT

pytest.importorskip("snakemake")

# Stands for a script of the suite: says that it ran, and does what the file "how" tells it.
STUB = """
import json, pathlib, sys, time
options = dict(w[2:].split("=", 1) for w in sys.argv[1:] if "=" in w)
folder = pathlib.Path(options.get("outdir") or options["save_dir"])
folder.mkdir(parents=True, exist_ok=True)
with open("journal.txt", "a") as file:
    print(folder, file=file)
how = pathlib.Path("how")
while how.exists() and how.read_text() == f"wait in {folder}":
    time.sleep(0.05)
if how.exists() and how.read_text() == f"fail in {folder}":
    sys.exit("no luck")
results = {"latent_rms_kept": 0.5, "excess_kurtosis_kept": 0.25}
(folder / "x_sim_params.json").write_text(json.dumps({"results": results, "options": {"seed": 3}}))
"""
SBATCH = """#!/bin/bash
printf '%s\\n' "$@" > "$STUB/sbatch.$$"
for word in "$@"; do case $word in --wrap=*) wrapped=${word#--wrap=};; esac; done
bash -c "$wrapped" > "$STUB/job.$$" 2>&1 && state=COMPLETED || state=FAILED
echo "$$|$state" >> "$STUB/states"
echo $$
"""
COMMANDS = {"sbatch": SBATCH, "sacctmgr": "#!/bin/bash\necho me\n",
            "sacct": '#!/bin/bash\ncat "$STUB/states"\n',
            "srun": '#!/bin/bash\nwhile [[ $1 == -* ]]; do shift; done\nexec "$@"\n',
            **dict.fromkeys(("squeue", "sinfo", "scontrol", "scancel", "sshare"),
                            "#!/bin/bash\n")}  # fmt: skip


def call(*args):
    return CliRunner().invoke(reproduce.main, [str(a) for a in args])


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """The lines of a dry run at a scale, and the command lines among them."""

    def lines(*args):
        folder = tmp_path_factory.mktemp("dry")
        result = call(*args, f"--outdir={folder / 'out'}", "-n")
        assert result.exit_code == 0, result.output
        assert not (folder / "out").exists()
        first, *rest = result.output.splitlines()
        assert first == f"# in {folder / 'out'}:"
        return rest

    return lines


@pytest.mark.parametrize(
    "scale", [SCALES[0], *(pytest.param(s, marks=pytest.mark.slow) for s in SCALES[1:])]
)
def test_every_command_of_a_dry_run_parses(scale, dry):
    lines = dry("all", f"--scale={scale}", "--procs=2")
    assert len(lines) == len(set(lines)) > 50
    for line in lines:
        parsed(line)
    scripts = {"toy_train.py", "train.py", "gen_fid_samples.py", "calc_nll.py", "dataset_tool.py"}
    assert scripts <= {w for line in lines for w in line.split()}
    distributed = [x for x in lines if x.startswith("torchrun --standalone --nproc_per_node=2 ")]
    assert len(distributed) > len(lines) / 2


def test_the_parser_of_these_tests_knows_what_is_unknown():
    with pytest.raises(click.ClickException):
        parsed("python toy_train.py --outdir=out --no_such_option=1")
    with pytest.raises(click.ClickException):
        parsed("torchrun --standalone train.py --outdir=out --data=x.zip --lr=fast")


@pytest.mark.slow
def test_the_paper_scale_asks_for_what_is_published(dry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = str(tmp_path / "c.zip")
    lines = dry("images", "--scale=paper", "--data=cifar10=c.zip")
    trained = [parsed(x) for x in lines if " train.py" in x]
    cifar = {o["dims_to_keep"]: o for o in trained if o["data"] == data}
    published = load()["published"]
    assert tuple(sorted(cifar)) == tuple(published["fid"]["cifar10"])
    assert cifar[30]["inflation_gap"] == 0.02
    assert (cifar[3072]["batch"], cifar[3072]["duration"], cifar[3072]["tmax"]) == (512, 275, 15.01)
    gaps = {round(1 + o["inflation_gap"], 2) for o in trained if o["dims_to_keep"] == 2}
    assert gaps == {1.02, *published["gap_fid"]}
    made = [parsed(x) for x in lines if "gen_fid_samples.py" in x]
    assert {len(o["seeds"]) for o in made} == {50_000}
    assert {o["steps"] for o in made} == {256}


@pytest.fixture
def suite(tmp_path):
    """Runs reproduce.py on the circles, in a copy of the suite whose scripts are stubs."""
    folder = tmp_path / "suite"
    for name in ("experiments/reproduce", "dnnlib"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("experiments/__init__.py", "reproduce.py"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("toy_train.py", "toy_pfODE_int.py"):
        (folder / name).write_text(STUB)
    content = yaml.safe_load(SETTINGS.read_text())
    content["scales"]["smoke"]["toys"] = {"circles": 2}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "out").mkdir()

    def start(*args, **environment):
        command = [sys.executable, folder / "reproduce.py", "toys", f"--outdir={tmp_path / 'out'}",
                   f"--settings={tmp_path / 'mine.yaml'}", *args]  # fmt: skip
        path = {"PYTHONPATH": str(folder)}
        return subprocess.Popen(
            command, cwd=tmp_path, env=os.environ | path | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


def journal(out):
    path = out / "journal.txt"
    return path.read_text().splitlines() if path.exists() else []


def runs(out, name):
    """Wait until the command of a folder is at work."""
    deadline = time.time() + 120
    while name not in journal(out) and time.time() < deadline:
        time.sleep(0.1)
    assert name in journal(out)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_stops_its_commands(suite, tmp_path, number):
    out = tmp_path / "out"
    (out / "how").write_text("wait in nets/circles-PRP")
    process = suite("--jobs=1")
    runs(out, "nets/circles-PRP")
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not psutil.wait_procs(below, timeout=30)[1]
    assert not (out / "nets/circles-PRP/done").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on(suite, tmp_path):
    out = tmp_path / "out"
    (out / "how").write_text("wait in nets/circles-PRRto1D")
    process = suite("--jobs=1", "--seed=3")
    runs(out, "nets/circles-PRRto1D")
    (snakemake,) = psutil.Process(process.pid).children()
    process.kill()
    snakemake.kill()  # its command lives on, and keeps others out of its folder
    process.wait()
    (out / "how").unlink()
    before = journal(out)
    result, _ = (process := suite("--jobs=1", "--seed=3")).communicate()
    assert process.returncode == 0, result
    new = journal(out)[len(before) :]
    assert "nets/circles-PRRto1D" in new
    kept = {"nets/circles-PRP", "toys/circles-PRP"} & set(before)
    assert not kept & set(new)
    content = json.loads((out / "toys/table.json").read_text())
    assert [(r["ours"], r["seed"]) for r in content["rows"]] == [(0.5, "3"), (0.5, "3")]
    result, _ = (process := suite("--jobs=1", "--seed=3")).communicate()
    assert process.returncode == 0, result
    assert journal(out) == [*before, *new]  # nothing is left to do
    process = suite("--jobs=1", "--seed=4")  # other settings: all of it again
    process.communicate()
    assert len(journal(out)) == len(before) + len(new) + 4


@pytest.mark.slow
def test_a_failure_names_its_log_and_others_go_on(suite, tmp_path):
    out = tmp_path / "out"
    (out / "how").write_text("fail in nets/circles-PRP")
    result, _ = (process := suite()).communicate()
    assert process.returncode == 1
    assert "log: steps/nets/circles-PRP.log" in result
    assert "no luck" in (out / "steps/nets/circles-PRP.log").read_text()
    assert set(journal(out)) == {"nets/circles-PRP", "nets/circles-PRRto1D", "toys/circles-PRRto1D"}
    content = json.loads((out / "toys/table.json").read_text())
    assert [r["ours"] for r in content["rows"]] == [None, 0.5]
    assert any("missing: toys/circles-PRP; log: " in note for note in content["notes"])
    (out / "how").unlink()
    result, _ = (process := suite()).communicate()
    assert process.returncode == 0, result
    content = json.loads((out / "toys/table.json").read_text())
    assert [r["ours"] for r in content["rows"]] == [0.5, 0.5]


@pytest.mark.slow
def test_the_job_script_of_a_cluster(suite, tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    (tmp_path / "bin").mkdir()
    (tmp_path / "stub").mkdir()
    for name, text in COMMANDS.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    result, _ = (process := suite(
        "--", "--executor", "slurm", "--jobs", "4", "--cores", "3",
        "--slurm-init-seconds-before-status-checks", "1",
        "--default-resources", "slurm_account=me", "slurm_partition=gpu", "mem_mb=2000",
        "--set-resources", "toy_network:gpu=2", "toy_network:runtime=90", "--set-threads",
        "toy_network=3",
        PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", STUB=str(tmp_path / "stub"),
    )).communicate()  # fmt: skip
    assert process.returncode == 0, result
    scripts = [p.read_text().splitlines() for p in (tmp_path / "stub").glob("sbatch.*")]
    assert len(scripts) == 4  # the table is made here
    (training,) = [s for s in scripts if "toy_network:set=circles,kind=PRP'" in " ".join(s)]
    jobs = " ".join(p.read_text() for p in (tmp_path / "stub").glob("job.*"))
    assert "runtime=90" in jobs
    words = " ".join(training)
    for expected in ("-A me", "-p gpu", "-t 90", "--mem 2000", "--cpus-per-task=3"):
        assert expected in words
    assert "--gpus=2" in words or "--gpus 2" in words
    assert (tmp_path / "out/toys/table.json").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--scale=small"], "give --data="),
        (["--scale=small", "--data=cifar10=no/such.zip"], "no/such.zip, which is not there"),
        (["--data=mnist=x.zip"], "--data=mnist=x.zip: give cifar10=PATH"),
        (["--data=cifar10"], "--data=cifar10: give cifar10=PATH"),
        (["--scale=large"], "--scale"),
        (["--outdir=taken/x"], "--outdir=taken/x: taken is a file"),
        (["--settings=taken"], "taken: $: "),
        (["--settings=gone.yaml"], "gone.yaml"),
    ],
)
def test_refusals_come_before_work(args, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    if args == ["--scale=small", "--data=cifar10=no/such.zip"]:
        (tmp_path / "datasets").mkdir()
        (tmp_path / "datasets/afhqv2-32x32.zip").touch()
    result = call("images", *args)
    assert result.exit_code == 2
    (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
    assert said in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [*TABLES, "all"])
def test_help_has_an_example_that_parses(name):
    text = call(name, "--help").output
    assert "Example:" in text
    examples = text.split("Example:")[1].replace("\\\n", " ").strip().splitlines()
    for example in examples:
        parsed(example.strip())
