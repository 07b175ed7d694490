"""Outlines: holes filled, roofs apart, walls straight and at right angles. Answers worked out by hand."""

import numpy as np
import pytest
import shapely
from scipy import ndimage
from shapely import Polygon, box
from shapely.affinity import rotate

from roofkit.outlines import _pixels, filled, overlapping, repaired, separated, simplified, squared, without_overlaps
from roofkit.patches import trace

FAR = 1000
ELL = Polygon([(0, 0), (20, 0), (20, 10), (10, 10), (10, 20), (0, 20)])


def patch(roof):
    (piece,) = trace(roof, roof.astype(np.float32))
    return piece.polygon


def two_roofs():
    """Two roofs of 10 x 10 pixels, joined over four columns by a neck of 2 rows; at row 5, column 3."""
    roof = np.zeros((20, 30), bool)
    roof[5:15, 3:13] = roof[5:15, 17:27] = roof[9:11, 13:17] = True
    return roof


def noisy(shape, pixel=0.25, seed=0):
    """The outline that a mask of a shape has when its edge is uncertain by about a pixel."""
    left, bottom, right, top = (int(side / pixel) for side in shape.buffer(2).bounds)
    cols, rows = np.meshgrid(np.arange(left, right), np.arange(bottom, top))
    inside = shapely.contains_xy(shape, (cols + 0.5) * pixel, (rows + 0.5) * pixel).astype(float)
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=inside.shape), 1.5)
    roof = ndimage.gaussian_filter(inside, 1.5) + 0.15 * noise / noise.std() > 0.5
    largest = max(trace(roof, roof.astype(np.float32)), key=lambda piece: piece.pixels).polygon
    return shapely.transform(largest, lambda xy: (xy + (left, bottom)) * pixel)


def iou(a, b):
    return a.intersection(b).area / a.union(b).area


def test_only_small_holes_are_filled():
    holes = [box(1, 1, 2, 2).exterior, box(4, 4, 6, 6).exterior]
    (found,) = filled(np.array([Polygon(box(0, 0, 9, 9).exterior, holes)]), 2)
    assert found.equals(Polygon(box(0, 0, 9, 9).exterior, holes[1:]))


def test_pixels_of_a_patch_by_hand():
    roof = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]], bool)
    moved = shapely.transform(patch(roof), lambda xy: xy + (7, 100))
    np.testing.assert_array_equal(_pixels(moved), np.pad(roof, 1))


def test_two_roofs_with_a_neck_come_apart_in_the_middle_of_it():
    first, second = sorted(separated(patch(two_roofs()), 0.6, (0.5, 0.5)), key=lambda roof: roof.bounds)
    assert first.bounds == (3, 5, 15, 15)
    assert second.bounds == (15, 5, 27, 15)
    assert first.area == second.area == 104
    assert first.intersection(second).length == 2


def test_a_neck_stays_where_it_is_wide_or_a_part_is_no_roof():
    whole = patch(two_roofs())
    assert separated(whole, 0.2, (0.5, 0.5)) == [whole]  # the neck is 1 m wide: more than twice 0.2 m
    assert separated(whole, 2.4, (0.5, 0.5)) == [whole]  # the roofs are 5 m wide: hardly more than twice 2.4 m


def test_pixels_that_are_not_square_count_in_metres():
    roof = two_roofs()
    assert len(separated(patch(roof), 0.6, (0.5, 5.0))) == 2  # the neck is 1 m high
    assert len(separated(patch(roof.T), 0.6, (0.5, 5.0))) == 1  # the neck is 10 m wide


def test_parts_share_their_border_when_simplified():
    roofs = separated(patch(two_roofs()), 0.6, (0.5, 0.5))
    first, second = simplified(roofs, 2.5)
    assert first.intersection(second).length == 2
    assert first.touches(second)
    assert (len(first.exterior.coords), len(second.exterior.coords)) < (9, 9)


def test_a_staircase_becomes_straight():
    steps = patch(np.tri(30, dtype=bool))
    (plain,) = simplified([steps], 0.8)
    assert plain.equals(Polygon([(0, 0), (0, 30), (30, 30), (30, 29)]))


@pytest.mark.parametrize("angle", [0, 30, 45, 77])
@pytest.mark.parametrize(("shape", "corners"), [(box(0, 0, 14, 9), 4), (ELL, 6)])
def test_noisy_roofs_get_their_corners_back(shape, corners, angle):
    turned = rotate(shape, angle)
    found = squared(noisy(turned), 1.5, FAR)
    assert len(found.exterior.coords) - 1 == corners
    assert iou(found, turned) > 0.9
    x, y = np.diff(found.exterior.coords, axis=0).T
    np.testing.assert_allclose(x[1:] * x[:-1] + y[1:] * y[:-1], 0, atol=1e-9)


def test_a_large_hole_is_squared_and_one_narrower_than_a_wall_goes():
    holes = [box(5, 5, 9, 9).exterior, box(12, 5, 13, 9).exterior]
    found = squared(Polygon(box(0, 0, 20, 15).exterior, holes), 2, FAR)
    np.testing.assert_allclose([hole.bounds for hole in found.interiors], [(5, 5, 9, 9)], atol=0.02)


@pytest.mark.parametrize(
    "shape",
    [
        shapely.Point(0, 0).buffer(6),
        Polygon([(0, 0), (12, 0), (0, 12)]),
        box(0, 0, 20, 0.8),
        box(0, 0, 0.1, 0.1),
    ],
)
def test_what_has_no_right_angles_or_is_too_narrow_is_not_squared(shape):
    assert squared(shape, 1.5, FAR) is None


def test_a_square_outline_does_not_lie_far_beyond_the_roof():
    chamfered = Polygon([(0, 0), (70, 0), (100, 30), (100, 60), (0, 60)])  # a corner would lie 18.3 from it
    assert len(squared(chamfered, 20, 18.5).exterior.coords) == 5
    assert squared(chamfered, 20, 18) is None


def apart(roofs):
    roofs = np.asarray(roofs)
    wkb = shapely.to_wkb(roofs)
    return without_overlaps(wkb, overlapping(wkb, shapely.bounds(roofs), 0))


def test_pairs_that_were_found_before_are_not_found_again():
    roofs = np.array([box(x, 0, x + 2, 2) for x in (0, 1, 2, 9)])
    wkb, boxes = shapely.to_wkb(roofs), shapely.bounds(roofs)
    assert sorted(overlapping(wkb, boxes, 0).tolist()) == [[1, 0], [2, 1]]  # 0 and 2 touch
    assert overlapping(wkb, boxes, 2).tolist() == [[2, 1]]
    assert overlapping(wkb, boxes, 4).shape == (0, 2)


def test_of_two_that_overlap_the_smaller_gives_way():
    small, large, swallowed = box(0, 0, 2, 2), box(1, 0, 5, 2), box(3, 1, 4, 2)
    found = shapely.from_wkb(apart([small, large, swallowed]))
    assert found[0].equals(box(0, 0, 1, 2))
    assert found[1].equals(large)
    assert found[2].is_empty


def test_a_roof_cut_in_two_keeps_its_larger_part():
    bar, cross = box(4, -5, 6, 50), box(0, 0, 12, 2)
    found = apart([cross, bar])
    assert shapely.from_wkb(found[0]).equals(box(6, 0, 12, 2))


def test_a_roof_too_narrow_for_the_tolerance_stays_beside_its_neighbour():
    found = simplified([box(0, 0, 20, 20), box(20, 9, 21, 10)], 3)
    assert found[0].equals(box(0, 0, 20, 20))
    assert found[1].is_valid
    assert found[1].area > 0


def test_a_roof_that_touches_itself_keeps_its_larger_part():
    hourglass = Polygon([(0, 0), (6, 0), (0, 3), (6, 9)])
    sound = box(0, 0, 1, 1)
    found = repaired(np.array([hourglass, sound]))
    assert found[0].is_valid
    assert found[1] is sound
    assert found[0].equals(max(shapely.get_parts(shapely.make_valid(hourglass)), key=shapely.area))
