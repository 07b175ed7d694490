"""The whole line on real imagery: a folder with scenes/*.tif and labels/*, and a settings file.

python bench/real.py FOLDER bench/banepa.json OUT [--picture FILE.png]
copies scenes and labels into OUT/data, runs the eight stages of the README's line and evaluate, and prints minutes,
scores and how many masks are blank.
With --picture it draws the imagery with the labels and with the map beside it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
LINE = ["--prod", "--chip", "--mask", "--mosaic", "--flatten", "--summarize", "--train", "--predict"]


def prepare(folder: Path, data: Path) -> None:
    """Put scenes and labels where the pipeline looks for them."""
    for name in ("scenes", "labels"):
        shutil.copytree(folder / name, data / name, dirs_exist_ok=True)


def run_line(out: Path, settings: Path) -> float:
    """Run the line and then evaluate; the line's seconds."""
    options = ["--data", str(out / "data"), "--results", str(out / "results"), "--settings", str(settings)]
    started = time.monotonic()
    subprocess.run([sys.executable, str(ROOT / "run" / "local.py"), *LINE, *options], check=True)
    seconds = time.monotonic() - started
    subprocess.run([sys.executable, str(ROOT / "evaluate" / "evaluate.py"), *options, "--quiet"], check=True)
    return seconds


def blank_masks(folder: Path, truth: Path) -> tuple[int, int, int]:
    """Masks without a roof, those among them whose truth has none either, and all masks."""
    blank = rightly = total = 0
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as src, rasterio.open(truth / path.name) as true:
            empty = not src.read(1).any()
            total, blank, rightly = total + 1, blank + empty, rightly + (empty and not true.read(1).any())
    return blank, rightly, total


def show(out: Path, seconds: float) -> None:
    """Print the figures."""
    scores: dict[str, Any] = json.loads((out / "results" / "metrics.json").read_text())
    blank, rightly, total = blank_masks(out / "results" / "predictions", out / "data" / "val_masks")
    table = Table("figure", "value", title=f"real imagery: {out}")
    table.add_row("minutes for the line", f"{seconds / 60:.1f}")
    for name in ("iou", "f1", "precision", "recall"):
        table.add_row(name, f"{scores[name]:.3f}")
    table.add_row("blank masks of validation frames", f"{blank} of {total}; in {rightly} of them there is no roof")
    Console().print(table)


def outlines(ax: Any, path: Path, colour: str, **options: Any) -> None:
    """Draw the polygons of a file, in longitude and latitude; `options` are those of geopandas' reader."""
    import geopandas as gpd

    roofs = gpd.read_file(path, **options).to_crs("EPSG:4326")
    roofs.boundary.plot(ax=ax, color=colour, linewidth=0.9)


def draw(out: Path, settings: Path, picture: Path) -> None:
    """Imagery with the labels, and with the roofs of the map, side by side, validation blocks framed."""
    import geopandas as gpd
    from matplotlib.figure import Figure
    from rasterio.warp import transform_bounds
    from shapely.geometry import box

    where = json.loads(settings.read_text()).get("mask_args", {}).get("where")
    labels = next((out / "data" / "labels").iterdir())
    figure = Figure(figsize=(14, 7.2), layout="constrained")
    frames = []
    for path in sorted((out / "data" / "val_frames").glob("*.tif")):
        with rasterio.open(path) as src:
            frames.append(box(*transform_bounds(src.crs, "EPSG:4326", *src.bounds)))
    held_out = gpd.GeoSeries(frames, crs="EPSG:4326").union_all().buffer(1e-7)
    titles = ("metal roofs as labelled", "metal roofs as found (validation area framed in white)")
    for ax, title in zip(figure.subplots(1, 2), titles, strict=True):
        with rasterio.open(out / "data" / "mosaic.tif") as src:
            shape = (3, src.height // 3, src.width // 3)
            left, bottom, right, top = src.bounds
            ax.imshow(np.moveaxis(src.read([1, 2, 3], out_shape=shape), 0, -1), extent=(left, right, bottom, top))
        ax.set_title(title)
        ax.set_axis_off()
        if title == titles[0]:
            outlines(ax, labels, "#ffd60a", where=where)
        else:
            outlines(ax, out / "results" / "footprints.gpkg", "#00e5ff", layer="footprints")
        gpd.GeoSeries([held_out], crs="EPSG:4326").boundary.plot(ax=ax, color="white", linewidth=1.4)
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)
    figure.savefig(picture, dpi=100, pil_kwargs={"quality": 85})


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds scenes/ and labels/")
    parser.add_argument("settings", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    prepare(options.folder, options.out / "data")
    seconds = run_line(options.out, options.settings)
    show(options.out, seconds)
    if options.picture:
        draw(options.out, options.settings, options.picture)


if __name__ == "__main__":
    main()
