"""The door for rasters: nothing outside of a raster is read, nothing huge is decoded, a sidecar cannot overrule."""

import struct

import numpy as np
import pytest
import rasterio
from attacks import GRID, SECRET_PIXEL, write_tiff

from roofkit import raster
from roofkit.errors import BadInputError
from roofkit.heeded import heed
from roofkit.mask_checks import mask_facts
from roofkit.raster import gdal_env, open_raster, read_pixels
from roofkit.tiff import check_tiff

OWN = np.arange(64 * 64, dtype=np.uint8).reshape(1, 64, 64) % 100 + 1
NOWHERE = {"crs": None, "transform": None}


def vrt(path):
    return (
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{path}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


def auxiliary(inner="", srs="EPSG:4326"):
    return f"<PAMDataset><SRS>{srs}</SRS><GeoTransform>5,1,0,5,0,-1</GeoTransform>{inner}</PAMDataset>"


def overviews(path):
    return f'<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{path}</MDI></Metadata>'


def bomb(path, side, block, dtype):
    """A file of a few bytes that says that it is large: no block of it is written."""
    options = dict(
        bigtiff="yes", tiled=True, blockxsize=block, blockysize=block, sparse_ok=True, crs="EPSG:32644", transform=GRID
    )
    with gdal_env(), rasterio.open(path, "w", driver="GTiff", count=1, height=side, width=side, dtype=dtype, **options):
        pass
    return path


def mask_bomb(path):
    """A small raster whose mask is in one block of 65,536 x 65,536."""
    with gdal_env():
        options = dict(tiled=True, blockxsize=64, blockysize=64, crs="EPSG:32644", transform=GRID)
        with rasterio.open(path, "w", driver="GTiff", count=1, height=64, width=64, dtype="uint8", **options) as dst:
            dst.write(OWN)
            dst.write_mask(np.ones((64, 64), bool))
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (second,) = struct.unpack_from("<I", data, first + 2 + 12 * struct.unpack_from("<H", data, first)[0])
    for entry in range(second + 2, second + 2 + 12 * struct.unpack_from("<H", data, second)[0], 12):
        if struct.unpack_from("<H", data, entry)[0] in (322, 323):
            struct.pack_into("<HII", data, entry + 2, 4, 1, 65536)
    path.write_bytes(data)
    return path


def refused_ones(folder, secrets, listener):
    """Files to be refused, with words of the line that says so."""
    plain = {name: folder / f"{name}.tif" for name in ("a", "b", "c", "d", "e", "f")}
    for path in plain.values():
        write_tiff(path, OWN, **NOWHERE)
    texts = {
        "vrt.tif": (vrt(secrets.raster), "not readable as GTiff"),
        "vrt.png": (vrt(secrets.raster), "cut short"),
        "remote.tif": (vrt(f"/vsicurl/{listener}/x.tif"), "not readable as GTiff"),
        "service.tif": (
            f'<GDAL_WMS><Service name="TMS"><ServerUrl>{listener}</ServerUrl></Service></GDAL_WMS>',
            "GTiff",
        ),
        "list.vrt": (vrt(secrets.raster), "a .vrt file"),
    }
    beside = {
        "a.tif.msk": (vrt(secrets.raster), "a.tif.msk: not readable as GTiff"),
        "b.tif.aux.xml": ('<!DOCTYPE a [<!ENTITY b "c">]>' + auxiliary(), "a document type"),
        "c.tif.aux.xml": (auxiliary(srs=f'PROJCS["x",EXTENSION["PROJ4","+nadgrids={secrets.text}"]]'), "names files"),
        "d.tfw": (f"1 0 0 {secrets.text}", "no world file"),
    }
    for name, (text, _) in (texts | beside).items():
        (folder / name).write_text(text)
    (folder / "e.tfw").symlink_to(secrets.text)
    write_tiff(folder / "f.tif.msk", np.full((1, 640, 640), 255, np.uint8))
    names_another = write_tiff(folder / "inner.tif", OWN)
    with rasterio.open(names_another, "r+") as dst:
        dst.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(secrets.raster))
    return [
        *((folder / name, words) for name, (_, words) in texts.items()),
        *((plain[name[0]], words) for name, (_, words) in beside.items()),
        (plain["e"], "leads elsewhere"),
        (plain["f"], "f.tif.msk: 640 x 640"),
        (names_another, "names another file"),
        (bomb(folder / "block.tif", 16384, 16384, "float32"), "blocks of 1,024 MiB"),
        (bomb(folder / "size.tif", 1_200_000, 16384, "uint8"), "1,200,000 x 1,200,000 pixels"),
        (mask_bomb(folder / "masked.tif"), "blocks of 4,096 MiB"),
        (f"/vsicurl/{listener}/x.tif", "no such file"),
        (f"{listener}/x.tif", "--allow-addresses"),
    ]


def test_hostile_rasters_are_refused(tmp_path, secrets, listener, run_cases):
    cases = refused_ones(tmp_path, secrets, listener)
    assert len(cases) >= 12
    ended = run_cases([("chip", [path, tmp_path / "out", "--size", 64]) for path, _ in cases])
    for (_, words), how in zip(cases, ended):
        how.check_refused(words)
    assert not list((tmp_path / "out").glob("**/*.tif"))


def test_what_lies_beside_cannot_overrule(tmp_path, secrets, listener, run_cases):
    """CRS, place, nodata and mask of its own stay, whatever files beside it say."""
    own = write_tiff(tmp_path / "own.tif", OWN, nodata=255)
    band = "<PAMRasterBand band='1'><NoDataValue>7</NoDataValue></PAMRasterBand>"
    (tmp_path / "own.tif.aux.xml").write_text(auxiliary(band + overviews(secrets.raster)))
    (tmp_path / "own.tif.ovr").write_text(vrt(f"/vsicurl/{listener}/x.tif"))
    (tmp_path / "own.tif.msk").write_text(vrt(secrets.raster))
    (tmp_path / "own.tfw").write_text("9 0 0 -9 9 9")
    (ended,) = run_cases([("chip", [own, tmp_path / "out", "--size", 64])])
    assert ended.rc == 0, ended
    with rasterio.open(next((tmp_path / "out").glob("*.tif"))) as chip:
        assert (chip.crs, chip.transform, chip.nodata) == ("EPSG:32644", GRID, 255)
        np.testing.assert_array_equal(chip.read(), OWN)


@pytest.mark.parametrize("driver", ["GTiff", "PNG"])
def test_what_lies_beside_says_what_is_lacking(tmp_path, secrets, driver):
    path = write_tiff(tmp_path / "bare.tif", OWN, **NOWHERE)
    if driver == "PNG":
        path = tmp_path / "bare.png"
        with gdal_env(), rasterio.open(path, "w", driver="PNG", width=64, height=64, count=1, dtype="uint8") as dst:
            dst.write(OWN)
    band = "<PAMRasterBand band='1'><NoDataValue>7</NoDataValue></PAMRasterBand>"
    path.with_name(f"{path.name}.aux.xml").write_text(auxiliary(band + overviews(secrets.raster)))
    with open_raster(path) as src:
        pixels, valid = read_pixels(src)
        assert (src.crs, src.transform.c, src.nodata) == ("EPSG:4326", 5, 7)
        assert src.read(out_shape=(1, 8, 8)).max() < SECRET_PIXEL
        np.testing.assert_array_equal(valid, pixels[0] != 7)
    heed(False)
    try:
        with open_raster(path) as src:
            assert (src.crs, src.transform.is_identity, src.nodata) == (None, True, None)
    finally:
        heed(True)


def test_a_world_file_is_about_the_middle_of_the_first_pixel(tmp_path):
    path = write_tiff(tmp_path / "bare.tif", OWN, **NOWHERE)
    (tmp_path / "bare.TFW").write_text("2\n0\n0\n-2\n101\n199\n")
    with open_raster(path) as src:
        assert src.transform.almost_equals(rasterio.Affine(2, 0, 100, 0, -2, 200))


def test_a_mask_beside_counts_where_there_is_no_other(tmp_path):
    path = write_tiff(tmp_path / "bare.tif", OWN)
    write_tiff(tmp_path / "bare.tif.msk", np.where(OWN > 50, 255, 0).astype(np.uint8), **NOWHERE)
    with gdal_env(), rasterio.open(tmp_path / "bare.tif.msk", "r+", driver="GTiff") as dst:
        dst.update_tags(INTERNAL_MASK_FLAGS_1=2)  # as GDAL writes it
    with open_raster(path) as src:
        np.testing.assert_array_equal(read_pixels(src)[1], OWN[0] > 50)
        assert src.crs == "EPSG:32644"


def test_the_doctor_opens_masks_through_the_door(tmp_path, secrets):
    (tmp_path / "mask.tif").write_text(vrt(secrets.raster))
    with pytest.raises(BadInputError, match="not readable as GTiff"):
        mask_facts(tmp_path / "mask.tif")


def test_memory_is_planned_before_pixels_are_read(tmp_path, monkeypatch):
    path = bomb(tmp_path / "large.tif", 20_000, 256, "uint8")
    monkeypatch.setattr(raster, "free_memory", lambda: 2**29)
    with open_raster(path) as src, pytest.raises(BadInputError, match="MiB of pixels to read at once"):
        read_pixels(src)


@pytest.mark.parametrize("cut", [3, 6, 9, 20])
def test_directories_cut_off(tmp_path, cut):
    data = mask_bomb(tmp_path / "m.tif").read_bytes()
    with pytest.raises(ValueError, match=r"cut off|no TIFF"):
        check_tiff(lambda start, count: data[:cut][start : start + count])


def test_directories_in_a_circle(tmp_path):
    data = bytearray(mask_bomb(tmp_path / "m.tif").read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    struct.pack_into("<I", data, first + 2 + 12 * struct.unpack_from("<H", data, first)[0], first)
    with pytest.raises(ValueError, match="without end"):
        check_tiff(lambda start, count: bytes(data[start : start + count]))
