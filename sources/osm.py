"""The labels `osm`: buildings of OpenStreetMap with all their tags, through OSMnx and an Overpass server."""

import contextlib
import json
import re
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import osmnx
import pandas as pd
import requests
import shapely

from roofkit.cli import say
from roofkit.errors import MissingInputError, RoofError
from roofkit.labels import valid_shapes
from roofkit.settings import DownloadArgs
from roofkit.stopping import raise_if_stopped
from roofkit.vectors import RESERVED, safe_names
from roofkit.web import FAULTS, REDIRECTS, TRANSIENT, Web, WebError, pause_before, status
from sources.area import LONLAT, Area

MATERIAL = "roof:material"
OWN_NAMES = ("element", "geometry", "id")  # OSMnx puts these beside the tags: a tag of that name would replace them


NO_BUILDING = ("no", "demolished", "razed")  # values of the tag that say there is none


class PassingError(Exception):
    """An answer that may be another one the next time."""

    def __init__(self, response: requests.Response, found: str | None = None) -> None:
        super().__init__(found or status(response))
        self.response = response


def osm_buildings(settings: DownloadArgs, area: Area, web: Web, folder: Path) -> gpd.GeoDataFrame:
    """Polygons of every building that touches the area, `osm_id` and a text column for each tag, in EPSG:4326.

    Raises:
        WebError: The server is not reached, refuses, or ran out of time or memory.
        MissingInputError: There is no building.
    """
    url = settings.overpass_url.rstrip("/")
    web.check(url)
    try:
        with _settings(settings, web, url):
            found = _asked(settings, area, web, url)
    except osmnx._errors.InsufficientResponseError:
        found = gpd.GeoDataFrame()
    if "building" in found:
        found = found[~found["building"].isin(NO_BUILDING)]
    found = found[~found.index.duplicated()]  # large areas are asked for in parts, and a building may touch two
    shapes = found.geometry if len(found) else ()
    keep = [shape is not None and shape.geom_type in ("Polygon", "MultiPolygon") for shape in shapes]
    if not any(keep):
        where = ", ".join(f"{bound:.5f}" for bound in area.bounds)
        expected = "buildings mapped there"
        advice = "Check the area; or draw roofs yourself (QGIS), or use labels open-buildings."
        raise MissingInputError(web.safe(url), f"no building polygon in {where}", expected, advice)
    buildings = tidy(found[keep])
    _tell(buildings, dropped=len(keep) - sum(keep))
    return buildings


def tidy(found: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """What OSMnx gives (index: kind and number) in an order and under names that any file can have."""
    kinds = found.index.get_level_values(0).astype(str)
    numbers = found.index.get_level_values(1).astype("int64")
    table = pd.DataFrame({"osm_id": [f"{kind}/{number}" for kind, number in zip(kinds, numbers)]})
    tags = found.drop(columns=found.geometry.name).reset_index(drop=True)
    names = safe_names(sorted(map(str, tags.columns)), (*RESERVED, "osm_id"))
    for name, safe in names.items():
        table[safe] = [None if pd.isna(value) else str(value) for value in tags[name]]
    shapes = valid_shapes(shapely.force_2d(found.geometry.to_numpy()))
    order = sorted(range(len(table)), key=lambda i: (kinds[i], numbers[i]))
    return gpd.GeoDataFrame(table, geometry=shapes, crs=LONLAT).iloc[order].reset_index(drop=True)


def _tell(buildings: gpd.GeoDataFrame, *, dropped: int) -> None:
    say("labels: © OpenStreetMap contributors, ODbL")
    if dropped:
        say(f"{dropped} buildings are points or lines without a roof outline; left out")
    known = buildings[MATERIAL].value_counts() if MATERIAL in buildings else pd.Series(dtype=int)
    common = ", ".join(f"{name} {count}" for name, count in sorted(known.items(), key=lambda i: (-i[1], i[0]))[:6])
    say(
        f"{len(buildings)} buildings, {int(known.sum())} with {MATERIAL}"
        + (f" ({common})" if common else "; without materials every building counts as roof")
    )


@contextlib.contextmanager
def _settings(settings: DownloadArgs, web: Web, url: str) -> Iterator[None]:
    """OSMnx without cache, status page, DNS over another host and redirects; as it was, afterwards.

    It also binds the server's name to one of its addresses, for this whole process: undone here.
    """

    def look(response: requests.Response, *args: Any, **kwargs: Any) -> None:
        _check_status(response, web)
        web.read(response, time.monotonic())  # a large area is many requests, each with the deadline
        answer = answer_of(response)
        if remark := remark_of(answer):
            advice = "Ask for a smaller area, or try again later."
            raise WebError(web.safe(url), f"an answer in part ({web.safe(remark)})", "all buildings", advice)
        if rename_tags(answer["elements"]):
            response._content = json.dumps(answer).encode()

    seconds = max(1, int(settings.timeout))  # Overpass takes whole ones only
    changes = dict(
        use_cache=False, overpass_rate_limit=False, doh_url_template=None, requests_timeout=settings.timeout,
        overpass_settings=f"[out:json][timeout:{seconds}]{{maxsize}}",
        overpass_url=url, http_user_agent="roof-classify", log_file=False, log_console=False,
        requests_kwargs={"allow_redirects": False, "hooks": {"response": look}, **web.environment(url)},
    )  # fmt: skip
    before = {name: getattr(osmnx.settings, name) for name in changes}
    lookup = socket.getaddrinfo
    try:
        for name, value in changes.items():
            setattr(osmnx.settings, name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a large area is asked for in parts
            yield
    finally:
        socket.getaddrinfo = lookup
        for name, value in before.items():
            setattr(osmnx.settings, name, value)


def _check_status(response: requests.Response, web: Web) -> None:
    """Raise unless the status is 200."""
    if response.status_code in TRANSIENT:
        raise PassingError(response)
    if response.status_code in REDIRECTS:
        advice = "Give the address that it leads to (--overpass-url)."
        raise WebError(web.safe(response.url), "a redirect", "an answer", advice)
    if response.status_code != 200:
        raise web.refused(response)


def answer_of(response: requests.Response) -> dict[str, Any]:
    """The JSON of an answer, which has `elements`.

    Raises:
        PassingError: It is something else, as the page that a busy server shows.
    """
    try:
        answer = response.json()
    except ValueError:
        raise PassingError(response, "an answer that is not JSON") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("elements"), list):
        raise PassingError(response, "an answer without elements, which is not Overpass's")
    return answer


def remark_of(answer: dict[str, Any]) -> str | None:
    """What Overpass says where it gave up half-way, with status 200 all the same."""
    remark = str(answer.get("remark", ""))
    return remark if re.search("error|timed out|memory", remark, re.IGNORECASE) else None


def rename_tags(elements: list[Any]) -> bool:
    """Put `tag:` before the tags that OSMnx would take for its own names; whether there are any."""
    renamed = False
    for element in elements:
        tags = element.get("tags", {}) if isinstance(element, dict) else {}
        for name in tags.keys() & OWN_NAMES:
            other = f"tag:{name}"
            while other in tags:
                other += "_"
            tags[other] = tags.pop(name)
            renamed = True
    return renamed


def _asked(settings: DownloadArgs, area: Area, web: Web, url: str) -> gpd.GeoDataFrame:
    """What OSMnx finds; faults that may pass are tried again."""
    started, number = time.monotonic(), 0
    while True:
        response: requests.Response | None = None
        try:
            return osmnx.features_from_polygon(area.shape, {"building": True})
        except PassingError as error:
            response, problem = error.response, str(error)
        except (RoofError, osmnx._errors.InsufficientResponseError):
            raise
        except FAULTS as error:
            problem = web.safe(error)
        except (AttributeError, KeyError, TypeError) as error:
            found = f"elements that are not Overpass's ({type(error).__name__})"
            raise WebError(web.safe(url), found, "its JSON", "Check --overpass-url.") from None
        pause = pause_before(number, response)
        number += 1
        if number > settings.retries or time.monotonic() - started + pause > settings.deadline:
            advice = "Try again later, or give another server with --overpass-url."
            raise WebError(web.safe(url), f"{problem} after {number} tries", "an answer", advice)
        raise_if_stopped()
        time.sleep(pause)
