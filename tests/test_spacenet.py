"""spacenet: a small made-up city in the layouts of the real one, as folder, tar and bucket."""

import json
import tarfile
from urllib.parse import parse_qs, urlsplit

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from imagery import real
from test_cog import TOKEN, snapshot
from web_server import web_server

from download.download import main
from sources.spacenet import CITIES, Archive, footprints, pairs

pytestmark = pytest.mark.usefixtures("quick")

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
        (["sn"], {"scale": 0.5}, "keep their own grid"),
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


def packed(folder, name, mode="w:gz"):
    path = folder / name
    with tarfile.open(path, mode) as tar:
        tar.add(folder / "sn", "sn")
    return path


def test_an_archive_holds_one_image_and_is_read_forward(files, tmp_path, monkeypatch):
    on_disk(tmp_path / "sn", files(OLD))
    archive = Archive(packed(tmp_path, "sn.tar.gz"))
    images, shapes = pairs(archive.names(CITY), CITY, "PS-MS")
    assert set(archive._footprints) == set(shapes.values())
    opened, real_open = [], tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *args, **options: opened.append(args) or real_open(*args, **options))
    for name in sorted(images.values(), key=archive.place):
        assert archive.read(name) == archive.read(name) == files(OLD)[name.removeprefix("sn/")]
    assert len(opened) == 1
    first = min(images.values(), key=archive.place)
    assert archive.read(first) == files(OLD)[first.removeprefix("sn/")]
    assert len(opened) == 2


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_damaged_archive_is_named(mode, share, files, line, tmp_path, capsys):
    on_disk(tmp_path / "sn", files(OLD))
    path = packed(tmp_path, "sn.tar", mode)
    data = bytearray(path.read_bytes())
    if mode == "w":
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        at = members[int(len(members) * share)].offset
    else:
        at = int(len(data) * share)
    data[at : at + 40] = b"\xff" * 40
    path.write_bytes(data)
    assert main(line("sn.tar")) == 1
    errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
    assert len(errors) == 1
    assert "no whole tar" in errors[0]


RING = {"type": "Polygon", "coordinates": [[[32.5, 15.6], [32.6, 15.6], [32.6, 15.7], [32.5, 15.6]]]}


def shapes_of(*rows, geometry=RING):
    features = [{"type": "Feature", "properties": row, "geometry": geometry} for row in rows]
    return json.dumps({"type": "FeatureCollection", "features": features})


@pytest.mark.parametrize("text", ["[" * 100_000, shapes_of([1]), "[]", "nothing", '{"features": ["a"]}'])
def test_footprints_that_are_none_are_named(text):
    with pytest.raises(ValueError, match=r"one.geojson: no GeoJSON"):
        footprints(text.encode(), "one.geojson")


def test_columns_that_a_geopackage_cannot_have_are_renamed(files, line, tmp_path):
    on_disk(tmp_path / "sn", files(NEW))
    shapes = tmp_path / "sn" / NEW["shapes"].format(city=CITY, n=3)
    shapes.write_text(shapes_of({"fid": 7, "Name": "a", "image": "b"}, {"fid": 7, "name": "c"}))
    assert main(line("sn")) == 0
    roofs = gpd.read_file(tmp_path / "data/labels/roofs.gpkg")
    assert {"fid_2", "Name", "name_2", "image"} <= set(roofs.columns)
    assert roofs["fid_2"].tolist()[:2] == [7, 7]


def test_footprints_without_an_area_are_counted(files, line, tmp_path, capsys):
    on_disk(tmp_path / "sn", files(NEW))
    shapes = tmp_path / "sn" / NEW["shapes"].format(city=CITY, n=3)
    point = {"type": "Point", "coordinates": [32.5, 15.6]}
    shapes.write_text(shapes_of({}, {}, geometry=point))
    assert main(line("sn")) == 0
    assert "2 footprints are no polygon with an area" in capsys.readouterr().err


def test_changed_footprints_are_read_again(files, line, tmp_path, capsys):
    on_disk(tmp_path / "sn", files(NEW))
    assert main(line("sn")) == 0
    capsys.readouterr()
    shapes = tmp_path / "sn" / NEW["shapes"].format(city=CITY, n=3)
    shapes.write_bytes(shapes.read_bytes().replace(b'"HGT": 3', b'"HGT": 77'))
    assert main(line("sn")) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["made"], report["kept"]) == (1, 3)
    assert 77 in gpd.read_file(tmp_path / "data/labels/roofs.gpkg")["HGT"].tolist()


def test_images_without_footprints_are_named(files, line, tmp_path, capsys):
    on_disk(tmp_path / "sn", files(NEW))
    shapes = [tmp_path / "sn" / NEW["shapes"].format(city=CITY, n=n) for n in (12, 3, 200)]
    shapes[0].unlink()
    assert main(line("sn")) == 0
    assert "1 images have no footprints (img12, …)" in capsys.readouterr().err
    for path in shapes[1:]:
        path.unlink()
    assert main([*line("sn"), "--data", str(tmp_path / "other")]) == 0
    assert "no footprints there" in capsys.readouterr().err
    assert not (tmp_path / "other/labels/roofs.gpkg").exists()


def test_a_bucket_that_fails_half_way_goes_on(files, line, tmp_path):
    with bucket(files(NEW)) as server:
        assert main([*line(server.url), "--data", str(tmp_path / "whole")]) == 0
        planned = sum("list-type" in path or path.endswith(".tif") for path in server.paths)
        server.paths.clear()
        server.faults = [None] * (planned - 1) + [403] * 9
        assert main(line(server.url)) == 1
        server.faults = []
        assert main(line(server.url)) == 0
    assert snapshot(tmp_path / "data") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("fault", [401, 403])
def test_a_bucket_that_refuses_is_asked_once(fault, files, line, tmp_path, capsys):
    with bucket(files(NEW), faults=[fault] * 9) as server:
        assert main(line(f"http://user:{TOKEN}@127.0.0.1:{server.server_address[1]}")) == 1
        assert len(server.paths) == 1
    out, err = capsys.readouterr()
    assert len([text for text in err.splitlines() if text.startswith("error")]) == 1
    assert TOKEN not in out + err
    assert not any(TOKEN.encode() in p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file())


def test_real_footprints():
    paths = sorted(real("spacenet1_rio/vectorData").rglob("*.geojson"))
    tables = [footprints(path.read_bytes(), path.name) for path in paths]
    assert sum(len(table) for table, _ in tables) > 50
    assert min(len(table) for table, _ in tables) == 0
    assert not any(table.geometry.has_z.any() for table, _ in tables)
