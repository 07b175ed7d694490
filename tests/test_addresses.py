"""addresses: rasters of web servers and buckets, read as files are, and only when allowed."""

import argparse
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from bucket_server import KEY_ID, SECRET, TOKEN, GoogleHandler, S3Handler, bucket_server
from test_predict import predictor
from web_server import web_server

import roofkit.range_file
import roofkit.remote
import roofkit.web
import roofkit.workers
from chip.chip import main as chip
from flatten.flatten import main as flatten
from predict.predict import main as predict
from roofkit.addresses import Address, check_addresses, is_address, path_or_address
from roofkit.errors import BadInputError, MissingInputError, RoofError, SettingsError
from roofkit.listing import seconds_of
from roofkit.range_file import BlockCache
from roofkit.raster import open_raster, raster_digest, raster_files, read_pixels
from roofkit.web import WebError

NAME = "a b+é.tif"
ALLOW = "--allow-addresses"


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path, only_this_machine):
    """Nothing is known from another test, nor from the machine that this runs on."""
    monkeypatch.setattr(roofkit.workers, "_made", {})
    monkeypatch.setattr(roofkit.remote, "CACHE", BlockCache(64))
    monkeypatch.setattr(roofkit.web, "PAUSE", 0.01)
    monkeypatch.setattr(roofkit.range_file, "BLOCK", 64 * 1024)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no_config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no_credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no_gcloud"))


@pytest.fixture
def scene(make_raster):
    """A scene of several blocks with an internal mask, whose directory lies at its end."""
    pixels = np.random.default_rng(5).integers(0, 255, (3, 300, 260), dtype="uint8")
    valid = np.ones((300, 260), bool)
    valid[:50, 200:] = False
    return make_raster(pixels, NAME, valid=valid, tiled=True, blockxsize=64, blockysize=64)


@pytest.fixture
def data(scene):
    return scene.read_bytes()


@pytest.fixture
def fake_model(tmp_path, monkeypatch):
    (tmp_path / "model.h5").write_bytes(b"read by nobody")
    monkeypatch.setattr("unet.model_file.load_model", lambda path: predictor(tmp_path, channels=3).loaded)
    return str(tmp_path / "model.h5")


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)


@pytest.fixture
def s3(monkeypatch, keys):
    """Makes a server that AWS's settings in the environment name."""
    pytest.importorskip("botocore", reason="botocore is not installed (the extra s3)")

    def make(files=(), **options):
        return environment(monkeypatch, "AWS_ENDPOINT_URL", S3Handler, files, **options)

    return make


@pytest.fixture
def gs(monkeypatch):
    """Makes a server that the environment names as the emulator of Google's."""

    def make(files=(), **options):
        values = {"private": False} | options
        return environment(monkeypatch, "STORAGE_EMULATOR_HOST", GoogleHandler, files, **values)

    return make


def environment(monkeypatch, variable, handler, files, **options):
    made = bucket_server(handler, files, **options)

    class Named:
        def __enter__(self):
            server = made.__enter__()
            monkeypatch.setenv(variable, server.url)
            return server

        def __exit__(self, *error):
            return made.__exit__(*error)

    return Named()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def error_of(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("error: ")


def read(where, given=None):
    with open_raster(where) as src:
        found = read_pixels(src)
        (given if given is not None else []).append(found)
    return found


# 1. Addresses


@pytest.mark.parametrize(
    ("text", "shown", "name", "host", "key"),
    [
        ("https://h.org/a/b.tif", "https://h.org/a/b.tif", "b.tif", "h.org", "a/b.tif"),
        ("HTTPS://u:p@h.org:8/a%20b.TIF?sig=x/y#z", "https://h.org:8/a%20b.TIF", "a b.TIF", "u:p@h.org:8", "a%20b.TIF"),
        ("http://h.org/a%2Fb%2f..%2Fc.tif", "http://h.org/a%2Fb%2f..%2Fc.tif", "c.tif", "h.org", "a%2Fb%2f..%2Fc.tif"),
        ("https://h.org?key=a/b.tif", "https://h.org", "", "h.org", ""),
        ("s3://bucket/a//b?c#d%20.tif", "s3://bucket/a//b?c#d%20.tif", "b?c#d%20.tif", "bucket", "a//b?c#d%20.tif"),
        ("gs://bucket/a/", "gs://bucket/a/", "", "bucket", "a/"),
        ("s3://bucket", "s3://bucket", "", "bucket", ""),
    ],
)  # fmt: skip
def test_the_parts_of_an_address(text, shown, name, host, key):
    address = Address(text)
    assert (str(address), repr(address), address.name, address.host, address.key) == (shown, shown, name, host, key)
    assert (address.stem, address.suffix) == (Path(name).stem, Path(name).suffix)
    assert pickle.loads(pickle.dumps(address)) == address
    assert address.parent == shown.rpartition("/")[0]
    assert path_or_address(text) == address


def test_what_is_no_address():
    for text in ("data/scenes", "/vsicurl/https://h.org/a.tif", "a:b.tif", "s3:/bucket/a.tif", "C:/a.tif"):
        assert not is_address(text)
        assert path_or_address(text) == Path(text)
    assert is_address(Path("s3://bucket/a"))
    assert is_address(Path("HTTPS://h.org/a"))
    assert not is_address(Path("a/s3:/b"))


def test_a_file_cannot_be_opened_by_an_address():
    with pytest.raises(TypeError):
        Path(Address("s3://bucket/a.tif"))


@pytest.mark.parametrize("stage", [chip, flatten])
def test_without_the_flag_an_address_is_refused(stage, tmp_path, capsys):
    assert stage(["https://u:p@127.0.0.1:1/a.tif?sig=secret", str(tmp_path / "out.csv")]) == 1
    assert error_of(capsys) == (
        "https://127.0.0.1:1/a.tif: an address; expected a file. Give --allow-addresses to read from the network."
    )
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ftp://h.org/a.tif", "out"], r"ftp://h.org/a.tif: ftp://; expected https:// or s3:// or gs://"),
        (["https:///a.tif", "out"], "not an address"),
        (["s3:///a.tif", "out"], "not an address"),
        (["https://h.org/a%0Ab.tif", "out"], "not an address"),
        (["scene.tif", "s3://bucket/out"], "s3://bucket/out: an address; expected a file or folder. Use a file"),
        (["https://h.org/a.vrt", "out"], r"https://h.org/a.vrt: a.vrt; expected a name that ends in .tif"),
        (["https://h.org/a.png", "out"], "expected a name that ends in .tif"),
        (["https://h.org/a.tif.php", "out"], "expected a name that ends in .tif"),
        (["https://h.org/folder", "out"], "expected a name that ends in .tif"),
        (["https://h.org/folder/", "out"], "a folder of a web server, which has no list; expected a file, ….tif. Name"),
    ],
)  # fmt: skip
def test_addresses_that_cannot_be_read(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert chip([*words, ALLOW]) == 1
    assert message in error_of(capsys)
    assert list(tmp_path.iterdir()) == []


def test_other_options_may_be_anything(tmp_path):
    check_addresses(argparse.Namespace(src=Path("a"), url="https://h.org", size=[1], none=None))
    with pytest.raises(MissingInputError):
        check_addresses(argparse.Namespace(src=Address("https://h.org/a.tif")))


def test_another_kind_of_raster_is_not_looked_for():
    with pytest.raises(BadInputError, match=r"extension_args.extension png; expected a name that ends in \.tif"):
        raster_files(Address("s3://imagery/"), "png")


def test_times_as_lists_write_them():
    assert seconds_of("2015-10-21T07:28:00.000Z") == seconds_of("2015-10-21T07:28:00Z") == 1445412480
    assert seconds_of("") == seconds_of("yesterday") == 0


# 2. What is read is what a file holds

FAULTS = [None, 429, None, 500, "reset", 503, "truncated", None, 503]


@pytest.mark.parametrize(
    ("kind", "workers"),
    [("https", 1), pytest.param("https", 2, marks=pytest.mark.slow), ("s3", 1), ("s3", 2), ("gs", 1)],
)
def test_chips_of_an_address_are_those_of_the_file(kind, workers, scene, data, s3, gs, tmp_path):
    files = {f"deep/{NAME}": data}
    servers = {
        "https": lambda: web_server({"/deep/a%20b+%C3%A9.tif": data}, faults=FAULTS),
        "s3": lambda: s3(files, faults=FAULTS),
        "gs": lambda: gs(files, faults=FAULTS),
    }
    options = ["--size", "64", "--workers", str(workers), "--quiet"]
    assert chip([str(scene), str(tmp_path / "file"), *options]) == 0
    with servers[kind]() as server:
        address = f"{server.url}/deep/a%20b+%C3%A9.tif" if kind == "https" else f"{kind}://imagery/deep/{NAME}"
        assert chip([address, str(tmp_path / "net"), *options, ALLOW]) == 0
        asked = len(server.paths)
        assert not server.faults
        assert contents(tmp_path / "net") == contents(tmp_path / "file")
        assert len(contents(tmp_path / "net")) == 25
        assert chip([address, str(tmp_path / "net"), *options, ALLOW]) == 0
        assert len(server.paths) <= asked + 6  # kept: nothing but the header is read again


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_folder_of_a_bucket(kind, data, s3, gs, tmp_path):
    names = ["p/b.tif", f"p/{NAME}", "p/c.TIFF", "p/.hidden.tif", "p/d.txt", "p/deep/e.tif", "q.tif", "p/"]
    with (s3 if kind == "s3" else gs)(dict.fromkeys(names, data)) as server:
        found = raster_files(Address(f"{kind}://imagery/p/"))
        assert [str(one) for one in found] == [f"{kind}://imagery/p/{name}" for name in (NAME, "b.tif", "c.TIFF")]
        asked = len(server.paths)
        assert asked == 3  # pages of two names
        assert [raster_digest(one) for one in found] == [raster_digest(one) for one in found]
        assert len(server.paths) == asked
        np.testing.assert_array_equal(read(found[1])[0], rasterio.open(rasterio.MemoryFile(data)).read())
        assert [str(one) for one in raster_files(Address(f"{kind}://imagery"))] == [f"{kind}://imagery/q.tif"]
        with pytest.raises(MissingInputError, match=r"imagery/n/: no \.tif file among 0 names"):
            raster_files(Address(f"{kind}://imagery/n/"))


def test_masks_of_an_address_are_those_of_the_file(scene, data, tmp_path):
    import geopandas as gpd
    from shapely.geometry import box

    from mask.mask import mask_frames
    from roofkit.cli import Run
    from roofkit.paths import project_paths
    from roofkit.settings import MaskArgs, Settings

    roofs = gpd.GeoDataFrame(geometry=[box(735010, 2959900, 735090, 2959960)], crs="EPSG:32644")
    roofs.to_file(tmp_path / "roofs.gpkg")
    settings = Settings()
    run = Run(settings, project_paths(settings, tmp_path), tmp_path / "settings.json", False, 1, True)
    with web_server({"/a%20b+%C3%A9.tif": data}) as server:
        for where in (scene, Address(f"{server.url}/a%20b+%C3%A9.tif")):
            mask_frames(where, tmp_path / "roofs.gpkg", tmp_path / f"out{where == scene}", settings=MaskArgs(), run=run)
    assert contents(tmp_path / "outFalse") == contents(tmp_path / "outTrue")
    assert len(contents(tmp_path / "outTrue")) == 1


@pytest.mark.parametrize("block_size", [pytest.param(None, marks=pytest.mark.slow), 256])
def test_maps_of_an_address_are_those_of_the_file(block_size, fake_model, scene, data, tmp_path, capsys):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"predict_args": {"block_size": block_size, "runtime": "keras"}}))
    options = ["--settings", str(settings), "--quiet", "--workers", "1"]
    os.utime(scene, (1445412480, 1445412480))
    headers = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    with web_server({"/a%20b+%C3%A9.tif": data}, headers=headers) as server:
        for name, where in (("file", str(scene)), ("net", f"{server.url}/a%20b+%C3%A9.tif")):
            line = [fake_model, where, str(tmp_path / name), "--vectors", str(tmp_path / name / "roofs.geojson")]
            assert predict([*line, *options, *[ALLOW] * (name == "net")]) == 0
    found, expected = (
        {str(p.relative_to(tmp_path / name)): p.read_bytes() for p in (tmp_path / name).rglob("[!.]*") if p.is_file()}
        for name in ("net", "file")
    )
    assert found == expected
    assert len(expected) == (4 if block_size is None else 12)


def test_the_mask_and_the_table_of_an_address(scene, data, tmp_path):
    assert flatten([str(scene), str(tmp_path / "file.csv"), "--quiet"]) == 0
    with web_server({"/a%20b+%C3%A9.tif": data}) as server:
        address = f"{server.url}/a%20b+%C3%A9.tif"
        assert flatten([address, str(tmp_path / "net.csv"), "--quiet", ALLOW]) == 0
        pixels, valid = read(Address(address))
    assert (tmp_path / "net.csv").read_bytes() == (tmp_path / "file.csv").read_bytes()
    expected, expected_valid = read(scene)
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(valid, expected_valid)
    assert not valid.all()


def test_a_variable_in_an_address(data, monkeypatch, capsys):
    monkeypatch.setenv("MAP_KEY", "very/secret")
    with web_server(routes={"/x.tif": lambda handler: handler.send_part(data)}) as server:
        address = Address(f"{server.url}/x.tif?key=${{MAP_KEY}}")
        assert "secret" not in repr(address)
        read(address)
        assert server.paths[0].endswith("?key=very/secret")
        with pytest.raises(SettingsError, match=r"x.tif: \$\{NO_KEY\}; expected a variable"):
            read(Address(f"{server.url}/x.tif?key=${{NO_KEY}}"))


# 3. Versions


def test_a_digest_changes_when_the_file_does(data):
    with web_server({"/x.tif": data}) as server:
        address = Address(f"{server.url}/x.tif")
        first, again = raster_digest(address), raster_digest(address)
        server.version = 2
        assert first == again != raster_digest(address)


def test_a_file_that_changes_between_two_openings_is_an_error(data, capsys):
    with web_server({"/x.tif": data}) as server:
        (pinned,) = raster_files(Address(f"{server.url}/x.tif"))
        read(pinned)
        server.version = 2
        roofkit.remote.CACHE._blocks.clear()
        with pytest.raises(BadInputError, match=r"x.tif: it changed while it was read; expected one file"):
            read(pinned)


@pytest.mark.parametrize("kind", ["https", "s3", "gs"])
def test_a_file_that_changes_while_it_is_cut_is_an_error(kind, data, s3, gs, tmp_path, capsys):
    servers = {"https": lambda: web_server({"/x.tif": data}), "s3": lambda: s3({"x.tif": data})}
    with servers.get(kind, lambda: gs({"x.tif": data}))() as server:
        serve = server.fault

        def changed():
            server.version = 1 + (len(server.paths) > 3)
            return serve()

        server.fault = changed
        address = f"{server.url}/x.tif" if kind == "https" else f"{kind}://imagery/x.tif"
        assert chip([address, str(tmp_path / "out"), "--size", "300", "--quiet", "--workers", "1", ALLOW]) == 1
    assert "x.tif: it changed while it was read" in error_of(capsys)
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("headers", "is_known"),
    [
        ({"ETag": ""}, False),
        ({"ETag": 'W/"1"'}, False),
        ({"ETag": 'W/"1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, True),
        ({"ETag": "", "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, True),
    ],
)
def test_a_server_must_say_which_version_it_gives(headers, is_known, data):
    with web_server({"/x.tif": data}, headers=headers) as server:
        address = Address(f"{server.url}/x.tif")
        if is_known:
            (pinned,) = raster_files(address)
            assert pinned.version == "Wed, 21 Oct 2015 07:28:00 GMT"
            assert pinned.modified == 1445412480
        else:
            for work in (raster_files, read, raster_digest):
                with pytest.raises(BadInputError, match="neither a strong ETag nor Last-Modified"):
                    work(address)


# 4. What goes wrong


@pytest.mark.parametrize("code", [401, 403, 404])
def test_refusals_are_one_line_without_secrets(code, tmp_path, capsys):
    with web_server(faults=[code] * 9) as server:
        address = f"http://user:passw0rd@{server.url.removeprefix('http://')}/x.tif?sig=hush-hush#frag"
        assert chip([address, str(tmp_path / "out"), "--quiet", ALLOW]) == 1
        assert len(server.paths) == 1
    line = error_of(capsys)
    assert line.startswith(f"{server.url}/x.tif: {code} ")
    assert not [word for word in ("passw0rd", "user", "hush", "frag", "sig=") if word in line]
    assert not (tmp_path / "out").exists()


def test_a_server_that_stays_broken_is_named(data, tmp_path, capsys):
    with web_server({"/x.tif": data}, faults=[None, None, *[503] * 99]) as server:
        assert chip([f"{server.url}/x.tif", str(tmp_path / "out"), "--quiet", "--workers", "1", ALLOW]) == 1
    assert error_of(capsys).startswith(f"{server.url}/x.tif: 503 Service Unavailable after 6 tries")
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize("after", range(4))
def test_no_pixel_is_valid_because_a_mask_was_not_reached(after, data):
    """The mask's directory is at the end: whatever fails, pixels come with their validity or not at all."""
    given = []
    with web_server({"/x.tif": data}) as server:
        (pinned,) = raster_files(Address(f"{server.url}/x.tif"))
        server.faults = [*[None] * after, *[403] * 99]
        with pytest.raises(WebError, match="403"):
            read(pinned, given)
        assert given == []


def test_redirects_into_private_networks_are_refused(data):
    with web_server({"/x.tif": data}) as other, web_server(faults=[f"{other.url}/x.tif"]) as server:
        with pytest.raises(WebError, match="a redirect to a private network"):
            read(Address(f"{server.url}/x.tif"))
        assert other.paths == []


@pytest.mark.parametrize("body", [
    b"<VRTDataset rasterXSize='1' rasterYSize='1'><VRTRasterBand dataType='Byte' band='1'><SimpleSource>"
    b"<SourceFilename>/etc/passwd</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>",
    b"<GDAL_WMS></GDAL_WMS>", b"\x89PNG\r\n\x1a\n", b"x",
])  # fmt: skip
def test_only_geotiffs_are_opened(body):
    with web_server({"/x.tif": body}) as server:
        with pytest.raises(BadInputError, match=r"/x.tif: not readable as GTiff"):
            read(Address(f"{server.url}/x.tif"))
        assert set(server.paths) == {"/x.tif"}


def test_no_file_beside_it_is_asked_for(data):
    with web_server({"/x.tif": data, "/x.tif.aux.xml": b"<PAMDataset/>", "/x.tfw": b"1"}) as server:
        read(Address(f"{server.url}/x.tif"))
        assert set(server.paths) == {"/x.tif"}


def test_a_server_without_ranges_gives_small_files_only(data, monkeypatch):
    with web_server({"/x.tif": data}, ranges=False) as server:
        read(Address(f"{server.url}/x.tif"))
        monkeypatch.setattr(roofkit.remote, "ANSWER", len(data) - 1)
        monkeypatch.setattr(roofkit.workers, "_made", {})
        with pytest.raises(WebError, match="an answer without end"):
            read(Address(f"{server.url}/x.tif"))


def test_blocks_in_memory_are_bounded_and_shared(data, monkeypatch):
    monkeypatch.setattr(roofkit.remote, "CACHE", BlockCache(2))
    with web_server({"/x.tif": data}) as server:
        (pinned,) = raster_files(Address(f"{server.url}/x.tif"))
        with open_raster(pinned):
            assert len(server.paths) == 2  # its head, which is kept, and its end
        read(pinned)
        assert len(roofkit.remote.CACHE._blocks) == 2


# 5. Buckets


def test_s3_without_credentials_asks_without(data, s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    with s3({"x.tif": data}, private=False) as server:
        read(raster_files(Address("s3://imagery/"))[0])
        assert "Signature" not in "".join(server.paths)


def test_s3_in_another_region(data, s3):
    with s3({"x.tif": data}, region="eu-west-3") as server:
        read(Address("s3://imagery/x.tif"))
        assert [("eu-west-3" in path) for path in server.paths][:3] == [False, True, True]


def test_s3_signs_anew_after_some_time(data, s3, monkeypatch):
    with s3({"x.tif": data}) as server:
        for seconds in (0, 1, 700):
            monkeypatch.setattr(roofkit.remote.time, "time", lambda seconds=seconds: 1_800_000_000 + seconds)
            roofkit.remote.CACHE._blocks.clear()
            read(Address("s3://imagery/x.tif"))
        assert 1 <= len(set(server.paths)) <= 2


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://imagery/y.tif", "s3://imagery/y.tif: 404 Not Found (The specified key does not exist.)"),
        ("s3://other/x.tif", "s3://other/x.tif: 404 Not Found (The specified bucket does not exist)"),
        ("s3://other/", "s3://other/: 404 Not Found (The specified bucket does not exist)"),
        ("s3://no bucket/x.tif", "s3://no bucket/x.tif: not usable (Parameter validation failed: Invalid bucket name"),
    ],
)
def test_s3_says_what_is_wrong(address, words, data, s3):
    with s3({"x.tif": data}), pytest.raises(RoofError) as caught:
        [read(one) for one in raster_files(Address(address))]
    assert str(caught.value).startswith(words)


def test_s3_never_shows_keys(data, s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    with s3({"x.tif": data}) as server, pytest.raises(WebError) as caught:
        read(Address("s3://imagery/x.tif"))
    assert str(caught.value).startswith("s3://imagery/x.tif: 403 Forbidden (Access Denied)")
    assert not [
        word for word in (KEY_ID, "another-secret", TOKEN, "Signature", server.url) if word in str(caught.value)
    ]


def test_s3_with_settings_that_do_not_fit(data, s3, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with s3({"x.tif": data}), pytest.raises(WebError, match=r"s3://imagery/x.tif: not usable \(.*nobody"):
        read(Address("s3://imagery/x.tif"))


def test_s3_without_botocore(monkeypatch):
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(MissingInputError, match=r"botocore is not installed; .* -m pip install botocore"):
        read(Address("s3://imagery/x.tif"))


@pytest.mark.parametrize("body", [b"{}", b"[]", b"no json", b'{"items": [{"name": "a.tif"}]}', b'{"items": 3}'])
def test_a_list_of_googles_that_is_none(body, gs):
    with gs() as server:
        server.RequestHandlerClass = type("Odd", (GoogleHandler,), {"serve": lambda self: self.answer(200, body)})
        with pytest.raises((BadInputError, MissingInputError), match=r"no listing|no \.tif file among 0 names"):
            raster_files(Address("gs://imagery/"))


def test_google_says_what_is_wrong(data, gs):
    with gs({"x.tif": data}), pytest.raises(WebError, match=r"^gs://imagery/y.tif: 404 Not Found \(Not Found here\)"):
        read(Address("gs://imagery/y.tif"))


class Credentials:
    """What google.auth finds: a token for every refresh."""

    def __init__(self, problem=None):
        self.valid, self.token, self.problem, self.refreshed = False, None, problem, 0

    def refresh(self, request):
        if self.problem:
            raise self.problem
        self.valid, self.token, self.refreshed = True, TOKEN, self.refreshed + 1


@pytest.fixture
def google_store(monkeypatch):
    """Makes a server in Google's place, which knows these credentials."""
    import google.auth

    def make(files, credentials, **options):
        monkeypatch.setattr(google.auth, "default", lambda scopes: (credentials, "project"))
        made = bucket_server(GoogleHandler, files, **options)
        server = made.__enter__()
        monkeypatch.setattr(roofkit.remote, "GOOGLE", server.url)
        stack.append(made)
        return server

    stack = []
    yield make
    for made in stack:
        made.__exit__(None, None, None)


def test_google_is_asked_with_a_token(data, google_store):
    credentials = Credentials()
    google_store({"x.tif": data}, credentials)
    read(raster_files(Address("gs://imagery/"))[0])
    assert credentials.refreshed == 1


def test_google_refuses_a_token(data, google_store):
    credentials = Credentials()
    google_store({"x.tif": data}, credentials, faults=[403])
    with pytest.raises(WebError, match=r"^gs://imagery/x\.tif: 403 Forbidden") as caught:
        read(Address("gs://imagery/x.tif"))
    assert TOKEN not in str(caught.value)


def test_google_without_credentials(data, google_store, monkeypatch):
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError, RefreshError

    google_store({"x.tif": data}, Credentials(RefreshError("no such account")))
    with pytest.raises(WebError, match=r"x.tif: credentials cannot be used \(RefreshError: no such account\)"):
        read(Address("gs://imagery/x.tif"))
    monkeypatch.setattr(roofkit.workers, "_made", {})

    def none(scopes):
        raise DefaultCredentialsError("none")

    monkeypatch.setattr(google.auth, "default", none)
    with pytest.raises(WebError, match=r"401 Unauthorized \(Anonymous caller\)"):
        read(Address("gs://imagery/x.tif"))
    monkeypatch.setattr(roofkit.workers, "_made", {})
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "nowhere.json")
    with pytest.raises(WebError, match="credentials cannot be used"):
        read(Address("gs://imagery/x.tif"))
