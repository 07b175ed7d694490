"""Maps in blocks: which blocks a scene has, one VRT over their files, and a STAC item that says what it is."""

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from rasterio.windows import Window

from roofkit.addresses import Address
from roofkit.artifacts import committed, write_json
from roofkit.raster import Colours, Grid, open_raster, windows

VRT_TYPES = {"uint8": "Byte", "float32": "Float32"}
DAY = "%Y:%m:%d %H:%M:%S"  # as TIFF writes it


def blocks_of(height: int, width: int, side: int) -> list[Window]:
    """Windows of `side` pixels, smaller at the right and lower edge, row by row."""
    return list(windows(height, width, side))


def block_name(stem: str, window: Window) -> str:
    """The name of a block's file in the folder of maps, without its suffix."""
    return f"{stem}/{stem}_r{window.row_off}_c{window.col_off}"


@dataclass(frozen=True)
class Band:
    """What the one band of a VRT is.

    Args:
        dtype: uint8 or float32.
        name: Its description.
        tags: Its metadata.
        colours: Its colour table.
    """

    dtype: str
    name: str
    tags: Mapping[str, str]
    colours: Colours = field(default_factory=dict)


def write_vrt(path: Path, grid: Grid, blocks: Mapping[str, Window], about: Band) -> None:
    """Write a VRT of one band over files that lie below its folder.

    Args:
        path: The VRT.
        grid: Of the whole.
        blocks: The name of each file relative to the VRT, and where in the whole it lies. Elsewhere it is invalid.
        about: The band.
    """
    root = ElementTree.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    if grid.crs is not None:
        ElementTree.SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2").text = grid.crs.to_wkt()
    ElementTree.SubElement(root, "GeoTransform").text = ", ".join(f"{value:.17g}" for value in grid.transform.to_gdal())
    band = ElementTree.SubElement(root, "VRTRasterBand", dataType=VRT_TYPES[about.dtype], band="1")
    _describe(band, about)
    _add_sources(band, blocks, "1")
    mask = ElementTree.SubElement(ElementTree.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
    _add_sources(mask, blocks, "mask,1")
    ElementTree.indent(root)
    with committed(path) as part:
        part.write_bytes(ElementTree.tostring(root) + b"\n")


def _describe(band: ElementTree.Element, about: Band) -> None:
    metadata = ElementTree.SubElement(band, "Metadata")
    for key, value in about.tags.items():
        ElementTree.SubElement(metadata, "MDI", key=key).text = value
    ElementTree.SubElement(band, "Description").text = about.name
    ElementTree.SubElement(band, "ColorInterp").text = "Palette" if about.colours else "Gray"
    if about.colours:
        table = ElementTree.SubElement(band, "ColorTable")
        for _, colour in sorted(about.colours.items()):
            entry = {f"c{i}": str(level) for i, level in enumerate((*colour, 255), start=1)}
            ElementTree.SubElement(table, "Entry", entry)


def _add_sources(band: ElementTree.Element, blocks: Mapping[str, Window], source_band: str) -> None:
    for name, window in blocks.items():
        source = ElementTree.SubElement(band, "SimpleSource")
        ElementTree.SubElement(source, "SourceFilename", relativeToVRT="1").text = name
        ElementTree.SubElement(source, "SourceBand").text = source_band
        size = {"xSize": str(window.width), "ySize": str(window.height)}
        ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
        place = {"xOff": str(window.col_off), "yOff": str(window.row_off)}
        ElementTree.SubElement(source, "DstRect", {**place, **size})


def write_item(path: Path, scene: Path | Address, grid: Grid, probabilities: Sequence[Path]) -> None:
    """Write the STAC item of a map in blocks, with the projection extension.

    Args:
        path: The item, beside the VRT of the mask.
        scene: What the map is of. Its time is the item's: the TIFF's own or, without one, the file's.
        grid: Of the map; one without a CRS has no place in a catalogue, and the item says so.
        probabilities: Folders that hold a VRT of roof probabilities under the same name.
    """
    import pystac
    from pystac.extensions.projection import ProjectionExtension

    ring = outline(grid)
    box = [f(axis) for f in (min, max) for axis in zip(*ring)] if ring else None
    geometry = {"type": "Polygon", "coordinates": [ring]} if ring else None
    item = pystac.Item(path.stem, geometry, box, time_of(scene), {"title": f"Metal roofs in {scene.stem}"})
    for key, folder in (("mask", path.parent), *((f"probability_{i}", p) for i, p in enumerate(probabilities))):
        href = os.path.relpath(folder / f"{path.stem}.vrt", path.parent)
        item.add_asset(key, pystac.Asset(href, media_type="application/xml", roles=["data"]))
    item.assets["mask"].title = "0 background, 255 metal roof"
    if grid.crs is not None:
        projection = ProjectionExtension.ext(item, add_if_missing=True)
        epsg = grid.crs.to_epsg()
        projection.apply(epsg=epsg, wkt2=None if epsg else grid.crs.to_wkt())
        projection.shape, projection.transform = [grid.height, grid.width], list(grid.transform)[:6]
    write_json(path, item.to_dict(include_self_link=False))


def outline(grid: Grid) -> list[list[float]] | None:
    """The corners of a grid as a closed ring of longitude and latitude; None where it has no place on Earth."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    corners = [(0, grid.height), (grid.width, grid.height), (grid.width, 0), (0, 0), (0, grid.height)]
    x, y = zip(*(grid.transform @ corner for corner in corners))
    try:
        lon, lat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x, y, errcheck=True)
    except (ProjError, AttributeError):
        return None
    return [[round(a, 7), round(b, 7)] for a, b in zip(lon, lat)]


def time_of(scene: Path | Address) -> datetime.datetime:
    """When a raster was taken, as it says itself; else, when its file was changed last."""
    with open_raster(scene) as src:
        stated = src.tags().get("TIFFTAG_DATETIME", "")
    try:
        return datetime.datetime.strptime(stated, DAY).replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        modified = scene.modified if isinstance(scene, Address) else int(scene.stat().st_mtime)
        return datetime.datetime.fromtimestamp(modified, datetime.timezone.utc)
