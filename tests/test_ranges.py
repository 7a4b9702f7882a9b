"""The values and the keys that a config may have."""

import ast
import importlib

import pytest
from ml_collections import ConfigDict

from commands import HERE
from mspn_jax.commands import ranges
from mspn_jax.configs import quickstart
from mspn_jax.errors import UsageError
from mspn_jax.skeletons import COCO

BAD_VALUES = {
    "num_hard_keypoints=0": "0: must be 1 or more",
    "padding=0.0": "0.0: must be 0.1 or more",
    "padding=inf": "inf: must be 0.1 or more",
    "padding=1e-300": "1e-300: must be 0.1 or more",
    "augment.half_body_padding=1e-300": "1e-300: must be 0.1 or more",
    "ema_decay=1.5": "1.5: must be from 0 to 0.999999",
    "ema_decay=0.999999999999": "0.999999999999: must be from 0 to 0.999999",
    "clip_norm=1e-320": "1e-320: must be 0, or 1e-09 or more",
    "clip_norm=inf": "inf: must be 0 or more",
    "eval.box_area_share=-0.1": "-0.1: must be from 0 to 1",
    "eval.box_area_share=nan": "nan: must be from 0 to 1",
    "eval.box_area_share=1e-300": "1e-300: must be 0, or 1e-09 or more",
    "eval.decoding='DARK'": "'DARK': must be quarter or dark",
    "log='tensorbord'": "'tensorbord': must be tensorboard or wandb or mlflow",
    "data.also=('a',)": (
        "('a',): must be a tuple of texts ROOT:SPLIT:WEIGHT, with weights of more than 0 and at"
        " most 1,000"
    ),
    "data.also=('a:b:nan',)": (
        "('a:b:nan',): must be a tuple of texts ROOT:SPLIT:WEIGHT, with weights of more than 0 and"
        " at most 1,000"
    ),
    "optimizer.drop_epochs=(1e400,)": "(inf,): must be epochs, each more than 0",
    "optimizer.drop_epochs=(1,'a')": "(1, 'a'): must be epochs, each more than 0",
    "crop_hw=()": "(): must be two multiples of 32, height and width",
    "augment.scale=1.0": "1.0: must be 0 or more, and less than 1",
    "max_skipped_in_a_row=0": "0: must be 1 or more",
    "data.first_people=-1": "-1: must be 0 or more",
    "data.num_threads=-1": "-1: must be 0 or more",
    "data.also=('a:b:0',)": (
        "('a:b:0',): must be a tuple of texts ROOT:SPLIT:WEIGHT, with weights of more than 0 and at"
        " most 1,000"
    ),
    "data.also=('a:b:1','a:b')": (
        "('a:b:1', 'a:b'): must be a tuple of texts ROOT:SPLIT:WEIGHT, with weights of more than 0"
        " and at most 1,000"
    ),
    "num_steps=-5": "-5: must be 0 or more",
    "num_epochs=0": "0: must be 1 or more",
    "seed=-1": "-1: must be 0 or more",
    "eval.batch_size=0": "0: must be 1 or more",
    "eval.batch_size=-3": "-3: must be 1 or more",
    "checkpoint.every_steps=0": "0: must be 1 or more",
    "log_every_steps=0": "0: must be 1 or more",
    "model.num_stages=0": "0: must be 1 or more",
    "model.stem_channels=0": "0: must be 1 or more",
    "model.blocks_per_unit=(1,1)": "(1, 1): must be 4 whole numbers, each 1 or more",
    "crop_hw=(100,96)": "(100, 96): must be two multiples of 32, height and width",
    "optimizer.learning_rate=nan": "nan: must be more than 0",
    "optimizer.drop_epochs=(-1.0,)": "(-1.0,): must be epochs, each more than 0",
    "augment.flip_probability=2.0": "2.0: must be from 0 to 1",
    "model.num_stages=1000": "1000: must be at most 16",
    "model.blocks_per_unit=(3,4,6,1000)": "(3, 4, 6, 1000): must be at most 64",
    "crop_hw=(320000,64)": "(320000, 64): must be at most 4,096",
    "batch_size=1000000000": "1000000000: must be at most 1,048,576",
    "data.num_threads=1000000": "1000000: must be at most 1,024",
    "seed=4294967296": "4294967296: must be at most 4,294,967,295",
    "augment.hue_deg=181.0": "181.0: must be at most 180",
    "augment.rotation_deg=361.0": "361.0: must be at most 360",
    "augment.shift=11.0": "11.0: must be at most 10",
    "optimizer.encoder_rate=1001.0": "1001.0: must be at most 1,000",
    "optimizer.learning_rate=2e30": "2e+30: must be at most 1e+30",
    "data.first_people=2147483648": "2147483648: must be at most 2,147,483,647",
    "num_epochs=1000001": "1000001: must be at most 1,000,000",
    "accumulate=1048577": "1048577: must be at most 1,048,576",
    "dtype=float16": "'float16': must be float32 or bfloat16",
}


@pytest.mark.parametrize("assignment", BAD_VALUES)
def test_a_value_out_of_its_range_is_refused(assignment):
    with pytest.raises(UsageError) as error:
        ranges.check(changed(assignment))
    key = assignment.partition("=")[0]
    assert str(error.value) == f"config.{key}={BAD_VALUES[assignment]}"


def changed(assignment: str) -> ConfigDict:
    """The quickstart's config with another value."""
    key, _, text = assignment.partition("=")
    config = quickstart.get_config()
    try:
        value = ast.literal_eval(text)
    except ValueError:
        value = text if key == "dtype" else float(text)
    config.update_from_flattened_dict({key: value})
    return config


# What only a file can do: ml_collections refuses it on the command line.
BAD_GROUPS = {
    "config.optimizer: is missing": ("del", "optimizer"),
    "config.eval.flip_test: is missing": ("del", "eval.flip_test"),
    "config.foo: no such key; there are accumulate,": ("foo", 1),
    "config.data.rot: no such key; there are also,": ("data.rot", "x"),
    "config.optimizer.drop_epochs: is missing": ("optimizer", ConfigDict()),
    "config.eval=3: must be a ConfigDict of": ("eval", 3),
    "config.padding={}: must be a value such as 1.25": ("padding", ConfigDict()),
    "config.remat='no': must be True or False": ("remat", "no"),
    "config.eval.report=1: must be True or False": ("eval.report", 1),
    "config.data.root=3: must be a text": ("data.root", 3),
    "config.data.root=None: must be a text": ("data.root", None),
    "config.skeleton=Skeleton(name='coco',": ("skeleton", COCO),
    "config.seed=None: must be 0 or more": ("seed", None),
}


@pytest.mark.parametrize("message", BAD_GROUPS)
def test_a_file_cannot_change_what_the_keys_are(message):
    key, value = BAD_GROUPS[message]
    *groups, name = (value if key == "del" else key).split(".")
    config = inner = quickstart.get_config()
    for group in groups:
        inner = inner[group]
    with config.unlocked():
        if name in inner:
            del inner[name]
        if key != "del":
            inner[name] = value
    with pytest.raises(UsageError) as error:
        ranges.check(config)
    assert str(error.value).startswith(message) and len(str(error.value)) < 1000


@pytest.mark.parametrize("value", [64, (64.0, 64.0), None, "64", (64, 64, 64), 10**400, True])
def test_a_crop_size_is_two_whole_numbers(value):
    with pytest.raises(UsageError, match="must be two multiples of 32"):
        ranges.require("config.crop_hw", value, ranges.CROP)


def test_every_number_of_a_config_has_a_range():
    numbers = {
        key
        for key, value in ranges.flat(quickstart.get_config().to_dict()).items()
        if not isinstance(value, bool | str) and not key.endswith("_probability")
    }
    assert numbers <= ranges.RULES.keys()


@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE / "configs").glob("[!_]*.py")))
def test_the_published_configs_are_in_range(name):
    module = importlib.import_module(f"mspn_jax.configs.{name}")
    if name != "default":
        ranges.check(module.get_config())
