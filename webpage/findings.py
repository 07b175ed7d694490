"""The doctor's checks that need neither Keras nor minutes: imagery, masks, labels, and what was predicted."""

from collections.abc import Iterator
from pathlib import Path

from roofkit.checks import check_labels, check_rasters, raster_facts, spread
from roofkit.errors import MissingInputError, RoofError
from roofkit.findings import Finding, failures, from_error
from roofkit.mask_checks import check_score, check_training_masks, check_written_masks, mask_facts, masks_by_name
from roofkit.pairs import mask_files
from roofkit.paths import Paths, find_labels, holds_files
from roofkit.raster import raster_files
from roofkit.settings import Settings


def findings(paths: Paths, settings: Settings) -> list[Finding]:
    """What the checks found; a named problem is a finding too."""
    found = []
    for check in (_rasters, _masks, _labels, _written):
        try:
            for finding in check(paths, settings):
                found.append(finding)
        except RoofError as error:
            found.append(from_error(check.__name__.strip("_"), error, None))
    return found


def _frames(paths: Paths) -> dict[str, tuple[Path, Path]]:
    """Folders of frames and masks that are there."""
    pairs = {
        "training": (paths.train_frames, paths.train_masks),
        "validation": (paths.val_frames, paths.val_masks),
    }
    return {kind: pair for kind, pair in pairs.items() if all(map(holds_files, pair))}


def _rasters(paths: Paths, settings: Settings) -> Iterator[Finding]:
    folders = {"scenes": paths.scenes} if holds_files(paths.scenes) else {}
    for kind, folder in (folders | {kind: pair[0] for kind, pair in _frames(paths).items()}).items():
        files = raster_files(folder, "tif" if kind == "scenes" else settings.extension_args.extension)
        facts = [raster_facts(path) for path in spread(files, settings.doctor_args.sample)]
        yield from check_rasters(kind, facts, settings.load_dataset_args.channels)


def _masks(paths: Paths, settings: Settings) -> Iterator[Finding]:
    for kind, (_, folder) in _frames(paths).items():
        files = spread(mask_files(folder), settings.doctor_args.sample)
        yield from check_training_masks(kind, [mask_facts(path) for path in files])


def _labels(paths: Paths, settings: Settings) -> Iterator[Finding]:
    from roofkit.labels import read_labels

    try:
        path = find_labels(paths.labels)
    except MissingInputError:
        return
    chosen = settings.mask_args
    if not holds_files(paths.val_frames):
        return
    roofs = read_labels(path, where=chosen.where, ignore=chosen.ignore, layer=chosen.layer)
    frames = raster_files(paths.val_frames, settings.extension_args.extension)
    yield from check_labels(roofs, frames, masks_by_name(paths.val_masks))


def _written(paths: Paths, settings: Settings) -> Iterator[Finding]:
    truth = masks_by_name(paths.val_masks)
    for folder in (paths.predictions, paths.map):
        if holds_files(folder):
            files = spread(mask_files(folder), settings.doctor_args.sample)
            found = list(check_written_masks([mask_facts(path) for path in files], truth))
            yield from found
            if not failures(found):
                yield from check_score(files, truth, 0.0)
