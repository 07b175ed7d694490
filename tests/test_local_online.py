"""run/local.py from Earth Engine and OpenStreetMap to scores, by one command, with both services on 127.0.0.1."""

import json
import os
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import pytest
import rasterio
from earth_engine_server import TOKEN, earth_engine
from imagery import real
from label_server import osm_server, way
from rasterio.merge import merge
from rasterio.warp import transform_bounds

ROOT = Path(__file__).resolve().parent.parent


def mosaic_of(folder, path):
    """All of Banepa in one file."""
    pixels, transform = merge(sorted(folder.glob("*.tif")))
    profile = dict(driver="GTiff", count=3, height=pixels.shape[1], width=pixels.shape[2], dtype="uint8", tiled=True)
    with rasterio.open(path, "w", crs="EPSG:4326", transform=transform, photometric="rgb", **profile) as dst:
        dst.write(pixels[:3])
    return path


def elements_of(path):
    """Roof polygons as OpenStreetMap has them."""
    table = gpd.read_file(path).explode()
    nodes, ways = [], []
    for number, (shape, material) in enumerate(zip(table.geometry, table["roof:material"])):
        tags = {"building": "yes"} | ({"roof:material": material} if material else {})
        ways.append(way(number + 1, list(shape.exterior.coords), nodes, **tags))
    return [*nodes, *ways]


@pytest.mark.slow
def test_the_whole_pipeline_from_the_services(tmp_path):
    raster = mosaic_of(real("banepa/scenes"), tmp_path / "banepa.tif")
    with rasterio.open(raster) as src:
        west, south, east, north = transform_bounds(src.crs, "EPSG:4326", *src.bounds)
    settings = json.loads((ROOT / "bench/banepa.json").read_text())
    settings["chip_args"] = {"size": [256, 256]}
    settings["training_args"] |= {"epochs": 3, "minutes": None, "steps_per_epoch": 20}
    elements = elements_of(real("banepa/labels/roofs.geojson"))
    with earth_engine(raster, ["red", "green", "blue"], faults=[None, 503, 429]) as ee, osm_server(elements) as osm:
        osm.queries = []
        settings["download_args"] = {
            "source": "earthengine", "collection": "NEPAL/BANEPA", "project": "p", "ee_url": ee.url, "scale": 0.26,
            "bbox": [west + 1e-5, south + 1e-5, east - 1e-5, north - 1e-5], "labels": "osm",
            "overpass_url": f"{osm.url}/api",
        }  # fmt: skip
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        line = [sys.executable, str(ROOT / "run/local.py"), "--prod", "--settings", str(tmp_path / "settings.json")]
        line += ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
        env = os.environ | {"EARTHENGINE_TOKEN": TOKEN}
        done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    assert TOKEN not in done.stdout + done.stderr
    metrics = json.loads((tmp_path / "results/metrics.json").read_text())
    assert metrics["iou"] > 0.15
    assert list((tmp_path / "results/map").glob("*.tif"))
