"""The settings: `settings.json` as typed, checked blocks.

The seven blocks of the first version keep their names and keys; a file that holds only those works. A stage
receives its own block. Every block is frozen.
"""

import datetime
import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema

from roofkit.errors import MissingInputError, SettingsError


def _as_pair(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    return tuple(value) if isinstance(value, list) else value


def _as_tuple(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _day(value: str) -> str:
    """`value` where it is a day."""
    if len(value) != len("YYYY-MM-DD"):
        raise ValueError("a day is YYYY-MM-DD")
    datetime.date.fromisoformat(value)
    return value


def _plain_extension(value: Any) -> Any:
    """`.TIFF` and `tiff` mean `tif`."""
    if not isinstance(value, str):
        return value
    name = value.lower().lstrip(".")
    return {"tiff": "tif", "jpeg": "jpg"}.get(name, name)


LONGEST = 2**20  # bytes of a settings file
SHOWN = 80  # letters of a wrong value that an error shows
SCHEMA_KEY, SCHEMA_NAME = "$schema", "settings.schema.json"
Positive = Annotated[int, Field(ge=1)]
Sql = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Pair = Annotated[
    tuple[Positive, Positive], BeforeValidator(_as_pair, json_schema_input_type=Positive | tuple[Positive, Positive])
]
Side = Annotated[int, Field(ge=1, le=65_536)]
Sides = Annotated[tuple[Side, Side], BeforeValidator(_as_pair, json_schema_input_type=Side | tuple[Side, Side])]
_Spelled = Annotated[str, Field(pattern=r"^\.*([tT][iI][fF]{1,2}|[pP][nN][gG]|[jJ][pP][eE]?[gG])$")]
Extension = Annotated[
    Literal["tif", "png", "jpg"],
    BeforeValidator(_plain_extension, json_schema_input_type=Literal["tif", "png", "jpg"] | _Spelled),
]
Padding = Literal["same", "valid"]
DataFormat = Literal["channels_last", "channels_first"]
Method = Literal["last", "first", "max", "mean"]
SplitBy = Literal["block", "random", "scene"]
Loss = Literal["bce", "dice", "bce_dice", "focal", "tversky", "lovasz", "bce_lovasz"]
Encoder = Literal["MobileNetV2", "EfficientNetV2B0", "ResNet50V2", "DenseNet121"]
Architecture = Literal["satellite_unet", "residual_unet"] | Encoder
ENCODERS = get_args(Encoder)
SourceName = Literal["sample", "earthengine", "stac", "cog", "xyz", "spacenet"]
LabelSource = Literal["osm", "open-buildings", "file"]
Dtype = Literal["uint8", "uint16", "int16", "float32"]
Bounds = tuple[float, float, float, float]
Addresses = Annotated[tuple[str, ...], BeforeValidator(_as_tuple, json_schema_input_type=str | tuple[str, ...])]
Day = Annotated[str, AfterValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
Layer = Literal["bands", "brightness", "differences", "ratios"]
Layers = tuple[Layer, ...]


class Block(BaseModel):
    """One block of the settings file: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class PathArgs(Block):
    """Where everything lies. A relative name is inside `data` (inside `training_args.results_folder` for results)."""

    train_frames: str = Field("train_frames", description="folder of the frames that train")
    train_masks: str = Field("train_masks", description="folder of their masks, of the same names")
    val_frames: str = Field("val_frames", description="folder of the frames that validate")
    val_masks: str = Field("val_masks", description="folder of their masks, of the same names")
    data: str | None = Field(None, description="the data folder; null: the folder that the four names share, or data")
    scenes: str = Field("scenes", description="folder of the imagery, *.tif")
    labels: str = Field(
        "labels/roofs.gpkg",
        description="the roof polygons that download writes; where there is none, the only vector file of its folder",
    )
    chips: str = Field("chips", description="folder of the chips")
    masks: str = Field("masks", description="folder of their masks")
    mosaic: str = Field("mosaic.tif", description="the chips put together")
    split: str = Field("split.csv", description="the table of chips and sides")
    pixels: str = Field("pixels.csv", description="the pixel table, .csv or .parquet")
    histograms: str = Field("histograms", description="folder of histograms and summary.json")
    history: str = Field("history.csv", description="the table of epochs, in results")
    logs: str = Field("logs", description="folder of TensorBoard's files, when training_args.tensorboard is true")
    predictions: str = Field(
        "predictions", description="folder of the masks predicted for the validation frames, in results"
    )
    probabilities: str = Field(
        "probabilities", description="folder of the roof probabilities of the validation frames, in results"
    )
    map: str = Field("map", description="folder of the masks of whole scenes, in results")
    map_probabilities: str = Field(
        "map_probabilities",
        description="folder of the roof probabilities of scenes (predict_args.scene_probabilities), in results",
    )
    footprints: str = Field(
        "footprints.gpkg", description="the roofs as polygons, in results: .gpkg, .geojson, .parquet or .fgb"
    )
    forest: str = Field("forest.skops", description="the random forest, in results")
    forest_predictions: str = Field("forest_predictions", description="what predictions is, for the forest")
    forest_probabilities: str = Field("forest_probabilities", description="what probabilities is, for the forest")
    regression: str = Field("regression.skops", description="the logistic regression, in results")
    regression_predictions: str = Field("regression_predictions", description="what predictions is, for the regression")
    regression_probabilities: str = Field(
        "regression_probabilities", description="what probabilities is, for the regression"
    )
    metrics: str = Field("metrics.json", description="the scores, in results")
    run: str = Field("run.json", description="seconds and memory of each stage, as run/local.py saw them")
    report: str = Field("report.html", description="the page, in results")


class CheckpointArgs(Block):
    """Where the best epoch is kept."""

    checkpoint_path: str = Field("results_4.h5", description="the network, in results: .h5 or .keras")


class ExtensionArgs(Block):
    """What kind of file frames are."""

    extension: Extension = Field("tif", description="of frames and masks; png and jpg have no georeference")


class LoadDatasetArgs(Block):
    """How frames and masks become batches."""

    custom: Literal[0, 1] = Field(1, description="1: this project's generator; 0: Keras' ImageDataGenerator")
    batch_size: Positive = Field(4, description="frames in a step of training")
    target_size: Pair = Field((640, 640), description="rows and columns that a frame is resized to")
    crop_size: Pair | None = Field(
        None, description="train on windows of this size, drawn from the resized frames; null: on whole frames"
    )
    rescale: float | None = Field(None, description="factor on every pixel, a layer of the model; null: none")
    shear_range: float = Field(0.0, ge=0.0, lt=90.0, description="degrees by which frames are sheared, at most")
    zoom_range: Annotated[float, Field(ge=0.0, lt=1.0)] | tuple[float, float] = Field(
        0.0, description="0.2 draws a zoom from 0.8 to 1.2"
    )
    horizontal_flip: bool = Field(True, description="mirror frames left to right, at random")
    vertical_flip: bool = Field(False, description="mirror frames top to bottom, at random (custom 1 only)")
    quarter_turns: bool = Field(
        False, description="turn frames by 0, 90, 180 or 270 degrees (square target_size; custom 1 only)"
    )
    brightness_range: Share = Field(
        0.0, description="share of a band's deviation by which it may be lighter or darker (custom 1 only)"
    )
    contrast_range: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="0.2 stretches a band about its mean by 0.8 to 1.2 (custom 1 only)"
    )
    gamma_range: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="0.2 raises a band, between its extremes, to a power from 0.8 to 1.2 (custom 1 only)"
    )
    rotation_range: float = Field(
        0.0, ge=0.0, le=180.0, description="degrees by which frames are turned, either way (custom 1 only)"
    )
    cutouts: Annotated[int, Field(ge=0)] = Field(
        0, description="rectangles of a frame that are blanked to the mean (custom 1 only)"
    )
    cutout_size: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.2, description="longest side of a cutout, as a share of the frame's"
    )
    band_drop: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="how often a band is blanked to its mean; never all of them (custom 1 only)"
    )
    roof_balance: Share = Field(
        0.0,
        description="share of training frames drawn by their roof fraction; the others come in turn (custom 1 only)",
    )
    class_mode: Literal["binary", "categorical", "sparse", "input"] | None = Field(
        None, description="of Keras' flow_from_directory (custom 0 only)"
    )
    mask_color: Literal["grayscale"] = Field("grayscale", description="how masks are read (custom 0 only)")
    channels: Positive = Field(3, description="bands of a frame, alpha not counted")
    data_format: DataFormat = Field("channels_last", description="order of the axes in model_args.input_shape")


class ModelArgs(Block):
    """The network, as keras-unet's `satellite_unet` names its parts."""

    input_shape: tuple[Positive, Positive, Positive] = Field(
        (640, 640, 3), description="rows, columns and bands, as target_size, channels and data_format say"
    )
    architecture: Architecture = Field(
        "satellite_unet", description="or residual_unet, or an encoder of keras.applications"
    )
    normalization: Literal["batch", "group"] = Field(
        "batch", description="batch, or group for batches of one or two frames"
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of the deepest features that is left out in training"
    )
    encoder_weights: str | None = Field(
        None, description="for encoders of keras.applications: null, imagenet, or a weights file"
    )
    num_classes: Literal[1, 2] = Field(1, description="1: roof; 2: background and roof")
    num_layers: Annotated[int, Field(ge=0)] = Field(
        4, description="halvings of the frame after the first one (not of encoders)"
    )
    filters: Positive = Field(64, description="of the first layers")
    upconv_filters: Positive = Field(96, description="of the layers on the way up (satellite_unet)")
    kernel_size: Pair = Field((3, 3), description="of the convolutions, in pixels")
    activation: str = Field("relu", description="of the convolutions, as Keras names it")
    strides: Pair = Field((1, 1), description="of the convolutions (satellite_unet)")
    padding: Padding = Field("same", description="of the convolutions (satellite_unet)")
    kernel_initializer: str = Field("he_normal", description="of the convolutions, as Keras names it")
    bachnorm_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.01,
        description="of batch normalisation: share of its statistics kept at each step (spelled as in keras-unet)",
    )
    pool_size: Pair = Field((2, 2), description="of the max pooling (satellite_unet)")
    pool_strides: Pair = Field(
        (2, 2), description="of the max pooling: by how much each level is smaller (satellite_unet)"
    )
    pool_padding: Padding = Field("valid", description="of the max pooling (satellite_unet)")


class OutputArgs(Block):
    """The last layer of the network."""

    kernel_size: Pair = Field((1, 1), description="of the last convolution, in pixels")
    strides: Pair = Field((1, 1), description="of the last convolution")
    activation: Literal["sigmoid", "softmax"] = Field(
        "sigmoid", description="sigmoid for one class, softmax or sigmoid for two"
    )
    padding: Padding = Field("valid", description="of the last convolution")


class TrainingArgs(Block):
    """How the network learns."""

    epochs: Positive = Field(50, description="at most")
    pretrained: bool = Field(False, description="start from the weights in checkpoint_path")
    results_folder: str = Field("results", description="the results folder, beside the settings file")
    steps_per_epoch: Positive | None = Field(None, description="batches in an epoch; null: every frame once")
    validation_steps: Positive | None = Field(None, description="batches of a validation; null: every frame once")
    verbose: Literal[0, 1, 2] = Field(1, description="what Keras prints: 0 nothing, 1 a bar, 2 a line for each epoch")
    minutes: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="at most so long: as many epochs as fit, planned anew after each at the pace of the last ones"
    )
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(0.001, description="the highest, after the warm-up")
    schedule: Literal["plateau", "cosine", "constant"] = Field(
        "plateau", description="the learning rate after the warm-up: halved on a plateau, a cosine to 0, or constant"
    )
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of all steps over which the learning rate rises from 0"
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="of AdamW; 0 makes it Adam")
    clip_norm: Annotated[float, Field(gt=0.0)] | None = Field(
        1.0, description="longest gradient, over all weights; null: any"
    )
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="decay per step of the average of weights that is validated and saved; 0: the last weights"
    )
    loss: Loss = Field("bce_dice", description="what training makes small; docs/training.md says which suits what")
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = Field(
        0.0, description="0.05 makes the targets 0.05 and 0.95, for labels with errors"
    )
    focal_gamma: Annotated[float, Field(ge=0.0)] = Field(2.0, description="of the loss focal")
    tversky_alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.3, description="of the loss tversky: the weight of false alarms; 1 - alpha is that of missed roofs"
    )
    early_stopping: Positive | None = Field(10, description="epochs without a better validation IoU; null: never stop")
    reduce_on_plateau: Positive | None = Field(
        4, description="epochs after which the learning rate halves (schedule plateau); null: never"
    )
    tensorboard: bool = Field(False, description="write logs for TensorBoard")
    doctor: bool = Field(True, description="check data before training and the model after its first epoch")
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "auto", description="auto: what this processor or GPU computes fastest and safely"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of weights, order and augmentation")


class DownloadArgs(Block):
    """Where imagery and labels come from, and of which area. Credentials come from the environment, never from here."""

    source: SourceName = Field(
        "sample", description="where imagery comes from; docs/data-sources.md has an example of each"
    )
    labels: LabelSource | None = Field(
        None, description="where roof polygons come from; null: with the imagery, if any"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="which made-up town (source sample)")
    size: Annotated[int, Field(ge=256, multiple_of=2)] = Field(2048, description="side of the town in pixels of 0.5 m")
    bbox: Bounds | None = Field(None, description="the area: west, south, east, north in degrees")
    aoi: str | None = Field(None, description="the area: a vector file with its polygons, instead of bbox")
    address: Addresses = Field(
        (), description="of the service: stac: the API or catalogue; cog: rasters; xyz: the template; spacenet: its "
        "bucket, or a folder or tar of yours. ${NAME} stands for that variable of the environment",
    )  # fmt: skip
    preset: str | None = Field(None, description="a known service or collection, instead of naming all of it")
    collection: str | None = Field(
        None, description="which one of the service (earthengine, stac), or which city (spacenet)"
    )
    image: str | None = Field(None, description="one image instead of a collection (source earthengine)")
    start: Day | None = Field(None, description="first day, YYYY-MM-DD")
    end: Day | None = Field(None, description="the day after the last one, YYYY-MM-DD")
    cloud: Annotated[float, Field(ge=0.0, le=100.0)] | None = Field(None, description="percent of cloud at most")
    bands: tuple[str, ...] | None = Field(
        None, description="names (or numbers) of bands, in order; null: all; of several assets: null"
    )
    composite: Literal["median", "mosaic", "first"] | None = Field(
        None, description="one image of many; null: the preset's, or median"
    )
    scale: Annotated[float, Field(gt=0.0)] | None = Field(None, description="metres a pixel; null: as it is")
    crs: str | None = Field(None, description="null: the UTM zone (earthengine), or as it is")
    resampling: Literal["nearest", "bilinear", "cubic"] = Field("bilinear", description="where pixels are moved")
    dtype: Dtype | None = Field(None, description="null: the smallest that holds the values")
    zoom: Annotated[int, Field(ge=0, le=24)] | None = Field(
        None, description="of tiles (source xyz); null: the one for scale"
    )
    items: Positive = Field(20, description="images of a catalogue at most")
    assets: tuple[str, ...] | None = Field(None, description="of an item (source stac), in order; null: the preset's")
    project: str | None = Field(None, description="the Google Cloud project that Earth Engine runs in")
    ee_url: str = Field(
        "https://earthengine.googleapis.com",
        description="https://earthengine-highvolume.googleapis.com for many requests",
    )
    overpass_url: str = Field("https://overpass-api.de/api", description="the Overpass server (labels osm)")
    labels_file: str | None = Field(None, description="a vector file, or its address (labels file)")
    confidence: Share = Field(0.7, description="of a building at least (labels open-buildings)")
    scene_size: Annotated[int, Field(ge=256, multiple_of=256)] = Field(
        8192, description="sides of a scene at most, pixels"
    )
    parallel: Annotated[int, Field(ge=1, le=40)] = Field(10, description="requests at once at most")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(
        5, description="of a request that failed in a way that may pass"
    )
    timeout: Annotated[float, Field(gt=0.0)] = Field(60.0, description="seconds that a server may be silent")
    deadline: Annotated[float, Field(gt=0.0)] = Field(600.0, description="seconds for a request with all its retries")


class RasterArgs(Block):
    """How rasters are read and written."""

    compress: Literal["deflate", "zstd", "lzw", "none"] = Field(
        "deflate", description="how GeoTIFFs are compressed, without loss"
    )
    sidecars: bool = Field(
        True, description="heed files beside a raster (.aux.xml, a world file, .msk) for what it lacks: CRS, place, "
        "nodata, mask; never against what it says itself",
    )  # fmt: skip


class ChipArgs(Block):
    """How scenes are cut."""

    size: Sides = Field((640, 640), description="rows and columns of a chip")
    overlap: Annotated[int, Field(ge=0)] = Field(0, description="pixels that neighbours share")
    pad: Literal["white", "nodata"] | float = Field("white", description="value at the right and lower edge")
    min_valid: Share = Field(0.0, description="leave out chips with a smaller share of valid pixels")


class MosaicArgs(Block):
    """How chips are put together."""

    method: Method = Field("last", description="which tile counts where several overlap")


class MaskArgs(Block):
    """Which polygons are roofs."""

    where: Sql | None = Field(None, description="SQL that selects the roofs, as ogr2ogr -where; null: every polygon")
    ignore: Sql | None = Field(
        None, description="SQL that selects polygons whose class is not known: invalid in the mask; null: none"
    )
    layer: str | None = Field(None, description="of a file with several layers; null: the only one")
    all_touched: bool = Field(
        False, description="draw every pixel that a polygon touches, not only those whose centre lies in it"
    )


class SplitArgs(Block):
    """Which frames validate."""

    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.25, description="share of the valid pixels that validates"
    )
    by: SplitBy = Field(
        "block", description="what stays together on one side: blocks of chips, single chips, or scenes"
    )
    block_size: Positive = Field(2, description="chips a side of a spatial block")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="which blocks validate")


class FlattenArgs(Block):
    """Which pixels become rows."""

    sample: Positive | None = Field(None, description="pixels a frame; null: all valid ones")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="which pixels are drawn")


class SummarizeArgs(Block):
    """What the histograms show."""

    bins: Annotated[int, Field(ge=2, le=65536)] = Field(256, description="bars of a histogram at most")
    percentiles: tuple[Annotated[float, Field(ge=0.0, le=100.0)], ...] = Field(
        (1.0, 2.0, 25.0, 50.0, 75.0, 98.0, 99.0), description="those that summary.json lists"
    )


class PixelArgs(Block):
    """What forest and regression see of a pixel, and which pixels they learn from.

    Layers are the bands, their mean (brightness), and normalised differences and ratios of band pairs. Each key below
    names the layers that it is computed of; an empty list leaves it out.
    """

    values: Layers = Field(("bands", "differences"), description="the pixel's own values")
    mean: Layers = Field(("bands", "differences"), description="of the neighbourhood, at each scale")
    deviation: Layers = Field(("bands", "brightness", "differences"), description="of the neighbourhood, at each scale")
    edges: Layers = Field(("brightness",), description="how steep, at each scale (Sobel)")
    texture: Layers = Field(
        ("brightness",), description="how much edges agree in direction, at each scale: 1 on corrugated sheets"
    )
    hessian: Layers = Field(
        ("brightness",), description="ridges and valleys, at each scale: eigenvalues of second derivatives"
    )
    pairs: Literal["auto", "adjacent", "all"] = Field(
        "auto",
        description="pairs of bands for differences and ratios; auto: all of up to four bands, else adjacent ones",
    )
    scales: tuple[Annotated[float, Field(ge=0.3, le=128.0)], ...] = Field(
        (1.0, 2.0, 4.0, 8.0, 16.0, 32.0), description="deviations of the Gaussian neighbourhoods, in pixels"
    )
    pixels: Annotated[int, Field(ge=10)] = Field(
        100_000, description="training pixels at most, half of them roof, spread evenly over frames"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="which pixels are drawn")


class ForestArgs(Block):
    """The random forest."""

    trees: Positive = Field(100, description="how many")
    depth: Positive | None = Field(None, description="of a tree at most; null: any")
    leaf: Positive = Field(10, description="training pixels in a leaf at least")
    share: Annotated[float, Field(gt=0.0, le=1.0)] | Literal["sqrt", "log2"] = Field(
        "sqrt", description="features that a split may choose from: a share of them, or a function of their number"
    )
    importance: Literal[0] | Annotated[int, Field(ge=10)] = Field(
        5000, description="validation pixels on which the importance of features is measured; 0: it is not measured"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of the trees")


class RegressionArgs(Block):
    """The logistic regression."""

    squares: bool = Field(True, description="also the square of each feature, so that a middle range can be roof")
    strengths: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        (0.001, 0.01, 0.1, 1.0, 10.0), min_length=1, description="inverse penalties to choose from (scikit-learn's C)"
    )
    folds: Annotated[int, Field(ge=2)] = Field(4, description="parts of the frames, each left out once in choosing")
    iterations: Positive = Field(1000, description="of the solver at most")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of the folds")


class PredictArgs(Block):
    """How the model is applied."""

    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] | Literal["auto"] = Field(
        "auto", description="auto: the one stored with the model, chosen on the validation frames"
    )
    overlap: Annotated[float, Field(ge=0.0, le=0.9)] = Field(
        0.25, description="share of a window that neighbours share"
    )
    batch_size: Positive = Field(8, description="windows that the network sees at once")
    block_size: Annotated[int, Field(ge=256, multiple_of=256)] | None = Field(
        None,
        description="pixels a side: a larger scene becomes a file for each block, each a task; null: one file",
    )
    runtime: Literal["auto", "keras", "openvino"] = Field(
        "auto", description="what runs the network; auto: OpenVINO where it is installed and Keras uses no GPU"
    )
    precision: Literal["auto", "float32"] = Field(
        "auto", description="auto: bfloat16 where this processor or GPU computes fast in it, else float32"
    )
    flips: bool = Field(
        False, description="average over the eight flips and quarter turns (four where windows are not square)"
    )
    min_area: Annotated[float, Field(ge=0.0)] = Field(0.0, description="square metres; smaller footprints are left out")
    min_hole: Annotated[float, Field(ge=0.0)] = Field(0.0, description="square metres; smaller holes are filled")
    separate: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="metres; roofs that touch over less than about twice this width come apart; 0: they stay one"
    )
    simplify: Annotated[float, Field(ge=0.0)] = Field(0.0, description="metres by which outlines may change; 0: none")
    square: bool = Field(False, description="make the corners of outlines right angles where the shape allows it")
    scene_probabilities: bool = Field(
        False, description="also write roof probabilities of scenes, so that the report's map follows its threshold"
    )


class EvaluateArgs(Block):
    """How predictions are scored."""

    bootstrap: Annotated[int, Field(ge=0)] = Field(1000, description="draws of frames for the intervals; 0: none")
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.95, description="of the intervals")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of the draws")
    boundary: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.005, description="width of the boundary for boundary IoU, as a share of the frame's diagonal"
    )
    building_iou: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.5, description="from this IoU on a roof is found")
    min_building: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="square metres; smaller roofs do not count in the building scores"
    )


class ReportArgs(Block):
    """What the page shows."""

    places: Annotated[int, Field(ge=1, le=24)] = Field(
        6, description="maps at most, the largest first; scenes that adjoin are one"
    )
    map_side: Annotated[int, Field(ge=64, le=4096)] = Field(
        1600, description="pixels along a map's longer side, at most"
    )
    frame_side: Annotated[int, Field(ge=32, le=1024)] = Field(
        512, description="pixels along a validation frame's longer side, at most"
    )
    bands: tuple[Positive, Positive, Positive] | None = Field(
        None, description="bands shown as red, green and blue, from 1; null: those of these names, or the first three"
    )
    stretch: tuple[Annotated[float, Field(ge=0.0, lt=50.0)], Annotated[float, Field(gt=50.0, le=100.0)]] = Field(
        (2.0, 98.0), description="percentiles of a band that are shown as black and as full colour"
    )


class DoctorArgs(Block):
    """What the doctor calls sound."""

    overfit_steps: Positive = Field(150, description="steps in which the network must learn four frames by heart")
    overfit_iou: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.7, description="IoU that it must reach on them")
    sample: Positive = Field(64, description="frames that are read, at most, for a check")


class Settings(Block):
    """The whole file."""

    path_args: PathArgs = PathArgs()
    checkpoint_args: CheckpointArgs = CheckpointArgs()
    extension_args: ExtensionArgs = ExtensionArgs()
    load_dataset_args: LoadDatasetArgs = LoadDatasetArgs()
    model_args: ModelArgs = ModelArgs()
    training_args: TrainingArgs = TrainingArgs()
    output_args: OutputArgs = OutputArgs()
    download_args: DownloadArgs = DownloadArgs()
    raster_args: RasterArgs = RasterArgs()
    chip_args: ChipArgs = ChipArgs()
    mosaic_args: MosaicArgs = MosaicArgs()
    mask_args: MaskArgs = MaskArgs()
    split_args: SplitArgs = SplitArgs()
    flatten_args: FlattenArgs = FlattenArgs()
    summarize_args: SummarizeArgs = SummarizeArgs()
    pixel_args: PixelArgs = PixelArgs()
    forest_args: ForestArgs = ForestArgs()
    regression_args: RegressionArgs = RegressionArgs()
    predict_args: PredictArgs = PredictArgs()
    evaluate_args: EvaluateArgs = EvaluateArgs()
    doctor_args: DoctorArgs = DoctorArgs()
    report_args: ReportArgs = ReportArgs()


def load_settings(path: Path) -> Settings:
    """Settings from a JSON file, checked key by key and against each other.

    Raises:
        MissingInputError: There is no such file.
        SettingsError: The file is not JSON, a key is unknown or of the wrong type, or two keys contradict each other.
    """
    if not path.is_file():  # nor a pipe or device, which may have no end
        raise MissingInputError(path, "no such file", "a settings file", "Name one with --settings FILE.")
    if path.stat().st_size > LONGEST:
        found = f"{path.stat().st_size:,} bytes"
        raise SettingsError(path, found, f"at most {LONGEST:,}", "Start from settings.json.")
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_doubles)
    except UnicodeDecodeError as error:
        raise SettingsError(path, f"not text ({error.reason})", "JSON in UTF-8", "Save it as UTF-8.") from None
    except RecursionError:
        raise SettingsError(path, "brackets too deep", "an object of blocks", "Start from settings.json.") from None
    except json.JSONDecodeError as error:
        found = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise SettingsError(path, found, "JSON", "Correct that place.") from None
    except _DoubleKeyError as error:
        raise SettingsError(path, f"the key {error} stands twice", "each key once", "Remove one of the two.") from None
    except ValueError:  # of Python, which does not read such numbers
        raise SettingsError(path, "a number of thousands of digits", "numbers", "Correct it.") from None
    if not isinstance(values, dict):
        raise SettingsError(path, f"a {type(values).__name__}", "an object of blocks", "Start from settings.json.")
    return check_settings(values, path)


def settings_schema() -> dict[str, Any]:
    """The JSON schema of a settings file, which editors complete and check by: settings.schema.json."""
    schema = Settings.model_json_schema(schema_generator=_PlainSchema)
    editor = {"type": "string", "description": "this schema, for editors; not a setting"}
    schema["properties"] = {SCHEMA_KEY: editor} | schema["properties"]
    for block in schema["properties"].values():
        block.pop("default", None)  # every key has its own
    return {SCHEMA_KEY: GenerateJsonSchema.schema_dialect} | schema


class _PlainSchema(GenerateJsonSchema):
    """Without titles made from names, which only repeat them."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def check_settings(values: dict[str, Any], path: Path = Path("settings")) -> Settings:
    """The same for values already read; `path` is what errors name.

    Raises:
        SettingsError: As for `load_settings`.
    """
    schema = values.get(SCHEMA_KEY, "")  # for editors; nothing is read from there
    if not isinstance(schema, str):
        found = f"{SCHEMA_KEY} is {_short(schema)}"
        raise SettingsError(path, found, f"the name of a schema, say {SCHEMA_NAME}", "Correct or remove it.")
    blocks = {name: block for name, block in values.items() if name != SCHEMA_KEY}
    try:
        settings = Settings.model_validate_json(json.dumps(blocks, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise _named(error.errors()[0], path) from None
    _check_agreement(settings, path)
    return settings


class _DoubleKeyError(ValueError):
    pass


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DoubleKeyError(next(name for name in names if names.count(name) > 1))
    return values


def _named(error: Any, path: Path) -> SettingsError:
    """One line from pydantic's first complaint, with the nearest right key when the key is unknown."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(part for part in location[:2])
    if error["type"] != "extra_forbidden":
        found = f"{key} is {_short(error['input'])}"
        return SettingsError(path, found, error["msg"][0].lower() + error["msg"][1:], "Correct that value.")
    known = _known_keys(location)
    nearest = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.0)
    kind = "block" if len(location) == 1 else f"key of {location[0]}"
    return SettingsError(path, f"unknown {kind} {location[-1]!r}", f"{nearest[0]!r}, the nearest", "Correct its name.")


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _known_keys(location: list[str]) -> list[str]:
    if len(location) == 1:
        return [SCHEMA_KEY, *Settings.model_fields]
    block = Settings.model_fields[location[0]].annotation
    return list(block.model_fields) if isinstance(block, type) and issubclass(block, BaseModel) else []


def _check_agreement(settings: Settings, path: Path) -> None:
    """Raise where one key says something that another denies."""
    data, model = settings.load_dataset_args, settings.model_args
    rows_cols, channels = data.target_size, data.channels
    shape = (*rows_cols, channels) if data.data_format == "channels_last" else (channels, *rows_cols)
    if model.input_shape != shape:
        found = f"model_args.input_shape is {list(model.input_shape)}"
        expected = (
            f"{list(shape)}, as load_dataset_args.target_size {list(rows_cols)}, channels {channels} "
            f"and data_format {data.data_format} say"
        )
        raise SettingsError(path, found, expected, "Make them agree.")
    for axis, (side, step) in enumerate(zip(rows_cols, model.pool_strides)):
        divisor = _divisor(model, step)
        if side % divisor:
            found = f"load_dataset_args.target_size is {list(rows_cols)}"
            nearest = max(divisor, round(side / divisor) * divisor)
            expected = f"{'rows' if axis == 0 else 'columns'} that divide by {divisor} ({_reason(model)})"
            fewer = "" if model.architecture in ENCODERS else ", or fewer num_layers"
            raise SettingsError(path, found, expected, f"Use {nearest} there{fewer}.")
    if model.num_classes == 1 and settings.output_args.activation == "softmax":
        found = "output_args.activation is softmax with model_args.num_classes 1, which is 1 everywhere"
        raise SettingsError(path, found, "sigmoid, or num_classes 2", "Change one of the two.")
    if data.quarter_turns and rows_cols[0] != rows_cols[1]:
        found = f"load_dataset_args.quarter_turns is true with target_size {list(rows_cols)}"
        raise SettingsError(path, found, "a square target_size", "Change one of the two.")
    _check_architecture(settings, path)
    _check_crop(settings, path)
    _check_download(settings.download_args, path)
    if data.rescale == 0.0:
        raise SettingsError(path, "load_dataset_args.rescale is 0", "a factor, or null", "Use null for none.")
    if settings.chip_args.overlap >= min(settings.chip_args.size):
        found = f"chip_args.overlap is {settings.chip_args.overlap}"
        raise SettingsError(
            path, found, f"less than chip_args.size {list(settings.chip_args.size)}", "Make it smaller."
        )


def _divisor(model: ModelArgs, step: int) -> int:
    """By what a side must divide to be halved and doubled again."""
    if model.architecture in ENCODERS:
        return 32
    return int((step if model.architecture == "satellite_unet" else 2) ** (model.num_layers + 1))


def _reason(model: ModelArgs) -> str:
    return model.architecture if model.architecture in ENCODERS else f"num_layers {model.num_layers}"


def _check_architecture(settings: Settings, path: Path) -> None:
    """Raise where a key is set that the architecture has no use for."""
    model, fresh = settings.model_args, ModelArgs()
    if model.architecture != "satellite_unet":
        for key in ("strides", "padding", "pool_size", "pool_strides", "pool_padding"):
            if getattr(model, key) != getattr(fresh, key):
                value = model.model_dump(mode="json")[key]
                found = f"model_args.{key} is {json.dumps(value)} with architecture {model.architecture}"
                expected = json.dumps(fresh.model_dump(mode="json")[key])
                raise SettingsError(path, found, expected, "Change it, or use satellite_unet.")
    if model.encoder_weights and model.architecture not in ENCODERS:
        found = f"model_args.encoder_weights is {model.encoder_weights!r} with architecture {model.architecture}"
        raise SettingsError(path, found, f"null, or one of {', '.join(ENCODERS)}", "Change one of the two.")


def _check_crop(settings: Settings, path: Path) -> None:
    """Raise where training windows do not fit into the frames or the network."""
    data, model = settings.load_dataset_args, settings.model_args
    if data.crop_size is None:
        return
    found = f"load_dataset_args.crop_size is {list(data.crop_size)}"
    if not data.custom:
        raise SettingsError(path, f"{found} with custom 0", "custom 1", "Change one of the two.")
    for side, crop, step in zip(data.target_size, data.crop_size, model.pool_strides):
        divisor = _divisor(model, step)
        if crop > side:
            expected = f"at most target_size {list(data.target_size)}"
            raise SettingsError(path, found, expected, "Make it smaller, or null.")
        if crop % divisor:
            nearest = max(divisor, crop // divisor * divisor)
            expected = f"sides that divide by {divisor} ({_reason(model)})"
            raise SettingsError(path, found, expected, f"Use {nearest} there.")
    if data.quarter_turns and data.crop_size[0] != data.crop_size[1]:
        raise SettingsError(path, f"{found} with quarter_turns", "a square crop_size", "Change one of the two.")


def _check_download(download: DownloadArgs, path: Path) -> None:
    """Raise where two keys say where, when or what in two ways."""
    for one, other in (("bbox", "aoi"), ("collection", "image")):
        if getattr(download, one) is not None and getattr(download, other) is not None:
            found = f"download_args.{one} and download_args.{other} are both set"
            raise SettingsError(path, found, "one of the two", f"Set {one} or {other} to null.")
    for key in ("start", "end", "cloud", "composite"):
        if download.image and getattr(download, key) is not None:
            found = f"download_args.{key} is {getattr(download, key)} with an image, which is one already"
            raise SettingsError(path, found, "null, or a collection", f"Set {key} to null.")
    if download.start and download.end and download.start >= download.end:
        found = f"download_args.start is {download.start} and end is {download.end}"
        raise SettingsError(path, found, "a start before the end", "Change one of the two.")
