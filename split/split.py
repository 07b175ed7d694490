"""Choose which chips train and which validate, so that no validation pixel is ever trained on.

Reads  FRAMES  chips (default: data/chips)
       MASKS   one mask of the same name for each (default: data/masks)
Writes DST/train_frames/train_<n>.tif  DST/train_masks/train_<n>.tif
       DST/val_frames/val_<n>.tif      DST/val_masks/val_<n>.tif  (default: the four folders that settings name)
       DST/split.csv  a row for each chip: frame, split, chip, scene, row, col, block, roof_fraction, valid_fraction

Whole blocks of neighbouring chips go to one side, across scenes that adjoin; both sides get about the same share of
roof. A training chip that shares ground with a validation chip is left out, and split.csv says so.
"""

import argparse
from pathlib import Path

from roofkit.options import answer, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = stage_parser(__doc__)
    made.add_argument("frames", nargs="?", type=Path, metavar="FRAMES", help="a folder of chips")
    made.add_argument("masks", nargs="?", type=Path, metavar="MASKS", help="a folder of their masks")
    made.add_argument("dst", nargs="?", type=Path, metavar="DST", help="the folder for the four folders")
    made.add_argument("--val-fraction", type=float, metavar="SHARE", help="share of valid pixels that validates")
    made.add_argument("--by", choices=("block", "random", "scene"), help="what is kept together")
    made.add_argument("--block-size", type=int, metavar="N", help="chips along the side of a block")
    made.add_argument("--seed", type=int, metavar="N", help="another number, another choice")
    return made


if __name__ == "__main__":
    answer(parser())

import csv
import io
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from roofkit.artifacts import Outputs, committed, fingerprint
from roofkit.cli import Run, leave, progress, run_stage
from roofkit.errors import BadInputError, OutputError, SettingsError
from roofkit.ledger import digest, input_digests
from roofkit.pairs import check_grids, mask_files, pair_rasters, place_of, read_mask
from roofkit.paths import Paths
from roofkit.raster import Grid, Valid, check_apart, closed_digest, grid_of, open_raster, raster_files, read_pixels
from roofkit.settings import SplitArgs
from roofkit.workers import map_items

COLUMNS = ("frame", "split", "chip", "scene", "row", "col", "block", "roof_fraction", "valid_fraction")
TRAIN, VAL, LEFT_OUT = "train", "val", "left out"
DRAWS = 256  # random draws of validation groups, of which the best balanced counts
SLIVER = 1e-6  # of a pixel: less shared ground than this is rounding
POOL_FROM = 128  # files below which starting worker processes takes longer than the work
LONLAT = CRS.from_epsg(4326)
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class SplitReport:
    """What split did. Roof fractions are of valid pixels, valid fractions of all; `val_share` is of valid pixels."""

    wrote: str
    train_frames: int
    val_frames: int
    left_out: int
    without_valid_pixel: int
    files_made: int
    files_kept: int
    val_share: float
    train_roof_fraction: float
    val_roof_fraction: float
    train_valid_fraction: float
    val_valid_fraction: float


@dataclass(frozen=True)
class Pair:
    """A chip and its mask."""

    frame: Path
    mask: Path

    @property
    def place(self) -> tuple[str, int, int]:
        """Scene, row and column, as the name says; a file with another name is a scene of its own."""
        return place_of(self.frame.stem)


@dataclass(frozen=True)
class Measured:
    """What counts about a pair."""

    pair: Pair
    grid: Grid
    valid: int
    roof: int
    box: tuple[int, int, int, int]
    """Around the valid pixels: first row, end row, first column, end column."""
    digests: tuple[list[str], list[str]]
    """SHA-256 of frame and mask, each followed by those of what beside it counts."""

    @property
    def pixels(self) -> int:
        """All pixels, valid or not."""
        return self.grid.height * self.grid.width


@dataclass(frozen=True)
class Ground:
    """Where a chip lies, in a plane shared with the chips that it can be compared to."""

    plane: str
    """Empty for all georeferenced chips; else the scene, in whose pixels the shapes are."""
    whole: Any
    measured: Any
    """Outlines of the whole chip and of its valid pixels."""
    pixel_area: float


@dataclass(frozen=True)
class Copy:
    """A file to copy, with the hash that the copy must have: one task for a worker."""

    source: Path
    target: Path
    name: str
    sha256: str


@dataclass(frozen=True)
class Layout:
    """Where a split is written: a folder, and names relative to it."""

    folder: Path
    names: dict[str, str]
    """train_frames, train_masks, val_frames, val_masks and split → path inside the folder."""


def count_pixels(roof: Valid, valid: Valid) -> tuple[int, int, tuple[int, int, int, int]]:
    """Valid pixels, roof pixels among them, and first row, end row, first column, end column around the valid ones."""
    rows, cols = (np.flatnonzero(valid.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, (0, 0, 0, 0)
    box = (int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1)
    return int(valid.sum()), int((roof & valid).sum()), box


def lattice(x: NDArray[Any], y: NDArray[Any], step: tuple[float, float], block_size: int) -> list[tuple[int, int]]:
    """Row and column of the block that each chip centre lies in; y points up.

    Args:
        x: Chip centres.
        y: Chip centres.
        step: Distance of neighbouring chips along x and y.
        block_size: Chips along a block's side.
    """
    cols = np.floor(((x - x.min()) / step[0] + 0.5) / block_size)
    rows = np.floor(((y.max() - y) / step[1] + 0.5) / block_size)
    return list(zip(rows.astype(int).tolist(), cols.astype(int).tolist()))


def choose(valid: NDArray[Any], roof: NDArray[Any], fraction: float, seed: int) -> Bools:
    """Which groups validate: about `fraction` of the valid pixels, and of the roof pixels.

    Groups are sorted by roof fraction and cut into as many strata as groups are wanted; one of each is drawn. Of many
    such draws the best balanced counts.

    Args:
        valid: Valid pixels of each group, at least two groups.
        roof: Roof pixels of each group.
        fraction: Wanted share.
        seed: The same seed chooses the same groups.
    """
    order = np.argsort(roof / np.maximum(valid, 1), kind="stable")
    generator = np.random.default_rng(seed)
    wanted = round(len(valid) * fraction)
    best, lowest = np.zeros(len(valid), bool), np.inf
    for shift in generator.integers(-1, 2, DRAWS):
        count = min(max(wanted + shift, 1), len(valid) - 1)
        edges = np.linspace(0, len(valid), count + 1).round().astype(int)
        picked = edges[:-1] + (generator.random(count) * np.diff(edges)).astype(int)
        chosen = np.isin(np.arange(len(valid)), order[picked])
        shares = np.array([valid[chosen].sum() / max(valid.sum(), 1), roof[chosen].sum() / max(roof.sum(), 1)])
        cost = np.abs(shares - fraction).sum() + 2 * (shares[1] in (0.0, 1.0))
        if cost < lowest:
            best, lowest = chosen, cost
    return best


def sharing_ground(grounds: Sequence[Ground], others: Sequence[Ground]) -> Bools:
    """Which of `grounds` share valid ground with one of `others`."""
    found = np.zeros(len(grounds), bool)
    for plane in {ground.plane for ground in grounds}:
        mine = np.array([i for i, ground in enumerate(grounds) if ground.plane == plane])
        theirs = np.array([ground.measured for ground in others if ground.plane == plane], object)
        shapes = np.array([grounds[i].measured for i in mine], object)
        areas = np.array([grounds[i].pixel_area for i in mine])
        a, b = shapely.STRtree(theirs).query(shapes, predicate="intersects")
        shared = shapely.area(shapely.intersection(shapes[a], theirs[b])) > SLIVER * areas[a]
        found[mine[a[shared]]] = True
    return found


def pair_up(frames: Sequence[Path], masks: Sequence[Path]) -> list[Pair]:
    """Frames with the mask of the same name, sorted by scene, row and column.

    Raises:
        MissingInputError: A frame has no mask, or a mask no frame.
        MismatchError: Two files have one name.
    """
    return sorted((Pair(*pair) for pair in pair_rasters(frames, masks)), key=lambda pair: pair.place)


def measure(pair: Pair) -> Measured:
    """Count a pair's pixels.

    Raises:
        MismatchError: Frame and mask lie on different grids.
        BadInputError: The mask is none, or a file is broken.
    """
    digests = input_digests([pair.frame]), input_digests([pair.mask])
    with open_raster(pair.mask) as mask, open_raster(pair.frame) as frame:
        for found, raster in zip(digests, (frame, mask)):
            found += input_digests(raster.beside)
        check_grids(mask, like=frame)
        roof, labelled = read_mask(mask)
        grid, valid = grid_of(frame), read_pixels(frame)[1]
    return Measured(pair, grid, *count_pixels(roof, labelled & valid), digests)


def grounds_of(chips: Sequence[Measured]) -> list[Ground]:
    """Where each chip lies: in the CRS that all share, in lon/lat when they differ, in pixels where there is none."""
    systems = {chip.grid.crs.to_wkt(): chip.grid.crs for chip in chips if chip.grid.crs}
    common = next(iter(systems.values())) if len(systems) == 1 else LONLAT
    return [ground_of(chip, common) for chip in chips]


def ground_of(chip: Measured, common: CRS) -> Ground:
    """Where one chip lies; see `grounds_of`."""
    grid, (top, end_row, left, end_col) = chip.grid, chip.box
    scene, row, col = chip.pair.place
    outlines = []
    for r0, r1, c0, c1 in ((0, grid.height, 0, grid.width), (top, end_row, left, end_col)):
        corners = np.array([(c0, r0), (c1, r0), (c1, r1), (c0, r1)], float)
        if grid.crs is None:
            outlines.append(shapely.Polygon((corners + (col, row)) * (1, -1)))
        else:
            x, y = np.array([grid.transform @ corner for corner in corners]).T
            if grid.crs != common:
                x, y = transform_points(grid.crs, common, x, y)
            outlines.append(shapely.Polygon(np.column_stack([x, y])))
    return Ground("" if grid.crs else scene, *outlines, outlines[0].area / chip.pixels)


def blocks_of(chips: Sequence[Measured], grounds: Sequence[Ground], block_size: int) -> list[str]:
    """The name of the spatial block that each chip lies in; scenes in one plane share one lattice."""
    names = [""] * len(chips)
    for plane in dict.fromkeys(ground.plane for ground in grounds):
        members = [i for i, ground in enumerate(grounds) if ground.plane == plane]
        bounds = shapely.bounds([grounds[i].whole for i in members])
        size = np.median(bounds[:, 2:] - bounds[:, :2], axis=0)
        step = size * spacing([chips[i] for i in members])
        centres = (bounds[:, :2] + bounds[:, 2:]) / 2
        cells = lattice(centres[:, 0], centres[:, 1], (step[0], step[1]), block_size)
        for i, (row, col) in zip(members, cells):
            names[i] = f"{plane}:{row}_{col}" if plane else f"{row}_{col}"
    return names


def spacing(chips: Sequence[Measured]) -> NDArray[Any]:
    """Distance of neighbouring chips of a scene, as a share of a chip's width and height; 1 unless chips overlap."""
    shares = []
    for axis, side in ((2, "width"), (1, "height")):
        starts: dict[str, set[int]] = {}
        for chip in chips:
            starts.setdefault(chip.pair.place[0], set()).add(chip.pair.place[axis])
        gaps = [gap for values in starts.values() for gap in np.diff(sorted(values))]
        shares.append(min([1.0, *(gap / getattr(chips[0].grid, side) for gap in gaps)]))
    return np.array(shares)


def assign(
    chips: Sequence[Measured], grounds: Sequence[Ground], groups: Sequence[str], settings: SplitArgs
) -> list[str]:
    """train, val or left out for each chip.

    Args:
        chips: Chips with valid pixels.
        grounds: Where each lies.
        groups: What each belongs to; a group is never divided.
        settings: Share, seed and kind of group.

    Raises:
        SettingsError: There are fewer than two groups, or one side would be empty or without roof.
    """
    names, index = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        kind = {"block": "block", "random": "chip", "scene": "scene"}[settings.by]
        advice = {
            "block": "Use --by random, a smaller --block-size, or smaller chips.",
            "random": "Cut smaller chips, or add imagery.",
            "scene": "Use --by block.",
        }[settings.by]
        found = f"only 1 {kind} ({len(chips):,} chips)"
        raise SettingsError("split_args.by", found, f"2 or more {kind}s to choose from", advice)
    valid, roof = (
        np.bincount(index, [getattr(chip, name) for chip in chips]).astype(int) for name in ("valid", "roof")
    )
    is_val = choose(valid, roof, settings.val_fraction, settings.seed)[index]
    train = np.flatnonzero(~is_val)
    shared = sharing_ground([grounds[i] for i in train], [grounds[i] for i in np.flatnonzero(is_val)])
    sides = np.where(is_val, VAL, TRAIN).astype(object)
    sides[train[shared]] = LEFT_OUT
    check_sides(chips, sides)
    return sides.tolist()


def check_sides(chips: Sequence[Measured], sides: Sequence[str]) -> None:
    """Raise SettingsError where a side is empty, or has no roof pixel."""
    for side, name in ((TRAIN, "training"), (VAL, "validation")):
        members = [chip for chip, other in zip(chips, sides) if other == side]
        left_out = sum(other == LEFT_OUT for other in sides)
        if not members:
            found = f"no {name} chip is left: {left_out:,} share ground with validation chips"
            advice = "Use --by block, or cut chips with --overlap 0."
            raise SettingsError("split_args.by", found, "chips on both sides", advice)
        if not any(chip.roof for chip in members):
            found = f"no roof pixel in the {len(members):,} {name} chips"
            advice = "Use another --seed, --by random, a smaller --block-size, or a larger --val-fraction."
            raise SettingsError("split_args.by", found, "roofs on both sides", advice)


def split_chips(frames: Path, masks: Path, layout: Layout, *, settings: SplitArgs, run: Run) -> SplitReport:
    """Choose the sides and copy every frame and mask to its own.

    Raises:
        MissingInputError, BadInputError, MismatchError: Frames or masks are absent, broken, or do not belong together.
        SettingsError: No split with roofs on both sides comes out.
        OutputError: A file of somebody else lies where frames are to be.
    """
    files = raster_files(frames, run.settings.extension_args.extension), mask_files(masks)
    check_apart([*files[0], *files[1]], *(layout.folder / name for name in layout.names.values()))
    pairs = pair_up(*files)
    report = finished(pairs, layout, settings, run)
    if report:
        return report
    with closing(map_items(measure, pairs, workers=workers_for(pairs, run))) as done:
        chips = list(progress(done, len(pairs), "split: measure", quiet=run.quiet))
    if not any(chip.roof for chip in chips):
        found = f"no roof pixel in {len(chips):,} masks"
        raise BadInputError(masks, found, "roofs to learn from", "See the report of mask: labels, CRS, --where.")
    grounds = grounds_of(chips)
    blocks = blocks_of(chips, grounds, settings.block_size)
    measured = [i for i, chip in enumerate(chips) if chip.valid]
    groups = {"block": blocks, "random": [c.pair.frame.stem for c in chips], "scene": [c.pair.place[0] for c in chips]}
    chosen = assign(*([column[i] for i in measured] for column in (chips, grounds, groups[settings.by])), settings)
    side_of = dict(zip(measured, chosen))
    sides = [side_of.get(i, LEFT_OUT) for i in range(len(chips))]
    digests = [(fingerprint(*frame), fingerprint(*mask)) for frame, mask in (chip.digests for chip in chips)]
    facts = facts_of(chips, sides)
    made, kept = write_split(chips, sides, blocks, layout, key_of_all(pairs, digests, layout, settings), facts, run)
    return SplitReport(str(layout.folder), **facts, files_made=made, files_kept=kept)


def finished(pairs: Sequence[Pair], layout: Layout, settings: SplitArgs, run: Run) -> SplitReport | None:
    """The report of an earlier run that made all this, if nothing has changed since: only hashes are compared."""
    if not layout.folder.is_dir():
        return None
    with Outputs(layout.folder, "split", overwrite=run.overwrite, keep_edits=run.keep_edits) as outputs:
        if not outputs.may_be_whole:
            return None
        digests = [(closed_digest(pair.frame), closed_digest(pair.mask)) for pair in pairs]
        key = key_of_all(pairs, digests, layout, settings)
        facts = outputs.whole(key)
        if facts is None:
            return None
        refuse_strangers(outputs, set(outputs.names()), layout)
        outputs.finish(key, facts)
        return SplitReport(str(layout.folder), **facts, files_made=0, files_kept=len(outputs.names()))


def key_of_all(pairs: Sequence[Pair], digests: Sequence[tuple[str, str]], layout: Layout, settings: SplitArgs) -> str:
    """What a whole split is made from; `digests` are as `closed_digest` gives them of each frame and mask."""
    made_from = [(pair.frame.name, pair.mask.name, *two) for pair, two in zip(pairs, digests)]
    return fingerprint("split", layout.names, settings, made_from)


def workers_for(items: Sequence[Any], run: Run) -> int | None:
    """One for a few items, else what the run says."""
    return run.workers if len(items) >= POOL_FROM else 1


def numbered(sides: Sequence[str]) -> list[str]:
    """The name of each chip as a frame, counted from 0 on each side; empty for those left out."""
    counts = {TRAIN: 0, VAL: 0}
    names = []
    for side in sides:
        names.append(f"{side}_{counts[side]}" if side in counts else "")
        if side in counts:
            counts[side] += 1
    return names


def write_split(
    chips: Sequence[Measured],
    sides: Sequence[str],
    blocks: Sequence[str],
    layout: Layout,
    key: str,
    facts: dict[str, Any],
    run: Run,
) -> tuple[int, int]:
    """Write the frames, the masks and, last, split.csv; how many files were made and kept.

    `key` and `facts` are of all of them together.
    """
    frame_names = numbered(sides)
    table = csv_text(chips, sides, blocks, frame_names)
    chosen = [row for row in zip(chips, sides, frame_names) if row[2]]
    copies = [copy for chip, side, name in chosen for copy in copies_of(chip, side, name, layout)]
    with Outputs(layout.folder, "split", overwrite=run.overwrite, keep_edits=run.keep_edits) as outputs:
        keys = {copy.name: fingerprint("split", copy.sha256) for copy in copies}
        keys[layout.names["split"]] = fingerprint("split", table)
        refuse_strangers(outputs, set(keys), layout)
        todo = set(outputs.plan(keys))
        waiting = [copy for copy in copies if copy.name in todo]
        with closing(map_items(copy_file, waiting, workers=workers_for(waiting, run))) as done:
            for name in progress(done, len(waiting), "split: copy", quiet=run.quiet):
                outputs.record(name, keys[name])
        if layout.names["split"] in todo:
            with committed(layout.folder / layout.names["split"]) as part:
                part.write_text(table, encoding="utf-8")
            outputs.record(layout.names["split"], keys[layout.names["split"]])
        outputs.finish(key, facts)
    return len(todo), len(keys) - len(todo)


def copies_of(chip: Measured, side: str, name: str, layout: Layout) -> list[Copy]:
    """The two files that a chosen chip becomes."""
    found = []
    for kind, source, digests in zip(("frames", "masks"), (chip.pair.frame, chip.pair.mask), chip.digests):
        target = f"{layout.names[f'{side}_{kind}']}/{name}{source.suffix.lower()}"
        found.append(Copy(source, layout.folder / target, target, digests[0]))
    return found


def copy_file(task: Copy) -> str:
    """Copy a file byte for byte; its new name.

    Raises:
        OutputError: The copy holds other bytes.
    """
    with committed(task.target) as part:
        shutil.copyfile(task.source, part)
        if digest(part) != task.sha256:
            advice = "Free space, and let nothing change the chips meanwhile; then run again."
            raise OutputError(task.target, f"other bytes than {task.source} had", "a copy of it", advice)
    return task.name


def refuse_strangers(outputs: Outputs, names: set[str], layout: Layout) -> None:
    """Raise OutputError where a folder of frames holds a file that is none of ours: it would train or validate."""
    for key in ("train_frames", "train_masks", "val_frames", "val_masks"):
        folder = layout.folder / layout.names[key]
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            name = f"{layout.names[key]}/{path.name}"
            if name not in names and not outputs.owns(name) and not path.name.startswith("."):
                raise OutputError(path, "a file that split did not write", "only its own frames there", "Move it away.")


def csv_text(chips: Sequence[Measured], sides: Sequence[str], blocks: Sequence[str], names: Sequence[str]) -> str:
    """The rows of split.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for chip, side, block, name in zip(chips, sides, blocks, names):
        roof, valid = chip.roof / max(chip.valid, 1), chip.valid / chip.pixels
        writer.writerow([name, side, chip.pair.frame.stem, *chip.pair.place, block, f"{roof:.6f}", f"{valid:.6f}"])
    return text.getvalue()


def facts_of(chips: Sequence[Measured], sides: Sequence[str]) -> dict[str, Any]:
    """What the report says of the chips and their sides."""
    sums = {
        side: np.array([(1, c.pixels, c.valid, c.roof) for c, other in zip(chips, sides) if other == side]).sum(axis=0)
        for side in (TRAIN, VAL)
    }
    empty = sum(chip.valid == 0 for chip in chips)
    (train, val) = ([int(value) for value in sums[side]] for side in (TRAIN, VAL))
    return dict(
        train_frames=train[0],
        val_frames=val[0],
        left_out=sum(side == LEFT_OUT for side in sides) - empty,
        without_valid_pixel=empty,
        val_share=val[2] / (train[2] + val[2]),
        train_roof_fraction=train[3] / train[2],
        val_roof_fraction=val[3] / val[2],
        train_valid_fraction=train[2] / train[1],
        val_valid_fraction=val[2] / val[1],
    )


def layout_of(dst: Path | None, paths: Paths) -> Layout:
    """Where the split goes: the folders that settings name, or folders of the same names in `dst`.

    Raises:
        SettingsError: Two of the four folders are one.
    """
    keys = ("train_frames", "train_masks", "val_frames", "val_masks", "split")
    inside = {key: getattr(paths, key).relative_to(paths.data).as_posix() for key in keys}
    last = {key: getattr(paths, key).name for key in keys}
    names = inside if dst is None or len(set(last.values())) < len(keys) else last
    if len(set(names.values())) < len(keys):
        found = f"train_frames, train_masks, val_frames and val_masks are {', '.join(list(names.values())[:4])}"
        raise SettingsError("path_args", found, "four different folders", "Rename one.")
    return Layout(dst or paths.data, names)


def split(options: argparse.Namespace, run: Run) -> SplitReport:
    """The stage, with what the command line says."""
    given = {name: getattr(options, name) for name in ("val_fraction", "by", "block_size", "seed")}
    settings = run.block("split_args", given)
    frames, masks = options.frames or run.paths.chips, options.masks or run.paths.masks
    return split_chips(frames, masks, layout_of(options.dst, run.paths), settings=settings, run=run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, split)


if __name__ == "__main__":
    leave(main())
