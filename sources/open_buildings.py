"""The labels `open-buildings`: Google's Open Buildings, building outlines found in imagery, through Earth Engine.

Source: Sirko et al. 2021, arXiv:2107.12283; version 3 of the data.
"""

import json
from pathlib import Path
from typing import Any

import ee
import geopandas as gpd
import shapely

from roofkit.cli import say
from roofkit.errors import MissingInputError
from roofkit.labels import polygons_of
from roofkit.settings import DownloadArgs
from roofkit.stopping import raise_if_stopped
from roofkit.web import Web
from sources.area import LONLAT, Area
from sources.ee_session import ee_errors, start_earth_engine

COLLECTION = "GOOGLE/Research/open-buildings/v3/polygons"
PAGE = 1000
COLUMNS = ("confidence", "area_in_meters", "full_plus_code")


def open_buildings(settings: DownloadArgs, area: Area, web: Web, folder: Path) -> gpd.GeoDataFrame:
    """Polygons of the buildings that touch the area, of `download_args.confidence` at least, in EPSG:4326.

    Raises:
        RoofError: Earth Engine is not reached or refuses.
        MissingInputError: There is no building.
    """
    start_earth_engine(settings, web)
    features = [feature for feature in _features(settings, area, web) if feature.get("geometry")]
    shapes = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in features])
    table = {name: [(feature.get("properties") or {}).get(name) for feature in features] for name in COLUMNS}
    polygons, _, _ = polygons_of(shapely.to_wkb(shapes))
    found = gpd.GeoDataFrame(table, geometry=list(polygons), crs=LONLAT)
    found = found[found.geometry.notna() & found.geometry.intersects(area.shape)]
    if not len(found):
        expected = f"buildings of confidence {settings.confidence:g}"
        advice = "Check the area; Open Buildings covers Africa, South and Southeast Asia, Latin America."
        raise MissingInputError(COLLECTION, "no building in the area", expected, advice)
    say("labels: Google Open Buildings, CC BY 4.0 or ODbL. They know no roof material: every building counts as roof.")
    order = sorted(found.index, key=lambda i: (str(found["full_plus_code"][i]), found.geometry[i].wkb))
    return found.loc[order].reset_index(drop=True)


def _features(settings: DownloadArgs, area: Area, web: Web) -> list[dict[str, Any]]:
    """All pages of the collection inside the area."""
    with ee_errors(COLLECTION, web):
        place = ee.Geometry.Rectangle(list(area.bounds), "EPSG:4326", False)
        chosen = ee.FeatureCollection(COLLECTION).filterBounds(place)
        chosen = chosen.filter(ee.Filter.gte("confidence", settings.confidence))
        request: dict[str, Any] = {"expression": chosen, "pageSize": PAGE}
        found: list[dict[str, Any]] = []
        while True:
            answer = ee.data.computeFeatures(request)
            found += answer.get("features", [])
            token = answer.get("nextPageToken") or answer.get("next_page_token")
            raise_if_stopped()
            if not token:
                return found
            request["pageToken"] = token
