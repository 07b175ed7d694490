"""roofkit.scores: counts and scores by hand, and against scikit-learn and SciPy."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, brier_score_loss

from roofkit.scores import (
    BINS,
    EDGES,
    average_precision,
    average_precision_bounds,
    best_iou,
    boundary,
    boundary_counts,
    brier_score,
    building_counts,
    building_scores,
    expected_calibration_error,
    frame_counts,
    intervals,
    matches,
    patches,
    pixel_counts,
    pixel_scores,
    summarise,
)

ALL = np.ones((2, 3), bool)
PREDICTED = np.array([[1, 1, 0], [0, 0, 0]], bool)
TRUTH = np.array([[1, 0, 1], [1, 0, 0]], bool)


def histogram(probability, truth):
    """Of a single row of pixels."""
    probability = np.asarray(probability, np.float32)[None]
    return frame_counts(probability, np.asarray(truth, bool)[None], np.ones(probability.shape, bool))


def drawn(spread, number=20_000):
    """Probabilities of a model that is the surer the larger `spread`, and the truth."""
    generator = np.random.default_rng(3)
    truth = generator.random(number) < 0.1
    logits = (generator.normal(size=number) + np.where(truth, 1.4, -1.4)) * spread
    return (1 / (1 + np.exp(-logits))).astype(np.float32), truth


def test_pixel_counts_by_hand():
    valid = np.array([[1, 1, 1], [0, 1, 1]], bool)
    assert pixel_counts(PREDICTED, TRUTH, valid).tolist() == [1, 1, 1, 2]


def test_pixel_scores_by_hand():
    scores = pixel_scores(np.array([6, 2, 4, 8]))
    assert scores == {"iou": 6 / 12, "f1": 12 / 18, "precision": 6 / 8, "recall": 6 / 10}


def test_scores_of_nothing_are_nan_and_of_a_blank_prediction_zero():
    scores = pixel_scores(np.array([[0, 0, 0, 5], [0, 0, 5, 5]]))
    assert np.isnan([value[0] for value in scores.values()]).all()
    assert scores["iou"][1] == scores["recall"][1] == scores["f1"][1] == 0


def test_bins_cover_0_to_1_and_begin_at_round_numbers():
    assert (EDGES[0], EDGES[-1], len(EDGES)) == (0, 1, BINS + 1)
    assert (np.diff(EDGES) > 0).all()
    assert set(np.linspace(0, 1, 1501)) <= set(EDGES)
    assert np.nextafter(np.float32(1), np.float32(0)) < EDGES[-2]  # the last bin holds 1 and no other float32


def test_frame_counts_by_hand():
    probability = np.array([[0.0, 1.0, 0.5], [0.5, 0.2, 0.9]], np.float32)
    counts = frame_counts(probability, TRUTH, np.array([[1, 1, 1], [1, 1, 0]], bool))
    half = int(np.searchsorted(EDGES, 0.5))
    assert counts.shape == (2, BINS)
    assert counts.sum() == 5
    assert (counts[1, 0], counts[0, BINS - 1], counts[1, half]) == (1, 1, 2)
    assert counts[0, np.searchsorted(EDGES, 0.2, side="right") - 1] == 1


def test_average_precision_by_hand():
    assert average_precision(histogram([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0])) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_of_equal_probabilities_is_the_share_of_roof():
    assert average_precision(histogram([1, 1, 1, 1], [1, 0, 0, 0])) == pytest.approx(1 / 4)


def test_average_precision_without_roof_is_nan():
    assert np.isnan(average_precision(histogram([0.9, 0.8], [0, 0])))


@pytest.mark.parametrize("spread", [0.1, 1, 3, 8, 20])
def test_average_precision_is_that_of_scikit_learn_within_its_bounds(spread):
    probability, truth = drawn(spread)
    exact = average_precision_score(truth, probability)
    counts = histogram(probability, truth)
    low, high = average_precision_bounds(counts)
    assert low <= exact <= high
    assert low <= average_precision(counts) <= high
    assert average_precision(counts) == pytest.approx(exact, abs=0.002)


def test_bounds_of_one_bin_by_hand():
    low, high = average_precision_bounds(histogram([0.5, 0.5, 0.5], [1, 1, 0]))
    assert high == 1  # both roof pixels may come first
    assert low <= (1 / 2 + 2 / 3) / 2  # or after the background


def test_calibration_error_by_hand():
    counts = histogram([0.8, 0.8, 0.8, 0.8, 0.1, 0.1], [1, 1, 1, 0, 0, 0])
    expected = (4 * abs(0.8 - 3 / 4) + 2 * abs(0.1 - 0)) / 6
    assert expected_calibration_error(counts) == pytest.approx(expected, abs=0.0005)


def test_calibration_bins_are_fifteen_even_ones():
    inside = expected_calibration_error(histogram([0.41, 0.45], [0, 1]))  # both in 6/15 to 7/15
    apart = expected_calibration_error(histogram([0.39, 0.45], [0, 1]))
    assert inside == pytest.approx(0.5 - 0.43, abs=0.0005)
    assert apart == pytest.approx((0.39 + 0.55) / 2, abs=0.0005)


def test_brier_score_is_that_of_scikit_learn():
    probability, truth = drawn(1)
    assert brier_score(histogram(probability, truth)) == pytest.approx(
        brier_score_loss(truth, probability), abs=1 / 1500
    )


def test_best_threshold_by_hand():
    threshold, iou = best_iou(histogram([0.9, 0.6, 0.4, 0.2], [1, 0, 1, 0]))
    assert iou == pytest.approx(2 / 3)
    assert 0.2 < threshold <= 0.4


def test_the_best_threshold_nearest_to_one_half():
    assert best_iou(histogram([0.9, 0.1], [1, 0])) == (0.5, 1)
    assert best_iou(histogram([0.3, 0.1], [1, 0]))[0] == pytest.approx(0.3, abs=0.001)


def test_best_threshold_without_roof_is_nan():
    assert np.isnan(best_iou(histogram([0.9], [0]))).all()


def test_counts_of_frames_add_up_and_leading_axes_score_each():
    one, other = histogram([0.9, 0.2], [1, 0]), histogram([0.9, 0.7, 0.1], [0, 1, 1])
    both = histogram([0.9, 0.2, 0.9, 0.7, 0.1], [1, 0, 0, 1, 1])
    assert (one + other == both).all()
    stacked = summarise({"histogram": np.stack([one, other, both])})
    for i, counts in enumerate((one, other, both)):
        assert {name: value[i] for name, value in stacked.items()} == summarise({"histogram": counts})


def test_boundary_by_hand():
    roof = np.zeros((7, 8), bool)
    roof[1:6, 1:6] = True
    inner = np.zeros_like(roof)
    inner[2:5, 2:5] = True
    assert (boundary(roof, 1) == (roof & ~inner)).all()
    assert (boundary(roof, 9) == roof).all()


def test_the_edge_of_the_frame_is_a_boundary():
    assert boundary(np.ones((3, 4), bool), 1).tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_boundary_is_what_repeated_erosion_leaves(width):
    roof = ndimage.gaussian_filter(np.random.default_rng(0).random((40, 61)), 3) > 0.5
    eroded = ndimage.binary_erosion(roof, np.ones((3, 3)), iterations=width)
    assert (boundary(roof, width) == (roof & ~eroded)).all()


def test_boundary_counts_by_hand():
    truth = np.zeros((7, 8), bool)
    truth[1:6, 1:6] = True
    moved = np.roll(truth, 1, axis=1)
    valid = np.ones_like(truth)
    assert boundary_counts(truth, truth, valid, 1).tolist() == [16, 16]
    assert boundary_counts(moved, truth, valid, 1).tolist() == [8, 24]  # two rows of four
    valid[:3] = False
    assert boundary_counts(truth, truth, valid, 1).tolist() == [12, 12]  # of 3 x 5 pixels


def test_patches_share_edges():
    assert patches(np.array([[1, 1, 0], [0, 0, 1]], bool)).tolist() == [[1, 1, 0], [0, 0, 2]]


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        pytest.param([1, 1, 0, 2, 2], [1, 1, 0, 0, 0], [1, 1, 0], id="one found, one false"),
        pytest.param([0, 0, 0, 0, 0], [1, 1, 0, 2, 2], [0, 0, 2], id="both missed"),
        pytest.param([1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0], id="no building"),
        pytest.param([1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0], id="an IoU of one half is enough"),
        pytest.param([1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1], id="an IoU of one third is not"),
        pytest.param([1, 1, 2, 2, 0], [1, 1, 1, 1, 0], [1, 1, 0], id="two halves find a building once"),
        pytest.param([1, 1, 1, 1, 1], [1, 1, 1, 2, 2], [1, 0, 1], id="one prediction over two finds one"),
        pytest.param([7, 7, 0, 3, 3], [9, 9, 0, 4, 4], [2, 0, 0], id="numbers need not be dense"),
    ],
)
def test_buildings_by_hand(predicted, truth, expected):
    assert building_counts(np.array([predicted]), np.array([truth])).tolist() == expected


def test_small_buildings_count_on_neither_side():
    predicted, truth = np.array([[1, 0, 2, 2, 0, 3, 3]]), np.array([[1, 0, 2, 2, 0, 0, 4]])
    assert building_counts(predicted, truth).tolist() == [3, 0, 0]
    assert building_counts(predicted, truth, min_pixels=2).tolist() == [1, 1, 0]


def test_pairs_are_taken_from_the_highest_overlap_down():
    assert matches(np.array([1, 1, 2]), np.array([1, 2, 1]), np.array([0.3, 0.4, 0.35])) == 2
    assert matches(np.array([1, 1, 2]), np.array([1, 2, 1]), np.array([0.5, 0.4, 0.35])) == 1


def test_building_scores_by_hand():
    assert building_scores(np.array([3, 1, 2])) == {
        "building_f1": 6 / 9,
        "building_precision": 3 / 4,
        "building_recall": 3 / 5,
    }


FRAMES = {"pixels": np.array([[6, 2, 4, 8], [1, 0, 0, 9], [0, 3, 5, 2]])}


def test_intervals_are_those_of_a_plain_loop():
    generator, scores = np.random.default_rng(5), []
    for _ in range(250):
        times = generator.multinomial(3, [1 / 3] * 3)
        tp, fp, fn, _ = times @ FRAMES["pixels"]
        scores.append(tp / (tp + fp + fn))
    found = intervals(FRAMES, draws=250, confidence=0.9, seed=5)
    assert found["iou"] == pytest.approx(np.quantile(scores, [0.05, 0.95]))
    assert found == intervals(FRAMES, draws=250, confidence=0.9, seed=5)
    assert found != intervals(FRAMES, draws=250, confidence=0.9, seed=6)


def test_equal_frames_leave_no_doubt():
    frames = {"pixels": np.array([[6, 2, 4, 8]] * 4)}
    assert intervals(frames, draws=20, confidence=0.95, seed=0)["iou"] == (0.5, 0.5)


@pytest.mark.parametrize(("number", "draws"), [(1, 100), (3, 0)])
def test_one_frame_or_no_draw_gives_no_interval(number, draws):
    frames = {"pixels": FRAMES["pixels"][:number]}
    assert intervals(frames, draws=draws, confidence=0.95, seed=0) == dict.fromkeys(
        ["iou", "f1", "precision", "recall"]
    )


def test_draws_without_a_value_are_left_out():
    frames = {"boundary": np.array([[1, 2], [0, 0]]), "buildings": np.zeros((2, 3), int)}
    found = intervals(frames, draws=50, confidence=0.95, seed=0)
    assert found["boundary_iou"] == (0.5, 0.5)
    assert found["building_f1"] is None
