"""What a worker of `mutate` does with a damaged file: what stages do with it. Results go back as lines of JSON.

python tests/fuzz/readers.py KIND FOLDER    then on stdin, line by line: {"path": FILE, "how": N}
"""

import contextlib
import importlib
import io
import json
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from corpus import FORMATS, make_corpus

LARGE = 2**20  # pixels of a raster from which on whole stages would only take long
SIDE, LOOKS = 2048, 8
KNOWN_NOISE = ("_tiffSeekProc: ",)  # GDAL prints it past its own handler of errors


class Bench:
    """A folder in which a damaged file is tried out, with sound ones beside it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.sound = {path.suffix: path for other in _needed(kind) for path in make_corpus(other, folder / other)}
        self.frame = next(iter(sorted((folder / "tif").glob("rgb.tif"))))
        self.settings = folder / "settings.json"
        self.settings.write_text(json.dumps({"chip_args": {"size": 32}, "summarize_args": {"bins": 16}}))

    def run(self, stage: str, *line: object) -> None:
        """Run a stage in this process; what it did wrong is raised as `WrongError`."""
        common = ["--settings", self.settings, "--data", self.folder / "data", "--results", self.folder / "results"]
        errors, out = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(out):
            status = main_of(stage)([*map(str, [*line, *common, "--workers", 1, "--quiet"])])
        check_words(status, errors.getvalue())


class WrongError(Exception):
    """A stage ended in a way that it never should."""


def check_words(status: int, words: str) -> None:
    """Raise `WrongError` unless a stage said what it should: notes, and one line where it failed."""
    lines = words.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if status not in (0, 1) or len(errors) != status or (errors and errors != lines[-1:]):
        raise WrongError(f"exit {status} with {lines[-3:]}")
    if errors and "; expected " not in errors[0]:
        raise WrongError(f"an error that does not say what was expected: {errors[0]}")
    odd = [line for line in lines if "Warning" in line or "Traceback" in line]
    if odd:
        raise WrongError(f"a remark for programmers: {words[-1500:]}")


def main_of(stage: str) -> Callable[[list[str]], int]:
    return importlib.import_module(f"{stage}.{stage}").main


def _needed(kind: str) -> list[str]:
    return [kind] if kind == "tif" else ["tif", kind]


def read_raster(bench: Bench, path: Path, how: int) -> str:
    """Every fourth time all that a raster tells, else a stage on it."""
    from roofkit.errors import RoofError
    from roofkit.raster import open_raster

    target = bench.folder / "work" / path.name
    try:
        with open_raster(target) as src:
            large = src.height * src.width * src.count > LARGE
    except RoofError:
        large = False
    stages = ("door", "chip", "mosaic", "flatten", "summarize", "split", "predict", "evaluate")
    stage = "door" if large else stages[how % len(stages)]
    data = bench.folder / "work"
    if stage == "door":
        look(target)
    elif stage in ("chip", "flatten", "summarize"):
        out = {"chip": "chips", "flatten": "pixels.csv", "summarize": "histograms"}[stage]
        bench.run(stage, target, bench.folder / "out" / out)
    elif stage == "mosaic":
        bench.run(stage, data, bench.folder / "out" / "mosaic.tif")
    elif stage == "predict":
        raise_unless_known(lambda: bench.run("predict", classifier(bench), target, bench.folder / "out" / "map"))
    else:
        other = bench.folder / "others"
        other.mkdir(exist_ok=True)
        shutil.copy(bench.folder / "tif" / "mask.tif", other / f"{target.stem}.tif")
        folders = (data, other) if how % 2 else (other, data)
        bench.run(stage, *folders, bench.folder / "out" / ("scores.json" if stage == "evaluate" else "split"))
    return stage


def raise_unless_known(work: Callable[[], None]) -> None:
    work()


def classifier(bench: Bench) -> Path:
    made = bench.folder / "skops" / "forest.skops"
    if not made.is_file():
        make_corpus("skops", bench.folder / "skops")
    return made


def look(path: Path) -> None:
    """Look at all that stages ask of a raster."""
    import roofkit.raster as raster
    from roofkit.checks import raster_facts
    from roofkit.errors import RoofError

    with contextlib.suppress(RoofError):
        raster.raster_digest(path)
        with raster.open_raster(path) as src:
            raster.grid_of(src).bounds, raster.band_names(src), raster.own_names(src), raster.is_rgb(src)
            for _, window in zip(range(LOOKS), raster.windows(src.height, src.width, SIDE)):
                raster.read_valid(src, window)
                raster.read_pixels(src, window)
        raster_facts(path)


def read_labels(bench: Bench, path: Path, how: int) -> str:
    """Masks of it, or its features with all attributes, or an area of interest."""
    from roofkit.errors import RoofError
    from roofkit.labels import read_features

    target = bench.folder / "work" / path.name
    stage = ("mask", "where", "features", "area")[how % 4]
    if stage == "features":
        with contextlib.suppress(RoofError):
            read_features(target)
    elif stage == "area":
        from sources.area import area_of_file

        with contextlib.suppress(RoofError):
            area_of_file(target)
    else:
        where = ["--where", "material = 'tin' AND height > 1"] if stage == "where" else []
        bench.run("mask", bench.frame, target, bench.folder / "out" / "masks", *where)
    return stage


def read_model(bench: Bench, path: Path, how: int) -> str:
    """A prediction with it."""
    bench.run(
        "predict", bench.folder / "work" / path.name, bench.frame, bench.folder / "out" / "map", *["--flips"][: how % 2]
    )
    for mask in (bench.folder / "out" / "map").glob("*.tif"):
        look(mask)
    return "predict"


READERS = {"tif": read_raster, "vector": read_labels, "h5": read_model, "keras": read_model, "skops": read_model}


def try_out(bench: Bench, path: Path, how: int) -> dict[str, str]:
    """Do something with a damaged file (a folder: its files belong together), and tell how it went."""
    for name in ("work", "out", "data", "results"):
        shutil.rmtree(bench.folder / name, ignore_errors=True)
    (bench.folder / "work").mkdir()
    for part in path.parent.iterdir():
        shutil.copy(part, bench.folder / "work")
    before = os.fstat(2).st_size
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for kind in (DeprecationWarning, PendingDeprecationWarning):  # which Python does not show either
            warnings.simplefilter("ignore", kind)
        try:
            stage = READERS[bench.kind](bench, path, how)
        except WrongError as error:
            return {"outcome": "wrong", "what": str(error)}
        except MemoryError:
            return {"outcome": "memory", "what": traceback.format_exc()[-2000:]}
        except Exception:
            return {"outcome": "traceback", "what": traceback.format_exc()[-3000:]}
    left = [p.name for p in bench.folder.joinpath("out").rglob(".*") if ".part" in p.name or p.suffix == ".lock"]
    if left:
        return {"outcome": "leftovers", "what": f"{stage}: {left}"}
    if os.fstat(2).st_size > before:
        with open("/proc/self/fd/2", errors="replace") as file:
            file.seek(before)
            lines = [line for line in file if not line.startswith(KNOWN_NOISE)]
        if lines:
            return {"outcome": "noise", "what": f"{stage}: {''.join(lines)[:1500]}"}
    return {"outcome": "fine", "what": stage}


def main() -> None:
    """Answer requests until stdin ends. What libraries print goes to a file, so that it can be seen."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    bench = Bench(kind, folder)
    warm_up(bench)
    os.dup2(os.open(folder / "noise", os.O_RDWR | os.O_CREAT | os.O_APPEND), 2)
    print(json.dumps({"outcome": "ready"}), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(try_out(bench, Path(task["path"]), task["how"])), file=answers, flush=True)


def warm_up(bench: Bench) -> None:
    """Read sound files in every way, so that no import counts as the time or memory of a damaged one.

    Raises:
        RuntimeError: One of them is not read well.
    """
    for sound in sorted(path for path in (bench.folder / bench.kind).iterdir() if path.suffix in FORMATS[bench.kind]):
        alone = bench.folder / "sound"
        shutil.rmtree(alone, ignore_errors=True)
        alone.mkdir()
        for part in sound.parent.glob(f"{sound.stem}.*") if sound.suffix == ".shp" else [sound]:
            shutil.copy(part, alone)
        for how in range(8 if sound.stem in ("rgb", "roofs") else 1):
            answer = try_out(bench, alone / sound.name, how)
            if answer["outcome"] != "fine":
                raise RuntimeError(f"{sound.name}: {answer}")


if __name__ == "__main__":
    main()
