"""Quality in the features of a small classifier: good, bad and one-sided images are told apart."""

import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from metrics import classifier, digit_quality
from metrics.digit_quality import NOISE, REAL, main
from metrics.features import statistics_of
from tests.image_fixtures import good, pixels, png, write_folder
from training.data.images import ImageSource


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digits.zip"
    good("digits", path, "--no-plot")
    return path


def call(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def write(folder, images):
    return write_folder(folder, {f"{i:04d}.png": png(x) for i, x in enumerate(images)})


@pytest.fixture(scope="module")
def report(digits, tmp_path_factory):
    """Held-out sevens alone, and random pixels, beside the yardsticks."""
    folder = tmp_path_factory.mktemp("images")
    source = ImageSource(digits, use_labels=True)
    labels = source.labels(0, 0, len(source)).argmax(1).numpy()
    sevens = write(folder / "sevens", source.pixels[labels == 7, 0])
    random = write(folder / "random", pixels(200, 8, 1))
    dest = folder / "out" / "quality.json"
    args = [f"--data={digits}", f"--images={sevens}", f"--images={random}", f"--dest={dest}"]
    result = call(*args)
    assert result.exit_code == 0, result.output
    found = json.loads(dest.read_text())
    rows = {"sevens": found["rows"][str(sevens)], "random": found["rows"][str(random)]}
    return {**found, "rows": {REAL: found["rows"][REAL], NOISE: found["rows"][NOISE], **rows}}, (
        result.output
    )


@pytest.mark.slow
def test_the_classifier_is_good_enough_and_not_too_sure(report):
    facts, real = report[0]["classifier"], report[0]["rows"][REAL]
    assert facts["held_out_images"] == real["images"] == 359
    assert facts["training_images"] == 1797 - 359
    assert facts["accuracy"] >= 0.97
    assert abs(real["mean_confidence"] - facts["accuracy"]) < 0.03  # as sure as it is right
    assert real["effective_classes"] > 9.9


@pytest.mark.slow
def test_the_numbers_order_the_images(report):
    rows = report[0]["rows"]
    for name in ("classifier_frechet_distance", "classifier_kernel_distance"):
        for worse in (NOISE, "random", "sevens"):
            assert rows[worse][name] > 5 * abs(rows[REAL][name])
    for bad in (NOISE, "random"):
        assert rows[bad]["mean_confidence"] < rows[REAL]["mean_confidence"] - 0.1
        assert rows[bad]["share_above_0.9"] < rows[REAL]["share_above_0.9"] - 0.3
    assert rows["sevens"]["mean_confidence"] > 0.95
    assert rows["sevens"]["effective_classes"] < 1.3  # all of one class shows
    assert np.argmax(rows["sevens"]["class_counts"]) == 7
    assert sum(rows["random"]["class_counts"]) == rows["random"]["images"] == 200


@pytest.mark.slow
def test_it_says_what_it_is(report):
    found, output = report
    assert "not FID" in output
    assert not any(re.search("(^|_)(fid|inception)(_|$)", key) for key in found["rows"][REAL])
    assert found["classifier"]["images_of_a_distance"] == 179  # the number of the sevens
    assert found["options"]["seed"] == 0
    for name in (REAL, NOISE, "sevens", "random"):
        assert name in output


def test_the_same_seed_gives_the_same_classifier():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((90, 1, 8, 8))).float()
    y = torch.arange(90) % 3
    before = torch.get_rng_state()
    one, two = (classifier.train(x, y, 3, epochs=2, seed=1).state_dict() for _ in range(2))
    other = classifier.train(x, y, 3, epochs=2, seed=2).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not any(torch.equal(one[k], other[k]) for k in one)


def test_each_class_is_held_out_in_the_same_share():
    labels = np.array([0] * 50 + [1] * 100 + [2])
    known, held = classifier.hold_out(labels, 0.2, seed=0)
    assert np.bincount(labels[held]).tolist() == [10, 20, 1]
    assert sorted([*known, *held]) == list(range(151))
    assert not np.array_equal(held, classifier.hold_out(labels, 0.2, seed=1)[1])


def test_the_noise_has_the_mean_and_covariance_of_the_data():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((500, 4))) * 0.1
    x[:, 1] += 0.5 * x[:, 0]
    noise = digit_quality.gaussian_noise(x.float().reshape(500, 1, 2, 2), 20_000, seed=0)
    a, b = statistics_of(x), statistics_of(noise.flatten(1))
    torch.testing.assert_close(a.mu, b.mu, rtol=0, atol=4e-3)  # 5 standard errors
    torch.testing.assert_close(a.sigma, b.sigma, rtol=0, atol=6e-4)


def test_bad_input(digits, tmp_path):
    small = write(tmp_path / "small", pixels(4, 4, 1))
    unlabelled = write(tmp_path / "plain", pixels(4, 8, 1))
    colour = write(tmp_path / "colour", pixels(4, 8, 3))
    one = write(tmp_path / "one", pixels(1, 8, 1))
    for args, words in {
        (f"--data={tmp_path / 'none'}",): "--data: .*no such file",
        (f"--data={unlabelled}",): "--data: .*no labels",
        (f"--data={digits}", f"--images={small}"): "4x4 grey, --data=.* of 8x8 grey",
        (f"--data={digits}", f"--images={colour}"): "8x8 colour, --data=.* of 8x8 grey",
        (f"--data={digits}", f"--images={one}"): "holds 1 image; give at least 2",
        (f"--data={digits}", "--epochs=1"): "under 97%: it cannot judge; give more --epochs",
    }.items():
        result = call(*args, f"--dest={tmp_path / 'out.json'}")
        assert result.exit_code == 2, result.output
        (line,) = [x for x in result.output.splitlines() if x.startswith("Error:")]
        assert re.search(words, line), line
    assert not (tmp_path / "out.json").exists()
