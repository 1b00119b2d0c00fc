"""One command of the suite as a step of the workflow: with log and time limit, alone in a folder.

    python -m experiments.reproduce.step --log=steps/nets/x.log -- toy_train.py --outdir=nets/x ...

Results that another command left in the step's folder are removed, unless they are of trainings,
which find out themselves. A command that was told to stop, or ran out of time, has not done its
work, even if it saved its state and ended well: it goes on from there the next time.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
TRAININGS = ("toy_train.py", "train.py")
PATIENCE = 60.0  # seconds to wait for a command that a killed run has left behind
STOPPED, OUT_OF_TIME, TAKEN = 143, 124, 75  # exit codes
SHARE = 0.95  # of the time limit, which may be a queue's: the rest is for saving


def command(words: list[str], procs: int, folder: Path) -> list[str]:
    """The whole command line, for this Python."""
    launcher = [sys.executable]
    if procs > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={procs}"]
    script = words if words[0] == "-m" else [str(ROOT / words[0]), *words[1:]]
    resume = words[0] == "toy_MCMC_exps.py" and (folder / "run.json").exists()
    return [*launcher, *script, *(["--resume"] if resume else [])]


def locked(file: IO[str]) -> bool:
    """Lock a file, waiting a little for who holds it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.2)
    return False


def run(words: list[str], log: Path, minutes: float | None, procs: int, threads: int) -> int:
    """Run a command of the suite. Returns the exit code of the step."""
    folder = log.relative_to("steps").with_suffix("")
    record, line = log.with_suffix(".txt"), shlex.join(words) + "\n"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log.with_suffix(".lock"), "w") as lock, open(log, "a") as output:
        if not locked(lock):
            output.write(f"Error: another process is at work in {folder}; wait for it, or end it\n")
            return TAKEN
        os.set_inheritable(lock.fileno(), True)  # held as long as the command lives
        output.truncate(0)
        if record.exists() and record.read_text() != line and words[0] not in TRAININGS:
            shutil.rmtree(folder, ignore_errors=True)
        record.write_text(line)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, threads // procs)),
                       "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}  # fmt: skip
        process = subprocess.Popen(
            command(words, procs, folder), env=environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, pass_fds=[lock.fileno()], process_group=0,
        )  # fmt: skip
        stopped = False

        def stop(*_: int | FrameType | None) -> None:
            nonlocal stopped
            stopped = True
            os.killpg(process.pid, signal.SIGTERM)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        try:
            code = process.wait(60 * SHARE * minutes if minutes else None)
        except subprocess.TimeoutExpired:
            stop()
            process.wait()
            return OUT_OF_TIME
        return STOPPED if stopped else code


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--procs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    words = given.words[1:] if given.words[:1] == ["--"] else given.words
    sys.exit(run(words, given.log, given.minutes, given.procs, given.threads))


if __name__ == "__main__":
    main()
