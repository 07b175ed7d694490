"""What people do wrong, one row for each: every stage says it in one line, loses nothing and makes nothing.

A row: what is wrong, how the files are made, the command line, words of the message. The exit status is 1 unless it
says 2.
"""

import importlib
import json
import os
import pickle
import shlex
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from corpus import make_corpus
from imagery import TRANSFORM, UTM

ROOT = Path(__file__).resolve().parent.parent
SIDE = 32
HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>No such file.</body></html>"
ELSEWHERE = Affine(0.5, 0, 300000, 0, -0.5, 4000000)
HALF = Affine(0.5, 0, 735000.25, 0, -0.5, 2960000)


class Place:
    """A folder in which a case is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def bytes(self, name: str | bytes, content: bytes = b"") -> Path:
        path = self.folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def settings(self, content: object) -> None:
        self.bytes("settings.json", content if isinstance(content, bytes) else json.dumps(content).encode())

    def raster(self, name="scenes/a.tif", pixels=None, *, crs=UTM, transform=TRANSFORM, valid=None, **profile) -> Path:
        pixels = image() if pixels is None else pixels
        path = self.bytes(name)
        size = dict(count=len(pixels), height=pixels.shape[1], width=pixels.shape[2], dtype=pixels.dtype)
        profile = dict(photometric="minisblack", alpha="no") | size | profile
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            pytest.warns() if transform == Affine.identity() else rasterio.Env(),
            rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **profile) as dst,
        ):
            dst.write(pixels)
            if valid is not None:
                dst.write_mask(valid)
        return path

    def cut(self, name="scenes/a.tif", share=0.6) -> None:
        path = self.folder / os.fsdecode(name)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    def labels(self, name="labels.gpkg", shapes=None, *, crs=UTM, layer=None, mode="w", **columns) -> Path:
        shapes = squares(TRANSFORM) if shapes is None else shapes
        columns = columns or {"material": ["tin", "tile"][: len(shapes)]}
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        features = gpd.GeoDataFrame(
            {key: value[: len(shapes)] for key, value in columns.items()}, geometry=shapes, crs=crs
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file without CRS
            features.to_file(path, layer=layer, mode=mode, engine="pyogrio")
        return path

    def pairs(self, folder="", *, count=4, **changed) -> None:
        """Frames and masks of `frames` and `masks`, side by side, some with roofs."""
        for i in range(count):
            at = TRANSFORM @ Affine.translation(SIDE * i, 0)
            roof = np.zeros((1, SIDE, SIDE), "uint8")
            roof[:, 4:14, 6:20] = 255
            self.raster(f"{folder}frames/a_r0_c{SIDE * i}.tif", transform=at)
            self.raster(f"{folder}masks/a_r0_c{SIDE * i}.tif", roof, transform=at)

    def project(self) -> None:
        """Frames and masks of both sides in data."""
        for kind in ("train", "val"):
            self.pairs(f"data/{kind}_", count=2)

    def models(self) -> None:
        """A forest of three bands."""
        make_corpus("skops", self.folder / "models")


def image(bands=3, dtype="uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 120, (bands, SIDE, SIDE)).astype(dtype)


def squares(transform: Affine) -> list:
    return [shapely.box(*(transform @ (4 + 9 * i, 12)), *(transform @ (10 + 9 * i, 4))) for i in range(2)]


@dataclass(frozen=True)
class Bad:
    what: str
    make: Callable[[Place], object]
    line: str
    words: str
    status: int = 1
    permissions: bool = False
    """It is about permissions, which the superuser does not feel."""

    @property
    def id(self) -> str:
        return f"{self.line.split()[0]}: {self.what}"


def both(*makers: Callable[[Place], object]) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        for maker in makers:
            maker(place)

    return make


def nothing(place: Place) -> None:
    pass


def settings(content: object) -> Callable[[Place], object]:
    return both(lambda p: p.settings(content), scene)


def scene(place: Place) -> None:
    place.raster()


def scenes(**second: object) -> Callable[[Place], object]:
    """Two tiles beside each other, the second changed."""
    beside = dict(transform=TRANSFORM @ Affine.translation(SIDE, 0))
    return both(scene, lambda p: p.raster("scenes/b.tif", **(beside | second)))


def frames_and_labels(make: Callable[[Place], object]) -> Callable[[Place], object]:
    return both(scene, make)


def changed(name: str, **change: object) -> Callable[[Place], object]:
    """Pairs of frames and masks, one of which is another."""
    return both(Place.pairs, lambda p: p.raster(name, **change))


def at(column: int) -> Affine:
    return TRANSFORM @ Affine.translation(column, 0)


def mask_of(*values: int, bands=1, side=SIDE) -> np.ndarray:
    return np.resize(np.array(values, "uint8"), (bands, side, side))


def spoiled_model(suffix: str, content: bytes) -> Callable[[Place], object]:
    return both(scene, lambda p: p.bytes(f"model{suffix}", content))


def truncated_model(kind: str) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        scene(place)
        for path in make_corpus(kind, place.folder / "models"):
            place.cut(path.relative_to(place.folder), 0.7)

    return make


FLOATS = image(dtype="float32")
NAN = np.full_like(FLOATS, np.nan)
CHIP = "chip scenes out --size 16"
MASK = "mask scenes labels.gpkg out"
SPLIT = "split frames masks out"
FETCH = "download --source cog --address scenes/a.tif --bbox 83.36 26.73 83.37 26.75"

CASES = [
    # settings
    Bad("a comma too many", settings(b'{"chip_args": {"size": 16,}}'), CHIP, "settings.json|line 1, column|JSON"),
    Bad("a comment", settings(b'{\n// sizes\n"chip_args": {}}'), CHIP, "settings.json|line 2, column"),
    Bad("a key twice", settings(b'{"chip_args": {"size": 16, "size": 32}}'), CHIP, "settings.json|the key size|twice"),
    Bad("a text for a number", settings({"chip_args": {"size": "640"}}), CHIP, 'chip_args.size is "640"'),
    Bad(
        "a list for a word", settings({"extension_args": {"extension": ["tif"]}}), CHIP, "extension_args.extension is ["
    ),
    Bad("true for a number", settings({"chip_args": {"overlap": True}}), CHIP, "chip_args.overlap is true"),
    Bad("an unknown key", settings({"chip_args": {"sise": 16}}), CHIP, "'sise'|'size', the nearest"),
    Bad("an unknown block", settings({"chips_args": {}}), CHIP, "'chips_args'|'chip_args', the nearest"),
    Bad("NaN", settings(b'{"chip_args": {"min_valid": NaN}}'), CHIP, "chip_args.min_valid"),
    Bad("a number beyond all", settings(b'{"chip_args": {"min_valid": 1e999}}'), CHIP, "chip_args.min_valid"),
    Bad(
        "an integer of 5,000 digits", settings(b'{"chip_args": {"size": ' + b"9" * 5000 + b"}}"), CHIP, "settings.json"
    ),
    Bad("a list", settings([]), CHIP, "settings.json|a list|an object of blocks"),
    Bad("an empty settings file", settings(b""), CHIP, "settings.json|JSON"),
    Bad("UTF-16", settings('{"chip_args": {}}'.encode("utf-16")), CHIP, "settings.json|not text|UTF-8"),
    Bad("brackets 100,000 deep", settings(b"[" * 100_000), CHIP, "settings.json|too deep"),
    Bad("half a surrogate", settings(b'{"path_args": {"chips": "\\ud800"}}'), CHIP, "settings.json"),
    Bad("a name that leaves the data folder", settings({"path_args": {"chips": "../x"}}), CHIP, "path_args ../x|'..'"),
    Bad("a name elsewhere", settings({"path_args": {"scenes": "/etc"}}), CHIP, "path_args /etc|leaves that folder"),
    Bad("a null byte in a name", settings({"path_args": {"chips": "a\0b"}}), CHIP, "path_args"),
    Bad("no settings file", scene, f"{CHIP} --settings none.json", "none.json|no such file"),
    Bad("a folder as settings", scene, f"{CHIP} --settings scenes", "scenes|no such file"),
    Bad("bands that contradict the network", settings({"load_dataset_args": {"channels": 8}}), CHIP, "input_shape|8"),
    Bad("a threshold of 1.5", settings({"predict_args": {"threshold": 1.5}}), CHIP, "predict_args.threshold is 1.5"),
    # chip
    Bad("no scenes folder", nothing, CHIP, "scenes|no such file or folder|*.tif"),
    Bad("an empty folder", lambda p: (p.folder / "scenes").mkdir(), CHIP, "scenes|an empty folder"),
    Bad("pictures only", lambda p: p.bytes("scenes/a.png", b"x"), CHIP, "scenes|a.png|extension_args"),
    Bad("a truncated GeoTIFF", both(lambda p: p.raster(compress="deflate"), Place.cut), CHIP, "scenes/a.tif"),
    Bad("half a plain GeoTIFF", both(lambda p: p.raster(pixels=image(8)), Place.cut), CHIP, "scenes/a.tif"),
    Bad("an error page", lambda p: p.bytes("scenes/a.tif", HTML), CHIP, "scenes/a.tif|not readable as GTiff"),
    Bad("an empty file", lambda p: p.bytes("scenes/a.tif"), CHIP, "scenes/a.tif|0 bytes"),
    Bad("a header without more", lambda p: p.bytes("scenes/a.tif", b"II*\0\x08\0\0\0"), CHIP, "scenes/a.tif|GTiff"),
    Bad("a VRT called .tif", lambda p: p.bytes("scenes/a.tif", b'<VRTDataset rasterXSize="1">'), CHIP, "not readable"),
    Bad("a PNG called .tif", lambda p: p.bytes("scenes/a.tif", b"\x89PNG\r\n\x1a\n" + bytes(64)), CHIP, "not readable"),
    Bad(
        "a folder called .tif", lambda p: (p.folder / "scenes/a.tif").mkdir(parents=True), CHIP, "scenes/a.tif|a folder"
    ),
    Bad("a link to nowhere", lambda p: linked(p), CHIP, "scenes/a.tif|no such file"),
    Bad("int32", lambda p: p.raster(pixels=image(dtype="int32")), CHIP, "scenes/a.tif|int32|uint8, uint16"),
    Bad("float64", lambda p: p.raster(pixels=image(dtype="float64")), CHIP, "scenes/a.tif|float64|gdal_translate -ot"),
    Bad("complex numbers", lambda p: p.raster(pixels=image(dtype="complex64")), CHIP, "scenes/a.tif|complex64"),
    Bad(
        "4,097 bands",
        lambda p: p.raster(pixels=np.ones((4097, 1, 1), np.uint8)),
        CHIP,
        "scenes/a.tif|4,097 bands|gdal_translate -b",
    ),
    Bad("a huge block", lambda p: huge_block(p), CHIP, "scenes/a.tif|blocks of|MiB|TILED=YES"),
    Bad("size 0", scene, "chip scenes out --size 0", "--size|chip_args.size|greater than or equal to 1"),
    Bad("a size beyond all", scene, "chip scenes out --size 1000000000000", "chip_args.size|65536"),
    Bad(
        "padding outside float32",
        lambda p: p.raster(pixels=FLOATS),
        "chip scenes out --size 15 --pad 1e40",
        "chip_args.pad|1e+40|float32",
    ),
    Bad("a negative size", scene, "chip scenes out --size -5", "chip_args.size"),
    Bad("three sizes", scene, "chip scenes out --size 5 5 5", "chip_args.size"),
    Bad("a size that is no number", scene, "chip scenes out --size big", "--size|big", 2),
    Bad("an overlap as large as the chip", scene, "chip scenes out --size 16 --overlap 16", "chip_args.overlap is 16"),
    Bad("a negative overlap", scene, "chip scenes out --size 16 --overlap -1", "chip_args.overlap is -1"),
    Bad("padding outside the dtype", scene, f"{CHIP} --pad 300", "chip_args.pad|300|uint8"),
    Bad("padding by nodata, of which there is none", scene, f"{CHIP} --pad nodata", "chip_args.pad|scenes/a.tif"),
    Bad("a share above 1", scene, f"{CHIP} --min-valid 2", "chip_args.min_valid is 2"),
    Bad("a share that is no number", scene, f"{CHIP} --min-valid nan", "chip_args.min_valid"),
    Bad(
        "nothing but nodata",
        lambda p: p.raster(nodata=7, pixels=mask_of(7, bands=3)),
        f"{CHIP} --min-valid 0.1",
        "scenes|0.1",
    ),
    Bad("one name, two suffixes", both(scene, lambda p: p.raster("scenes/a.tiff")), CHIP, "the same name as|Rename"),
    Bad("a file where the folder should be", both(scene, lambda p: p.bytes("out")), CHIP, "out|a folder to write to"),
    Bad(
        "a file above the folder",
        both(scene, lambda p: p.bytes("o", b"1")),
        "chip scenes o/ut",
        "o|Not a directory|a folder",
    ),
    Bad("DST is SRC", scene, "chip scenes scenes --size 16", "scenes|its own|another folder"),
    Bad("DST is SRC, by another name", scene, "chip scenes ./scenes/../scenes --size 16", "another folder"),
    Bad(
        "somebody's file in the way",
        both(scene, lambda p: p.bytes("out/a_r0_c0.tif", b"mine")),
        CHIP,
        "out/a_r0_c0.tif|did not write",
    ),
    Bad("a name too long", scene, f"chip scenes {'n' * 300} --size 16", "File name too long"),
    Bad(
        "a broken file with blanks, quotes and a line break",
        lambda p: p.bytes("scenes/a 'b'\n\"c\".tif", HTML),
        CHIP,
        "a 'b' \"c\".tif",
    ),
    Bad(
        "a broken file whose name is no UTF-8",
        lambda p: p.bytes(b"scenes/d\xe9j\xe0.tif", HTML),
        CHIP,
        "scenes/d|a name that is no UTF-8|Rename",
    ),
    Bad("an address", nothing, "chip https://example.org/a.tif out", "--allow-addresses"),
    Bad("no workers", scene, f"{CHIP} --workers 0", "--workers|1 or more", 2),
    Bad("a scheduler that is none", scene, f"{CHIP} --scheduler nonsense", "nonsense|tcp://10.0.0.5:8786", 2),
    Bad(
        "a file that may not be read",
        lambda p: p.raster().chmod(0),
        CHIP,
        "scenes/a.tif",
        permissions=True,
    ),
    Bad(
        "a folder that may not be written to",
        both(scene, lambda p: (p.folder / "out").mkdir(mode=0o555)),
        CHIP,
        "out|Permission denied|a folder to write to",
        permissions=True,
    ),
    # mosaic
    Bad("mixed dtypes", scenes(pixels=image(dtype="uint16")), "mosaic scenes m.tif", "scenes/b.tif|uint16|uint8, as"),
    Bad("mixed band counts", scenes(pixels=image(4)), "mosaic scenes m.tif", "scenes/b.tif|4 bands|3 bands, as"),
    Bad("mixed CRS", scenes(crs="EPSG:32645"), "mosaic scenes m.tif", "scenes/b.tif|EPSG:32645|EPSG:32644"),
    Bad("mixed nodata", scenes(nodata=0), "mosaic scenes m.tif", "scenes/b.tif|nodata 0.0|nodata None"),
    Bad("half a pixel off", scenes(transform=HALF), "mosaic scenes m.tif", "0.5 of a pixel|gdalwarp"),
    Bad(
        "mixed resolutions",
        scenes(transform=TRANSFORM @ Affine.scale(2)),
        "mosaic scenes m.tif",
        "scenes/b.tif|pixels of",
    ),
    Bad(
        "no georeferencing",
        scenes(crs=None, transform=Affine.identity()),
        "mosaic scenes m.tif",
        "b.tif|no georeferencing",
    ),
    Bad(
        "pixels without width",
        lambda p: p.raster(transform=Affine(0, 0, 5, 0, -1, 7)),
        "mosaic scenes m.tif",
        "scenes/a.tif|no georeferencing",
    ),
    Bad(
        "a tile on the other side of the Earth",
        scenes(transform=at(2**40)),
        "mosaic scenes m.tif",
        "scenes/|so far from the other tiles|1,099,511,627,808",
    ),
    Bad("DST without .tif", scene, "mosaic scenes m.png", "m.png|a .png file"),
    Bad("DST among its tiles", scene, "mosaic scenes scenes/m.tif", "scenes/m.tif|its own tiles"),
    Bad("a method unknown", scene, "mosaic scenes m.tif --method median", "--method|median", 2),
    Bad(
        "a folder where the mosaic should be", both(scene, lambda p: p.bytes("m.tif/x")), "mosaic scenes m.tif", "m.tif"
    ),
    Bad("one truncated tile", both(scenes(), lambda p: p.cut("scenes/b.tif")), "mosaic scenes m.tif", "scenes/b.tif"),
    # mask
    Bad("no labels", scene, MASK, "labels.gpkg|no such file or folder"),
    Bad(
        "labels without CRS", frames_and_labels(lambda p: p.labels(crs=None)), MASK, "labels.gpkg|no CRS|ogr2ogr -a_srs"
    ),
    Bad(
        "labels elsewhere",
        frames_and_labels(lambda p: p.labels(shapes=squares(ELSEWHERE))),
        MASK,
        "labels.gpkg|no roof lies on the imagery",
    ),
    Bad("labels in the wrong CRS", frames_and_labels(lambda p: p.labels(crs="EPSG:32633")), MASK, "labels.gpkg|32644"),
    Bad(
        "lines",
        frames_and_labels(lambda p: p.labels(shapes=[shapely.LineString([(0, 0), (9, 9)])])),
        MASK,
        "LineString",
    ),
    Bad("points", frames_and_labels(lambda p: p.labels(shapes=[shapely.Point(1, 2)])), MASK, "labels.gpkg|a Point"),
    Bad(
        "an empty layer",
        frames_and_labels(lambda p: p.labels(shapes=[], material=np.array([], object))),
        MASK,
        "no feature at all",
    ),
    Bad(
        "two layers",
        frames_and_labels(lambda p: [p.labels(layer=n, mode=m) for n, m in (("a", "w"), ("b", "a"))]),
        MASK,
        "2 layers|'a', 'b'|--layer",
    ),
    Bad("a layer unknown", frames_and_labels(Place.labels), f"{MASK} --layer huts", "no layer 'huts'|'labels'"),
    Bad("SQL without end", frames_and_labels(Place.labels), f'{MASK} --where "material = "', "mask_args.where|not SQL"),
    Bad(
        "SQL with a name unknown",
        frames_and_labels(Place.labels),
        f"{MASK} --where \"materiel = 'tin'\"",
        'no column "materiel"|"material"',
    ),
    Bad(
        "SQL for nothing",
        frames_and_labels(Place.labels),
        f"{MASK} --where \"material = 'gold'\"",
        "selects none of 2|tin (1)",
    ),
    Bad(
        "SQL for two statements",
        frames_and_labels(Place.labels),
        f'{MASK} --where "1; DROP TABLE labels"',
        "mask_args.where",
    ),
    Bad("an empty condition", frames_and_labels(Place.labels), f"{MASK} --where ''", "mask_args.where"),
    Bad(
        "everything ignored",
        frames_and_labels(Place.labels),
        f'{MASK} --ignore "1 = 1"',
        "mask_args.ignore|selects all 2",
    ),
    Bad(
        "a shapefile without .shx",
        frames_and_labels(lambda p: lost_part(p, ".shx")),
        "mask scenes l/roofs.shp out",
        "l/roofs.shp|shx",
    ),
    Bad(
        "a shapefile without .prj",
        frames_and_labels(lambda p: lost_part(p, ".prj")),
        "mask scenes l/roofs.shp out",
        "l/roofs.shp|no CRS|.prj",
    ),
    Bad(
        "a truncated shapefile",
        frames_and_labels(lambda p: cut_shapefile(p)),
        "mask scenes l/roofs.shp out",
        "l/roofs.shp|cut off",
    ),
    Bad(
        "a broken GeoJSON",
        frames_and_labels(lambda p: p.bytes("l.geojson", b'{"type": "FeatureCollection", "features": [')),
        "mask scenes l.geojson out",
        "l.geojson|not readable",
    ),
    Bad(
        "a name that is no UTF-8",
        frames_and_labels(lambda p: p.bytes(b"l/d\xe9.geojson", b"{}")),
        "mask scenes l out",
        "l/d|a name that is no UTF-8",
    ),
    Bad(
        "an error page as GeoJSON",
        frames_and_labels(lambda p: p.bytes("l.geojson", HTML)),
        "mask scenes l.geojson out",
        "l.geojson|begins with",
    ),
    Bad(
        "a text as GeoPackage",
        frames_and_labels(lambda p: p.bytes("labels.gpkg", b"roofs")),
        MASK,
        "labels.gpkg|begins with b'roofs'",
    ),
    Bad(
        "a truncated GeoPackage",
        frames_and_labels(both(Place.labels, lambda p: p.cut("labels.gpkg", 0.3))),
        MASK,
        "labels.gpkg",
    ),
    Bad(
        "a table",
        frames_and_labels(lambda p: p.bytes("l.csv", b"x,y\n1,2\n")),
        "mask scenes l.csv out",
        "l.csv|a .csv file|.gpkg",
    ),
    Bad(
        "a Parquet file without geometry",
        frames_and_labels(lambda p: plain_parquet(p)),
        "mask scenes l.parquet out",
        "l.parquet|GeoParquet",
    ),
    Bad("a folder without labels", scene, "mask scenes scenes out", "scenes|no roof polygons"),
    Bad("frames without CRS", both(lambda p: p.raster(crs=None), Place.labels), MASK, "scenes/a.tif|no CRS"),
    Bad(
        "masks into the frames",
        both(scene, Place.labels),
        "mask scenes labels.gpkg scenes --overwrite",
        "scenes|another folder",
    ),
    # split
    Bad(
        "frames without masks",
        both(Place.pairs, lambda p: (p.folder / "masks/a_r0_c32.tif").unlink()),
        SPLIT,
        "1 of 4 frames without mask|a_r0_c32.tif",
    ),
    Bad(
        "masks without frames",
        both(Place.pairs, lambda p: (p.folder / "frames/a_r0_c32.tif").unlink()),
        SPLIT,
        "1 of 4 masks without frame",
    ),
    Bad(
        "a mask of another size",
        changed("masks/a_r0_c0.tif", pixels=mask_of(0, 255, side=16)),
        SPLIT,
        "masks/a_r0_c0.tif|16 x 16|32 x 32",
    ),
    Bad(
        "a mask on another grid",
        changed("masks/a_r0_c0.tif", pixels=mask_of(0, 255), transform=HALF),
        SPLIT,
        "masks/a_r0_c0.tif|another grid",
    ),
    Bad(
        "a mask of other values",
        changed("masks/a_r0_c0.tif", pixels=mask_of(0, 7, 255)),
        SPLIT,
        "masks/a_r0_c0.tif|values 0, 7, 255",
    ),
    Bad(
        "a mask of three bands",
        changed("masks/a_r0_c0.tif", pixels=mask_of(0, 255, bands=3)),
        SPLIT,
        "masks/a_r0_c0.tif|3 bands",
    ),
    Bad("masks without a roof", lambda p: blank_pairs(p), SPLIT, "masks|no roof pixel in 4"),
    Bad("one chip", lambda p: p.pairs(count=1), SPLIT, "split_args.by|only 1 block"),
    Bad("a fraction of 0", Place.pairs, f"{SPLIT} --val-fraction 0", "split_args.val_fraction is 0"),
    Bad("a fraction of 1", Place.pairs, f"{SPLIT} --val-fraction 1", "split_args.val_fraction is 1"),
    Bad("a block of 0", Place.pairs, f"{SPLIT} --block-size 0", "split_args.block_size is 0"),
    Bad(
        "a stranger among the frames",
        both(Place.pairs, lambda p: p.bytes("out/train_frames/mine.tif", b"x")),
        f"{SPLIT} --by random",
        "out/train_frames/mine.tif|did not write",
    ),
    Bad(
        "into its own frames",
        both(lambda p: p.pairs("data/train_")),
        "split data/train_frames data/train_masks data --by random --overwrite",
        "train_frames|another folder",
    ),
    # flatten
    Bad("a table of unknown kind", scene, "flatten scenes pixels.xlsx", "pixels.xlsx|.csv"),
    Bad("no sample", scene, "flatten scenes p.csv --sample 0", "flatten_args.sample is 0"),
    Bad("nothing but NaN", lambda p: p.raster(pixels=NAN), "flatten scenes p.csv", "scenes|valid"),
    Bad("no CRS", lambda p: p.raster(crs=None), "flatten scenes p.csv", "scenes/a.tif|no CRS"),
    Bad(
        "a folder where the table should be", both(scene, lambda p: p.bytes("p.csv/x")), "flatten scenes p.csv", "p.csv"
    ),
    # summarize
    Bad("nothing but NaN", lambda p: p.raster(pixels=NAN), "summarize scenes out", "scenes|valid"),
    Bad("nothing but nodata", lambda p: p.raster(nodata=7, pixels=mask_of(7)), "summarize scenes out", "scenes|valid"),
    Bad("one bin", scene, "summarize scenes out --bins 1", "summarize_args.bins is 1"),
    Bad("frames of different bands", scenes(pixels=image(4)), "summarize scenes out", "scenes/b.tif|4 bands"),
    Bad("an empty table", lambda p: p.bytes("p.csv"), "summarize p.csv out", "p.csv"),
    Bad(
        "a table with other columns",
        lambda p: p.bytes("p.csv", b"lat,lon\n1,2\n"),
        "summarize p.csv out",
        "p.csv|latitude",
    ),
    Bad(
        "a table edited by hand",
        lambda p: p.bytes("p.csv", b"latitude,longitude,row,pixel,band,value\n1,2,0,0,1,many\n"),
        "summarize p.csv out",
        "p.csv",
    ),
    # forest and regression
    Bad("no frames", nothing, "forest", "train_frames|no such file or folder"),
    Bad("a model of another suffix", Place.project, "forest model.h5", "model.h5|.skops"),
    Bad(
        "a mask of other values",
        both(Place.project, lambda p: p.raster("data/val_masks/a_r0_c0.tif", mask_of(3, 5))),
        "forest",
        "a_r0_c0.tif|values 3, 5",
    ),
    Bad(
        "no roof to learn from",
        both(
            Place.project,
            lambda p: [p.raster(f"data/train_masks/a_r0_c{c}.tif", mask_of(0), transform=at(c)) for c in (0, SIDE)],
        ),
        "forest",
        "train_masks|roof",
    ),
    Bad(
        "roof only",
        both(
            Place.project,
            lambda p: [p.raster(f"data/train_masks/a_r0_c{c}.tif", mask_of(255), transform=at(c)) for c in (0, SIDE)],
        ),
        "regression",
        "train_masks|background",
    ),
    Bad(
        "other bands to validate",
        both(Place.project, lambda p: p.raster("data/val_frames/a_r0_c0.tif", image(4))),
        "regression",
        "val_frames/a_r0_c0.tif|4 bands",
    ),
    Bad(
        "no validation frames",
        both(Place.project, lambda p: [f.unlink() for f in (p.folder / "data/val_frames").iterdir()]),
        "regression",
        "val_frames|an empty folder",
    ),
    Bad(
        "a folder where the model should be",
        both(Place.project, lambda p: p.bytes("m.skops/x")),
        "forest m.skops",
        "m.skops",
    ),
    # train
    Bad("no frames", nothing, "train", "train_frames|no such file or folder"),
    Bad("a model of another suffix", Place.project, "train model.txt", "model.txt|.h5"),
    Bad(
        "other bands than settings say",
        both(
            Place.project,
            lambda p: p.settings(
                {"load_dataset_args": {"channels": 4, "target_size": 32}, "model_args": {"input_shape": [32, 32, 4]}}
            ),
        ),
        "train",
        "load_dataset_args.channels|4|3, as",
    ),
    Bad(
        "a mask of another size",
        both(Place.project, lambda p: p.raster("data/train_masks/a_r0_c0.tif", mask_of(0, 255, side=16))),
        "train",
        "train_masks/a_r0_c0.tif|16 x 16",
    ),
    Bad("no epochs", Place.project, "train --epochs 0", "--epochs|1 or more", 2),
    # predict
    Bad("no model", scene, "predict none.h5 scenes out", "none.h5|no such model"),
    Bad("a folder as model", scene, "predict scenes scenes out", "scenes|a folder"),
    Bad(
        "an error page as .h5", spoiled_model(".h5", HTML), "predict model.h5 scenes out", "model.h5|not a Keras model"
    ),
    Bad("an empty .h5", spoiled_model(".h5", b""), "predict model.h5 scenes out", "model.h5|0 bytes"),
    Bad("a truncated .h5", truncated_model("h5"), "predict models/other.h5 scenes out", "models/other.h5|not"),
    Bad(
        "a truncated .keras",
        truncated_model("keras"),
        "predict models/other.keras scenes out",
        "models/other.keras|not",
    ),
    Bad(
        "a truncated .skops",
        truncated_model("skops"),
        "predict models/forest.skops scenes out",
        "forest.skops|not a pixel classifier",
    ),
    Bad(
        "a pickle as .skops",
        spoiled_model(".skops", pickle.dumps({"a": 1})),
        "predict model.skops scenes out",
        "model.skops|not a pixel classifier",
    ),
    Bad("a model of unknown kind", spoiled_model(".pkl", b"x"), "predict model.pkl scenes out", "model.pkl|.h5"),
    Bad(
        "a model of other bands",
        both(Place.models, lambda p: p.raster(pixels=image(8))),
        "predict models/forest.skops scenes out",
        "scenes/a.tif|8 bands|3, as",
    ),
    Bad(
        "a threshold of 1.5",
        both(Place.models, scene),
        "predict models/forest.skops scenes out --threshold 1.5",
        "predict_args.threshold is 1.5",
    ),
    Bad(
        "a threshold of 0",
        both(Place.models, scene),
        "predict models/forest.skops scenes out --threshold 0",
        "predict_args.threshold is 0",
    ),
    Bad("a threshold that is no number", scene, "predict m.h5 scenes out --threshold half", "--threshold|half", 2),
    Bad(
        "an overlap of 1",
        both(Place.models, scene),
        "predict models/forest.skops scenes out --overlap 1",
        "predict_args.overlap is 1",
    ),
    Bad(
        "polygons of unknown kind",
        both(Place.models, scene),
        "predict models/forest.skops scenes out --vectors roofs.dxf",
        "roofs.dxf|.gpkg",
    ),
    Bad(
        "polygons of a scene without CRS",
        both(Place.models, lambda p: p.raster(crs=None)),
        "predict models/forest.skops scenes out --vectors r.gpkg",
        "scenes/a.tif|no CRS",
    ),
    Bad(
        "masks into the scenes",
        both(Place.models, scene),
        "predict models/forest.skops scenes scenes --overwrite",
        "scenes|another folder",
    ),
    Bad(
        "probabilities into the scenes",
        both(Place.models, scene),
        "predict models/forest.skops scenes out --probabilities scenes --overwrite",
        "scenes|another folder",
    ),
    Bad(
        "masks and probabilities in one folder",
        both(Place.models, scene),
        "predict models/forest.skops scenes out --probabilities out",
        "out|another folder",
    ),
    Bad("nothing to predict", Place.models, "predict models/forest.skops", "data|neither"),
    # evaluate
    Bad(
        "a prediction too many",
        both(Place.pairs, lambda p: (p.folder / "frames/a_r0_c32.tif").unlink()),
        "evaluate masks frames m.json",
        "without",
    ),
    Bad("no masks", Place.pairs, "evaluate masks none m.json", "none|no such file or folder"),
    Bad("pictures as predictions", Place.pairs, "evaluate frames masks m.json", "frames/a_r0_c0.tif|3 bands"),
    Bad(
        "predictions of other values",
        changed("frames/a_r0_c0.tif", pixels=mask_of(0, 128)),
        "evaluate frames masks m.json",
        "frames/a_r0_c0.tif|values 0, 128",
    ),
    Bad(
        "probabilities up to 255",
        Place.pairs,
        "evaluate masks masks m.json --probabilities masks",
        "0 to 255|probabilities",
    ),
    Bad("labels that are not there", Place.pairs, "evaluate masks masks m.json --labels l.gpkg", "l.gpkg|no such file"),
    Bad(
        "a folder where the scores should be",
        both(Place.pairs, lambda p: p.bytes("m.json/x")),
        "evaluate masks masks m.json",
        "m.json",
    ),
    # doctor
    Bad("nothing to look at", nothing, "doctor", "data|no imagery, frames or masks"),
    Bad("a model that is none", lambda p: p.bytes("m.h5", b"x"), "doctor m.h5", "data|no imagery, frames or masks"),
    Bad("a folder that is not there", nothing, "doctor none", "none"),
    Bad("a text", lambda p: p.bytes("m.txt", b"x"), "doctor m.txt", "m.txt"),
    # download
    Bad(
        "an area from east to west",
        scene,
        "download --source cog --address scenes/a.tif --bbox 84 26 83 27",
        "download_args.bbox|[84, 26, 83, 27]",
    ),
    Bad(
        "an area beyond the pole",
        scene,
        "download --source cog --address scenes/a.tif --bbox 83 26 84 96",
        "download_args.bbox",
    ),
    Bad(
        "an area that is no number",
        scene,
        "download --source cog --address scenes/a.tif --bbox nan 26 84 27",
        "download_args.bbox",
    ),
    Bad("three numbers", scene, "download --bbox 1 2 3", "--bbox|4 arguments", 2),
    Bad("an area twice", scene, f"{FETCH} --aoi a.gpkg", "bbox|aoi|both set"),
    Bad("no area file", scene, "download --source cog --address scenes/a.tif --aoi a.gpkg", "a.gpkg|no such file"),
    Bad(
        "an area of points",
        both(scene, lambda p: p.labels(shapes=[shapely.Point(1, 2)])),
        "download --source cog --address scenes/a.tif --aoi labels.gpkg",
        "labels.gpkg|a Point",
    ),
    Bad(
        "days in the wrong order",
        scene,
        f"{FETCH} --start 2024-05-01 --end 2024-01-01",
        "download_args.start is 2024-05-01",
    ),
    Bad("a day that there is not", scene, f"{FETCH} --start 2024-02-31", "download_args.start"),
    Bad("a day as people write it", scene, f"{FETCH} --start 1/2/24", "download_args.start|YYYY-MM-DD"),
    Bad("no such raster", nothing, FETCH, "scenes/a.tif|no such file"),
    Bad("an error page as raster", lambda p: p.bytes("scenes/a.tif", HTML), FETCH, "scenes/a.tif"),
    Bad("a raster without CRS", lambda p: p.raster(crs=None), FETCH, "scenes/a.tif|CRS"),
    Bad("a raster elsewhere", lambda p: p.raster(transform=ELSEWHERE), FETCH, "scenes/a.tif|area"),
    Bad("a source unknown", nothing, "download --source bing", "download_args.source|bing"),
    Bad("a CRS unknown", scene, f"{FETCH} --crs EPSG:1", "download_args.crs|EPSG:1"),
    Bad("a pixel without size", scene, f"{FETCH} --scale 0", "download_args.scale is 0"),
    Bad("a zoom of 99", scene, "download --source xyz --zoom 99", "download_args.zoom is 99"),
    Bad(
        "a template without places",
        nothing,
        "download --source xyz --address https://example.org/tiles --bbox 83.36 26.73 83.37 26.75",
        "{z}",
    ),
    Bad("no address", nothing, "download --source cog --bbox 83.36 26.73 83.37 26.75", "download_args.address"),
    Bad("labels that are not there", scene, f"{FETCH} --labels file --labels-file l.gpkg", "l.gpkg"),
    Bad(
        "a folder that is no SpaceNet",
        lambda p: p.bytes("sn/x.txt", b"x"),
        "download --source spacenet --address sn",
        "download_args.collection|AOI_2_Vegas",
    ),
    # run/local.py
    Bad("from the end to the start", nothing, "run --from train --until chip", "--from train|--until chip"),
    Bad("a stage unknown", nothing, "run --from trian", "--from|trian", 2),
    Bad(
        "a first stage that fails",
        lambda p: p.bytes("data/scenes/a.tif", HTML),
        "run --chip --quiet",
        "scenes/a.tif|not readable",
    ),
]


def linked(place: Place) -> None:
    (place.folder / "scenes").mkdir()
    (place.folder / "scenes/a.tif").symlink_to("nowhere.tif")


def huge_block(place: Place) -> None:
    path = place.bytes("scenes/a.tif")
    profile = dict(count=1, height=64, width=64, dtype="uint8", sparse_ok=True, compress="deflate", tiled=True)
    profile |= dict(blockxsize=2**15, blockysize=2**14)
    with rasterio.open(path, "w", driver="GTiff", crs=UTM, transform=TRANSFORM, **profile):
        pass
    assert path.stat().st_size < 10_000


def lost_part(place: Place, suffix: str) -> None:
    place.labels("l/roofs.shp")
    (place.folder / "l" / f"roofs{suffix}").unlink()


def cut_shapefile(place: Place) -> None:
    place.labels("l/roofs.shp")
    place.cut("l/roofs.shp")


def plain_parquet(place: Place) -> None:
    import pandas as pd

    pd.DataFrame({"a": [1]}).to_parquet(place.folder / "l.parquet")


def blank_pairs(place: Place) -> None:
    place.pairs()
    for i in range(4):
        place.raster(f"masks/a_r0_c{SIDE * i}.tif", mask_of(0), transform=at(SIDE * i))


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but ledgers, by name."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".ledger.jsonl"))
    return {str(path.relative_to(folder)): path.read_bytes() if os.access(path, os.R_OK) else b"" for path in found}


def command(case: Bad) -> tuple[str, list[str]]:
    """The stage, and the rest of the command line."""
    stage, *line = shlex.split(case.line)
    options = [] if "--settings" in line else ["--settings", "settings.json"]
    return stage, [*line, *options, "--data", "data", "--results", "results"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_bad_input(case, tmp_path, monkeypatch, capfd):
    if case.permissions and not os.geteuid():
        pytest.skip("as the superuser, who may do everything")
    place = Place(tmp_path)
    place.settings({})
    case.make(place)
    before = files(tmp_path)
    monkeypatch.chdir(tmp_path)
    stage, line = command(case)
    main = importlib.import_module("run.local" if stage == "run" else f"{stage}.{stage}").main
    try:
        status = main([*line, *([] if stage in ("run", "doctor") else ["--workers", "1"])])
    except SystemExit as stop:
        status = stop.code
    lines = capfd.readouterr().err.splitlines()
    check(case, status, lines)
    assert files(tmp_path) == before


def check(case: Bad, status: int, lines: list[str]) -> None:
    """The exit status and the words are those of the case."""
    line = lines[-1] if case.line.split()[0] != "run" or case.status == 2 or len(lines) == 1 else lines[-2]
    assert status == case.status, lines
    assert [word for word in case.words.split("|") if word not in line] == [], line
    if status == 2:
        return
    assert line.startswith("error: ")
    assert "; expected " in line
    assert line.endswith((".", "…")), line
    others = [other for other in lines if other != line and not other.startswith(("warning: ", "note: "))]
    assert others == ([f"{'chip'} failed: the run ends here."] if "failed: the run ends here." in lines[-1] else [])


def test_every_stage_is_among_them():
    stages = {path.parent.name for path in ROOT.glob("*/*.py") if path.stem == path.parent.name} | {"run"}
    counts = Counter(case.line.split()[0] for case in CASES)
    assert stages - {"report"} <= set(counts)
    assert min(counts.values()) >= 3
    assert len({case.id for case in CASES}) == len(CASES) >= 50
