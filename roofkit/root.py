"""Where the scripts and the settings that come with them lie: in a checkout, or where pip put them."""

from pathlib import Path

_above = Path(__file__).resolve().parent.parent
INSTALLED = not (_above / "setup.sh").is_file()
ROOT = Path(__file__).resolve().parent / "stages" if INSTALLED else _above


def default_settings(name: str = "settings.json") -> Path:
    """The settings file where none is named: of an installed command the working directory's, if it has one."""
    return Path(name) if INSTALLED and Path(name).is_file() else ROOT / name


def base_of(settings: Path) -> Path:
    """What folders in a settings file are relative to: its own folder, or here, where it came with the program."""
    folder = settings.resolve().parent
    return Path.cwd() if INSTALLED and folder == ROOT else folder
