"""The network of settings.json at its full size, on frames like WorldView's: 8 bands, uint16, 650 resized to 640."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SIDE, BANDS = 650, 8
SETTINGS = {
    "load_dataset_args": {"channels": BANDS, "batch_size": 2},
    "model_args": {"input_shape": [640, 640, BANDS]},
    "training_args": {"epochs": 2, "steps_per_epoch": 4, "validation_steps": 1},
}


def town(rng):
    """A frame of 11 bits and its mask: metal roofs, other roofs, ground with texture."""
    ground = rng.normal(0, 30, (BANDS, SIDE // 5, SIDE // 5)).repeat(5, axis=1).repeat(5, axis=2)
    frame = rng.uniform(250, 450, BANDS)[:, None, None] + ground + rng.normal(0, 15, (BANDS, SIDE, SIDE))
    roof = np.zeros((SIDE, SIDE), bool)
    for metal in rng.random(60) < 0.5:
        top, left = rng.integers(0, SIDE - 60, 2)
        place = slice(top, top + rng.integers(20, 60)), slice(left, left + rng.integers(20, 60))
        frame[(slice(None), *place)] = np.linspace(900, 500, BANDS)[:, None, None] if metal else 380.0
        roof[place] = metal
    frame += rng.normal(0, 15, frame.shape)
    return frame.clip(0, 2047).astype("uint16"), np.where(roof, 255, 0).astype("uint8")


@pytest.mark.slow
def test_a_few_steps_of_the_fixed_network_are_sound(make_raster, tmp_path):
    rng = np.random.default_rng(0)
    for kind, count in (("train", 6), ("val", 4)):
        for i in range(count):
            frame, mask = town(rng)
            make_raster(frame, f"data/{kind}_frames/{kind}_{i}.tif")
            make_raster(mask, f"data/{kind}_masks/{kind}_{i}.tif")
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    options = ["--settings", str(tmp_path / "settings.json")]
    for stage in ("train", "predict", "doctor"):
        done = subprocess.run(
            [sys.executable, str(ROOT / stage / f"{stage}.py"), *options], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr + done.stdout
        print(done.stdout, done.stderr)
    assert "fail" not in done.stdout
