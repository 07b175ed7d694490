"""--dry-run of every stage: it names what the run then makes, keeps or makes again, and writes nothing at all."""

import json
from pathlib import Path

import pytest
from faults.project import CASES, HEAVY, Project, files

PLAN = {"make", "redo", "keep", "remove"}


def snapshot(*folders: Path) -> dict[Path, tuple[int, int, bytes]]:
    """Every file and folder below, hidden ones too: when it changed, and its bytes."""
    paths = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino, p.read_bytes() if p.is_file() else b"") for p in paths}


def planned(project: Project, name: str, settings: str = "settings.json", *more: str) -> dict[str, set[str]]:
    """What a dry run says, as paths below where the case writes; it must not touch a thing."""
    case, before = CASES[name], snapshot(project.out, project.ref)
    line = [*case.argv(project.ref, project.out, settings), "--dry-run", "--json", *more]
    done = project.server(case.keras).run(case.stage, line)
    assert done.status == 0, done.said
    assert snapshot(project.out, project.ref) == before
    report = json.loads(done.said.splitlines()[-1])
    assert report["stage"] == case.stage
    assert report["dry_run"] is True
    return {
        kind: {
            str((Path(plan["folder"]) / item).relative_to(project.out))
            for plan in report["planned"]
            for item in plan[kind]
        }
        for kind in PLAN
    }


def shown(names: set[str]) -> set[str]:
    """Without those in hidden folders, which are the program's own."""
    return {name for name in names if not any(part.startswith(".") for part in Path(name).parts)}


LIGHT = sorted(set(CASES) - set(HEAVY))
SWEEP = [pytest.param(name, marks=pytest.mark.faults) for name in HEAVY]


@pytest.mark.parametrize("name", [*LIGHT, *SWEEP])
def test_it_says_what_the_run_does(undisturbed, name):
    kept, _ = undisturbed.undisturbed(name)
    made = shown({str(path.relative_to(kept)) for path in files(kept)}) - {"history.csv"}  # it goes with the model
    undisturbed.clear()
    plan = planned(undisturbed, name)
    assert shown(plan["make"]) >= made  # a block without a valid pixel is left out
    if name != "predict blocks":
        assert shown(plan["make"]) == made
    assert not plan["redo"] | plan["keep"] | plan["remove"]


@pytest.mark.parametrize("name", [*LIGHT, *SWEEP])
def test_what_is_finished_is_kept_and_done_again_with_other_settings(undisturbed, name):
    undisturbed.clear(name)  # the result of other.json
    plan = planned(undisturbed, name, "other.json")
    assert plan["keep"]
    assert not plan["make"] | plan["redo"] | plan["remove"]
    assert planned(undisturbed, name, "other.json", "--overwrite")["redo"] == plan["keep"]
    other = planned(undisturbed, name)
    assert other["redo"] | other["remove"]
    assert other["redo"] | other["keep"] | other["remove"] == plan["keep"]


def refused(project, stage: str, name: str) -> str:
    """What the dry run of a stage says where a file of that name is in its way."""
    project.make("chip")
    project.clear()
    (project.out / name).write_text("mine")
    line = [*CASES[stage].argv(project.ref, project.out), "--dry-run"]
    done = project.server(False).run(stage, line)
    assert done.status == 1
    return done.said


def test_a_file_in_the_way_is_found(undisturbed):
    said = refused(undisturbed, "mosaic", "mosaic.tif")
    assert "mosaic.tif: a file that this stage did not write; expected" in said
    assert (undisturbed.out / "mosaic.tif").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_found(undisturbed):
    said = refused(undisturbed, "chip", "chips")
    assert "chips: File exists; expected a folder to write to" in said


@pytest.mark.parametrize("stage", ["chip", "mosaic", "flatten", "summarize"])
def test_a_broken_raster_is_named(undisturbed, stage):
    undisturbed.make("chip")
    undisturbed.clear()
    chip = next((undisturbed.ref / "data/chips").glob("*.tif"))
    (undisturbed.out / "rasters").mkdir()
    (undisturbed.out / "rasters/a.tif").write_bytes(chip.read_bytes()[:200])
    out = undisturbed.out / {"mosaic": "mosaic.tif", "flatten": "pixels.csv"}.get(stage, "out")
    done = undisturbed.server(False).run(stage, [str(undisturbed.out / "rasters"), str(out), "--dry-run"])
    assert done.status == 1
    assert "rasters/a.tif: not readable as GTiff" in done.said
