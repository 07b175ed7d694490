"""A made-up town: synthetic four-band imagery with the polygon of every roof in it.

Nothing here was ever photographed. The town is drawn from a seed, placed near Gorakhpur, India, and made so that colour
alone does not tell metal roofs from the rest: concrete, clay, soil and tarpaulins share their spectra. What tells them
apart is structure: a ridge between two planes lit differently and corrugation that runs down the slope.

Lengths are pixels (0.5 m), x to the right and y down, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import atan2, ceil, cos, hypot, pi, radians, sin, sqrt, tan
from typing import Any, TypeAlias

import geopandas as gpd
import numpy as np
from affine import Affine
from numpy.random import Generator
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy import ndimage
from shapely import affinity, contains_xy, union_all
from shapely.geometry import LineString, MultiPoint, Polygon, box

from sources.synthetic import EPSG, GSD, ORIGIN

MAX_VALUE = 2047  # 11 bits, as the common half-metre satellites deliver

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Spectrum: TypeAlias = Sequence[float] | Floats
_Street: TypeAlias = tuple[LineString, float]  # centre line, width

# Reflectance in red, green, blue, nir.
GROUND = {
    "asphalt": (0.15, 0.15, 0.16, 0.17),
    "lane": (0.27, 0.24, 0.20, 0.30),
    "soil": (0.29, 0.25, 0.20, 0.34),
    "bright soil": (0.44, 0.41, 0.36, 0.48),
    "rusty soil": (0.29, 0.21, 0.16, 0.31),
    "paving": (0.40, 0.40, 0.39, 0.41),
    "grass": (0.13, 0.17, 0.10, 0.36),
    "crop": (0.08, 0.13, 0.07, 0.46),
    "stubble": (0.33, 0.30, 0.21, 0.40),
    "water": (0.09, 0.11, 0.09, 0.06),
}
# Metal comes in these colours; so do painted terraces, tarpaulins and tiles, a little scattered.
COLOURS = {
    "new": (0.49, 0.51, 0.54, 0.50),
    "grey": (0.31, 0.31, 0.32, 0.32),
    "rust": (0.28, 0.20, 0.16, 0.29),
    "blue": (0.15, 0.25, 0.43, 0.30),
    "dark": (0.19, 0.19, 0.19, 0.20),
    "straw": (0.32, 0.27, 0.19, 0.36),
}
# How often a roof of each material has each colour.
MATERIALS = {
    "metal": {"new": 0.34, "grey": 0.32, "rust": 0.24, "blue": 0.10},
    "concrete": {"new": 0.36, "grey": 0.30, "dark": 0.14, "rust": 0.12, "blue": 0.08},
    "tile": {"rust": 0.85, "grey": 0.15},
    "thatch": {"straw": 1.0},
}
# How often a block, a plot's ground or its roof (in narrow and in wide plots) is what.
BLOCKS = {"built": 0.87, "field": 0.08, "park": 0.03, "water": 0.02}
YARDS = {"soil": 0.34, "bright soil": 0.16, "rusty soil": 0.10, "paving": 0.14, "grass": 0.14, "lane": 0.12}
NARROW = {"metal": 0.08, "concrete": 0.54, "tile": 0.24, "thatch": 0.14}
WIDE = {"metal": 0.45, "concrete": 0.44, "tile": 0.09, "thatch": 0.02}
LEAVES = (0.05, 0.09, 0.04, 0.42)
SUBSAMPLES = 3  # per pixel and axis, so that edges and corrugation are antialiased
SUN = (sin(radians(148)), -cos(radians(148)))  # towards the sun, a winter morning
COT_ELEVATION = 1 / tan(radians(47))


@dataclass(frozen=True)
class Town:
    """A synthetic scene and the truth about its roofs."""

    pixels: NDArray[np.uint16]
    """(4, rows, cols), 1..2047 where valid and 0 elsewhere."""
    valid: Bools
    """(rows, cols), False in the corner that the made-up satellite strip did not cover."""
    roofs: gpd.GeoDataFrame
    """One polygon a roof with its `material`: metal, concrete, tile or thatch."""
    transform: Affine
    """From pixels (column, row) to map coordinates."""


def make_town(*, seed: int, size: int = 2048) -> Town:
    """A synthetic town of size x size pixels of half a metre; the same seed draws the same town."""
    rng = np.random.default_rng(seed)
    canvas = _Canvas(rng, size)
    streets: list[_Street] = []
    plan = _settle(rng, list(_divide(rng, box(0, 0, size, size), 230.0**2, streets)))
    trees = _plant_trees(rng, plan, size)
    _draw_ground(canvas, plan, streets)
    canvas.shade(_shadows(plan.roofs, trees, size))
    for roof in plan.roofs:
        _draw_roof(canvas, roof)
    for tree in trees:
        _draw_tree(canvas, *tree)
    strip = _strip(rng, size)
    valid = rasterize([strip], (size, size), dtype="uint8").astype(bool)
    transform = Affine(GSD, 0, ORIGIN[0], 0, -GSD, ORIGIN[1])
    return Town(_sense(rng, canvas.image, valid), valid, _table(plan.roofs, strip, transform), transform)


# ---- shapes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Site:
    """A rectangle to build on, its longer side turned by `angle` radians."""

    x: float
    y: float
    angle: float
    length: float
    width: float

    @property
    def shape(self) -> Polygon:
        """The outline in pixels."""
        flat = box(-self.length / 2, -self.width / 2, self.length / 2, self.width / 2)
        return _place(flat, self.x, self.y, self.angle)


@dataclass(frozen=True)
class _Wing:
    """A rectangle of a roof in the roof's own frame, ridge along its first axis."""

    u: float
    v: float
    length: float
    width: float
    across: bool = False
    """Turned by 90 degrees: the ridge runs along v."""

    def local(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Coordinates along and across the ridge, from the centre of the wing."""
        return (v - self.v, u - self.u) if self.across else (u - self.u, v - self.v)

    def depth(self, u: Floats, v: Floats) -> Floats:
        """Distance inside the edge (negative outside)."""
        along, side = self.local(u, v)
        return np.minimum(self.length / 2 - np.abs(along), self.width / 2 - np.abs(side))

    def shape(self) -> Polygon:
        """The outline in the roof's frame."""
        du, dv = (self.width, self.length) if self.across else (self.length, self.width)
        return box(self.u - du / 2, self.v - dv / 2, self.u + du / 2, self.v + dv / 2)


@dataclass(frozen=True)
class _Roof:
    """A building: its wings around (x, y), turned by `angle` radians, and how high it stands."""

    x: float
    y: float
    angle: float
    wings: tuple[_Wing, ...]
    material: str
    height: float

    @property
    def shape(self) -> Polygon:
        """The outline in pixels."""
        # Snapped to a fine grid, so that the edges that two wings share are one edge.
        outline = union_all([wing.shape() for wing in self.wings], grid_size=1 / 64).simplify(0.02)
        return _place(outline, self.x, self.y, self.angle)

    def parts(self) -> list[Polygon]:
        """The outline of each wing in pixels."""
        return [_place(wing.shape(), self.x, self.y, self.angle) for wing in self.wings]

    def depth(self, u: Floats, v: Floats) -> Floats:
        """Distance inside the edge (negative outside), in the frame of the roof."""
        deepest: Floats = np.max([wing.depth(u, v) for wing in self.wings], axis=0)
        return deepest


def _place(shape: Polygon, x: float, y: float, angle: float) -> Polygon:
    """From a local frame to pixels."""
    return affinity.translate(affinity.rotate(shape, angle, (0, 0), use_radians=True), x, y)


# ---- the plan: blocks, plots, streets -----------------------------------------------------------------------------


def _divide(rng: Generator, plot: Polygon, area: float, streets: list[_Street]) -> Iterator[Polygon]:
    """Cut a plot in two, again and again, until the pieces are smaller than `area`; note the gaps in `streets`."""
    if plot.area < area * rng.uniform(0.7, 1.3):
        yield plot
        return
    line = _cut_line(rng, plot)
    gap = 26.0 if plot.area > 700**2 else 15.0 if plot.area > 250**2 else 4.0
    streets.append((line.intersection(plot), gap))
    for side in (1, -1):
        piece = plot.intersection(line.buffer(side * line.length, single_sided=True)).difference(line.buffer(gap / 2))
        if isinstance(piece, Polygon) and piece.area > 150:
            yield from _divide(rng, piece, area, streets)


def _cut_line(rng: Generator, plot: Polygon) -> LineString:
    """A line across the long side of a plot, near its middle; the first streets of a town run where they like."""
    hull = _envelope(plot)
    x, y = _turn(0.12 * hull.length * rng.uniform(-1, 1), 0, hull.angle)
    tilt = rng.uniform(-0.4, 0.4) if plot.area > 900**2 else rng.normal(0, 0.06)
    dx, dy = _turn(0, 2 * hull.length, hull.angle + tilt)
    x, y = x + plot.centroid.x, y + plot.centroid.y
    return LineString([(x - dx, y - dy), (x + dx, y + dy)])


def _envelope(shape: Polygon) -> _Site:
    """The smallest rectangle around a shape, however turned."""
    corners = np.array(shape.minimum_rotated_rectangle.exterior.coords)[:4]
    sides = np.diff(corners[:3], axis=0)
    (length, width), (dx, dy) = np.hypot(*sides.T), sides[0]
    if width > length:
        (length, width), (dx, dy) = (width, length), sides[1]
    x, y = corners.mean(0)
    return _Site(float(x), float(y), atan2(dy, dx), float(length), float(width))


def _pick(rng: Generator, odds: Mapping[str, float] | Sequence[str]) -> str:
    """One of the names, by its odds where these are given."""
    weights = np.array([odds[name] if isinstance(odds, Mapping) else 1.0 for name in odds])
    return str(rng.choice(list(odds), p=weights / weights.sum()))


def _turn(x: float, y: float, angle: float) -> tuple[float, float]:
    """A vector turned by an angle in radians."""
    return cos(angle) * x - sin(angle) * y, sin(angle) * x + cos(angle) * y


# ---- a canvas -----------------------------------------------------------------------------------------------------


class _Canvas:
    """Reflectance (4, rows, cols) under construction, its random numbers, and a texture to take stains from."""

    def __init__(self, rng: Generator, size: int) -> None:
        self.rng = rng
        self.size = size
        self.image = np.zeros((4, size, size), np.float32)
        self.texture = _fractal(rng, 512, 64)

    def frame(self, x: float, y: float, angle: float, reach: float) -> _Frame:
        """Subsample coordinates around a point, turned by `angle`."""
        row0, row1 = (min(max(0, edge), self.size) for edge in (int(y - reach), ceil(y + reach)))
        col0, col1 = (min(max(0, edge), self.size) for edge in (int(x - reach), ceil(x + reach)))
        offset = (np.arange(SUBSAMPLES, dtype=np.float32) + 0.5) / SUBSAMPLES
        dy = (np.arange(row0, row1, dtype=np.float32)[:, None] + offset).reshape(-1, 1) - np.float32(y)
        dx = (np.arange(col0, col1, dtype=np.float32)[:, None] + offset).reshape(1, -1) - np.float32(x)
        c, s = np.float32(cos(angle)), np.float32(sin(angle))
        return _Frame(slice(row0, row1), slice(col0, col1), c * dx + s * dy, c * dy - s * dx)

    def paint(self, frame: _Frame, inside: Bools, *layers: tuple[Spectrum, NDArray[Any]]) -> None:
        """Cover what is inside with the sum of spectrum x weight over the layers."""
        window = self.image[:, frame.rows, frame.cols]
        window *= 1 - _bin(inside.astype(np.float32))
        for spectrum, weight in layers:
            share = _bin(np.where(inside, weight, 0).astype(np.float32))
            window += np.asarray(spectrum, np.float32)[:, None, None] * share

    def stain(self, frame: _Frame, along: float, across: float) -> Floats:
        """Noise of mean 0 and deviation 1 that stretches over `along` x `across` pixels."""
        shift = self.rng.integers(0, 512, 2)
        i = (frame.u * np.float32(4 / along)).astype(np.int32) + shift[0]
        j = (frame.v * np.float32(4 / across)).astype(np.int32) + shift[1]
        return np.asarray(self.texture[i % 512, j % 512], np.float32)

    def shade(self, shadow: Floats) -> None:
        """Darken where there is shadow, blue least: the sky still lights it."""
        for band, depth in enumerate((0.66, 0.62, 0.55, 0.68)):
            self.image[band] *= 1 - np.float32(depth) * shadow


@dataclass(frozen=True)
class _Frame:
    """A window of the canvas with the local coordinates of its subsamples."""

    rows: slice
    cols: slice
    u: Floats
    v: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        return self.u.shape


def _bin(samples: Floats) -> Floats:
    """Pixel means of subsamples."""
    rows, cols = samples.shape[0] // SUBSAMPLES, samples.shape[1] // SUBSAMPLES
    means: Floats = np.einsum("ijkl->ik", samples.reshape(rows, SUBSAMPLES, cols, SUBSAMPLES)) / SUBSAMPLES**2
    return means


def _fractal(rng: Generator, size: int, coarsest: int) -> Floats:
    """Noise (size, size) of mean 0 and deviation 1, equally strong at each octave from 2 pixels to `coarsest`."""
    total = np.zeros((size, size), np.float32)
    step = 2
    while step <= coarsest:
        coarse = rng.standard_normal((size // step + 3, size // step + 3), np.float32)
        total += ndimage.zoom(coarse, step, order=1)[:size, :size]
        step *= 2
    return np.asarray((total - total.mean()) / total.std(), np.float32)


# ---- ground -------------------------------------------------------------------------------------------------------


@dataclass
class _Plan:
    """What stands where, before anything is drawn."""

    grounds: list[tuple[Polygon, str]]
    roofs: list[_Roof]
    lookalikes: list[tuple[_Site, str]]
    groves: list[Polygon]


def _settle(rng: Generator, blocks: list[Polygon]) -> _Plan:
    """Give each block a use and each of its plots a ground and a building or look-alike."""
    plan = _Plan([], [], [], [])
    for block in blocks:
        use = _pick(rng, BLOCKS)
        if use == "built" or not plan.roofs:  # however small, the town has houses
            for plot in _divide(rng, block, 900 * 2 ** rng.uniform(0, 2.4), []):
                _settle_built(rng, plan, plot)
        elif use == "field":
            for plot in _divide(rng, block, block.area / 4, []):
                _settle_field(rng, plan, plot)
        else:
            plan.grounds.append((block, "grass"))
            plan.groves.append(block)
            shore = 0.2 * sqrt(block.area)
            pond = block.buffer(-1.3 * shore).buffer(shore)
            if use == "water" and not pond.is_empty:
                plan.grounds.append((pond, "water"))
    return plan


def _settle_built(rng: Generator, plan: _Plan, plot: Polygon) -> None:
    """A plot in the town: mostly a building, else something that looks like one."""
    plan.grounds.append((plot, _pick(rng, YARDS)))
    site = _fit(rng, plot, rng.uniform(0.9, 1))
    if site is None:
        return
    if rng.random() < 0.84:
        plan.roofs.append(_build(rng, site))
    else:
        plan.lookalikes.append((site, _pick(rng, ["furrows", "court", "yard", "tarpaulin"])))


def _settle_field(rng: Generator, plan: _Plan, plot: Polygon) -> None:
    """A field with furrows, and often a shed in it."""
    plan.grounds.append((plot, _pick(rng, {"crop": 2, "stubble": 1, "rusty soil": 1})))
    site = _fit(rng, plot, 0.97)
    if site is None:
        return
    plan.lookalikes.append((site, "field"))
    if rng.random() < 0.6:
        length, width = min(rng.uniform(36, 70), 0.6 * site.length), min(rng.uniform(20, 36), 0.6 * site.width)
        slack = 0.35 * min(site.length - length, site.width - width)  # however it is turned, it stays on the field
        x, y = rng.uniform(-slack, slack, 2)
        plan.roofs.append(_build(rng, _Site(site.x + x, site.y + y, site.angle, length, width)))


def _fit(rng: Generator, plot: Polygon, share: float) -> _Site | None:
    """The largest centred rectangle with a margin in a plot, scaled by `share`; None where it would be tiny."""
    hull, room = _envelope(plot), plot.buffer(-1.5)
    for scale in np.arange(1.0, 0.4, -0.04):
        site = _Site(plot.centroid.x, plot.centroid.y, hull.angle, scale * hull.length, scale * hull.width)
        if room.contains(site.shape):
            width = share * site.width * rng.uniform(0.88, 1)
            return replace(site, length=share * site.length, width=width) if width > 9 else None
    return None


def _draw_ground(canvas: _Canvas, plan: _Plan, streets: list[_Street]) -> None:
    """Paint all that is flat."""
    plots = [(street.buffer(gap / 2), "asphalt" if gap > 14 else "lane") for street, gap in streets] + plan.grounds
    spectra = np.array([GROUND["lane"], *(GROUND[name] for _, name in plots)], np.float32)
    spectra *= canvas.rng.lognormal(0, 0.15, (len(spectra), 1)).astype(np.float32)
    shapes = [(shape, number + 1) for number, (shape, _) in enumerate(plots)]
    number = rasterize(shapes, (canvas.size, canvas.size), dtype="uint16")
    grain = 1 + np.float32(0.11) * _fractal(canvas.rng, canvas.size, 64)
    for band in range(4):
        canvas.image[band] = ndimage.gaussian_filter(spectra[number, band], 1.0) * grain
    for site, kind in plan.lookalikes:
        _draw_lookalike(canvas, site, kind)
    _draw_traffic(canvas, streets)


def _draw_lookalike(canvas: _Canvas, site: _Site, kind: str) -> None:
    """Flat things with the colours, and some of the texture, of metal roofs."""
    if kind == "tarpaulin":
        _draw_tarpaulin(canvas, site)
        return
    rng = canvas.rng
    frame = canvas.frame(site.x, site.y, site.angle, hypot(site.length, site.width) / 2 + 2)
    depth = np.minimum(site.length / 2 - np.abs(frame.u), site.width / 2 - np.abs(frame.v))
    tone = 1 + 0.10 * canvas.stain(frame, 8, 8)
    if kind == "court":
        joints = np.minimum(frame.u % 9.0, frame.v % 9.0) < 0.8
        colour = _colour(rng, _pick(rng, ["new", "grey", "rust", "blue"]))
        canvas.paint(frame, depth > 0, (colour, tone * np.where(joints, 0.82, 1)))
        return
    if kind != "yard":
        bend = 1.2 * canvas.stain(frame, 60, 60)
        tone *= 1 + 0.15 * np.sin((frame.v + bend) * np.float32(2 * pi / rng.uniform(3, 6)))
    soil = _pick(rng, ["crop", "stubble", "rusty soil"] if kind == "field" else ["bright soil", "rusty soil"])
    canvas.paint(frame, depth > 1.5 + 1.5 * canvas.stain(frame, 10, 10), (_scatter(rng, GROUND[soil]), tone))


def _draw_tarpaulin(canvas: _Canvas, site: _Site) -> None:
    """A few sheets of plastic spread out, crumpled and never quite rectangular."""
    rng = canvas.rng
    for _ in range(rng.integers(2, 6)):
        x, y = rng.normal((site.x, site.y), site.width / 6)
        radius = rng.uniform(3, max(4, site.width / 4))
        frame = canvas.frame(x, y, rng.uniform(0, pi), radius * 2)
        folds = 1 + 0.12 * canvas.stain(frame, 5, 5)
        spectrum = _colour(rng, _pick(rng, {"blue": 2, "new": 1, "grey": 1}))
        canvas.paint(frame, _blob(rng, frame, radius, 0.22), (spectrum, folds))


def _draw_traffic(canvas: _Canvas, streets: list[_Street]) -> None:
    """Cars and buses on the wider streets."""
    rng = canvas.rng
    for street, gap in streets:
        if gap < 14 or street.is_empty:
            continue
        (x0, y0), (x1, y1) = street.coords[0], street.coords[-1]
        angle = atan2(y1 - y0, x1 - x0)
        for at in rng.uniform(0.02, 0.98, rng.poisson(street.length / 60)):
            lane = rng.choice([-0.25, 0.25]) * gap
            x, y = x0 + at * (x1 - x0) - lane * sin(angle), y0 + at * (y1 - y0) + lane * cos(angle)
            _draw_vehicle(canvas, x, y, angle)


def _draw_vehicle(canvas: _Canvas, x: float, y: float, angle: float) -> None:
    """A car, or now and then a bus."""
    rng = canvas.rng
    length, width = (21.0, 5.0) if rng.random() < 0.15 else (8.0, 3.6)
    frame = canvas.frame(x, y, angle, 13)
    inside = (np.abs(frame.u) < length / 2) & (np.abs(frame.v) < width / 2)
    colour = _colour(rng, _pick(rng, {"new": 2, "grey": 1, "dark": 1, "rust": 1, "blue": 1}))
    canvas.paint(frame, inside, (colour, np.where(np.abs(frame.u) > length / 3, 0.6, 1)))


def _colour(rng: Generator, name: str) -> Floats:
    """One roof's own spectrum: brightness varies a lot from roof to roof, hue a little."""
    return _scatter(rng, COLOURS[name])


def _scatter(rng: Generator, spectrum: Sequence[float]) -> Floats:
    """The spectrum, a little brighter or darker and off hue."""
    return np.asarray(np.asarray(spectrum) * rng.lognormal(0, 0.2) * rng.lognormal(0, 0.03, 4), np.float32)


def _blob(rng: Generator, frame: _Frame, radius: float, roughness: float) -> Bools:
    """Subsamples inside a wobbly circle."""
    angle = np.arctan2(frame.v, frame.u)
    edge = np.ones_like(angle)
    for wave in (2, 3, 5, 7):
        edge += np.float32(roughness * rng.normal() / sqrt(wave)) * np.sin(wave * angle + np.float32(rng.uniform(0, 6)))
    inside: Bools = np.hypot(frame.u, frame.v) < radius * edge
    return inside


# ---- trees and shadows --------------------------------------------------------------------------------------------


def _plant_trees(rng: Generator, plan: _Plan, size: int) -> list[tuple[float, float, float]]:
    """(x, y, radius) of crowns: thick in groves, thin elsewhere, never with the trunk in a house."""
    count = size * size // 1500
    spots = [rng.uniform(0, size, (count, 2))]
    for grove in plan.groves:
        left, top, right, bottom = grove.bounds
        inside = rng.uniform((left, top), (right, bottom), (int(grove.area / 260), 2))
        spots.append(inside[contains_xy(grove, inside)])
    x, y = np.clip(np.concatenate(spots).T, 0, size - 1)
    radius = rng.gamma(9, 0.65, len(x)) + 1.5
    # So a crown reaches over an eave by about a third of its radius.
    houses = rasterize([roof.shape for roof in plan.roofs] + [box(0, 0, 1, 1)], (size, size), dtype="uint8")
    room = ndimage.distance_transform_edt(houses == 0)[y.astype(int), x.astype(int)]
    water = rasterize([(shape, name == "water") for shape, name in plan.grounds], (size, size), dtype="uint8")
    keep = (room > 0.7 * radius) & (water[y.astype(int), x.astype(int)] == 0)
    return list(zip(x[keep].tolist(), y[keep].tolist(), radius[keep].tolist(), strict=True))


def _shadows(roofs: list[_Roof], trees: list[tuple[float, float, float]], size: int) -> Floats:
    """Share (size, size) of each pixel that lies in cast shadow."""
    shapes = [_swept(part, roof.height) for roof in roofs for part in roof.parts()]
    for x, y, radius in trees:
        dx, dy = _shadow(1.6 * radius)
        shapes.append(LineString([(x + dx / 3, y + dy / 3), (x + dx, y + dy)]).buffer(0.9 * radius, quad_segs=4))
    fine = rasterize(
        [affinity.scale(shape, 2, 2, origin=(0, 0)) for shape in shapes], (2 * size, 2 * size), dtype="uint8"
    )
    return np.asarray(fine.reshape(size, 2, size, 2).sum((1, 3)) / 4, np.float32)


def _shadow(height: float) -> tuple[float, float]:
    """Where the top of something this high throws its shadow."""
    return -SUN[0] * COT_ELEVATION * height, -SUN[1] * COT_ELEVATION * height


def _swept(shape: Polygon, height: float) -> Polygon:
    """The shadow of a convex prism on the ground, its own footprint included."""
    moved = affinity.translate(shape, *_shadow(height))
    return MultiPoint([*shape.exterior.coords, *moved.exterior.coords]).convex_hull


def _draw_tree(canvas: _Canvas, x: float, y: float, radius: float) -> None:
    """A wobbly crown, lit from the sun's side."""
    rng = canvas.rng
    frame = canvas.frame(x, y, 0, radius * 1.5)
    lit = (frame.u * SUN[0] + frame.v * SUN[1]) / radius
    light = np.clip(1 + 0.35 * lit + 0.22 * canvas.stain(frame, 6, 6), 0.25, 2)
    canvas.paint(frame, _blob(rng, frame, radius, 0.12), (_scatter(rng, LEAVES), light))


# ---- roofs --------------------------------------------------------------------------------------------------------


def _build(rng: Generator, site: _Site) -> _Roof:
    """A roof of some material that suits the size of the site, plain or L-shaped."""
    material = _pick(rng, NARROW if site.width < 15 else WIDE)
    length = min(site.length, rng.uniform(1.2, 2.6) * site.width)
    height = rng.uniform(6, 9) if material != "concrete" else rng.uniform(6, 19)
    bent = site.width > 24 and rng.random() < 0.3
    wings = _l_shape(rng, length, site.width) if bent else (_Wing(0, 0, length, site.width),)
    return _Roof(site.x, site.y, site.angle, wings, material, height)


def _l_shape(rng: Generator, length: float, width: float) -> tuple[_Wing, ...]:
    """Two wings that fill two sides of a rectangle."""
    first, second = rng.uniform(0.45, 0.6) * width, rng.uniform(0.45, 0.6) * width
    v, u = rng.choice([-1, 1]) * (width - first) / 2, rng.choice([-1, 1]) * (length - second) / 2
    return _Wing(0, v, length, first), _Wing(u, 0, width, second, across=True)


def _draw_roof(canvas: _Canvas, roof: _Roof) -> None:
    """Paint one roof as its material asks."""
    left, top, right, bottom = roof.shape.bounds
    reach = max(right - roof.x, roof.x - left, bottom - roof.y, roof.y - top) + 2
    frame = canvas.frame(roof.x, roof.y, roof.angle, reach)
    name = _pick(canvas.rng, MATERIALS[roof.material])
    if roof.material == "concrete":
        _draw_terrace(canvas, roof, frame, _colour(canvas.rng, name))
    else:
        _draw_pitched(canvas, roof, frame, name)


def _draw_pitched(canvas: _Canvas, roof: _Roof, frame: _Frame, name: str) -> None:
    """Sloping planes: corrugated metal, tile in courses along the ridge, shaggy thatch."""
    rng = canvas.rng
    single = roof.material == "metal" and len(roof.wings) == 1 and rng.random() < 0.15
    pitch = radians(rng.uniform(10, 18) if roof.material == "metal" else rng.uniform(16, 24))
    planes = _planes(roof, frame, pitch, single)
    if roof.material == "metal":
        texture = _corrugation(canvas, frame, planes)
    elif roof.material == "tile":
        courses = np.sin(planes.side * np.float32(2 * pi / rng.uniform(2.6, 3.6)))
        texture = 1 + 0.09 * courses + 0.13 * canvas.stain(frame, 5, 5)
    else:
        texture = 1 + 0.2 * canvas.stain(frame, 6, 6)
    ridge = 1 if single else np.where(np.abs(planes.side) < 0.7, 1.2, 1)
    light = planes.light * texture * ridge
    worn = np.clip(0.12 + 0.2 * canvas.stain(frame, 6, 30), 0, 0.7)
    rust = _colour(rng, "rust" if roof.material != "thatch" else "straw")
    canvas.paint(frame, planes.inside, (_colour(rng, name), light * (1 - worn)), (rust, light * worn))


def _corrugation(canvas: _Canvas, frame: _Frame, planes: _Planes) -> Floats:
    """Stripes and streaks that run down the slope."""
    period, phase = canvas.rng.uniform(2.6, 3.4), canvas.rng.uniform(0, 6)
    stripes = np.sin(planes.along * np.float32(2 * pi / period) + np.float32(phase))
    along = _Frame(frame.rows, frame.cols, planes.along, planes.side)
    return np.asarray(1 + 0.17 * stripes + 0.06 * canvas.stain(along, 7, 120), np.float32)


@dataclass(frozen=True)
class _Planes:
    """Per subsample: in the roof or not, how its plane is lit, where it is along and across the ridge."""

    inside: Bools
    light: Floats
    along: Floats
    side: Floats


def _planes(roof: _Roof, frame: _Frame, pitch: float, single: bool) -> _Planes:
    """Which plane each subsample is on: that of the wing that is highest there."""
    best = np.full(frame.shape, -np.inf, np.float32)
    light, along, side = (np.zeros(frame.shape, np.float32) for _ in range(3))
    for wing in roof.wings:
        far, off = wing.local(frame.u, frame.v)
        height = np.where(wing.depth(frame.u, frame.v) > 0, wing.width / 2 - np.abs(off), -np.inf)
        angle = roof.angle + (0 if wing.across else pi / 2)
        down = [_lambert(pitch, angle + turn) for turn in (0, pi)]
        lit = np.where(off > 0, down[0], down[0] if single else down[1])
        higher = height > best
        for total, part in ((best, height), (light, lit), (along, far), (side, off)):
            np.copyto(total, part, where=higher, casting="same_kind")
    return _Planes(best > -np.inf, light, along, side)


def _lambert(pitch: float, facing: float) -> float:
    """Sunlight on a plane that slopes down towards `facing`, relative to flat ground."""
    return cos(pitch) + sin(pitch) * COT_ELEVATION * (SUN[0] * cos(facing) + SUN[1] * sin(facing))


def _draw_terrace(canvas: _Canvas, roof: _Roof, frame: _Frame, spectrum: Floats) -> None:
    """A flat concrete roof: parapet and its shadow, stains, a stairhead, water tanks."""
    inside = roof.depth(frame.u, frame.v) > 0
    light = 1 + 0.13 * canvas.stain(frame, 14, 14) + 0.05 * canvas.stain(frame, 3, 3)
    sun_u, sun_v = _turn(SUN[0], SUN[1], -roof.angle)
    rim = roof.depth(frame.u, frame.v) < 1.4
    shaded = roof.depth(frame.u + 1.6 * sun_u, frame.v + 1.6 * sun_v) < 1.4
    canvas.paint(frame, inside, (spectrum, np.where(rim, 1.18, np.where(shaded, 0.62, light))))
    _draw_boxes(canvas, roof, spectrum)


def _draw_boxes(canvas: _Canvas, roof: _Roof, spectrum: Floats) -> None:
    """A stairhead and a few tanks with their shadows on a terrace."""
    rng, wing = canvas.rng, roof.wings[0]
    boxes = [(rng.uniform(5, 8), spectrum * np.float32(1.1), 4.0)] if min(wing.length, wing.width) > 18 else []
    boxes += [(rng.uniform(2.4, 3.6), _colour(rng, _pick(rng, ["dark", "new", "blue"])), 2.5)] * rng.integers(1, 4)
    for size, colour, height in boxes:
        room = np.maximum(0, (np.array([wing.length, wing.width]) - size) / 2 - 4)
        u, v = rng.uniform(-room, room)
        x, y = _turn(wing.u + u, wing.v + v, roof.angle)
        dx, dy = _shadow(height)
        for shift, layer in (((dx, dy), spectrum * np.float32(0.45)), ((0, 0), colour)):
            frame = canvas.frame(roof.x + x + shift[0], roof.y + y + shift[1], roof.angle, size)
            inside = np.maximum(np.abs(frame.u), np.abs(frame.v)) < size / 2
            canvas.paint(frame, inside, (layer, np.ones(inside.shape)))


# ---- the sensor ---------------------------------------------------------------------------------------------------


def _strip(rng: Generator, size: int) -> Polygon:
    """What the satellite strip covers: all but a slanted corner in the lower right."""
    right, bottom = size * (1 - rng.uniform(0.3, 0.45)), size * (1 - rng.uniform(0.08, 0.14))
    return Polygon([(0, 0), (size, 0), (size, right), (bottom, size), (0, size)])


def _sense(rng: Generator, image: Floats, valid: Bools) -> NDArray[np.uint16]:
    """Haze, blur, slightly shifted bands and noise: reflectance to 11-bit values."""
    size = len(valid)
    pixels = np.zeros(image.shape, np.uint16)
    slope = np.linspace(-0.4, 0.4, size, dtype=np.float32)
    haze = np.float32(rng.uniform(0.5, 0.7)) + slope[:, None] * np.float32(rng.uniform(-0.6, 0.6)) + slope
    for band, path in enumerate((0.030, 0.042, 0.062, 0.015)):
        blurred = ndimage.gaussian_filter(image[band], 0.75 if band == 3 else 0.6)
        moved = ndimage.shift(blurred, rng.uniform(-0.2, 0.2, 2), order=1, mode="nearest")
        value = 2300 * (moved * (1 - 0.15 * haze) + path * haze)
        value += np.sqrt(36 + 0.12 * np.maximum(value, 0)) * rng.standard_normal(value.shape, np.float32)
        pixels[band] = np.where(valid, np.clip(np.rint(value), 1, MAX_VALUE), 0)
    return pixels


def _table(roofs: list[_Roof], strip: Polygon, transform: Affine) -> gpd.GeoDataFrame:
    """The roofs that the strip shows, in map coordinates."""
    seen = [roof for roof in roofs if roof.shape.intersects(strip)]
    shapes = [affinity.affine_transform(roof.shape, transform.to_shapely()) for roof in seen]
    return gpd.GeoDataFrame({"material": [roof.material for roof in seen]}, geometry=shapes, crs=EPSG)
