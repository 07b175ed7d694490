"""Sound files of every kind that stages read, small and the same each time: what `mutate` damages."""

import io
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning

UTM = "EPSG:32644"
TRANSFORM = Affine(0.5, 0, 735000, 0, -0.5, 2960000)
SIDE = 48
FORMATS = {
    "tif": (".tif", ".png", ".jpg"),
    "vector": (".geojson", ".gpkg", ".shp", ".fgb", ".parquet"),
    "h5": (".h5",),
    "keras": (".keras",),
    "skops": (".skops",),
}


def make_corpus(kind: str, folder: Path) -> list[Path]:
    """Write the sound files of a kind; a shapefile brings its other parts along."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"tif": rasters, "vector": vectors, "h5": networks, "keras": networks, "skops": classifiers}
    makers[kind](folder)
    return sorted(path for path in folder.iterdir() if path.suffix in FORMATS[kind])


def image(bands: int, dtype: str, seed: int = 0) -> np.ndarray:
    """A picture (bands, rows, cols) with a bright square in it."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(20, 90, (bands, SIDE, SIDE + 8))
    pixels[:, 10:24, 12:30] += 120
    return pixels.astype(dtype)


def rasters(folder: Path) -> None:
    """GeoTIFFs of all dtypes, layouts and codecs that are common, a PNG and a JPEG."""
    tiles = dict(tiled=True, blockxsize=16, blockysize=16)
    valid = np.ones((SIDE, SIDE + 8), bool)
    valid[:5] = False
    _raster(folder / "rgb.tif", image(3, "uint8"), valid=valid, compress="deflate", photometric="rgb", **tiles)
    _raster(folder / "eight.tif", image(8, "uint16"), nodata=0, compress="lzw", predictor=2)
    _raster(folder / "plain.tif", image(1, "int16"), nodata=-1)
    floats = image(2, "float32")
    floats[:, 3, :9] = np.nan
    _raster(folder / "floats.tif", floats, compress="zstd", predictor=3, interleave="band", **tiles)
    _raster(folder / "alpha.tif", image(4, "uint8"), photometric="rgb", alpha="unassociated", bigtiff="yes")
    _raster(folder / "photo.tif", image(3, "uint8"), compress="jpeg", photometric="ycbcr", **tiles)
    _raster(folder / "packed.tif", image(1, "uint8"), compress="packbits")
    _raster(folder / "mask.tif", np.where(image(1, "uint8") > 130, 255, 0).astype("uint8"), compress="deflate")
    _raster(folder / "webp.tif", image(3, "uint8"), compress="webp", interleave="pixel", **tiles)
    _raster(folder / "lerc.tif", image(1, "float32"), compress="lerc")
    with rasterio.Env(GDAL_PAM_ENABLED=False), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for name, driver in (("frame.png", "PNG"), ("frame.jpg", "JPEG")):
            with rasterio.open(
                folder / name, "w", driver=driver, count=3, height=SIDE, width=SIDE + 8, dtype="uint8"
            ) as dst:
                dst.write(image(3, "uint8"))


def _raster(path: Path, pixels: np.ndarray, *, valid: np.ndarray | None = None, **profile: object) -> None:
    size = dict(count=len(pixels), height=pixels.shape[1], width=pixels.shape[2], dtype=pixels.dtype)
    options = dict(photometric="minisblack", alpha="no", crs=UTM, transform=TRANSFORM) | size | profile
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", driver="GTiff", **options) as dst:
        dst.write(pixels)
        dst.set_band_description(1, "first")
        if valid is not None:
            dst.write_mask(valid)


def vectors(folder: Path) -> None:
    """Roof polygons in all formats: with attributes, a hole, parts, a third dimension."""
    import geopandas as gpd
    import pyogrio
    import shapely

    x, y = TRANSFORM * (0, 0)
    squares = [shapely.box(x + 3 * i, y - 3 * i - 5, x + 3 * i + 4, y - 3 * i - 1) for i in range(4)]
    holed = squares[0].difference(squares[0].buffer(-1))
    double = shapely.MultiPolygon([squares[2], shapely.box(x + 16, y - 6, x + 20, y - 2)])
    shapes = [holed, squares[1], double, shapely.force_3d(squares[3], 7.0)]
    columns = {"material": ["tin", "tile", "tin", None], "height": [3.5, 4.0, None, 2.0], "floors": [1, 2, 3, 4]}
    features = gpd.GeoDataFrame(columns, geometry=shapes, crs=UTM)
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z"})
    pyogrio.write_dataframe(features.to_crs("EPSG:4326"), folder / "roofs.geojson", driver="GeoJSON")
    pyogrio.write_dataframe(features, folder / "roofs.gpkg", driver="GPKG", layer="roofs")
    pyogrio.write_dataframe(features, folder / "roofs.shp", driver="ESRI Shapefile")
    pyogrio.write_dataframe(features[:3], folder / "roofs.fgb", driver="FlatGeobuf", geometry_type="Unknown")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
    features.to_parquet(folder / "roofs.parquet")


def networks(folder: Path) -> None:
    """Small networks as train saves them, one of them with a normalising layer, and one of somebody else's."""
    from roofkit.settings import ModelArgs, OutputArgs
    from unet.backend import start_keras

    keras = start_keras()
    from unet.model_file import save_model
    from unet.network import Preparation, build_unet

    keras.utils.set_random_seed(0)
    args = ModelArgs(input_shape=(16, 16, 3), num_layers=1, filters=2, upconv_filters=2)
    facts = dict(threshold=0.4, frame_size=[16, 16], band_names=["r", "g", "b"], data_format="channels_last")
    network = build_unet(args, OutputArgs(), "channels_last", Preparation(1 / 255, [0.5] * 3, [0.2] * 3))
    inputs = keras.Input((None, None, 3), name="image")
    hidden = keras.layers.BatchNormalization(name="norm")(inputs)
    outputs = keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="roof")(hidden)
    for suffix in (".h5", ".keras"):
        save_model(network, folder / f"unet{suffix}", facts)
        save_model(keras.Model(inputs, outputs), folder / f"other{suffix}", facts)


def classifiers(folder: Path) -> None:
    """A small forest and a small regression of three bands."""
    from sklearn.ensemble import RandomForestClassifier

    from pixelwise.classifier import Calibration, PixelClassifier
    from pixelwise.features import Bands, Features
    from pixelwise.model_file import save_classifier
    from pixelwise.models import Forest, Regression
    from roofkit.settings import PixelArgs

    args = PixelArgs(
        values=("bands",), mean=("brightness",), deviation=(), edges=("brightness",), texture=(), hessian=(),
        scales=(1.0,),
    )  # fmt: skip
    features = Features(args, Bands(("r", "g", "b"), (60.0, 60.0, 60.0), (30.0, 30.0, 30.0)))
    count = len(features.names)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(400, count)).astype("f4")
    forest = Forest.of(RandomForestClassifier(5, max_depth=4, random_state=0).fit(table, table[:, 0] > 0.3))
    row = np.linspace(-1, 1, count, dtype="f4")
    regression = Regression(row, np.ones(count, "f4"), row, row / 2, np.zeros(1, "f4"))
    for kind, model in (("forest", forest), ("regression", regression)):
        save_classifier(PixelClassifier(kind, features, model, Calibration(1.5, 0.2), 0.45), folder / f"{kind}.skops")


def repacked(data: bytes, change: "dict[str, bytes]") -> bytes:
    """A zip archive with the content of some of its entries replaced, checksums in order."""
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(
                zipfile.ZipInfo(entry.filename, (1980, 1, 1, 0, 0, 0)),
                change.get(entry.filename, old.read(entry.filename)),
            )
    return memory.getvalue()


if __name__ == "__main__":
    import sys

    print(json.dumps([str(path) for path in make_corpus(sys.argv[1], Path(sys.argv[2]))]))
