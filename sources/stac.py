"""The source `stac`: the part inside the area of the rasters that a STAC catalogue knows, found with pystac-client."""

import difflib
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import pystac
from pystac.stac_io import DefaultStacIO
from pystac_client import Client, ConformanceClasses
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from rasterio.windows import Window
from shapely import make_valid
from shapely.errors import ShapelyError
from shapely.geometry import box, shape

from roofkit.cli import say
from roofkit.errors import BadInputError, MissingInputError, RoofError, SettingsError
from roofkit.raster import Pixels, Valid
from roofkit.web import Web, WebError, expanded
from sources.cog import Raster, distinct, plain_name, raster_at, read_stack, stack_scenes
from sources.scenes import Scene, Source

MOST_ITEMS = 2000  # of an API's answer
MOST_DOCUMENTS = 2000  # of a static catalogue, read in search of items
MALFORMED = (
    APIError,
    pystac.STACError,
    pystac.STACTypeError,
    ShapelyError,
    RecursionError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
)  # what documents that are no proper STAC raise in pystac and here
SIGN = "https://planetarycomputer.microsoft.com/api/sas/v1/sign?href="


@dataclass(frozen=True)
class Preset:
    """A catalogue that is often used."""

    address: str
    collection: str | None
    assets: tuple[str, ...]
    signed: bool = False
    """Assets need a signature of the Planetary Computer, which is free and needs no account."""


PRESETS = {
    "earth-search": Preset(
        "https://earth-search.aws.element84.com/v1", "sentinel-2-c1-l2a", ("red", "green", "blue", "nir")
    ),
    "earth-search-naip": Preset("https://earth-search.aws.element84.com/v1", "naip", ("image",)),
    "planetary-computer": Preset(
        "https://planetarycomputer.microsoft.com/api/stac/v1", "naip", ("image",), signed=True
    ),
    "openaerialmap": Preset("https://api.imagery.hotosm.org/stac", "openaerialmap", ("visual",)),
    "maxar": Preset("https://maxar-opendata.s3.amazonaws.com/events/catalog.json", None, ("visual",)),
}


class Reader:
    """Documents of a catalogue, through `Web`; files only of a catalogue that is a file itself.

    Args:
        web: How to reach it.
        folder: That of a catalogue on this machine; None: it is elsewhere.
    """

    def __init__(self, web: Web, folder: Path | None) -> None:
        self.web, self.folder = web, folder
        self.documents = 0

    def read(self, method: str, href: str, headers: Any = None, **body: Any) -> str:
        """The text of a document.

        Raises:
            RoofError: It cannot be had, is a file of this machine named by a server, or is one too many.
        """
        self.documents += 1
        if self.documents > MOST_DOCUMENTS:
            advice = "Name one with --collection, or a smaller part of the catalogue with --address."
            found = f"more than {MOST_DOCUMENTS} documents"
            raise MissingInputError("catalogue", found, "items that are found sooner", advice)
        if "://" not in href:
            return self._own_file(href)
        response = self.web.send(self.web.prepared(method, href, headers=headers, **body))
        if not 200 <= response.status_code < 300:
            raise self.web.refused(response)
        return str(response.content.decode("utf-8"))

    def _own_file(self, href: str) -> str:
        path = Path(href).resolve()
        if self.folder is None or not path.is_relative_to(self.folder):
            found = "a file of this machine, named by a catalogue elsewhere"
            raise BadInputError(href, found, "an address", "Do not use that catalogue.")
        return path.read_text(encoding="utf-8")


class ApiIO(StacApiIO):
    """pystac-client's way to an API, through a `Reader`."""

    def __init__(self, reader: Reader) -> None:
        super().__init__(max_retries=None)
        self.reader = reader

    def request(self, href: str, method: Any = None, headers: Any = None, parameters: Any = None) -> str:
        """The text of an answer."""
        method = (method or "GET").upper()
        body = {"json": parameters} if method == "POST" else {"params": parameters or {}}
        return self.reader.read(method, href, headers, **body)


class CatalogueIO(DefaultStacIO):
    """pystac's way to the documents of a static catalogue, through a `Reader`."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.reader = reader

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """The text of a document."""
        return self.reader.read("GET", str(source))


class Stac(Source):
    """The newest items of a collection in the area."""

    name = "stac"

    def plan(self) -> list[Scene]:
        """The scenes of the items' assets; assets of one item become the bands of one scene."""
        area = self.needed_area()
        preset, address = self._service()
        items = self._items(address, preset)
        wanted = self.settings.assets or (preset.assets if preset else None)
        scenes: list[Scene] = []
        taken: set[str] = set()
        for item in items:
            rasters = [self._asset(item, name, address, preset) for name in assets_of(item, wanted)]
            stem = distinct(plain_name(item.id), taken)
            found_scenes = stack_scenes(rasters, stem, self.settings, area)
            if not found_scenes:
                say(f"{item.id}: no pixel of it is inside the area; left out")
            scenes += found_scenes
        if not scenes:
            found = f"{len(items)} items, none with a pixel inside the area"
            raise MissingInputError(self.web.safe(address), found, "imagery of the area", "Change area or dates.")
        self.licence = licence_line(items)
        return scenes

    def fetch(self, scene: Scene, window: Window) -> tuple[Pixels, Valid]:
        """A window of an item's assets."""
        return read_stack(scene, window, self.settings)

    def _service(self) -> tuple[Preset | None, str]:
        """The preset, and where the catalogue is: an address, or an absolute file name."""
        name = self.settings.preset
        if name is not None and name not in PRESETS:
            raise SettingsError("download_args.preset", repr(name), f"one of {', '.join(PRESETS)}", "Correct it.")
        preset = PRESETS[name] if name else None
        address = self.settings.address[0] if self.settings.address else preset and preset.address
        if not address:
            advice = f"Give --address ADDRESS, or --preset {'|'.join(PRESETS)}."
            raise SettingsError("download_args.address", "null", "a STAC API or catalogue", advice)
        full = expanded(address, self.web)
        if "://" not in full:
            return preset, str((self.folder / full).resolve())
        self.web.give(full)
        self.web.give_near(full)
        return preset, full

    def _items(self, address: str, preset: Preset | None) -> list[pystac.Item]:
        """At most `items` of them, newest first."""
        where = self.web.safe(address)
        local = None if "://" in address else Path(address).parent
        if local is not None and not Path(address).is_file():
            raise MissingInputError(address, "no such file", "a catalogue", "Check download_args.address.")
        reader = Reader(self.web, local)
        collection = self.settings.collection or (preset.collection if preset else None)
        try:
            root = json.loads(reader.read("GET", address))
            if is_searchable(root):
                found = self._searched(Client.open(address, stac_io=ApiIO(reader)), collection)
                if collection and not found:
                    check_collection(root, address, collection, reader)
            else:
                found = list(self._walked(pystac.read_file(address, CatalogueIO(reader)), collection))
            items = [item for item in found if self._fits(item)]
        except MALFORMED as error:
            for own in (error, error.__cause__, error.__context__):  # pystac wraps what its reader raises
                if isinstance(own, RoofError):
                    raise own from None
            found_text = f"no STAC catalogue ({self.web.safe(error) or type(error).__name__})"
            raise BadInputError(where, found_text, "an API or catalogue", "Check the address.") from None
        items.sort(key=lambda item: (str(item.datetime or item.properties.get("start_datetime") or ""), item.id))
        if not items:
            dates = f"{self.settings.start or 'any day'} to {self.settings.end or 'now'}"
            cloud = "" if self.settings.cloud is None else f", at most {self.settings.cloud:g} % cloud"
            text = f"no item of {collection or 'any collection'} in the area, {dates}{cloud}"
            raise MissingInputError(where, text, "at least one", "Change area, dates, cloud limit or collection.")
        chosen = items[::-1][: self.settings.items]
        if len(items) > len(chosen):
            say(f"{len(chosen)} of {len(items)} items are used, the newest; download_args.items allows more")
        return chosen

    def _searched(self, client: Client, collection: str | None) -> list[pystac.Item]:
        """Items that an API finds; clouds are looked at here, since not every API can."""
        start, end = self.settings.start, self.settings.end
        search = client.search(
            bbox=list(self.needed_area().bounds), collections=[collection] if collection else None,
            datetime=f"{start or '..'}/{end or '..'}" if start or end else None, limit=100, max_items=MOST_ITEMS,
            sortby="-properties.datetime" if client.conforms_to(ConformanceClasses.SORT) else None,
        )  # fmt: skip
        found = list(search.items())
        if len(found) == MOST_ITEMS:
            say(f"more than {MOST_ITEMS} items are in the area and only so many were looked at: narrow the dates")
        return found

    def _walked(self, root: Any, collection: str | None) -> Iterator[pystac.Item]:
        """Items of a static catalogue, but for collections that lie elsewhere."""
        if isinstance(root, pystac.Item):
            yield root
            return
        start = root if collection is None else child_of(root, collection)
        for catalog in below(start, self._reaches):
            yield from (item for item in catalog.get_items() if item is not None)

    def _reaches(self, catalog: pystac.Catalog) -> bool:
        """Whether a catalogue can hold items of the area; only collections say where they are."""
        extent, area = getattr(catalog, "extent", None), box(*self.needed_area().bounds)
        return extent is None or any(box(*flat(bounds)).intersects(area) for bounds in extent.spatial.bboxes)

    def _fits(self, item: pystac.Item) -> bool:
        """Whether an item lies in the area, between the dates, below the cloud limit."""
        place = shape(item.geometry) if item.geometry else box(*flat(item.bbox or [0, 0, 0, 0]))
        if not make_valid(place).intersects(self.needed_area().shape):
            return False
        first = str(item.properties.get("start_datetime") or item.properties.get("datetime") or "")[:10]
        last = str(item.properties.get("end_datetime") or first)[:10]
        start, end, limit = self.settings.start, self.settings.end, self.settings.cloud
        if (start and last and last < start) or (end and first and first >= end):
            return False
        cloud = item.properties.get("eo:cloud_cover")
        return limit is None or cloud is None or float(cloud) <= limit

    def _asset(self, item: pystac.Item, name: str, catalogue: str, preset: Preset | None) -> Raster:
        try:
            return self._raster(item, name, catalogue, preset)
        except ValueError as error:
            if isinstance(error, RoofError):
                raise
            href = self.web.safe(item.assets[name].href)[:200]
            raise BadInputError(
                href, f"not an address ({item.id}, {name})", "one", "Tell the catalogue's owner."
            ) from None

    def _raster(self, item: pystac.Item, name: str, catalogue: str, preset: Preset | None) -> Raster:
        href = item.assets[name].get_absolute_href() or item.assets[name].href
        if href.startswith("s3://"):
            bucket, _, key = href.removeprefix("s3://").partition("/")
            href = f"https://{bucket}.s3.amazonaws.com/{key}"
        if "://" not in href and "://" in catalogue:
            own = item.get_self_href() or catalogue
            if href.startswith("/") or "://" not in own:
                found = "a file of this machine, named by a catalogue elsewhere"
                raise BadInputError(href, found, "an address", "Do not use that catalogue.")
            href = urljoin(own, href)
        if "://" not in href and not Path(href).resolve().is_relative_to(Path(catalogue).parent):
            raise BadInputError(href, "outside of its catalogue's folder", "a file in it", "Move it there.")
        if preset and preset.signed and urlsplit(href).scheme == "https":
            href = self._signed(href)
        found_raster = raster_at(href.replace("${", "$ {"), self.web, Path("/"), given=False, stem=name)
        return replace(found_raster, names=names_in(item.assets[name], name))

    def _signed(self, href: str) -> str:
        response = self.web.fetch(SIGN + quote(href, safe=""))
        try:
            signed = str(response.json()["href"])
        except (ValueError, KeyError, TypeError):
            where = self.web.safe(SIGN)
            raise BadInputError(where, "no signature in its answer", "one", "Try again later.") from None
        self.web.hide(urlsplit(signed).query)
        return signed


def is_searchable(root: Any) -> bool:
    """Whether a document is the landing page of an API that finds items."""
    classes = root.get("conformsTo") or ()
    return any(re.match(ConformanceClasses.ITEM_SEARCH.pattern, str(name)) for name in classes)


def below(root: Any, wanted: Callable[[Any], bool]) -> Iterator[Any]:
    """A catalogue and those below it, level by level, each once; not those unwanted and what is below them."""
    families: deque[Iterable[Any]] = deque([[root]])
    seen = set()  # a catalogue may lead back to itself
    while families:
        for catalog in families.popleft():
            name = catalog.get_self_href() or id(catalog)
            if name not in seen and wanted(catalog):
                seen.add(name)
                yield catalog
                families.append(catalog.get_children())  # documents are read when it is their turn


def child_of(root: Any, collection: str) -> Any:
    """The catalogue or collection of that name.

    Raises:
        SettingsError: There is none.
    """
    names = []
    for catalog in below(root, lambda catalog: True):
        if catalog.id == collection:
            return catalog
        names.append(str(catalog.id))
    raise unknown_collection(collection, names[1:] or names)


def check_collection(root: Any, address: str, collection: str, reader: Reader) -> None:
    """Raise where an API says that it has no such collection; not all of them tell all that they have.

    Raises:
        SettingsError: There is none.
    """
    links = [link["href"] for link in root.get("links", ()) if link.get("rel") == "data"]
    if not links:
        return
    try:
        page = json.loads(reader.read("GET", urljoin(address, links[0]), params={"limit": 1000}))
    except WebError:
        return
    names = [str(found["id"]) for found in page.get("collections", ())]
    more = any(link.get("rel") == "next" for link in page.get("links") or ())
    if names and not more and collection not in names:
        raise unknown_collection(collection, names)


def unknown_collection(name: str, names: list[str]) -> SettingsError:
    """The error for a collection that is not there; of many others, those most like it are named."""
    like = difflib.get_close_matches(name, names, 5, 0.4)
    shown = ", ".join((like + [other for other in sorted(names) if other not in like])[:20])
    return SettingsError("download_args.collection", repr(name), f"one of {shown}", "Correct it.")


def names_in(asset: pystac.Asset, name: str) -> tuple[str, ...]:
    """Names of an asset's bands, as its item says; of a single band that of the asset."""
    bands = asset.extra_fields.get("bands") or asset.extra_fields.get("eo:bands") or ()
    names = [str(band.get("name") or "") if isinstance(band, dict) else "" for band in bands]
    return tuple(names) if len(names) > 1 and all(names) and len(set(names)) == len(names) else (name,)


def assets_of(item: pystac.Item, wanted: tuple[str, ...] | None) -> list[str]:
    """Names of an item's assets: those wanted; without a wish the only GeoTIFF.

    Raises:
        SettingsError: There is no such asset, or no only one.
    """
    have = ", ".join(item.assets)
    if wanted:
        for name in wanted:
            if name not in item.assets:
                raise SettingsError("download_args.assets", repr(name), f"of {item.id}: {have}", "Correct it.")
        return list(wanted)
    rasters = [name for name, asset in item.assets.items() if is_raster(asset)]
    data = [name for name in rasters if {"data", "visual"} & set(item.assets[name].roles or ())] or rasters
    if len(data) != 1:
        advice = "Set download_args.assets, in the order of bands."
        raise SettingsError("download_args.assets", f"null, and {item.id} has {have}", "which to fetch", advice)
    return data


def is_raster(asset: pystac.Asset) -> bool:
    """Whether an asset is a GeoTIFF."""
    kind = asset.media_type or ""
    return kind.startswith("image/tiff") or urlsplit(asset.href).path.lower().endswith((".tif", ".tiff"))


def flat(bounds: Any) -> list[float]:
    """West, south, east, north of a box with or without heights."""
    numbers = [float(number) for number in bounds]
    return numbers if len(numbers) == 4 else [numbers[0], numbers[1], numbers[3], numbers[4]]


def licence_line(items: list[pystac.Item]) -> str:
    """The licences that items name, as a line for the user."""
    found = {str(item.properties["license"]) for item in items if item.properties.get("license")}
    providers = [p for item in items for p in item.properties.get("providers") or () if isinstance(p, dict)]
    found |= {str(provider["name"]) for provider in providers if provider.get("name")}
    return f"licence and providers of this imagery: {', '.join(sorted(found))}" if found else ""
