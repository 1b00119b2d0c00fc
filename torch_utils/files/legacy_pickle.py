"""Older network files of the EDM family, read without running what they carry.

Their layout: a pickle of a dict (ema, loss_fn, augment_pipe, dataset_kwargs). A network is stored
with the source text of its class, which the older code ran to rebuild it:
torch_utils.persistence._reconstruct_persistent_obj(meta), with meta = {type: "class", version,
module_src, class_name, state}. Here that name makes a `Record` of class name and attributes, and
the source text is dropped unread. Plain torch.nn modules become records likewise, and so do the
objects of scikit-learn that toy networks keep of their data. What is not in the tables below is
refused by name.
"""

from __future__ import annotations

import re
from typing import Any

from torch_utils.files.inert_pickle import Maker, Record, RefusedError, quote, read, table
from torch_utils.files.inert_values import check_size
from torch_utils.files.tensor_files import PURPOSE, SLACK, TENSORS, UNFOLDED, read_storage

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
VERSIONS = range(1, 7)  # of `meta`
_OBJECT = re.compile(r"(torch\.nn\.modules|sklearn)(\.[a-z_]+)+\.[A-Z][A-Za-z0-9]*")


def _persistent(meta: Any) -> Record:
    if type(meta) is not dict or meta.get("type") != "class":
        raise RefusedError("holds an object with source text in an unknown form")
    if meta.get("version") not in VERSIONS:
        raise RefusedError(
            f"holds an object of version {quote(meta.get('version'))}, known is {VERSIONS[-1]}"
        )
    name, state = meta.get("class_name"), meta.get("state")
    if type(name) is not str or not name.isidentifier() or type(state) is not dict:
        raise RefusedError("holds an object with source text in an unknown form")
    return Record(name, state)


_find = table(
    {
        **TENSORS,
        PERSISTENT: _persistent,
        "torch.storage._load_from_bytes": read_storage,
        "dnnlib.util.EasyDict": lambda: {},
    },
    PURPOSE,
)


def _names(name: str) -> Any:
    if _OBJECT.fullmatch(name):
        return Maker(name, lambda: Record(name.rpartition(".")[2]))
    return _find(name)


def read_legacy(data: bytes) -> dict[str, Any]:
    """The dict of an older network file; objects with source text and modules are `Record`s.

    Args:
        data: the whole file.

    Raises:
        RefusedError: one line that says why.
    """
    content = read(data, _names)
    check_size(content, UNFOLDED * len(data) + SLACK)
    if isinstance(content, Record):  # a network on its own
        content = {"ema": content}
    if not isinstance(content, dict):
        raise RefusedError(f"holds a {quote(type(content).__name__)}, not a network")
    return content


def _group(record: Record, name: str) -> dict[Any, Any]:
    """The dict that an object has under a name; empty if it has none."""
    state = record.state if type(record.state) is dict else {}
    found = state.get(name)
    return found if type(found) is dict else {}


def attributes(record: Record) -> dict[str, Any]:
    """Everything by its name that an object has: constructor arguments, buffers, attributes.

    Attributes go before buffers, and these before arguments; names that begin with _ are left out.
    """
    found: dict[str, Any] = {}
    for group in ("_init_kwargs", "_parameters", "_buffers"):
        found |= _group(record, group)
    state = record.state if type(record.state) is dict else {}
    return found | {k: v for k, v in state.items() if not str(k).startswith("_")}


def submodules(record: Record) -> dict[str, Record]:
    """The modules that a module holds."""
    members = _group(record, "_modules").items()
    return {str(k): v for k, v in members if isinstance(v, Record)}


def state_of(record: Record, prefix: str = "") -> dict[str, Any]:
    """What state_dict() of the module would give: its parameters and buffers, tensors by name."""
    state = record.state if type(record.state) is dict else {}
    hidden = state.get("_non_persistent_buffers_set") or ()
    members = _group(record, "_parameters") | _group(record, "_buffers")
    found = {prefix + str(k): v for k, v in members.items() if v is not None and k not in hidden}
    for name, module in submodules(record).items():
        found |= state_of(module, f"{prefix}{name}.")
    return found
