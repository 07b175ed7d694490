"""Which sources of imagery and labels there are: one line each, so that a new one is one file and one line here."""

import importlib
from collections.abc import Callable
from typing import Any

from sources.scenes import Source

IMAGERY = {
    "sample": "sources.synthetic:SampleTown",
    "earthengine": "sources.earthengine:EarthEngine",
    "stac": "sources.stac:Stac",
    "cog": "sources.cog:Cogs",
    "xyz": "sources.xyz:Xyz",
    "spacenet": "sources.spacenet:SpaceNet",
}
LABELS = {
    "osm": "sources.osm:osm_buildings",
    "open-buildings": "sources.open_buildings:open_buildings",
    "file": "sources.label_file:labels_of_file",
}


def imagery_source(name: str) -> type[Source]:
    """The class of a source of imagery."""
    found: type[Source] = _load(IMAGERY[name])
    return found


def label_source(name: str) -> Callable[..., Any]:
    """A function from settings, area, web and folder to a GeoDataFrame of roof polygons."""
    found: Callable[..., Any] = _load(LABELS[name])
    return found


def _load(place: str) -> Any:
    """An object by its module and name; only the source that is used is imported, since some take seconds."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
