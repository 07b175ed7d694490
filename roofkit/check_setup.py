"""Check that this environment can do the work: every import, and an 8-band 16-bit GeoTIFF there and back."""

import importlib
import sys

NEEDED = (
    "geopandas",
    "keras",
    "matplotlib",
    "pandas",
    "polars",
    "pydantic",
    "rasterio",
    "rich",
    "shapely",
    "skimage",
    "sklearn",
    "tensorflow",
)


def check_raster() -> None:
    """Write an 8-band uint16 GeoTIFF to memory and read it back.

    Raises:
        ValueError: The pixels read are not the pixels written.
    """
    import numpy as np
    from rasterio.io import MemoryFile
    from rasterio.transform import from_origin

    pixels = np.arange(8 * 4 * 6, dtype="uint16").reshape(8, 4, 6) * 300
    profile = dict(
        driver="GTiff",
        dtype="uint16",
        count=8,
        height=4,
        width=6,
        crs="EPSG:32644",
        transform=from_origin(735000, 2960000, 0.5, 0.5),
    )
    with MemoryFile() as memory:
        with memory.open(**profile) as dst:
            dst.write(pixels)
        with memory.open() as src:
            if not np.array_equal(src.read(), pixels):
                raise ValueError("an 8-band uint16 GeoTIFF came back with other pixels")


def main() -> int:
    """Run the checks; 0 when all pass, else 1 with the reason on stderr."""
    from unet.backend import start_keras

    try:
        start_keras()  # before the others: it keeps TensorFlow's log lines to itself
        for name in NEEDED:
            importlib.import_module(name)
        check_raster()
    except (ImportError, OSError, ValueError) as error:
        print(
            f"error: .venv: {error}; expected a working environment. Remove .venv and run ./setup.sh again.",
            file=sys.stderr,
        )
        return 1
    print("Set-up is complete: run .venv/bin/python run/local.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
