"""The labels `file`: a vector file, or the address of one, clipped to the area."""

import tempfile
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import geopandas as gpd
import shapely

from roofkit.cli import say
from roofkit.errors import BadInputError, MissingInputError, RoofError, SettingsError
from roofkit.labels import polygons_of, read_features
from roofkit.paths import VECTOR_SUFFIXES
from roofkit.settings import DownloadArgs
from roofkit.web import Web, expanded
from sources.area import LONLAT, Area


def labels_of_file(settings: DownloadArgs, area: Area, web: Web, folder: Path) -> gpd.GeoDataFrame:
    """The polygons inside the area with all their attributes, cut at its edge, in the file's CRS.

    Raises:
        RoofError: There is no such file, it is broken, or nothing of it is inside the area.
    """
    if settings.labels_file is None:
        advice = "Give --labels-file FILE or an address."
        raise SettingsError("download_args.labels_file", "null", "a vector file", advice)
    name = expanded(settings.labels_file, web, "download_args.labels_file")
    if "://" not in name:
        return clipped(folder / name, area, str(folder / name))
    web.give(name)
    where = web.safe(name)
    suffix = PurePosixPath(urlsplit(name).path).suffix.lower()
    if suffix not in VECTOR_SUFFIXES or suffix == ".shp":
        expected = "an address that ends in .gpkg, .geojson, .json, .parquet or .fgb"
        raise BadInputError(where, f"a {suffix or 'nameless'} file", expected, "Convert it, or fetch it yourself.")
    data = web.fetch(name).content
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / f"labels{suffix}"
        path.write_bytes(data)
        try:
            return clipped(path, area, where)
        except RoofError as error:  # names the copy; the user knows the address
            error.args = (str(error).replace(str(path), where),)
            raise


def clipped(path: Path, area: Area, where: str) -> gpd.GeoDataFrame:
    """The features of a file that lie in the area."""
    table, dropped = read_features(path)
    if dropped:
        say(f"{where}: {len(dropped)} features hold no polygon, left out (the first: {dropped[0]})")
    if not len(table):
        raise BadInputError(where, "no feature with a polygon", "roof polygons", "Choose another file.")
    # Where an edge runs along the area's, a cut polygon comes with a line: only its polygons are kept.
    cut = shapely.intersection(table.geometry.to_numpy(), area.within(table.crs))
    shapes, _, _ = polygons_of(shapely.to_wkb(cut))
    inside = ~shapely.is_missing(shapes)
    found = table.set_geometry(gpd.GeoSeries(shapes, crs=table.crs))[inside].reset_index(drop=True)
    if not len(found):
        has = ", ".join(f"{bound:.4f}" for bound in table.to_crs(LONLAT).total_bounds)
        wants = ", ".join(f"{bound:.4f}" for bound in area.bounds)
        raise MissingInputError(where, f"no polygon inside the area: the file covers {has}", wants, "Check both.")
    return found
