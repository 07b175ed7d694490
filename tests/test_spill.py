import errno
import os
import pickle

import numpy as np
import pytest

from roofkit.errors import OutputError
from roofkit.spill import Spill, spilled


def add(spill: Spill, **shapes: list[int]) -> None:
    """Shapes, each with the places that it touches."""
    places = [place for found in shapes.values() for place in found]
    names = [name.encode() for name, found in shapes.items() for _ in found]
    spill.add(np.array(places, np.int64), np.array(names, object))


def test_each_place_has_its_shapes_from_every_batch_in_one_order(tmp_path):
    with spilled(tmp_path / "shapes") as spill:
        add(spill, long_name=[2, 0], b=[0])
        add(spill)
        add(spill, a=[0, 3], c=[2])
        pieces = spill.pieces(5)
        assert [place.read() for place in pieces] == [[b"a", b"b", b"long_name"], [], [b"c", b"long_name"], [b"a"], []]
        assert pickle.loads(pickle.dumps(pieces[2])).read() == pieces[2].read()
        assert [len(place.spans) for place in pieces] == [2, 0, 2, 1, 0]
    assert os.listdir(tmp_path) == []


def test_no_shape_and_no_place(tmp_path):
    with spilled(tmp_path / "shapes") as spill:
        assert [place.read() for place in spill.pieces(2)] == [[], []]
    with spilled(tmp_path / "shapes") as spill:
        assert spill.pieces(0) == []


def test_nothing_is_left_after_an_error_or_a_run_that_was_killed(tmp_path):
    for name in (".mask.polygons", ".mask.0of2.polygons", "a.tif"):
        (tmp_path / name).touch()

    def fail() -> None:
        with spilled(tmp_path / ".mask.polygons", leftovers=".mask*.polygons") as spill:
            assert sorted(os.listdir(tmp_path)) == [".mask.polygons", "a.tif"]
            add(spill, a=[1])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(tmp_path) == ["a.tif"]


def test_a_full_disk_has_a_name(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    line = r"shapes: not written \(No space left on device\); expected a writable folder with space left"
    with spilled(tmp_path / "shapes") as spill:
        monkeypatch.setattr(spill, "_file", type("Full", (), {"writelines": full}))
        with pytest.raises(OutputError, match=line):
            add(spill, a=[1])
