"""Settings: what is wrong is named, with the nearest right key; old files work as they are."""

import json
from pathlib import Path

import jsonschema
import pydantic
import pytest

from roofkit.errors import MissingInputError, SettingsError
from roofkit.settings import Block, Settings, check_settings, load_settings, settings_schema

ROOT = Path(__file__).resolve().parent.parent
FIXED = {
    "path_args": {
        "train_frames": "data/train_frames", "train_masks": "data/train_masks",
        "val_frames": "data/val_frames", "val_masks": "data/val_masks",
    },
    "checkpoint_args": {"checkpoint_path": "results_4.h5"},
    "extension_args": {"extension": "tif"},
    "load_dataset_args": {
        "custom": 1, "batch_size": 4, "target_size": [640, 640], "rescale": 0.003921, "shear_range": 0.2,
        "zoom_range": 0.2, "horizontal_flip": True, "class_mode": None, "mask_color": "grayscale", "channels": 3,
        "data_format": "channels_last",
    },
    "model_args": {
        "input_shape": [640, 640, 3], "num_classes": 1, "num_layers": 4, "filters": 64, "upconv_filters": 96,
        "kernel_size": [3, 3], "activation": "relu", "strides": [1, 1], "padding": "same",
        "kernel_initializer": "he_normal", "bachnorm_momentum": 0.01, "pool_size": [2, 2], "pool_strides": [2, 2],
        "pool_padding": "valid",
    },
    "training_args": {
        "epochs": 50, "pretrained": False, "results_folder": "results", "steps_per_epoch": None,
        "validation_steps": None, "verbose": 1,
    },
    "output_args": {"kernel_size": [1, 1], "strides": [1, 1], "activation": "sigmoid", "padding": "valid"},
}  # fmt: skip


def load(tmp_path, text):
    path = tmp_path / "settings.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_settings(path)


# Files that work


@pytest.mark.parametrize("name", ["settings.json", "settings.dev.json"])
def test_the_files_of_the_project_load_and_list_every_key(name):
    assert load_settings(ROOT / name)
    values = json.loads((ROOT / name).read_text())
    assert list(values) == ["$schema", *Settings.model_fields]
    for block, field in Settings.model_fields.items():
        assert list(values[block]) == list(field.annotation.model_fields), block


def test_only_the_seven_blocks(tmp_path):
    settings = load(tmp_path, json.dumps(FIXED))
    assert settings.load_dataset_args.zoom_range == 0.2
    assert settings.chip_args == Settings().chip_args


def test_nothing_at_all_means_the_defaults(tmp_path):
    assert load(tmp_path, "{}") == Settings()


def test_a_byte_order_mark_is_no_problem(tmp_path):
    assert load(tmp_path, b"\xef\xbb\xbf{}") == Settings()


def test_a_schema_is_no_setting(tmp_path):
    assert load(tmp_path, '{"$schema": "settings.schema.json"}') == Settings()
    assert load(tmp_path, '{"$schema": "settings.schema.json", "chip_args": {"size": 8}}').chip_args.size == (8, 8)
    with pytest.raises(SettingsError, match=r"unknown block '\$shema'; expected '\$schema', the nearest"):
        load(tmp_path, '{"$shema": "settings.schema.json"}')


def test_values_survive_writing_and_reading():
    settings = load_settings(ROOT / "settings.dev.json")
    assert check_settings(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(("given", "means"), [(".TIFF", "tif"), ("jpeg", "jpg"), ("PNG", "png")])
def test_extensions_as_people_write_them(given, means):
    assert check_settings({"extension_args": {"extension": given}}).extension_args.extension == means


def test_one_number_is_a_pair():
    assert check_settings({"chip_args": {"size": 320}}).chip_args.size == (320, 320)
    assert check_settings({"load_dataset_args": {"zoom_range": [0.8, 1.2]}}).load_dataset_args.zoom_range == (0.8, 1.2)


def test_values_do_not_change_after_loading():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Settings().chip_args.overlap = 3


def test_every_block_is_a_block():
    assert all(issubclass(field.annotation, Block) for field in Settings.model_fields.values())


def test_every_key_says_what_it_is():
    silent = [
        f"{block}.{key}"
        for block, field in Settings.model_fields.items()
        for key, value in field.annotation.model_fields.items()
        if not value.description
    ]
    assert silent == []


# The schema for editors


@pytest.fixture(scope="module")
def schema():
    made = settings_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


@pytest.mark.parametrize("name", ["settings.json", "settings.dev.json", "bench/banepa.json", "bench/spacenet1.json"])
def test_files_of_the_project_fit_the_schema_that_they_name(schema, name):
    values = json.loads((ROOT / name).read_text())
    assert ((ROOT / name).parent / values["$schema"]).resolve() == ROOT / "settings.schema.json"
    schema.validate(values)
    assert load_settings(ROOT / name)


@pytest.mark.parametrize(
    ("values", "fine"),
    [
        ({}, True),
        (FIXED, True),
        ({"$schema": "settings.schema.json"}, True),
        ({"$schema": 3}, False),
        ({"chips_args": {}}, False),
        ({"chip_args": {"sizes": 640}}, False),
        ({"chip_args": {"size": 640}}, True),
        ({"chip_args": {"size": [640, 320]}}, True),
        ({"chip_args": {"size": [640]}}, False),
        ({"chip_args": {"size": [640, 320, 1]}}, False),
        ({"chip_args": {"size": 0}}, False),
        ({"chip_args": {"size": "640"}}, False),
        ({"chip_args": {"pad": 7.5}}, True),
        ({"chip_args": {"pad": "black"}}, False),
        ({"load_dataset_args": {"batch_size": True}}, False),
        ({"load_dataset_args": {"zoom_range": 0.2}}, True),
        ({"load_dataset_args": {"zoom_range": [0.8, 1.2]}}, True),
        ({"load_dataset_args": {"zoom_range": 1.2}}, False),
        ({"load_dataset_args": {"crop_size": None}}, True),
        ({"load_dataset_args": {"horizontal_flip": "yes"}}, False),
        ({"extension_args": {"extension": ".TIFF"}}, True),
        ({"extension_args": {"extension": "Jpeg"}}, True),
        ({"extension_args": {"extension": "gif"}}, False),
        ({"download_args": {"bbox": [85.52, 27.62, 85.53, 27.63]}}, True),
        ({"download_args": {"bbox": [85.52, 27.62, 85.53]}}, False),
        ({"download_args": {"bbox": "85.52"}}, False),
        ({"download_args": {"address": "https://host/a.tif"}}, True),
        ({"download_args": {"address": ["https://host/a.tif"]}}, True),
        ({"download_args": {"start": "2022-01-01"}}, True),
        ({"mask_args": {"where": ""}}, False),
        ({"forest_args": {"share": "sqrt"}}, True),
        ({"forest_args": {"share": 0}}, False),
        ({"pixel_args": {"values": ["bands", "ratios"]}}, True),
        ({"pixel_args": {"values": ["colours"]}}, False),
        ({"predict_args": {"block_size": 1000}}, False),
    ],
)
def test_the_schema_lets_through_what_the_loader_does(schema, values, fine):
    assert schema.is_valid(values) is fine
    if fine:
        check_settings(values)
    else:
        with pytest.raises(SettingsError):
            check_settings(values)


# Files that do not


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", r"settings.json: .* at line 1, column 2; expected JSON"),
        ('{"chip_args": {},}', r"at line 1, column 1\d; expected JSON"),
        ("", "line 1, column 1; expected JSON"),
        (b"\xff\xfe{\x00}\x00", r"not text \(.*\); expected JSON in UTF-8"),
        ("[1]", "a list; expected an object of blocks"),
        ("[" * 100_000, "brackets too deep"),
        ('{"chip_args": {"pad": "white", "pad": 0}}', "the key pad stands twice; expected each key once"),
        ('{"chip_args": {}, "chip_args": {}}', "the key chip_args stands twice"),
    ],
)
def test_files_that_are_not_settings(tmp_path, text, match):
    with pytest.raises(SettingsError, match=match):
        load(tmp_path, text)


@pytest.mark.parametrize("name", ["none.json", "."])
def test_no_file(tmp_path, name):
    with pytest.raises(MissingInputError, match=r"no such file; expected a settings file. Name one with --settings"):
        load_settings(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"chips_args": {}}, "unknown block 'chips_args'; expected 'chip_args', the nearest"),
        ({"qqq": {}}, "unknown block 'qqq'; expected "),
        ({"$schema": 3}, r"\$schema is 3; expected the name of a schema, say settings.schema.json. Correct or remove"),
        ({"chip_args": {"$schema": "x"}}, r"unknown key of chip_args '\$schema'"),
        (
            {"load_dataset_args": {"batchsize": 4}},
            "key of load_dataset_args 'batchsize'; expected 'batch_size'",
        ),
        (
            {"model_args": {"batchnorm_momentum": 0.1}},
            "'batchnorm_momentum'; expected 'bachnorm_momentum'",
        ),
        ({"load_dataset_args": {"batch_size": "4"}}, r'load_dataset_args.batch_size is "4"; expected .*integer'),
        ({"load_dataset_args": {"batch_size": True}}, r"batch_size is true; expected .*integer"),
        ({"load_dataset_args": {"batch_size": 0}}, r"batch_size is 0; expected .*greater than or equal to 1"),
        ({"load_dataset_args": {"horizontal_flip": "yes"}}, r'horizontal_flip is "yes"; expected .*boolean'),
        ({"load_dataset_args": {"rescale": float("nan")}}, r"rescale is NaN; expected .*finite"),
        ({"training_args": {"learning_rate": float("inf")}}, r"learning_rate is Infinity; expected .*finite"),
        ({"chip_args": {"pad": "black"}}, r"chip_args.pad is \"black\"; expected .*'white' or 'nodata'"),
        ({"chip_args": {"size": [640]}}, "chip_args.size"),
        ({"chip_args": []}, r"chip_args is \[\]; expected .*object"),
        ({"extension_args": {"extension": "gif"}}, r"'tif', 'png' or 'jpg'"),
    ],
)
def test_unknown_names_and_wrong_types(values, match):
    with pytest.raises(SettingsError, match=match):
        check_settings(values)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (
            {"load_dataset_args": {"channels": 8}},
            r"input_shape is \[640, 640, 3\]; expected \[640, 640, 8\]",
        ),
        ({"load_dataset_args": {"data_format": "channels_first"}}, r"expected \[3, 640, 640\].* channels_first"),
        ({"load_dataset_args": {"target_size": 320}}, r"expected \[320, 320, 3\]"),
        (
            {"load_dataset_args": {"target_size": [648, 640]}, "model_args": {"input_shape": [648, 640, 3]}},
            r"target_size is \[648, 640\]; expected rows that divide by 32 \(num_layers 4\). Use 640 there",
        ),
        (
            {"load_dataset_args": {"target_size": [640, 10]}, "model_args": {"input_shape": [640, 10, 3]}},
            r"expected columns that divide by 32 .*Use 32 there",
        ),
        ({"output_args": {"activation": "softmax"}}, r"softmax with model_args.num_classes 1.*expected sigmoid"),
        (
            {
                "load_dataset_args": {"target_size": [640, 320], "quarter_turns": True},
                "model_args": {"input_shape": [640, 320, 3]},
            },
            r"quarter_turns is true .*expected a square target_size",
        ),
        ({"load_dataset_args": {"rescale": 0}}, r"rescale is 0; expected a factor, or null"),
        (
            {"chip_args": {"size": [64, 32], "overlap": 32}},
            r"overlap is 32; expected less than .*size \[64, 32\]",
        ),
    ],
)
def test_contradictions(values, match):
    with pytest.raises(SettingsError, match=match):
        check_settings(values)


@pytest.mark.parametrize("key", ["where", "ignore"])
def test_empty_sql_is_refused(key):
    with pytest.raises(SettingsError, match=f"mask_args.{key} is"):
        check_settings({"mask_args": {key: ""}})
