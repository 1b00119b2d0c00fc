"""Runs the commands behind the tables of the papers: what is missing, in order, resumably.

A step is one command of this suite and the folder it writes to. It is done once its command ended
well and its results are there. Its record, {outdir}/steps/{folder}.json, beside its log, holds a
digest of the command and of those before it: a changed setting runs again what depends on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from dnnlib.cli import UserError
from dnnlib.util import format_time, write_json
from experiments.reproduce.process import (
    lines,
    locked,
    terminate,
    terminated_like_interrupted,
)

ROOT = Path(__file__).resolve().parent.parent
NETWORK = "*/network-snapshot-*.pkl"
PATIENCE = 30.0  # seconds to wait for the processes of an interrupted run


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        folder: where its results go, relative to the outdir; also its name.
        script: file of this suite, subcommand included, or "-m module".
        args: its options.
        result: pattern, in the folder, of a file that is there when it is done.
        needs: steps that must be done before.
        parallel: whether it may run under torchrun.
        device: whether it has --device.
        seed: that it was given, for the table.
        pictures: pattern of its pictures.
        resume: option and the file in the folder that calls for it.
        inputs: files of the user's that it reads.
    """

    folder: str
    script: str
    args: tuple[str, ...]
    result: str
    needs: tuple[Step, ...] = ()
    parallel: bool = True
    device: bool = True
    seed: int | None = None
    pictures: str = "*.png"
    resume: tuple[str, str] | None = None
    inputs: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether it trains a network."""
        return self.result == NETWORK

    def digest(self, outdir: Path) -> str:
        """Of the command and of those it needs; the same wherever the outdir is."""
        own = [self.script, *(a.replace(str(outdir), "{outdir}") for a in self.args)]
        text = json.dumps([own, [s.digest(outdir) for s in self.needs]])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Outcome:
    """How a step ended: "done", "kept" (was done before), "failed", "skipped" or "stopped"."""

    state: str
    seconds: float = 0.0
    message: str = ""


@dataclass
class Runner:
    """Runs steps in {outdir}, some at a time.

    Attributes:
        outdir: of all results.
        device: passed on to scripts unless "auto".
        procs: processes a command, under torchrun; None for plain Python.
        jobs: commands at a time.
        say: prints a line.
        limit: seconds after which commands are ended; trainings save their state then.
    """

    outdir: Path
    device: str = "auto"
    procs: int | None = None
    jobs: int = 1
    say: Callable[[str], None] = print
    limit: float | None = None
    outcomes: dict[Step, Outcome] = field(default_factory=dict)
    _running: set[subprocess.Popen] = field(default_factory=set)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _lock: IO[str] | None = None
    _stopping: bool = False
    _total: int = 0

    def command(self, step: Step) -> list[str]:
        """What is run, without the interpreter: a line for the reader."""
        extra = [] if self.device == "auto" or not step.device else [f"--device={self.device}"]
        if step.resume and list((self.outdir / step.folder).glob(step.resume[1])):
            extra.append(step.resume[0])
        start = ["python"]
        if self.procs is not None and step.parallel:
            start = ["torchrun", "--standalone", f"--nproc_per_node={self.procs}"]
        script, *rest = step.script.split()
        if script != "-m" and Path.cwd() != ROOT:
            script = str(ROOT / script)
        return [*start, script, *rest, *step.args, *extra]

    def line(self, step: Step) -> str:
        """The command as one would type it."""
        return shlex.join(self.command(step))

    def record(self, step: Step) -> Path:
        """File that tells how the step went."""
        return self.outdir / "steps" / f"{step.folder}.json"

    def log(self, step: Step) -> Path:
        """File of what the step printed."""
        return self.outdir / "steps" / f"{step.folder}.log"

    def is_done(self, step: Step) -> bool:
        """Whether results of exactly this step, after exactly these before it, are there."""
        if not all(self.is_done(s) for s in step.needs):
            return False
        known = _read(self.record(step))
        there = any((self.outdir / step.folder).glob(step.result))
        return bool(
            known.get("state") == "done" and known["digest"] == step.digest(self.outdir) and there
        )

    def run(self, steps: Sequence[Step], settled: Callable[[], None] = lambda: None) -> None:
        """Run what is missing; `outcomes` tells how each step went.

        Args:
            steps: each after those that it needs.
            settled: called whenever a step has ended, from this thread.

        Raises:
            UserError: if another run is at work in the outdir.
            KeyboardInterrupt: at Ctrl-C or SIGTERM, once the commands have been ended.
        """
        with self._alone(), terminated_like_interrupted(), ThreadPoolExecutor(self.jobs) as pool:
            waiting, running = [s for s in steps if s not in self.outcomes], dict[Future, Step]()
            self._total = len(self.outcomes) + len(waiting)
            deadline = None if self.limit is None else time.monotonic() + self.limit
            try:
                while running or (waiting and not self._stopping):
                    self._start(waiting, running, pool)
                    left = None if deadline is None else max(0.0, deadline - time.monotonic())
                    for future in wait(running, left, FIRST_COMPLETED).done if running else ():
                        self._settle(running.pop(future), future.result())
                        settled()
                    if left == 0.0:
                        deadline = None
                        self._stop()
            except BaseException:
                self._stop()
                raise
            settled()

    def _start(
        self, waiting: list[Step], running: dict[Future, Step], pool: ThreadPoolExecutor
    ) -> None:
        """Hand steps whose needs are met to the pool; settle those that need no work."""
        for step in [] if self._stopping else list(waiting):
            before = [self.outcomes.get(s) for s in step.needs]
            failed = [s.folder for s, o in zip(step.needs, before, strict=True) if _bad(o)]
            if failed:
                self._settle(step, Outcome("skipped", message=f"needs {', '.join(failed)}"))
            elif None in before or len(running) >= self.jobs:
                continue
            elif self.is_done(step):
                self._settle(step, Outcome("kept"))
            else:
                running[pool.submit(self._execute, step)] = step
            waiting.remove(step)

    def _settle(self, step: Step, outcome: Outcome) -> None:
        self.outcomes[step] = outcome
        took = f" in {format_time(outcome.seconds)}" if outcome.seconds else ""
        so_far = f"({len(self.outcomes)} of {self._total})"
        self.say(f"[{step.folder}] {outcome.state}{took} {so_far} {outcome.message}".rstrip())

    def _execute(self, step: Step) -> Outcome:
        folder, record, started = self.outdir / step.folder, self.record(step), time.time()
        digest, known = step.digest(self.outdir), _read(record)
        if known and known["digest"] != digest and not step.trains:
            shutil.rmtree(folder, ignore_errors=True)  # results of other settings
        line = self.line(step)  # after that: whether there is something to resume
        facts = {"digest": digest, "command": line}
        write_json(record, {**facts, "state": "started"})
        self.say(f"[{step.folder}] {line}")
        code = self._call(step)
        seconds = time.time() - started
        if self._stopping:  # trainings save their state and end well
            return Outcome("stopped", seconds)
        if code == 0 and any(folder.glob(step.result)):
            write_json(record, {**facts, "state": "done", "seconds": seconds})
            return Outcome("done", seconds)
        write_json(record, {**facts, "state": "failed", "exit_code": code})
        why = f"exit code {code}" if code else f"no {step.result} in {folder}"
        return Outcome("failed", seconds, f"({why}); log: {self.log(step)}\n    {line}")

    def _call(self, step: Step) -> int:
        """Run the command; what it prints goes to its log, whole, and to the screen, in lines."""
        start, *rest = self.command(step)
        launcher = ["-m", "torch.distributed.run"] if start == "torchrun" else []
        threads = max(1, (os.cpu_count() or 1) // (self.jobs * (self.procs or 1)))
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        environment |= {"PYTHONUNBUFFERED": "1", "PYTHONPATH": path}
        with self._guard:
            if self._stopping:
                return 1
            process = subprocess.Popen(
                [sys.executable, *launcher, *rest],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[self._lock.fileno()] if self._lock and os.name == "posix" else (),
                process_group=0 if os.name == "posix" else None,  # see `terminate`
            )
            self._running.add(process)
        with open(self.log(step), "wb") as log, process:
            assert process.stdout is not None
            for line in lines(process.stdout, log):
                self.say(f"[{step.folder}] {line}")
        with self._guard:
            self._running.discard(process)
        return process.returncode

    def _stop(self) -> None:
        with self._guard:
            self._stopping = True
            for process in self._running:
                terminate(process)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the outdir; commands hold it too, so that one left behind by a kill is noticed."""
        (self.outdir / "steps").mkdir(parents=True, exist_ok=True)
        with open(self.outdir / "steps" / "lock", "w") as self._lock:
            deadline, told = time.time() + PATIENCE, False
            while not locked(self._lock):
                if time.time() > deadline:
                    raise UserError(
                        f"--outdir={self.outdir}: another run is at work there; wait for it, end "
                        "it, or name another folder"
                    )
                if not told:
                    self.say(f"Waiting for a run that is still at work in {self.outdir}")
                    told = True
                time.sleep(0.5)
            yield
        self._lock = None


def _bad(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.state in ("failed", "skipped")


def _read(path: Path) -> dict:
    """A record; empty if there is none or it is damaged."""
    with suppress(OSError, ValueError):
        known = json.loads(path.read_text())
        return known if isinstance(known, dict) and "digest" in known else {}
    return {}
