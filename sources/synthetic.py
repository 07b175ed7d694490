"""The source `sample`: a made-up town as four scenes with the polygon of every roof; needs no network."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from roofkit.raster import BLOCK, Grid, Pixels, Valid
from sources.scenes import Scene, Source

if TYPE_CHECKING:
    import geopandas as gpd

    from sources.sample import Town


BANDS = ("red", "green", "blue", "nir")
GSD = 0.5
EPSG = "EPSG:32644"
ORIGIN = (735_300.0, 2_962_300.0)  # upper-left corner in UTM zone 44 N: 26.76 N, 83.37 E


class SampleTown(Source):
    """The made-up town of `download_args.seed` and `size`."""

    name = "sample"
    clips = False

    @cached_property
    def town(self) -> "Town":
        """The town, drawn when first needed."""
        from sources.sample import make_town

        return make_town(seed=self.settings.seed, size=self.settings.size)

    def plan(self) -> list[Scene]:
        """Four adjoining scenes; 0 is their nodata value."""
        half = self.settings.size // 2
        origin = Affine(GSD, 0, ORIGIN[0], 0, -GSD, ORIGIN[1])
        scenes = []
        for row, col in quarters(self.settings.size):
            grid = Grid(CRS.from_string(EPSG), origin @ Affine.translation(col, row), half, half)
            side = -(-half // BLOCK) * BLOCK
            scenes.append(Scene(
                scene_name(row, col), grid, BANDS, "uint16", {"seed": self.settings.seed, "town": 1},
                side=side, nodata=0, rgb=True, detail=(row, col),
            ))  # fmt: skip
        return scenes

    def fetch(self, scene: Scene, window: Window) -> tuple[Pixels, Valid]:
        """A part of the town."""
        row, col = scene.detail[0] + int(window.row_off), scene.detail[1] + int(window.col_off)
        rows, cols = slice(row, row + int(window.height)), slice(col, col + int(window.width))
        return self.town.pixels[:, rows, cols], self.town.valid[rows, cols]

    def labels(self) -> "gpd.GeoDataFrame":
        """Every roof with its material."""
        return self.town.roofs

    def labels_request(self) -> Mapping[str, Any]:
        """The same as for the scenes."""
        return {"seed": self.settings.seed, "size": self.settings.size, "town": 1}


def quarters(size: int) -> list[tuple[int, int]]:
    """Row and column offsets of the four adjoining scenes that a town of `size` pixels is cut into."""
    half = size // 2
    return [(row, col) for row in (0, half) for col in (0, half)]


def scene_name(row: int, col: int) -> str:
    """The file name of the scene of the made-up town at that pixel offset."""
    return f"synthetic_town_{row}_{col}.tif"
