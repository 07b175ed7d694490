"""Each stage beside what a user would pick instead: whole processes, in turn, on the same files and cores.

python bench/stages.py OUT [--only chip mosaic …] [--rounds 5] [--side 10000]

Works are made once in OUT and kept. In each round ours and its peers run one after another, each into a new folder;
before anything is timed the results are compared, pixel by pixel. Prints one table and draws OUT/stages.png; the
figures go to OUT/stages.json. README.md beside this script says how to read it. Needs GDAL's command-line tools
(Debian: gdal-bin, python3-gdal) and, for train, keras-unet 0.1.2 (pip install --no-deps keras-unet).
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench/peers"
TILE = 2048  # side of the town that scenes are made of
CRS = "EPSG:32644"
GTIFF = ["COMPRESS=DEFLATE", "PREDICTOR=2", "TILED=YES", "BLOCKXSIZE=256", "BLOCKYSIZE=256", "INTERLEAVE=PIXEL"]
CO = [word for option in GTIFF for word in ("-co", option)]
Command = list[str]


@dataclass(frozen=True)
class Contest:
    """One row of the table.

    Attributes:
        stage: Its name.
        work: What is done, in words.
        ours: The commands of this project; OUT stands for a new folder.
        peers: The same of each rival by name; the fastest counts.
        asked: How many times as fast ours has to be.
        check: Raises where the results in two folders (ours, a peer's) differ.
    """

    stage: str
    work: str
    ours: list[Command]
    peers: dict[str, list[Command]]
    asked: float
    check: Callable[[Path, Path], None]


@dataclass(frozen=True)
class Result:
    """Seconds of each round."""

    contest: Contest
    ours: list[float]
    peers: dict[str, list[float]]

    @property
    def rival(self) -> str:
        """The fastest peer."""
        return min(self.peers, key=lambda name: median(self.peers[name]))

    @property
    def ratios(self) -> list[float]:
        """How many times as fast ours was than the fastest peer, round by round."""
        return [peer / ours for peer, ours in zip(self.peers[self.rival], self.ours)]

    def as_json(self) -> dict[str, Any]:
        """Figures by name."""
        facts = {"stage": self.contest.stage, "work": self.contest.work, "asked": self.contest.asked}
        return facts | {"ours": self.ours, "peers": self.peers, "rival": self.rival, "ratio": median(self.ratios)}


def stage(name: str, *words: object) -> Command:
    """The command line of one of our stages."""
    return [sys.executable, str(ROOT / name / f"{name}.py"), *map(str, words), "--quiet"]


def run(commands: Sequence[Command], out: Path) -> float:
    """Run commands into a new folder; seconds."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    started = time.perf_counter()
    for command in commands:
        line = [word.replace("OUT", str(out)) for word in command]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"error: {' '.join(line)}: {done.stderr[-2000:]}")
    return time.perf_counter() - started


def compete(contest: Contest, folder: Path, rounds: int) -> Result:
    """Check that the results are equal, then take turns."""
    sides = [contest.ours, *contest.peers.values()]
    outs = [folder / str(number) for number in range(len(sides))]
    for commands, out in zip(sides, outs):
        run(commands, out)
    for out in outs[1:]:
        contest.check(outs[0], out)
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for commands, out, taken in zip(sides, outs, seconds):
            taken.append(run(commands, out))
    shutil.rmtree(folder)
    return Result(contest, seconds[0], dict(zip(contest.peers, seconds[1:])))


# Works


def make_scene(path: Path, side: int, bands: int, dtype: str) -> Path:
    """A scene of real-looking pixels: the synthetic town, again and again, turned over at each seam."""
    if path.exists():
        return path
    from sources.sample import make_town

    town = make_town(seed=1, size=TILE).pixels
    town = np.concatenate([town, town[:, ::-1]])[:bands]  # more than four: the same town, turned over
    if dtype == "uint8":
        town = np.clip(town / np.percentile(town, 99.8, axis=(1, 2))[:, None, None] * 255, 1, 255).astype("uint8")
    profile = dict(
        driver="GTiff", height=side, width=side, count=bands, dtype=dtype, crs=CRS, tiled=True, blockxsize=512,
        blockysize=512, compress="deflate", predictor=2, interleave="pixel", photometric="minisblack", alpha="no",
        transform=Affine(0.5, 0, 600000, 0, -0.5, 2960000), num_threads="all_cpus",
    )  # fmt: skip
    part = path.with_suffix(".part.tif")
    with rasterio.open(part, "w", **profile) as dst:
        for i, row in enumerate(range(0, side, TILE)):
            for j, col in enumerate(range(0, side, TILE)):
                tile = town[:, :: -1 if i % 2 else 1, :: -1 if j % 2 else 1][:, : side - row, : side - col]
                dst.write(tile, window=Window(col, row, tile.shape[2], tile.shape[1]))
    part.rename(path)
    return path


def make_chips(scene: Path, folder: Path) -> Path:
    """The scene's chips, by our own stage."""
    if not folder.exists():
        run([stage("chip", scene, "OUT")], folder)
    return folder


def make_polygons(path: Path, count: int, side: int) -> Path:
    """Turned rectangles of 3 to 15 m over a scene of `side` pixels of 0.5 m, as a GeoPackage."""
    if path.exists():
        return path
    import geopandas as gpd
    import shapely

    rng = np.random.default_rng(0)
    centre = np.stack([600000 + rng.uniform(0, side / 2, count), 2960000 - rng.uniform(0, side / 2, count)], axis=1)
    half, angle = rng.uniform(1.5, 7.5, (count, 2)), rng.uniform(0, np.pi, count)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half[:, None]
    turn = np.moveaxis(np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), 2, 0)
    shapes = shapely.polygons(corners @ turn + centre[:, None])
    gpd.GeoDataFrame(geometry=shapes, crs=CRS).to_file(path, driver="GPKG")
    return path


def every_pixel(out: Path) -> Path:
    """Settings in which flatten takes no sample."""
    path = out / "settings.json"
    path.write_text(json.dumps({"flatten_args": {"sample": None}}))
    return path


# Checks


def same_pixels(ours: Path, peer: Path) -> None:
    """Raise where two rasters differ, in what both cover and ours has valid."""
    with rasterio.open(ours) as a, rasterio.open(peer) as b:
        rows, cols = min(a.height, b.height), min(a.width, b.width)
        assert (a.count, a.dtypes, a.crs) == (b.count, b.dtypes, b.crs), (ours, peer)
        assert a.transform.almost_equals(b.transform), (ours, peer)
        for row in range(0, rows, 1024):
            window = Window(0, row, cols, min(1024, rows - row))
            valid = a.dataset_mask(window=window) > 0
            assert np.array_equal(a.read(window=window)[:, valid], b.read(window=window)[:, valid]), (ours, peer)


def same_tiles(ours: Path, peer: Path) -> None:
    """Raise where our tiles (by pixel offset) differ from gdal_retile's (by number)."""
    names = sorted(path.name for path in ours.glob("*.tif"))
    numbered = {path.stem.split("_", 1)[1]: path for path in (peer / "tiles").glob("*.tif")}
    assert len(names) == len(numbered) > 0, (len(names), len(numbered))
    by_corner = {}
    for path in numbered.values():
        with rasterio.open(path) as src:
            by_corner[tuple(src.transform)[2::3][:2]] = path
    for name in names:
        with rasterio.open(ours / name) as src:
            corner = tuple(src.transform)[2::3][:2]
        same_pixels(ours / name, by_corner[corner])


def same_table(ours: Path, peer: Path) -> None:
    """Raise where two CSV files hold other numbers, coordinates to 1e-9 degrees."""
    import polars as pl

    a, b = pl.read_csv(ours / "pixels.csv"), pl.read_csv(peer / "pixels.csv")
    assert a.columns == b.columns
    for name in a.columns:
        assert np.abs(a[name].to_numpy() - b[name].to_numpy()).max() <= 1.5e-9, name


def same_summary(ours: Path, peer: Path) -> None:
    """Raise where two summaries differ."""
    bands = json.loads((ours / "out/summary.json").read_text())["bands"]
    found = json.loads((peer / "out/summary.json").read_text())
    assert len(bands) == len(found)
    for band in bands:
        other = found[str(band["band"])]
        for name, value in (("min", band["min"]), ("max", band["max"]), ("mean", band["mean"])):
            assert np.isclose(value, other[name]), (band["band"], name)
        assert np.isclose(band["percentiles"]["50"], other["50%"])


# Contests


def chip_contest(out: Path, side: int, bands: int, dtype: str) -> Contest:
    """Cutting a scene."""
    scene = make_scene(out / f"scene_{side}_{bands}_{dtype}.tif", side, bands, dtype)
    retile = ["gdal_retile.py", "-q", "-ps", "640", "640", *CO, "-targetDir", "OUT/tiles", str(scene)]
    work = f"{side:,} x {side:,} x {bands} {dtype} into 640 x 640, deflate"
    peers = {"gdal_retile.py": [["mkdir", "OUT/tiles"], retile]}
    return Contest("chip", work, [stage("chip", scene, "OUT")], peers, 1.5, same_tiles)


def mosaic_contest(out: Path, side: int, bands: int, dtype: str) -> Contest:
    """Putting its chips together again."""
    scene = make_scene(out / f"scene_{side}_{bands}_{dtype}.tif", side, bands, dtype)
    chips = make_chips(scene, out / f"chips_{side}_{bands}_{dtype}")
    tiles, target = f"{chips}/*.tif", "OUT/mosaic.tif"
    vrt = ["sh", "-c", f"gdalbuildvrt -q OUT/tiles.vrt {tiles}"]
    co = " ".join(f"--co {option}" for option in GTIFF)
    rio = ["sh", "-c", f"{Path(sys.executable).parent}/rio merge {co} {tiles} {target}"]
    peers = {
        "gdalbuildvrt, gdal_translate": [vrt, ["gdal_translate", "-q", *CO, "OUT/tiles.vrt", target]],
        "rio merge": [rio],
    }
    work = f"{len(list(chips.glob('*.tif')))} chips of 640 x 640 x {bands} {dtype}, deflate"

    def check(ours: Path, peer: Path) -> None:
        same_pixels(ours / "mosaic.tif", peer / "mosaic.tif")

    return Contest("mosaic", work, [stage("mosaic", chips, target)], peers, 1.5, check)


def mask_contest(out: Path, side: int, polygons: int) -> Contest:
    """Drawing roofs."""
    chips = make_chips(make_scene(out / f"scene_{side}_3_uint8.tif", side, 3, "uint8"), out / f"chips_{side}_3_uint8")
    labels = make_polygons(out / f"roofs_{polygons}.gpkg", polygons, side)
    left, top, size = 600000, 2960000, side / 2
    extent = [str(value) for value in (left, top - size, left + size, top)]
    whole = ["gdal_rasterize", "-q", "-burn", "255", "-ot", "Byte", "-ts", str(side), str(side), "-te", *extent]
    retile = ["gdal_retile.py", "-q", "-ps", "640", "640", *CO, "-targetDir", "OUT/tiles", "OUT/whole.tif"]
    peer = [["mkdir", "OUT/tiles"], [*whole, *CO, str(labels), "OUT/whole.tif"], retile]
    work = f"{polygons:,} polygons over {side:,} x {side:,} px, tiles of 640"
    ours = [stage("mask", chips, labels, "OUT")]
    return Contest("mask", work, ours, {"gdal_rasterize, gdal_retile.py": peer}, 1.5, same_tiles)


def flatten_contest(out: Path, side: int) -> Contest:
    """Pixels as lines of CSV."""
    scene = make_scene(out / f"scene_{side}_4_uint8.tif", side, 4, "uint8")
    peer = [sys.executable, str(PEERS / "pandas_flatten.py"), str(scene), "OUT/pixels.csv"]
    work = f"{side**2 * 4:,} rows of six columns"
    ours = [stage("flatten", scene, "OUT/pixels.csv", "--settings", every_pixel(out))]
    return Contest("flatten", work, ours, {"pandas to_csv": [peer]}, 15, same_table)


def summarize_contest(out: Path, side: int) -> Contest:
    """Histograms of such a table."""
    table = out / f"pixels_{side}" / "pixels.csv"
    if not table.exists():
        scene = make_scene(out / f"scene_{side}_4_uint8.tif", side, 4, "uint8")
        run([stage("flatten", scene, table, "--settings", every_pixel(out))], table.parent)
    peer = [sys.executable, str(PEERS / "pandas_summarize.py"), str(table), "OUT/out"]
    ours = [stage("summarize", table, "OUT/out")]
    return Contest("summarize", f"{side**2 * 4:,} rows", ours, {"pandas, matplotlib": [peer]}, 3, same_summary)


def contests(out: Path, side: int) -> dict[str, Callable[[], Contest]]:
    """Every contest by name."""
    return {
        "chip": lambda: chip_contest(out, side, 4, "uint8"),
        "chip8": lambda: chip_contest(out, side, 8, "uint16"),
        "mosaic": lambda: mosaic_contest(out, side, 4, "uint8"),
        "mosaic8": lambda: mosaic_contest(out, side, 8, "uint16"),
        "mask": lambda: mask_contest(out, 2 * side, side**2 // 500),
        "flatten": lambda: flatten_contest(out, side // 5),
        "summarize": lambda: summarize_contest(out, 2 * side // 5),
    }


# What it shows


def show(results: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(
        "stage", "work", "ours, s", "peer", "its s", "times as fast", "asked", title="medians (least to most)"
    )
    for found in results:
        peer = found["peers"][found["rival"]]
        ratios = [theirs / ours for theirs, ours in zip(peer, found["ours"])]
        table.add_row(
            found["stage"], found["work"], spread(found["ours"]), found["rival"], spread(peer), spread(ratios),
            f"{found['asked']:g}{'' if found['ratio'] >= found['asked'] else ': not held'}",
        )  # fmt: skip
    Console(width=160).print(table)


def spread(values: Sequence[float]) -> str:
    """The median, and the least and most."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """A bar for each contest: how many times as fast as the peer; a line at what is asked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.7 * len(results) + 1.4), dpi=120, layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="times as fast as the peer (median; the line: what is asked)")
    for row, found in enumerate(results):
        axes.barh(row, found["ratio"] - 1, left=1, color="#0072b2", height=0.6)
        axes.plot([found["asked"]] * 2, [row - 0.4, row + 0.4], color="#d55e00", linewidth=2)
        axes.annotate(f" {found['ratio']:.1f}", (max(found["ratio"], found["asked"]), row), va="center", fontsize=10)
    names = [f"{found['stage']}, {found['work']}\nbeside {found['rival']}" for found in results]
    axes.set_yticks(range(len(results)), names, fontsize=8)
    axes.invert_yaxis()
    ticks = [1, 1.5, 2, 3, 5, 10, 15, 20]
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.set_xlim(1, max(ticks[-1], *(found["ratio"] * 1.2 for found in results)))
    figure.savefig(path)


def main() -> None:
    """Run the contests and show them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these (chip8 and mosaic8: 8 bands of uint16)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=10_000, help="pixels a side of the scene")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    every = contests(options.out, options.side)
    figures = options.out / "stages.json"
    kept: dict[str, Any] = json.loads(figures.read_text()) if figures.exists() else {}
    for name in options.only or every:
        kept[name] = compete(every[name](), options.out / "runs", options.rounds).as_json()
        figures.write_text(json.dumps(kept, indent=1))
        show([kept[name]])
    found = [kept[name] for name in every if name in kept]
    show(found)
    draw(found, options.out / "stages.png")


if __name__ == "__main__":
    main()
