"""Files beside a raster, which may say where it lies and what of it is valid, and nothing else.

GDAL itself lets such a file do more: change the CRS and nodata of a raster that has its own, and name other files to
read instead. So it is never shown them. What they say is read here, only where the raster says nothing itself, and
GDAL is handed the raster in a box: it sees the raster, a description written here, and a mask that was looked at.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from roofkit.errors import BadInputError, reason

AUXILIARY, MASK = ".aux.xml", ".msk"
LONGEST = 16 * 2**20  # bytes of a description
SHORTEST = 1024  # bytes that the six numbers of a world file take at most
CODE = re.compile(r"\s*EPSG:\d{1,7}\s*", re.IGNORECASE)
ADVICE = "Repair or remove it, or set raster_args.sidecars to false."


@dataclass(frozen=True)
class Sidecars:
    """What files beside a raster say of it."""

    crs: CRS | None = None
    transform: Affine | None = None
    nodata: Mapping[int, float] = field(default_factory=dict)
    """By band, from 1."""
    mask: Path | None = None
    files: tuple[Path, ...] = ()
    """Those that say it."""

    def description(self) -> bytes:
        """A file .aux.xml that says the same, but for the mask."""
        root = ElementTree.Element("PAMDataset")
        if self.crs is not None:
            ElementTree.SubElement(root, "SRS").text = self.crs.to_wkt()  # no mapping of axes: x is the longitude
        if self.transform is not None:
            numbers = ", ".join(f"{number:.17g}" for number in self.transform.to_gdal())
            ElementTree.SubElement(root, "GeoTransform").text = numbers
        for band, value in self.nodata.items():
            element = ElementTree.SubElement(root, "PAMRasterBand", band=str(band))
            ElementTree.SubElement(element, "NoDataValue").text = f"{value:.17g}"
        return ElementTree.tostring(root)


def has_files_beside(path: Path) -> bool:
    """Whether anything lies beside a raster that might say something of it."""
    names = [path.name + AUXILIARY, path.name + MASK, path.name + MASK.upper(), *_world_names(path)]
    return any(path.with_name(name).is_file() for name in names)


def read_sidecars(path: Path, *, place: bool, transform: bool, validity: bool) -> Sidecars:
    """What files beside a raster say of what it does not say itself.

    Args:
        path: The raster.
        place: It has no CRS.
        transform: Its pixels have no place in a CRS.
        validity: Nothing in it says what is valid.

    Raises:
        BadInputError: Such a file is broken, or leads elsewhere.
    """
    found, files = Sidecars(), []
    auxiliary = _beside(path, [path.name + AUXILIARY])
    if auxiliary and (place or transform or validity):
        told = _read_auxiliary(auxiliary)
        found = Sidecars(told.crs if place else None, told.transform if transform else None,
                         told.nodata if validity else {})  # fmt: skip
        files += [auxiliary] if found != Sidecars() else []
    world = _beside(path, _world_names(path)) if transform and found.transform is None else None
    if world:
        files.append(world)
        found = Sidecars(found.crs, _read_world(world), found.nodata)
    mask = _beside(path, [path.name + MASK, path.name + MASK.upper()]) if validity else None
    return Sidecars(found.crs, found.transform, found.nodata, mask, (*files, *([mask] if mask else [])))


def _world_names(path: Path) -> list[str]:
    """What the world file of a raster may be called, as GDAL looks for it."""
    kind = path.suffix[1:].lower()
    kinds = dict.fromkeys((f"{kind[0]}{kind[-1]}w", f"{kind}w", "wld"))
    return [f"{path.stem}.{name}" for kind in kinds for name in (kind, kind.upper())]


def _beside(path: Path, names: Sequence[str]) -> Path | None:
    """The first of these files that lies beside a raster.

    Raises:
        BadInputError: It is a link to a file that lies elsewhere.
    """
    found = next((one for name in names if (one := path.with_name(name)).is_file()), None)
    if found and found.is_symlink() and found.resolve().parent not in (path.parent.resolve(), path.resolve().parent):
        raise BadInputError(found, "a link that leads elsewhere", "a file beside its raster", ADVICE)
    return found


def _text(path: Path, most: int) -> str:
    if path.stat().st_size > most:
        raise BadInputError(path, f"{path.stat().st_size:,} bytes", f"at most {most:,}", ADVICE)
    return path.read_text(encoding="utf-8", errors="replace")


def _read_world(path: Path) -> Affine:
    """The transform in a world file: six numbers, of which the last two are the middle of the first pixel."""
    try:
        a, d, b, e, x, y = (float(number) for number in _text(path, SHORTEST).split())
        if not all(map(math.isfinite, (a, d, b, e, x, y))) or not a * e - b * d:
            raise ValueError
    except ValueError as error:
        if isinstance(error, BadInputError):
            raise
        raise BadInputError(path, "no world file", "six numbers that place pixels", ADVICE) from None
    return Affine(a, b, x - a / 2 - b / 2, d, e, y - d / 2 - e / 2)


def _read_auxiliary(path: Path) -> Sidecars:
    """Place and nodata in a file .aux.xml; whatever else it holds is passed over."""
    text = _text(path, LONGEST)
    try:
        if "<!DOCTYPE" in text or "<!ENTITY" in text:  # they can make a parser grow without end
            raise ValueError("a document type")
        root = ElementTree.fromstring(text)
        numbers = [float(number) for number in root.findtext("GeoTransform", "").split(",") if number.strip()]
        if len(numbers) not in (0, 6) or not all(map(math.isfinite, numbers)):
            raise ValueError("a transform that is not six numbers")
        nodata = {int(band.get("band", 0)): _nodata(band) for band in root.iterfind("PAMRasterBand")}
        return Sidecars(
            _crs(root.findtext("SRS", "").strip()),
            Affine.from_gdal(*numbers) if numbers else None,
            {band: value for band, value in nodata.items() if value is not None},
        )
    except (ElementTree.ParseError, ValueError, CRSError, RecursionError) as error:
        raise BadInputError(path, f"not readable ({reason(error)})", "a description that GDAL wrote", ADVICE) from None


def _nodata(band: ElementTree.Element) -> float | None:
    text = band.findtext("NoDataValue", "").strip()
    return float(text) if text else None


def _crs(text: str) -> CRS | None:
    """A CRS by its EPSG number or as WKT; nothing else, as other forms may name files."""
    if not text:
        return None
    if CODE.fullmatch(text):
        return CRS.from_epsg(int(text.split(":")[1]))
    if "grids" in text.lower():  # +nadgrids=FILE in an extension
        raise ValueError("a CRS that names files")
    return CRS.from_wkt(text)


def box(path: Path, sidecars: Sidecars) -> tuple[str, Callable[..., BinaryIO]]:
    """A name for GDAL, and what opens it: the raster, its description and mask, and no other file."""
    name = f"box/{path.name}"

    def opener(wanted: str, mode: str = "rb") -> BinaryIO:
        if wanted == name + AUXILIARY:
            return io.BytesIO(sidecars.description())
        if wanted == name + MASK and sidecars.mask:
            return sidecars.mask.open("rb")
        if wanted == name:
            return path.open("rb")
        raise FileNotFoundError(wanted)

    return name, opener
