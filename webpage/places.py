"""Scenes on maps: those that adjoin become one place, and what is known of it lies on one grid."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from roofkit.errors import BadInputError, MissingInputError
from roofkit.footprints import pixel_metres
from roofkit.pairs import place_of
from roofkit.raster import Grid, band_names, data_bands, grid_of, is_rgb, open_raster
from webpage.layers import Piece

ALIKE = 1e-3  # by which the pixel sizes of scenes on one map may differ, as a share
COLOURS = ("red", "green", "blue")
Offsets = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Scene:
    """A scene's file and grid."""

    path: Path
    grid: Grid


@dataclass(frozen=True)
class Place:
    """Scenes that adjoin, on a grid of `height` x `width` pixels of `metres` (down, across; None: not known)."""

    name: str
    scenes: tuple[Piece, ...]
    height: int
    width: int
    metres: tuple[float, float] | None

    @property
    def offsets(self) -> Offsets:
        """Row and column of each scene, by its name."""
        return {piece.path.stem: (piece.row, piece.col) for piece in self.scenes}

    def pieces(self, files: Iterable[Path]) -> list[Piece]:
        """Where chips, blocks or maps lie, as their names say; those of other scenes are left out."""
        found = []
        for path in files:
            for scene, row, col in (place_of(path.stem), (path.stem, 0, 0)):
                if scene in self.offsets:
                    down, across = self.offsets[scene]
                    found.append(Piece(path, down + row, across + col))
                    break
        return found


def scenes_of(paths: Iterable[Path]) -> list[Scene]:
    """The scenes, looked at."""
    found = []
    for path in paths:
        with open_raster(path) as src:
            found.append(Scene(path, grid_of(src)))
    return found


def places_of(scenes: Sequence[Scene]) -> list[Place]:
    """The places that scenes make, the largest first."""
    found = [_place(group) for group in _groups(scenes)]
    return sorted(found, key=lambda place: (-place.height * place.width, place.name))


def _groups(scenes: Sequence[Scene]) -> list[list[Scene]]:
    """Scenes that can lie on one grid and touch each other."""
    kinds: list[list[Scene]] = []
    for scene in scenes:
        kind = next((kind for kind in kinds if _alike(kind[0].grid, scene.grid)), None)
        if kind is None:
            kinds.append(kind := [])
        kind.append(scene)
    return [group for kind in kinds for group in _touching(kind)]


def _alike(one: Grid, other: Grid) -> bool:
    """Whether both are upright, in one CRS and of one pixel size."""
    upright = all(grid.transform.b == grid.transform.d == 0 for grid in (one, other))
    north = all(grid.transform.a > 0 > grid.transform.e for grid in (one, other))
    sizes = np.abs([other.transform.a / one.transform.a - 1, other.transform.e / one.transform.e - 1]) if north else 1
    return bool(upright and north and one.crs is not None and one.crs == other.crs and np.max(sizes) < ALIKE)


def _touching(scenes: list[Scene]) -> list[list[Scene]]:
    """The scenes, apart where their ground is apart by more than a pixel."""
    if len(scenes) == 1:
        return [scenes]
    gap = scenes[0].grid.transform.a
    boxes = [shapely.box(*scene.grid.bounds).buffer(gap, join_style="mitre") for scene in scenes]
    parts = shapely.get_parts(shapely.union_all(boxes))
    found, where = shapely.STRtree(parts).query(shapely.centroid(boxes), predicate="intersects")
    groups: dict[int, list[Scene]] = {}
    for scene, part in zip(found.tolist(), where.tolist()):
        groups.setdefault(part, []).append(scenes[scene])
    return list(groups.values())


def _place(scenes: list[Scene]) -> Place:
    """One map of these scenes."""
    first = scenes[0].grid.transform
    if len(scenes) == 1:
        corners = [(0, 0)]
    else:
        left, top = (f(s.grid.bounds[i] for s in scenes) for f, i in ((min, 0), (max, 3)))
        bounds = [scene.grid.bounds for scene in scenes]
        corners = [(round((top - b[3]) / -first.e), round((b[0] - left) / first.a)) for b in bounds]
    ends = [(row + s.grid.height, col + s.grid.width) for (row, col), s in zip(corners, scenes)]
    pieces = tuple(Piece(scene.path, *corner) for scene, corner in zip(scenes, corners))
    height, width = (max(end[axis] for end in ends) for axis in (0, 1))
    return Place(name_of([s.path.stem for s in scenes]), pieces, height, width, metres_of(scenes[0]))


def metres_of(scene: Scene) -> tuple[float, float] | None:
    """Height and width of a pixel on the ground; None where the scene lies nowhere on Earth."""
    try:
        metres = pixel_metres(scene.grid, scene.path)
    except (MissingInputError, BadInputError):
        return None
    return float(np.hypot(metres.b, metres.e)), float(np.hypot(metres.a, metres.d))


def name_of(names: Sequence[str]) -> str:
    """What people call scenes of these names."""
    if len(names) == 1:
        return names[0]
    count = next((i for i, letters in enumerate(zip(*names)) if len(set(letters)) > 1), min(map(len, names)))
    shared = re.sub(r"[\W\d_]+$", "", names[0][:count])
    return f"{shared or names[0]} ({len(names)} scenes)"


def shown_bands(path: Path, wanted: tuple[int, int, int] | None) -> tuple[tuple[int, ...], list[str]]:
    """Numbers (from 1) and names of the bands that are shown as red, green and blue; of one or two bands the first.

    Raises:
        BadInputError: The raster does not have the wanted bands.
    """
    with open_raster(path) as src:
        names, count, tagged = band_names(src), len(data_bands(src)), is_rgb(src)
    if wanted and max(wanted) > count:
        found = f"{count} bands, where report_args.bands is {list(wanted)}"
        raise BadInputError(path, found, "bands that it has", "Correct report_args.bands.")
    lower = [name.lower() for name in names]
    if wanted is None and not tagged and set(COLOURS) <= set(lower):
        red, green, blue = (lower.index(colour) + 1 for colour in COLOURS)
        wanted = (red, green, blue)
    bands = wanted or ((1, 2, 3) if count >= 3 else (1,))
    return bands, [names[band - 1] for band in bands]
