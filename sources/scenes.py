"""What every source of imagery has in common: it plans scenes, which are cut into tiles, and fetches tile by tile."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.windows import Window

from roofkit.errors import BadInputError, SettingsError
from roofkit.raster import Grid, Pixels, Valid, windows
from roofkit.settings import DownloadArgs
from roofkit.web import Web

if TYPE_CHECKING:
    import geopandas as gpd

    from sources.area import Area


class TooLargeError(Exception):
    """The service does not deliver so many pixels at once: the tile is halved."""


@dataclass(frozen=True)
class Scene:
    """A GeoTIFF to be made."""

    name: str
    """The file's name in the scenes folder."""
    grid: Grid
    bands: tuple[str, ...]
    """A name for each band."""
    dtype: str
    """One that `roofkit.raster` knows."""
    request: Mapping[str, Any] = field(compare=False)
    """JSON-able: all that decides the pixels (what, when, how, version). No credential may be in it."""
    side: int = 1024
    """Rows and columns of a tile, which is one request; a multiple of `roofkit.raster.BLOCK`."""
    nodata: float | None = None
    rgb: bool = False
    detail: Any = field(default=None, compare=False)
    """Whatever the source needs to fetch it."""

    def tiles(self) -> list[Window]:
        """The tiles, row by row."""
        return list(windows(self.grid.height, self.grid.width, self.side))

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel of all bands."""
        return len(self.bands) * np.dtype(self.dtype).itemsize


class Source(ABC):
    """Where imagery comes from.

    Args:
        settings: What is wanted.
        area: Where; None: the user named none.
        web: How to reach it.
        folder: What relative file names in the settings are relative to.
    """

    name: str
    licence: str = ""
    """What the user should know about using this imagery; one line."""
    clips: bool = True
    """Whether pixels outside the area become invalid."""
    missing: int = 0
    """Tiles that the service turned out not to have."""
    in_order: bool = False
    """Whether tiles come best one after the other."""

    def __init__(self, settings: DownloadArgs, area: "Area | None", web: Web, folder: Path) -> None:
        self.settings, self.area, self.web, self.folder = settings, area, web, folder

    @abstractmethod
    def plan(self) -> list[Scene]:
        """The scenes that there are in the area; this may ask the service.

        Raises:
            RoofError: Settings are missing, the service refuses, or there is nothing in the area.
        """

    @abstractmethod
    def fetch(self, scene: Scene, window: Window) -> tuple[Pixels, Valid]:
        """Pixels (bands, rows, cols) and validity (rows, cols) of a window of a scene. Called from several threads.

        Raises:
            RoofError: The service refuses or fails for good.
            TooLargeError: It does not deliver so many pixels at once.
        """

    def wants(self, scene: Scene, window: Window) -> bool:
        """Whether a window of a scene can hold a pixel of the area."""
        return not self.clips or self.area is None or self.area.touches(scene.grid.window(window))

    def labels(self) -> "gpd.GeoDataFrame | None":
        """Roof polygons that come with the imagery; None: there are none."""
        return None

    def labels_request(self) -> Mapping[str, Any] | None:
        """What decides those labels, JSON-able; None: none come with the imagery."""
        return None

    def needed_area(self) -> "Area":
        """The area.

        Raises:
            SettingsError: The user named none.
        """
        if self.area is None:
            advice = "Give --bbox W S E N in degrees, or --aoi FILE."
            raise SettingsError("download_args.bbox", "null, and aoi too", f"an area for source {self.name}", advice)
        return self.area


def parts(grid: Grid, size: int, area: "Area | None") -> list[tuple[int, int, Grid]]:
    """A grid cut into parts of at most `size` pixels a side: row, column and grid of those that touch the area."""
    found = [(int(w.row_off), int(w.col_off), grid.window(w)) for w in windows(grid.height, grid.width, size)]
    return [part for part in found if area is None or area.touches(part[2])]


def cast(band: Pixels, valid: Valid, scene: Scene) -> Pixels:
    """Pixels, of one band or all, in the scene's dtype.

    Raises:
        BadInputError: It holds values that do not fit.
    """
    if band.dtype == scene.dtype:
        return band
    band = np.where(valid, band, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        found = band.astype(scene.dtype)
    if scene.dtype != "float32" and not (found == band).all():
        low, high = band.min(), band.max()
        advice = "Set download_args.dtype to one that holds them (float32 holds all)."
        raise BadInputError(scene.name, f"values from {low:g} to {high:g}", scene.dtype, advice)
    return found
