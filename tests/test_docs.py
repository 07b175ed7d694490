"""The pages: what is made from the code is current; links, settings, commands and options in them exist."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from imagery import TRANSFORM

from roofkit.settings import Settings, check_settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        *ROOT.glob("docs/*.md"),
        *(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md", "bench/README.md")),
    ]
)
MADE_UP = {"name_args", "share_args"}  # the examples of how to add a stage
MADE_UP_FILES = {"name/name.py", "tests/test_name.py", "share/share.py", "tests/test_share.py"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def module(path):
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def generate():
    return module(ROOT / "docs" / "generate.py")


def fences(page, *kinds):
    return [body for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind in kinds]


def prose(page):
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """The names of a page's headings, as GitHub and mkdocs make them of plain ones."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


# What is made from the code


def test_generated_files_are_current(generate):
    stale = [str(path.relative_to(ROOT)) for path, text in generate.pages().items() if path.read_text() != text]
    assert stale == [], "run python docs/generate.py"


def test_generate_writes_what_is_stale_and_check_only_says_so(generate, monkeypatch, tmp_path, capsys):
    page, kept = tmp_path / "page.md", tmp_path / "kept.md"
    page.write_text("old")
    kept.write_text("same")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "pages", lambda: {page: "new", kept: "same", tmp_path / "absent.md": "made"})
    assert generate.main(["--check"]) == 1
    assert page.read_text() == "old"
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: not current; run python docs/generate.py" for name in ("page.md", "absent.md")
    ]
    assert generate.main([]) == 0
    assert (page.read_text(), (tmp_path / "absent.md").read_text()) == ("new", "made")
    assert generate.main(["--check"]) == 0


def test_every_script_and_block_has_a_place(generate):
    scripts = {str(path.relative_to(ROOT)) for path in ROOT.glob("*/*.py") if path.stem == path.parent.name}
    assert set(generate.SCRIPTS) == scripts | {"run/local.py"}
    named = {block for blocks in generate.SCRIPTS.values() for block in blocks}
    assert named == set(Settings.model_fields) - {"path_args", "extension_args"}  # every stage's


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "multipleOf": 256}, "whole number ≥ 1, a multiple of 256"),
        ({"type": "number", "exclusiveMinimum": 0.0, "maximum": 1.0}, "number > 0, ≤ 1"),
        ({"anyOf": [{"enum": ["a", 1]}, {"type": "null"}]}, '`"a"`, `1` or null'),
        ({"const": "grayscale"}, '`"grayscale"`'),
        ({"type": "array", "prefixItems": [{"type": "number"}] * 4}, "list of 4: number"),
        ({"type": "array", "items": {"type": "string"}}, "list of: text"),
    ],
)
def test_values_in_words(generate, schema, words):
    assert generate.allowed(schema) == words


# What the pages say


@each_page
def test_links_and_pictures_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_settings_in_the_pages_exist(page):
    text = page.read_text(encoding="utf-8")
    for block, key in re.findall(r"\b([a-z]+(?:_[a-z]+)*_args)\b(?:\.([a-z_]+))?", text):
        if block in MADE_UP:
            continue
        assert block in Settings.model_fields, block
        assert not key or key in Settings.model_fields[block].annotation.model_fields, f"{block}.{key}"


@each_page
def test_settings_files_in_the_pages_load(page):
    for body in fences(page, "json"):
        check_settings(json.loads(body))


@each_page
def test_scripts_in_the_pages_exist(page):
    path = re.compile(r"(?<![\w./-])((?:[a-z_]+/)+[a-z_]+\.(?:py|sh)|bench/[a-z0-9_]+\.json)\b")
    for name in path.findall(page.read_text(encoding="utf-8")):
        assert name in MADE_UP_FILES or (ROOT / name).is_file(), name


def commands(page):
    """Script and options of each command line in the page, in blocks and in sentences."""
    lines = [line for body in fences(page, "", "bash") for line in body.replace("\\\n", " ").splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]
    for line in lines:
        found = re.search(r"([a-z]+/[a-z]+\.py)\b(.*)", line)
        if found:
            yield found[1], re.findall(r"(?<!\S)--[a-z][a-z-]*", found[2].split(" #")[0])


def test_options_in_the_pages_exist(generate):
    known = {}
    used = [(page.name, *command) for page in PAGES for command in commands(page)]
    assert len(used) > 100
    for page, script, options in used:
        if script not in generate.SCRIPTS:
            continue
        if script not in known:
            known[script] = set(generate.parser_of(script)._option_string_actions)
        assert set(options) <= known[script], (page, script)


# The site


def test_the_site_builds_and_asks_nothing_of_other_hosts(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    built = sorted((tmp_path / "site").rglob("*.html"))
    assert {path.stem for path in built} >= {path.stem for path in ROOT.glob("docs/*.md")}
    for path in [*built, *(tmp_path / "site").rglob("*.css")]:
        asked = re.findall(
            r"""(?:\bsrc=|<link[^>]*\bhref=|url\(|@import)\s*["']?((?:https?:)?//[^"')\s>]+)""", path.read_text()
        )
        assert asked == [], path


# The example of a stage


@pytest.fixture
def share(tmp_path):
    (body,) = fences(ROOT / "docs" / "adding-a-stage.md", "python")
    path = tmp_path / "share" / "share.py"
    path.parent.mkdir()
    path.write_text(body, encoding="utf-8")
    yield module(path)
    del sys.modules["docs_share"]


def test_the_stage_of_the_example_works(share, make_raster, tmp_path, capsys):
    mask = np.zeros((16, 16), "uint8")
    mask[:4] = 255
    valid = np.ones((16, 16), bool)
    valid[:2, 8:] = False
    make_raster(mask, "map/a.tif", transform=TRANSFORM)
    make_raster(mask, "map/b.tif", transform=TRANSFORM, valid=valid)
    table = tmp_path / "out" / "shares.csv"
    argv = [str(tmp_path / "map"), str(table), "--json", "--quiet"]
    assert share.main(argv) == 0
    assert table.read_text() == "name,share\na,0.2500\nb,0.2000\n"  # 64 of 256; 48 of 240
    assert share.main(argv) == 0
    made, kept = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (made["masks"], made["kept"], kept["kept"]) == (2, False, True)


def test_the_stage_of_the_example_names_what_is_wrong(share, tmp_path, capsys):
    assert share.main([str(tmp_path / "none"), str(tmp_path / "shares.csv"), "--quiet"]) == 1
    assert re.search(r"^error: .*none: no such file or folder; expected", capsys.readouterr().err)
    assert not (tmp_path / "shares.csv").exists()
