"""Fetch imagery and roof polygons.

Writes data/scenes/*.tif and data/labels/roofs.gpkg. The source `sample` needs no network: it is a SYNTHETIC town, made
up and drawn by this program, for trying the pipeline out. Imagery of your own in data/scenes is left as it is, and
nothing is added to it.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from affine import Affine
from rasterio.crs import CRS

from roofkit.artifacts import Outputs, fingerprint
from roofkit.cli import Run, run_stage, say, stage_parser
from roofkit.paths import Paths
from roofkit.raster import Grid, write_raster
from roofkit.settings import DownloadArgs, RasterArgs
from roofkit.vectors import write_features

if TYPE_CHECKING:
    from sources.sample import Town


@dataclass(frozen=True)
class DownloadReport:
    """What download did."""

    wrote: str
    source: str
    scenes: int
    labels: int
    made: int
    kept: int


def quarters(size: int) -> list[tuple[int, int]]:
    """Row and column offsets of the four adjoining scenes that a town of `size` pixels is cut into."""
    half = size // 2
    return [(row, col) for row in (0, half) for col in (0, half)]


def scene_name(row: int, col: int) -> str:
    """The file name of the scene of the made-up town at that pixel offset."""
    return f"synthetic_town_{row}_{col}.tif"


def download_sample(paths: Paths, *, settings: DownloadArgs, rasters: RasterArgs, overwrite: bool) -> DownloadReport:
    """Write the made-up town as four scenes and its roofs as polygons."""
    scenes = {_inside(paths.data, paths.scenes / scene_name(*quarter)): quarter for quarter in quarters(settings.size)}
    labels = _inside(paths.data, paths.labels)
    key = fingerprint("download", settings, rasters)
    with Outputs(paths.data, "download", overwrite=overwrite) as outputs:
        todo = outputs.plan(dict.fromkeys([*scenes, labels], key))
        if todo:
            from sources.sample import make_town

            town = make_town(seed=settings.seed, size=settings.size)
            for name in todo:
                if name == labels:
                    write_features(paths.labels, town.roofs)
                else:
                    write_quarter(paths.data / name, town, scenes[name], rasters)
                outputs.record(name, key)
        outputs.finish()
    return DownloadReport(str(paths.data), "sample (synthetic)", len(scenes), 1, len(todo), len(scenes) + 1 - len(todo))


def write_quarter(path: Path, town: "Town", quarter: tuple[int, int], rasters: RasterArgs) -> None:
    """Write one of the four scenes: 0 is its nodata value."""
    from sources import sample

    row, col = quarter
    half = town.valid.shape[0] // 2
    pixels = town.pixels[:, row : row + half, col : col + half]
    grid = Grid(CRS.from_string(sample.CRS), town.transform @ Affine.translation(col, row), half, half)
    write_raster(path, pixels, None, grid, nodata=0, names=sample.BANDS, rgb=True, settings=rasters)


def _inside(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def own_files(paths: Paths) -> list[Path]:
    """Rasters in the scenes folder that the source `sample` does not make."""
    found = paths.scenes.iterdir() if paths.scenes.is_dir() else []
    rasters = (p for p in found if p.suffix.lower() in (".tif", ".tiff") and not p.name.startswith("."))
    return sorted(p for p in rasters if not p.name.startswith("synthetic_town_"))


def download(options: argparse.Namespace, run: Run) -> DownloadReport:
    """The stage, with what the command line says."""
    settings = run.block("download_args", {"source": options.source, "seed": options.seed})
    own = own_files(run.paths)
    if own:
        say(f"{run.paths.scenes} holds imagery of your own ({own[0].name}, …): nothing is added to it.")
        return DownloadReport(str(run.paths.data), "your own", len(own), 0, 0, len(own))
    return download_sample(run.paths, settings=settings, rasters=run.settings.raster_args, overwrite=run.overwrite)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    parser = stage_parser(__doc__)
    parser.add_argument("--source", metavar="NAME", help="sample: a synthetic town, drawn by this program")
    parser.add_argument("--seed", type=int, metavar="N", help="which town (source sample)")
    return run_stage(parser, argv, download)


if __name__ == "__main__":
    sys.exit(main())
