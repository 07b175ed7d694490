"""What the tests' rasters share: the grid of made ones, and the real ones where they are present."""

from pathlib import Path

import pytest
from affine import Affine

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
UTM = "EPSG:32644"
TRANSFORM = Affine(0.5, 0, 735000, 0, -0.5, 2960000)


def real(name: str) -> Path:
    """A file or folder of the real data; the test is skipped where it is absent."""
    path = REAL / name
    if not path.exists():
        pytest.skip(f"no real data at {path}")
    return path
