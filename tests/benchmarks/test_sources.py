"""Committed tables and the code they measured: what is stale is marked so in docs/benchmarks.md."""

from benchmarks import sources
from benchmarks.sources import ROOT, digest, named


def test_stale_tables_are_marked():
    """If this fails: python -m benchmarks.sources; rerun what is stale when there is time."""
    page = sources.PAGE.read_text()
    assert sources.listed() in page, f"run python -m benchmarks.sources; stale: {sources.stale()}"


def test_a_digest_is_of_what_is_measured(tmp_path, monkeypatch):
    """Code that a benchmark reaches changes its digest; remarks and other code do not."""
    for name, text in {
        "benchmarks/speed.py": "from training.a import f\nrun('script.py')\n",
        "training/__init__.py": "",
        "training/a.py": "from training import b\n",
        "training/b.py": "x = 1\n",
        "training/c.py": "y = 1\n",
        "script.py": "import flow.d\n",
        "flow/d.py": "z = 1\n",
        "dnnlib/e.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sources, "ROOT", tmp_path)

    def now():
        named.cache_clear()
        sources._code.cache_clear()
        return digest("speed")

    first = now()
    (tmp_path / "training/c.py").write_text("y = 2\n")
    (tmp_path / "training/b.py").write_text('"""What it is,\nin full."""\n\n# a remark\nx = 1\n')
    assert now() == first
    seen = {first}
    for name in ("training/b.py", "flow/d.py", "script.py", "benchmarks/speed.py"):
        path = tmp_path / name
        path.write_text(path.read_text() + "more = 1\n")
        seen.add(now())
    assert len(seen) == 5
    named.cache_clear()
    sources._code.cache_clear()


def test_a_table_of_this_code_is_not_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "RESULTS", tmp_path)
    head = "Title\n2026-11-28; a machine\nsources "
    (tmp_path / "frechet.txt").write_text(f"{head}{digest('frechet')}\n\ntable\n")
    (tmp_path / "basis.txt").write_text(f"{head}{'0' * 12}\n\ntable\n")
    (tmp_path / "unet.txt").write_text("Title\n2026-11-27; a machine\n\ntable\n")
    assert sources.stale() == {
        "basis": "of sources 000000000000",
        "unet": "made before tables named their sources",
    }


def test_every_table_has_a_benchmark():
    for path in sources.RESULTS.glob("*.txt"):
        assert (ROOT / "benchmarks" / f"{sources.WHOLE.get(path.stem, path.stem)}.py").is_file()
