"""spacenet: a small made-up city in the layouts of the real one, as folder, tar and bucket."""

import json
import tarfile
from urllib.parse import parse_qs, urlsplit

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from test_cog import quick  # noqa: F401
from web_server import web_server

from download.download import main
from sources.spacenet import CITIES, pairs

NEW = {
    "PS-MS": "{city}/PS-MS/SN2_buildings_train_{city}_PS-MS_img{n}.tif",
    "PS-RGB": "{city}/PS-RGB/SN2_buildings_train_{city}_PS-RGB_img{n}.tif",
    "shapes": "{city}/geojson_buildings/SN2_buildings_train_{city}_geojson_buildings_img{n}.geojson",
}
OLD = {
    "PS-MS": "{city}_Train/MUL-PanSharpen/MUL-PanSharpen_{city}_img{n}.tif",
    "PS-RGB": "{city}_Train/RGB-PanSharpen/RGB-PanSharpen_{city}_img{n}.tif",
    "shapes": "{city}_Train/geojson/buildings/buildings_{city}_img{n}.geojson",
}
CITY = "AOI_5_Khartoum"


def corner(number):
    return 32.5 + 0.001 * number, 15.6


@pytest.fixture
def files(make_raster):
    """Names and bytes of three images and their footprints, by the layout."""

    def make(layout):
        found = {}
        for number in (3, 12, 200):
            west, north = corner(number)
            transform = Affine(2.7e-6, 0, west, 0, -2.7e-6, north)
            for kind, bands in (("PS-MS", 8), ("PS-RGB", 3)):
                array = np.random.default_rng(number).integers(0, 2000, (bands, 65, 65)).astype(np.uint16)
                path = make_raster(array, "one.tif", crs="EPSG:4326", transform=transform)
                found[layout[kind].format(city=CITY, n=number)] = path.read_bytes()
            ring = [(west, north), (west + 5e-5, north), (west + 5e-5, north - 5e-5), (west, north)]
            shape = {"type": "Polygon", "coordinates": [[(x, y, 0.0) for x, y in ring]]}
            feature = {"type": "Feature", "properties": {"HGT": number}, "geometry": shape}
            features = [feature] if number != 12 else []
            text = json.dumps({"type": "FeatureCollection", "features": features})
            found[layout["shapes"].format(city=CITY, n=number)] = text.encode()
        return found

    return make


def on_disk(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def bucket(files, **options):
    """A server that lists two names a page."""
    names = {f"spacenet/SN2_buildings/train/{name}": data for name, data in files.items()}

    def listing(handler):
        query = {key: values[0] for key, values in parse_qs(urlsplit(handler.path).query).items()}
        found = sorted(name for name in names if name.startswith(query["prefix"]))
        start = int(query.get("continuation-token", 0))
        keys = "".join(f"<Contents><Key>{name}</Key></Contents>" for name in found[start : start + 2])
        more = f"<NextContinuationToken>{start + 2}</NextContinuationToken>" if start + 2 < len(found) else ""
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        handler.answer(
            200, f'<ListBucketResult xmlns="{space}">{keys}{more}</ListBucketResult>'.encode(), "application/xml"
        )

    return web_server({f"/{name}": data for name, data in names.items()}, routes={"/": listing}, **options)


@pytest.fixture
def line(tmp_path):
    def make(*address, **values):
        values = {
            "source": "spacenet",
            "address": list(address),
            "collection": "Khartoum",
            "retries": 3,
            "timeout": 0.5,
        } | values
        (tmp_path / "settings.json").write_text(json.dumps({"download_args": values}))
        return ["--settings", str(tmp_path / "settings.json"), "--data", str(tmp_path / "data"), "--quiet", "--json"]

    return make


def check(folder, files, kind, layout, numbers=(3, 12, 200)):
    paths = sorted((folder / "scenes").glob("*.tif"))
    assert [p.stem for p in paths] == sorted(f"{CITY}_{kind}_img{n}" for n in numbers)
    for number in numbers:
        with (
            rasterio.MemoryFile(files[layout[kind].format(city=CITY, n=number)]) as file,
            file.open() as src,
            rasterio.open(folder / f"scenes/{CITY}_{kind}_img{number}.tif") as dst,
        ):
            np.testing.assert_array_equal(dst.read(), src.read())
            assert (dst.crs, dst.dtypes) == (src.crs, src.dtypes)
            assert dst.transform.almost_equals(src.transform, 1e-12)
    roofs = gpd.read_file(folder / "labels/roofs.gpkg")
    assert list(roofs["image"]) == [f"{CITY}_img{n}" for n in numbers if n != 12]
    assert not roofs.geometry.has_z.any()


def test_pairs_by_hand():
    names = [
        NEW["PS-MS"].format(city=CITY, n=1),
        NEW["PS-RGB"].format(city=CITY, n=2),
        OLD["shapes"].format(city=CITY, n=1),
    ]
    assert pairs([*names, "x/AOI_2_Vegas_PS-MS_img9.tif"], CITY, "PS-MS") == ({1: names[0]}, {1: names[2]})
    assert CITY in CITIES


@pytest.mark.parametrize("kind", ["PS-MS", "PS-RGB"])
@pytest.mark.parametrize("layout", [NEW, OLD])
def test_a_folder(layout, kind, files, line, tmp_path):
    on_disk(tmp_path / "sn", files(layout))
    assert main(line("sn", assets=[kind])) == 0
    check(tmp_path / "data", files(layout), kind, layout)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_tar(suffix, files, line, tmp_path):
    on_disk(tmp_path / "sn", files(OLD))
    with tarfile.open(tmp_path / f"sn{suffix}", "w:gz" if suffix.endswith("gz") else "w") as tar:
        tar.add(tmp_path / "sn", "../../evil")
    assert main(line(f"sn{suffix}", assets=["PS-MS"])) == 0
    check(tmp_path / "data", files(OLD), "PS-MS", OLD)
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("faults", [(), (503, "reset", None, "truncated", None, 429, None, None, "hang")])
def test_the_bucket(faults, files, line, tmp_path, capsys):
    with bucket(files(NEW), faults=faults) as server:
        assert main(line(server.url, items=2)) == 0
    check(tmp_path / "data", files(NEW), "PS-RGB", NEW, (3, 12))
    err = capsys.readouterr().err
    assert "2 of 3 images are fetched" in err
    assert "CC BY-SA 4.0" in err


def test_only_images_of_the_area(files, line, tmp_path):
    west, north = corner(12)
    on_disk(tmp_path / "sn", files(NEW))
    assert main(line("sn", bbox=[west, north - 1e-4, west + 1e-4, north], labels=None)) == 1
    assert [p.stem for p in (tmp_path / "data/scenes").iterdir()] == [f"{CITY}_PS-RGB_img12"]


@pytest.mark.parametrize(
    ("address", "values", "words"),
    [
        (["none"], {}, "no such file or folder"),
        (["sn"], {"collection": "Paris"}, "no PS-RGB image of AOI_3_Paris"),
        (["sn"], {"collection": "Rome"}, "one of AOI_2_Vegas"),
        (["sn"], {"assets": ["PAN"]}, "one of PS-MS, PS-RGB"),
        (["broken.tar"], {}, "no whole tar"),
        (["cut.tar.gz"], {}, "no whole tar"),
        (["sn"], {"bbox": [0.0, 0.0, 1.0, 1.0]}, "none in the area"),
    ],
)
def test_every_problem_is_one_line(address, values, words, files, line, tmp_path, capsys):
    on_disk(tmp_path / "sn", files(NEW))
    (tmp_path / "broken.tar").write_bytes(b"nothing")
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "sn", "sn")
    data = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(data[: len(data) // 2])
    assert main(line(*address, **values)) == 1
    errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
    assert len(errors) == 1
    assert words in errors[0]


@pytest.mark.parametrize("body", [b"<html></html>", b"nothing", b'<!DOCTYPE a [<!ENTITY b "c">]><ListBucketResult/>'])
def test_a_bucket_that_is_none(body, line, capsys):
    with web_server(routes={"/": lambda handler: handler.answer(200, body)}) as server:
        assert main(line(server.url)) == 1
    assert "no listing" in capsys.readouterr().err
