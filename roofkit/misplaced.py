"""Roofs that lie on no imagery: where both are, and the CRS that would bring them together."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_crs_info
from pyproj.enums import PJType
from pyproj.exceptions import CRSError, ProjError

from roofkit.errors import MismatchError

FOOT = 0.3048
MOST = 200_000  # bounds that are remembered
Bounds = tuple[float, float, float, float]
Imagery = Sequence[tuple[CRS, Bounds]]  # the bounds of all rasters of a CRS, for each CRS


class Spots:
    """Where shapes lie: the bounds of each, or of every so many where there are more than can be remembered."""

    def __init__(self) -> None:
        self.bounds: Bounds | None = None
        """Of all shapes together: left, bottom, right, top."""
        self.boxes: NDArray[Any] = np.empty((0, 4))
        """Of the shapes that are remembered: (shapes, 4)."""
        self._step, self._seen = 1, 0

    def add(self, shapes: NDArray[Any]) -> None:
        """Take note of some more."""
        boxes = shapely.bounds(shapes)
        self.bounds = union([self.bounds, *([tuple(shapely.total_bounds(shapes).tolist())] if len(boxes) else [])])
        self.boxes = np.concatenate([self.boxes, boxes[-self._seen % self._step :: self._step]])
        self._seen += len(boxes)
        while len(self.boxes) > MOST:
            self.boxes, self._step = self.boxes[::2], self._step * 2


def misplaced(roofs: Spots, crs: CRS, imagery: Imagery, labels: Path, frames: str | Path) -> MismatchError:
    """The error that no roof lies on the imagery: both extents, and the CRS that would fit.

    Args:
        roofs: Where the roofs lie.
        crs: Their CRS.
        imagery: Where the imagery lies.
        labels: The file that the roofs come from.
        frames: The folder of the imagery.
    """
    lonlat = CRS.from_epsg(4326)
    here, there = (union(bounds_in(own, bounds, to) for own, bounds in imagery) for to in (crs, lonlat))
    found = (
        f"no roof lies on the imagery: the labels span {extent(roofs.bounds)} in {name_of(crs)} "
        f"(lon/lat {extent(bounds_in(crs, roofs.bounds, lonlat))}), "
        f"the imagery {extent(here)} (lon/lat {extent(there)})"
    )
    fitting = fitting_crs(roofs.boxes, imagery)
    advice = (
        f"The labels would lie on the imagery if their CRS were {fitting}: correct it (ogr2ogr -a_srs)."
        if fitting
        else "No usual CRS brings them together: check that both are of the same place."
    )
    return MismatchError(labels, found, f"polygons on {frames}", advice)


def union(bounds: Iterable[Bounds | None]) -> Bounds | None:
    """The bounds around those that exist."""
    known = np.array([one for one in bounds if one is not None])
    return (*known[:, :2].min(axis=0).tolist(), *known[:, 2:].max(axis=0).tolist()) if len(known) else None


def bounds_in(source: Any, bounds: Bounds | None, target: CRS) -> Bounds | None:
    """The same bounds in another CRS; None where that is undefined."""
    if bounds is None:
        return None
    try:
        move = Transformer.from_crs(CRS.from_user_input(source), target, always_xy=True)
        moved = move.transform_bounds(*bounds)
    except (ProjError, CRSError):
        return None
    return moved if np.isfinite(moved).all() else None


def extent(bounds: Bounds | None) -> str:
    """Bounds as `left..right, bottom..top`, with digits enough to tell places apart."""
    if bounds is None:
        return "outside it"
    digits = 4 if max(map(abs, bounds)) <= 360 else 0
    left, bottom, right, top = (f"{value:.{digits}f}" for value in bounds)
    return f"{left}..{right}, {bottom}..{top}"


def name_of(crs: CRS) -> str:
    """`EPSG:32644` where it has a number, else its name."""
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.name)


def fitting_crs(boxes: NDArray[Any], imagery: Imagery) -> str | None:
    """The CRS in which the labels' numbers would lie on the imagery, as words; None: no usual one.

    Args:
        boxes: left, bottom, right, top of each label: (labels, 4).
        imagery: Where the imagery lies.
    """
    best: tuple[int, str | None] = (0, None)
    for words, crs, numbers in candidates(boxes, imagery):
        hits = max(number_inside(numbers, bounds_in(own, bounds, crs)) for own, bounds in imagery)
        best = max(best, (hits, words), key=lambda pair: pair[0])
        if hits == len(boxes):
            break
    return best[1]


def candidates(boxes: NDArray[Any], imagery: Imagery) -> Iterator[tuple[str, CRS, NDArray[Any]]]:
    """CRSs to try, likeliest first: words for it, the CRS, and the labels' bounds as numbers in it."""
    swapped = boxes[:, [1, 0, 3, 2]]
    for crs in [*(own for own, _ in imagery), CRS.from_epsg(4326), CRS.from_epsg(3857)]:
        yield name_of(crs), crs, boxes
        yield f"{name_of(crs)} with its axes swapped (y before x)", crs, swapped
        if crs.is_projected:
            yield f"{name_of(crs)} in feet", crs, boxes * FOOT
    place = union(bounds_in(own, bounds, CRS.from_epsg(4326)) for own, bounds in imagery)
    if place:
        yield from ((name_of(crs), crs, boxes) for crs in local_crs(place))


def local_crs(place: Bounds) -> Iterator[CRS]:
    """The UTM zones at and beside a place in lon/lat, then all projected CRSs in use there."""
    zone = int((place[0] + place[2]) / 2 // 6) + 31
    for near in (zone, zone - 1, zone + 1):
        for hemisphere in (32600, 32700):
            yield CRS.from_epsg(hemisphere + (near - 1) % 60 + 1)
    area = AreaOfInterest(*place)
    for info in query_crs_info(auth_name="EPSG", pj_types=[PJType.PROJECTED_CRS], area_of_interest=area, contains=True):
        yield CRS.from_epsg(int(info.code))


def number_inside(boxes: NDArray[Any], box: Bounds | None) -> int:
    """How many of the bounds (boxes, 4) meet the box."""
    if box is None:
        return 0
    return int(((boxes[:, :2] < box[2:]).all(axis=1) & (boxes[:, 2:] > box[:2]).all(axis=1)).sum())
