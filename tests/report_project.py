"""A finished project of two small scenes, written in a second: what report shows, without any training."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from evaluate.evaluate import main as evaluate
from roofkit.artifacts import Outputs
from roofkit.pairs import place_of
from summarize.summarize import main as summarize

CHIP = 32
THRESHOLD = 0.4137
UTM = "EPSG:32644"
HISTORY = "epoch,loss,iou,f1,val_loss,val_iou,val_f1,val_ece,threshold,temperature,learning_rate,seconds\n"
ROWS = ("1,0.9,0.2,0.3,0.8,0.3,0.4,0.1,0.5,1,0.002,3\n", "2,0.5,0.4,0.5,0.6,0.5,0.6,0.1,0.41,1,0.002,3\n")


@dataclass(frozen=True)
class Project:
    """Where it lies."""

    folder: Path
    settings: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def options(self) -> list[str]:
        folders = ["--data", str(self.data), "--results", str(self.results)]
        return ["--settings", str(self.settings), *folders, "--workers", "1", "--quiet"]


def write(path: Path, array: np.ndarray, corner=(735000.0, 2960000.0), *, crs=UTM, size=0.5, valid=None, names=()):
    """A GeoTIFF of an array (bands, rows, cols) or (rows, cols)."""
    array = array[None] if array.ndim == 2 else array
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = Affine(size, 0, corner[0], 0, -size, corner[1])
    profile = dict(driver="GTiff", count=len(array), height=array.shape[1], width=array.shape[2], dtype=array.dtype)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", crs=crs, transform=transform, photometric="minisblack", alpha="no", **profile) as dst,
    ):
        dst.write(array)
        for band, name in enumerate(names, start=1):
            dst.set_band_description(band, name)
        if valid is not None:
            dst.write_mask(valid)


@dataclass(frozen=True)
class Look:
    """What scenes are like."""

    names: tuple[str, ...] = ("town",)
    bands: int = 3
    dtype: str = "uint8"
    crs: str | None = UTM
    size: float = 0.5
    band_names: tuple[str, ...] = ()
    gap: float = 0.0
    scored: bool = True  # whether evaluate and summarize ran

    def corner(self, scene: int) -> tuple[float, float]:
        """Of the scenes, which lie side by side, `gap` apart."""
        left, top = (735000.0, 2960000.0) if self.crs == UTM else (85.5, 27.6)
        return left + scene * (96 * self.size + self.gap), top


def make_project(folder: Path, settings=None, **look) -> Project:
    """Scenes of 64 x 96 pixels, their last columns invalid; chips of 32, one in three of them a validation frame."""
    project, look = Project(folder, folder / "settings.json"), Look(**look)
    blocks = {
        "load_dataset_args": {"channels": look.bands, "target_size": 32},
        "model_args": {"input_shape": [32, 32, look.bands], "num_layers": 2},
        "predict_args": {"scene_probabilities": True},
    }
    project.settings.write_text(json.dumps({**blocks, **(settings or {})}))
    rng, rows = np.random.default_rng(0), []
    for scene, name in enumerate(look.names):
        rows += write_scene(project, look, scene, name, rng)
    columns = ["frame", "split", "chip", "scene", "row", "col", "block", "roof_fraction", "valid_fraction"]
    with (project.data / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    finish(project, scored=look.scored)
    return project


def write_scene(project: Project, look: Look, scene: int, name: str, rng: np.random.Generator) -> list[list[object]]:
    """A scene and all that is made of it; its rows of split.csv."""
    roof = np.zeros((64, 96), bool)
    for row in range(4, 60, 16):
        for col in range(4, 90, 16):
            roof[row : row + 8, col : col + 10] = rng.random() < 0.5
    probability = np.clip(0.15 + 0.6 * roof + rng.normal(0, 0.15, roof.shape), 0, 1).astype(np.float32)
    probability[0, :4] = (0.0, 1.0, 0.5, THRESHOLD)
    top = 200 if look.dtype == "uint8" else 2000
    pixels = (rng.uniform(0, 0.3, (look.bands, 64, 96)) * top + roof * top * 0.5).astype(look.dtype)
    valid = np.ones((64, 96), bool)
    valid[:, 90:] = False
    found = np.where(valid & (probability >= np.float32(THRESHOLD)), 255, 0).astype(np.uint8)
    layers = {"pixels": pixels, "roof": np.where(roof, 255, 0).astype(np.uint8), "found": found, "p": probability}
    place = dict(corner=look.corner(scene), crs=look.crs, size=look.size, valid=valid)
    write(project.data / f"scenes/{name}.tif", pixels, names=look.band_names, **place)
    write(project.results / f"map/{name}.tif", found, **place)
    write(project.results / f"map_probabilities/{name}.tif", probability, **place)
    corners = [(row, col) for row in range(0, 64, CHIP) for col in range(0, 96, CHIP)]
    return [write_chip(project, look, (scene, at), f"{name}_r{row}_c{col}", layers, place)
            for at, (row, col) in enumerate(corners)]  # fmt: skip


def write_chip(project, look, number, chip, layers, place) -> list[object]:
    """A chip, its frame, and what predict made of it; its row of split.csv."""
    scene, row, col = place_of(chip)
    window = np.s_[..., row : row + CHIP, col : col + CHIP]
    part = {name: array[window] for name, array in layers.items()}
    (left, top), valid = place["corner"], place["valid"][window]
    here = place | dict(corner=(left + col * look.size, top - row * look.size), valid=valid)
    side = "val" if number[1] % 3 == 1 else "train"
    frame = f"{side}_{6 * number[0] + number[1]}"
    for path in (f"chips/{chip}", f"{side}_frames/{frame}"):
        write(project.data / f"{path}.tif", part["pixels"], names=look.band_names, **here)
    for path in (f"masks/{chip}", f"{side}_masks/{frame}"):
        write(project.data / f"{path}.tif", part["roof"], **here)
    for model in ("", "forest_", "regression_") if side == "val" else ():
        probability = part["p"] ** 2 if model else part["p"]
        write(project.results / f"{model}predictions/{frame}.tif", part["found"], **here)
        write(project.results / f"{model}probabilities/{frame}.tif", probability, **here)
    roof, share = (part["roof"] > 0).mean(), valid.mean()
    return [frame, side, chip, scene, row, col, f"{row}_{col}", f"{roof:.6f}", f"{share:.6f}"]


def finish(project: Project, *, scored: bool) -> None:
    """What the stages leave beside rasters."""
    folder = project.results / "predictions"
    with Outputs(folder, "predict") as outputs:
        for path in sorted(folder.glob("*.tif")):
            outputs.record(path.name, "key", threshold=THRESHOLD, model="results_4.h5")
    (project.results / "history.csv").write_text(HISTORY + "".join(ROWS))
    runs = {"chip": {"seconds": 1.5, "peak_mb": 80.0}, "train": {"seconds": 75.0, "peak_mb": 900.0}}
    (project.results / "run.json").write_text(json.dumps(runs))
    for stage in (evaluate, summarize) if scored else ():
        assert stage(project.options) == 0
