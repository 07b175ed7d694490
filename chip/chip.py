"""Cut scenes into chips: square windows that keep CRS, transform, bands and dtype.

Reads  SRC  one GeoTIFF or a folder of them (default: data/scenes)
Writes DST/<scene>_r<row>_c<col>.tif  (default: data/chips); row and col are the chip's pixel offset in its scene.
The right and lower edge is padded; padding is marked invalid in the chip's internal mask.
"""

import argparse
from pathlib import Path

from roofkit.addresses import path_or_address
from roofkit.options import answer, number, stage_parser


def pad_of(text: str) -> str | float:
    """An argparse type: white, nodata or a number."""
    return text if text in ("white", "nodata") else number(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__, cluster=True)
    made.add_argument("src", nargs="?", type=path_or_address, metavar="SRC", help="a scene or a folder of scenes")
    made.add_argument("dst", nargs="?", type=Path, metavar="DST", help="the folder for the chips")
    made.add_argument("--size", type=int, nargs="+", metavar="N", help="rows and columns, or one number for both")
    made.add_argument("--overlap", type=int, metavar="N", help="pixels that neighbours share")
    made.add_argument("--pad", type=pad_of, metavar="white|nodata|VALUE", help="value of padding")
    made.add_argument("--min-valid", type=float, metavar="SHARE", help="leave out chips with fewer valid pixels")
    return made


if __name__ == "__main__":
    answer(parser())

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from rasterio.io import DatasetReader
from rasterio.windows import Window

from roofkit.artifacts import Outputs, fingerprint
from roofkit.cli import Run, leave, progress, run_stage, say
from roofkit.errors import BadInputError, SettingsError
from roofkit.pairs import by_stem
from roofkit.raster import (
    Grid,
    Pixels,
    Valid,
    check_apart,
    grid_of,
    is_rgb,
    note_of,
    open_raster,
    own_names,
    raster_digest,
    raster_files,
    read_pixels,
    write_raster,
)
from roofkit.settings import ChipArgs, RasterArgs
from roofkit.shards import share_of
from roofkit.workers import map_items, map_threads

ROWS = 4  # rows of chips that are cut in one task


@dataclass(frozen=True)
class ChipReport:
    """What chip did."""

    wrote: str
    scenes: int
    chips_made: int
    chips_kept: int
    left_out: int
    valid_fraction: float


@dataclass(frozen=True)
class Strip:
    """Some rows of the chips of one scene, one task for a worker: where they start, (row, col), column by column.

    In that order neighbours share blocks of the scene that have just been decoded, however wide it is.
    """

    scene: Path
    folder: Path
    corners: tuple[tuple[int, int], ...]

    @property
    def names(self) -> list[str]:
        """The files of the chips."""
        return [chip_name(self.scene, *corner) for corner in self.corners]


def offsets(length: int, size: int, overlap: int) -> list[int]:
    """Where windows of `size` pixels start along a side of `length`, each sharing `overlap` pixels with the next."""
    return list(range(0, max(1, length - overlap), size - overlap))


def white(dtype: np.dtype) -> float:
    """The brightest value of an integer dtype; 1 for float."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def pad(pixels: Pixels, valid: Valid, size: tuple[int, int], value: float) -> tuple[Pixels, Valid]:
    """Grow (bands, rows, cols) and (rows, cols) to `size` at the lower and right edge; what is added is invalid."""
    rows, cols = size[0] - pixels.shape[1], size[1] - pixels.shape[2]
    grown = np.pad(pixels, ((0, 0), (0, rows), (0, cols)), constant_values=pixels.dtype.type(value))
    return grown, np.pad(valid, ((0, rows), (0, cols)))


def pad_value(pad: str | float, dtype: np.dtype, nodata: float | None, scene: Path) -> float:
    """The number that `pad` means for a scene.

    Raises:
        SettingsError: It is not a value of the dtype, or nodata where the scene has none.
    """
    value = white(dtype) if pad == "white" else nodata if pad == "nodata" else pad
    if value is None:
        raise SettingsError(
            "chip_args.pad", f"nodata, but {scene} has no nodata value", "white or a number", "Use white."
        )
    if dtype.kind in "iu" and not (float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max):
        raise SettingsError("chip_args.pad", f"{value}", f"a value of {dtype}, as {scene} has", "Use white.")
    if dtype.kind == "f" and float(np.finfo(dtype).max) < abs(value) < np.inf:
        raise SettingsError("chip_args.pad", f"{value}", f"a value of {dtype}, as {scene} has", "Use white.")
    return float(value)


def chip_name(scene: Path, row: int, col: int) -> str:
    """The file name of the chip of `scene` at that pixel offset."""
    return f"{scene.stem}_r{row}_c{col}.tif"


def _is_of(scene: Path, name: str) -> bool:
    """Whether a chip of that name is of that scene."""
    return name.rpartition("_r")[0] == scene.stem


def chip_scenes(src: Path, dst: Path, *, settings: ChipArgs, rasters: RasterArgs, run: Run) -> ChipReport:
    """Cut every scene of `src` into `dst`.

    Raises:
        MissingInputError, BadInputError: A scene is absent or not readable.
        MismatchError: Two scenes have one name.
        SettingsError: The padding does not fit a scene.
        OutputError: `dst` is `src`.
    """
    scenes = list(by_stem(raster_files(src)).values())
    check_apart(scenes if isinstance(src, Path) and src.is_dir() else (), dst)
    strips = share_of([strip for scene in scenes for strip in _strips(scene, dst, settings)], run.shard)
    keys = _chip_keys(strips, settings, rasters)
    one = partial(_is_of, src) if scenes == [src] else None
    with Outputs(
        dst, "chip", overwrite=run.overwrite, keep_edits=run.keep_edits, shard=run.shard, replaces=one
    ) as outputs:
        tasks = _unfinished(strips, set(outputs.plan(keys)))
        work = partial(_cut, settings=settings, rasters=rasters)
        made: set[str] = set()
        with closing(map_items(work, tasks, workers=run.workers, scheduler=run.scheduler)) as done:
            for cut in progress(done, len(tasks), "chip", quiet=run.quiet):
                for name, facts in cut.items():
                    if facts["valid_fraction"] < settings.min_valid:
                        outputs.leave_out(name)
                    else:
                        outputs.record(name, keys[name], **facts)
                        made.add(name)
        outputs.finish()
        kept = [name for name in keys if outputs.has(name)]
        if not kept and not run.shard:
            found = f"no chip has a share of {settings.min_valid} valid pixels"
            raise BadInputError(src, found, "some valid pixels", "Lower chip_args.min_valid.")
        fraction = float(np.mean([outputs.facts(name)["valid_fraction"] for name in kept] or [0.0]))
    return ChipReport(str(dst), len(scenes), len(made), len(kept) - len(made), len(keys) - len(kept), fraction)


def _strips(scene: Path, dst: Path, settings: ChipArgs) -> list[Strip]:
    with open_raster(scene) as src:
        if src.gcps[0] and src.crs is None:
            say(f"{scene}: lies nowhere: it has ground control points alone, which chips lack (gdalwarp it first)")
        pad_value(settings.pad, np.dtype(src.dtypes[0]), src.nodata, scene)
        rows = offsets(src.height, settings.size[0], settings.overlap)
        cols = offsets(src.width, settings.size[1], settings.overlap)
    groups = [rows[i : i + ROWS] for i in range(0, len(rows), ROWS)]
    return [Strip(scene, dst, tuple((row, col) for col in cols for row in group)) for group in groups]


def _chip_keys(strips: list[Strip], settings: ChipArgs, rasters: RasterArgs) -> dict[str, str]:
    scenes = dict.fromkeys(strip.scene for strip in strips)
    scene_keys = {scene: fingerprint("chip", settings, rasters, scene.name, raster_digest(scene)) for scene in scenes}
    return {name: scene_keys[strip.scene] for strip in strips for name in strip.names}


def _unfinished(strips: list[Strip], todo: set[str]) -> list[Strip]:
    """The strips with those of their chips that are still to be made."""
    left = [
        replace(strip, corners=tuple(corner for corner, name in zip(strip.corners, strip.names) if name in todo))
        for strip in strips
    ]
    return [strip for strip in left if strip.corners]


def _cut(strip: Strip, *, settings: ChipArgs, rasters: RasterArgs) -> dict[str, dict[str, Any]]:
    """Write the chips of a strip; what is to be recorded of each by name.

    One chip is read and encoded while another is on its way to the disk.
    """
    with open_raster(strip.scene) as src:
        shared = dict(nodata=src.nodata, names=own_names(src), rgb=is_rgb(src), settings=rasters)

        def write(chip: tuple[Path, Pixels, Valid, Grid]) -> dict[str, Any]:
            path, pixels, valid, grid = chip
            fraction = float(valid.mean())
            if fraction >= settings.min_valid:
                write_raster(path, pixels, valid, grid, **shared)
            is_whole = valid.all() and src.nodata is None and pixels.dtype.kind != "f"
            return {"valid_fraction": fraction, **(note_of(grid) if is_whole else {})}

        read = (_read(src, strip, *corner, settings) for corner in strip.corners)
        return dict(zip(strip.names, map_threads(write, read, workers=2)))


def _read(src: DatasetReader, strip: Strip, row: int, col: int, settings: ChipArgs) -> tuple[Path, Pixels, Valid, Grid]:
    """Where a chip goes, its pixels and validity with padding, and its grid."""
    full = Window(col, row, settings.size[1], settings.size[0])
    pixels, valid = read_pixels(src, full.intersection(Window(0, 0, src.width, src.height)))
    value = pad_value(settings.pad, pixels.dtype, src.nodata, strip.scene)
    path = strip.folder / chip_name(strip.scene, row, col)
    return path, *pad(pixels, valid, settings.size, value), grid_of(src).window(full)


def chip(options: argparse.Namespace, run: Run) -> ChipReport:
    """The stage, with what the command line says."""
    given = {
        "size": size_of(options.size),
        "overlap": options.overlap,
        "pad": options.pad,
        "min_valid": options.min_valid,
    }
    settings = run.block("chip_args", given)
    src, dst = options.src or run.paths.scenes, options.dst or run.paths.chips
    return chip_scenes(src, dst, settings=settings, rasters=run.settings.raster_args, run=run)


def size_of(values: list[int] | None) -> list[int] | None:
    """`--size 640` is `--size 640 640`."""
    return values * 2 if values and len(values) == 1 else values


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, chip)


if __name__ == "__main__":
    leave(main())
