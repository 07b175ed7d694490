"""Rasters in and out: which files, which pixels are valid, and outputs that are whole or absent.

Arrays are (bands, rows, cols). `valid` is (rows, cols) bool, True = measured, as GDAL's dataset mask (internal mask,
alpha band or nodata) defines it, and never where a band is NaN.
"""

import contextlib
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, overload

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what some properties of a broken file raise
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Interleaving, MaskFlags
from rasterio.errors import CRSError, NodataShadowWarning, NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import DatasetReader, DatasetWriter, MemoryFile
from rasterio.windows import Window

from roofkit.addresses import Address
from roofkit.artifacts import committed, fingerprint
from roofkit.errors import BadInputError, MissingInputError, OutputError, reason
from roofkit.heeded import are_heeded
from roofkit.hush import hushed
from roofkit.ledger import input_digest, input_digests, input_fact
from roofkit.memory import free_memory
from roofkit.overviews import Pyramid, packed_halves
from roofkit.paths import check_name
from roofkit.settings import RasterArgs
from roofkit.sidecars import Sidecars, box, has_files_beside, read_sidecars
from roofkit.tiff import BlockFile, CogFile, blocks_of, check_tiff, deflated, deflated_bits

DRIVERS = {"tif": "GTiff", "tiff": "GTiff", "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG"}
DTYPES = ("uint8", "uint16", "int16", "float32")
BLOCK = 256  # side of a GeoTIFF block
CACHE_BYTES = 64 * 2**20
BLOCK_BYTES = 256 * 2**20  # a block that decodes to more is refused: GDAL reads blocks whole
DECODED_BYTES = 64 * 2**30  # a block that the cache does not hold is decoded for each band: at most so much in all
MOST_PIXELS = 10**12  # of one raster: more is a slip of scale, or a file that lies
MOST_BANDS = 4096  # the same; work for each band, and GDAL's for each other one, would go on for minutes
SMALL = 64 * 2**20  # bytes of pixels that are read without looking at memory
MEMORY_SHARE = 0.5  # of the memory that is free: pixels that are read at once
IN_MEMORY = 64 * 2**20  # bytes of pixels up to which a new raster is made in memory
PNG_END = b"IEND\xaeB`\x82"  # the last chunk of a PNG, with its checksum
THREADS = 4  # that encode the windows of a large raster
BIG_FROM = 2**31  # bytes of pixels from which a file is BigTIFF, whatever they shrink to
TAIL = 1024  # bytes at the end of a file in which it must be
WAITING = 8 * 2**20  # bytes of blocks and halves that wait in memory, each; more of them wait on the disk
Pixels = NDArray[Any]
Colours = Mapping[int, tuple[int, int, int]]
Valid = NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """Where pixels lie: CRS (None: not georeferenced), transform (pixel to CRS), size in pixels."""

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """left, bottom, right, top in the CRS, also where rows run north."""
        left, bottom, right, top = rasterio.transform.array_bounds(self.height, self.width, self.transform)
        return min(left, right), min(bottom, top), max(left, right), max(bottom, top)

    def window(self, window: Window) -> "Grid":
        """The grid of a window of this one, which may reach beyond it."""
        transform = self.transform @ Affine.translation(window.col_off, window.row_off)
        return Grid(self.crs, transform, int(window.height), int(window.width))

    def matches(self, other: "Grid") -> bool:
        """Same size, CRS and transform (to a thousandth of a pixel)."""
        corners = [(0, 0), (self.width, 0), (0, self.height)]
        back = ~self.transform if self.transform.determinant else Affine.identity()
        apart = max(max(abs(a - b) for a, b in zip(back @ (other.transform @ c), c)) for c in corners)
        return (self.height, self.width, self.crs) == (other.height, other.width, other.crs) and apart < 1e-3


@contextlib.contextmanager
def gdal_env() -> Iterator[None]:
    """GDAL with a bounded block cache and masks inside the file, quiet about missing georeferencing."""
    options = dict(GDAL_CACHEMAX=CACHE_BYTES, GDAL_TIFF_INTERNAL_MASK=True)
    with hushed(NotGeoreferencedWarning), rasterio.Env(CPL_LOG=os.devnull, **options):
        yield  # CPL_LOG: where errors would be printed that come back to nobody


@contextlib.contextmanager
def open_raster(path: Path | Address) -> Iterator[DatasetReader]:
    """An open GeoTIFF, PNG or JPEG; at an address only a GeoTIFF, of which no file beside it is read.

    This is the one door for rasters. Files beside one say only what it does not say itself (see `roofkit.sidecars`).

    Raises:
        MissingInputError: There is no such file.
        BadInputError: It is of another kind, broken, of a dtype that this program does not know, in huge blocks, of
            more pixels than there can be, or names another file to read; or a file beside it is broken.
        WebError: The server of an address fails, also while the raster is read.
    """
    with open_any_raster(path) as src:
        if src.count == 0 or set(src.dtypes) - set(DTYPES) or len(set(src.dtypes)) > 1:
            found = f"pixels of {', '.join(sorted(set(src.dtypes))) or 'no band'}"
            raise BadInputError(str(path), found, f"one of {', '.join(DTYPES)}", "Convert it (gdal_translate -ot).")
        yield src


@contextlib.contextmanager
def open_any_raster(path: Path | Address) -> Iterator[DatasetReader]:
    """The same for pixels of any dtype, also several."""
    opened = _open_address(path) if isinstance(path, Address) else _open_file(path)
    with gdal_env(), opened as src:
        check_plan(src, str(path))
        yield src


@contextlib.contextmanager
def open_raster_bytes(data: bytes, driver: str, where: str) -> Iterator[DatasetReader]:
    """A raster in memory, of any dtype, opened by that driver alone.

    Raises:
        RasterioError: It is none.
        BadInputError: As for `open_raster`; `where` is what the error names.
    """
    with gdal_env(), MemoryFile(data) as file, file.open(driver=driver) as src:
        check_plan(src, where, lambda start, count: data[start : start + count])
        yield src


def check_plan(src: DatasetReader, where: str, read: Callable[[int, int], bytes] | None = None) -> None:
    """Raise unless an open raster can be read in pieces that fit into memory, and is one by itself.

    Args:
        src: Nothing of it was read yet.
        where: Its name in errors.
        read: Gives bytes of its file by place and number; None: `src.part_of_file`, or the file is not looked at.

    Raises:
        BadInputError: It is too large, in huge blocks (those of its mask count, too), of too many bands, or names
            another file.
    """
    if src.width * src.height > MOST_PIXELS:
        found, expected = f"{src.height:,} x {src.width:,} pixels", f"at most {MOST_PIXELS:,}"
        raise BadInputError(where, found, expected, "Cut it into parts (gdal_retile.py), or check its header.")
    if src.count > MOST_BANDS:
        advice = "Take the bands that you need (gdal_translate -b), or check its header."
        raise BadInputError(where, f"{src.count:,} bands", f"at most {MOST_BANDS:,}", advice)
    if "OVERVIEW_FILE" in src.tags(ns="OVERVIEWS"):
        advice = "Rewrite it (gdal_translate)."
        raise BadInputError(where, "a raster that names another file", "pixels of its own", advice)
    size = block_bytes(src) if src.count else 0
    read = read or getattr(src, "part_of_file", None)
    if src.driver == "GTiff" and read:
        size = max(size, _largest_block(read, where))
    most = CACHE_BYTES if size * src.count > DECODED_BYTES else BLOCK_BYTES
    if size > most:
        found, expected = f"blocks of {size / 2**20:,.0f} MiB for {src.count:,} bands", f"at most {most // 2**20} MiB"
        raise BadInputError(where, found, expected, "Store it in tiles (gdal_translate -co TILED=YES).")


def _largest_block(read: Callable[[int, int], bytes], where: str) -> int:
    """Bytes of the largest block in a TIFF file, that of a mask included: GDAL only tells of those of bands."""
    try:
        return max(check_tiff(read), default=0)
    except ValueError as error:
        raise BadInputError(
            where, f"not readable as GTiff ({error})", "a whole file", "Replace or remove it."
        ) from None


@contextlib.contextmanager
def _open_file(path: Path) -> Iterator[DatasetReader]:
    driver = DRIVERS.get(path.suffix.lower().lstrip("."))
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise MissingInputError(path, found, "a raster file", "Check its name.")
    if driver is None:
        raise BadInputError(
            path, f"a {path.suffix or 'nameless'} file", "a .tif, .png or .jpg", "Convert it to GeoTIFF."
        )
    check_name(path)
    _check_end(path, driver)
    with _open_alone(path, driver) as src:
        sidecars = _sidecars_of(src, path) if are_heeded() else Sidecars()
        if not sidecars.files:
            yield src
            return
    if sidecars.mask:
        _check_mask(sidecars.mask, src)
    with _open_boxed(path, driver, sidecars) as src:
        yield src


@contextlib.contextmanager
def _open_alone(path: Path, driver: str) -> Iterator[DatasetReader]:
    """A raster of which GDAL sees no other file."""
    try:
        with rasterio.Env(GDAL_PAM_ENABLED=False, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            src = rasterio.open(path.absolute(), driver=driver)  # absolute: no letters before a colon mean anything
            _ = src.mask_flag_enums, src.tags()  # now: GDAL looks for other files when these are first asked for
    except (RasterioIOError, CPLE_BaseError) as error:
        found = "0 bytes" if path.stat().st_size == 0 else f"not readable as {driver} ({error})"
        raise BadInputError(path, found, f"a {driver} file", "Replace or remove it.") from None
    with src:
        _tell(src, path, ())
        yield src


@contextlib.contextmanager
def _open_boxed(path: Path, driver: str, sidecars: Sidecars) -> Iterator[DatasetReader]:
    """A raster of which GDAL sees what files beside it say, and nothing else."""
    name, opener = box(path, sidecars)
    with rasterio.Env(GDAL_PAM_ENABLED=True, GDAL_DISABLE_READDIR_ON_OPEN=True):
        src = rasterio.open(name, driver=driver, opener=opener)
        _ = src.mask_flag_enums, src.tags()
    with src:
        _tell(src, path, sidecars.files)
        yield src


def _tell(src: DatasetReader, path: Path, beside: tuple[Path, ...]) -> None:
    """Note what an open file is called in errors, which files beside it count, and how to read it."""

    def part_of_file(start: int, count: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(count)

    src.where, src.beside, src.part_of_file = str(path), beside, part_of_file


def _sidecars_of(src: DatasetReader, path: Path) -> Sidecars:
    """What files beside an open raster say of what it does not say itself."""
    nowhere = src.transform == Affine.identity()
    return read_sidecars(path, place=src.crs is None, transform=nowhere, validity=_without_mask(src))


def _check_mask(mask: Path, src: DatasetReader) -> None:
    """Raise unless the mask beside a raster is a plain GeoTIFF of its size: GDAL would open it as anything."""
    with _open_alone(mask, "GTiff") as found:
        check_plan(found, str(mask))
        if (found.height, found.width, found.count) != (src.height, src.width, 1) or found.dtypes != ("uint8",):
            size = f"{found.height} x {found.width} x {found.count} {found.dtypes[0]}"
            expected = f"{src.height} x {src.width} x 1 uint8, as the raster beside it"
            raise BadInputError(mask, size, expected, "Remove it, or set raster_args.sidecars to false.")


@contextlib.contextmanager
def _open_address(address: Address) -> Iterator[DatasetReader]:
    from roofkit.range_file import open_bytes
    from roofkit.remote import StoredBytes

    problems: list[BaseException] = []  # of the server; GDAL only knows that bytes are missing
    try:
        data = StoredBytes(address)
        with open_bytes(data, problems) as src:
            src.part_of_file = data.read
            _ = src.mask_flag_enums  # now: GDAL takes a mask that it cannot read for none
            _raise_problem(src)
            yield src
    except (RasterioError, CPLE_BaseError) as error:
        if not problems:
            found = f"not readable as GTiff ({reason(error)})"
            raise BadInputError(str(address), found, "a GTiff file", "Replace or remove it.") from None
    if problems:
        raise problems[0]


def _raise_problem(src: DatasetReader) -> None:
    """Raise what a server did wrong while an address was read, if anything."""
    for problem in getattr(src, "problems", ()):
        raise problem


def _check_end(path: Path, driver: str) -> None:
    """Raise BadInputError where a PNG was cut short: GDAL reads what is missing as 0, without a word."""
    if driver != "PNG":
        return
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - TAIL, 0))
        if size and PNG_END not in file.read():
            raise BadInputError(path, f"cut short, at {size:,} bytes", "a whole PNG file", "Replace it.")


def block_bytes(src: DatasetReader) -> int:
    """Memory that the largest block of a raster takes when it is decoded: all bands where they are interleaved."""
    rows, cols = np.max(src.block_shapes, axis=0).tolist()
    bands = src.count if src.interleaving == Interleaving.pixel else 1
    return int(rows * cols * bands * np.dtype(src.dtypes[0]).itemsize)


@overload
def raster_files(source: Path, extension: str = "tif") -> list[Path]: ...
@overload
def raster_files(source: Path | Address, extension: str = "tif") -> list[Path] | list[Address]: ...
def raster_files(source: Path | Address, extension: str = "tif") -> list[Path] | list[Address]:
    """The raster itself, or the rasters of a folder with that extension, sorted by name.

    Raises:
        MissingInputError: Nothing there, or no such raster in the folder.
        WebError: The server of an address fails, or refuses.
    """
    if isinstance(source, Address):
        from roofkit.remote import raster_addresses

        return raster_addresses(source, extension)
    if source.is_file():
        return [source]
    suffixes = {"tif": (".tif", ".tiff"), "png": (".png",), "jpg": (".jpg", ".jpeg")}[extension]
    if not source.is_dir():
        raise MissingInputError(source, "no such file or folder", f"*{suffixes[0]} files", "Make or name them first.")
    found = sorted(p for p in source.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
    if not found:
        names = sorted(p.name for p in source.iterdir() if not p.name.startswith("."))
        state = f"no {suffixes[0]} file among {len(names)} others ({names[0]}, …)" if names else "an empty folder"
        raise MissingInputError(
            source, state, f"*{suffixes[0]} files", "Put them there, or set extension_args.extension."
        )
    return found


def check_apart(inputs: Iterable[Path | Address], *folders: Path | None) -> None:
    """Raise where outputs would lie among the files that they are made from, and one might take the place of one.

    Raises:
        OutputError: They would.
    """
    sources = {path.parent.resolve() for path in inputs if isinstance(path, Path)}
    for folder in folders:
        if folder and folder.resolve() in sources:
            raise OutputError(folder, "the folder of its own input", "another folder", "Choose another DST.")


def name_of(src: DatasetReader) -> str:
    """What an open raster is called in errors: its path or address."""
    return str(getattr(src, "where", src.name))


def grid_of(src: DatasetReader) -> Grid:
    """The grid of an open raster."""
    return Grid(src.crs, src.transform, src.height, src.width)


def note_of(grid: Grid) -> dict[str, Any]:
    """What a stage may record of a raster that it made, if every pixel is valid; `noted_grid` reads it."""
    code = _code(grid.crs)
    return {"all_valid_on": [code, *tuple(grid.transform)[:6], grid.height, grid.width]} if code else {}


@lru_cache(maxsize=64)
def _code(crs: CRS | None) -> int | None:
    """The EPSG number that says all that a CRS says."""
    code: int | None = crs.to_epsg() if crs else None
    return code if crs and code and CRS.from_epsg(code).to_wkt() == crs.to_wkt() else None


def noted_grid(path: Path) -> Grid | None:
    """The grid of a raster of which every pixel is valid, where the stage that made it recorded that; None: open it.

    Raises:
        BadInputError: The raster is not as its stage wrote it.
    """
    note = input_fact(path, "all_valid_on")
    if note is None or (are_heeded() and read_sidecars(path, place=False, transform=False, validity=True).files):
        return None
    try:
        code, *transform, height, width = note
        grid = Grid(CRS.from_epsg(code), Affine(*map(float, transform)), int(height), int(width))
    except (CRSError, TypeError, ValueError):  # of a ledger that somebody made up
        return None
    return grid if min(height, width) > 0 and height * width <= MOST_PIXELS else None


def _colours(src: DatasetReader) -> tuple[ColorInterp, ...]:
    """The colour of each band; BadInputError where what GDAL came across on the way is a broken file."""
    try:
        return tuple(src.colorinterp)
    except CPLE_BaseError as error:
        raise _broken(src, error) from None


def texts_of(src: DatasetReader, kind: Literal["descriptions", "units"]) -> tuple[str | None, ...]:
    """What a file says of each of its bands; nothing where that is not in UTF-8."""
    try:
        return tuple(getattr(src, kind))
    except UnicodeDecodeError:
        return (None,) * int(src.count)


def data_bands(src: DatasetReader) -> list[int]:
    """Band numbers (from 1) without the alpha band, which is validity and not data."""
    return [i for i, interp in zip(src.indexes, _colours(src)) if interp != ColorInterp.alpha] or list(src.indexes)


def band_names(src: DatasetReader) -> list[str]:
    """A name for each data band: its description, its colour, or `band <n>`."""
    primary = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    colours, descriptions = _colours(src), texts_of(src, "descriptions")
    return [
        descriptions[i - 1] or (colours[i - 1].name if colours[i - 1] in primary else f"band {i}")
        for i in data_bands(src)
    ]


def own_names(src: DatasetReader) -> list[str] | None:
    """Names for the data bands where the file describes any, else None: what to hand on to a file made from it."""
    descriptions = texts_of(src, "descriptions")
    return band_names(src) if any(descriptions[i - 1] for i in data_bands(src)) else None


def is_rgb(src: DatasetReader) -> bool:
    """Whether the first three bands are tagged red, green and blue."""
    return _colours(src)[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def raster_digest(path: Path | Address) -> str:
    """A hash of a raster's bytes and of the sidecar files that say where it lies or what is valid.

    Of an address it is a hash of its size and version, as the server gives them: nothing is read.

    Raises:
        BadInputError: A stage made the file, and it is not as that stage wrote it.
        MissingInputError, BadInputError, WebError: As for `open_raster`.
    """
    if isinstance(path, Address):
        from roofkit.remote import address_digest

        return address_digest(path)
    with open_raster(path) as src:
        return digest_of(path, src)


def closed_digest(path: Path | Address) -> str:
    """`raster_digest` of a file that is opened at another time: here only where something lies beside it."""
    if isinstance(path, Address) or (are_heeded() and has_files_beside(path)):
        return raster_digest(path)
    return fingerprint(input_digest(path))


def digest_of(path: Path, src: DatasetReader) -> str:
    """`raster_digest` of a file that is open."""
    return fingerprint(*input_digests([path, *src.beside]))


def read_pixels(
    src: DatasetReader,
    window: Window | None = None,
    *,
    bands: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Pixels, Valid]:
    """Data bands (bands, rows, cols) in the file's dtype, and their validity, of a window inside the raster.

    Args:
        src: The raster.
        window: None: all of it.
        bands: Numbers from 1; None: all data bands.
        size: Rows and columns to pick (nearest neighbours, from overviews where there are any); None: every pixel.

    Raises:
        BadInputError: The file's pixels are broken, or more than fit into memory.
        WebError: The server of an address fails.
    """
    check_memory(src, window, size)
    numbers = list(bands or data_bands(src))
    try:
        pixels = src.read(indexes=numbers, window=window, out_shape=(len(numbers), *size) if size else None)
        masked = np.ones(pixels.shape[1:], bool)
        if not _without_mask(src):
            masked = dataset_valid(src, window, size)
    except (RasterioIOError, CPLE_BaseError) as error:
        raise _broken(src, error) from None
    valid: Valid = masked & ~np.isnan(pixels).any(axis=0) if pixels.dtype.kind == "f" else masked
    return pixels, valid


def read_valid(src: DatasetReader, window: Window) -> Valid:
    """Validity (rows, cols) of a window inside the raster; pixels are read only where they decide it.

    Raises:
        BadInputError: The file's pixels are broken.
    """
    if all_valid(src):
        return np.ones((int(window.height), int(window.width)), bool)
    if src.dtypes[0].startswith("float"):
        return read_pixels(src, window)[1]
    try:
        valid = dataset_valid(src, window)
    except (RasterioIOError, CPLE_BaseError) as error:
        raise _broken(src, error) from None
    return valid


def dataset_valid(src: DatasetReader, window: Window | None, size: tuple[int, int] | None = None) -> Valid:
    """What the mask says; where there are an alpha band and a nodata value, both have to hold.

    Rasterio then asks whether the alpha band is nodata.
    """
    alpha = [number for number, colour in zip(src.indexes, _colours(src)) if colour == ColorInterp.alpha]
    shaded = alpha and len(alpha) < src.count and any(MaskFlags.nodata in flags for flags in src.mask_flag_enums)
    if not shaded:
        return np.asarray(src.dataset_mask(window=window, out_shape=size) != 0)
    options = {"window": window} | ({"out_shape": (src.count - len(alpha), *size)} if size else {})
    with hushed(NodataShadowWarning):
        measured = src.read_masks(data_bands(src), **options).any(axis=0)
    options |= {"out_shape": (len(alpha), *size)} if size else {}
    return np.asarray(measured & (src.read(alpha, **options) != 0).all(axis=0))


def check_memory(src: DatasetReader, window: Window | None = None, size: tuple[int, int] | None = None) -> None:
    """Raise BadInputError where the pixels of a window, or of all, are more than there is memory for.

    Of a window that is read in another `size`, only so many pixels are held.
    """
    rows, cols = size or ((src.height, src.width) if window is None else (int(window.height), int(window.width)))
    needed = rows * cols * (src.count * np.dtype(src.dtypes[0]).itemsize + 1)  # and a byte that says what is valid
    if needed > SMALL and needed > MEMORY_SHARE * free_memory():
        found, expected = f"{needed / 2**20:,.0f} MiB of pixels to read at once", "what fits into memory"
        raise BadInputError(name_of(src), found, expected, "Cut it into smaller rasters (chip/chip.py).")


def _broken(src: DatasetReader, error: Exception) -> BadInputError:
    _raise_problem(src)
    reason = error.__cause__ or error  # rasterio says only that there is one
    return BadInputError(name_of(src), f"broken pixels ({reason})", "a whole file", "Replace it.")


def finite(pixels: Pixels, valid: Valid) -> Valid:
    """Where pixels (bands, rows, cols) are valid and no band is infinite or NaN: what can be computed with."""
    return valid & np.isfinite(pixels).all(axis=0) if pixels.dtype.kind == "f" else valid


def _without_mask(src: DatasetReader) -> bool:
    try:
        return all(flags == [MaskFlags.all_valid] for flags in src.mask_flag_enums)
    except CPLE_BaseError as error:
        raise _broken(src, error) from None


def all_valid(src: DatasetReader) -> bool:
    """Whether nothing in the file can be invalid: no nodata, alpha or mask, and no dtype that knows NaN."""
    return _without_mask(src) and not src.dtypes[0].startswith("float")


def windows(height: int, width: int, side: int) -> Iterator[Window]:
    """Windows of at most `side` pixels that cover a raster row by row, without overlap."""
    for row in range(0, height, side):
        for col in range(0, width, side):
            yield Window(col, row, min(side, width - col), min(side, height - row))


class RasterWriter:
    """A GeoTIFF in the making; see `create_raster`."""

    def __init__(self, dst: DatasetWriter) -> None:
        self._dst = dst

    @property
    def _whole(self) -> Window:
        return Window(0, 0, self._dst.width, self._dst.height)

    def write(self, pixels: Pixels, valid: Valid | None = None, window: Window | None = None) -> None:
        """Write (bands, rows, cols) to a window (None: all), with its validity where the file has a mask.

        Windows are made of whole blocks of `BLOCK` pixels; at the right and lower edge blocks may be cut off. The
        arrays must not change afterwards.
        """
        self._write(pixels, _mask_of(valid), window or self._whole)

    def describe(self, names: Sequence[str], colours: Colours | None = None) -> None:
        """Name the bands, and give the only one a colour table."""
        for band, name in enumerate(names, start=1):
            self._dst.set_band_description(band, name)
        if colours:
            self._dst.write_colormap(1, colours)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Say more of the first band: its statistics, by the names that GDAL has for them."""
        self._dst.update_tags(1, **tags)

    def _write(self, pixels: Pixels, mask: Pixels | None, window: Window) -> None:
        self._dst.write(pixels, window=window)
        if mask is not None:
            self._dst.write_mask(mask, window=window)


def _mask_of(valid: Valid | None) -> Pixels | None:
    return None if valid is None else np.where(valid, np.uint8(255), np.uint8(0))


class _BlockWriter(RasterWriter):
    """A GeoTIFF on its way to the disk: windows are encoded, in threads, and appended in the order of `write`."""

    def __init__(self, file: BinaryIO, profile: dict[str, Any], *, threads: int) -> None:
        self._file = file
        self._profile = profile | {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
        self._size = profile["height"], profile["width"]
        self._names: Sequence[str] = ()
        self._colours: Colours | None = None
        self._tags: dict[str, str] = {}
        self._big = np.prod(self._size) * profile["count"] * np.dtype(profile["dtype"]).itemsize > BIG_FROM
        self._blocks = self._blocks_in(file)
        self._pool = ThreadPoolExecutor(threads) if threads else None
        self._threads = threads
        self._coming: deque[tuple[Window, Future[list[list[bytes]]]]] = deque()

    def _blocks_in(self, file: BinaryIO) -> BlockFile | CogFile:
        down, across = (-(-side // BLOCK) for side in self._size)
        return BlockFile(file, (down, across), big=self._big)

    @property
    def _whole(self) -> Window:
        return Window(0, 0, self._size[1], self._size[0])

    @property
    def _masked(self) -> bool:
        """Whether the file is to have a mask."""
        return self._blocks.images > 1

    def describe(self, names: Sequence[str], colours: Colours | None = None) -> None:
        self._names, self._colours = names, colours

    def tag(self, tags: Mapping[str, str]) -> None:
        self._tags |= tags

    def _write(self, pixels: Pixels, mask: Pixels | None, window: Window) -> None:
        for start, length, side in zip((window.row_off, window.col_off), (window.height, window.width), self._size):
            if start % BLOCK or (length % BLOCK and start + length != side):
                raise ValueError(f"{window} is not made of whole blocks")
        if self._pool is None:
            self._append(window, self._encode(pixels, mask))
            return
        self._coming.append((window, self._pool.submit(self._encode, pixels, mask)))
        while len(self._coming) > self._threads:
            self._take()

    def _encode(self, pixels: Pixels, mask: Pixels | None) -> list[list[bytes]]:
        return _encoded(pixels, mask, self._profile)

    def _take(self) -> None:
        window, coming = self._coming.popleft()
        self._append(window, coming.result())

    def _append(self, window: Window, images: list[list[bytes]]) -> None:
        for image, blocks in enumerate(images):
            for block, (row, col) in zip(blocks, _places_of(window)):
                self._blocks.append(image, row, col, block)

    def finish(self) -> None:
        """Write what is still being encoded, and the directory."""
        while self._coming:
            self._take()
        options = self._profile | {"bigtiff": "yes" if self._big else "no", "sparse_ok": True}
        with MemoryFile() as memory:
            with memory.open(**options) as dst:
                writer = RasterWriter(dst)
                writer.describe(self._names, self._colours)
                writer.tag(self._tags)
                if self._masked:
                    dst.write_mask(np.zeros((1, 1), np.uint8), window=Window(0, 0, 1, 1))
            self._end(memory.getbuffer())

    def _end(self, template: memoryview) -> None:
        cast(BlockFile, self._blocks).finish(template)

    def close(self) -> None:
        """End the threads."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


class _CogWriter(_BlockWriter):
    """The same of a cloud-optimised GeoTIFF: blocks, and what overviews are made of, wait until all are there.

    Where all pixels turn out to be valid, their mask is left out.
    """

    def __init__(
        self,
        file: BinaryIO,
        waiting: BinaryIO,
        halves: BinaryIO,
        profile: dict[str, Any],
        *,
        classes: bool,
        threads: int,
    ) -> None:
        count, dtype = profile["count"], np.dtype(profile["dtype"])
        size = profile["height"], profile["width"]
        self._pyramid = Pyramid(halves, size, BLOCK, bands=count, dtype=dtype)
        self._waiting, self._classes = waiting, classes
        self._valid = 0  # pixels, of windows that came with a mask
        super().__init__(file, profile, threads=threads)

    def _blocks_in(self, file: BinaryIO) -> CogFile:
        levels = range(len(self._pyramid.sizes))
        return CogFile(self._waiting, [self._pyramid.shape(level) for level in levels], big=self._big)

    @property
    def _masked(self) -> bool:
        return super()._masked and self._valid < self._size[0] * self._size[1]

    def _write(self, pixels: Pixels, mask: Pixels | None, window: Window) -> None:
        self._valid += 0 if mask is None else np.count_nonzero(mask)
        super()._write(pixels, mask, window)

    def _encode(self, pixels: Pixels, mask: Pixels | None) -> list[list[bytes]]:
        """The blocks of the image and of its mask, and before them the halves of which overviews are made."""
        valid = None if mask is None else mask > 0
        return [packed_halves(pixels, valid, BLOCK, classes=self._classes), *_encoded(pixels, mask, self._profile)]

    def _append(self, window: Window, images: list[list[bytes]], level: int = 0) -> None:
        halves, *images = images
        for half, (row, col) in zip(halves, _places_of(window)):
            self._pyramid.add(level, row, col, half)
        for image, blocks in enumerate(images):
            for block, (row, col) in zip(blocks, _places_of(window)):
                cast(CogFile, self._blocks).append(image, row, col, block, level)

    def _end(self, template: memoryview) -> None:
        for level in range(1, len(self._pyramid.sizes)):
            for blocks in self._pyramid.blocks(level):
                work = ((block.pixels, _mask_of(block.valid) if self._masked else None) for block in blocks)
                for block, images in zip(blocks, (self._pool.map if self._pool else map)(self._encode, *zip(*work))):
                    rows, cols = block.valid.shape
                    self._append(Window(block.col * BLOCK, block.row * BLOCK, cols, rows), images, level)
        cast(CogFile, self._blocks).finish(template, self._pyramid.sizes, self._file)


def _places_of(window: Window) -> Iterator[tuple[int, int]]:
    """Row and column of each block of a window, row by row."""
    for part in windows(int(window.height), int(window.width), BLOCK):
        yield int(window.row_off + part.row_off) // BLOCK, int(window.col_off + part.col_off) // BLOCK


def _encoded(pixels: Pixels, mask: Pixels | None, profile: dict[str, Any]) -> list[list[bytes]]:
    """The encoded blocks of a window and, where it has one, of its mask."""
    if profile.get("compress") == "deflate":
        blocks = [deflated(pixels, BLOCK, profile["predictor"])]
        return blocks if mask is None else [*blocks, deflated_bits(mask, BLOCK)]
    options = profile | {"height": pixels.shape[1], "width": pixels.shape[2], "sparse_ok": False}
    with gdal_env(), MemoryFile() as memory:
        with memory.open(**options) as dst:
            dst.write(pixels)
            if mask is not None:
                dst.write_mask(mask)
        return blocks_of(memory.getbuffer())


@contextlib.contextmanager
def _written_blocks(part: Path, profile: dict[str, Any], *, threads: int) -> Iterator[RasterWriter]:
    """A writer of blocks to `part`."""
    with part.open("wb") as file, contextlib.closing(_BlockWriter(file, profile, threads=threads)) as writer:
        yield writer
        writer.finish()


@contextlib.contextmanager
def _written_memory(part: Path, profile: dict[str, Any]) -> Iterator[RasterWriter]:
    """A writer to memory, whose bytes then go to `part` in one go: the system says whether they fit."""
    with MemoryFile() as memory:
        with memory.open(**profile) as dst:
            yield RasterWriter(dst)
        part.write_bytes(memory.getbuffer())


def _not_written(path: Path, reason: str) -> OutputError:
    advice = "Free space or choose another folder, then run again."
    return OutputError(path, f"not written ({reason})", "a writable folder with space left", advice)


@contextlib.contextmanager
def _written_cog(part: Path, profile: dict[str, Any], *, classes: bool, threads: int) -> Iterator[RasterWriter]:
    """A writer of a cloud-optimised GeoTIFF with overviews to `part`."""
    with contextlib.ExitStack() as stack:
        waiting, halves = (
            stack.enter_context(tempfile.SpooledTemporaryFile(WAITING, dir=str(part.parent))) for _ in range(2)
        )  # without a name on the disk: nothing stays behind, however the run ends
        file = stack.enter_context(part.open("wb"))
        made = _CogWriter(
            file, cast(BinaryIO, waiting), cast(BinaryIO, halves), profile, classes=classes, threads=threads
        )
        writer = stack.enter_context(contextlib.closing(made))
        yield writer
        writer.finish()


@contextlib.contextmanager
def create_raster(
    path: Path,
    grid: Grid,
    *,
    bands: int,
    dtype: str,
    nodata: float | None = None,
    names: Sequence[str] | None = None,
    rgb: bool = False,
    settings: RasterArgs | None = None,
    sparse: bool = False,
    cog: bool = False,
    classes: bool = False,
    colours: Colours | None = None,
) -> Iterator[RasterWriter]:
    """A writer for a new GeoTIFF; when the block ends well the file is whole on the disk and is put in place.

    Args:
        path: The final path; untouched until all is well.
        grid: Size, CRS and transform.
        bands: Number of bands.
        dtype: NumPy name of the dtype.
        nodata: The file's nodata tag.
        names: Band descriptions.
        rgb: The first three bands are red, green and blue.
        settings: Compression.
        sparse: Blocks never written take no room in the file; they read as nodata or 0, invalid.
        cog: Make it a cloud-optimised GeoTIFF, with overviews where it is larger than 512 pixels.
        classes: Pixels are of few values, and compress well and fast without a predictor; in overviews, which know two
            of them, 0 and another, the commoner one counts.
        colours: A colour table, for one band of uint8.

    Raises:
        OutputError: The disk is full, the folder not writable, or the file does not read back as written.
    """
    profile = _profile(grid, bands, dtype, settings or RasterArgs())
    photometric = "rgb" if rgb else "palette" if colours else "minisblack"
    profile |= dict(nodata=nodata, photometric=photometric, alpha="no", sparse_ok=sparse)
    if classes and "predictor" in profile:
        profile |= dict(predictor=1)
    small = grid.height * grid.width * bands * np.dtype(dtype).itemsize <= IN_MEMORY
    threads = 0 if small else THREADS
    written: Callable[[Path, dict[str, Any]], contextlib.AbstractContextManager[RasterWriter]]
    if cog:
        written = partial(_written_cog, classes=classes, threads=threads)
    elif small and not (profile.get("tiled") and profile.get("compress") == "deflate"):
        written = _written_memory
    else:
        written = partial(_written_blocks, threads=threads)
    with committed(path) as part, gdal_env():
        try:
            with written(part, profile) as writer:
                writer.describe(names or (), colours)
                yield writer
        except RasterioError as error:
            raise _not_written(path, str(error)) from error


def write_raster(path: Path, pixels: Pixels, valid: Valid | None, grid: Grid, **options: Any) -> None:
    """Write a whole raster; options as for `create_raster`. Without an internal mask where it would say nothing."""
    tagged = options.get("nodata") is not None  # then only a mask can say that a pixel of that value was measured
    mask = None if valid is None or (valid.all() and not tagged) else valid
    with create_raster(path, grid, bands=pixels.shape[0], dtype=pixels.dtype.name, **options) as dst:
        dst.write(pixels, mask)


def _profile(grid: Grid, bands: int, dtype: str, settings: RasterArgs) -> dict[str, Any]:
    profile: dict[str, Any] = dict(
        driver="GTiff", height=grid.height, width=grid.width, count=bands, dtype=dtype, crs=grid.crs,
        transform=grid.transform, interleave="pixel", bigtiff="if_safer",
    )  # fmt: skip
    if min(grid.height, grid.width) >= BLOCK:
        profile |= dict(tiled=True, blockxsize=BLOCK, blockysize=BLOCK)
    if settings.compress != "none":
        profile |= dict(compress=settings.compress, predictor=3 if dtype.startswith("float") else 2)
    return profile
