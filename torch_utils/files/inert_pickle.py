"""Pickles read as data: nothing that a file names is imported, and nothing of it is called.

A pickle is a program for a small stack machine, and unpickling runs it: it can call anything that
can be imported. `read` is another machine for the same language. Names in the file are looked up
in a table of the caller's, whose entries are the only things that are ever called; every other
name ends the reading. Opcodes that no such file needs are refused, containers are plain, and
operations, sizes and depth are bounded before memory is taken. No torch here.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

MAX_OPERATIONS = 1_000_000  # of one pickle; networks of 1,000 tensors have some 100,000
MAX_INTEGER = 16  # bytes
SHOWN = 80  # characters of what a file says that a message repeats


class RefusedError(ValueError):
    """A file that asks for something that no such file needs, or that is damaged."""


class Inert:
    """Base of stand-ins for objects; they take the state that a file gives them by `build`."""

    __slots__ = ()

    def build(self, state: Any) -> None:
        """Take the state."""
        raise NotImplementedError


@dataclass(slots=True)
class Maker:
    """An entry of a table of names: what is called instead of the name, with the file's arguments.

    Attributes:
        name: as in the file.
        make: takes the arguments that the file gives.
    """

    name: str
    make: Callable[..., Any]


@dataclass(slots=True)
class Record(Inert):
    """An object of a class that is not loaded: its class's name and its attributes.

    Attributes:
        name: of the class.
        state: what the file stores of the object, usually a dict of attributes.
    """

    name: str
    state: Any = None

    def build(self, state: Any) -> None:
        """Take the state that the file stores after the object."""
        if self.state is not None:
            raise RefusedError(f"gives a {quote(self.name)} two states")
        self.state = state


Names = Callable[[str], Any]  # full name -> a Maker, or a constant; raises RefusedError


def table(entries: Mapping[str, Any], purpose: str) -> Names:
    """A lookup of names: an entry that can be called becomes a `Maker`, others are constants.

    Args:
        entries: full name -> what stands for it.
        purpose: ends the message of a refusal: "which no network file needs".
    """
    made = {k: Maker(k, v) if callable(v) else v for k, v in entries.items()}

    def find(name: str) -> Any:
        if name not in made:
            raise RefusedError(f"asks for {quote(name)}, {purpose}; refused, and nothing was run")
        return made[name]

    return find


def quote(value: object) -> str:
    """A value from a file, made fit for a message: one line of printable ASCII, bounded."""
    if type(value) not in (str, int, float, bool, type(None)):
        return f"a {type(value).__name__}"  # whose text could be endless
    if type(value) is int and value.bit_length() > 128:
        return "a huge number"
    return ascii(str(value)[:SHOWN])[1:-1]


def read(
    file: bytes | IO[bytes],
    names: Names,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The value of a pickle.

    Args:
        file: the pickle; of a file, as much is read as belongs to it.
        names: what stands for a name, see `table`.
        persistent: what stands for a persistent id; None to refuse these.

    Returns:
        None, numbers, str, bytes, list, tuple, dict, set, and what `names` and `persistent` give.

    Raises:
        RefusedError: one line that says why.
    """
    machine = _Machine(names, persistent)
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_OPERATIONS:
                raise RefusedError(f"has more than {MAX_OPERATIONS} operations")
            if opcode.name == "STOP":
                break
            machine.step(opcode.name, argument)
        (value,) = machine.stack
        if machine.marks or isinstance(value, Maker):
            raise RefusedError("does not end in one value")
        return value
    except RefusedError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle fails in any way it likes
        raise RefusedError(f"is damaged ({type(error).__name__}: {quote(str(error))})") from None


class _Machine:
    """The stack, the marks on it, and the memo."""

    def __init__(self, names: Names, persistent: Callable[[Any], Any] | None):
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Do one operation."""
        if name in _PUSHED:
            if isinstance(argument, int) and argument.bit_length() > 8 * MAX_INTEGER:
                raise RefusedError("holds a huge integer")
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in _IGNORED:
            raise RefusedError(f"uses the pickle operation {name}, which no such file needs")

    def mark(self, _: Any) -> None:
        """Begin a group of values."""
        self.marks.append(self.stack)
        self.stack = []

    def group(self) -> list[Any]:
        """The values since the last mark."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def pop(self, count: int) -> list[Any]:
        """The last values of the stack."""
        if len(self.stack) < count:
            raise RefusedError("is damaged (a value is missing)")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def top(self, *kinds: type) -> Any:
        """The last value, which must be of one of the kinds and stays where it is."""
        value = self.stack[-1]
        if type(value) not in kinds:
            raise RefusedError(f"changes a {quote(type(value).__name__)} from outside")
        return value

    def get(self, index: int) -> None:
        """Push a remembered value."""
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        """Remember the last value."""
        self.memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        """Remember the last value under the next number."""
        self.memo[len(self.memo)] = self.stack[-1]

    def global_(self, name: str) -> None:
        """Push what stands for a name."""
        self.stack.append(self.names(name.replace(" ", ".")))

    def stack_global(self, _: Any) -> None:
        """The same, module and name being on the stack."""
        module, name = self.pop(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise RefusedError("names something by no text")
        self.global_(f"{module}.{name}")

    def call(self, _: Any) -> None:
        """Call what stands for a name; anything else cannot be called."""
        maker, arguments = self.pop(2)
        if type(maker) is not Maker or type(arguments) is not tuple:
            raise RefusedError("calls something that is not a name")
        try:
            self.stack.append(maker.make(*arguments))
        except (RefusedError, MemoryError):
            raise
        except Exception as error:  # wrong arguments fail in any way they like
            raise RefusedError(f"misuses {quote(maker.name)} ({quote(str(error))})") from None

    def build(self, _: Any) -> None:
        """Give a record its state; what hangs on containers beside their items is left out."""
        (state,) = self.pop(1)
        target = self.stack[-1]
        if type(target) is dict:
            return
        if not isinstance(target, Inert):
            raise RefusedError(f"changes a {quote(type(target).__name__)} from outside")
        target.build(state)

    def set_items(self, pairs: list[Any]) -> None:
        """Put keys and values into the dict below."""
        target = self.top(dict)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in _KEYS:
                raise RefusedError(f"has a {quote(type(key).__name__)} as a key")
            target[key] = value

    def add_items(self, values: list[Any]) -> None:
        """Put values into the set below."""
        self.top(set).update(plain_set(values))

    def put_persistent(self, _: Any) -> None:
        """Push what stands for a persistent id."""
        (pid,) = self.pop(1)
        if self.persistent is None:
            raise RefusedError("refers to data outside itself")
        self.stack.append(self.persistent(pid))

    def tuple_of(self, count: int) -> None:
        """Make a tuple of the last values."""
        self.stack.append(tuple(self.pop(count)))


_KEYS = (str, int, bool, float, bytes, type(None))
_IGNORED = {"PROTO", "FRAME"}
_PUSHED = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
_OPERATIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": _Machine.mark,
    "BYTEARRAY8": lambda m, raw: m.stack.append(bytes(raw)),
    "POP": lambda m, _: m.pop(1),
    "POP_MARK": lambda m, _: m.group(),
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.put_persistent,
    "TUPLE": lambda m, _: (lambda v: m.stack.append(tuple(v)))(m.group()),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": lambda m, _: (lambda v: m.top(list).extend(v))(m.pop(1)),
    "APPENDS": lambda m, _: (lambda v: m.top(list).extend(v))(m.group()),
    "SETITEM": lambda m, _: m.set_items(m.pop(2)),
    "SETITEMS": lambda m, _: m.set_items(m.group()),
    "ADDITEMS": lambda m, _: m.add_items(m.group()),
}


def plain_set(values: Any) -> set[Any]:
    """A set of plain values, from a list or tuple of them."""
    if type(values) not in (list, tuple) or any(type(v) not in _KEYS for v in values):
        raise RefusedError("holds a set of things that are no plain values")
    return set(values)
