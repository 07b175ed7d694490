"""The source `spacenet`: images and building footprints of a SpaceNet-2 city, from its bucket, a folder or a tar.

Source: Van Etten et al. 2018, arXiv:1807.01232; CC BY-SA 4.0.
"""

import json
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rasterio.windows import Window

from roofkit.artifacts import digest
from roofkit.cli import say
from roofkit.errors import BadInputError, MissingInputError, SettingsError
from roofkit.raster import Pixels, Valid, grid_of
from sources.area import LONLAT, Area
from sources.bucket import address_of, keys
from sources.cog import Raster, expanded, plain_name, raster_at, read_stack, stack_scenes
from sources.range_file import RemoteBytes
from sources.scenes import Scene, Source
from sources.web import Web

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
        images, _ = pairs(self._store.names(city), city, product)
        if not images:
            found = f"no {product} image of {city}"
            raise MissingInputError(self._store.where, found, "its images", "Check address, collection and assets.")
        self.numbers = sorted(images)
        if self._store.remote:
            self._choose_first(len(images))
        scenes: list[Scene] = []
        for number in list(self.numbers):
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
        tables = []
        for number in self.numbers:
            if number not in self._footprints:
                continue
            table = footprints(self._store.read(self._footprints[number]), self._footprints[number])
            tables.append(table.assign(image=f"{city}_img{number}"))
        filled = [table for table in tables if len(table)]
        if not filled:
            raise MissingInputError(self._store.where, "footprints without a building", "some", "Take more images.")
        return gpd.GeoDataFrame(pd.concat(filled, ignore_index=True), crs=LONLAT)

    def labels_request(self) -> Mapping[str, Any] | None:
        """Which footprints; None where there are none."""
        without = [number for number in self.numbers if number not in self._footprints]
        if len(without) == len(self.numbers):
            say("no footprints there: no labels are written")
            return None
        if without:
            say(f"{len(without)} images have no footprints (img{without[0]}, …)")
        return {"city": self._city(), "numbers": self.numbers, "store": self._store.version}

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
        if not number or f"_{city}_" not in f"_{last}":
            continue
        if last.endswith(".tif") and any(f"{kind}_" in last for kind in PRODUCTS[product]):
            images.setdefault(int(number[1]), name)
        elif last.endswith(".geojson") and "buildings" in last:
            shapes.setdefault(int(number[1]), name)
    return images, shapes


def touches(raster: Raster, area: Area) -> bool:
    """Whether any of a raster is inside an area."""
    with raster.open() as src:
        return area.window(grid_of(src)) is not None


def footprints(data: bytes, name: str) -> "gpd.GeoDataFrame":
    """The polygons of a footprints file, flat; none where it has no feature.

    Raises:
        BadInputError: It is no GeoJSON.
    """
    import geopandas as gpd
    import shapely

    try:
        features = json.loads(data).get("features", [])
        shapes = [shapely.from_geojson(json.dumps(f["geometry"])) for f in features if f.get("geometry")]
        table = [f.get("properties") or {} for f in features if f.get("geometry")]
    except (ValueError, AttributeError, KeyError, TypeError, shapely.errors.ShapelyError) as error:
        raise BadInputError(name, f"no GeoJSON ({error})", "footprints", "Fetch that file again.") from None
    shapes = list(shapely.make_valid(shapely.force_2d(shapes), method="structure", keep_collapsed=False))
    keep = [shape.geom_type in ("Polygon", "MultiPolygon") and shape.area > 0 for shape in shapes]
    rows = [{str(k): v for k, v in row.items() if not isinstance(v, (dict, list))} for row in table]
    found = gpd.GeoDataFrame(rows, geometry=shapes, crs=LONLAT) if shapes else gpd.GeoDataFrame(geometry=[], crs=LONLAT)
    return found[keep]


class Store(ABC):
    """Where images and footprints lie."""

    where: str
    version: str
    remote = False

    @abstractmethod
    def names(self, city: str) -> list[str]:
        """The names of all files, with `/` between folders."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file."""

    @abstractmethod
    def raster(self, name: str, stem: str) -> Raster:
        """A file as a raster."""


class Bucket(Store):
    """SpaceNet's bucket, or one laid out like it."""

    remote = True

    def __init__(self, web: Web, address: str) -> None:
        self.web, self.address = web, address
        self.where = self.version = web.safe(address)
        self._names: dict[str, list[str]] = {}

    def names(self, city: str) -> list[str]:
        """All names below the city's folder."""
        if city not in self._names:
            self._names[city] = list(keys(self.web, self.address, f"spacenet/SN2_buildings/train/{city}/"))
        return self._names[city]

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
        self.where = self.version = str(path)

    def names(self, city: str) -> list[str]:
        """All files in it, however deep."""
        return [p.relative_to(self.path).as_posix() for p in self.path.rglob("*_img*") if p.is_file()]

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.path / name).read_bytes()

    def raster(self, name: str, stem: str) -> Raster:
        """A file."""
        return raster_at(name, self.web, self.path, stem=stem)


class Archive(Store):
    """A .tar, .tar.gz or .tgz, read without unpacking it: names in it lead nowhere.

    Raises:
        BadInputError: It is no tar, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        self.version = digest(path)
        self._members: dict[str, bytes] = {}

    def names(self, city: str) -> list[str]:
        """The files in it that can be images or footprints of the city."""
        if not self._members:
            self._members = self._read(city)
        return list(self._members)

    def _read(self, city: str) -> dict[str, bytes]:
        """Files by name; a packed tar can only be read from its start, so all are kept in memory, once."""
        found: dict[str, bytes] = {}
        try:
            with tarfile.open(self.path, "r:*") as tar:
                for member in tar:
                    last = PurePosixPath(member.name).name
                    if not member.isfile() or not NUMBER.search(last) or f"_{city}_" not in f"_{last}":
                        continue
                    if member.size > MEMBER_BYTES:
                        raise BadInputError(self.path, f"{last} of {member.size:,} bytes", "less", "Unpack it.")
                    file = tar.extractfile(member)
                    found[member.name] = file.read() if file else b""
        except (tarfile.TarError, EOFError, OSError) as error:
            if isinstance(error, BadInputError):
                raise
            raise BadInputError(self.path, f"no whole tar ({error})", "a tar", "Fetch it again.") from None
        return found

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return self._members[name]

    def raster(self, name: str, stem: str) -> Raster:
        """A file, in memory."""
        return Raster(None, MemoryBytes(self._members[name], f"{self.path}: {name}"), name, stem, self.version + name)


class MemoryBytes(RemoteBytes):
    """Bytes that are here already, as `RemoteBytes` gives them."""

    def __init__(self, data: bytes, where: str) -> None:
        self._whole, self.size, self.where, self.version = data, len(data), where, ""
