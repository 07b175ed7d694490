"""Where everything of one project lies: the names in settings, made absolute."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from roofkit.errors import BadInputError, MissingInputError, SettingsError
from roofkit.settings import PathArgs, Settings

IN_RESULTS = (
    "history", "logs", "predictions", "probabilities", "map", "map_probabilities", "footprints",
    "metrics", "run", "report",
    "forest", "forest_predictions", "forest_probabilities",
    "regression", "regression_predictions", "regression_probabilities",
)  # fmt: skip
LONGEST = 255  # bytes of a file's name
VECTOR_SUFFIXES = (".gpkg", ".shp", ".geojson", ".json", ".parquet", ".fgb")


@dataclass(frozen=True)
class Paths:
    """Absolute paths of a project, one field for each name in `path_args` and for the checkpoint."""

    data: Path
    results: Path
    scenes: Path
    labels: Path
    chips: Path
    masks: Path
    mosaic: Path
    split: Path
    pixels: Path
    histograms: Path
    train_frames: Path
    train_masks: Path
    val_frames: Path
    val_masks: Path
    checkpoint: Path
    history: Path
    logs: Path
    predictions: Path
    probabilities: Path
    map: Path
    map_probabilities: Path
    footprints: Path
    forest: Path
    forest_predictions: Path
    forest_probabilities: Path
    regression: Path
    regression_predictions: Path
    regression_probabilities: Path
    metrics: Path
    run: Path
    report: Path

    @property
    def classifiers(self) -> "dict[str, Classifier]":
        """What forest and regression make, and what predict makes with it of the validation frames."""
        return {
            "forest": Classifier(self.forest, self.forest_predictions, self.forest_probabilities),
            "regression": Classifier(self.regression, self.regression_predictions, self.regression_probabilities),
        }


@dataclass(frozen=True)
class Classifier:
    """Where a pixel classifier lies, and its masks and probabilities of the validation frames."""

    model: Path
    predictions: Path
    probabilities: Path


def project_paths(settings: Settings, base: Path, data: Path | None = None, results: Path | None = None) -> Paths:
    """The project's paths.

    Args:
        settings: The settings.
        base: What the two folders are relative to: the folder of the settings file.
        data: Instead of the data folder that settings name; relative to the working directory.
        results: Instead of the results folder that settings name; relative to the working directory.

    Raises:
        SettingsError: A name leaves its folder: by `..`, as an absolute path or by a symbolic link.
    """
    names, results_name = settings.path_args, settings.training_args.results_folder
    data_name = names.data or _shared_folder(names) or "data"
    for setting, name in (("path_args.data", data_name), ("training_args.results_folder", results_name)):
        check_form(f"{setting} {name}", name)
    data_folder = (data.absolute() if data else base / data_name).resolve()
    results_folder = (results.absolute() if results else base / results_name).resolve()
    found = {
        name: _inside(results_folder, results_name, getattr(names, name))
        if name in IN_RESULTS
        else _inside(data_folder, data_name, getattr(names, name))
        for name in PathArgs.model_fields
        if name != "data"
    }
    found["checkpoint"] = _inside(results_folder, results_name, settings.checkpoint_args.checkpoint_path)
    weights = settings.model_args.encoder_weights
    if weights not in (None, "imagenet"):
        check_input("model_args.encoder_weights", str(weights), (base, data_folder, results_folder))
    return Paths(data=data_folder, results=results_folder, **found)


def _shared_folder(names: PathArgs) -> str | None:
    """The folder that all four frame and mask folders name as their parent, as older settings files write it."""
    four = (names.train_frames, names.train_masks, names.val_frames, names.val_masks)
    parents = {PurePath(name).parent.as_posix() for name in four}
    shared = parents.pop()
    return None if parents or shared == "." else shared


def _inside(folder: Path, folder_name: str, name: str) -> Path:
    """`name` inside `folder`; a name that already starts with the folder's own name means the same file."""
    check_form(f"path_args {name}", name)
    path = PurePath(name)
    if path.is_relative_to(PurePath(folder_name)) and path != PurePath(folder_name):
        path = path.relative_to(folder_name)
    if not (folder / path).resolve().is_relative_to(folder):
        found = f"it leaves that folder, to {(folder / path).resolve()}"
        raise SettingsError(f"path_args {name}", found, f"a name inside {folder}", "Name the folder with --data.")
    return folder / path


def check_form(setting: str, name: str) -> None:
    """Raise SettingsError where a name in the settings climbs out of its folder, or is none that a file can have."""
    parts = PurePath(name).parts
    if ".." in parts:
        raise SettingsError(setting, "it holds '..'", "a name inside its folder", "Write the plain name.")
    if not name.isprintable() or any(len(part.encode()) > LONGEST for part in parts):
        found = f"{name[:40]!r}{'…' * (len(name) > 40)}"
        raise SettingsError(setting, found, f"printable letters, {LONGEST} bytes at most", "Choose another name.")


def check_input(setting: str, name: str, folders: Iterable[Path]) -> None:
    """Raise SettingsError where a settings file names a file to read that lies outside of these folders.

    A file named on the command line may lie anywhere; a settings file may come from somebody else.
    """
    check_form(f"{setting} {name}", name)
    if not any(Path(name).resolve().is_relative_to(folder.resolve()) for folder in folders):
        expected = "a file beside the settings, or in the data or results folder"
        raise SettingsError(f"{setting} {name}", "it lies elsewhere", expected, "Copy it there.")


def check_name(path: Path) -> None:
    """Raise where GDAL cannot open a file for its name.

    Raises:
        BadInputError: The name is no UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise BadInputError(path, "a name that is no UTF-8", "a name of readable letters", "Rename it.") from None


def holds_files(folder: Path) -> bool:
    """Whether it is a folder with anything in it but hidden files."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def find_labels(path: Path) -> Path:
    """The label file or folder that settings name, or the only vector file beside it.

    Raises:
        MissingInputError: It is not there, and beside it is none or more than one.
    """
    if path.is_file():
        return path
    folder = path if path.is_dir() else path.parent
    found = _vector_files(folder)
    if len(found) == 1:
        return found[0]
    if found and path.is_dir():
        return path
    names = ", ".join(p.name for p in found[:3]) + (", …" if len(found) > 3 else "")
    state = f"{len(found)} label files ({names})" if found else "no roof polygons"
    expected = f"{path.name}, or one file of {' '.join(VECTOR_SUFFIXES)}"
    advice = f"Put your polygons there, or name the file, or for all of them {folder.name}, in path_args.labels."
    raise MissingInputError(folder, state, expected, advice)


def _vector_files(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in found if p.suffix.lower() in VECTOR_SUFFIXES and not p.name.startswith("."))
