"""Damaged files: those that once showed a defect, in tests/fuzz/found, and some new ones; more of them by `mutate`.

python -m pytest tests/fuzz -m slow     also some minutes of `mutate` for each kind, in processes that may crash
"""

from pathlib import Path

import pytest
from corpus import FORMATS, make_corpus
from mutate import make_case, run
from readers import Bench, try_out

FOUND = sorted(path for path in (Path(__file__).with_name("found")).iterdir() if path.is_dir())
KIND = {suffix: kind for kind, suffixes in FORMATS.items() for suffix in suffixes}


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    return {kind: Bench(kind, tmp_path_factory.mktemp(kind)) for kind in ("tif", "vector", "skops", "h5")}


@pytest.mark.parametrize("folder", FOUND, ids=lambda folder: folder.name)
def test_what_was_found_is_mended(folder, benches, capfd):
    (path,) = (part for part in folder.iterdir() if part.suffix in KIND)
    kind = KIND[path.suffix]
    hows = {"tif": (0, 2, 3, 7), "vector": (0, 1, 2, 3), "skops": (0,), "h5": (0,)}[kind]
    for how in hows[:1] if "bands" in folder.name else hows:  # refused at the door; GDAL takes seconds to open it
        assert try_out(benches[kind], path, how)["outcome"] == "fine"


@pytest.mark.parametrize("kind", ["tif", "vector", "skops"])
def test_damaged_files_are_read_or_named(kind, benches, tmp_path, capfd):
    corpus = make_corpus(kind, tmp_path / "corpus")
    for number in range(10):
        path = make_case(kind, corpus, 3, number, tmp_path / "case")
        answer = try_out(benches[kind], path, number)
        assert answer["outcome"] == "fine", (number, answer["what"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_minutes_of_damaged_files(kind, tmp_path):
    found = run(kind, seed=4, minutes=3, keep=tmp_path)
    assert {name for name in found if ":" not in name} == {"fine"}, [*tmp_path.rglob("*.jsonl")]


def test_cases_are_made_of_their_numbers_alone(tmp_path):
    corpus = make_corpus("skops", tmp_path / "corpus")
    one, again, other = (
        make_case("skops", corpus, 0, n, tmp_path / f"{i}").read_bytes() for i, n in enumerate((5, 5, 6))
    )
    assert one == again != other
