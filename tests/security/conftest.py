"""What the tests of hostile files share: secrets that lie beside them, a server that nobody may call, a runner."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from attacks import RUNNER, SECRET_PIXEL, WORD, Ended, Secrets, run_python, write_tiff


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    """A text, a raster of the grid that hostile ones have, and a polygon on it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    text, raster, vector = folder / "secret.txt", folder / "secret.tif", folder / "secret.gpkg"
    text.write_text(f"{WORD}\n")
    write_tiff(raster, np.full((1, 64, 64), SECRET_PIXEL, np.uint8))
    square = shapely.box(735000, 2959970, 735030, 2960000)
    gpd.GeoDataFrame({"word": [WORD]}, geometry=[square], crs=32644).to_file(vector, driver="GPKG")
    return Secrets(folder, text, raster, vector)


@pytest.fixture
def listener() -> Iterator[str]:
    """The address of a server of this machine that nobody may call."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        ended = threading.Event()

        def wait() -> None:
            while not ended.is_set():
                try:
                    calls.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=wait)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        thread.join()
    assert not calls


@pytest.fixture(scope="session")
def run_cases() -> Callable[[Sequence[tuple[str, list[object]]]], list[Ended]]:
    """Runs stages one after the other in one process: (name of the stage, its arguments)."""

    def run(cases: Sequence[tuple[str, list[object]]]) -> list[Ended]:
        given = json.dumps([(stage, [str(part) for part in argv]) for stage, argv in cases])
        done = run_python(RUNNER, given)
        found = [Ended(**json.loads(line)) for line in done.stdout.splitlines()]
        assert done.returncode == 0, f"the interpreter ended at case {len(found)}: {cases[len(found)]} {done.stderr}"
        assert len(found) == len(cases)
        return found

    return run
