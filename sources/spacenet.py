"""The source `spacenet`: images and building footprints of a SpaceNet-2 city, from its bucket, a folder or a tar.

Source: Van Etten et al. 2018, arXiv:1807.01232; CC BY-SA 4.0.
"""

import contextlib
import json
import lzma
import re
import tarfile
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.windows import Window

from roofkit.cli import say
from roofkit.errors import BadInputError, MissingInputError, RoofError, SettingsError
from roofkit.ledger import input_digest
from roofkit.range_file import RemoteBytes
from roofkit.raster import Pixels, Valid, grid_of
from roofkit.web import Web, expanded
from sources.area import LONLAT, Area
from sources.bucket import address_of, keys
from sources.cog import Raster, distinct, plain_name, raster_at, read_stack, stack_scenes
from sources.scenes import Scene, Source

if TYPE_CHECKING:
    import geopandas as gpd

BUCKET = "https://spacenet-dataset.s3.amazonaws.com"
CITIES = ("AOI_2_Vegas", "AOI_3_Paris", "AOI_4_Shanghai", "AOI_5_Khartoum")
# Names of each product: as in the bucket today, and as in the archives of the challenge.
PRODUCTS = {"PS-MS": ("PS-MS", "MUL-PanSharpen"), "PS-RGB": ("PS-RGB", "RGB-PanSharpen")}
NUMBER = re.compile(r"_img(\d+)\.(?:tif|geojson)$")
MEMBER_BYTES = 512 * 2**20


class SpaceNet(Source):
    """The first `items` images of a city (all of them, from a folder or tar)."""

    name = "spacenet"
    clips = False
    licence = (
        "SpaceNet imagery and footprints: CC BY-SA 4.0. They know no roof material: every building counts as roof."
    )

    def plan(self) -> list[Scene]:
        """One scene an image; of a folder or tar only those that touch the area, where there is one."""
        city, product = self._city(), self._product()
        for key in ("scale", "crs"):
            if getattr(self.settings, key) is not None:
                found = f"{getattr(self.settings, key)} with source spacenet, whose images keep their own grid"
                raise SettingsError(f"download_args.{key}", found, "null", "Set it to null.")
        images, _ = pairs(self._store.names(city), city, product)
        if not images:
            found = f"no {product} image of {city}"
            raise MissingInputError(self._store.where, found, "its images", "Check address, collection and assets.")
        self.numbers = sorted(images)
        self.in_order = isinstance(self._store, Archive)
        if self._store.remote:
            self._choose_first(len(images))
        scenes: list[Scene] = []
        for number in sorted(self.numbers, key=lambda number: self._store.place(images[number])):
            raster = self._store.raster(images[number], plain_name(f"{city}_{product}_img{number}"))
            found_scenes = stack_scenes([raster], raster.stem, self._whole, None)
            if self.area is not None and not self._store.remote and not touches(raster, self.area):
                self.numbers.remove(number)
                continue
            scenes += found_scenes
        if not scenes:
            found = f"{len(images)} images, none in the area"
            raise MissingInputError(self._store.where, found, "images of the area", "Check the area.")
        return scenes

    def fetch(self, scene: Scene, window: Window) -> tuple[Pixels, Valid]:
        """A window of an image."""
        return read_stack(scene, window, self._whole)

    def labels(self) -> "gpd.GeoDataFrame":
        """The footprints of the scenes' images, with the image that they were drawn on."""
        import geopandas as gpd
        import pandas as pd

        city = self._city()
        tables, lost = [], 0
        for number in self.numbers:
            if number not in self._footprints:
                continue
            table, without = footprints(self._store.read(self._footprints[number]), self._footprints[number])
            lost += without
            tables.append(table.assign(image=f"{city}_img{number}"))
        if lost:
            say(f"{lost} footprints are no polygon with an area: left out")
        filled = [table for table in tables if len(table)]
        if not filled:
            raise MissingInputError(self._store.where, "footprints without a building", "some", "Take more images.")
        return distinct_columns(gpd.GeoDataFrame(pd.concat(filled, ignore_index=True), crs=LONLAT))

    def labels_request(self) -> Mapping[str, Any] | None:
        """Which footprints; None where there are none."""
        without = [number for number in self.numbers if number not in self._footprints]
        if len(without) == len(self.numbers):
            say("no footprints there: no labels are written")
            return None
        if without:
            say(f"{len(without)} images have no footprints (img{without[0]}, …)")
        files = {n: self._store.stamp(self._footprints[n]) for n in self.numbers if n in self._footprints}
        return {"city": self._city(), "files": files}

    @cached_property
    def _footprints(self) -> dict[int, str]:
        return pairs(self._store.names(self._city()), self._city(), self._product())[1]

    @cached_property
    def _store(self) -> "Store":
        if len(self.settings.address) > 1:
            raise SettingsError("download_args.address", "several", "one bucket, folder or tar", "Name one.")
        address = expanded(self.settings.address[0], self.web) if self.settings.address else BUCKET
        if "://" in address:
            self.web.give(address)
            return Bucket(self.web, address)
        path = self.folder / address
        if path.is_dir():
            return Folder(path, self.web)
        if not path.exists():
            raise MissingInputError(path, "no such file or folder", "a folder or tar of SpaceNet-2", "Check it.")
        return Archive(path)

    @property
    def _whole(self) -> Any:
        """The settings, with scenes as large as images are."""
        return self.settings.model_copy(update={"scale": None, "crs": None, "scene_size": 65_536})

    def _choose_first(self, count: int) -> None:
        self.numbers = self.numbers[: self.settings.items]
        if count > len(self.numbers):
            say(f"{len(self.numbers)} of {count} images are fetched; download_args.items allows more")
        if self.area is not None:
            say("the area does not choose among the images of the bucket: its names do not tell where they lie")

    def _city(self) -> str:
        name = self.settings.collection or ""
        for city in CITIES:
            if name.lower() in (city.lower(), city.split("_")[-1].lower()):
                return city
        raise SettingsError(
            "download_args.collection", repr(name), f"one of {', '.join(CITIES)}", "Give --collection CITY."
        )

    def _product(self) -> str:
        names = self.settings.assets or ("PS-RGB",)
        if len(names) != 1 or names[0] not in PRODUCTS:
            raise SettingsError("download_args.assets", str(list(names)), f"one of {', '.join(PRODUCTS)}", "Change it.")
        return names[0]


def pairs(names: list[str], city: str, product: str) -> tuple[dict[int, str], dict[int, str]]:
    """Images of a product and footprints of a city, by their number, among names of files.

    Only the last part of a name counts, so that any folder may hold them.
    """
    images: dict[int, str] = {}
    shapes: dict[int, str] = {}
    for name in sorted(names):
        last = PurePosixPath(name).name
        number = NUMBER.search(last)
        if not number or not is_of(city, last):
            continue
        if last.endswith(".tif") and any(f"{kind}_" in last for kind in PRODUCTS[product]):
            images.setdefault(int(number[1]), name)
        elif last.endswith(".geojson") and "buildings" in last:
            shapes.setdefault(int(number[1]), name)
    return images, shapes


def is_of(city: str, name: str) -> bool:
    """Whether a file's name is that of an image or footprints of a city."""
    return NUMBER.search(name) is not None and f"_{city}_" in f"_{name}"


def touches(raster: Raster, area: Area) -> bool:
    """Whether any of a raster is inside an area."""
    with raster.open() as src:
        return area.window(grid_of(src)) is not None


def distinct_columns(table: "gpd.GeoDataFrame") -> "gpd.GeoDataFrame":
    """The same with names that differ in more than the case of letters, and none that a GeoPackage uses itself."""
    taken = {"fid", "geom", "image", "geometry"}
    own = ("image", "geometry")
    return table.rename(columns={name: distinct(name, taken) for name in table.columns if name not in own})


def footprints(data: bytes, name: str) -> "tuple[gpd.GeoDataFrame, int]":
    """The polygons of a footprints file, flat, none where it has no feature; and how many are no polygon.

    Raises:
        BadInputError: It is no GeoJSON.
    """
    import geopandas as gpd
    import shapely

    from roofkit.labels import valid_shapes

    try:
        features = json.loads(data).get("features", [])
        shapes = [shapely.from_geojson(json.dumps(f["geometry"])) for f in features if f.get("geometry")]
        table = [dict(f.get("properties") or {}) for f in features if f.get("geometry")]
    except (ValueError, AttributeError, TypeError, RecursionError, shapely.errors.ShapelyError) as error:
        raise BadInputError(name, f"no GeoJSON ({error})", "footprints", "Fetch that file again.") from None
    shapes = list(valid_shapes(shapely.force_2d(shapes)))
    keep = [shape.geom_type in ("Polygon", "MultiPolygon") and shape.area > 0 for shape in shapes]
    rows = [{str(k): v for k, v in row.items() if not isinstance(v, (dict, list))} for row in table]
    found = gpd.GeoDataFrame(rows, geometry=shapes, crs=LONLAT) if shapes else gpd.GeoDataFrame(geometry=[], crs=LONLAT)
    return found[np.array(keep, bool)], len(features) - sum(keep)


class Store(ABC):
    """Where images and footprints lie."""

    where: str
    remote = False

    @abstractmethod
    def names(self, city: str) -> list[str]:
        """The names of all files, with `/` between folders."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file."""

    @abstractmethod
    def stamp(self, name: str) -> str:
        """What changes when a file does."""

    @abstractmethod
    def raster(self, name: str, stem: str) -> Raster:
        """A file as a raster."""

    def place(self, name: str) -> int:
        """Where among the others a file is best read."""
        return 0


class Bucket(Store):
    """SpaceNet's bucket, or one laid out like it."""

    remote = True

    def __init__(self, web: Web, address: str) -> None:
        self.web, self.address = web, address
        self.where = web.safe(address)
        self._names: dict[str, dict[str, str]] = {}

    def names(self, city: str) -> list[str]:
        """All names below the city's folder."""
        if city not in self._names:
            self._names[city] = dict(keys(self.web, self.address, f"spacenet/SN2_buildings/train/{city}/"))
        return list(self._names[city])

    def stamp(self, name: str) -> str:
        """Its version, as the listing gives it."""
        found = next(names[name] for names in self._names.values() if name in names)
        return f"{self.where} {name} {found}"

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return bytes(self.web.fetch(address_of(self.address, name)).content)

    def raster(self, name: str, stem: str) -> Raster:
        """A file, read part by part."""
        return raster_at(address_of(self.address, name), self.web, Path("/"), stem=stem)


class Folder(Store):
    """A folder that was unpacked."""

    def __init__(self, path: Path, web: Web) -> None:
        self.path, self.web = path, web
        self.where = str(path)

    def names(self, city: str) -> list[str]:
        """All files in it, however deep."""
        return [p.relative_to(self.path).as_posix() for p in self.path.rglob("*_img*") if p.is_file()]

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.path / name).read_bytes()

    def stamp(self, name: str) -> str:
        """A hash of it."""
        return input_digest(self.path / name)

    def raster(self, name: str, stem: str) -> Raster:
        """A file."""
        return raster_at(name, self.web, self.path, stem=stem)


class Archive(Store):
    """A .tar, .tar.gz or .tgz, read without unpacking it: names in it lead nowhere.

    A packed tar can only be read from its start, and a city is larger than memory: images are read one by one, best in
    the order in which they lie there.
    """

    _tar: tarfile.TarFile | None = None

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        self._digest = input_digest(path)
        self._footprints: dict[str, bytes] = {}
        self._images: dict[str, tuple[int, int]] = {}
        self._last: tuple[int, bytes] = (-1, b"")
        self._lock = threading.Lock()

    def names(self, city: str) -> list[str]:
        """The files in it that can be images or footprints of the city."""
        if not self._images and not self._footprints:
            self._index(city)
        return [*self._images, *self._footprints]

    def _index(self, city: str) -> None:
        """Note where images lie, and keep footprints, which are small.

        Raises:
            BadInputError: It is no tar, is damaged, or a file in it is too large.
        """
        kept = 0
        with self._named_errors(), tarfile.open(self.path, "r:*", tarinfo=Header) as tar:
            for member in tar:
                last = PurePosixPath(member.name).name
                if not member.isfile() or not is_of(city, last):
                    continue
                kept += member.size if last.endswith(".geojson") else 0
                if max(member.size, kept) > MEMBER_BYTES:
                    raise BadInputError(self.path, f"{last} of {member.size:,} bytes", "less", "Unpack it.")
                if last.endswith(".geojson"):
                    self._footprints.setdefault(member.name, _content(tar, member))
                else:
                    self._images.setdefault(member.name, (member.offset_data, member.size))

    def place(self, name: str) -> int:
        """Where a file lies."""
        return self._images[name][0]

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        if name in self._footprints:
            return self._footprints[name]
        with self._lock:
            if self._last[0] != self.place(name):
                self._last = (-1, b"")  # let go of the one before, so that two are never held
                with self._named_errors():
                    self._last = self.place(name), self._found(self.place(name))
            return self._last[1]

    def _found(self, place: int) -> bytes:
        """The file that lies there, looked for from where the last one was."""
        if self._tar is None or self._tar.offset > place:
            self.close()
            self._tar = tarfile.open(self.path, "r:*", tarinfo=Header)  # noqa: SIM115 - it stays open for the next
        while (member := self._tar.next()) is not None:
            if member.offset_data == place:
                return _content(self._tar, member)
        raise tarfile.ReadError("it changed while it was read")

    def close(self) -> None:
        """Close the tar; it is opened again when needed."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None

    def __del__(self) -> None:
        self.close()

    def stamp(self, name: str) -> str:
        """The whole tar's, and the name in it."""
        return f"{self._digest} {name}"

    def raster(self, name: str, stem: str) -> Raster:
        """A file in it."""
        data = MemberBytes(self, name, self._images[name][1])
        return Raster(None, data, data.where, stem, self.stamp(name))

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except RoofError:
            raise
        except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise BadInputError(self.path, f"no whole tar ({error})", "a tar", "Fetch it again.") from None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


class Header(tarfile.TarInfo):
    """A header that must be whole: tarfile itself takes a broken one for the end, and files after it are lost."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
        """The header in a block of bytes.

        Raises:
            tarfile.ReadError: It is broken.
        """
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if bytes(buf) == bytes(tarfile.BLOCKSIZE):  # the end of the archive
                raise
            raise tarfile.ReadError(f"a broken header: {error}") from None


class MemberBytes(RemoteBytes):
    """The bytes of a file in an archive, as `RemoteBytes` gives those of an address; read when needed."""

    def __init__(self, archive: Archive, name: str, size: int) -> None:
        self.archive, self.name, self.size, self.version = archive, name, size, ""
        self.where = f"{archive.path}: {name}"

    def read(self, start: int, count: int) -> bytes:
        """`count` bytes from `start`, fewer at the end of the file."""
        return self.archive.read(self.name)[start : start + count]
