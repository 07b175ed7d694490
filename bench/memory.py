"""How much memory stages need, how time grows with the area, how soon they start: a table, and OUT/memory.png.

python bench/memory.py OUT [--part memory|polygons|footprints|growth|startup] [--stages chip mask …] [--json FILE]
memory   Scenes of --sides pixels a side, sparse: a few per mille of their blocks (64 at least, so that caches are as
         full as they get) hold pixels, the others take no room. Each stage works on each in a process of its own, and
         every process that it starts is looked at every 50 ms. The largest one is to stay under 600 MB; for predict,
         what a process needs that loads the model and does nothing else is taken off. The line is flat when the largest
         scene takes at most 10 % more than the one before it; narrow scenes leave caches of 64 MB unfilled.
polygons Mask of the chips of the smallest of these scenes, with --polygons small polygons in its file: under 600 MB.
footprints  What predict does with roofs: noise of 4,000 pixels a row, of --rows rows, is traced in strips of 256 and
         drawn into a GeoPackage, taken apart, simplified and squared: under 600 MB. What grows is GDAL's index.
growth   Dense scenes of --dense, 2 and 4 times as many pixels a side: processor seconds and seconds for each million
         pixels, the medians of --rounds, with --workers 1, since worker processes start only where they pay. What a
         scene of 64 pixels takes is taken off as start-up. No scene is to take 10 % more for a pixel than the smallest.
         Sides of 2500 and 5000 fill chips of 640 pixels as far as 2 and 4 times these do.
startup  Each script's -h, and each stage once more when all is finished: under 0.5 s and 1 s, the medians of 5.
Scenes and finished measurements are kept in OUT; measurements are repeated with --again. 100,000 pixels a side take
hours: start with --sides 12500 25000. Memory of several processes is read from /proc, so on Linux only.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("memory", "polygons", "footprints", "growth", "startup")
LIMIT_MB, FLAT, HELP_SECONDS, IDLE_SECONDS = 600.0, 1.10, 0.5, 1.0
BLOCK = 512  # side of a scene's blocks
FILLED, LEAST = 0.004, 64  # share and number of a sparse scene's blocks with pixels
CELL = 128  # pixels from one roof to the next
TINY = 64  # side of the scene that stands for start-up
PAUSE = 0.05  # seconds between two looks at the processes
WINDOW = 256  # side of the network's windows
STEPS = 80  # in which it learns that roofs are bright
REPEATS = 5  # of what takes a second
AT_ONCE = 250_000  # polygons that are made together
WIDTH = 150  # columns of the table where there is no terminal
GRID = ("EPSG:32644", 300_000.0, 3_100_000.0, 0.5)  # CRS, left, top, metres a pixel
CASES = {
    "chip": "scene.tif chips",
    "mosaic": "chips mosaic.tif",
    "mask": "chips {labels} masks",
    "mask, scene": "scene.tif {labels} scene_masks",
    "flatten": "chips pixels.csv",
    "flatten, scene": "scene.tif scene_pixels.csv",
    "summarize": "chips histograms",
    "predict": "../{model} scene.tif map --vectors footprints.gpkg",
}
GROWING = ("chip", "mosaic", "mask", "flatten", "summarize", "predict")
ORDER = (
    "download", "chip", "mosaic", "mask", "split", "flatten", "summarize", "forest", "regression", "train", "predict",
    "evaluate", "report",
)  # fmt: skip
LOADING = """
import sys
from pathlib import Path
from roofkit.settings import PredictArgs
from unet.predictor import NetworkPredictor
ready = NetworkPredictor(Path(sys.argv[1]), PredictArgs()).inference
"""
DRAWING = """
import sys
from pathlib import Path
import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window
from scipy import ndimage
from roofkit.footprints import Footprints, footprint_schema
from roofkit.patches import fronts, tracing
from roofkit.raster import Grid
from roofkit.settings import PredictArgs
from roofkit.vectors import write_batches
rows, cols = int(sys.argv[1]), 4000
grid = Grid(CRS.from_epsg(32644), Affine(0.5, 0, 300_000, 0, -0.5, 3_100_000), cols, rows)
settings = PredictArgs(min_area=4, min_hole=1, separate=1, simplify=0.6, square=True)
random = np.random.default_rng(0)
with tracing(Path("noise.arrow")) as tracer:
    for row in range(0, rows, 256):
        noise = ndimage.gaussian_filter(random.normal(size=(256, cols)), 5)
        roof = noise > noise.std()
        tracer.add(roof, roof.astype(np.float32), Window(0, row, cols, 256))
roofs = Footprints(Path("noise.tif"), grid, settings)
batches = roofs.batches(fronts([(0, Path("noise.arrow"))]), grid.crs)
write_batches(Path("footprints.gpkg"), batches, footprint_schema(), grid.crs, key="id", style="")
print(roofs.count)
"""


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        seconds: From start to end.
        cpu: Processor seconds, user and system, of all its processes.
        main_mb: The most resident memory of any one process, as the system counts it when the command ends: never less
            than this script's own, which each process had for a moment.
        largest_mb: The same where it is more than that, or more where a look at a process found more.
        together_mb: The most that all processes held at one time, shared pages counted once; None: not known here.
    """

    seconds: float
    cpu: float
    main_mb: float
    largest_mb: float
    together_mb: float | None


@dataclass(frozen=True)
class Row:
    """A row of the table: values at some sizes, the figure that they come to, and what it may be at most."""

    part: str
    case: str
    what: str
    at: str
    values: tuple[float, ...]
    figure: float | None
    limit: float | None = None

    @property
    def held(self) -> bool | None:
        """Whether the figure is within its limit; None: one of the two is not known."""
        return None if self.limit is None or self.figure is None else self.figure <= self.limit


# ------------------------------------------------------------------------------------------------------------ measuring


def descendants(root: int, parents: Mapping[int, int]) -> set[int]:
    """A process and all that it started, from each process' parent."""
    found, new = {root}, {root}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def kilobytes(text: str, name: str) -> int:
    """The entry of that name in /proc/…/status or smaps_rollup; 0 where there is none."""
    lines = (line.split() for line in text.splitlines())
    return next((int(words[1]) for words in lines if len(words) > 1 and words[0] == f"{name}:"), 0)


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        text = _read(entry)
        if text:
            found[int(entry.parent.name)] = int(text.rpartition(")")[2].split()[1])  # a name may hold spaces
    return found


def _read(path: Path) -> str:
    """A file of /proc; empty where the process has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


class Watch(threading.Thread):
    """Looks at a process and all that it starts until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.largest, self.together, self._over = pid, 0, 0, threading.Event()

    def run(self) -> None:
        """Look again and again."""
        while not self._over.wait(PAUSE):
            folders = [Path(f"/proc/{pid}") for pid in descendants(self.pid, _parents())]
            peaks = [kilobytes(_read(folder / "status"), "VmHWM") for folder in folders]
            shares = [kilobytes(_read(folder / "smaps_rollup"), "Pss") for folder in folders]
            self.largest, self.together = max(self.largest, *peaks), max(self.together, sum(shares))

    def stop(self) -> None:
        """End."""
        self._over.set()
        self.join()


def measure(line: Sequence[str], folder: Path, *, watch: bool = False) -> Cost:
    """Run a command in a folder, which is to end well, and say what it took."""
    started = time.perf_counter()
    with (folder / "log.txt").open("w+") as log:
        process = subprocess.Popen(line, cwd=folder, stdout=log, stderr=log)
        watcher = Watch(process.pid)
        if watch:
            watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if watch:
            watcher.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(line)}\nended with {process.returncode}:\n{log.read()[-2000:]}")
    most, floor = (megabytes(used) for used in (usage, resource.getrusage(resource.RUSAGE_SELF)))
    largest, together = watcher.largest / 1024, watcher.together / 1024
    largest = max(largest, most) if most > floor else largest or most
    return Cost(seconds, usage.ru_utime + usage.ru_stime, most, largest, together or None)


def megabytes(usage: resource.struct_rusage) -> float:
    """The most resident memory of a process, or of the largest that it waited for."""
    return usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)  # Linux counts kilobytes, macOS bytes


def alone(work: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a process of its own, so that this one stays small (see `Cost.main_mb`)."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__} ended with {process.exitcode}")


class Kept:
    """Measurements in a file, each made once."""

    def __init__(self, path: Path, again: bool) -> None:
        self.path, self.again = path, again
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.made: set[str] = set()

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """What was measured under that name, measured now if need be."""
        if key not in self.found or (self.again and key not in self.made):
            print(f"{time.strftime('%H:%M:%S')} {key}", file=sys.stderr, flush=True)
            self.found[key] = make()
            self.made.add(key)
            self.path.write_text(json.dumps(self.found, indent=1))
        return self.found[key]


# --------------------------------------------------------------------------------------------------------------- ground


def patch(rng: np.random.Generator, bands: int, side: int) -> tuple[NDArray[np.uint8], list[tuple[int, int, int, int]]]:
    """Pixels (bands, side, side), none of them 0, of noisy ground with bright roofs, and the roofs.

    A roof is its first row, first column, the row after its last and the column after its last.
    """
    places = np.maximum(0, 1 - np.abs(np.linspace(0, 8, side)[:, None] - np.arange(9)))
    pixels = places @ rng.uniform(60, 120, (bands, 9, 9)) @ places.T + rng.normal(0, 5, (bands, side, side))
    roofs = []
    for row, col in np.ndindex(side // CELL, side // CELL):
        top, left = (int(cell * CELL + rng.integers(4, 40)) for cell in (row, col))
        bottom, right = (int(first + rng.integers(16, 80)) for first in (top, left))
        pixels[:, top:bottom, left:right] += rng.uniform(80, 110)
        roofs.append((top, left, bottom, right))
    return pixels.clip(1, 255).astype(np.uint8), roofs


def filled_blocks(side: int, share: float) -> list[tuple[int, int]]:
    """Rows and columns of the blocks with pixels, sorted: the first one, the last one, and others by chance."""
    count = -(-side // BLOCK)
    number = min(count**2, max(LEAST, round(share * count**2)))
    rest = np.random.default_rng(count).permutation(np.arange(1, max(1, count**2 - 1)))[: max(0, number - 2)]
    return [(int(n) // count, int(n) % count) for n in sorted({0, count**2 - 1, *rest.tolist()})]


def make_ground(folder: Path, side: int, share: float, bands: int) -> None:
    """Write scene.tif and roofs.gpkg: a scene with that share of its blocks filled, and its roofs."""
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    crs, left, top, pixel = GRID
    profile = dict(
        driver="GTiff", count=bands, height=side, width=side, dtype="uint8", nodata=0, crs=crs, tiled=True,
        blockxsize=BLOCK, blockysize=BLOCK, compress="deflate", predictor=2, interleave="pixel", sparse_ok=True,
        bigtiff="if_safer", photometric="minisblack", alpha="no", transform=from_origin(left, top, pixel, pixel),
    )  # fmt: skip
    rng, roofs = np.random.default_rng(side), []
    with rasterio.Env(GDAL_CACHEMAX=2**26), rasterio.open(folder / "part.tif", "w", **profile) as dst:
        for row, col in filled_blocks(side, share):
            pixels, found = patch(rng, bands, BLOCK)
            window = Window(col * BLOCK, row * BLOCK, min(BLOCK, side - col * BLOCK), min(BLOCK, side - row * BLOCK))
            dst.write(pixels[:, : window.height, : window.width], window=window)
            roofs += [np.array(roof) + [row * BLOCK, col * BLOCK] * 2 for roof in found]
    write_roofs(folder / "roofs.gpkg", np.array(roofs))
    (folder / "part.tif").rename(folder / "scene.tif")


def write_roofs(path: Path, roofs: NDArray[np.int64]) -> None:
    """Write roofs (roofs, 4), as `patch` gives them but in pixels of the scene, as polygons."""
    import pyogrio.raw
    import shapely

    crs, left, top, pixel = GRID
    rows, cols = top - roofs[:, [2, 0]] * pixel, left + roofs[:, [1, 3]] * pixel
    shapes = shapely.to_wkb(shapely.box(cols[:, 0], rows[:, 0], cols[:, 1], rows[:, 1]))
    pyogrio.raw.write(path, shapes, [], [], driver="GPKG", layer="roofs", geometry_type="Polygon", crs=crs)


def make_polygons(path: Path, count: int, side: int) -> None:
    """Write so many boxes of 4 to 12 pixels, strewn over a scene of that side."""
    import pyarrow as pa
    import pyogrio.raw
    import shapely

    crs, left, top, pixel = GRID

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, count, AT_ONCE):
            number = min(AT_ONCE, count - start)
            x, y = left + pixel * rng.uniform(0, side, number), top - pixel * rng.uniform(0, side, number)
            width, height = pixel * rng.uniform(4, 12, (2, number))
            shapes = pa.array(shapely.to_wkb(shapely.box(x, y, x + width, y + height)), pa.binary())
            yield pa.record_batch({"geometry": shapes})

    rng = np.random.default_rng(count)
    reader = pa.RecordBatchReader.from_batches(pa.schema({"geometry": pa.binary()}), batches())
    options = dict(driver="GPKG", layer="roofs", layer_options={"SPATIAL_INDEX": "NO"})  # which would take longest
    pyogrio.raw.write_arrow(
        reader, path.with_name("part.gpkg"), geometry_name="geometry", geometry_type="Polygon", crs=crs, **options
    )
    path.with_name("part.gpkg").rename(path)


def make_model(path: Path, bands: int) -> None:
    """Write a small network that has learnt to find the roofs of `patch`."""
    from unet.backend import start_keras

    keras = start_keras()
    from roofkit.settings import ModelArgs, OutputArgs
    from unet.model_file import save_model
    from unet.network import Preparation, build_unet

    args = ModelArgs(architecture="residual_unet", input_shape=(WINDOW, WINDOW, bands), filters=4, num_layers=3)
    network = build_unet(args, OutputArgs(), preparation=Preparation(None, [100.0] * bands, [50.0] * bands))
    network.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        network.train_on_batch(*_batch(rng, bands))
    facts = {"threshold": 0.25, "frame_size": [WINDOW, WINDOW], "band_names": [], "data_format": "channels_last"}
    save_model(network, path, facts)


def _batch(rng: np.random.Generator, bands: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Four frames, of which one is empty, and where their roofs are."""
    image, roof = np.zeros((4, WINDOW, WINDOW, bands), np.float32), np.zeros((4, WINDOW, WINDOW, 1), np.float32)
    for frame in range(3):
        pixels, found = patch(rng, bands, WINDOW)
        image[frame] = np.moveaxis(pixels, 0, -1)
        for top, left, bottom, right in found:
            roof[frame, top:bottom, left:right] = 1
    return image, roof


# ---------------------------------------------------------------------------------------------------------------- parts


class Bench:
    """A folder with scenes and what was measured on them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out, self.model = options, options.out.resolve(), f"model_{options.bands}.h5"
        self.out.mkdir(parents=True, exist_ok=True)
        self.kept = Kept(self.out / "measured.json", options.again)
        blocks = {"chip_args": {"min_valid": 0.001}, "flatten_args": {"sample": options.sample}}
        (self.out / "settings.json").write_text(json.dumps(blocks))

    def cases(self, names: Iterable[str]) -> list[str]:
        """Those of the stages that are asked for."""
        return [name for name in names if not self.options.stages or name.split(",")[0] in self.options.stages]

    def ground(self, side: int, share: float) -> Path:
        """The folder of a scene, made when first asked for."""
        bands = self.options.bands
        folder = self.out / f"{'dense' if share == 1 else 'sparse'}_{side}x{bands}"
        folder.mkdir(exist_ok=True)
        if not (folder / "scene.tif").exists():
            alone(make_ground, folder, side, share, bands)
        return folder

    def run(self, case: str, folder: Path, *options: str, labels: str = "roofs.gpkg", watch: bool = False) -> Cost:
        """Run one case on the scene of a folder; what it reads is made first where it is not there."""
        if CASES[case].startswith("chips") and not (folder / "chips").exists():
            self.run("chip", folder, "--overwrite")
        if "{model}" in CASES[case] and not (self.out / self.model).exists():
            alone(make_model, self.out / self.model, self.options.bands)
        stage = case.split(",")[0]
        words = CASES[case].format(model=self.model, labels=labels).split()
        line = [sys.executable, str(ROOT / stage / f"{stage}.py"), *words]
        return measure([*line, "--settings", "../settings.json", "--quiet", *options], folder, watch=watch)

    def memory(self) -> list[Row]:
        """Rows on memory; a stage that is run once more has nothing to do."""
        rows, sides, loading = [], self.options.sides, 0.0
        for case in self.cases(CASES):
            found = [self._memory_of(case, side) for side in sides]
            if case == "predict":
                loading = self._loading()["largest_mb"]
                rows.append(Row("memory", case, "MB to load the model", "", (loading,), loading))
            rows += memory_rows(case, sides, found, loading)
        return rows

    def _memory_of(self, case: str, side: int) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            folder = self.ground(side, FILLED)
            cost = self.run(case, folder, "--overwrite", watch=True)
            return asdict(cost) | {"idle_seconds": self.run(case, folder).seconds}

        return dict(self.kept.get(f"memory: {case}: {side:,}, {self.options.bands} bands", make))

    def _loading(self) -> dict[str, Any]:
        line = [sys.executable, "-c", LOADING, self.model]
        return dict(self.kept.get(f"memory: loading {self.model}", lambda: asdict(measure(line, self.out, watch=True))))

    def polygons(self) -> list[Row]:
        """Rows on mask with more and more polygons."""
        if not self.cases(["mask"]):
            return []
        side, counts = self.options.sides[0], sorted(self.options.polygons)
        found = [self._polygons_of(count, self.ground(side, FILLED), side) for count in counts]
        at = " ".join(f"{count:,}" for count in counts)
        largest, seconds = (tuple(cost[name] for cost in found) for name in ("largest_mb", "seconds"))
        return [
            Row("polygons", "mask", "MB, largest process", at, largest, max(largest), LIMIT_MB),
            Row("polygons", "mask", "s", at, seconds, max(seconds)),
        ]

    def _polygons_of(self, count: int, folder: Path, side: int) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            labels = folder / f"roofs_{count}.gpkg"
            if not labels.exists():
                alone(make_polygons, labels, count, side)
            return asdict(self.run("mask", folder, "--overwrite", labels=labels.name, watch=True))

        return dict(self.kept.get(f"polygons: {count:,}, {side:,} a side", make))

    def footprints(self) -> list[Row]:
        """Rows on predict with more and more roofs."""
        if not self.cases(["predict"]):
            return []
        found = [self._footprints_of(rows) for rows in sorted(self.options.rows)]
        at = " ".join(f"{cost['count']:,}" for cost in found)
        largest, seconds = (tuple(cost[name] for cost in found) for name in ("largest_mb", "seconds"))
        return [
            Row("footprints", "predict", "MB, largest process", at, largest, max(largest), LIMIT_MB),
            Row("footprints", "predict", "s", at, seconds, max(seconds)),
        ]

    def _footprints_of(self, rows: int) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            folder = self.out / "noise"
            folder.mkdir(exist_ok=True)
            cost = measure([sys.executable, "-c", DRAWING, str(rows)], folder, watch=True)
            return asdict(cost) | {"count": int((folder / "log.txt").read_text().split()[-1])}

        return dict(self.kept.get(f"footprints: {rows:,} rows", make))

    def growth(self) -> list[Row]:
        """Rows on time; all sides take turns."""
        sides, cases = [TINY, *(self.options.dense * n for n in (1, 2, 4))], self.cases(GROWING)
        found: dict[str, dict[int, list[dict[str, Any]]]] = {case: {side: [] for side in sides} for case in cases}
        for number in range(self.options.rounds):
            for side in sides:
                for case in cases:
                    key = f"growth: {case}: {side:,}, {self.options.bands} bands, round {number + 1}"
                    found[case][side].append(self.kept.get(key, partial(self._growth_of, case, side)))
        return [row for case in cases for row in growth_rows(case, found[case])]

    def _growth_of(self, case: str, side: int) -> dict[str, Any]:
        return asdict(self.run(case, self.ground(side, 1), "--overwrite", "--workers", "1"))

    def startup(self) -> list[Row]:
        """Rows on starting."""
        folder, settings = self._project()
        stages = [name for name in self.cases(ORDER) if (ROOT / name).is_dir()]
        others = [path.stem for path in sorted(ROOT.glob("*/*.py")) if path.stem == path.parent.name]
        rows = []
        for name in [*stages, *(name for name in self.cases(others) if name not in ORDER), *self.cases(["local"])]:
            rows.append(self._start(name, "-h", HELP_SECONDS, folder, ["-h"]))
        for name in stages:
            idle = ["--settings", str(settings), "--quiet"]
            rows.append(self._start(name, "nothing to do", IDLE_SECONDS, folder, idle))
        return sorted(rows, key=lambda row: row.case)

    def _start(self, name: str, what: str, limit: float, folder: Path, arguments: list[str]) -> Row:
        script = ROOT / ("run/local.py" if name == "local" else f"{name}/{name}.py")
        line = [sys.executable, str(script), *arguments]

        def make() -> list[dict[str, Any]]:
            return [asdict(measure(line, folder)) for _ in range(REPEATS)]

        taken = tuple(cost["seconds"] for cost in self.kept.get(f"startup: {name}: {what}", make))
        return Row("startup", name, f"{what}, s", f"{REPEATS} times", taken, median(taken), limit)

    def _project(self) -> tuple[Path, Path]:
        """A finished project in which every stage has nothing to do, and its settings."""
        folder = self.out / "project"
        settings = folder / "settings.json"
        folder.mkdir(exist_ok=True)
        if not settings.exists():
            (folder / "new.json").write_text(json.dumps(small_settings()))
            measure([sys.executable, str(ROOT / "run/local.py"), "--settings", "new.json", "--quiet"], folder)
            (folder / "new.json").rename(settings)
        return folder, settings


def small_settings() -> dict[str, Any]:
    """The settings of a laptop, with less of everything."""
    values: dict[str, Any] = json.loads((ROOT / "settings.dev.json").read_text())
    values["download_args"]["size"] = 1024
    values["training_args"] |= {"epochs": 1, "steps_per_epoch": 2, "doctor": False}
    values["model_args"] |= {"filters": 4, "upconv_filters": 6}
    values["forest_args"] |= {"trees": 8, "importance": 0}
    values["evaluate_args"]["bootstrap"] = 10
    return values


# -------------------------------------------------------------------------------------------------------------- results


def rise(values: Sequence[float]) -> float | None:
    """The largest of the values as a multiple of the first; None where the first is lost in what start-up varies by."""
    return max(values) / values[0] if values[0] > 0 else None


def memory_rows(case: str, sides: Sequence[int], found: Sequence[Mapping[str, Any]], loading: float) -> list[Row]:
    """The rows of one case, from its cost at each side; `loading` MB are start-up."""
    at = " ".join(f"{side:,}" for side in sides)
    largest, idle = (tuple(cost[name] for cost in found) for name in ("largest_mb", "idle_seconds"))
    rows = [Row("memory", case, "MB, largest process", at, largest, max(largest), None if loading else LIMIT_MB)]
    if loading:
        apart = tuple(value - loading for value in largest)
        rows.append(Row("memory", case, "MB, start-up apart", at, apart, max(apart), LIMIT_MB))
    together = tuple(cost["together_mb"] or 0.0 for cost in found)
    return [
        *rows,
        Row("memory", case, "MB, all processes", at, together, max(together)),
        Row("memory", case, "largest process, the last two", at, largest, rise(largest[-2:]), FLAT),
        Row("memory", case, "nothing to do, s", at, idle, max(idle), IDLE_SECONDS),
    ]


def growth_rows(case: str, found: Mapping[int, Sequence[Mapping[str, float]]]) -> list[Row]:
    """The rows of one case, from its costs at each side, of which the smallest stands for start-up."""
    start, *sides = sorted(found)
    at = " ".join(f"{side:,}" for side in sides)
    rows = []
    for name, what in (("cpu", "CPU s / megapixel, to the first"), ("seconds", "s / megapixel, to the first")):
        taken = {side: median(cost[name] for cost in found[side]) for side in found}
        values = tuple((taken[side] - taken[start]) / (side**2 / 1e6) for side in sides)
        rows.append(Row("growth", case, what, at, values, rise(values), FLAT))
    return rows


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "case", "measured", "at", "values", "figure", "limit", "held", title="memory, growth, start")
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:g}"
        held = {True: "yes", False: "[bold red]no", None: ""}[row.held]
        values = " ".join(map(short, row.values))
        figure = "?" if row.figure is None else short(row.figure)
        table.add_row(row.part, row.case, row.what, row.at, values, figure, limit, held)
    console = Console()
    Console(width=max(console.width, WIDTH)).print(table)


def short(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw memory and time by the size of the scene."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    memory, growth = figure.subplots(1, 2)
    for axes, part, what in ((memory, "memory", "MB"), (growth, "growth", "CPU s / megapixel")):
        axes.set(xlabel="pixels a side", ylabel=what)
        for row in rows:
            if row.part == part and row.what in ("MB, largest process", "CPU s / megapixel, to the first"):
                axes.plot(_sides(row), row.values, "o-", label=row.case)
        axes.set_ylim(bottom=0)
    memory.axhline(LIMIT_MB, color="black", linestyle="--")
    memory.set_title("the largest process on a sparse scene (dashed: the limit)")
    growth.set_title("time for a million pixels of a dense scene")
    for axes in (memory, growth):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def _sides(row: Row) -> list[int]:
    return [int(side.replace(",", "")) for side in row.at.split()]


def main() -> None:
    """Measure what is asked for and not measured yet, then print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", choices=PARTS, help="one of them")
    parser.add_argument("--stages", nargs="+", metavar="STAGE", help="these alone")
    parser.add_argument("--sides", type=int, nargs="+", default=[12_500, 25_000, 50_000, 100_000])
    parser.add_argument("--polygons", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000], metavar="N")
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 80_000, 320_000], metavar="N", help="of noise")
    parser.add_argument("--dense", type=int, default=5000, metavar="N", help="side of the smallest dense scene")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bands", type=int, default=4)
    parser.add_argument("--sample", type=int, default=1000, help="pixels of a raster that flatten takes")
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    options.sides = sorted(options.sides)
    bench = Bench(options)
    rows = [row for part in PARTS if options.part in (part, None) for row in getattr(bench, part)()]
    show(rows)
    draw(rows, bench.out / "memory.png")
    if options.json:
        report = [asdict(row) | {"held": row.held} for row in rows]
        options.json.write_text(json.dumps({"rows": report, "measured": bench.kept.found}, indent=1))


if __name__ == "__main__":
    main()
