"""Patches: traced in windows, put together again from north to south."""

import tempfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings, strategies
from hypothesis.extra.numpy import arrays
from rasterio.windows import Window

from roofkit import patches
from roofkit.errors import OutputError
from roofkit.patches import Tracer, fronts, trace, tracing


def shapes(pieces):
    return sorted((p.polygon.normalize().wkt, p.pixels, round(p.probability, 3)) for p in pieces)


def traced(folder, roof, probability, rows, cols):
    """Files of blocks of twice as many rows and columns as windows have, and their first rows."""
    height, width = roof.shape
    files = []
    for top in range(0, height, 2 * rows):
        for left in range(0, width, 2 * cols):
            path = Path(folder) / f"{top}_{left}.arrow"
            files.append((top, path))
            with tracing(path) as tracer:
                for row in range(top, min(top + 2 * rows, height), rows):
                    for col in range(left, min(left + 2 * cols, width), cols):
                        part = np.s_[row : min(row + rows, top + 2 * rows), col : min(col + cols, left + 2 * cols)]
                        tracer.add(roof[part], probability[part], Window(col, row, *roof[part].shape[::-1]))
    return files


def test_trace_by_hand():
    roof = np.array([[1, 1, 0], [0, 0, 1]], bool)
    first, second = sorted(trace(roof, np.array([[0.5, 1.0, 0], [0, 0, 0.25]], np.float32)), key=lambda p: -p.pixels)
    assert (first.polygon.bounds, first.pixels, first.probability) == ((0, 0, 2, 1), 2, 1.5)
    assert (second.polygon.bounds, second.pixels, second.probability) == ((2, 1, 3, 2), 1, 0.25)


def test_a_hole_stays_a_hole():
    roof = np.ones((3, 3), bool)
    roof[1, 1] = False
    (piece,) = trace(roof, np.ones((3, 3), np.float32))
    assert (piece.polygon.area, len(piece.polygon.interiors)) == (8, 1)


@settings(max_examples=100, deadline=None)
@given(
    roof=arrays(bool, (13, 11)),
    rows=strategies.integers(1, 13),
    cols=strategies.integers(1, 11),
    band=strategies.sampled_from([1, 2, 5, 1024]),
)
def test_fronts_hold_the_patches_of_the_whole_as_they_end(roof, rows, cols, band):
    probability = np.arange(143, dtype=np.float32).reshape(13, 11) / 143
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(patches, "BAND", band)
        found = list(fronts(traced(folder, roof, probability, rows, cols)))
    assert shapes(chain.from_iterable(front.patches for front in found)) == shapes(trace(roof, probability))
    before = 0.0
    for front in found:
        assert all(patch.polygon.bounds[3] >= front.row - band for patch in front.patches)
        boxes = shapely.bounds([patch.polygon for patch in front.patches]).reshape(-1, 4)
        assert (boxes[:, 3] < front.row).all()
        assert (boxes[:, 3] >= before).all()  # so it was not complete before
        assert boxes[:, 1::-1].tolist() == sorted(boxes[:, 1::-1].tolist())
        before = front.row
    assert (found[-1].row, found[-1].patches, len(found[-1].rest)) == (np.inf, [], 0)


def test_the_rest_is_what_may_go_on_below(monkeypatch, tmp_path):
    monkeypatch.setattr(patches, "BAND", 4)
    roof = np.zeros((12, 6), bool)
    roof[1:11, 0] = True  # cut by both windows' edges
    roof[2:4, 2:4] = True  # ends where the window does
    roof[1:2, 5] = True
    first, second, third, last = fronts(traced(tmp_path, roof, roof.astype(np.float32), 4, 6))
    assert [patch.polygon.bounds for patch in first.patches] == [(5, 1, 6, 2)]
    assert sorted(first.rest.tolist()) == [[0, 1, 1, 4], [2, 2, 4, 4]]
    assert [patch.polygon.bounds for patch in second.patches] == [(2, 2, 4, 4)]
    assert sorted(second.rest.tolist()) == [[0, 1, 1, 4], [0, 4, 1, 8]]
    assert [(patch.polygon.bounds, patch.pixels) for patch in third.patches] == [((0, 1, 1, 11), 10)]
    assert last.patches == []


def test_nothing_found_is_written_and_read(tmp_path):
    with tracing(tmp_path / "a.arrow") as tracer:
        tracer.add(np.zeros((2, 2), bool), np.zeros((2, 2), np.float32), Window(0, 0, 2, 2))
    *_, front = fronts([(0, tmp_path / "a.arrow")])
    assert (front.patches, front.row, front.rest.shape) == ([], np.inf, (0, 4))


def test_a_file_is_read_in_parts(monkeypatch, tmp_path):
    """Memory does not grow with a scene: of each band only its own windows are read."""
    monkeypatch.setattr(patches, "BAND", 4)
    roof = np.kron(np.eye(8, dtype=bool), np.ones((2, 2), bool))
    files = traced(tmp_path, roof, roof.astype(np.float32), 2, 16)
    taken = [len(found) for _, found in patches._bands(files)]
    assert taken == [2, 2, 2, 2]


def test_what_fails_leaves_no_file(tmp_path):
    def fail():
        with tracing(tmp_path / "a.arrow") as tracer:
            tracer.add(np.ones((2, 2), bool), np.ones((2, 2), np.float32), Window(0, 0, 2, 2))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path):
    import pyarrow as pa

    with pa.OSFile("/dev/full", "wb") as file:
        tracer = Tracer(tmp_path / "a.arrow", pa.ipc.new_file(file, patches.arrow_schema(patches.COLUMNS)))
        with pytest.raises(OutputError, match=r"a\.arrow: not written .*No space left on device"):
            tracer.add(np.ones((2, 2), bool), np.ones((2, 2), np.float32), Window(0, 0, 2, 2))
