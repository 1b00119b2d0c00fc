"""Files that try to run something, or to take far more memory than they have bytes.

Pickles are put together opcode by opcode, because the tools that write pickles would refuse many.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

PROTO, N = b"\x80\x04", b"N"


def name(module: str, attribute: str) -> bytes:
    """Opcodes that push what module.attribute names."""
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def value(x: object) -> bytes:
    """Opcodes that push a plain value."""
    return pickle.dumps(x, 2)[2:-1]


def call(function: bytes, *arguments: bytes) -> bytes:
    """Opcodes that call something."""
    return function + b"(" + b"".join(arguments) + b"tR"


def whole(body: bytes) -> bytes:
    """A pickle of its opcodes."""
    return PROTO + body + b"."


def ema(body: bytes) -> bytes:
    """Opcodes of the dict of an older network file, with `body` as its network."""
    return b"}" + value("ema") + body + b"s"


def record(class_name: str, state: bytes, source: str = "", kind: str = "class") -> bytes:
    """Opcodes of an object of the older code with source text."""
    items = {"type": value(kind), "version": value(6), "module_src": value(source),
             "class_name": value(class_name), "state": state}  # fmt: skip
    meta = b"}(" + b"".join(value(k) + v for k, v in items.items()) + b"u"
    return call(name("torch_utils.persistence", "_reconstruct_persistent_obj"), meta)


def stream(body: bytes, count: int = 4, data: bytes = b"\0" * 16) -> bytes:
    """The layout of torch.save before zip archives, `body` in the place of the object."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    system = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)
    rest = pickle.dumps(["0"], 2) + struct.pack("<q", count) + data
    return magic + system + b"\x80\x02" + body + b"." + rest


def storage(count: int = 4, data: bytes = b"\0" * 16) -> bytes:
    """Opcodes of a storage of `count` numbers as the older code stores it."""
    pid = value("storage") + name("torch", "FloatStorage") + value("0") + value("cpu")
    blob = stream(b"(" + pid + value(count) + b"NtQ", count, data)
    return call(
        name("torch.storage", "_load_from_bytes"), b"B" + struct.pack("<I", len(blob)) + blob
    )


def tensor(kept: bytes, offset: int, size: tuple, stride: tuple) -> bytes:
    """Opcodes of a tensor over a storage."""
    hooks = call(name("collections", "OrderedDict"))
    parts = [kept, value(offset), value(size), value(stride), value(False), hooks]
    return call(name("torch._utils", "_rebuild_tensor_v2"), *parts)


def zipped(pickled: bytes, entries: dict[str, bytes] | None = None, packed: bool = False) -> bytes:
    """A zip archive as of torch.save."""
    file = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("net/data.pkl", pickled)
        archive.writestr("net/byteorder", b"little")
        for entry, data in (entries or {}).items():
            archive.writestr(f"net/data/{entry}", data)
    return file.getvalue()


def executing(canary: Path) -> dict[str, bytes]:
    """Opcodes that, unpickled in the usual way, create the file `canary`."""
    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    system = name("os", "system")
    ran = call(system, value(touch))
    getter = call(name("operator", "attrgetter"), value("system"))
    partial = call(name("functools", "partial"), system, value(touch))
    cases = {
        "os.system": ran,
        "posix.system": call(name("posix", "system"), value(touch)),
        "os.popen": call(name("os", "popen"), value(touch)),
        "subprocess.call": call(name("subprocess", "call"), value(["touch", str(canary)])),
        "subprocess.Popen": call(name("subprocess", "Popen"), value(["touch", str(canary)])),
        "subprocess.getoutput": call(name("subprocess", "getoutput"), value(touch)),
        "eval": call(name("builtins", "eval"), value(code)),
        "exec": call(name("builtins", "exec"), value(code)),
        "open": call(name("builtins", "open"), value(str(canary)), value("w")),
        "import and getattr": call(
            call(name("builtins", "getattr"), call(name("builtins", "__import__"), value("os")),
                 value("system")), value(touch)),
        "partial": call(partial),
        "partial of partial": call(call(name("functools", "partial"), partial)),
        "map": call(name("builtins", "list"), call(name("builtins", "map"), system,
                    value([touch]))),
        "attrgetter": call(call(getter, call(name("builtins", "__import__"), value("os"))),
                           value(touch)),
        "methodcaller": call(call(name("operator", "methodcaller"), value("system"), value(touch)),
                             call(name("builtins", "__import__"), value("os"))),
        "runpy": call(name("runpy", "_run_code"), call(name("builtins", "compile"), value(code),
                      value("x"), value("exec")), value({})),
        "timeit": call(name("timeit", "timeit"), value(code), value("pass"),
                       name("time", "perf_counter"), value(1)),
        "pathlib": call(name("pathlib", "Path.touch"), call(name("pathlib", "Path"),
                        value(str(canary)))),
        "pickle in a pickle": call(name("pickle", "loads"), value(whole(ran))),
        "marshal": call(call(name("types", "FunctionType"), call(name("builtins", "compile"),
                        value(code), value("x"), value("exec")), value({}))),
        "dict key": b"}" + ran + value(1) + b"s",
        "in a list": b"](" + ran + b"e",
        "popped": ran + b"0N",
        "instance": b"(" + value(touch) + b"ios\nsystem\n",
        "object": b"(" + system + value(touch) + b"o",
        "torch": call(name("torch.serialization", "os.system"), value(touch)),
        "torch.hub": call(name("torch.hub", "os.system"), value(touch)),
        "class with a dot": call(name("torch.nn.modules.module", "torch.serialization.os.system"),
                                 value(touch)),
        "dnnlib": call(name("dnnlib.util", "os.system"), value(touch)),
    }  # fmt: skip
    return {k: whole(v) for k, v in cases.items()}


def refused(canary: Path) -> dict[str, bytes]:
    """Pickles that would run something in the older code's reader, or that take memory."""
    touch = f"touch {canary}"
    ran = call(name("os", "system"), value(touch))
    source = f"import os\nos.system({touch!r})"
    module = name("torch.nn.modules.linear", "Linear") + b")\x81"
    one = tensor(storage(), 0, (4,), (1,))
    laughs = b"]" + value(0) + b"a" + b"".join(
        b"q" + bytes([i]) + b"0](" + (b"h" + bytes([i])) * 9 + b"e" for i in range(60)
    )  # fmt: skip
    numpy_object = call(name("numpy", "dtype"), value("O"), value(False), value(True))
    array = call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"),
                 value((0,)), value("b"))  # fmt: skip
    number = call(name("numpy", "dtype"), value("f8"), value(False), value(True))
    cases = {
        "state of a record": ema(record("EDMPrecond", b"}" + value("a") + ran + b"s")),
        "record in a record": ema(record("A", b"}" + value("a") + record("B", ran) + b"s")),
        "record of a module": ema(record("A", b"}", source, kind="module")),
        "source text alone": ema(record("EDMPrecond", b"}", source)),
        "class name with a dot": ema(record("os.system", b"}", source)),
        "record twice built": ema(record("A", b"}") + b"}b"),
        "hostile setstate": ema(module + b"}" + value("__setstate__") + ran + b"sb"),
        "setstate by name": ema(
            module + b"}" + value("__setstate__") + name("os", "system") + b"sb"),
        "state of a class": ema(name("torch.nn.modules.linear", "Linear") + b"}b"),
        "state of a function": ema(name("torch._utils", "_rebuild_tensor_v2") + b"}b"),
        "state of a scikit-learn object": ema(
            name("sklearn.decomposition._pca", "PCA") + b")\x81}" + value("mean_") + ran + b"sb"),
        "scikit-learn object with arguments": ema(
            call(name("sklearn.pipeline", "Pipeline"), value(touch))),
        "scikit-learn function": ema(call(name("sklearn.utils._os", "system"), value(touch))),
        "called value": call(value("os.system"), value(touch)),
        "called record": call(record("A", b"}"), value(touch)),
        "python 2 eval": call(name("__builtin__", "eval"), value(touch)),
        "own reader": call(name("torch_utils.persistence", "_src_to_module"), value(source)),
        "call by name": call(name("dnnlib.util", "call_func_by_name"), value(touch)),
        "copyreg": call(name("copyreg", "_reconstructor"), name("os", "system"), N, N),
        "copyreg newobj": call(name("copyreg", "__newobj__"), name("subprocess", "Popen")),
        "extension": b"\x82\x01",
        "persistent id": b"Pos.system\n",
        "persistent value": ran + b"Q",
        "new object with keywords": name("subprocess", "Popen") + b")}\x92",
        "torch load": call(name("torch.serialization", "load"), value(touch)),
        "torch jit": call(name("torch.jit._serialization", "load"), value(touch)),
        "torch extension": call(name("torch.utils.cpp_extension", "load_inline"), value("x")),
        "torch rebuild": call(name("torch._tensor", "_rebuild_from_type_v2"), name("os", "system"),
                              N, N, N),
        "torch tensor": call(name("torch", "Tensor"), value(2**40)),
        "storage that runs": call(name("torch.storage", "_load_from_bytes"), value(stream(ran))),
        "storage in a zip": call(name("torch.storage", "_load_from_bytes"),
                                 value(zipped(whole(ran)))),
        "codec": call(name("_codecs", "encode"), value("x"), value("rot13")),
        "numpy of objects": call(name("numpy.core.multiarray", "scalar"), numpy_object,
                                 value(whole(ran))),
        "numpy load": call(name("numpy", "load"), value("x"), N, value(True)),
        # Memory
        "huge bytearray": call(name("builtins", "bytearray"), value(2**40)),
        "huge tensor": ema(tensor(storage(), 0, (2**20, 2**20), (2**20, 1))),
        "tensor of one number": ema(tensor(storage(), 0, (2**20, 2**20), (0, 0))),
        "tensor beside its storage": ema(tensor(storage(), 3, (2,), (1,))),
        "tensor before its storage": ema(tensor(storage(), -8, (2,), (1,))),
        "negative stride": ema(tensor(storage(), 3, (4,), (-1,))),
        "negative size": ema(tensor(storage(), 0, (-4, -1), (1, 1))),
        "deep tensor": ema(tensor(storage(), 0, (1,) * 500, (1,) * 500)),
        "size of bytes": ema(tensor(storage(), 0, b"\1" * 50, b"\1" * 50)),
        "storage without data": ema(tensor(storage(2**40, b""), 0, (4,), (1,))),
        "tensors share numbers": ema(b"](" + b"".join([
            storage() + b"q\x01", *[tensor(b"h\x01", 0, (4,), (1,))] * 3]) + b"e"),
        "huge array": ema(array + b"(" + value(1) + value((2**20, 2**20)) + number + value(False)
                          + value(b"\0" * 8) + b"tb"),
        "memo bomb": N + b"r\xff\xff\xff\x7f" + b"}" + one + b"0",
        "huge bytes": b"\x8e" + struct.pack("<Q", 2**40),
        "huge text": b"X\xff\xff\xff\xff",
        "huge frame": b"\x95" + struct.pack("<Q", 2**60) + N,
        "huge integer": b"\x8b" + struct.pack("<I", 2**20) + b"\x7f" * 2**20,
        "billion laughs": ema(laughs),
        "billion laughs in a record": ema(record("EDMPrecond", b"}" + value("a") + laughs + b"s")),
        "list that holds itself": ema(b"]q\x01h\x01a"),
        "deep list": ema(b"]" * 20000 + b"a" * 19999),
        "deep tuple as a key": b"}" + N + b"\x85" * 50000 + N + b"s",
        "deep tuple in a dict": call(name("collections", "OrderedDict"),
                                     b"](" + N + b"\x85" * 50000 + N + b"\x86e"),
        "many operations": ema(b"N0" * 600_000 + N),
        "marks": b"(" * 50000,
        "marks and sets": b"\x8f" * 999_000,
        "set of bytes": call(name("builtins", "set"), value(b"x" * 1000)),
        "not finished": ran[:-3],
    }  # fmt: skip
    return {k: whole(v) for k, v in cases.items()}


def archives(canary: Path) -> dict[str, bytes]:
    """Hostile zip archives, beside all hostile pickles in one."""
    pid = value("storage") + name("torch", "FloatStorage") + value("0") + value("cpu")
    ok = b"(" + pid + value(4) + b"tQ"
    large = b"(" + pid + value(2**40) + b"tQ"
    state = {"0": b"\0" * 16}
    twice = bytearray(zipped(whole(ok), state))
    cases = {
        "packed": zipped(whole(tensor(ok, 0, (4,), (1,))), {"0": b"\0" * 2**24}, packed=True),
        "storage too large": zipped(whole(tensor(large, 0, (4,), (1,))), state),
        "tensor too large": zipped(whole(tensor(ok, 0, (2**30,), (1,))), state),
        "tensor of one number": zipped(whole(tensor(ok, 0, (2**30,), (0,))), state),
        "no storage": zipped(whole(tensor(ok, 0, (4,), (1,)))),
        "key that leads away": zipped(whole(tensor(
            ok.replace(value("0"), value("../../../etc/passwd")), 0, (4,), (1,))), state),
        "code": zipped(whole(call(name("__torch__", "Module")))),
        "damaged": bytes(twice[:60] + b"\xff" * 40 + twice[100:]),
        "cut off": bytes(twice[: len(twice) // 2]),
        "many entries": directory_of(2**31),
    }  # fmt: skip
    return cases


def directory_of(size: int) -> bytes:
    """A zip archive that says that its list of entries has `size` bytes."""
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, 0, 0)
    return b"PK\x03\x04" + b"\0" * 2000 + end


SLOW = ("many operations", "marks", "deep tuple", "deep list", "laughs")  # seconds to refuse


def all_files(canary: Path) -> dict[str, bytes]:
    """Every hostile file: raw pickles, the same within zip archives, and hostile archives."""
    raw = executing(canary) | refused(canary)
    return {
        **{f"{k} (pickle)": v for k, v in raw.items()},
        **{f"{k} (zip)": zipped(v) for k, v in raw.items()},
        **{f"{k} (archive)": v for k, v in archives(canary).items()},
    }
