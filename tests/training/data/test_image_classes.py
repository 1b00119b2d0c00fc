"""Labels that do not start at 0: as many classes as labels, their labels kept, empty ones never."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import gen_fid_samples
import pfODE_int
import train
from flow.flow import load_flow
from flow.images import open_data, pilot_classes
from flow.latents import class_number
from flow.numbered_images import block_classes
from tests.image_fixtures import pixels, png, write_folder, write_zip
from tests.image_networks import error_line, good, untrained
from training.data.images import ImageSource

X = pixels(24, 8, 1)
LABELS = np.array([5, 2, 9] * 8)
FAST = ["--device=cpu", "--no-plot", "--steps=2"]


def labelled(path, labels):
    files = {f"{i:02d}.png": png(X[i]) for i in range(len(labels))}
    pairs = [[f"{i:02d}.png", int(k)] for i, k in enumerate(labels)]
    return write_zip(path, files | {"dataset.json": json.dumps({"labels": pairs}).encode()})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A set with the labels 2, 5 and 9, and a network of its three classes."""
    folder = tmp_path_factory.mktemp("classes")
    untrained(folder / "net.pkl", labelled(folder / "set.zip", LABELS), 64, classes=3)
    return folder


def test_labels_become_classes(place):
    source = ImageSource(place / "set.zip", use_labels=True)
    assert source.classes == 3
    np.testing.assert_array_equal(source.labels(0, 0, 24).argmax(1), [1, 0, 2] * 8)
    about = source.description()
    assert (about["class_labels"], about["class_images"]) == ([2, 5, 9], [8, 8, 8])
    plain = ImageSource(place / "set.zip")
    assert "class_labels" not in plain.description()
    assert plain.content_hash() == source.content_hash()


def test_classes_without_images_are_said_and_never_drawn(place, tmp_path, capsys):
    data = labelled(tmp_path / "rare.zip", [2] * 12 + [5] * 11 + [9])
    source = ImageSource(data, use_labels=True, max_size=4, seed=1)
    assert (source.classes, source.description()["class_images"][2]) == (3, 0)
    assert "Note: " in (said := capsys.readouterr().out)
    assert "rare.zip: 1 classes have no image among the 4 used" in said
    flow = load_flow(place / "net.pkl", "cpu")
    drawn = block_classes(flow, range(300), None, None)
    assert set(drawn) == {0, 1, 2}
    flow.info["data"] = source.description()
    assert set(block_classes(flow, range(300), None, None)) == {0, 1}
    assert set(pilot_classes(flow)) == {0, 1}
    assert set(block_classes(flow, range(3), None, class_number(flow, 9))) == {2}  # by its label


def test_other_data_is_mapped_as_the_network_is(place, tmp_path):
    flow = load_flow(place / "net.pkl", "cpu")
    source = open_data(flow, str(labelled(tmp_path / "some.zip", [9, 2])))
    np.testing.assert_array_equal(source.labels(0, 0, 2).argmax(1), [2, 0])
    args = [f"--network={place / 'net.pkl'}", f"--save_dir={tmp_path / 'out'}", *FAST]
    data = labelled(tmp_path / "other.zip", [9, 3])
    line = error_line(pfODE_int.main, *args, f"--data_root={data}")
    assert "other.zip: has the label 3, which is none of the network's classes (2, 5, 9)" in line


def test_scripts_take_and_give_the_labels(place, tmp_path):
    args = [f"--network={place / 'net.pkl'}", f"--save_dir={tmp_path / 'out'}", *FAST]
    good(pfODE_int.main, *args, f"--data_root={place / 'set.zip'}", "--bs=24")
    results = {k: np.load(tmp_path / f"out/set_PRP_net_{k}_results.npz")
               for k in ("melt", "roundtrip", "gen")}  # fmt: skip
    source = ImageSource(place / "set.zip", use_labels=True)
    drawn = LABELS[source.picks(0, 0, 24, "drawn")]
    np.testing.assert_array_equal(results["melt"]["classes"], drawn)
    np.testing.assert_array_equal(results["roundtrip"]["classes"], drawn)
    assert set(results["gen"]["classes"]) == {2, 5, 9}
    melt = f"--prev_melt={tmp_path / 'out/set_PRP_net_melt_results.npz'}"
    again = [*args[:1], f"--save_dir={tmp_path / 'again'}", *FAST]
    good(pfODE_int.main, *again, "--sim_type=roundtrip", melt)
    back = np.load(tmp_path / "again/set_PRP_net_roundtrip_results.npz")
    np.testing.assert_array_equal(back["xs"], results["roundtrip"]["xs"])
    good(pfODE_int.main, *again, "--sim_type=gen", "--class=9", "--bs=4")
    gen = np.load(tmp_path / "again/set_PRP_net_gen_results.npz")
    assert set(gen["classes"]) == {9}
    fid = [args[0], "--seeds=0-1", *FAST, f"--save_dir={tmp_path / 'fid'}"]
    assert "the network's classes are 2, 5, 9" in error_line(
        gen_fid_samples.main, *fid, "--class=0"
    )
    good(gen_fid_samples.main, *fid, "--class=5")


def test_images_that_do_not_differ_are_refused(tmp_path):
    same = write_folder(tmp_path / "same", {f"{i}.png": png(X[0]) for i in range(3)})
    one = write_folder(tmp_path / "one", {"0.png": png(X[0])})
    args = [f"--outdir={tmp_path / 'out'}", "--cres=1", "-n"]
    for data, said in ((same, "3 equal images"), (one, "1 image")):
        line = error_line(train.main, *args, f"--data={data}")
        assert line == (f"Error: --data={data}: {said}, of which nothing can be learnt; name a set "
                        "of images that differ")  # fmt: skip
    mirrored = CliRunner().invoke(train.main, [*args, f"--data={one}", "--xflip", "--batch=2"])
    assert mirrored.exit_code == 0, mirrored.output
