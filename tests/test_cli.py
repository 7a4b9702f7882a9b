"""mspn: the list of commands, their help, configs by name and as files, and the wheel."""

import ast
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import mutations
import pytest
from ml_collections import ConfigDict

from commands import HERE, environment, help_of, run, run_all
from mspn_jax.commands import ranges
from mspn_jax.commands.cli import COMMANDS
from mspn_jax.configs import quickstart
from mspn_jax.errors import UsageError
from mspn_jax.skeletons import COCO


def test_mspn_alone_lists_the_commands():
    done = run("mspn_jax")
    assert done.returncode == 0
    for name, command in COMMANDS.items():
        assert f"  {name} " in done.stdout and command.does in done.stdout


def test_a_misspelt_command_is_answered_with_the_right_one():
    done = run("mspn_jax", "trian")
    assert (done.returncode, done.stderr) == (
        1,
        "error: trian: no such command; did you mean train?\n",
    )


def test_every_command_has_help():
    without_config = {"predict", "download", "convert", "serve", "import", "split", "export"}
    texts = help_of([("-m", "mspn_jax", name) for name in COMMANDS])
    for name, text in zip(COMMANDS, texts, strict=True):
        has_config = name not in without_config
        assert ("--config.batch_size=256  (of all devices together)" in text) == has_config, name
        assert ("--coordinator" in text) == (name in ("train", "eval")), name


def test_help_exits_with_0():
    done = run("mspn_jax", "train", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config.batch_size=256" in done.stdout


@pytest.mark.slow
def test_a_config_has_a_name_or_a_file(tmp_path):
    by_name = run("mspn_jax", "info", "--config", "quickstart")
    by_file = run("mspn_jax", "info", f"--config={HERE}/configs/quickstart.py")
    assert by_name.returncode == 0 and by_name.stdout == by_file.stdout
    unknown = run("mspn_jax", "info", "--config", "quickstrat")
    assert unknown.returncode == 1
    assert "--config quickstrat: neither a file nor one of" in unknown.stderr
    shared = run("mspn_jax", "info", "--config", "default")
    assert shared.returncode == 1
    assert "--config: get_config needs arguments there; name one of 2xmspn50" in shared.stderr
    folder = run("mspn_jax", "info", "--config", tmp_path)
    assert folder.stderr == f"error: {tmp_path}: a folder, not a config\n"


def test_a_misspelt_key_in_a_file_is_refused_as_on_the_command_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from mspn_jax.configs import quickstart\n\n\ndef get_config():\n"
        "    config = quickstart.get_config()\n    config.batchsize = 8\n    return config\n"
    )
    for arguments in (["--config", path], ["--config", "quickstart", "--config.batchsize=8"]):
        done = run("mspn_jax", "train", "--workdir", tmp_path / "run", *arguments)
        assert done.returncode == 1 and not (tmp_path / "run").exists()
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and 'Did you mean "batch_size"' in line


@pytest.mark.slow
def test_the_wheel_trains_the_quickstart(root, tmp_path):
    """Its dependencies are this environment's."""
    source = tmp_path / "source"  # setuptools leaves a build folder
    ignored = shutil.ignore_patterns(".*", "runs", "data", "site", "*.egg-info", "__pycache__")
    shutil.copytree(HERE, source, symlinks=True, ignore=ignored)
    shutil.copytree(HERE / "mspn_jax" / "data", source / "mspn_jax" / "data", dirs_exist_ok=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            tmp_path,
            source,
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)

    def mspn(*arguments: object) -> None:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mspn_jax", *map(str, arguments)],
            cwd=tmp_path,
            env=environment() | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    data = f"--config.data.root={root}"
    mspn("train", "--config", "quickstart", "--workdir", "run", data, "--config.num_steps=2")
    mspn("eval", "--config", "quickstart", "--checkpoint", "run", data, "--report", "report")
    mspn("browse", "--config", "quickstart", "--output", "browsed", data)
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    assert (tmp_path / "report" / "report.html").is_file()
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import mspn_jax; print(mspn_jax.__file__)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert pathlib.Path(where.stdout.strip()).is_relative_to(installed)


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


HEAD = """from mspn_jax.configs import default


def get_config():
    config = default.get_config("mine", num_stages=1)
"""
BAD_FILES = {
    "    config.optimizer.lr = 1\n    return config\n": 'line 6: Key "lr" does not exist',
    "    config.batch_size = = 8\n    return config\n": "line 6: invalid syntax",
    "    import nothing_there\n    return config\n": "line 6: No module named 'nothing_there'",
    "    return config.to_dict()\n": "mine.py: get_config must return a ConfigDict",
    "    config.seed = 1\n": "mine.py: get_config must return a ConfigDict",
    "    1 / 0\n": "mine.py, line 6: division by zero",
    "    raise RuntimeError('one\\ntwo')\n": "mine.py, line 6: one two",
    "    x = '\0'\n": "mine.py: source code string cannot contain null bytes",
    "    config.eval = 3\n    return config\n": "Could not override field 'eval'",
    "    config.num_epochs = 0\n    return config\n": "config.num_epochs=0: must be 1 or more",
}


def test_a_bad_config_file_is_one_line(tmp_path):
    paths = [tmp_path / str(number) / "mine.py" for number in range(len(BAD_FILES))]
    for path, body in zip(paths, BAD_FILES):
        path.parent.mkdir()
        path.write_text(HEAD + body)
    done = run_all([("-m", "mspn_jax", "info", "--config", str(path)) for path in paths])
    for each, message in zip(done, BAD_FILES.values(), strict=True):
        assert each.returncode == 1 and each.stderr.count("\n") == 1, each
        assert each.stderr.startswith("error: ") and message in each.stderr


NO_CONFIG = HERE / "tests" / "commands.py"
BAD_FLAGS = {
    "train --config quickstart --workdir=": "--workdir: is empty; give it a value, or leave it out",
    "train --config quickstart": "--workdir: is missing; --help lists the flags",
    "train --workdir=new": "--config: is missing; --help lists the flags",
    f"info --config {NO_CONFIG}": f"{NO_CONFIG}: module 'config_config' has no attribute",
    f"info --config {HERE}/configs/quickstart.py:3": "quickstart.py:3: TypeError: get_config() tak",
    "info --config quickstart --config.model.depth=17": "the config has no key 'depth'.",
    "info --config quickstart --config.sead=17": "the config has no key 'sead'. Did you mean",
    "info --config quickstart --config.seed=1.5": "--config.seed=1.5: invalid literal for int()",
    "eval --config quickstart --checkpoint x --output=": "--output: is empty; give it a value",
    "eval --config quickstart --checkpoint x --pictures=-1": "--pictures=-1: -1 is not a non-neg",
    "predict --source= --whole_picture": "--source: is empty; give it a value, or leave it out",
    "predict x.jpg --min_score=nan": "--min_score=nan: must be a finite number",
    "predict http://[::1": "http://[::1: is no address (Invalid IPv6 URL)",
    "import x.zip --output=new --keypoint_names=a,": "--keypoint_names: is empty; give it a value",
    "split data --val=nan": "--val=nan: must be a finite number",
    "split data --train_name=../x": "--train_name, --val_name: only letters, digits,",
}


def test_a_bad_flag_is_one_line():
    lines = [("-m", "mspn_jax", *line.split()) for line in BAD_FLAGS]
    lines.append(("-m", "mspn_jax", "import", "", "--output=new"))  # "" is not the current folder
    messages = [*BAD_FLAGS.values(), "an argument is empty; give it a value, or leave it out"]
    for done, message in zip(run_all(lines), messages, strict=True):
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done
        assert done.stderr.startswith("error: ") and message in done.stderr


def test_control_characters_in_a_files_name_are_written_out(tmp_path):
    content = mutations.sound_content()
    content["images"][0]["file_name"] = "a\n\x1b[31mb.jpg"
    text = json.dumps(content)
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        (tmp_path / "annotations" / f"person_keypoints_{split}.json").write_text(text)
    given = ("--config", "quickstart", f"--config.data.root={tmp_path}")
    done = run("mspn_jax", "train", *given, "--workdir", tmp_path / "run")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.endswith(r"(a\n\x1b[31mb.jpg, 2.jpg): unpack the split's pictures there")


def test_a_file_as_workdir_is_refused(tmp_path):
    (tmp_path / "run").write_text("notes")
    done = run("mspn_jax", "train", "--config", "quickstart", "--workdir", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr == f"error: --workdir={tmp_path}/run: is a file; a folder is needed\n"
