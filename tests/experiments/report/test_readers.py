"""What the report says of each kind of result, against the numbers in its files."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments.report.collect import collect

RADII = [0.5, 1.0]


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), 128, np.uint8)).save(path)


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def only(folder):
    (entry,), problems = collect([folder])
    assert problems == []
    return entry


def test_a_training_run(tmp_path):
    run = tmp_path / "00000-circles-PRP"
    dump(run / "training_options.json", {"seed": 3})
    losses = [10 / k for k in range(1, 31)]
    lines = [
        json.dumps({"kimg": 2.0 * k, "loss": v, "sec_per_kimg": 0.1, "sec_total": 61.0})
        for k, v in enumerate(losses, 1)
    ]
    (run / "stats.jsonl").write_text("\n".join([*lines, '{"kimg": 62, "lo']))
    for name in ("loss.png", "samples-000001.png", "samples-000060.png"):
        picture(run / name)
    for name in ("network-snapshot-000001.pkl", "network-snapshot-000060.pkl"):
        (run / name).touch()
    entry = only(tmp_path)
    facts = dict(entry.facts)
    assert entry.headline == "loss 0.3333 at 60 kimg"
    assert facts["lowest loss of a tick"] == losses[-1]
    assert facts["time of the last session"] == "1m 01s"
    assert facts["latest network"] == "network-snapshot-000060.pkl"
    (curve,) = entry.curves
    assert curve.x == [2.0 * k for k in range(1, 31)]
    assert curve.lines["each tick"] == losses
    assert curve.lines["running median"][10] == np.median(losses[6:15])
    assert [p.name for p, _ in entry.pictures] == ["samples-000060.png"]
    assert entry.notes == ["1 lines of stats.jsonl could not be read."]
    assert entry.details["Options"] == {"seed": 3}


def test_long_runs_are_thinned_and_keep_their_end(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    lines = [json.dumps({"kimg": k, "loss": 1.0 + k}) for k in range(5000)]
    (run / "stats.jsonl").write_text("\n".join(lines))
    (curve,) = only(tmp_path).curves
    assert len(curve.x) <= 601
    assert (curve.x[0], curve.x[-1]) == (0.0, 4999.0)
    assert curve.lines["each tick"] == [1.0 + x for x in curve.x]


def test_hostile_ticks_are_passed_over(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    ticks = ['{"kimg": "<b>", "loss": 1}', '{"kimg": 1, "loss": NaN}', "[1]", '{"kimg": 2}']
    (run / "stats.jsonl").write_text("\n".join(ticks))
    entry = only(tmp_path)
    assert entry.curves == []
    assert entry.headline == "2 kimg"


def test_coverage_beside_chi_square(tmp_path):
    for stage, share in (("latent", 0.1), ("gen", 0.2), ("roundtrip", 0.3)):
        dump(
            tmp_path / f"circles_PRP_coverages_{stage}.json",
            {
                "radii": RADII, "chi_square": [0.1175, 0.3935], "mean": [share, 2 * share],
                "two_sd": [0.01, 0.02], "largest_change_from_latent": share - 0.1,
                "options": {"seed": 0},
            },
        )  # fmt: skip
    picture(tmp_path / "circles_PRP_coverages.png")
    picture(tmp_path / "circles_PRP_boundaries.png")
    entry = only(tmp_path)
    (table,) = entry.tables
    assert table.columns == [
        "radius", "chi-square", "latent", "after generation", "after inflating back",
    ]  # fmt: skip
    assert table.rows[1] == [1.0, "39.35", "20.00 ± 2.00", "40.00 ± 2.00", "60.00 ± 2.00"]
    assert "20 points" in entry.headline
    assert len(entry.pictures) == 2


def test_a_posterior(tmp_path):
    content = {
        "options": {"sampler": "flow"}, "truth": [0.5, 0.25, 0.25],
        "share_of_components_in_data": [0.5, 0.2, 0.3], "mean": [0.52, 0.23, 0.25],
        "sd": [0.02, 0.01, 0.01], "r_hat": [1.001, 1.003, 1.0], "ess_bulk": [4e3, 3e3, 2e3],
    }  # fmt: skip
    dump(tmp_path / "PRP" / "summary.json", content)
    dump(tmp_path / "PRP" / "run.json", {"facts": {}, "finished": True})
    dump(tmp_path / "half" / "run.json", {"facts": {"seed": 1}, "finished": False})
    (done, half), _ = collect([tmp_path])
    assert done.tables[0].rows[0] == ["w1", 0.5, 0.5, 0.52, 0.02, 1.001, 4000.0]
    assert done.headline == "weights 0.52, 0.23, 0.25; R-hat at most 1.003"
    assert half.headline == "not finished"


def test_tables_of_the_paper_show_only_pictures_of_their_own_folder(tmp_path):
    outdir = tmp_path / "out"
    picture(outdir / "fid" / "curve.png")
    picture(tmp_path / "elsewhere.png")
    dump(
        outdir / "fid" / "table.json",
        {
            "table": "fid", "title": "FID", "scale": "demo", "columns": ["d", "ours", "paper"],
            "rows": [{"d": 1, "ours": 12.5, "paper": 12.6}, {"d": 2, "ours": None, "paper": 11.9}],
            "commit": "abc", "commands": ["python train.py"], "notes": ["short"],
            "pictures": ["fid/curve.png", "../elsewhere.png"],
        },
    )  # fmt: skip
    (entry,), problems = collect([outdir])
    assert entry.tables[0].rows == [[1, 12.5, 12.6], [2, None, 11.9]]
    assert ("commit", "abc") in entry.facts
    assert entry.details["Commands"] == "python train.py"
    assert [p.name for p, _ in entry.pictures] == ["curve.png"]
    assert len(problems) == 1
    assert "../elsewhere.png" in problems[0]


def test_tables_leave_the_pictures_of_runs_to_them(tmp_path):
    picture(tmp_path / "nets" / "run" / "samples-000001.png")
    dump(tmp_path / "nets" / "run" / "training_options.json", {"seed": 1})
    table = {"columns": ["a", "b"], "rows": [{"a": 1}], "pictures": ["nets/run/samples-000001.png"]}
    dump(tmp_path / "toys" / "table.json", table)
    (toys, run), _ = collect([tmp_path])
    assert (len(toys.pictures), len(run.pictures)) == (0, 1)
    assert toys.tables[0].columns == ["a"]
    (alone,), _ = collect([tmp_path / "toys"])
    assert [c for _, c in alone.pictures] == ["nets/run/samples-000001"]


def test_correlations_are_drawn_where_they_can_be(tmp_path):
    content = {"n_samples": 10, "t": [0.0, 1.0, 2.0], "options": {}}
    lines = {f"net_{k}_acs_mean_diagonal": [1.0, 0.5, v] for k, v in
             (("residual", 0.25), ("output", float("nan")))}  # fmt: skip
    dump(tmp_path / "circles_PRP_toy_autocorrelations.json", content | lines)
    (curve,) = only(tmp_path).curves
    assert curve.x == [0.0, 1.0]
    assert curve.lines["residuals"] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("name", "content", "kind", "headline"),
    [
        ("c_PRP_nll.json", {"results": {"nll_nats": {"mean": 1.25}, "warnings": ["take care"]}},
         "Likelihood", "NLL 1.25 nats"),
        ("c_PRP_net_sim_params.json", {"results": {"round_trip_rmse": 0.5}},
         "Simulations", "round-trip rmse 0.5"),
        ("c_PRP_HD_pfODE_int_sim_params.json", {"results": {"evaluations_one_way": 33}},
         "Simulations", "33 evaluations one way"),
        ("PRP_Roundtrip_MSE_42seed_1kimgs.json", {"mse": 0.25, "images": 10},
         "Round-trip error", "MSE 0.25 px²"),
        ("gen-fid.json", {"results": {"fid": 12.5, "images": 500}},
         "Sample quality", "FID 12.5, 500 images"),
        ("sbc.json", {"results": {"data_sets": 300}}, "Calibration by simulation", "300 data sets"),
        ("mine.json", {"results": {"value": 1}}, "Other results", ""),
    ],
)  # fmt: skip
def test_results_of_one_file(tmp_path, name, content, kind, headline):
    dump(tmp_path / name, content | {"options": {"seed": 7}})
    picture(tmp_path / f"{name.split('_HD')[0].removesuffix('.json')}_more.png")
    if "sim_params" in name:
        picture(tmp_path / "c_PRP_net_panels.png")
    entries, problems = collect([tmp_path])
    entry = entries[0]
    assert problems == []
    assert (entry.kind, entry.headline) == (kind, headline)
    assert entry.details["Options"] == {"seed": 7}
    assert entry.pictures or name in ("gen-fid.json",)
    assert entry.notes == (["take care"] if "nll" in name else [])


def test_equal_titles_are_told_apart_by_as_many_folders_as_it_takes(tmp_path):
    for name in ("d1", "d2"):
        (tmp_path / name / "images").mkdir(parents=True)
        path = tmp_path / name / "images" / "x_nll.json"
        path.write_text(
            json.dumps({"options": {"seed": 1}, "results": {"nll_nats": {"mean": 1.0}}})
        )
    entries, _ = collect([tmp_path])
    assert [e.title.split(" in ")[1] for e in entries] == ["d1/images", "d2/images"]
