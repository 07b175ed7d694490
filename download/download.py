"""Fetch imagery and roof polygons of an area.

Writes data/scenes/*.tif and data/labels/roofs.gpkg.

--source sample       a SYNTHETIC town, made up and drawn by this program; needs no network (the default)
         earthengine  any collection or image of Google Earth Engine
         stac         a STAC catalogue: cloud-optimized GeoTIFFs, only their part inside the area
         cog          GeoTIFFs by address or file name, only their part inside the area
         xyz          a tile service with {z}, {x} and {y} in its address, which you have the right to use
         spacenet     a SpaceNet city, images and footprints; from its bucket, or a folder or tar of yours
--labels osm          buildings of OpenStreetMap with all their tags
         open-buildings  Google's Open Buildings, through Earth Engine
         file         a vector file or its address
A run that was stopped goes on where it was: only what is missing is fetched. --dry-run says what would be.
Imagery of your own in data/scenes is left as it is; source sample adds nothing to it.
"""

import argparse
import sys

from roofkit.options import answer, stage_parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def parser() -> argparse.ArgumentParser:
    """The command line; each option of the stage's own is a key of `download_args`, in place of the file's value."""
    made = stage_parser(__doc__)
    add = made.add_argument
    add("--source", metavar="NAME", help="one of the above")
    add("--labels", metavar="NAME", help="one of the above")
    add("--bbox", nargs=4, type=float, metavar=("W", "S", "E", "N"), help="the area, in degrees")
    add("--aoi", metavar="FILE", help="the area: a vector file with its polygons")
    add("--address", nargs="+", metavar="ADDRESS", help="of the service (stac, cog, xyz, spacenet)")
    add("--preset", metavar="NAME", help="a known collection or service; an unknown name lists them")
    add("--collection", metavar="ID", help="which collection (earthengine, stac) or city (spacenet)")
    add("--image", metavar="ID", help="one image instead (earthengine)")
    add("--start", metavar="DATE", help="first day, YYYY-MM-DD")
    add("--end", metavar="DATE", help="the day after the last one")
    add("--cloud", type=float, metavar="PERCENT", help="of cloud at most")
    add("--composite", metavar="HOW", help="median, mosaic or first: one image of many")
    add("--bands", type=_names, metavar="B,B", help="names of bands, in order")
    add("--assets", type=_names, metavar="A,A", help="of an item, in the order of bands (stac); the product (spacenet)")
    add("--items", type=int, metavar="N", help="images at most (stac, spacenet)")
    add("--scale", type=float, metavar="METRES", help="of ground a pixel")
    add("--crs", metavar="CRS", help="of the scenes, as EPSG:32644")
    add("--zoom", type=int, metavar="Z", help="of tiles (xyz)")
    add("--project", metavar="ID", help="Google Cloud project (earthengine, open-buildings)")
    add("--ee-url", metavar="URL", help="another Earth Engine endpoint")
    add("--overpass-url", metavar="URL", help="another Overpass endpoint (labels osm)")
    add("--labels-file", metavar="FILE", help="a vector file or its address (labels file)")
    add("--parallel", type=int, metavar="N", help="requests at once at most")
    add("--seed", type=int, metavar="N", help="which town (source sample)")
    return made


if __name__ == "__main__":
    answer(parser())

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from roofkit.artifacts import Outputs, fingerprint
from roofkit.cli import Run, console, leave, run_stage, say
from roofkit.errors import BadInputError, MissingInputError, OutputError
from roofkit.ledger import input_digests
from roofkit.paths import Paths, check_input
from roofkit.raster import create_raster, open_raster
from roofkit.rehearsal import Rehearsed
from roofkit.settings import DownloadArgs, RasterArgs
from roofkit.vectors import write_features

if TYPE_CHECKING:
    import geopandas as gpd

    from roofkit.web import Web
    from sources.area import Area
    from sources.scenes import Scene, Source
    from sources.tiles import TileStore

TILES = ".download"  # the folder inside the data folder where tiles wait for their scene
COARSE = 9.5  # metres a pixel from which on roofs cannot be told: 10, and what a map projection makes of it


@dataclass(frozen=True)
class DownloadReport:
    """What download did, or would do."""

    wrote: str
    source: str
    labels_from: str
    scenes: int
    tiles: int
    pixels: int
    raw_bytes: int
    metres_a_pixel: float
    fetched_bytes: int
    missing_tiles: int
    roofs: int
    made: int
    kept: int
    dry_run: bool


@dataclass(frozen=True)
class LabelPlan:
    """Roof polygons to be fetched: what decides them, and how."""

    source: str
    key: str
    fetch: "Callable[[], gpd.GeoDataFrame]"


def scene_keys(scenes: "Sequence[Scene]", source: "Source", rasters: RasterArgs) -> dict[str, str]:
    """For each scene, by its name: a hash of all that decides its bytes."""
    area = source.area.shape.wkt if source.clips and source.area and not source.area.is_box else None
    return {
        scene.name: fingerprint(
            "download", source.name, scene.request, scene.bands, scene.dtype, scene.nodata, scene.rgb, area, rasters,
            [str(scene.grid.crs), list(scene.grid.transform)[:6], scene.grid.height, scene.grid.width],
        )
        for scene in scenes
    }  # fmt: skip


def write_scene(
    path: Path, scene: "Scene", read: Callable[[Any], Any], area: "Area | None", rasters: RasterArgs
) -> float:
    """Put a scene together from its tiles, which `read` gives; the share of its pixels that are valid."""
    options: dict[str, Any] = {"bands": len(scene.bands), "dtype": scene.dtype, "nodata": scene.nodata}
    options |= {"names": scene.bands, "rgb": scene.rgb, "settings": rasters}
    valid_pixels = 0
    with create_raster(path, scene.grid, **options) as dst:
        for window in scene.tiles():
            pixels, valid = read(window)
            if area is not None:
                valid = valid & area.inside(scene.grid.window(window))
            pixels = np.where(valid, pixels, pixels.dtype.type(scene.nodata or 0))
            dst.write(pixels, None if scene.nodata is not None else valid, window)
            valid_pixels += int(valid.sum())
    return valid_pixels / (scene.grid.height * scene.grid.width)


def grouped(names: Sequence[str], scenes: "Mapping[str, Scene]", *, tiles: int) -> Iterator[list[str]]:
    """Scenes to be fetched together: as few as have that many tiles, so that no request waits for a scene's end."""
    group: list[str] = []
    count = 0
    for name in names:
        group.append(name)
        count += len(scenes[name].tiles())
        if count >= tiles:
            yield group
            group, count = [], 0
    if group:
        yield group


def warn_of_pixel_size(metres: float) -> None:
    """Say so where no roof can be told at that pixel size."""
    if metres >= COARSE:
        say(
            f"warning: a pixel is {metres:.3g} m wide, and roofs are 5 to 14 m: a quarter of them vanish in the mask, "
            "and the rest are blots. Metal roofs need 1 m or finer."
        )


@dataclass
class Download:
    """One run: the source, where things go, what is wanted."""

    source: "Source"
    paths: Paths
    settings: DownloadArgs
    rasters: RasterArgs
    labels: LabelPlan | None
    overwrite: bool
    quiet: bool
    keep_edits: bool = False

    def report(self, scenes: "Sequence[Scene]", todo: Sequence[str], roofs: int, *, dry_run: bool) -> DownloadReport:
        """The report of what is made and kept."""
        from sources.area import gsd

        planned = len(scenes) + (self.labels is not None)
        return DownloadReport(
            wrote=str(self.paths.data),
            source=("sample (synthetic)" if scenes else "your own")
            if self.source.name == "sample"
            else self.source.name,
            labels_from=self.labels.source if self.labels else "none",
            scenes=len(scenes),
            tiles=sum(len(scene.tiles()) for scene in scenes),
            pixels=sum(scene.grid.height * scene.grid.width for scene in scenes),
            raw_bytes=sum(scene.grid.height * scene.grid.width * scene.pixel_bytes for scene in scenes),
            metres_a_pixel=round(max((gsd(scene.grid) for scene in scenes), default=0.0), 4),
            fetched_bytes=self.source.web.bytes,
            missing_tiles=self.source.missing,
            roofs=roofs,
            made=0 if dry_run else len(todo),
            kept=0 if dry_run else planned - len(todo),
            dry_run=dry_run,
        )

    def run(self, scenes: "Sequence[Scene] | None") -> DownloadReport:
        """Fetch what is missing and write it; scenes None: imagery is the user's own, and left alone.

        Raises:
            RoofError: The source fails, or a file is in the way.
        """
        todo: list[str] = []
        with contextlib.suppress(Rehearsed):  # a dry run has more to say
            todo = self._make_scenes(scenes) if scenes is not None else []
        made, roofs = self._make_labels()
        return self.report(scenes or [], [*todo, *made], roofs, dry_run=False)

    def _make_scenes(self, scenes: "Sequence[Scene]") -> list[str]:
        """Write the scenes that are missing; their names."""
        from sources.tiles import fetch_tiles

        keys = scene_keys(scenes, self.source, self.rasters)
        by_name = {_inside(self.paths.data, self.paths.scenes / scene.name): scene for scene in scenes}
        wanted = {name: keys[scene.name] for name, scene in by_name.items()}
        with Outputs(self.paths.data, "download", overwrite=self.overwrite, keep_edits=self.keep_edits) as outputs:
            self._protect(outputs, wanted)
            todo = outputs.plan(wanted)
            with self._progress([by_name[name] for name in todo]) as advance:
                parallel = 1 if self.source.in_order else self.settings.parallel
                for group in grouped(todo, by_name, tiles=2 * parallel):
                    stores = {name: self._store(by_name[name], wanted[name]) for name in group}
                    fetch_tiles(self.source, list(stores.values()), parallel=parallel, done=advance)
                    for name, store in stores.items():
                        share = self._make_scene(store)
                        outputs.record(name, wanted[name], source=self.source.name, valid_share=share)
            outputs.finish()
            shutil.rmtree(self.paths.data / TILES, ignore_errors=True)
            self._warn_of_blank(outputs, by_name)
        return todo

    def _make_labels(self) -> tuple[list[str], int]:
        """Write the labels if they are missing; their name, and how many roofs there are."""
        name = _inside(self.paths.data, self.paths.labels)
        with Outputs(
            self.paths.data, "download", name="labels", overwrite=self.overwrite, keep_edits=self.keep_edits
        ) as outputs:
            if self.labels is None:
                if outputs.has(name) and outputs.facts(name).get("source") == "sample" != self.source.name:
                    outputs.plan({})  # roofs of the made-up town would not fit this imagery
                return [], 0
            todo = outputs.plan({name: self.labels.key})
            if todo:
                roofs = self.labels.fetch()
                write_features(self.paths.labels, roofs)
                outputs.record(name, self.labels.key, source=self.labels.source, roofs=len(roofs))
            outputs.finish()
            return todo, int(outputs.facts(name)["roofs"])

    def _protect(self, outputs: Outputs, wanted: dict[str, str]) -> None:
        """Raise where the imagery of another download would be lost.

        Raises:
            OutputError: It would.
        """
        for name in [] if self.overwrite else outputs.names():
            facts = outputs.facts(name)
            lost = name not in wanted or facts["key"] != wanted[name]
            worth = facts.get("source", "sample") != "sample" and facts.get("valid_share") != 0.0
            if lost and worth and (self.paths.data / name).exists():
                raise OutputError(
                    self.paths.data / name, f"fetched from {facts['source']} with other settings", "no such file",
                    "Use another --data folder to keep it, or --overwrite to replace it.",
                )  # fmt: skip

    def _store(self, scene: "Scene", key: str) -> "TileStore":
        from sources.tiles import TileStore

        return TileStore(self.paths.data / TILES / fingerprint(scene.name, key)[:24], scene)

    def _make_scene(self, store: "TileStore") -> float:
        """Write a scene whose tiles are there; the share of its pixels that are valid."""
        area = self.source.area if self.source.clips else None
        share = write_scene(self.paths.scenes / store.scene.name, store.scene, store.read, area, self.rasters)
        store.clear()
        return share

    def _warn_of_blank(self, outputs: Outputs, scenes: dict[str, Any]) -> None:
        """Say which scenes hold no valid pixel.

        Raises:
            BadInputError: None does.
        """
        blank = [name for name in scenes if outputs.facts(name)["valid_share"] == 0.0]
        if scenes and len(blank) == len(scenes):
            found = f"not one valid pixel in {len(blank)} scenes"
            advice = "Check area, dates and cloud limit."
            raise BadInputError(self.paths.scenes, found, "imagery of the area", advice)
        if blank:
            say(f"warning: {len(blank)} of {len(scenes)} scenes hold no valid pixel ({Path(blank[0]).name}, …)")

    @contextlib.contextmanager
    def _progress(self, scenes: "Sequence[Scene]") -> Iterator[Callable[..., None]]:
        """A function to call for each tile that is there; on a terminal it moves a bar of bytes, rate and time left."""
        if self.quiet or not sys.stderr.isatty() or not scenes:
            yield lambda scene, window: None
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn()
        total = sum(s.grid.height * s.grid.width * s.pixel_bytes for s in scenes)
        with Progress(*columns, console=console(stderr=True), transient=True) as bar:
            task = bar.add_task(self.source.name, total=total)
            yield lambda scene, window: bar.advance(task, window.height * window.width * scene.pixel_bytes)


def _inside(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def own_files(paths: Paths) -> list[Path]:
    """Rasters in the scenes folder that the source `sample` does not make."""
    found = paths.scenes.iterdir() if paths.scenes.is_dir() else []
    rasters = (p for p in found if p.suffix.lower() in (".tif", ".tiff") and not p.name.startswith("."))
    return sorted(p for p in rasters if not p.name.startswith("synthetic_town_"))


def study_area(settings: DownloadArgs, folder: Path) -> "Area | None":
    """The area that settings name; a relative file name is in `folder`.

    Raises:
        RoofError: It is no area.
    """
    from sources.area import area_of_box, area_of_file

    if settings.aoi is not None:
        return area_of_file(folder / settings.aoi)
    return area_of_box(settings.bbox) if settings.bbox is not None else None


def area_of_rasters(paths: Sequence[Path]) -> "Area":
    """The area that rasters cover: the box around all of them.

    Raises:
        BadInputError: One has no CRS.
    """
    from rasterio.warp import transform_bounds

    from sources.area import LONLAT, area_of_box

    boxes = []
    for path in paths:
        with open_raster(path) as src:
            if src.crs is None:
                raise BadInputError(path, "no CRS", "imagery that lies somewhere", "Give the area with --bbox.")
            boxes.append(transform_bounds(src.crs, LONLAT, *src.bounds, densify_pts=21))
    west, south, east, north = zip(*boxes)
    return area_of_box((min(west), min(south), max(east), max(north)))


def label_plan(source: "Source", settings: DownloadArgs) -> LabelPlan | None:
    """The roof polygons that settings ask for, or that come with the imagery; None: neither."""
    from sources.table import label_source

    if settings.labels is None:
        request = source.labels_request()
        if request is None:
            return None
        return LabelPlan(source.name, fingerprint("labels", source.name, request), lambda: _some(source.labels()))
    area = source.needed_area()
    key = fingerprint("labels", settings.labels, area.shape.wkt, decisive_for(settings, source.folder))
    fetch = label_source(settings.labels)
    return LabelPlan(settings.labels, key, lambda: fetch(settings, area, source.web, source.folder))


def decisive_for(settings: DownloadArgs, folder: Path) -> list[Any]:
    """What decides labels beside the area: where they come from, and the bytes of a file of the user's.

    Raises:
        MissingInputError: There is no such file.
    """
    if settings.labels == "osm":
        return [settings.overpass_url]
    if settings.labels == "open-buildings":
        return [settings.confidence]
    name = settings.labels_file or ""
    path = folder / name
    if name and "://" not in name and not path.exists():
        raise MissingInputError(path, "no such file", "a vector file", "Check download_args.labels_file.")
    parts = path.parent.glob(f"{path.stem}.*") if path.suffix.lower() == ".shp" else [path]
    return [name, *input_digests(sorted(part for part in parts if part.is_file()))] if "://" not in name else [name]


def _some(roofs: "gpd.GeoDataFrame | None") -> "gpd.GeoDataFrame":
    if roofs is None or not len(roofs):
        raise MissingInputError("labels", "no polygon", "some roofs", "Check area and source.")
    return roofs


def new_web(settings: DownloadArgs) -> "Web":
    """A session with the limits and addresses of the settings."""
    from roofkit.web import Web

    web = Web(
        retries=settings.retries, timeout=settings.timeout, deadline=settings.deadline, parallel=settings.parallel
    )
    web.give(settings.ee_url, settings.overpass_url)
    return web


def check_files(settings: DownloadArgs, given: dict[str, Any], run: Run) -> None:
    """Raise SettingsError where the settings file, not the command line, names a file outside of the project."""
    folder = run.settings_path.resolve().parent
    names = {"aoi": [settings.aoi], "labels_file": [settings.labels_file], "address": settings.address}
    for key, values in names.items():
        for name in () if given[key] else filter(None, values):
            if "://" not in name:
                check_input(f"download_args.{key}", str(folder / name), (folder, run.paths.data, run.paths.results))


def download(options: argparse.Namespace, run: Run) -> DownloadReport:
    """The stage, with what the command line says."""
    given = {name: getattr(options, name) for name in OPTIONS}
    for name in ("aoi", "labels_file"):
        given[name] = _absolute(given[name]) if given[name] else None
    given["address"] = [_absolute(text) for text in given["address"]] if given["address"] else None
    settings = run.block("download_args", given)
    check_files(settings, given, run)
    from sources.table import imagery_source

    own = own_files(run.paths) if settings.source == "sample" else []
    folder = run.settings_path.resolve().parent
    area = study_area(settings, folder) or (area_of_rasters(own) if own and settings.labels else None)
    source = imagery_source(settings.source)(settings, area, new_web(settings), folder)
    if own:
        say(f"{run.paths.scenes} holds imagery of your own ({own[0].name}, …): nothing is added to it.")
    scenes = None if own else source.plan()
    labels = None if own and not settings.labels else label_plan(source, settings)
    work = Download(
        source, run.paths, settings, run.settings.raster_args, labels, run.overwrite, run.quiet, run.keep_edits
    )
    if source.licence and scenes:
        say(source.licence)
    if source.name != "sample" and scenes:
        from sources.area import gsd

        warn_of_pixel_size(max(gsd(scene.grid) for scene in scenes))
    if run.dry_run:
        with contextlib.suppress(Rehearsed):
            work.run(scenes)
        return work.report(scenes or [], [], 0, dry_run=True)
    return work.run(scenes)


OPTIONS = (
    "source", "labels", "seed", "bbox", "aoi", "start", "end", "collection", "image", "preset", "bands", "scale", "crs",
    "cloud", "composite", "address", "assets", "items", "zoom", "project", "ee_url", "overpass_url", "labels_file",
    "parallel",
)  # fmt: skip


def _absolute(text: str) -> str:
    """A file name from the command line, made absolute; an address as it is."""
    return text if "://" in text else str(Path(text).absolute())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line; its exit status."""
    return run_stage(parser(), argv, download)


if __name__ == "__main__":
    leave(main())
