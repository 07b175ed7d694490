"""The source `earthengine`: any collection or image of Google Earth Engine, through its own client.

Pixels come from `computePixels`, tile by tile, in requests below its limit of bytes; a tile that takes the service more
memory or time than it allows is halved. Masked pixels arrive as an explicit band, so that 0 stays a value.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ee
import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window

from roofkit.cli import say
from roofkit.errors import MissingInputError, SettingsError
from roofkit.raster import BLOCK, Grid, Pixels, Valid, open_raster_bytes
from roofkit.web import WebError
from sources.area import named_crs
from sources.ee_session import ee_errors, start_earth_engine
from sources.scenes import Scene, Source, TooLargeError, cast, parts

REQUEST_BYTES = 50_331_648  # of one computePixels: width x height x bands x (bytes of a value + 1)
LARGEST = 2048  # rows and columns of a tile: enough to keep requests few, and a lost one cheap
DEGREE = 111_319.49  # metres of a degree, as Earth Engine converts a scale
VALID = "roof_classify_valid"
# Words of the service's messages (status 400 is all that is common to them) that mean: fewer pixels at once.
TOO_LARGE = ("total request size", "memory limit", "timed out", "too many pixels")
CLOUD = {"COPERNICUS/S2": "CLOUDY_PIXEL_PERCENTAGE", "LANDSAT/": "CLOUD_COVER"}
TAKES = {"uint8": "toUint8", "uint16": "toUint16", "int16": "toInt16", "float32": "toFloat"}


@dataclass(frozen=True)
class Preset:
    """A collection that is often used."""

    collection: str
    bands: tuple[str, ...]
    scale: float
    dtype: str
    composite: str = "median"
    clouds: str | None = None
    """The band that tells cloudy pixels."""


PRESETS = {
    "sentinel2": Preset("COPERNICUS/S2_SR_HARMONIZED", ("B4", "B3", "B2", "B8"), 10.0, "uint16", clouds="SCL"),
    "landsat": Preset(
        "LANDSAT/LC09/C02/T1_L2", ("SR_B4", "SR_B3", "SR_B2", "SR_B5"), 30.0, "uint16", clouds="QA_PIXEL"
    ),
    "naip": Preset("USDA/NAIP/DOQQ", ("R", "G", "B", "N"), 1.0, "uint8", composite="mosaic"),
}  # fmt: skip


class EarthEngine(Source):
    """An image, or one made of a collection's images."""

    name = "earthengine"
    told = False

    def plan(self) -> list[Scene]:
        """One grid over the area, in the UTM zone unless a CRS is named, cut into scenes."""
        area = self.needed_area()
        preset = self._preset()
        start_earth_engine(self.settings, self.web)
        image = self._image(preset)
        with self._errors():
            info = image.getInfo()
        bands = self._bands(info, preset)
        dtype = self.settings.dtype or (preset.dtype if preset else dtype_of([band["data_type"] for band in bands]))
        names = tuple(str(band["id"]) for band in bands)
        grid = self._grid(bands, preset)
        pixels = requested(image.select(list(names)), dtype)
        side = tile_side(len(names), dtype)
        request = {"expression": pixels.serialize(), "bands": names}
        pieces = parts(grid, self.settings.scene_size, area)
        return [
            Scene(self._name(row, col, len(pieces)), part, names, dtype, request, side=side, detail=pixels)
            for row, col, part in pieces
        ]

    def fetch(self, scene: Scene, window: Window) -> tuple[Pixels, Valid]:
        """One `computePixels`; an answer that cannot be read is asked for again."""
        names = [*scene.bands, VALID]
        for _ in range(self.settings.retries + 1):
            data = self._compute(scene.detail, scene.grid.window(window))
            try:
                bands = decoded(data, names, (int(window.height), int(window.width)))
            except ValueError as error:
                problem = error
                continue
            valid = self._valid(bands, len(scene.bands))
            return np.stack([cast(band, valid, scene) for band in bands[: len(scene.bands)]]), valid
        raise WebError(self.settings.ee_url, f"an answer that is no image ({problem})", "pixels", "Try again later.")

    def _valid(self, bands: list[Pixels], count: int) -> Valid:
        """The band of validity; a service that evaluates no expressions (a stand-in for the real one) sends none."""
        if len(bands) > count:
            return bands[-1].astype(bool)
        if not self.told:
            say("warning: the service sent no band of validity; all its pixels count as valid")
            self.told = True
        return np.ones(bands[0].shape, bool)

    def _compute(self, pixels: Any, grid: Grid) -> bytes:
        request = {"expression": pixels, "fileFormat": "NPY", "grid": wire_grid(grid)}
        with self._errors():
            try:
                return bytes(ee.data.computePixels(request))
            except ee.EEException as error:
                if any(words in str(error).lower() for words in TOO_LARGE):
                    raise TooLargeError(self.web.safe(error)) from None
                raise

    def _errors(self) -> Any:
        return ee_errors(self.settings.collection or self.settings.image or self.settings.ee_url, self.web)

    def _name(self, row: int, col: int, count: int) -> str:
        return "earthengine.tif" if count == 1 else f"earthengine_r{row}_c{col}.tif"

    def _preset(self) -> Preset | None:
        name = self.settings.preset
        if name is None:
            if not (self.settings.collection or self.settings.image):
                advice = f"Give --collection ID, --image ID, or --preset {'|'.join(PRESETS)}."
                raise SettingsError("download_args.collection", "null", "what to fetch", advice)
            return None
        if name not in PRESETS:
            raise SettingsError("download_args.preset", repr(name), f"one of {', '.join(PRESETS)}", "Correct it.")
        return PRESETS[name]

    def _image(self, preset: Preset | None) -> Any:
        """The expression of the image, of all its bands."""
        if self.settings.image:
            return resampled(ee.Image(self.settings.image), self.settings.resampling)
        collection_id = self.settings.collection or (preset.collection if preset else "")
        collection = ee.ImageCollection(collection_id)
        collection = collection.filterBounds(ee.Geometry.Rectangle(list(self.needed_area().bounds), "EPSG:4326", False))
        start, end = self.settings.start, self.settings.end
        if start or end:
            collection = collection.filterDate(start or "1970-01-01", end or "2200-01-01")
        if self.settings.cloud is not None:
            collection = collection.filter(ee.Filter.lte(cloud_property(collection_id), self.settings.cloud))
        if preset and preset.clouds:
            collection = collection.map(clear_of(preset.clouds))
        wanted = self.settings.bands or (preset.bands if preset else None)
        if wanted:
            collection = collection.select(list(wanted))
        collection = collection.map(lambda image: resampled(image, self.settings.resampling))
        how = self.settings.composite or (preset.composite if preset else "median")
        if how == "median":
            return collection.median()
        ordered = collection.sort("system:time_start")
        return ordered.mosaic() if how == "mosaic" else ordered.first()

    def _bands(self, info: Any, preset: Preset | None) -> list[Mapping[str, Any]]:
        """The bands that are wanted, as the service describes them."""
        where = self.settings.image or self.settings.collection or (preset.collection if preset else "")
        found = {str(band["id"]): band for band in (info or {}).get("bands", ())}
        if not found:
            dates = f"{self.settings.start or 'any day'} to {self.settings.end or 'now'}"
            raise MissingInputError(
                where, f"no image in this area, {dates}", "at least one", "Change area, dates or cloud limit."
            )
        wanted = self.settings.bands or (preset.bands if preset else tuple(found))
        for name in wanted:
            if name not in found:
                raise SettingsError(
                    "download_args.bands", repr(name), f"of {', '.join(list(found)[:30])}", "Correct it."
                )
        return [found[name] for name in wanted]

    def _grid(self, bands: list[Mapping[str, Any]], preset: Preset | None) -> Grid:
        area = self.needed_area()
        crs = named_crs(self.settings.crs) if self.settings.crs else area.utm
        scale = self.settings.scale or (preset.scale if preset else native_scale(bands[0]))
        if scale is None:
            found = "null, and these images have no pixel size of their own"
            raise SettingsError("download_args.scale", found, "metres a pixel", "Give --scale METRES.")
        size = scale / DEGREE if crs.is_geographic else scale / float(crs.linear_units_factor[1])
        return area.grid(crs, (size, size))


def native_scale(band: Mapping[str, Any]) -> float | None:
    """Metres a pixel of a band as it is stored; None for a composite, which has none."""
    transform, name = band.get("crs_transform"), band.get("crs")
    if not transform or not name:
        return None
    size = abs(float(transform[0]))
    try:
        geographic = CRS.from_user_input(name).is_geographic
    except rasterio.errors.CRSError:
        return None
    metres = size * DEGREE if geographic else size
    return metres if metres < DEGREE * 0.99 else None  # one degree is what Earth Engine says of a composite


def dtype_of(types: list[Mapping[str, Any]]) -> str:
    """The smallest dtype for values of these types (their precision, and the range of integers)."""
    if any(t.get("precision") != "int" for t in types):
        return "float32"
    low = min(t.get("min", -(2**31)) for t in types)
    high = max(t.get("max", 2**31) for t in types)
    for name in ("uint8", "uint16", "int16"):
        limits = np.iinfo(name)
        if limits.min <= low and high <= limits.max:
            return name
    return "float32"


def tile_side(bands: int, dtype: str) -> int:
    """Rows and columns of a tile: whole blocks, and with its band of validity below the service's limit of bytes."""
    pixel = (bands + 1) * (np.dtype(dtype).itemsize + 1)
    side = int((REQUEST_BYTES / pixel) ** 0.5) // BLOCK * BLOCK
    return min(max(side, BLOCK), LARGEST)


def wire_grid(grid: Grid) -> dict[str, Any]:
    """A grid as the service takes it."""
    t = grid.transform
    return {
        "dimensions": {"width": grid.width, "height": grid.height},
        "affineTransform": {
            "scaleX": t.a, "shearX": t.b, "translateX": t.c, "shearY": t.d, "scaleY": t.e, "translateY": t.f,
        },
        "crsCode": str(grid.crs),
    }  # fmt: skip


def resampled(image: Any, how: str) -> Any:
    """The image, interpolated where its pixels are moved."""
    return image if how == "nearest" else image.resample("bicubic" if how == "cubic" else how)


def cloud_property(collection: str) -> str:
    """The property that holds the percentage of cloud.

    Raises:
        SettingsError: It is not known for that collection.
    """
    for prefix, name in CLOUD.items():
        if collection.startswith(prefix):
            return name
    known = " and ".join(f"{prefix}…" for prefix in CLOUD)
    raise SettingsError("download_args.cloud", f"set with {collection}", f"null but for {known}", "Set it to null.")


def clear_of(band: str) -> Any:
    """A function that masks cloud, its shadow and snow: by Sentinel-2's scene classification, or Landsat's QA bits."""

    def by_class(image: Any) -> Any:
        classes = image.select(band)
        bad = classes.eq(3).Or(classes.gte(8).And(classes.lte(11)))
        return image.updateMask(bad.Not())

    def by_bits(image: Any) -> Any:
        return image.updateMask(image.select(band).bitwiseAnd(0b111110).eq(0))

    return by_class if band == "SCL" else by_bits


def requested(image: Any, dtype: str) -> Any:
    """The image with its values in a dtype and 0 where it is masked, and a band that says where it is not."""
    valid = image.mask().reduce(ee.Reducer.min()).gt(0).unmask(0, False).rename(VALID)
    return getattr(image.unmask(0, False), TAKES[dtype])().addBands(valid.toUint8())


def decoded(data: bytes, names: list[str], shape: tuple[int, int]) -> list[Pixels]:
    """The bands (rows, cols) of an answer, NumPy's structured array or GeoTIFF; the last name may be missing.

    Raises:
        ValueError: It is neither, is cut short, or has another shape or other bands.
    """
    if data.startswith(b"\x93NUMPY"):
        found = _array(data)
        have = [name for name in names if name in (found.dtype.names or ())]
        bands = [found[name] for name in have] if have else [found]
    else:
        try:
            with open_raster_bytes(data, "GTiff", "the answer") as src:
                if src.shape != shape or src.count > len(names):
                    raise ValueError(f"{src.count} bands of {src.shape}, not {len(names)} of {shape}")
                bands = list(src.read())
        except RasterioError as error:
            raise ValueError(f"{len(data)} bytes: {error}") from None
    if not len(names) - 1 <= len(bands) <= len(names) or any(band.shape != shape for band in bands):
        raise ValueError(f"{len(bands)} bands of {[band.shape for band in bands[:1]]}, not {len(names)} of {shape}")
    return bands


def _array(data: bytes) -> Any:
    """NumPy's array in bytes that a server sent; a header that promises more than there is is not believed."""
    file = io.BytesIO(data)
    read = np.lib.format.read_array_header_1_0 if np.lib.format.read_magic(file) == (1, 0) else None
    shape, by_column, dtype = (read or np.lib.format.read_array_header_2_0)(file)
    rest = data[file.tell() :]
    if dtype.hasobject or by_column or len(rest) != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{len(rest)} bytes for {shape} {dtype}")
    return np.frombuffer(rest, dtype).reshape(shape)
