"""Open Buildings: pages, faults that pass, and odd features, by the real client from a server on 127.0.0.1."""

import json

import earth_engine_server
import numpy as np
import pytest
from earth_engine_server import earth_engine
from label_server import labels, square
from test_cog import TOKEN

from download.download import main

pytestmark = pytest.mark.usefixtures("quick")


def building(code, x, geometry=None):
    values = {"confidence": 0.8, "area_in_meters": 30.0, "full_plus_code": code}
    geometry = geometry or {"type": "Polygon", "coordinates": [square(x, 26.002)]}
    return {"type": "Feature", "geometry": geometry, "properties": values}


@pytest.fixture
def run(line, make_raster, monkeypatch):
    """A run against these features, two a page, after these faults; what was asked."""
    monkeypatch.setenv("EARTHENGINE_TOKEN", TOKEN)
    other = earth_engine_server.Handler.do_POST

    def start(features, *, faults=(), status=0, **options):
        asked, left = [], list(faults)

        def post(self):
            if "table:computeFeatures" not in self.path:
                other(self)
                return
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if left:
                code = left.pop(0)
                self.error(code, f"injected {code}", "UNKNOWN")
                return
            first = int(asked[-1].get("pageToken", 0))
            answer = {"type": "FeatureCollection", "features": features[first : first + 2]}
            more = {"nextPageToken": str(first + 2)} if first + 2 < len(features) else {}
            self.answer(200, json.dumps(answer | more).encode())

        monkeypatch.setattr(earth_engine_server.Handler, "do_POST", post)
        with earth_engine(make_raster(np.zeros((1, 8, 8), np.uint8)), ["b"]) as server:
            given = {"labels": "open-buildings", "ee_url": server.url, "project": "p", **options}
            assert main(line(**given)) == status
        return asked

    return start


def test_all_pages_in_order(run, tmp_path, capsys):
    asked = run([building(str(9 - i), 83.002 + 0.0008 * i) for i in range(5)], confidence=0.65)
    assert [body.get("pageToken") for body in asked] == [None, "2", "4"]
    assert {body["pageSize"] for body in asked} == {1000}
    text = json.dumps(asked[0]["expression"])
    assert "GOOGLE/Research/open-buildings/v3/polygons" in text
    assert "0.65" in text
    found = labels(tmp_path)
    assert list(found["full_plus_code"]) == ["5", "6", "7", "8", "9"]
    assert set(found.columns) == {"confidence", "area_in_meters", "full_plus_code", "geometry"}
    err = capsys.readouterr().err
    assert "CC BY 4.0" in err
    assert "every building counts as roof" in err


@pytest.mark.parametrize("fault", [429, 500, 503])
def test_faults_that_pass(fault, run, tmp_path):
    assert len(run([building("A", 83.002)], faults=[fault, fault])) == 3
    assert len(labels(tmp_path)) == 1


@pytest.mark.parametrize("fault", [400, 403])
def test_faults_that_stay(fault, run, capsys):
    assert len(run([building("A", 83.002)], faults=[fault] * 9, status=1)) == 1
    out, err = capsys.readouterr()
    assert len([t for t in err.splitlines() if t.startswith("error")]) == 1
    assert TOKEN not in out + err


def test_odd_features(run, tmp_path):
    parts = [{"type": "Polygon", "coordinates": [square(83.006, 26.002)]}]
    mixed = {"type": "GeometryCollection", "geometries": [*parts, {"type": "Point", "coordinates": [83.0, 26.0]}]}
    nothing = {"type": "Feature", "geometry": None, "properties": None}
    bare = building("B", 83.008) | {"properties": None}
    run([building("A", 83.002), building("C", 0, mixed), nothing, bare])
    assert list(labels(tmp_path)["full_plus_code"].fillna("")) == ["A", "C", ""]
