"""The source `xyz`: a service of map tiles with {z}, {x} and {y} in its address, as georeferenced scenes.

Tiles lie in Web Mercator (EPSG:3857), as the OSGeo Tile Map Service and the slippy map of OpenStreetMap cut it.
"""

import math
import threading
from urllib.parse import urlsplit

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.windows import Window

from roofkit.artifacts import fingerprint
from roofkit.cli import say
from roofkit.errors import BadInputError, MissingInputError, SettingsError
from roofkit.raster import PNG_END, TAIL, Grid, Pixels, Valid, open_raster_bytes
from roofkit.web import expanded
from sources.scenes import Scene, Source, parts

HALF = 20_037_508.342789244  # metres from the middle of the map to its edge
SIZES = (256, 512)  # pixels of a tile
MANY = 20_000  # tiles that no service likes to give at once
NONE_THERE = (204, 404)
SERVERS = "abc"  # what {s} stands for
KEY = 16  # letters from which on a part of a template's path may be a key


class Xyz(Source):
    """The tiles that touch the area, at one zoom."""

    name = "xyz"
    licence = "Fetch only from services whose terms allow it: many forbid to store their tiles or to train on them."

    def plan(self) -> list[Scene]:
        """Whole tiles over the area, as scenes of at most `scene_size` pixels."""
        self.template = self._template()
        zoom = self._zoom()
        (left, top), (right, bottom) = self._corners(zoom)
        self.lock = threading.Lock()
        side = self._tile_side(zoom, (left, (left + right) // 2, right), (top, (top + bottom) // 2, bottom))
        count = (right - left + 1) * (bottom - top + 1)
        if count > MANY:
            say(f"warning: {count:,} tiles; a service may refuse so many. A smaller area or zoom needs fewer.")
        pixel = 2 * HALF / (side * 2**zoom)
        transform = Affine(pixel, 0, left * side * pixel - HALF, 0, -pixel, HALF - top * side * pixel)
        grid = Grid(CRS.from_epsg(3857), transform, (bottom - top + 1) * side, (right - left + 1) * side)
        size = max(self.settings.scene_size // side * side, side)
        request = {"template": fingerprint(self.settings.address[0]), "zoom": zoom}
        return [
            Scene(
                f"xyz_z{zoom}_{left + col // side}_{top + row // side}.tif", part, ("red", "green", "blue"), "uint8",
                request, side=side, rgb=True, detail=(zoom, left + col // side, top + row // side),
            )
            for row, col, part in parts(grid, size, self.needed_area())
        ]  # fmt: skip

    def fetch(self, scene: Scene, window: Window) -> tuple[Pixels, Valid]:
        """One tile; invalid where the service has none."""
        zoom, left, top = scene.detail
        place = zoom, left + int(window.col_off) // scene.side, top + int(window.row_off) // scene.side
        found = self._tile(*place)
        if found is None:
            with self.lock:
                self.missing += 1
                if self.missing == 1:
                    say(f"the service has no tile at {'/'.join(map(str, place))}: invalid there (and so for others)")
            return np.zeros((3, scene.side, scene.side), np.uint8), np.zeros((scene.side, scene.side), bool)
        if found[0].shape[1] != scene.side:
            text = f"a tile of {found[0].shape[1]} pixels"
            raise BadInputError(self._where(*place), text, f"{scene.side}, as the first", "Ask the service's owner.")
        return found

    def _template(self) -> str:
        advice = "Give --address 'https://host/{z}/{x}/{y}.png'."
        if len(self.settings.address) != 1:
            raise SettingsError(
                "download_args.address", f"{len(self.settings.address)} of them", "one template", advice
            )
        text = expanded(self.settings.address[0], self.web)
        if not all(name in text for name in ("{z}", "{x}")) or not ("{y}" in text or "{-y}" in text):
            raise SettingsError("download_args.address", self.web.safe(text), "{z}, {x} and {y} in it", advice)
        self.web.give(*(self._at(text, 0, x, 0) for x in range(len(SERVERS))))
        path = urlsplit(self._at(text, 0, 0, 0)).path
        self.web.hide(*(part for part in path.split("/") if len(part) >= KEY))  # some keep keys there
        return text

    def _zoom(self) -> int:
        """The zoom asked for, or the first whose pixels are no larger than `scale`, for tiles of 256 pixels."""
        if self.settings.zoom is not None:
            return self.settings.zoom
        if self.settings.scale is None:
            advice = "Give --zoom Z, or --scale METRES."
            raise SettingsError("download_args.zoom", "null, and scale too", "how fine pixels shall be", advice)
        _, south, _, north = self.needed_area().bounds
        metres = 2 * HALF / 256 * math.cos(math.radians((south + north) / 2))
        return min(max(math.ceil(math.log2(metres / self.settings.scale) - 1e-9), 0), 24)

    def _corners(self, zoom: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Column and row of the first and of the last tile that the area touches."""
        west, south, east, north = self.needed_area().bounds
        if north > 85.06 or south < -85.06:
            raise SettingsError("download_args.bbox", f"{south:g} to {north:g}", "within 85 degrees", "Cut it.")
        (left, top), (right, bottom) = tile_at(west, north, zoom), tile_at(east, south, zoom)
        last = 2**zoom - 1
        first = min(int(left + 1e-9), last), min(max(int(top + 1e-9), 0), last)
        ends = (math.ceil(right - 1e-9) - 1, math.ceil(bottom - 1e-9) - 1)
        return first, (min(max(ends[0], first[0]), last), min(max(ends[1], first[1]), last))

    def _tile_side(self, zoom: int, columns: tuple[int, int, int], rows: tuple[int, int, int]) -> int:
        """Pixels of a tile: of the middle one, or where there is none of one at the edges."""
        middle = columns[1], rows[1]
        others = sorted({(x, y) for x in columns for y in rows} - {middle})
        for x, y in (middle, *others):
            found = self._tile(zoom, x, y)
            if found is not None:
                return int(found[0].shape[1])
        found_text = "no tile in the middle of the area nor at its edges"
        raise MissingInputError(self._where(zoom, *middle), found_text, "tiles", "Check address, zoom and area.")

    def _tile(self, zoom: int, x: int, y: int) -> tuple[Pixels, Valid] | None:
        response = self.web.fetch(self._at(self.template, zoom, x, y), accept=(200, *NONE_THERE))
        if response.status_code in NONE_THERE or not response.content:
            return None
        return decoded(bytes(response.content), self._where(zoom, x, y))

    def _where(self, zoom: int, x: int, y: int) -> str:
        """A tile as errors name it: the path of a template may hold a key, so only the host is shown."""
        return f"{urlsplit(self._at(self.template, zoom, x, y)).hostname}: tile {zoom}/{x}/{y}"

    @staticmethod
    def _at(template: str, zoom: int, x: int, y: int) -> str:
        values = {"z": zoom, "x": x, "y": y, "-y": 2**zoom - 1 - y, "s": SERVERS[(x + y) % len(SERVERS)]}
        for name, value in values.items():
            template = template.replace("{" + name + "}", str(value))
        return template


def tile_at(longitude: float, latitude: float, zoom: int) -> tuple[float, float]:
    """Column and row, with fractions, of a place among the tiles of a zoom."""
    count = 2**zoom
    row = (1 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2
    return (longitude + 180) / 360 * count, row * count


def decoded(data: bytes, where: str) -> tuple[Pixels, Valid]:
    """Red, green and blue (3, rows, cols) of an image file, and its validity.

    Raises:
        BadInputError: It is no image, or of no size or dtype that a map tile has.
    """
    driver = driver_of(data, where)
    if not is_whole(data, driver):
        raise BadInputError(where, f"a broken image ({len(data)} bytes)", "a whole one", "Run again.")
    strict = rasterio.Env(GDAL_ERROR_ON_LIBJPEG_WARNING=True)
    try:
        with strict, open_raster_bytes(data, driver, where) as src:
            if (src.height, src.width) not in [(side, side) for side in SIZES] or set(src.dtypes) != {"uint8"}:
                found = f"an image of {src.height} x {src.width} {src.dtypes[0]}"
                raise BadInputError(where, found, "256 or 512 pixels square, uint8", "Use another service.")
            return coloured(src)
    except RasterioError as error:
        raise BadInputError(where, f"a broken image ({error})", "a whole one", "Run again.") from None


def driver_of(data: bytes, where: str) -> str:
    """GDAL's driver for an image file, by its first bytes.

    Raises:
        BadInputError: It is none of those that services send.
    """
    if data.startswith(b"\x89PNG"):
        return "PNG"
    if data.startswith(b"\xff\xd8"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "GTiff"
    kind = "a web page" if data.lstrip()[:1] == b"<" else f"{len(data)} bytes"
    raise BadInputError(where, f"{kind}, no image", "a PNG, JPEG or WebP tile", "Check address and key.")


def is_whole(data: bytes, driver: str) -> bool:
    """Whether an image file has its end; GDAL reads what a PNG that was cut short has lost as black."""
    if driver == "JPEG":
        return b"\xff\xd9" in data[-64:]
    if driver == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    return driver != "PNG" or PNG_END in data[-TAIL:]


def coloured(src: rasterio.DatasetReader) -> tuple[Pixels, Valid]:
    """Three bands and validity: colours of a palette (with their alpha) looked up, gray thrice."""
    valid = src.dataset_mask() > 0
    if src.colorinterp[0] == ColorInterp.palette:
        table = np.zeros((256, 4), np.uint8)
        for number, colour in src.colormap(1).items():
            table[number] = colour
        *found, alpha = np.moveaxis(table[src.read(1)], -1, 0)
        return np.stack(found), valid & (alpha > 0)
    bands = [i for i, kind in zip(src.indexes, src.colorinterp) if kind != ColorInterp.alpha]
    return src.read(bands[:3] if len(bands) >= 3 else [bands[0]] * 3), valid
