"""Batches for the network: frames and masks, augmented alike, in an order that the seed and the epoch decide.

Frames are read, resized and changed in threads, one for each core, ahead of use while Keras goes through an epoch. What
is in a batch does not depend on them.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from roofkit.errors import BadInputError, MismatchError
from roofkit.memory import free_memory
from roofkit.pairs import Pair, find_pairs
from roofkit.raster import Valid, open_raster, read_pixels
from roofkit.settings import LoadDatasetArgs
from roofkit.workers import map_threads
from unet import kernels
from unet.ahead import LookAhead
from unet.augment import Augmentation
from unet.frames import (
    FrameStatistics,
    Image,
    Sample,
    check_bands,
    network_input,
    read_frame,
    resize_frame,
    targets,
    write_image,
)

__all__ = ["Augmentation", "KerasFrames", "RoofFrames", "find_pairs", "network_input", "resize_frame"]

CACHE_SHARE = 1 / 8  # of the memory that is free: frames kept after they were first read; training has two sets of them
CACHE_BYTES: int | None = None  # of frames kept, instead of that share
ALIGNMENT = 64  # bytes, as TensorFlow is compiled
PIL_BANDS = {1: "grayscale", 3: "rgb", 4: "rgba"}
Batch = tuple[Image, Image, Image]


@dataclass(frozen=True)
class Place:
    """Where a frame goes.

    Args:
        batch: Arrays to be filled.
        index: The batch's place in the epoch.
        number: The place in the batch.
        pair: Which pair goes there.
    """

    batch: Batch
    index: int
    number: int
    pair: int

    @property
    def last(self) -> bool:
        """Whether the batch is full after it."""
        return self.number == len(self.batch[0]) - 1


@dataclass(frozen=True)
class Moments:
    """What `measure` takes from one frame: valid pixels, their sum and squared deviations by band; roof, all pixels."""

    valid: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    roof: int
    pixels: int


class RoofFrames(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of frames, read with rasterio: any number of bands, size and dtype (`custom` 1).

    A batch is (images, masks, weights): float32 (frames, rows, cols, bands) in the file's own values, 0 or 1
    (frames, rows, cols, classes), and 0 or 1 (frames, rows, cols), 0 where frame or mask is invalid.

    The last batch of an epoch is short where the frames do not divide: then each frame counts once in an epoch.
    `frames.epoch` decides order and augmentation, together with the seed; it moves on by itself. Frames are as large as
    `crop_size` where `augmentation` is set, and whole without it.

    Args:
        pairs: Frames and masks.
        settings: Sizes and augmentation.
        num_classes: 1 or 2.
        seed: Shuffles, and draws frames with roofs more often where `roof_balance` says so; None: a fixed order.
        steps: Batches in an epoch, more or fewer than the frames fill; None: each frame once.
        devices: That a batch is shared out over: a short one has some frames again, of weight 0, so that it divides.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        settings: LoadDatasetArgs,
        *,
        num_classes: int = 1,
        seed: int | None = None,
        steps: int | None = None,
        devices: int = 1,
    ) -> None:
        super().__init__(workers=1)
        self.pairs = list(pairs)
        self.settings = settings
        self.num_classes = num_classes
        self.seed = seed
        self.balance = settings.roof_balance
        self.steps = steps or -(-len(self.pairs) // settings.batch_size)
        self.devices = devices
        self.epoch = 0
        self.augmentation: Augmentation | None = None
        self.error: Exception | None = None
        self._roof_pixels: NDArray[np.int64] | None = None
        self._ahead = LookAhead(lambda index: self._made(index, len(self)))
        self._kept: dict[int, Sample] = {}
        self._keeping = threading.Lock()
        self._room = int(CACHE_SHARE * free_memory()) if CACHE_BYTES is None else CACHE_BYTES

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        """The batch at that place of this epoch.

        An error is kept in `error` too, because Keras passes on its own instead.
        """
        try:
            return shareable(self._ahead.get(index) or self.batch(index), self.devices)
        except Exception as error:
            self.error = error
            raise

    def __iter__(self) -> Iterator[Batch]:
        """The batches of this epoch; it does not move on."""
        self._ahead.open()
        try:
            yield from (self[index] for index in range(len(self)))
        finally:
            self._ahead.close()

    def on_epoch_begin(self) -> None:
        """Make batches ahead of use, until the epoch ends."""
        self._ahead.open()

    def on_epoch_end(self) -> None:
        """End what works ahead, and move on to the next epoch's order and augmentation.

        Keras calls it where an epoch ends well; where it ends early, call it yourself.
        """
        self._ahead.close()
        self.epoch += 1

    def batch(self, index: int) -> Batch:
        """The batch at that place of this epoch.

        Raises:
            SettingsError, BadInputError: A file does not fit the settings, or is broken.
        """
        with contextlib.closing(self._made(index, index + 1)) as made:
            return next(made)

    def _made(self, first: int, end: int) -> Generator[Batch, None, None]:
        """Batches from `first` to before `end`, while threads work a few frames ahead."""
        filled = map_threads(self._fill, self._empty_places(first, end))
        with contextlib.closing(filled):
            yield from (place.batch for place in filled if place.last)

    def _empty_places(self, first: int, end: int) -> Iterator[Place]:
        for index in range(first, end):
            pairs = self.places(index)
            batch = self._empty_batch(len(pairs))
            yield from (Place(batch, index, number, pair) for number, pair in enumerate(pairs))

    def _empty_batch(self, count: int) -> Batch:
        crop = self.augmentation and self.augmentation.settings.crop_size
        shape = (count, *(crop or self.settings.target_size))
        return aligned((*shape, self.settings.channels)), aligned((*shape, self.num_classes)), aligned(shape)

    def _fill(self, place: Place) -> Place:
        images, masks, weights = (array[place.number] for array in place.batch)
        sample = self._draw(place, images)
        masks[...] = targets(sample.roof, self.num_classes)
        weights[...] = sample.valid
        return place

    def places(self, index: int) -> list[int]:
        """Which pairs are in a batch."""
        per_turn = -(-len(self.pairs) // self.settings.batch_size)
        turn, place = divmod(index, per_turn)
        start = place * self.settings.batch_size
        return [int(number) for number in self._order(turn)[start : start + self.settings.batch_size]]

    def _order(self, turn: int) -> NDArray[np.int64]:
        """The pairs of a turn through all of them: each once, but for the places that `roof_balance` gives away."""
        if self.seed is None:
            return np.arange(len(self.pairs))
        rng = np.random.default_rng([self.seed, self.epoch, turn])
        order = rng.permutation(len(self.pairs))
        if self.balance:
            drawn = rng.random(len(order)) < self.balance
            order[drawn] = rng.choice(len(order), drawn.sum(), p=self._roof_shares())
        return order

    def _roof_shares(self) -> NDArray[np.float64]:
        """How often `roof_balance` draws each pair: by its share of roof, and 0.01 more, so that none is left out."""
        if self._roof_pixels is None:
            self.measure()
        shares = np.asarray(self._roof_pixels) / np.prod(self.settings.target_size) + 0.01
        return np.asarray(shares / shares.sum())

    def _draw(self, place: Place, image: Image) -> Sample:
        """A pair, augmented in a way of its own at each place of each epoch, its image written to `image`."""
        frame = self._frame(place.pair)
        if self.augmentation is None:
            write_image(frame.image, image)
            return frame
        rng = np.random.default_rng([self.seed or 0, self.epoch, place.index, place.number])
        return self.augmentation(frame, rng, image)

    def sample(self, number: int) -> Sample:
        """A pair as it is, without augmentation."""
        frame = self._frame(number)
        return replace(frame, image=np.asarray(frame.image))

    def _frame(self, number: int) -> Sample:
        """A pair as `read_frame` gives it; kept in memory while there is room."""
        if number in self._kept:
            return self._kept[number]
        frame = read_frame(self.pairs[number], self.settings.target_size, self.settings.channels)
        with self._keeping:
            if number not in self._kept and frame.nbytes <= self._room:
                self._kept[number] = frame
                self._room -= frame.nbytes
        return frame

    def measure(self) -> FrameStatistics:
        """Statistics of all pairs, as the network sees them before augmentation (Chan et al. 1983, pairwise sums)."""
        found = list(map_threads(self._moments, range(len(self.pairs))))
        total = 0
        mean, spread = np.zeros(self.settings.channels), np.zeros(self.settings.channels)
        for one in found:
            if not one.valid:
                continue
            apart = one.total / one.valid - mean
            share = one.valid / (total + one.valid)
            spread += one.squares + apart**2 * total * share
            mean += apart * share
            total += one.valid
        deviation = np.sqrt(spread / max(total, 1))
        self._roof_pixels = np.array([one.roof for one in found], np.int64)
        pixels, roofs = sum(one.pixels for one in found), int(self._roof_pixels.sum())
        return FrameStatistics(tuple(mean.tolist()), tuple(deviation.tolist()), total, roofs, pixels)

    def _moments(self, number: int) -> Moments:
        frame = self._frame(number)
        total, squares = np.zeros(self.settings.channels), np.zeros(self.settings.channels)
        valid = kernels.moments(np.asarray(frame.image, np.float32), frame.valid, total, squares)
        return Moments(valid, total, squares, int(frame.roof.sum()), frame.valid.size)


def aligned(shape: Sequence[int]) -> Image:
    """An array to be filled, whose memory starts where TensorFlow takes it over; from elsewhere it would copy."""
    size = int(np.prod(shape)) * np.dtype(np.float32).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)


def shareable(batch: Batch, devices: int) -> Batch:
    """The batch, with some of its frames again, of weight 0, where it does not divide by a number of devices."""
    count = len(batch[0])
    if not count % devices:
        return batch
    images, masks, weights = (array[np.arange(count + -count % devices) % count] for array in batch)
    weights[count:] = 0
    return images, masks, weights


class KerasFrames(RoofFrames):
    """Batches of the same form through Keras' ImageDataGenerator (`custom` 0): 8-bit frames of 1, 3 or 4 bands.

    Frames and masks go through two generators with one seed, as Keras' guide has it; validity, which Pillow does not
    read, is carried along. Keys that ImageDataGenerator does not have (vertical_flip and below) are not used.

    Args:
        pairs: Frames and masks, each kind in one folder of its own.
        settings: Sizes and augmentation.
        options: As for `RoofFrames`.

    Raises:
        BadInputError: Pillow cannot read the frames, or reads other pixels than they hold.
    """

    def __init__(self, pairs: Sequence[Pair], settings: LoadDatasetArgs, **options: Any) -> None:
        super().__init__(pairs, settings, **options)
        self.balance = 0.0  # each frame once, as ever
        self.pairs.sort(key=lambda pair: pair.frame.name)  # as Keras lists a folder
        for pair in self.pairs:
            _check_pillow(pair, settings.channels)
        self._flows: list[Any] | None = None

    def batch(self, index: int) -> Batch:
        """The batch at that place of this epoch."""
        numbers = np.array(self.places(index))
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # it prints how many it found
            warnings.filterwarnings(
                "ignore", "Please import `affine_transform`", DeprecationWarning
            )  # Keras' own import
            if self._flows is None:
                self._flows = self._make_flows()
            images, masks = (self._take(flow, index, numbers) for flow in self._flows)
            weights = self._valid(index, numbers)
        roof = (masks[..., 0] > 0) & weights
        return images, targets(roof, self.num_classes), weights.astype(np.float32)

    def _made(self, first: int, end: int) -> Generator[Batch, None, None]:
        """Batches from `first` to before `end`, one after another: Keras draws from a random state that all share."""
        yield from map(self.batch, range(first, end))

    def _draw_alike(self, index: int) -> None:
        """Set Keras' random state (NumPy's global one), so that frames, masks and validity are changed alike."""
        np.random.seed(int(np.random.default_rng([self.seed or 0, self.epoch, index]).integers(2**32)))

    def _take(self, flow: Any, index: int, numbers: NDArray[np.int64]) -> Image:
        self._draw_alike(index)
        batch = flow._get_batches_of_transformed_samples(numbers)
        return np.asarray(batch[0] if isinstance(batch, tuple) else batch, np.float32)

    def _valid(self, index: int, numbers: NDArray[np.int64]) -> Valid:
        """Validity of a batch, warped as Keras warps the frames; what comes from outside is invalid."""
        generator = self._generator(order=0, fill_mode="constant")
        self._draw_alike(index)
        found = []
        for number in numbers:
            valid = self._frame(int(number)).valid[..., None].astype(np.float32)
            found.append(generator.apply_transform(valid, generator.get_random_transform(valid.shape))[..., 0] > 0)
        return np.stack(found)

    def _make_flows(self) -> list[Any]:
        frames, masks = self.pairs[0].frame.parent, self.pairs[0].mask.parent
        bands = PIL_BANDS[self.settings.channels]
        return [
            self._flow(self._generator(order=1), frames, color_mode=bands, interpolation="bilinear"),
            self._flow(self._generator(order=0), masks, color_mode=self.settings.mask_color, interpolation="nearest"),
        ]

    def _generator(self, order: int, fill_mode: str = "reflect") -> Any:
        from keras.src.legacy.preprocessing.image import ImageDataGenerator  # Keras 3 keeps it nowhere else

        if self.augmentation is None:
            return ImageDataGenerator(data_format="channels_last")
        return ImageDataGenerator(
            shear_range=self.settings.shear_range, zoom_range=self.settings.zoom_range, fill_mode=fill_mode,
            horizontal_flip=self.settings.horizontal_flip, interpolation_order=order, data_format="channels_last",
        )  # fmt: skip

    def _flow(self, generator: Any, folder: Path, **options: Any) -> Any:
        flow = generator.flow_from_directory(
            folder.parent, classes=[folder.name], class_mode=self.settings.class_mode, shuffle=False,
            target_size=self.settings.target_size, batch_size=self.settings.batch_size, **options,
        )  # fmt: skip
        names = [Path(name).name for name in flow.filenames]
        ours = [(pair.frame if folder == pair.frame.parent else pair.mask).name for pair in self.pairs]
        if names != ours:
            raise MismatchError(folder, "files that are no partners", "frames and masks alone", "Move the others away.")
        return flow


def _check_pillow(pair: Pair, channels: int) -> None:
    """Raise where Keras' generator would not see the pixels that the frame holds."""
    advice = "Set load_dataset_args.custom: 1."
    with open_raster(pair.frame) as src:
        check_bands(src, pair.frame, channels)
        pixels = read_pixels(src)[0]
    if pixels.dtype != np.uint8 or channels not in PIL_BANDS:
        found = f"{channels} bands of {pixels.dtype}, which Keras' ImageDataGenerator (Pillow) cannot read"
        raise BadInputError(pair.frame, found, "8 bits and 1, 3 or 4 bands", advice)
    try:
        seen = keras.utils.img_to_array(
            keras.utils.load_img(pair.frame, color_mode=PIL_BANDS[channels]), data_format="channels_last"
        )
    except OSError:
        found = "a file that Keras' ImageDataGenerator (Pillow) cannot read"
        raise BadInputError(pair.frame, found, "8 bits and 1, 3 or 4 bands", advice) from None
    if not np.array_equal(np.moveaxis(seen, -1, 0), pixels):
        found = "other pixels when Keras' ImageDataGenerator (Pillow) reads it"
        raise BadInputError(pair.frame, found, "the pixels that it holds", advice)
