"""Checks of masks in files: those to train on, and those that a prediction wrote."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.errors import RasterioIOError

from roofkit.checks import SHOWN, grid_in, listed
from roofkit.errors import BadInputError
from roofkit.findings import Finding, found, passed
from roofkit.pairs import by_stem, mask_files, read_mask
from roofkit.raster import check_memory, open_any_raster, open_raster, windows

WINDOW = 2048  # side of the windows in which masks are read


@dataclass(frozen=True)
class MaskFacts:
    """What a mask file holds, whoever wrote it: bands, dtype, size, some of its values, its share above 0."""

    path: Path
    bands: int
    dtype: str
    size: tuple[int, int]
    values: tuple[float, ...]
    roof: float

    @property
    def is_mask(self) -> bool:
        """Whether it is one band of 0 and 255."""
        return self.bands == 1 and set(self.values) <= {0.0, 255.0}

    @property
    def is_zero_one(self) -> bool:
        """Whether it is one band of whole numbers 0 and 1, and is not blank."""
        return self.bands == 1 and "float" not in self.dtype and self.values in ((0.0, 1.0), (1.0,))

    @property
    def words(self) -> str:
        """Bands, dtype and values."""
        values = listed([f"{value:g}" for value in self.values])
        return f"{self.bands} bands of {self.dtype}, values {values}" if self.bands != 1 else f"{self.dtype} {values}"


def mask_facts(path: Path) -> MaskFacts:
    """What a mask file holds; unlike `read_mask`, of any dtype and any values.

    Raises:
        MissingInputError, BadInputError: As for `open_raster`, but for the dtype.
    """
    values: set[float] = set()
    pixels = roofs = 0
    try:
        with open_any_raster(path) as src:
            for window in windows(src.height, src.width, WINDOW):
                check_memory(src, window)
                part = np.where(src.read_masks(window=window) != 0, src.read(window=window), 0)  # invalid: no roof
                pixels, roofs = pixels + part.size, roofs + int(np.count_nonzero(part > 0))
                found = np.unique(part)
                values.update(found[:SHOWN].tolist(), found[-1:].tolist())
            return MaskFacts(path, src.count, src.dtypes[0], src.shape, tuple(sorted(values)), roofs / pixels)
    except RasterioIOError as error:
        raise BadInputError(path, f"not readable ({error})", "a mask", "Replace or remove it.") from None


def check_training_masks(kind: str, facts: Sequence[MaskFacts]) -> Iterator[Finding]:
    """Whether masks for training hold 0 and 255 alone, and some roofs."""
    check, folder = f"masks: {kind}", facts[0].path.parent
    bad = [fact for fact in facts if not (fact.is_mask or fact.is_zero_one)]
    ones = [fact for fact in facts if fact.is_zero_one]
    share, blank = float(np.mean([fact.roof for fact in facts])), sum(fact.roof == 0 for fact in facts)
    measured = f"{share:.2%} roof, {blank} of {len(facts)} without"
    if bad:
        words = f"{bad[0].words}, in {len(bad)} of {len(facts)}"
        yield found(check, "masks_scaled", words, where=bad[0].path, expected="one band of 0 and 255")
    elif blank == len(facts):
        yield found(check, "labels_miss_imagery", measured, where=folder, expected="some roofs")
    elif ones:
        words = f"{ones[0].words}, in {len(ones)} of {len(facts)}"
        fix = "This program reads 0 and 1 rightly; others divide by 255 and see 0.0039. Write 0 and 255 to be sure."
        yield found(check, "masks_scaled", words, where=ones[0].path, expected="0 and 255", status="warn", fix=fix)
    else:
        yield passed(check, f"0 and 255; {measured}")


def check_written_masks(facts: Sequence[MaskFacts], truth: Mapping[str, Path]) -> Iterator[Finding]:
    """Whether masks that a prediction wrote hold 0 and 255 alone, on the grid of the truth, and roofs.

    Args:
        facts: Of the masks.
        truth: True masks, or else frames, by name.
    """
    check, folder = "masks written", facts[0].path.parent
    bad = [fact for fact in facts if not fact.is_mask]
    if bad:
        measured = f"{_guess(bad[0])}: {bad[0].words}, in {len(bad)} of {len(facts)}"
        yield found(check, "written_wrong", measured, where=bad[0].path, expected="one band of uint8, 0 and 255")
        return
    for fact in facts:
        grid = grid_in(truth[fact.path.stem]) if fact.path.stem in truth else None
        if grid and fact.size != (grid.height, grid.width):
            measured, expected = f"{fact.size[0]} x {fact.size[1]} pixels", f"{grid.height} x {grid.width}"
            yield found(check, "written_wrong", measured, where=fact.path, expected=expected)
            return
    blank = sum(fact.roof == 0 for fact in facts)
    measured = f"0 and 255; {np.mean([fact.roof for fact in facts]):.2%} roof, {blank} of {len(facts)} blank"
    if blank < len(facts):
        yield passed(check, measured)
    else:
        yield found(check, "blank", measured, where=folder, expected="some roofs", status="warn")


def _guess(fact: MaskFacts) -> str:
    """What a file seems to hold instead of a mask."""
    if fact.bands != 1:
        return "a picture"
    if "float" in fact.dtype and max(fact.values) <= 1:
        return "probabilities"
    if set(fact.values) <= {0.0, 1.0}:
        return "0 and 1, or probabilities cut to whole numbers"
    return "shades of grey, as of probabilities times 255" if fact.dtype == "uint8" else "no mask"


def masks_by_name(folder: Path) -> dict[str, Path]:
    """The masks of a folder by name; none where there is no such folder."""
    return by_stem(mask_files(folder)) if folder.is_dir() and any(folder.iterdir()) else {}


def check_score(files: Sequence[Path], truth: Mapping[str, Path], model_iou: float) -> Iterator[Finding]:
    """Whether masks that were written agree with true ones, and with what the model finds there.

    Args:
        files: Masks of 0 and 255.
        truth: True masks by name; only files with a true mask count.
        model_iou: IoU of the model on the frames; 0 where it is not known.
    """
    known = [path for path in files if path.stem in truth]
    if not known:
        return
    both, either, roofs, marked = np.sum([_overlap(path, truth[path.stem]) for path in known], axis=0).tolist()
    iou = both / max(either, 1)
    check, where = "masks against truth", known[0].parent
    measured = f"IoU {iou:.2f} over {len(known)} masks; {marked:,} roof pixels, {roofs:,} in the truth"
    if model_iou >= 0.3 and iou < model_iou / 4:
        cause = "preparation_differs" if marked else "written_wrong"
        fix = "Predict again with predict/predict.py --overwrite."
        yield found(check, cause, measured, where=where, expected=f"about {model_iou:.2f}, as the model has", fix=fix)
    elif roofs and not marked:
        yield found(check, "blank", measured, where=where, expected="some roofs")
    else:
        yield passed(check, measured)


def _overlap(path: Path, truth: Path) -> tuple[int, int, int, int]:
    """Roof pixels of both masks together, of either, of the true one, of the other."""
    with open_raster(path) as one, open_raster(truth) as other:
        (marked, _), (roof, valid) = read_mask(one), read_mask(other)
    marked = marked & valid
    return int((marked & roof).sum()), int((marked | roof).sum()), int(roof.sum()), int(marked.sum())
