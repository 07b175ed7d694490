"""Fixtures: any raster on demand, and no other machine."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from imagery import TRANSFORM, UTM

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process of pytest-xdist has one core; threads that spin slow both


@pytest.fixture
def make_raster(tmp_path: Path) -> Callable[..., Path]:
    """Writes a GeoTIFF of an array (bands, rows, cols) or (rows, cols); `valid` becomes its internal mask."""

    def make(
        array: Any,
        name: str = "scene.tif",
        *,
        crs: str | None = UTM,
        transform: Affine = TRANSFORM,
        nodata: float | None = None,
        valid: Any = None,
        **profile: Any,
    ) -> Path:
        array = np.atleast_3d(array) if np.ndim(array) == 1 else np.asarray(array)
        array = array[None] if array.ndim == 2 else array
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        profile = dict(photometric="minisblack", alpha="no") | profile
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path, "w", driver="GTiff", count=array.shape[0], height=array.shape[1], width=array.shape[2],
                dtype=array.dtype, crs=crs, transform=transform, nodata=nodata, **profile,
            ) as dst,
        ):  # fmt: skip
            dst.write(array)
            if valid is not None:
                dst.write_mask(np.asarray(valid, bool))
        return path

    return make


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """How a stage runs in an empty project: quietly, in one process."""
    from roofkit.cli import Run
    from roofkit.paths import project_paths
    from roofkit.settings import Settings

    settings = Settings()
    return Run(settings, project_paths(settings, tmp_path), tmp_path / "settings.json", False, 1, True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, only_this_machine: None) -> None:
    """No other machine, no long pauses, small blocks."""
    import roofkit.range_file
    import roofkit.web

    monkeypatch.setattr(roofkit.web, "PAUSE", 0.01)
    monkeypatch.setattr(roofkit.range_file, "BLOCK", 64 * 1024)


@pytest.fixture
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test fails where anything connects to another machine, even if the program takes no harm from it."""
    connect, seen = socket.socket.connect, set()

    def noted(self: socket.socket, address: Any) -> None:
        seen.add(address[0] if isinstance(address, tuple) else "127.0.0.1")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield
    assert seen <= {"127.0.0.1", "::1"}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A small project that nothing disturbs, for the tests in tests/faults."""
    if sys.platform != "linux":
        pytest.skip("the tests of faults fork processes and read /proc: on Linux only")
    from faults.project import Project

    found = Project(tmp_path_factory.mktemp("faults"))
    yield found
    found.close()


@pytest.fixture
def line(tmp_path: Path) -> Callable[..., list[str]]:
    """The command line of a download of labels with these settings; files with another source have their own."""
    from label_server import BBOX

    def make(**values: Any) -> list[str]:
        values = {"source": "sample", "size": 256, "bbox": BBOX, "retries": 3, "timeout": 0.5} | values
        (tmp_path / "settings.json").write_text(json.dumps({"download_args": values}))
        return ["--settings", str(tmp_path / "settings.json"), "--data", str(tmp_path / "data"), "--quiet", "--json"]

    return make


@pytest.fixture
def osm(line: Callable[..., list[str]]) -> Callable[..., Any]:
    """Downloads labels from an Overpass server of these elements; the server, which knows what it was asked."""
    from label_server import osm_server

    from download.download import main

    def run(elements: Any, *, faults: Any = (), status: int = 0, **options: Any) -> Any:
        extra = options.pop("extra", {})
        with osm_server(elements, faults=faults, **extra) as server:
            server.queries = []
            assert main(line(labels="osm", overpass_url=f"{server.url}/api", **options)) == status
            return server

    return run


@pytest.fixture
def drawn() -> Any:
    """Three roofs in UTM: inside the area of `line`, across its edge, outside."""
    import geopandas as gpd
    import shapely
    from label_server import square

    shapes = [shapely.Polygon(square(x, 26.005)) for x in (83.002, 83.0098, 83.02)]
    table = gpd.GeoDataFrame({"material": ["tin", "tile", "tin"], "n": [1, 2, 3]}, geometry=shapes, crs="EPSG:4326")
    return table.to_crs(UTM)


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks have one convolution and one normalisation between scaling and last layer: most time is saved."""
    from unet.backend import start_keras

    start_keras()
    from unet import network

    def body(x: Any, args: Any) -> Any:
        return network.normalisation(network._convolution(args, args.filters)(x), args)

    monkeypatch.setattr(network, "body_of", lambda args: body)
