"""The source `cog`: GeoTIFFs by address or file name, only their part inside the area.

By default a scene has the raster's own grid and its very pixels; with another CRS or pixel size it is warped.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from rasterio._err import CPLE_BaseError  # what some properties of a broken file raise
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from roofkit.cli import say
from roofkit.errors import BadInputError, MissingInputError, SettingsError, reason
from roofkit.ledger import input_digest, input_digests
from roofkit.range_file import RemoteBytes, open_bytes
from roofkit.raster import (
    DRIVERS,
    DTYPES,
    Grid,
    Pixels,
    Valid,
    band_names,
    check_memory,
    check_plan,
    data_bands,
    dataset_valid,
    finite,
    gdal_env,
    grid_of,
    is_rgb,
    open_any_raster,
    own_names,
)  # fmt: skip
from roofkit.settings import DownloadArgs
from roofkit.web import VARIABLE, Web, expanded
from sources.area import LONLAT, Area, gsd, moved, named_crs
from sources.scenes import Scene, Source, cast, parts

WIDER = {"int8": "int16", "float64": "float32", "float16": "float32"}  # dtypes that fit into another without asking
FARTHEST = 1e12  # units of a CRS from its origin: no place on the globe
MOST_PIXELS = 10**11  # of one raster: more is a slip of scale, or a file that lies
SIDE = 1024


class Cogs(Source):
    """The rasters that `download_args.address` names."""

    name = "cog"

    def plan(self) -> list[Scene]:
        """The part of each raster that is inside the area."""
        addresses = self.settings.address
        if not addresses:
            advice = "Give --address ADDRESS…"
            raise SettingsError("download_args.address", "null", "addresses or names of GeoTIFFs", advice)
        rasters = [raster_at(address, self.web, self.folder) for address in addresses]
        return scenes_of(rasters, self.settings, self.area)

    def fetch(self, scene: Scene, window: Window) -> tuple[Pixels, Valid]:
        """A window of a raster."""
        return read_scene(scene, window, self.settings)


@dataclass(frozen=True)
class Raster:
    """A GeoTIFF on this machine or on a server."""

    path: Path | None
    data: RemoteBytes | None
    where: str
    """Its name in errors; no credential is in it."""
    stem: str
    """What its scenes are named after."""
    version: str
    """What changes when the file does."""
    names: tuple[str, ...] = ()
    """Of its bands, as a catalogue says; empty: the file's own."""

    @contextlib.contextmanager
    def open(self) -> Iterator[DatasetReader]:
        """The open raster.

        Raises:
            BadInputError: It is none, is broken (also where it is read while open), or in huge blocks.
            WebError: Its server fails.
        """
        problems: list[BaseException] = []
        with contextlib.ExitStack() as stack:
            try:
                src = stack.enter_context(self._dataset(problems))
                yield src
            except (RasterioError, CPLE_BaseError) as error:
                if not problems:
                    found = f"not readable ({reason(error)})"
                    raise BadInputError(self.where, found, "a whole GeoTIFF", "Check it.") from None
            if problems:  # of which GDAL only knows that bytes are missing
                raise problems[0]

    @contextlib.contextmanager
    def _dataset(self, problems: list[BaseException]) -> Iterator[DatasetReader]:
        if self.data is None:
            with open_any_raster(self.path or Path()) as src:
                yield src
            return
        with gdal_env(), open_bytes(self.data, problems) as src:
            check_plan(src, self.where, self.data.read)
            yield src


def raster_at(address: str, web: Web, folder: Path, *, given: bool = True, stem: str | None = None) -> Raster:
    """The raster of an address, or of a file name relative to `folder`.

    Args:
        address: http(s), or a file name.
        web: How to reach it.
        folder: Of relative names.
        given: The user named it: its host is allowed.
        stem: What its scenes are named after; None: its own name.

    Raises:
        RoofError: There is nothing, or it cannot be read.
    """
    full = expanded(address, web)
    name = plain_name(stem or Path(re.sub(r"[?#].*", "", web.safe(full))).stem)
    if "://" in full:
        if given:
            web.give(full)
        data = RemoteBytes(web, full)
        where = re.sub(r"\?.*", "", VARIABLE.sub("", address))
        return Raster(None, data, data.where, name, f"{web.safe(where)} {data.size} {data.version}")
    path = folder / full
    if not path.is_file():
        raise MissingInputError(path, "no such file", "a raster", "Check download_args.address.")
    if path.suffix.lower().lstrip(".") not in DRIVERS:
        raise BadInputError(path, f"a {path.suffix or 'nameless'} file", "a .tif", "Convert it to GeoTIFF.")
    return Raster(path, None, str(path), name, input_digest(path))


def plain_name(text: str) -> str:
    """A file name of letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "scene"


def scenes_of(rasters: Sequence[Raster], settings: DownloadArgs, area: Area | None) -> list[Scene]:
    """The scenes that rasters become; one with nothing inside the area is named and left out.

    Raises:
        MissingInputError: None has anything inside the area.
        BadInputError, SettingsError: A raster cannot be used so.
    """
    scenes: list[Scene] = []
    taken: set[str] = set()
    left_out = []
    for raster in rasters:
        stem = distinct(raster.stem, taken)
        found = _scenes(raster, stem, settings, area)
        if not found:
            left_out.append(raster)
        scenes += found
    for raster in left_out if scenes else ():
        say(f"{raster.where}: nothing of it is inside the area; left out")
    if not scenes:
        found_text = f"{len(rasters)} rasters, none with a pixel inside the area (the first: {_extent(rasters[0])})"
        raise MissingInputError(rasters[0].where, found_text, "imagery of the area", "Check area and addresses.")
    return scenes


def distinct(stem: str, taken: set[str]) -> str:
    """The name, with a number where it is taken (in any case of letters: some disks know no difference)."""
    found, number = stem, 2
    while found.lower() in taken:
        found, number = f"{stem}_{number}", number + 1
    taken.add(found.lower())
    return found


def _extent(raster: Raster) -> str:
    with raster.open() as src:
        if src.crs is None:
            return "no CRS"
        return ", ".join(f"{side:.4f}" for side in rasterio.warp.transform_bounds(src.crs, LONLAT, *src.bounds))


def _scenes(raster: Raster, stem: str, settings: DownloadArgs, area: Area | None) -> list[Scene]:
    with raster.open() as src:
        if ColorInterp.palette in src.colorinterp:
            advice = "Expand it (gdal_translate -expand rgb)."
            raise BadInputError(raster.where, "colours by a palette", "bands of values", advice)
        all_names = names_of(src, raster.names)
        bands = chosen_bands(src, settings.bands, raster.where, all_names)
        dtype = scene_dtype(src, settings.dtype, raster.where)
        grid = target_grid(src, settings, area, raster.where)
        names = [all_names[data_bands(src).index(band)] for band in bands]
        rgb = is_rgb(src) and bands[:3] == data_bands(src)[:3]
        if grid is None:
            return []
        warped = not _on_grid(grid_of(src), grid)
        nodata = own_nodata(src, dtype)
        beside = [] if raster.path is None else input_digests(src.beside)
    request: dict[str, Any] = {"version": raster.version, "bands": bands}
    request |= {"beside": beside} if beside else {}  # files that say where it lies or what is valid
    request |= {"warped": settings.resampling} if warped else {}
    if grid.height * grid.width > MOST_PIXELS:
        found, expected = f"{grid.height:,} x {grid.width:,} pixels", f"at most {MOST_PIXELS:,}"
        raise BadInputError(raster.where, found, expected, "Give a smaller area, or a larger download_args.scale.")
    pieces = parts(grid, settings.scene_size, area)
    return [
        Scene(
            f"{stem}.tif" if len(pieces) == 1 else f"{stem}_r{row}_c{col}.tif", part, tuple(names), dtype, request,
            side=SIDE, nodata=nodata, rgb=rgb, detail=(raster, bands, warped),
        )
        for row, col, part in pieces
    ]  # fmt: skip


def stack_scenes(rasters: Sequence[Raster], stem: str, settings: DownloadArgs, area: Area | None) -> list[Scene]:
    """The scenes of rasters that are bands of one image; none where nothing is inside the area.

    One raster: as it is, its bands chosen by `settings.bands`. Several: the first band of each, named as the raster,
    on the grid of the finest; others are warped to it.
    """
    if len(rasters) == 1:
        return _scenes(rasters[0], stem, settings, area)
    if settings.bands is not None:
        expected, advice = "null where several rasters are the bands", "Choose them with download_args.assets."
        raise SettingsError("download_args.bands", ", ".join(settings.bands), expected, advice)
    single = settings
    found = [_scenes(raster, stem, single, area) for raster in rasters]
    if not all(found):
        return []
    finest = min(found, key=lambda scenes: gsd(scenes[0].grid))
    dtype = settings.dtype or str(np.result_type(*(scenes[0].dtype for scenes in found)))
    if dtype not in DTYPES:
        raise SettingsError("download_args.dtype", f"null, and bands mix to {dtype}", "one for all", "Set it.")
    return [
        replace(
            scene, bands=tuple(raster.stem for raster in rasters), dtype=dtype, nodata=None, rgb=False,
            request={"stack": [s[0].request for s in found], "resampling": settings.resampling},
            detail=[(s[0].detail[0], s[0].detail[1][:1]) for s in found],
        )
        for scene in finest
    ]  # fmt: skip


def read_stack(scene: Scene, window: Window, settings: DownloadArgs) -> tuple[Pixels, Valid]:
    """A window of what `stack_scenes` made; a pixel is valid where all bands are."""
    if isinstance(scene.detail, tuple):
        return read_scene(scene, window, settings)
    found = []
    for raster, bands in scene.detail:
        with raster.open() as src:
            warped = not _on_grid(grid_of(src), scene.grid)
        found.append(read_scene(replace(scene, detail=(raster, bands, warped)), window, settings))
    pixels, valid = zip(*found)
    return np.concatenate(pixels), np.logical_and.reduce(valid)


def names_of(src: DatasetReader, names: Sequence[str]) -> list[str]:
    """A name for each data band: the file's description, else the one of `names`, where there are as many."""
    told = len(names) == len(data_bands(src)) and own_names(src) is None
    return list(names) if told else band_names(src)


def chosen_bands(src: DatasetReader, wanted: Sequence[str] | None, where: str, names: Sequence[str]) -> list[int]:
    """Numbers (from 1) of the bands that are wanted by name or number; all data bands where none are.

    Raises:
        SettingsError: There is no such band.
    """
    numbers = data_bands(src)
    if wanted is None:
        return numbers
    found = []
    for name in wanted:
        if name in names:
            found.append(numbers[names.index(name)])
        elif name.isdigit() and 1 <= int(name) <= len(numbers):
            found.append(numbers[int(name) - 1])
        else:
            have = ", ".join(f"{i} {n}" for i, n in enumerate(names, 1))
            raise SettingsError("download_args.bands", repr(name), f"one of {have} ({where})", "Correct it.")
    return found


def scene_dtype(src: DatasetReader, wanted: str | None, where: str) -> str:
    """The dtype of the scene: the one that is wanted, or the raster's own.

    Raises:
        SettingsError: The raster's own is none of this program's.
    """
    own = str(np.result_type(*src.dtypes)) if "complex" not in "".join(src.dtypes) else src.dtypes[0]
    found = wanted or WIDER.get(own, own)
    if found not in DTYPES:
        advice = "Set download_args.dtype to one that holds its values."
        raise SettingsError("download_args.dtype", f"null, and {where} is {own}", f"one of {', '.join(DTYPES)}", advice)
    return found


def target_grid(src: DatasetReader, settings: DownloadArgs, area: Area | None, where: str) -> Grid | None:
    """The grid of the scene: the raster's own part of the area, or the one that CRS and scale describe.

    None: nothing of the raster is inside the area.

    Raises:
        BadInputError: The raster lies nowhere.
    """
    own = grid_of(src)
    if own.crs is None:
        if area is None and settings.crs is None and settings.scale is None:
            return own
        raise BadInputError(where, "no CRS", "a raster that lies somewhere", "Set its CRS (gdal_edit -a_srs).")
    check_place(own, where)
    crs = named_crs(settings.crs) if settings.crs else None
    if crs is None and settings.scale is None:
        window = Window(0, 0, own.width, own.height) if area is None else area.window(own)
        return None if window is None else own.window(window)
    whole = Area(outline_of(own, where))
    place = whole if area is None else area
    if not place.shape.intersects(whole.shape):
        return None
    clipped = Area(place.shape.intersection(whole.shape))
    crs = crs or (own.crs if is_true_to_scale(own) else place.utm)
    return clipped.grid(crs, pixel_size(own, crs, settings.scale, place))


def check_place(own: Grid, where: str) -> None:
    """Raise where a transform puts pixels nowhere, or so that neighbours fall together.

    Raises:
        BadInputError: It does.
    """
    sides, reach = own.transform[:2] + own.transform[3:5], np.abs(own.bounds).max()
    close = not np.isfinite(reach) or np.abs(sides).max() < 1e3 * np.spacing(reach)
    if close or reach > FARTHEST or not own.transform.determinant or not np.isfinite(sides).all():
        found = f"pixels of {own.transform.a:g} x {own.transform.e:g} at {own.transform.c:g}, {own.transform.f:g}"
        raise BadInputError(where, found, "a raster that lies somewhere", "Set its place (gdal_edit -a_ullr).")


def outline_of(own: Grid, where: str) -> Any:
    """The outline of a grid in degrees, its edges followed closely.

    Raises:
        BadInputError: It is not on the globe.
    """
    corners = [own.transform @ corner for corner in ((0, 0), (own.width, 0), (own.width, own.height), (0, own.height))]
    outline = shapely.Polygon(corners)
    found = moved(shapely.segmentize(outline, outline.length / 64), own.crs, LONLAT)
    longitudes = shapely.get_coordinates(found)[:, 0]
    if np.abs(np.diff(longitudes)).max() > 180 or np.abs(longitudes).max() > 180.001:
        advice = "Leave crs and scale null, or cut the raster in two there (gdal_translate)."
        raise BadInputError(where, "a raster across 180 degrees", "one on either side, to change its grid", advice)
    if not np.isfinite(found.bounds).all():
        raise BadInputError(where, f"bounds {own.bounds} in {own.crs}", "a place on the globe", "Check its CRS.")
    return found.buffer(0)


def is_true_to_scale(own: Grid) -> bool:
    """Whether a unit of a grid's CRS is its length on the ground, to 2 %; not so in degrees and Web Mercator."""
    if own.crs is None or own.crs.is_geographic:
        return False
    step = max(np.hypot(own.transform.a, own.transform.d), np.hypot(own.transform.b, own.transform.e))
    return bool(abs(gsd(own) / (step * own.crs.linear_units_factor[1]) - 1) < 0.02)


def pixel_size(own: Grid, crs: Any, scale: float | None, place: Area) -> tuple[float, float]:
    """Width and height of a pixel in units of `crs`: of `scale` metres, or about as large as the raster's own."""
    if scale is not None:
        size = scale / 111_319.49 if crs.is_geographic else scale / float(crs.linear_units_factor[1])
        return size, size
    if own.transform.b or own.transform.d:  # of a turned raster that would take the box around it
        return pixel_size(own, crs, gsd(own), place)
    found, _, _ = rasterio.warp.calculate_default_transform(own.crs, crs, own.width, own.height, *own.bounds)
    return abs(found.a), abs(found.e)


def _on_grid(own: Grid, grid: Grid) -> bool:
    """Whether a grid is a window of another."""
    if own.crs != grid.crs:
        return False
    col, row = ~own.transform @ (grid.transform.c, grid.transform.f)
    corner = round(col), round(row)
    if min(corner) < 0 or corner[0] + grid.width > own.width or corner[1] + grid.height > own.height:
        return False
    return own.window(Window(*corner, grid.width, grid.height)).matches(grid)


def own_nodata(src: DatasetReader, dtype: str) -> float | None:
    """The nodata value to keep: the raster's, where that alone says what is invalid and the dtype holds it."""
    if not is_nodata_alone(src) or np.isnan(src.nodata):
        return None
    fits = float(np.array(src.nodata).astype(dtype)) == float(src.nodata) if abs(src.nodata) < 1e30 else False
    return float(src.nodata) if fits else None


def read_scene(scene: Scene, window: Window, settings: DownloadArgs) -> tuple[Pixels, Valid]:
    """A window of a scene, out of the raster in its `detail`.

    Raises:
        BadInputError: The raster is broken there, or its values do not fit the dtype.
    """
    raster, bands, warped = scene.detail
    with raster.open() as src:
        grid = scene.grid.window(window)
        pixels, valid = _warped(src, bands, grid, settings) if warped else _plain(src, bands, grid)
        if scene.nodata is None and src.nodata is not None:  # the mask counts a pixel that any band has measured
            valid = valid & (pixels != src.nodata).all(axis=0)
    valid = finite(pixels, valid)
    return cast(np.where(valid, pixels, pixels.dtype.type(0)), valid, scene), valid


def _plain(src: DatasetReader, bands: list[int], grid: Grid) -> tuple[Pixels, Valid]:
    col, row = ~src.transform @ (grid.transform.c, grid.transform.f)
    window = Window(round(col), round(row), grid.width, grid.height)
    check_memory(src, window)
    return src.read(bands, window=window), dataset_valid(src, window)


def _warped(src: DatasetReader, bands: list[int], grid: Grid, settings: DownloadArgs) -> tuple[Pixels, Valid]:
    """A window of another grid; what is invalid is never mixed into its neighbours."""
    options: dict[str, Any] = dict(
        crs=grid.crs, transform=grid.transform, height=grid.height, width=grid.width,
        resampling=Resampling[settings.resampling],
    )  # fmt: skip
    if is_nodata_alone(src):
        # Each band by itself: by default GDAL interpolates nodata of a band where another band is valid.
        with WarpedVRT(src, UNIFIED_SRC_NODATA="NO", **options) as vrt:
            pixels = vrt.read(bands)
        measured = ~np.isnan(pixels) if np.isnan(src.nodata) else pixels != src.nodata
        return pixels, measured.any(axis=0)
    with WarpedVRT(src, add_alpha=ColorInterp.alpha not in src.colorinterp, **options) as vrt:
        return vrt.read(bands), vrt.read(vrt.colorinterp.index(ColorInterp.alpha) + 1) > 0


def is_nodata_alone(src: DatasetReader) -> bool:
    """Whether nodata, and no mask or alpha band, says what is invalid."""
    return src.nodata is not None and all(set(flags) == {MaskFlags.nodata} for flags in src.mask_flag_enums)
