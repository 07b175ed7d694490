"""The first version's six experiments, which always gave black masks, once more: what was seen, why, and the fix.

python bench/experiments.py OUT [--picture FILE] [--markdown FILE]
draws small chips like WorldView's (8 bands, uint16 of 11 bits, 65 x 65 pixels resized to 64 x 64, as 650 was to 640)
into OUT, trains small satellite_unets on them, as then and with the cause put right, and prints what it measured.
Chips, seed, order of batches, optimizer and loss are the same in all runs.
--picture draws a row for each experiment; --markdown puts the figures between the two marks in that file.
"""

import argparse
import contextlib
import io
import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.random import Generator
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from skimage.transform import resize

from roofkit.errors import BadInputError, SettingsError
from roofkit.settings import LoadDatasetArgs, ModelArgs, OutputArgs, load_settings
from unet.backend import start_keras

keras = start_keras()

from roofkit.pairs import Pair, find_pairs
from unet.datagen import KerasFrames, RoofFrames
from unet.metrics import RoofIoU, ThresholdCounts
from unet.network import Preparation, build_unet

SEED = 0
SIDE, SIZE = 65, 64  # pixels of a chip, and of what the network sees
COUNTS = {"train": 40, "val": 16}
BATCH, RATE = 8, 0.003
SHORT, LONG, PATIENCE = 16, 30, 10  # epochs
WIDTH = 150  # columns of the table where there is no terminal
MARKS = ("<!-- figures: written by bench/experiments.py -->", "<!-- end of figures -->")

Array = NDArray[Any]

# ------------------------------------------------------------------------------------------------------------- chips

RGB = (4, 2, 1)
GAIN, BRIGHT = 3600.0, 2047  # digital numbers at reflectance 1, and the highest of 11 bits
# Reflectance in WorldView-2's coastal, blue, green, yellow, red, red edge and two near infrared bands.
SPECTRA = {
    "grass": (0.05, 0.06, 0.09, 0.09, 0.07, 0.20, 0.38, 0.38),
    "soil": (0.12, 0.15, 0.20, 0.25, 0.28, 0.31, 0.35, 0.36),
    "road": (0.11, 0.12, 0.13, 0.14, 0.14, 0.15, 0.16, 0.16),
    "metal": (0.33, 0.37, 0.40, 0.41, 0.42, 0.42, 0.41, 0.40),
    "concrete": (0.22, 0.26, 0.32, 0.36, 0.38, 0.40, 0.42, 0.43),
    "clay": (0.10, 0.11, 0.14, 0.24, 0.32, 0.36, 0.39, 0.40),
}
SPECTRUM = {name: np.array(values)[:, None, None] for name, values in SPECTRA.items()}
ROWS, COLS = np.mgrid[:SIDE, :SIDE]


def noise(rng: Generator, sigma: float) -> Array:
    """Smooth noise (SIDE, SIDE) of deviation 1."""
    field = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), sigma, mode="wrap")
    return np.asarray(field / field.std())


def across(rng: Generator, low: float, high: float) -> tuple[Array, Array]:
    """Distances of all pixels from two lines that cross at a right angle somewhere between `low` and `high`."""
    angle, (row, col) = rng.uniform(0, np.pi), rng.uniform(low, high, 2)
    sine, cosine = np.sin(angle), np.cos(angle)
    return (ROWS - row) * cosine + (COLS - col) * sine, (COLS - col) * cosine - (ROWS - row) * sine


class Chip:
    """Ground with a road, and roofs on it; `image` is reflectance (bands, rows, cols), `metal` the mask."""

    def __init__(self, rng: Generator) -> None:
        grass = 1 / (1 + np.exp(-2.5 * noise(rng, 7)))
        ground = SPECTRUM["grass"] * grass + SPECTRUM["soil"] * (1 - grass)
        self.taken = np.abs(across(rng, 10, 55)[0]) < 2.5
        self.image = np.where(self.taken, SPECTRUM["road"], ground * (1 + 0.1 * noise(rng, 1.2)))
        self.metal = np.zeros((SIDE, SIDE), bool)
        share = rng.uniform(0.06, 0.12)
        while self.metal.mean() < share:
            self._build(rng, "metal")
        for _ in range(12):
            self._build(rng, str(rng.choice(["concrete", "clay"])))

    def _build(self, rng: Generator, material: str) -> None:
        """A roof of two planes with a shadow beside it, where there is room."""
        along, beside = across(rng, 6, SIDE - 6)
        roof = (np.abs(along) < rng.uniform(4.5, 8.5)) & (np.abs(beside) < rng.uniform(3.5, 5.5))
        if (roof & self.taken).any():
            return
        light = np.where(beside > 0, 1.12, 0.88) * rng.uniform(0.75, 1.15)
        self.image = np.where(np.roll(roof, (1, 1), (0, 1)) & ~roof, 0.55 * self.image, self.image)
        self.image = np.where(roof, SPECTRUM[material] * light, self.image)
        self.taken |= ndimage.binary_dilation(roof)
        self.metal |= roof & (material == "metal")

    def pixels(self, rng: Generator) -> Array:
        """As the sensor delivers it, uint16 (bands, rows, cols)."""
        seen = ndimage.gaussian_filter(self.image, (0, 0.5, 0.5)) * GAIN * rng.uniform(0.85, 1.1)
        return (seen + 12 * rng.standard_normal(seen.shape)).clip(0, BRIGHT).astype(np.uint16)


def write(path: Path, pixels: Array, number: int, photometric: str = "minisblack") -> None:
    """Write pixels (bands, rows, cols) as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = dict(driver="GTiff", count=len(pixels), height=SIDE, width=SIDE, dtype=pixels.dtype, crs="EPSG:32616")
    place = Affine(2, 0, 500_000 + 2 * SIDE * number, 0, -2, 3_700_000)
    with rasterio.open(path, "w", transform=place, photometric=photometric, **profile) as dst:
        dst.write(pixels)


def draw_chips(out: Path) -> None:
    """Frames and masks for training and validation: of 8 bands, and of red, green and blue alone."""
    rng = np.random.default_rng(SEED)
    for kind, count in COUNTS.items():
        for number in range(count):
            chip = Chip(rng)
            pixels, mask = chip.pixels(rng), chip.metal[None] * np.uint8(255)
            for name, bands in (("bands_8", slice(None)), ("bands_3", list(RGB))):
                write(out / name / f"{kind}_frames" / f"{kind}_{number}.tif", pixels[bands], number)
                write(out / name / f"{kind}_masks" / f"{kind}_{number}.tif", mask, number)
    write(out / "tagged" / "frames" / "rgb.tif", pixels[list(RGB)], number, photometric="rgb")


# ---------------------------------------------------------------------------------------------------- two generators


def ours(pairs: Sequence[Pair], bands: int) -> tuple[Array, Array]:
    """Frames and masks by this project's generator: the file's own values, and exactly 0 or 1."""
    settings = LoadDatasetArgs(batch_size=len(pairs), target_size=(SIZE, SIZE), channels=bands)
    images, masks, _ = RoofFrames(pairs, settings).batch(0)
    return images, masks


def theirs(pairs: Sequence[Pair]) -> tuple[Array, Array]:
    """Frames and masks as the first version's generator read them, before its division by 255.

    scikit-image's resize divides whole numbers by the highest that their type can hold, 65535 or 255.
    """
    frames, masks = ([resize(read(path), (SIZE, SIZE)) for path in paths] for paths in zip(*map(astuple, pairs)))
    return np.stack(frames), np.stack(masks)


def read(path: Path) -> Array:
    """Pixels (rows, cols, bands)."""
    with rasterio.open(path) as src:
        return np.moveaxis(src.read(), 0, -1)


# -------------------------------------------------------------------------------------------------------- trainings


@dataclass(frozen=True)
class Recipe:
    """A training.

    Args:
        frames: How often their generator scales frames; None: never, as the network's first layer does it.
        masks: How often it scales masks; None: this project's generator reads them.
        momentum: Of batch normalisation; None: without it.
        long: 30 epochs at most, with early stopping, instead of 16.
        bands: 8 or 3.
    """

    frames: int | None = None
    masks: int | None = None
    momentum: float | None = 0.01
    long: bool = False
    bands: int = 8


@dataclass(frozen=True)
class Result:
    """What was measured. `probability` (frames, rows, cols, 1) is of the validation frames, as `predict` gives it."""

    probability: Array
    as_trained: Array
    scores: dict[str, float]
    deviation: float = np.nan
    masks: Array | None = None
    loss: float = np.nan
    epochs: int = 0
    history: tuple[float, ...] = ()


class Bench:
    """The chips, and each training once."""

    def __init__(self, out: Path) -> None:
        draw_chips(out)
        self.out = out
        self.done: dict[Recipe, Result] = {}
        self.truth = ours(self.pairs("val"), 8)[1]

    def pairs(self, kind: str, bands: int = 8) -> list[Pair]:
        """Frames and masks of one kind."""
        folder = self.out / f"bands_{bands}"
        return find_pairs(folder / f"{kind}_frames", folder / f"{kind}_masks")

    def arrays(self, kind: str, recipe: Recipe) -> tuple[Array, Array]:
        """What the network gets of one kind."""
        pairs = self.pairs(kind, recipe.bands)
        own, other = ours(pairs, recipe.bands), theirs(pairs)
        times = (recipe.frames, recipe.masks)
        images, masks = (a if n is None else b / 255 ** (n - 1) for a, b, n in zip(own, other, times))
        return images.astype(np.float32), masks.astype(np.float32)

    def result(self, recipe: Recipe) -> Result:
        """Train and measure, unless that was done before."""
        if recipe not in self.done:
            print(f"training: {recipe}", file=sys.stderr, flush=True)
            self.done[recipe] = self._train(recipe)
        return self.done[recipe]

    def _train(self, recipe: Recipe) -> Result:
        (images, masks), (seen, labels) = (self.arrays(kind, recipe) for kind in COUNTS)
        network = make_network(recipe, images)
        options: dict[str, Any] = {}
        if recipe.long:
            stop = keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=False)
            options = dict(validation_data=(seen, labels), callbacks=[stop])
        epochs = LONG if recipe.long else SHORT
        history = network.fit(images, masks, batch_size=BATCH, epochs=epochs, verbose=0, **options).history
        predicted, as_trained = answers(network, seen)
        scores = score(self.truth, predicted) | {"trained": score(self.truth, as_trained)["iou"]}
        return Result(
            predicted, as_trained, scores, deviation(network, images), np.unique(masks), history["loss"][-1],
            len(history["loss"]), tuple(history["mean_iou"]),
        )  # fmt: skip


def make_network(recipe: Recipe, images: Array) -> Any:
    """A small satellite_unet, compiled; with the scaling as its first layer where the generator does none."""
    keras.utils.set_random_seed(SEED)
    args = ModelArgs(
        input_shape=(SIZE, SIZE, recipe.bands), num_layers=2, filters=8, upconv_filters=12,
        bachnorm_momentum=recipe.momentum or 0.0,
    )  # fmt: skip
    axes = (0, 1, 2)
    scaling = (
        Preparation(None, images.mean(axes).tolist(), images.std(axes).tolist()) if recipe.frames is None else None
    )
    network = build_unet(args, OutputArgs(), preparation=scaling)
    if recipe.momentum is None:
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False  # with mean 0 and variance 1 for good, it does nothing
    metric = keras.metrics.MeanIoU(num_classes=2, name="mean_iou")
    network.compile(keras.optimizers.Adam(RATE), "binary_crossentropy", metrics=[metric], jit_compile=False)
    return network


def answers(network: Any, images: Array) -> tuple[Array, Array]:
    """Probabilities as in prediction, and as in training: with the statistics of these very frames."""
    predicted = np.array(network(images, training=False))
    return predicted, np.array(network(images, training=True))


def deviation(network: Any, images: Array) -> float:
    """Standard deviation of what the first layer that learns gets, the mean of the bands."""
    first = next(layer for layer in network.layers if layer.weights)
    inputs = np.array(keras.Model(network.input, first.input)(images))
    return float(inputs.std((0, 1, 2)).mean())


def score(truth: Array, probability: Array) -> dict[str, float]:
    """Scores of a whole set of frames."""
    iou, counts = RoofIoU(), ThresholdCounts()
    mean_iou = keras.metrics.MeanIoU(num_classes=2)
    for metric in (iou, counts, mean_iou):
        metric.update_state(truth, probability)
    names = ("iou", "best", "highest", "mean_iou")
    return dict(zip(names, map(float, (iou.result(), counts.best()[1], probability.max(), mean_iou.result()))))


# ------------------------------------------------------------------------------------------------------ experiments

FIXED = Recipe()
TWICE = Recipe(frames=2, masks=2)
LAGGING = Recipe(frames=1, masks=1, momentum=0.99)
ONCE = Recipe(frames=1, masks=1)
TINY = Recipe(frames=2, masks=1, momentum=None, long=True)
TINY_NORMED = Recipe(frames=2, masks=1, momentum=0.99, long=True)
FIXED_3 = Recipe(bands=3)
RUNS: tuple[tuple[str, str, Recipe | None], ...] = (
    ("1a", "8 bands through Keras' generator", None),
    ("1b", "**fix**: `custom: 1`", FIXED),
    ("2a", "frames and masks scaled twice", TWICE),
    ("2b", "masks alone scaled twice, longer", Recipe(masks=2, long=True)),
    ("2c", "**fix**: this project's generator and scaling", FIXED),
    ("3a", "the network of 2a", TWICE),
    ("3b", "a perfect answer, 0.999 and 0.001", None),
    ("3c", "**fix**: the network of 2c, by roof IoU", FIXED),
    ("4a", "scaled once, momentum 0.99", LAGGING),
    ("4b", "scaled once, momentum 0.01", ONCE),
    ("4c", "**fix**: momentum 0.01, scaling in the model", FIXED),
    ("5a", "frames scaled twice, no batch normalisation", TINY),
    ("5b", "frames scaled twice, momentum 0.99", TINY_NORMED),
    ("5c", "**fix** of 5a: scaling in the model", Recipe(masks=1, momentum=None, long=True)),
    ("5d", "**fix** of 5b: scaling in the model", Recipe(masks=1, momentum=0.99, long=True)),
    ("6a", "3 bands of 16 bits through Keras' generator", None),
    ("6b", "**fix**: `custom: 1`", FIXED_3),
)
COLUMNS = (
    "", "run", "input std", "mask values", "epochs", "loss", "IoU", "best IoU", "highest p", "training IoU", "MeanIoU",
)  # fmt: skip


def perfect(truth: Array) -> Result:
    """The answer of a network that knows: sure of every pixel, as far as a sigmoid can be."""
    answer = np.where(truth > 0, 0.999, 0.001).astype(np.float32)
    return Result(answer, answer, score(truth, answer))


def cells(key: str, run: str, result: Result | None) -> tuple[str, ...]:
    """A line of the table."""
    if result is None:
        return (key, run, "", "an error", *[""] * (len(COLUMNS) - 4))
    values = result.scores
    trained = "" if result.masks is None else f"{values['trained']:.3f}"
    learnt = ("", "", "", "")
    if result.masks is not None:
        learnt = (f"{result.deviation:.2g}", mask_values(result.masks), str(result.epochs), f"{result.loss:.4f}")
    figures = [f"{values[name]:.3f}" for name in ("iou", "best", "highest")]
    return (key, run, *learnt, *figures, trained, f"{values['mean_iou']:.3f}")


def mask_values(values: Array) -> str:
    """Different values of masks in few words."""
    return "0 and 1" if set(values) == {0.0, 1.0} else f"0 to {values.max():.2g} ({len(values)})"


def keras_generator(folder: Path) -> str:
    """What Keras' ImageDataGenerator says to the frames of a folder."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator  # Keras 3 keeps it nowhere else

    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            flow = ImageDataGenerator(rescale=1 / 255).flow_from_directory(
                folder.parent, classes=[folder.name], class_mode=None, target_size=(SIZE, SIZE)
            )
        batch = next(flow) * 255
    except OSError as error:
        return f"{type(error).__name__}: {re.sub(' object at 0x[0-9a-f]+', '', str(error))}"
    return f"no error, values 0 to {batch.max():.0f}"


def own_words(bench: Bench, bands: int) -> str:
    """What this project says to the same with `custom` 0."""
    settings = LoadDatasetArgs(custom=0, target_size=(SIZE, SIZE), channels=bands)
    try:
        KerasFrames(bench.pairs("train", bands), settings)
    except BadInputError as error:
        return str(error).replace(f"{bench.out}/", "")
    raise RuntimeError("Keras' generator should have been refused")


def misfit(bench: Bench) -> str:
    """What this project says to sides that do not halve."""
    path = bench.out / "settings.json"
    data, model = dict(target_size=[SIDE, SIDE], channels=8), dict(input_shape=[SIDE, SIDE, 8], num_layers=2)
    path.write_text(json.dumps({"load_dataset_args": data, "model_args": model}))
    try:
        load_settings(path)
    except SettingsError as error:
        return str(error).replace(f"{bench.out}/", "")
    raise RuntimeError("the sides should have been refused")


def notes(bench: Bench) -> Iterator[tuple[str, str]]:
    """What does not fit into the table, each with the run that it is about."""
    shares = bench.truth.mean((1, 2, 3))
    low, mean, high = shares.min(), shares.mean(), shares.max()
    roofs = f"Roofs cover {low:.1%} to {high:.1%} of a validation frame, {mean:.1%} of them all"
    yield "all", f"{roofs}; calling every pixel a roof gives IoU {mean:.3f}"
    yield "1a", f"`{keras_generator(bench.out / 'bands_8/train_frames')}`"
    yield "1a", f"This project with `custom: 0`: `{own_words(bench, 8)}`"
    yield "1a", f"With sides of {SIDE}: `{misfit(bench)}`"
    yield "2a", zero_one_masks(bench)
    yield from metric_notes(bench)
    yield "4b", written_note(bench.result(ONCE))
    yield "6a", f"`{keras_generator(bench.out / 'bands_3/train_frames')}`"
    tagged, there = keras_generator(bench.out / "tagged/frames"), read(bench.out / "tagged/frames/rgb.tif").max()
    yield "6a", f"The same pixels in a file that is tagged as RGB: {tagged}, where the file holds 0 to {there}"
    yield "6a", f"This project with `custom: 0`: `{own_words(bench, 3)}`"


def zero_one_masks(bench: Bench) -> str:
    """What their generator makes of masks of 0 and 1."""
    mask = (read(bench.pairs("train")[0].mask) > 0).astype(np.uint8)
    high = resize(mask, (SIZE, SIZE)).max()
    return f"Masks of 0 and 1 as uint8: at most {high:.4f} after `resize` alone, {high / 255:.2g} after / 255 as well"


def metric_notes(bench: Bench) -> Iterator[tuple[str, str]]:
    """What metrics of Keras say."""
    blank, learning, best = bench.result(TWICE), bench.result(FIXED), perfect(bench.truth)
    half = (1 - bench.truth.mean()) / 2
    f1 = [f1_score(bench.truth, answer.probability) for answer in (blank, best)]
    yield "3a", f"MeanIoU against its own masks, epoch by epoch: {span(blank.history)}"
    yield "3b", f"Half the background share is {half:.3f}"
    yield "3b", f"Keras' F1Score without a threshold: {f1[1]:.3f}, and {f1[0]:.3f} for the network of 2a"
    yield "3c", f"MeanIoU on the training frames, epoch by epoch, while it learns: {span(learning.history)}"


def span(values: Sequence[float]) -> str:
    """The lowest and the highest."""
    return f"{min(values):.3f} to {max(values):.3f} in {len(values)} epochs"


def f1_score(truth: Array, probability: Array) -> float:
    """Keras' F1Score as it is without options."""
    metric = keras.metrics.F1Score()
    metric.update_state(truth.reshape(-1, 1), probability.reshape(-1, 1))
    return float(metric.result()[0])


def written_note(result: Result) -> str:
    """What a viewer shows of good masks that are written as 0 and 1."""
    mask = (result.probability >= 0.5).astype(np.uint8)
    return (
        f"Its masks as uint8 of 0 and 1: {mask.mean():.1%} of the pixels are roof, the highest value is {mask.max()} "
        "of 255, which a viewer shows black"
    )


# ---------------------------------------------------------------------------------------------------------- picture

Panel = tuple[Array | str, str]  # an image or words, and its caption
COLUMN_TITLES = ("frame", "roofs", "what was seen", "what lay behind it", "with the fix")
TITLES = (
    "1\n8 bands,\nKeras'\ngenerator", "2\nmasks\nscaled\ntwice", "3\nKeras'\nMeanIoU",
    "4\nscaled once,\nwritten as\n0 and 1", "5\nframes\nscaled\ntwice", "6\n16-bit RGB,\nKeras'\ngenerator",
)  # fmt: skip
NO_IMAGE = ("PIL:\ncannot identify\nimage file", "")


class Gallery:
    """What to draw of one validation frame."""

    def __init__(self, bench: Bench, number: int) -> None:
        self.found = {key: bench.result(recipe) for key, _, recipe in RUNS if recipe} | {"3b": perfect(bench.truth)}
        self.number = number
        self.colours = read(bench.pairs("val", 3)[number].frame)
        self.truth = bench.truth[number, ..., 0]

    def mask(self, key: str, caption: str = "IoU {iou:.2f}", *, one: float = 1.0) -> Panel:
        """A mask, roofs as bright as `one`."""
        result = self.found[key]
        return one * (result.probability[self.number, ..., 0] >= 0.5), caption.format(**result.scores)

    def stretched(self, key: str, white: float) -> Panel:
        """Probabilities, stretched so that `white` is white."""
        array = self.found[key].probability[self.number, ..., 0]
        return (array / white).clip(0, 1), f"probabilities, white from {white:.4f}"

    def as_trained(self, key: str) -> Panel:
        """Probabilities in training mode."""
        result = self.found[key]
        caption = "in training mode: IoU {trained:.2f}".format(**result.scores)
        return result.as_trained[self.number, ..., 0], caption

    def row(self, experiment: int) -> tuple[Panel, Panel, Panel]:
        """What was seen, what lay behind it, and what the fix gives."""
        high = self.colours >> 8  # what Pillow keeps of 16-bit RGB
        exact = "perfect: MeanIoU {mean_iou:.3f}"
        black = self.mask("4b", "values 0 and 1 of 255", one=1 / 255)
        return (
            (NO_IMAGE, (f"and sides of {SIDE}\ndo not halve", ""), self.mask("1b")),
            (self.mask("2a"), self.stretched("2b", 1 / 255), self.mask("2c")),
            (self.mask("3a", "MeanIoU {mean_iou:.3f}"), self.mask("3b", exact), self.mask("3c")),
            (black, self.mask("4b", "the same stretched: IoU {iou:.2f}"), self.mask("4c")),
            (self.mask("5b"), self.as_trained("5b"), self.mask("5d")),
            (NO_IMAGE, (high / 255, f"tagged as RGB: 0 to {high.max()} of 255"), self.mask("6b")),
        )[experiment]  # fmt: skip


def draw(bench: Bench, picture: Path) -> None:
    """A row of panels for each experiment, each of another frame."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 12), layout="constrained")
    grid = figure.subplots(len(TITLES), len(COLUMN_TITLES))
    for experiment, (axes, title) in enumerate(zip(grid, TITLES)):
        gallery = Gallery(bench, experiment)
        axes[0].set_ylabel(title, fontsize=11, rotation=0, ha="right", va="center", labelpad=12)
        panels = [((gallery.colours / 1600).clip(0, 1), ""), (gallery.truth, ""), *gallery.row(experiment)]
        for ax, panel in zip(axes, panels):
            show_panel(ax, *panel)
    for ax, title in zip(grid[0], COLUMN_TITLES):
        ax.set_title(title, fontsize=12, fontweight="bold")
    figure.savefig(picture, dpi=100)


def show_panel(ax: Any, content: Array | str, caption: str) -> None:
    """An image, grey from 0 to 1 or in colour, or words; the caption under it."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel(caption, fontsize=8.5)
    if isinstance(content, str):
        ax.text(0.5, 0.5, content, ha="center", va="center", transform=ax.transAxes, color="#b00020", fontsize=10)
        ax.set_box_aspect(1)
        ax.set_facecolor("#f4f4f4")
    else:
        ax.imshow(content, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


# ----------------------------------------------------------------------------------------------------------- figures


def measure(bench: Bench) -> list[tuple[str, ...]]:
    """The lines of the table."""
    results = {key: bench.result(recipe) for key, _, recipe in RUNS if recipe} | {"3b": perfect(bench.truth)}
    return [cells(key, run, results.get(key)) for key, run, _ in RUNS]


def markdown(lines: Sequence[Sequence[str]], words: Sequence[tuple[str, str]]) -> str:
    """The table, and the notes as a list."""
    table = [COLUMNS, ("---",) * len(COLUMNS), *lines]
    rows = [f"| {' | '.join(line)} |" for line in table]
    return "\n".join([*rows, "", *(f"- {key}: {note}" for key, note in words)])


def insert(path: Path, text: str) -> None:
    """Put text between the two marks of a file.

    Raises:
        BadInputError: It has not both.
    """
    parts = re.split("|".join(map(re.escape, MARKS)), path.read_text(encoding="utf-8"))
    if len(parts) != 3:
        raise BadInputError(path, f"{len(parts) - 1} marks", " and ".join(MARKS), "Write them where figures belong.")
    path.write_text(f"{parts[0]}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{parts[2]}", encoding="utf-8")


def show(lines: Sequence[Sequence[str]], words: Sequence[tuple[str, str]]) -> None:
    """Print table and notes."""
    table = Table(*COLUMNS, title=f"{COUNTS['val']} validation frames of {SIZE} x {SIZE} pixels")
    for line, after in zip(lines, [*lines[1:], [""]]):
        table.add_row(*(cell.replace("**", "") for cell in line), end_section=line[0][:1] != after[0][:1])
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(table)
    for key, note in words:
        console.print(f"{key}: {note}", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run all six, print what was measured, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of Keras' own imports
    started = time.monotonic()
    bench = Bench(options.out)
    lines, words = measure(bench), list(notes(bench))
    show(lines, words)
    if options.markdown:
        insert(options.markdown, markdown(lines, words))
    if options.picture:
        draw(bench, options.picture)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
