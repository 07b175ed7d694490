"""bench/memory.py: processes and their memory, scenes, rows, by hand; one quick run."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rasterio.features import rasterize

from bench import memory
from roofkit.labels import read_labels
from roofkit.raster import open_raster

ROOT = Path(__file__).resolve().parent.parent
COST = {"seconds": 1.0, "cpu": 2.0, "main_mb": 90.0, "largest_mb": 100.0, "together_mb": 150.0, "idle_seconds": 0.5}
linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no /proc that tells")

# ------------------------------------------------------------------------------------------------------------ processes


def test_descendants_by_hand():
    parents = {1: 0, 2: 1, 3: 2, 4: 2, 5: 1, 6: 5, 7: 99}
    assert memory.descendants(2, parents) == {2, 3, 4}
    assert memory.descendants(5, parents) == {5, 6}
    assert memory.descendants(42, parents) == {42}


def test_kilobytes():
    text = "Name:\tpython\nVmHWM:\t  1234 kB\nPss_Anon:  7 kB\nPss:  9 kB\n"
    assert memory.kilobytes(text, "VmHWM") == 1234
    assert memory.kilobytes(text, "Pss") == 9
    assert memory.kilobytes("", "Pss") == 0


@linux
def test_memory_of_a_process_and_of_what_it_starts(tmp_path):
    hold = "import time; held = b'1' * (60 * 2**20); time.sleep(0.5)"
    both = f"import subprocess, sys; held = b'1' * (60 * 2**20); subprocess.run([sys.executable, '-c', {hold!r}])"
    one, two = (memory.measure([sys.executable, "-c", code], tmp_path, watch=True) for code in (hold, both))
    assert 60 < one.largest_mb < 120
    assert 60 < two.largest_mb < 120
    assert min(one.main_mb, two.main_mb) > 60
    assert 60 < one.together_mb < 120 < two.together_mb
    assert memory.measure([sys.executable, "-c", hold], tmp_path).together_mb is None


def test_processor_seconds_of_all_processes(tmp_path):
    work = "import time\nwhile time.process_time() < 0.4: pass"
    line = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"]
    assert memory.measure(line, tmp_path).cpu > 0.4


def test_a_command_that_fails_ends_the_benchmark(tmp_path):
    with pytest.raises(SystemExit, match=r"(?s)ended with 3:.*what it said"):
        memory.measure([sys.executable, "-c", "print('what it said'); raise SystemExit(3)"], tmp_path)


def test_a_function_in_a_process_of_its_own(tmp_path):
    memory.alone(Path.mkdir, tmp_path / "made")
    assert (tmp_path / "made").is_dir()
    with pytest.raises(SystemExit, match="mkdir ended with 1"):
        memory.alone(Path.mkdir, tmp_path / "made")


def test_a_measurement_is_made_once(tmp_path):
    made = []
    for again, number in ((False, 1), (False, 1), (True, 2)):
        kept = memory.Kept(tmp_path / "kept.json", again)
        for _ in range(2):
            assert kept.get("a", lambda: made.append(0) or len(made)) == number
    assert json.loads((tmp_path / "kept.json").read_text()) == {"a": 2}


# --------------------------------------------------------------------------------------------------------------- scenes


def test_filled_blocks():
    assert memory.filled_blocks(64, 1) == [(0, 0)]
    assert memory.filled_blocks(1024, 1) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len(memory.filled_blocks(5000, 0.004)) == memory.LEAST
    found = memory.filled_blocks(100_000, memory.FILLED)
    assert len(found) == len(set(found)) == round(0.004 * 196**2)
    assert found[0] == (0, 0)
    assert found[-1] == (195, 195)
    assert found == sorted(found) == memory.filled_blocks(100_000, memory.FILLED)


def test_roofs_of_a_patch_are_bright_and_apart():
    pixels, roofs = memory.patch(np.random.default_rng(0), 3, 256)
    assert (pixels.shape, pixels.dtype, len(roofs)) == ((3, 256, 256), np.uint8, 4)
    roof = np.zeros((256, 256), int)
    for top, left, bottom, right in roofs:
        roof[top:bottom, left:right] += 1
    assert roof.max() == 1
    assert pixels.min() > 0
    assert pixels[:, roof == 1].mean() > pixels[:, roof == 0].mean() + 60


def test_a_scene_is_sparse_and_its_labels_lie_on_its_roofs(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "LEAST", 2)
    memory.make_ground(tmp_path, 3000, 0.1, 2)
    with open_raster(tmp_path / "scene.tif") as src:
        pixels, valid = src.read(1), src.dataset_mask() > 0
        roofs = read_labels(tmp_path / "roofs.gpkg").roofs
        drawn = rasterize(roofs.geometry, src.shape, transform=src.transform) > 0
        assert (src.count, src.shape, src.nodata, src.block_shapes[0]) == (2, (3000, 3000), 0, (512, 512))
    full, edge = 3, 3000 - 5 * 512  # four of 36 blocks, of which the last is cut
    assert valid.sum() == full * 512**2 + edge**2
    assert pixels[drawn & valid].mean() > pixels[~drawn & valid].mean() + 60
    assert (tmp_path / "scene.tif").stat().st_size < 2 * valid.sum()
    assert not (tmp_path / "part.tif").exists()


def test_polygons_are_as_many_as_asked_for_and_lie_on_the_scene(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "AT_ONCE", 40)
    memory.make_polygons(tmp_path / "roofs.gpkg", 100, 500)
    roofs = read_labels(tmp_path / "roofs.gpkg").roofs
    crs, left, top, pixel = memory.GRID
    assert len(roofs) == 100
    assert roofs.crs.to_string() == crs
    assert roofs.area.between((4 * pixel) ** 2, (12 * pixel) ** 2).all()
    assert roofs.bounds.minx.between(left, left + 500 * pixel).all()
    assert roofs.bounds.miny.between(top - 500 * pixel, top).all()
    assert [path.name for path in tmp_path.iterdir()] == ["roofs.gpkg"]


# ----------------------------------------------------------------------------------------------------------------- rows


def test_rows_are_held_or_not():
    row = memory.Row("memory", "chip", "MB", "1 2", (10.0, 20.0), 20.0, 20.0)
    assert row.held
    assert replace(row, limit=19.0).held is False
    assert replace(row, limit=None).held is None
    assert replace(row, figure=None).held is None


def test_memory_rows_by_hand():
    found = [COST, COST | {"largest_mb": 130.0}, COST | {"largest_mb": 120.0, "idle_seconds": 1.5}]
    rows = {row.what: row for row in memory.memory_rows("chip", [10, 2000, 3000], found, 0.0)}
    assert rows["MB, largest process"].at == "10 2,000 3,000"
    assert rows["MB, largest process"].values == (100.0, 130.0, 120.0)
    assert [(row.figure, row.held) for row in rows.values()] == [
        (130.0, True),
        (150.0, None),
        (1.0, True),
        (1.5, False),
    ]


def test_start_up_is_taken_off_before_the_limit():
    rows = {row.what: row for row in memory.memory_rows("predict", [10], [COST | {"largest_mb": 900.0}], 350.0)}
    assert (rows["MB, largest process"].figure, rows["MB, largest process"].held) == (900.0, None)
    assert (rows["MB, start-up apart"].figure, rows["MB, start-up apart"].held) == (550.0, True)


def test_growth_rows_by_hand():
    costs = {64: (1.0, 1.0), 1000: (3.0, 2.0), 2000: (9.0, 6.0)}
    found = {side: [{"cpu": cpu, "seconds": seconds}] for side, (cpu, seconds) in costs.items()}
    cpu, wall = memory.growth_rows("chip", found)
    assert (cpu.at, cpu.values, cpu.figure, cpu.held) == ("1,000 2,000", (2.0, 2.0), 1.0, True)
    assert (wall.values, wall.figure, wall.held) == ((1.0, 1.25), 1.25, False)


def test_what_is_lost_in_start_up_is_not_judged():
    found = {side: [{"cpu": cpu, "seconds": 1.0}] for side, cpu in ((64, 1.0), (1000, 0.9), (2000, 3.0))}
    assert [row.held for row in memory.growth_rows("chip", found)] == [None, None]


def test_growth_takes_medians():
    found = {side: [{"cpu": c + side, "seconds": 1.0 + side} for c in (0.0, 5.0, 1.0)] for side in (64, 1000)}
    assert memory.growth_rows("chip", found)[0].values == (936.0,)


def test_three_digits():
    assert [memory.short(value) for value in (12345.6, 99.96, 0.12345)] == ["12,346", "100", "0.123"]


# ---------------------------------------------------------------------------------------------------------- a quick run


@pytest.mark.slow
def test_quick_run(tmp_path):
    line = [sys.executable, ROOT / "bench/memory.py", tmp_path / "out", "--sides", "400", "600", "--bands", "1"]
    line += ["--stages", "mosaic", "--part", "memory", "--json", tmp_path / "report.json"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert {row["case"] for row in report["rows"]} == {"mosaic"}
    assert report["rows"][0]["held"] is True
    assert all(math.isfinite(value) for row in report["rows"] for value in row["values"])
    assert len(report["measured"]) == 2
    assert (tmp_path / "out/memory.png").stat().st_size > 10_000
    assert "largest process" in done.stdout
    again = subprocess.run(line, capture_output=True, text=True)
    assert (again.returncode, again.stderr, again.stdout) == (0, "", done.stdout)
