"""Processes of one launch: who they are, what one tells the others of its end, what they compare.

They meet at the store of torchrun's rendezvous when a command starts, before data are opened and
long before the process group is there. So an error of any process, whenever it happens, is told
once on each machine and ends all of them, and what is read from files is compared before use.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import click
import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore

from dnnlib import cli, results
from dnnlib.cli import UserError
from dnnlib.util import Json

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # one process of several has all
PATIENCE = timedelta(minutes=60)  # with others that read, or are started late
POLL = 0.25  # seconds between looks at whether another process has failed
LINGER, LATE = 3.0, 20.0  # seconds that a failed one waits until others know; that start late
# Options that may differ: names of files and folders, whose content is compared; and devices.
FREE = {
    "network", "transfer", "resume", "images", "ref", "data", "dest", "detector", "device",
}  # fmt: skip
_here: Peers | None = None


def together() -> bool:
    """Whether this is one process of several; a scheduler may leave RANK alone behind."""
    return all(os.environ.get(name) for name in TORCHRUN)


def rank() -> int:
    """Number of this process, 0 without torchrun; known from the start."""
    return int(os.environ["RANK"]) if together() else 0


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if together() else 0


def world_size() -> int:
    """Number of processes, 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if together() else 1


def local_world_size() -> int:
    """Number of processes on this machine; all, where torchrun does not say it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if together() else 1


class Peers:
    """This process among those of its launch.

    Raises:
        UserError: if the others cannot be reached.
    """

    def __init__(self) -> None:
        node = os.environ.get("GROUP_RANK")
        name = socket.gethostname()
        self.machine = name if node is None else f"machine {node} ({name})"
        self.several = local_world_size() < world_size()
        self.store = self._connect(rank() == 0)
        self.store.add("joined", 1)
        self._rounds = 0
        self._over = threading.Event()
        self._mine = threading.Lock()  # held by the thread that ends this process

    def watch(self) -> None:
        """End this process as soon as another has failed, whatever it waits for, until `leave`."""
        self._over.clear()
        threading.Thread(target=self._watch, daemon=True).start()

    def leave(self) -> None:
        """This process has done its work."""
        self._over.set()
        with suppress(Exception):
            self.store.add("heard", 1)

    def where(self) -> str:
        """This process, and where there are several its machine."""
        return f"rank {rank()} on {self.machine}" if self.several else f"rank {rank()}"

    def exchange(self, value: Any) -> list:
        """The plain values of all processes, in order, on each of them.

        Raises:
            UserError: if one does not answer.
        """
        self._rounds += 1
        self.store.set(f"{self._rounds}/{rank()}", json.dumps(value))
        if rank() == 0:
            texts = [self._wait(f"{self._rounds}/{r}", r) for r in range(world_size())]
            self.store.set(f"{self._rounds}/all", f"[{', '.join(texts)}]")
        return json.loads(self._wait(f"{self._rounds}/all", 0))

    def tell(self, line: str, code: int) -> None:
        """Tell the others that this process fails; does not come back if another has before."""
        self._mine.acquire()  # the watching thread waits from now on
        text = json.dumps({"machine": self.machine, "line": line, "code": code})
        with suppress(RuntimeError):  # without a store it has only its log to tell
            if rank() and not self.several:  # where rank 0 fails alike, its line is the one
                _until(lambda: self.store.check(["told"]), 1.0)
            first = self.store.compare_set("told", "", text).decode()
            if first != text:
                self._end(json.loads(first), self.store)
            others = world_size() - 1
            late = self.store.add("joined", 0) <= others
            _until(lambda: self.store.add("heard", 0) >= others, LATE if late else LINGER)

    def prefix(self) -> str:
        """How an error of this process alone begins."""
        return f"{self.where()}: " if self.several or rank() else ""

    def _watch(self) -> None:
        with suppress(RuntimeError, UserError):  # the store goes with the process that has it
            store = self._connect(False)
            while not store.check(["told"]):
                if self._over.wait(POLL):
                    return
            record = json.loads(store.get("told"))
            self._mine.acquire()
            self._end(record, store)

    def _end(self, record: Json, store: Store) -> NoReturn:
        """End after the failure of another process, which each machine says once.

        Args:
            record: what that process told.
            store: this thread's, for the main one's may be waiting.
        """
        elsewhere = record["machine"] != self.machine
        with suppress(Exception):
            if elsewhere and local_rank() == 0:
                cli.say(record["line"])
            store.add("heard", 1)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(record["code"])  # the main thread may wait for ever

    def _wait(self, key: str, whom: int) -> str:
        try:
            self.store.wait([key], PATIENCE)
        except RuntimeError as error:
            raise UserError(f"rank {whom} does not answer; start all processes again") from error
        return self.store.get(key).decode()

    def _connect(self, host: bool) -> Store:
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun has a store
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            store = TCPStore(
                address, port, is_master=host and not agent, wait_for_workers=False,
                timeout=timedelta(minutes=2) if agent else PATIENCE, multi_tenant=True,
                use_libuv=os.name != "nt",
            )  # fmt: skip
        except RuntimeError as error:
            raise UserError(
                f"rank {rank()}: {address}:{port}, where the processes of this launch meet, cannot "
                "be reached: see whether another of them has failed, and start all again"
            ) from error
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return PrefixStore(f"inflationary-flows/{attempt}", store)


def _until(condition: Callable[[], bool], seconds: float) -> None:
    start = time.monotonic()
    while not condition() and time.monotonic() - start < seconds:
        time.sleep(0.02)


class Disagreement(UserError):
    """What processes have read differs: known to all, and said in the same words."""


def here() -> Peers | None:
    """This process among the others; None if it is the only one."""
    global _here
    if _here is None and together() and world_size() > 1:
        _here = Peers()
    return _here


def agree(what: dict[str, str | None]) -> None:
    """Compare what each process has read or been given, in the same order; all call this.

    Args:
        what: how to call a thing in an error -> what must be equal; None: not looked at here.

    Raises:
        Disagreement: naming the first process that differs from rank 0, and both things.
    """
    peers = here()
    if peers is None:
        return
    found = peers.exchange([peers.where(), list(what.items())])
    where, first = found[0]
    for other, theirs in found[1:]:
        for (shown, value), (their_shown, their_value) in zip(first, theirs, strict=False):
            if their_value not in (None, value):
                raise Disagreement(
                    f"{other} has {their_shown}, {where} has {shown}: all processes must have "
                    "the same"
                )


def agree_on_file(option: str, path: object, digest: str | None) -> None:
    """`agree` on the content of a file that an option names, wherever it lies."""
    agree({f"another {option}={path} (sha256 {str(digest)[:12]})": digest})


def of_rank0(make: Callable[[], Any]) -> Any:
    """What rank 0 makes, plain values, on every process: it alone looks at its disk."""
    peers = here()
    if peers is None:
        return make()
    return peers.exchange(make() if rank() == 0 else None)[0]


# What `dnnlib.cli` calls -----------------------------------------------------------------------


def join() -> None:
    """Meet the others, at the start of a command."""
    left = [name for name in TORCHRUN if not os.environ.get(name)]
    if "RANK" in os.environ and left:
        cli.say(f"RANK without {left[0]} in the environment: this is a process of its own", "Note")
    peers = here()
    if peers is not None:
        peers.watch()


def compare(ctx: click.Context) -> None:
    """Compare code and options, but for names of files and folders, whose content is compared."""
    if here() is None:
        return
    code, root = results.code(), Path(__file__).parents[1]
    what: dict[str, str | None] = {f"the code in {root} (sha256 {code[:12]})": code}
    what |= {f"torch {torch.__version__}": torch.__version__}
    for option in ctx.command.params:
        name = str(option.name)
        if name not in FREE and not isinstance(option.type, click.Path):
            given = f"--{name.rstrip('_')}={ctx.params.get(name)}"
            what[given if len(given) < 80 else f"{given[:80]}..."] = given
    agree(what)


def tell(line: str, code: int, error: Exception) -> str:
    """Tell the others of a failure; does not come back if one of them has told of its own.

    Returns:
        the line, with the process that it comes from unless all know of it.
    """
    if _here is None:
        return line
    if not isinstance(error, Disagreement):
        line = _here.prefix() + line
    _here.tell(line, code)
    if dist.is_initialized():
        dist.destroy_process_group()
    return line


def leave() -> None:
    """Part from the others, at the end of a command."""
    if _here is not None:
        _here.leave()


cli.company = sys.modules[__name__]
