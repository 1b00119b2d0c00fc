"""The pickle reader gives what pickle gives, for plain values, and calls nothing else."""

import collections
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_utils.files.inert_pickle import Record, RefusedError, quote, read, table
from torch_utils.files.inert_values import PLAIN, Array, check_size

NAMES = table(PLAIN, "which this test does not need")
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(allow_nan=False),
    st.text(), st.binary(),
)  # fmt: skip
KEYS = st.one_of(st.text(), st.integers(-100, 100))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.dictionaries(KEYS, inner), st.sets(KEYS)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(VALUES, st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_read_as_pickle_reads_them(value, protocol):
    found = read(pickle.dumps(value, protocol), NAMES)
    assert found == value
    assert type(found) is type(value)
    check_size(found, 10**6)


def test_values_that_are_shared_stay_shared():
    inner = [1, 2]
    a, b = read(pickle.dumps([inner, inner]), NAMES)
    assert a is b


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("code", ["<f4", ">f8", "|u1", "|b1", "<i8"])
def test_arrays(code, order, protocol):
    array = np.arange(6).reshape(2, 3).astype(code, order=order)
    found = read(pickle.dumps(array, protocol), NAMES)
    found = found.value if isinstance(found, Array) else found
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert read(pickle.dumps(np.float64(0.1), protocol), NAMES) == 0.1


def test_ordered_dicts_become_dicts():
    value = collections.OrderedDict(a=1, b=[2])
    value.note = "left out"
    for protocol in (2, 4):
        found = read(pickle.dumps(value, protocol), NAMES)
        assert found == {"a": 1, "b": [2]}
        assert type(found) is dict


class Thing:
    def __init__(self):
        self.x = 5


def test_a_name_is_what_the_table_says_and_nothing_else():
    data = pickle.dumps(Thing())
    with pytest.raises(
        RefusedError, match=r"asks for tests\.torch_utils\.files\.test_inert_pickle\.Thing"
    ):
        read(data, NAMES)
    names = table({f"{__name__}.Thing": lambda: Record("Thing")}, "-")
    assert read(data, names) == Record("Thing", {"x": 5})


def test_what_is_walked_must_end():
    cycle = []
    cycle.append(cycle)
    laughs = [0]
    for _ in range(50):
        laughs = [laughs] * 9
    shared = {"a": b"x" * 1000}
    for value, message in [
        (cycle, "contains itself"),
        (laughs, "values"),
        ([shared] * 9, "bytes"),
        (Record("A", [shared] * 9), "bytes"),
    ]:
        with pytest.raises(RefusedError, match=message):
            check_size(value, 5000)
    check_size([shared] * 4, 5000)


def test_quotes_are_short_and_plain():
    assert quote("a\n\x1b[31mé" + "x" * 999) == "a\\n\\x1b[31m\\xe9" + "x" * 72
    assert quote([1] * 10**6) == "a list"
    assert quote(10**5000) == "a huge number"
