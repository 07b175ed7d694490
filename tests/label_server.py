"""Buildings of a small town, and an Overpass server that knows them; for the tests of labels."""

import json
from urllib.parse import parse_qs

import geopandas as gpd
from web_server import web_server

BBOX = [83.0, 26.0, 83.01, 26.01]


def way(number, ring, nodes, **tags):
    """A way and its nodes, which are added to `nodes`."""
    ids = []
    for lon, lat in ring[:-1]:
        ids.append(len(nodes) + 1)
        nodes.append({"type": "node", "id": len(nodes) + 1, "lon": lon, "lat": lat})
    return {"type": "way", "id": number, "nodes": [*ids, ids[0]], "tags": tags}


def square(x, y, side=0.0005):
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)]


def town():
    """Two buildings as ways, one as a relation with a courtyard, one as a point, one outside the area."""
    nodes = []
    tin = way(7, square(83.002, 26.002), nodes, building="yes", **{"roof:material": "tin", "name": "a", "Name": "b"})
    brick = way(3, square(83.004, 26.002), nodes, building="house", fid="9", levels="2")
    outer, inner = way(21, square(83.006, 26.006, 0.001), nodes), way(22, square(83.0062, 26.0062), nodes)
    del outer["tags"], inner["tags"]
    court = {
        "type": "relation", "id": 5, "tags": {"type": "multipolygon", "building": "yes", "roof:material": "metal"},
        "members": [{"type": "way", "ref": 21, "role": "outer"}, {"type": "way", "ref": 22, "role": "inner"}],
    }  # fmt: skip
    far = way(8, square(84.0, 27.0), nodes, building="yes")
    point = {"type": "node", "id": 999, "lon": 83.001, "lat": 26.001, "tags": {"building": "yes"}}
    return [*nodes, point, tin, brick, outer, inner, far, court]


def overpass(elements, **extra):
    def answer(handler):
        handler.server.queries.append(parse_qs(handler.body.decode())["data"][0])
        handler.answer(200, json.dumps({"version": 0.6, "elements": elements, **extra}).encode(), "application/json")

    return answer


def osm_server(elements, *, faults=(), **extra):
    """A server of these elements."""
    return web_server(routes={"/api/interpreter": overpass(elements, **extra)}, faults=faults)


def labels(tmp_path):
    """What download wrote."""
    return gpd.read_file(tmp_path / "data/labels/roofs.gpkg")
