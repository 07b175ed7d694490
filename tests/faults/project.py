"""A small project that was never disturbed, and each stage's command on a workspace beside it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
SETTINGS: dict[str, Any] = {
    "download_args": {"size": 256},
    "chip_args": {"size": 64},
    "mask_args": {"where": "material = 'metal'"},
    "split_args": {"block_size": 1},
    "load_dataset_args": {"target_size": [32, 32], "channels": 4, "batch_size": 4},
    "model_args": {"input_shape": [32, 32, 4], "num_layers": 0, "filters": 4, "upconv_filters": 4},
    "training_args": {
        "epochs": 3, "early_stopping": None, "doctor": False, "precision": "float32", "results_folder": "results",
    },
    "pixel_args": {
        "values": ["bands"], "mean": ["bands"], "deviation": [], "edges": [], "texture": [], "hessian": [],
        "scales": [1.0], "pixels": 800,
    },
    "forest_args": {"trees": 4, "importance": 60},
    "regression_args": {"strengths": [0.1], "folds": 2},
    "predict_args": {"block_size": 256, "runtime": "keras", "min_area": 0.0},
    "evaluate_args": {"bootstrap": 20},
}  # fmt: skip
OTHER = {
    "download_args": {"seed": 1},
    "raster_args": {"compress": "none"},
    "split_args": {"seed": 1},
    "flatten_args": {"sample": 9},
    "summarize_args": {"bins": 16},
    "forest_args": {"trees": 3},
    "regression_args": {"strengths": [1.0]},
    "training_args": {"learning_rate": 0.0001},
    "predict_args": {"threshold": 0.3},
    "evaluate_args": {"bootstrap": 10},
}  # what decides another result of each stage
LEFTOVERS = ("*/.part-*", "*.lock", "*.polygons", "*/.download", "*.resume.npz")


@dataclass(frozen=True)
class Case:
    """A stage at work: its arguments, in which {ref} is the undisturbed project and {out} where it writes."""

    stage: str
    needs: tuple[str, ...]
    arguments: str
    keras: bool = False

    def argv(self, ref: Path, out: Path, settings: str = "settings.json") -> list[str]:
        """The command line without the script."""
        words = self.arguments.format(ref=ref, out=out).split()
        return [*words, "--settings", str(ref / settings), "--quiet"]


CASES = {
    "download": Case("download", (), "--data {out}"),
    "chip": Case("chip", ("download",), "{ref}/data/scenes {out}/chips --workers 1"),
    "mosaic": Case("mosaic", ("chip",), "{ref}/data/chips {out}/mosaic.tif"),
    "mask": Case("mask", ("chip",), "{ref}/data/chips {ref}/data/labels {out}/masks"),
    "split": Case("split", ("mask",), "{ref}/data/chips {ref}/data/masks {out}"),
    "flatten csv": Case("flatten", ("chip",), "{ref}/data/chips {out}/pixels.csv"),
    "flatten parquet": Case("flatten", ("chip",), "{ref}/data/chips {out}/pixels.parquet"),
    "summarize": Case("summarize", ("chip",), "{ref}/data/chips {out}/histograms"),
    "forest": Case("forest", ("split",), "{out}/forest.skops --data {ref}/data"),
    "regression": Case("regression", ("split",), "{out}/regression.skops --data {ref}/data"),
    "train": Case("train", ("split",), "{out}/results_4.h5 --data {ref}/data --results {out}", keras=True),
    "predict": Case(
        "predict",
        ("train",),
        "{ref}/results/results_4.h5 {ref}/data/scenes {out}/map --probabilities {out}/p --vectors {out}/roofs.gpkg",
        keras=True,
    ),
    "predict blocks": Case(
        "predict",
        ("forest", "big"),
        "{ref}/results/forest.skops {ref}/big {out}/map --probabilities {out}/p --vectors {out}/roofs.geojson",
    ),
    "evaluate": Case("evaluate", ("predict",), "{ref}/results/predictions {ref}/data/val_masks {out}/metrics.json"),
}


HEAVY = ("forest", "regression", "predict blocks", "train", "predict", "evaluate")  # take many seconds


def todays(names: Iterable[str], count: int) -> list[str]:
    """So many of the names, other ones each day, until all have had their turn."""
    listed, day = list(names), date.today().toordinal()
    return [listed[(day * count + i) % len(listed)] for i in range(count)]


def random_of(name: str) -> np.random.Generator:
    """Random numbers that are other ones each day and for each test; a failure is repeated with its date."""
    return np.random.default_rng([date.today().toordinal(), *name.encode()])


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Settings in which those of `other` count first."""
    return {key: {**one.get(key, {}), **other.get(key, {})} for key in {*one, *other}}


def write_settings(folder: Path) -> Path:
    """The folder of a project, with its two settings files."""
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    (folder / "other.json").write_text(json.dumps(merged(SETTINGS, OTHER)))
    return folder


@dataclass(frozen=True)
class Done:
    """How a run of a stage ended, and what it said."""

    status: int
    events: int
    seconds: float
    said: str


class Server:
    """A process that forks a child for each run; see `server.py`."""

    def __init__(self, folder: Path, *modules: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        line = [sys.executable, str(ROOT / "tests/faults/server.py"), *modules]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(line, text=True, env=environment(), cwd=folder, **pipes)

    def start(self, stage: str, argv: list[str], **faults: Any) -> int:
        """Start a run; its process id, which is that of its group too."""
        task = {"stage": stage, "argv": argv, **faults}
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(task), file=self.process.stdin, flush=True)
        self.started = time.monotonic()
        return int(self.process.stdout.readline())

    def wait(self) -> Done:
        """Wait until the run has ended."""
        assert self.process.stdout
        found = json.loads(self.process.stdout.readline())
        seconds = time.monotonic() - self.started
        return Done(found["status"], found["events"], seconds, found["said"])

    def run(self, stage: str, argv: list[str], *, kill_after: float | None = None, **faults: Any) -> Done:
        """Run a stage; with `kill_after` it gets SIGKILL after so many seconds."""
        pid = self.start(stage, argv, **faults)
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return self.wait()

    def close(self) -> None:
        """End the process."""
        with self.process:
            self.process.kill()


LIGHT = [
    f"{name}.{name}" for name in ("download", "chip", "mosaic", "mask", "split", "flatten", "summarize", "evaluate")
]
LIGHT += ["forest.forest", "regression.regression", "predict.predict", "pixelwise.learning", "pixelwise.predictor"]
LIGHT += ["sklearn.ensemble", "sklearn.linear_model", "sklearn.metrics", "skops.io", "matplotlib.figure"]
LIGHT += ["geopandas", "pyogrio", "sources.sample", "roofkit.labels", "roofkit.misplaced", "scipy.ndimage"]
KERAS = ["tensorflow", "keras", "train.train", "predict.predict", "unet.learner", "unet.predictor"]
MAKES = {  # what each stage of the undisturbed project needs, and what it makes
    "download": ("", ""), "chip": ("download", ""), "mask": ("chip", ""), "split": ("mask", ""),
    "forest": ("split", ""), "regression": ("split", ""), "train": ("split", ""),
    "predict": ("train", "{ref}/results/results_4.h5 {ref}/data/val_frames {ref}/results/predictions"),
    "big": ("chip", ""),
}  # fmt: skip


class Project:
    """The undisturbed project, made as far as cases need it, and the servers that run stages on it."""

    def __init__(self, folder: Path) -> None:
        self.ref = write_settings(folder / "ref")
        self.folder = folder
        self._servers: dict[bool, Server] = {}
        self._made: set[str] = set()
        self._runs: dict[tuple[str, str], tuple[Path, Done]] = {}

    def server(self, keras: bool) -> Server:
        """The server that has the modules of a case."""
        if keras not in self._servers:
            self._servers[keras] = Server(self.folder / f"server{keras:d}", *(KERAS if keras else LIGHT))
        return self._servers[keras]

    def close(self) -> None:
        """End the servers."""
        for server in self._servers.values():
            server.close()

    def make(self, stage: str) -> None:
        """Run a stage in the undisturbed project, and before it those that it needs."""
        if stage in self._made or not stage:
            return
        self.make(MAKES[stage][0])
        if stage == "big":
            self._make_big()
        else:
            words = MAKES[stage][1].format(ref=self.ref).split()
            done = self.server(stage in ("train", "predict")).run(
                stage, [*words, "--settings", str(self.ref / "settings.json"), "--quiet"]
            )
            assert done.status == 0, done.said
        self._made.add(stage)

    def _make_big(self) -> None:
        """A scene that is larger than a block: one scene three times side by side."""
        from roofkit.raster import Grid, grid_of, open_raster, write_raster

        with open_raster(next((self.ref / "data/scenes").iterdir())) as src:
            pixels, grid = np.tile(src.read(), (1, 1, 3)), grid_of(src)
        write_raster(self.ref / "big/town.tif", pixels, None, Grid(grid.crs, grid.transform, *pixels.shape[1:]))

    def undisturbed(self, name: str, settings: str = "settings.json") -> tuple[Path, Done]:
        """The folder that a case writes when nothing disturbs it, and how that run ended."""
        if (name, settings) not in self._runs:
            case = CASES[name]
            for stage in case.needs:
                self.make(stage)
            done = self.run(name, settings)
            assert done.status == 0, done.said
            kept = self.folder / "kept" / f"{name} {settings}"
            shutil.copytree(self.out, kept)
            self._runs[name, settings] = kept, done
        return self._runs[name, settings]

    @property
    def out(self) -> Path:
        """Where cases write."""
        return self.folder / "out"

    def clear(self, name: str | None = None) -> None:
        """Have nothing there, or the finished result of other settings."""
        old = self.undisturbed(name, "other.json")[0] if name else None
        shutil.rmtree(self.out, ignore_errors=True)
        if old:
            shutil.copytree(old, self.out)
        else:
            self.out.mkdir()

    def run(self, name: str, settings: str = "settings.json", *, clear: bool = True, **faults: Any) -> Done:
        """Run a case."""
        if clear:
            self.clear()
        case = CASES[name]
        return self.server(case.keras).run(case.stage, case.argv(self.ref, self.out, settings), **faults)


def files(folder: Path) -> Iterator[Path]:
    """Every file below a folder that people see: hidden ones are the program's own."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield path


def content(path: Path) -> Any:
    """What must be the same in two runs: a model's weights and facts, else the bytes; nothing of a clock's."""
    if path.suffix == ".h5":
        return model_content(path)
    if path.name == "history.csv":
        return [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]
    return path.read_bytes()


def model_content(path: Path) -> Any:
    """The weights and facts of a model, by their names in its file."""
    import h5py

    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(path) as file:
        file["model_weights"].visititems(visit)
        return found, file.attrs["roof_classify"]


def contents(folder: Path) -> dict[str, Any]:
    """What must be the same, by name; a file that cannot be read raises."""
    return {str(path.relative_to(folder)): content(path) for path in files(folder)}


def wrong(found: dict[str, Any], new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """The files that are neither those of a run that was not disturbed nor those that were there before."""
    return [name for name, value in found.items() if not _is_either(name, value, new.get(name), old.get(name))]


def _is_either(name: str, value: Any, new: Any, old: Any) -> bool:
    if name.startswith(".download/") or name.endswith(".resume.npz"):  # what the next run goes on with, and is checked
        return True
    if name == "history.csv":  # of the epochs so far
        return any(lines is not None and lines[: len(value)] == value for lines in (new, old))
    if name.endswith(".h5") and new is not None:  # perhaps of an earlier epoch, which was the best one so far
        return set(value[0]) == set(new[0])
    return value in (new, old)


def leftovers(folder: Path) -> list[str]:
    """What a killed run left, and the next one has not removed."""
    paths = [path for path in folder.rglob("*") if any(path.match(pattern) for pattern in LEFTOVERS)]
    return [str(path.relative_to(folder)) for path in paths]


def environment() -> dict[str, str]:
    """The environment of a stage's process."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def ledgers(folder: Path) -> dict[str, bytes]:
    """The ledgers below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.ledger.jsonl")}
