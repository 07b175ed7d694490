"""Write what is made from the code: docs/settings.md, docs/stages.md and settings.schema.json.

python docs/generate.py            write them
python docs/generate.py --check    write nothing; exit status 1 when one is not as the code has it
"""

import argparse
import json
import runpy
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from roofkit.options import stage_parser
from roofkit.settings import SCHEMA_KEY, SCHEMA_NAME, Settings, settings_schema

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {
    "run/local.py": (),
    "download/download.py": ("download_args",),
    "chip/chip.py": ("chip_args", "raster_args"),
    "mosaic/mosaic.py": ("mosaic_args", "raster_args"),
    "mask/mask.py": ("mask_args", "raster_args"),
    "split/split.py": ("split_args",),
    "flatten/flatten.py": ("flatten_args",),
    "summarize/summarize.py": ("summarize_args",),
    "forest/forest.py": ("pixel_args", "forest_args"),
    "regression/regression.py": ("pixel_args", "regression_args"),
    "train/train.py": ("load_dataset_args", "model_args", "output_args", "training_args", "checkpoint_args"),
    "predict/predict.py": ("predict_args", "raster_args"),
    "evaluate/evaluate.py": ("evaluate_args",),
    "report/report.py": ("report_args",),
    "doctor/doctor.py": ("doctor_args",),
}
COMMON = "options of every script"
WRITTEN_BY = "<!-- Written by docs/generate.py: change the code, not this page. -->"
SIGNS = {
    "minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "multipleOf": "a multiple of",
}  # fmt: skip
WORDS = {"integer": "whole number", "number": "number", "boolean": "true, false", "null": "null", "string": "text"}


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [header, ("---",) * len(header), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ------------------------------------------------------------------------------------------------------------- settings


def settings_page() -> str:
    """Every block and key: what it may be, its default, what it means."""
    parts = [
        "# Settings",
        WRITTEN_BY,
        "`settings.json` holds everything that decides a result; `settings.dev.json` is the small version that\n"
        "`run/local.py` uses without `--prod`. A file of your own (`--settings FILE`) needs only the keys that\n"
        "differ from the defaults below. Unknown keys, wrong types and contradictions are errors that name the\n"
        "nearest right key.",
        f'With `"{SCHEMA_KEY}": "{SCHEMA_NAME}"` as its first line (the path to that file), editors such as VS Code\n'
        "complete the keys, show what each means, and underline what is wrong.",
    ]
    blocks = settings_schema()["$defs"]
    for name, field in Settings.model_fields.items():
        block = blocks[field.annotation.__name__]
        used = [script.split("/")[0] for script, names in SCRIPTS.items() if name in names]
        by = f" Used by {', '.join(f'[{stage}](stages.md#{stage})' for stage in used)}." if used else ""
        rows = [
            (f"`{key}`", allowed(value), f"`{json.dumps(value['default'])}`", value["description"])
            for key, value in block["properties"].items()
        ]
        parts += [f"## {name}", block["description"] + by, table(("key", "may be", "default", "what it is"), rows)]
    return "\n\n".join(parts) + "\n"


def allowed(schema: dict[str, Any]) -> str:
    """The values that a piece of the schema lets through, in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(allowed(one) for one in schema["anyOf"] if "pattern" not in one))
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        items = schema.get("prefixItems")
        inner = allowed(items[0] if items else schema["items"])
        return f"list of {len(items)}: {inner}" if items else f"list of: {inner}"
    limits = [f"{sign} {schema[name]:,g}" for name, sign in SIGNS.items() if name in schema]
    return " ".join([WORDS[schema["type"]], ", ".join(limits)]).strip()


# --------------------------------------------------------------------------------------------------------------- stages


def stages_page() -> str:
    """Every script: what it reads and writes, its options, its settings."""
    parts = [
        "# Stages",
        WRITTEN_BY,
        "What each script says with `-h`. Without positional arguments it works on the folders that settings name.\n"
        "Options of its own replace the [settings](settings.md) of the same name for one run.",
        "## Options of every script",
        options(stage_parser("", cluster=True), COMMON),
        "`--scheduler`, `--shard` and `--allow-addresses` are options of chip, mask, flatten and predict\n"
        "([large areas](scaling.md)). Exit status: 0 done; 1 a named problem, in one line on stderr, with nothing\n"
        "half-written; 2 wrong usage; 130 and 143 after Ctrl-C and SIGTERM.",
    ]
    for script, blocks in SCRIPTS.items():
        parser = parser_of(script)
        first, _, rest = (parser.description or "").strip().partition("\n")
        parts += [f"## {script.split('/')[0]}", f"`{script}`: {first}", f"```text\n{rest.strip()}\n```"]
        parts += [options(parser)] if options(parser) else []
        if blocks:
            parts.append(f"Settings: {', '.join(f'[`{block}`](settings.md#{block})' for block in blocks)}.")
    return "\n\n".join(parts) + "\n"


def options(parser: argparse.ArgumentParser, title: str | None = None) -> str:
    """A table of the options in the group of that title, or of those that the script has for itself."""
    groups = [group for group in parser._action_groups if (group.title == title if title else group.title != COMMON)]
    actions = [action for group in groups for action in group._group_actions if action.dest != "help"]
    rows = [(f"`{written(action)}`", (action.help or "").replace("<", "&lt;")) for action in actions]
    return table(("option", "meaning"), rows) if rows else ""


def written(action: argparse.Action) -> str:
    """An option as one types it: --size N."""
    name = " ".join(action.option_strings[:1])
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    return f"{name} {value if isinstance(value, str) else ' '.join(value)}".strip()


def parser_of(script: str) -> argparse.ArgumentParser:
    """The parser of a script."""
    parser: argparse.ArgumentParser = runpy.run_path(str(ROOT / script), run_name="script")["parser"]()
    return parser


# ----------------------------------------------------------------------------------------------------------------- main


def pages() -> dict[Path, str]:
    """What each generated file should hold."""
    return {
        ROOT / SCHEMA_NAME: json.dumps(settings_schema(), indent=2, ensure_ascii=False) + "\n",
        ROOT / "docs" / "settings.md": settings_page(),
        ROOT / "docs" / "stages.md": stages_page(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when one is not current")
    check = parser.parse_args(argv).check
    made = pages()
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if not check:
            path.write_text(made[path], encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'not current; run python docs/generate.py' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
