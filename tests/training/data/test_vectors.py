"""The user's own files: read exactly, refused clearly, and what was read is said."""

import numpy as np
import pytest
import torch

from training.basis import eigenbasis
from training.data.tables import TableOptions, read_table
from training.data.vectors import VectorSource

X = np.random.default_rng(0).standard_normal((50, 3)) * [1, 10, 0.1] + [0, 100, 5]
S = np.random.default_rng(1).normal([5, 7, 9], 0.1, (200, 3)).round(4)


@pytest.fixture(params=["npy", "npz", "csv", "header.csv"])
def path(request, tmp_path):
    path = tmp_path / f"mine.{request.param}"
    if path.suffix == ".npy":
        np.save(path, X)
    elif path.suffix == ".npz":
        np.savez(path, data=X, other=1)
    else:
        header = "a,b,c" if "header" in path.name else ""
        np.savetxt(path, X, delimiter=",", header=header, comments="", fmt="%.17g")
    return path


def test_every_format_reads_the_same(path):
    np.testing.assert_array_equal(VectorSource(path).rows.numpy(), X)
    said = VectorSource(path).said
    assert "50 rows, 3 columns" in said
    assert ("a, b, c" in said) == ("header" in path.name)
    assert ("left out: other" in said) == (path.suffix == ".npz")


def test_source_standardises_and_reshuffles(path):
    source = VectorSource(path)
    torch.testing.assert_close(source.scale, torch.from_numpy(X.std(0)))
    torch.testing.assert_close(source.samples(0, 10, 20), torch.from_numpy(X[10:20]))
    epochs = source.samples(0, 0, 120, "training")
    for k in (0, 50):
        np.testing.assert_array_equal(np.sort(epochs[k : k + 50], 0), np.sort(X, 0))
    assert not torch.equal(epochs[:50], epochs[50:100])
    assert torch.equal(source.samples(0, 45, 101, "training"), epochs[45:101])
    with pytest.raises(ValueError, match="holds 50 rows, 51 were asked for"):
        source.samples(0, 0, 51)


def table(rows, sep=",", header=None, decimal=".", index=None, end="\n", fmt="%.4f"):
    """A text table as programs write it."""
    lines = [] if header is None else [sep.join(map(str, header))]
    for i, row in enumerate(rows):
        cells = [(fmt % v).replace(".", decimal) if v == v else "" for v in row]
        lines.append(sep.join(cells if index is None else [str(index(i)), *cells]))
    return end.join(lines) + end


ABC = ["a", "b", "c"]
# What people have: name -> (text or bytes, words of the line that says what was read).
GOOD = {
    "default names": (table(S, header=range(3)), "200 rows, 3 columns: 0, 1, 2"),
    "years": (table(S, header=[2001, 2002, 2003]), "3 columns: 2001, 2002, 2003"),
    "wavelengths": (table(S, header=[400.5, 401, 401.5]), "columns: 400.5, 401, 401.5"),
    "default names of standard normals": (table(S * 10 - [50, 70, 90], header=range(3)), ": 0, 1"),
    "quoted names": (table(S, header=['"7"', '"9"', '"12"']), "columns: 7, 9, 12"),
    "no header": (table(S), "200 rows, 3 columns without names"),
    "index of to_csv": (table(S, header=["", *ABC], index=int), "'Unnamed: 0' (row numbers)"),
    "index and default names": (
        table(S, header=["", 0, 1, 2], index=int),
        "0, 1, 2; left out: 'Unnamed: 0' (row numbers)",
    ),
    "index of a selection": (
        table(S, header=["", *ABC], index=lambda i: 3 * i + 7),
        "'Unnamed: 0' (index)",
    ),
    "index written twice": (
        table(S, header=["", "Unnamed: 0", *ABC], index=lambda i: f"{i},{i}"),
        "'Unnamed: 0' (row numbers), 'Unnamed: 0.1' (row numbers)",
    ),
    "row names of R": (table(S, header=ABC, index=lambda i: i + 1), "columns: a, b, c; left out"),
    "row names of R, text": (table(S, header=ABC, index=lambda i: f"r{i}"), "'Unnamed: 0' (index)"),
    "row numbers without a header": (table(S, index=int), "without names; left out: '0' (row num"),
    "identifiers": (
        table(S, header=["id", *ABC], index=lambda i: 9**i % 1009),
        "'id' (identifier)",
    ),
    "dates": (table(S, header=["day", *ABC], index=lambda i: f"2020-01-{i:02}"), "'day' (dates)"),
    "dates without marks": (
        table(S, header=["day", *ABC], index=lambda i: f"2020{i // 28 + 1:02}{i % 28 + 1:02}"),
        "'day' (dates)",
    ),
    "text": (table(S, header=["kind", *ABC], index=lambda i: "xyz"[i % 3]), "'kind' (text)"),
    "semicolons": (table(S, ";", ABC), "a, b, c; separated by semicolons"),
    "semicolons and decimal commas": (table(S, ";", ABC, ","), "semicolons; decimal commas"),
    "tabs and decimal commas": (table(S, "\t", ABC, ","), "tabs; decimal commas"),
    "tabs": (table(S, "\t"), "without names; separated by tabs"),
    "spaces": (table(S, "   ", fmt="%9.4f"), "separated by spaces"),
    "commas and spaces": (table(S, ", ", ABC), "a, b, c"),
    "sep line": ("sep=;\n" + table(S, ";", ABC, ","), "a, b, c"),
    "quoted decimal commas": (
        table(S, ",", ABC, ",", fmt='"%.4f"'),
        "a, b, c; decimal commas",
    ),
    "byte order mark": (b"\xef\xbb\xbf" + table(S, header=ABC).encode(), "columns: a, b, c"),
    "utf-16": (table(S, "\t", ABC).encode("utf-16"), "encoded in utf-16"),
    "utf-16 without a mark": (table(S, header=ABC).encode("utf-16-le"), "encoded in utf-16-le"),
    "latin-1": (table(S, header=["µm", "Größe", "c"]).encode("latin-1"), "µm, Größe, c; encoded"),
    "Windows": (table(S, header=ABC, end="\r\n"), "a, b, c"),
    "old Mac": (table(S, header=ABC, end="\r"), "a, b, c"),
    "empty last column": (table(S, header=[*ABC, ""], end=",\n"), "'Unnamed: 3' (empty)"),
    "remarks of savetxt": ("# made by me\n# a,b,c\n" + table(S), "a, b, c; 1 lines of remarks"),
    "empty rows": (table(S, header=ABC) + ",,\n,,\n", "200 rows"),
    "typographic minus": (table(-S, header=ABC).replace("-", "\u2212"), "a, b, c"),
}


@pytest.mark.parametrize("name", GOOD)
def test_tables_as_people_have_them(tmp_path, name):
    content, said = GOOD[name]
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = VectorSource(path)
    truth = {"typographic minus": -S, "default names of standard normals": S * 10 - [50, 70, 90]}
    np.testing.assert_allclose(source.rows.numpy(), truth.get(name, S), rtol=0, atol=6e-5)
    assert said in source.said
    assert "\n" not in source.said


def test_one_column_of_decimal_commas(tmp_path):
    path = tmp_path / "t.csv"
    column = [f"{v:.2f}".replace(".", ",") for v in S[:, 0]]
    path.write_text("\n".join(["value", *column]))
    np.testing.assert_allclose(VectorSource(path).rows.numpy(), S[:, :1].round(2), atol=6e-3)
    path.write_text("\n".join(column))
    with pytest.raises(ValueError, match=r"one number .* \(--decimal=,\) or two .*--decimal=\."):
        VectorSource(path)
    assert VectorSource(path, TableOptions(decimal=",")).dim == 1
    assert VectorSource(path, TableOptions(decimal=".")).dim == 2


def test_thousands_are_told_from_decimals(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a;b\n1.234,5;2\n2.000,5;3\n"3,25";5\n')
    assert VectorSource(path).rows.numpy()[:, 0].tolist() == [1234.5, 2000.5, 3.25]
    path.write_text('a,b\n"1,234.5",2\n"2,000",3\n3.25,5\n')
    assert VectorSource(path).rows.numpy()[:, 0].tolist() == [1234.5, 2000.0, 3.25]
    path.write_text('a,b\n"1,234",2\n"2,000",3\n')
    with pytest.raises(ValueError, match=r"'1,234': a decimal comma \(--decimal=,\) or thousands"):
        VectorSource(path)
    assert VectorSource(path, TableOptions(decimal=",")).rows[0, 0] == 1.234
    assert VectorSource(path, TableOptions(decimal=".")).rows[0, 0] == 1234
    path.write_text("a;b\n1,5;2.5\n2,5;3.5\n")
    with pytest.raises(ValueError, match=r"decimal points \(2.5 in column 'b'\) and decimal comm"):
        VectorSource(path)


def test_rows_of_whole_numbers_are_not_names(tmp_path):
    path = tmp_path / "t.csv"
    whole = np.random.default_rng(2).integers(0, 9, (40, 4))
    whole[0] = [3, 7, 3, 1]
    np.savetxt(path, whole, "%d", ",")
    np.testing.assert_array_equal(VectorSource(path).rows.numpy(), whole)
    whole[0] = [0, 1, 2, 3]
    np.savetxt(path, whole, "%d", ",")
    with pytest.raises(ValueError, match=r"header of numbers .--header. or a row of data .--no-"):
        VectorSource(path)
    assert len(VectorSource(path, TableOptions(header=False)).rows) == 40
    assert len(VectorSource(path, TableOptions(header=True)).rows) == 39


@pytest.mark.parametrize("gap", ["?", "NA", "n/a", "-", ".", "", "nan", "#DIV/0!", "NULL"])
def test_missing_values_are_an_error_or_left_out(tmp_path, gap):
    path = tmp_path / "t.csv"
    lines = table(S).splitlines()
    lines[0] = f"{S[0, 0]},{gap},{S[0, 2]}"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"1 of 200 rows .* row 1, column '1' .*--missing=drop"):
        VectorSource(path)
    source = VectorSource(path, TableOptions(missing="drop"))
    np.testing.assert_array_equal(source.rows, S[1:])
    assert "199 rows" in source.said
    assert "1 rows with missing values left out" in source.said
    assert len(VectorSource(path, TableOptions(columns=("0", "2"))).rows) == 200


def test_columns_are_chosen_by_the_user(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(table(S, header=["id", *ABC], index=lambda i: 9**i % 1009))
    source = VectorSource(path, TableOptions(columns=("c", "id")))
    np.testing.assert_array_equal(source.rows[:, 0], S[:, 2])
    assert source.reading["columns"] == ["c", "id"]
    assert "left out: 'a' (not asked for)" in source.said
    for options, reason in {
        TableOptions(columns=("c", "d")): "lacks the columns d; its columns are id, a, b, c",
        TableOptions(columns=("c", "c")): "names a column twice",
        TableOptions(index_col="k"): "--index_col=k: its columns are",
        TableOptions(columns=("c",), index_col="id"): "leave --index_col out",
    }.items():
        with pytest.raises(ValueError, match=reason):
            VectorSource(path, options)
    assert VectorSource(path, TableOptions(index_col="b")).reading["columns"] == ["a", "c"]
    np.save(tmp_path / "t.npy", X)
    with pytest.raises(ValueError, match="--no-header is for tables"):
        VectorSource(tmp_path / "t.npy", TableOptions(header=False))


def test_a_network_reads_the_columns_that_it_was_trained_on(tmp_path):
    path, other = tmp_path / "t.csv", tmp_path / "o.csv"
    path.write_text(table(S, header=ABC))
    like = VectorSource(path).reading
    other.write_text(table(S[:, [2, 0, 1, 1]], ";", ["c", "a", "more", "b"], ","))
    np.testing.assert_array_equal(VectorSource(other, like=like).rows, S)
    other.write_text(table(S, header=["a", "B", "c"]))
    with pytest.raises(ValueError, match="lacks the columns b, which the network was trained on"):
        VectorSource(other, like=like)
    other.write_text(table(S))
    with pytest.raises(ValueError, match="has no header, and the network was trained on"):
        VectorSource(other, like=like)
    assert VectorSource(other, TableOptions(columns=("0", "1", "2")), like).dim == 3
    with pytest.raises(ValueError, match="contradicts the network"):
        VectorSource(path, TableOptions(columns=("b", "a", "c")), like)


def test_codes_of_missing_values_are_named(tmp_path):
    """-999 among small numbers, not among its like, and no number that only ends in nines."""
    code = X[:50].copy()
    code[[3, 7], 0] = -999
    near = np.linspace(-999, 999, 50)
    np.save(tmp_path / "c.npy", np.column_stack([code, near, np.where(near > 990, 1999, near)]))
    (said,) = VectorSource(tmp_path / "c.npy").codes
    assert said == "column 0 is -999 in 2 rows, far from all its others"
    np.save(tmp_path / "d.npy", X)
    assert VectorSource(tmp_path / "d.npy").codes == []


def test_constant_columns_are_known(tmp_path):
    constant = [np.full(50, 7.7), np.full(50, 0.3) + 1e-17, np.where(X[:, 0] > 0, 0.3, 0.1 * 3)]
    np.save(tmp_path / "c.npy", np.column_stack([X, *constant]))
    source = VectorSource(tmp_path / "c.npy")
    assert source.constant == ["3", "4", "5"]
    assert source.scale[3:].tolist() == [1.0, 1.0, 1.0]


def test_nanosecond_times_keep_their_digits(tmp_path):
    """sd 1e6 at 1.7e18: a relative spread of 6e-13, four thousand steps of float64."""
    path, rng = tmp_path / "t.csv", np.random.default_rng(3)
    offsets = rng.normal(0, 1e6, 400).astype(np.int64)
    value = offsets * 1e-6 + rng.normal(0, 0.5, 400)
    start = 1_700_000_000_000_000_000
    lines = [f"{start + o},{v:.6f}" for o, v in zip(offsets, value, strict=True)]
    path.write_text("\n".join(["time,value", *lines]))
    source = VectorSource(path)
    assert source.constant == []
    torch.testing.assert_close(float(source.scale[0]), float(offsets.std()), rtol=1e-5, atol=0)
    basis = eigenbasis(source.basis_batches(), source.dim, source.scale)
    truth = np.corrcoef(offsets, value)[0, 1]
    torch.testing.assert_close(float(basis.xi[0]), 1 + truth, rtol=1e-5, atol=0)
    fine = [f"{start + i},{v:.6f}" for i, v in enumerate(value)]
    path.write_text("\n".join(["time,value", *fine]))
    with pytest.raises(ValueError, match=r"'time': its integers .* float64 holds steps of 256"):
        VectorSource(path)


def _npy(path, value):
    np.save(path, value, allow_pickle=True)


def _csv(text):
    return lambda p: p.write_text(text)


BAD = {
    "empty.csv": (_csv(""), "no rows of numbers"),
    "header.csv": (_csv("a,b\n"), "no rows of numbers"),
    "ragged.csv": (_csv("1.5,2,3\n3,4\n5,6,7\n"), "row 2 has 2 columns, not 3"),
    "lost.csv": (_csv("5,01\n5\n4,87\n"), "one number with a decimal comma"),
    "title.csv": (_csv("My data\na,b,c\n1,2.5,3\n4,5.5,6\n"), "row 1 has 1 columns, the others 3"),
    "pairs.csv": (_csv("5,01,6,13\n4,87,7,02\n"), "separate it by semicolons"),
    "words.csv": (_csv("a,b\n1,2\n3,four\n5,6\n"), "'four' among numbers in row 2"),
    "units.csv": (_csv("a,b\nm,kg\n1.5,2.5\n3,4\n"), "'m' among numbers in row 1"),
    "total.csv": (_csv("a,b\n1.5,2\n3,4\nTotal,6\n"), "'Total' among numbers in row 3"),
    "text.csv": (_csv("a,b\nx,y\nz,y\n"), "no columns of numbers; left out: 'a'"),
    "money.csv": (_csv("a,b\n$1.50,2.5\n$2.50,1.5\n"), "a number in a form that is not read"),
    "counts.csv": (_csv("a,t\n" + "".join(f"{i * 0.7},{i}\n" for i in range(9))), "--index_col=t"),
    "index.csv": (_csv(",b\n0.5,2.5\n0.7,1.5\n"), "'Unnamed: 0' has no name"),
    "mixed.csv": (_csv("5.5,abc\n1.5,2\n3.5,4\n"), "--no-header"),
    "outside.csv": (_csv("10,200,31\n.1,.2,.3\n.4,.5,.7\n.2,.3,.1\n"), "a header of numbers"),
    "binary.csv": (lambda p: p.write_bytes(b"PK\x03\x04\x00\x00"), "not a text table"),
    "quote.csv": (_csv('a,b\n1,"2\n3,4\n'), "not a text table"),
    "page.csv": (_csv("<!DOCTYPE html>\n<p>Log in</p>\n"), "no columns of numbers"),
    "infinite.csv": (_csv("a,b\n1.5,inf\n3.5,4\n"), "NaN or infinite, the first in row 1"),
    "nodata.csv": (_csv("a,b\n1.7976931348623157e308,1\n5,6.5\n"), "column 'a' holds 1.798e.308"),
    "far.npy": (lambda p: _npy(p, np.array([[1e200, 1], [2e200, 3]])), "too large to compute"),
    "near.npy": (lambda p: _npy(p, np.array([[1e-200, 1], [2e-200, 3]])), "too little to compute"),
    "row.csv": (_csv("a,b\n1.5,2\n"), "holds 1 rows; at least 2"),
    "equal.csv": (_csv("a,b\n" + "1.5,2\n" * 9), "every column is constant"),
    "nan.npy": (lambda p: _npy(p, np.array([[1.0, np.nan], [2, 3]])), "row 0, column 1"),
    "one.npy": (lambda p: _npy(p, np.ones((1, 2))), "at least 2"),
    "cube.npy": (lambda p: _npy(p, np.ones((2, 2, 2))), "not numbers"),
    "none.npy": (lambda p: _npy(p, np.ones((2, 0))), "not numbers"),
    "object.npy": (lambda p: _npy(p, np.array([{}, 1])), "not a readable array"),
    "junk.npy": (lambda p: p.write_bytes(b"junk"), "not a readable array"),
    "junk.npz": (lambda p: p.write_bytes(b"junk"), "not a readable"),
    "two.npz": (lambda p: np.savez(p, a=X, b=X), "name one of them"),
    "flat.npy": (lambda p: _npy(p, np.ones((5, 2))), "every column is constant"),
    "x.xlsx": (lambda p: p.write_text("1 2"), "not a .npy, .npz or .csv"),
    "absent.csv": (lambda p: None, "no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_clear_line(tmp_path, name):
    write, reason = BAD[name]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=reason) as error:
        VectorSource(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_column_that_is_all_gaps_is_kept_where_gaps_are_what_is_looked_for(tmp_path):
    (tmp_path / "seen.csv").write_text("0.3,\n-1.2,\n")
    table = read_table(tmp_path / "seen.csv", TableOptions(missing="keep"))
    np.testing.assert_array_equal(table.values, [[0.3, np.nan], [-1.2, np.nan]])
