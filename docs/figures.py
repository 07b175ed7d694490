"""Draw a project: its labels, its frames and masks, and the map that came out, as small pictures.

python docs/figures.py OUT --settings FILE --data DIR --results DIR [--around LON LAT] [--metres 130]
writes OUT/labels.jpg, OUT/masks.jpg and OUT/map.jpg. Imagery needs three bands of 8 bits or more, shown as they are.
The pictures in docs/images/your-data-*.jpg are those of docs/your-data.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import rasterio.merge
from matplotlib.figure import Figure
from rasterio.warp import transform_bounds
from shapely.geometry import box

from roofkit.cli import Run, stage_parser, start_run
from roofkit.paths import find_labels
from roofkit.raster import raster_files

Bounds = tuple[float, float, float, float]
WHERE = "EPSG:4326"
METAL, OTHER, UNKNOWN, FOUND = "#ffd60a", "#ffffff", "#ff5d8f", "#00e5ff"
QUALITY = {"quality": 78, "optimize": True}


def imagery(scenes: Sequence[Path], bounds: Bounds) -> np.ndarray:
    """The scenes inside the bounds as one picture (rows, cols, 3)."""
    with rasterio.open(scenes[0]) as first:
        inside = transform_bounds(WHERE, first.crs, *bounds)
    pixels, _ = rasterio.merge.merge(scenes, bounds=inside, indexes=[1, 2, 3])
    return np.moveaxis(pixels, 0, -1)


def around(lon: float, lat: float, metres: float) -> Bounds:
    """A square of that side, in degrees."""
    north = metres / 2 / 111_320
    east = north / np.cos(np.radians(lat))
    return lon - east, lat - north, lon + east, lat + north


def whole(paths: Sequence[Path]) -> Bounds:
    """The bounds of all rasters together, in degrees."""
    found = []
    for path in paths:
        with rasterio.open(path) as src:
            found.append(transform_bounds(src.crs, WHERE, *src.bounds))
    lows, highs = np.min(found, axis=0), np.max(found, axis=0)
    return lows[0], lows[1], highs[2], highs[3]


def side_by_side() -> tuple[Any, Any]:
    """Two square axes of a figure."""
    figure = Figure(figsize=(8, 4))
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=0.995, wspace=0.02)
    left, right = figure.subplots(1, 2)
    return left, right


def show(ax: Any, scenes: Sequence[Path], bounds: Bounds, title: str) -> None:
    """The imagery inside the bounds, with a title."""
    left, bottom, right, top = bounds
    ax.imshow(imagery(scenes, bounds), extent=(left, right, bottom, top), interpolation="antialiased")
    paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 3}
    ax.text(0.012, 0.985, title, transform=ax.transAxes, fontsize=10, va="top", bbox=paper)
    ax.set_axis_off()


def outline(ax: Any, shapes: gpd.GeoDataFrame, colour: str, bounds: Bounds, width: float = 1.2) -> None:
    """Outlines over the imagery; the view stays as it is."""
    if len(shapes):
        shapes.to_crs(WHERE).boundary.plot(ax=ax, color=colour, linewidth=width)
    ax.set_xlim(bounds[0], bounds[2])
    ax.set_ylim(bounds[1], bounds[3])
    ax.set_aspect(1 / np.cos(np.radians(bounds[1])))


def draw_labels(run: Run, scenes: Sequence[Path], bounds: Bounds, path: Path) -> None:
    """Polygons as they were drawn, and what mask_args makes of them."""
    labels, chosen = find_labels(run.paths.labels), run.settings.mask_args
    left, right = side_by_side()
    show(left, scenes, bounds, "polygons, as drawn")
    outline(left, gpd.read_file(labels), OTHER, bounds)
    show(right, scenes, bounds, "metal roofs (yellow), unknown (pink), other")
    outline(right, gpd.read_file(labels), OTHER, bounds, 0.6)
    for where, colour in ((chosen.ignore, UNKNOWN), (chosen.where, METAL)):
        if where:
            outline(right, gpd.read_file(labels, where=where), colour, bounds, 2.0)
    left.figure.savefig(path, dpi=100, pil_kwargs=QUALITY)


def draw_masks(run: Run, path: Path, count: int = 5) -> None:
    """Frames over their masks."""
    frames = raster_files(run.paths.train_frames)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for above, below, frame in zip(*figure.subplots(2, count), frames[:: max(1, len(frames) // count)], strict=False):
        for ax, source in ((above, frame), (below, run.paths.train_masks / frame.name)):
            with rasterio.open(source) as src:
                pixels = np.moveaxis(src.read([1, 2, 3] if src.count >= 3 else [1] * 3).astype("uint8"), 0, -1)
                shown = np.where(src.dataset_mask()[..., None] > 0, pixels, 128)
            ax.imshow(shown, interpolation="antialiased")
            ax.set_axis_off()
        above.set_title(frame.stem, fontsize=8)
    figure.savefig(path, dpi=100, pil_kwargs=QUALITY)


def draw_map(run: Run, scenes: Sequence[Path], bounds: Bounds, path: Path) -> None:
    """The roofs found, on everything and nearer; frames that validated have a white border."""
    roofs = gpd.read_file(run.paths.footprints)
    held_out = [box(*whole([frame])) for frame in raster_files(run.paths.val_frames)]
    frames = gpd.GeoDataFrame(geometry=[gpd.GeoSeries(held_out).union_all().buffer(1e-7)], crs=WHERE)
    left, right = side_by_side()
    everything = whole(scenes)
    for ax, view, title in ((left, everything, "metal roofs found"), (right, bounds, "the same, nearer")):
        show(ax, scenes, view, title)
        outline(ax, roofs, FOUND, view, 0.7 if ax is left else 1.6)
        outline(ax, frames, OTHER, view, 1.0)
    left.figure.savefig(path, dpi=100, pil_kwargs=QUALITY)


def main() -> None:
    """Draw all three."""
    parser = stage_parser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder for the pictures")
    parser.add_argument("--around", type=float, nargs=2, metavar=("LON", "LAT"), help="middle (default: of the scenes)")
    parser.add_argument("--metres", type=float, default=130.0, help="side of what is shown near")
    options = parser.parse_args()
    run = start_run(options)
    scenes = raster_files(run.paths.scenes)
    left, bottom, right, top = whole(scenes)
    lon, lat = options.around or ((left + right) / 2, (bottom + top) / 2)
    near = around(lon, lat, options.metres)
    options.out.mkdir(parents=True, exist_ok=True)
    draw_labels(run, scenes, near, options.out / "labels.jpg")
    draw_masks(run, options.out / "masks.jpg")
    draw_map(run, scenes, near, options.out / "map.jpg")


if __name__ == "__main__":
    main()
