"""The commands in the README and docs/ exist, and the marked ones run.

Each command in a block of shell is taken apart: flags, config keys and their values, config files,
make's targets and pip's extras must exist. A block after the comment

    <!-- tests run this with: --flag=value ... -->

is one command, and the tests run it with these flags added. The blocks of a page run in their
order, in one folder.
"""

import collections
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable

import cv2
import numpy as np
import pytest
from test_structure import FOLDERS, ROOMS

from commands import help_of
from mspn_jax.heatmaps import KERNEL_SIZES, target_levels
from mspn_jax.model import MSPN, NUM_UNITS
from mspn_jax.variables import variable_shapes

HERE = pathlib.Path(__file__).parents[1]
PAGES = [HERE / "README.md", *sorted((HERE / "docs").glob("*.md"))]
IMPORTED = "data/mine/config.py"  # mspn import writes it
PROGRAMS = sorted(path.stem for path in HERE.glob("*.py"))  # with absl's flags
OTHER_COMMANDS = {".", "curl", "mkdir", "cd", "unzip", "rm", "export", "git", "docker"}
BLOCK = re.compile(
    r"^(?:<!-- tests run this with: (?P<extra>.*?) -->\n)?```sh\n(?P<text>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


def commands_of(text: str) -> list[list[str]]:
    """The commands of a block of shell, as words; lines and their parts joined by && one by one."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [_python(w for w in command if w not in "()") for command in words if command]


def _python(words: Iterable[str]) -> list[str]:
    """`mspn ...` as `python -m mspn_jax ...`."""
    first, *rest = words
    return ["python", "-m", "mspn_jax", *rest] if first == "mspn" else [first, *rest]


def inline_commands(text: str) -> list[list[str]]:
    """Commands within a line, but for those with placeholders in capitals or brackets."""
    found = re.findall(r"`((?:python|mspn) [^`]*)`", text)
    return [_python(shlex.split(c)) for c in found if not re.search(r"\b[A-Z]+\b|\[", c)]


def all_commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every command."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in BLOCK.finditer(text):
            found += [(page.name, words) for words in commands_of(block["text"])]
        found += [(page.name, words) for words in inline_commands(text)]
    return found


def test_every_command_is_of_a_kind_that_is_checked():
    kinds = {*OTHER_COMMANDS, "python", "make", "pip"}
    assert [c for c in all_commands() if c[1][0].lstrip("(") not in kinds] == []
    assert len([c for c in all_commands() if c[1][0] == "python"]) > 10


def arguments_of(program: str) -> list[tuple[str, list[str]]]:
    """(page, arguments) of every `python PROGRAM.py ...` and `mspn PROGRAM ...`."""
    begins = (["python", f"{program}.py"], ["python", "-m", "mspn_jax", program])
    found = [
        (page, words[len(begin) :])
        for page, words in all_commands()
        for begin in begins
        if words[: len(begin)] == begin
    ]
    return [(page, arguments) for page, arguments in found if arguments not in ([], ["--help"])]


# absl checks the flags and ml_collections the config's keys, in a process that ends before main.
CHECK = """
import importlib, json, os, sys
from mspn_jax.commands import program
name, commands = json.loads(sys.stdin.read())
importlib.import_module(f"mspn_jax.commands.{name}")
for i, arguments in enumerate(commands):
    if os.fork() == 0:
        sys.argv = [f"{name}.py", *arguments, "--only_check_args"]
        program.run(lambda: None)
    if os.wait()[1]:
        print(i)
"""


@pytest.mark.parametrize("program", [*PROGRAMS, "compile", "info"])
def test_flags_and_config_keys_are_the_programs_own(program):
    given = arguments_of(program)
    assert given, f"no page shows {program}.py"
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        input=json.dumps([program, [a for _, a in given]]).replace(IMPORTED, "configs/animals.py"),
        text=True,
        capture_output=True,
        cwd=HERE,
        env=os.environ | {"PYTHONPATH": str(HERE)},
    )
    assert done.returncode == 0, done.stderr
    refused = [given[int(i)] for i in done.stdout.split()]
    assert not refused, f"{refused}\n{done.stderr}"


def test_flags_of_modules_and_scripts_are_in_their_help():
    flags = collections.defaultdict(set)
    for _, words in all_commands():
        if words[0] == "python" and pathlib.Path(words[1]).stem not in PROGRAMS:
            length = 1 if words[1] != "-m" else 3 if words[2] == "mspn_jax" else 2
            target = words[1 : 1 + length]
            if target[-1] in PROGRAMS:  # checked above
                continue
            rest = words[1 + len(target) :]
            flags[tuple(target)] |= {
                w.partition("=")[0] for w in rest if re.match(r"--(?!config\.|help$)", w)
            }
    assert flags
    flags.pop(("-m", "venv"))
    for (target, used), said in zip(flags.items(), help_of(list(flags)), strict=True):
        assert used <= set(re.findall(r"--\w+", said)), target


def test_targets_of_make_and_extras_of_pip_exist():
    targets = set(re.findall(r"^([\w-]+):", (HERE / "Makefile").read_text(), re.MULTILINE))
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    for page, words in all_commands():
        if words[0] == "make":
            assert {w for w in words[1:] if "=" not in w} <= targets, page
        if words[0] == "pip":
            lists = [each for w in words for each in re.findall(r"\.\[(.*)\]", w)]
            extras = {extra for each in lists for extra in each.split(",")}
            assert extras <= set(project["optional-dependencies"]), page


@pytest.mark.parametrize("page", [p for p in PAGES if "tests run this" in p.read_text()], ids=str)
@pytest.mark.slow
def test_the_marked_commands_of_a_page_run_in_their_order(page, tmp_path):
    for name in ("configs", *(f"{program}.py" for program in PROGRAMS)):
        (tmp_path / name).symlink_to(HERE / name)
    for block in BLOCK.finditer(page.read_text()):
        if block["extra"]:
            ((_, *arguments),) = commands_of(block["text"])
            done = subprocess.run(
                [sys.executable, *arguments, *shlex.split(block["extra"])],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(HERE)},
            )
            assert done.returncode == 0, f"{arguments}: {done.stderr[-2000:]}"


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    for file, anchor in targets:
        path = page.parent / file if file else page
        assert path.exists(), file
        assert not anchor or anchor in anchors(path), f"{file}#{anchor}"


WALKS = (HERE / "docs" / "how_it_works.md").read_text()
FILE = re.compile(r"`((?:\w+/)*\w+\.py)`")


def is_of(room: str, file: str) -> bool:
    """Whether a file below mspn_jax/ is in a folder, or in a room of test_structure.py."""
    if f"mspn_jax.{room}" in FOLDERS:
        return file.startswith(f"{room}/")
    return f"mspn_jax.{file.removesuffix('.py')}" in ROOMS[room]


def test_every_file_of_the_walks_exists():
    files = set(FILE.findall(WALKS))
    places = (HERE / "mspn_jax", HERE)
    assert {f for f in files if not any((place / f).is_file() for place in places)} == set()


def test_the_walks_name_every_file_of_data_and_of_the_method():
    package = HERE / "mspn_jax"
    modules = {p.relative_to(package).as_posix() for p in package.rglob("*.py")}
    wanted = {m for m in modules if is_of("data", m) or is_of("the method", m)}
    assert wanted - {"data/__init__.py"} - set(FILE.findall(WALKS)) == set()


def test_a_walk_enters_each_room_once():
    walks = re.findall(r"^### From .*?(?=^##)", WALKS, re.DOTALL | re.MULTILINE)
    assert len(walks) == 3
    for walk in walks:
        rows = [row.split("|")[1:3] for row in walk.splitlines() if FILE.search(row) and "|" in row]
        rooms = [room.strip(" `") for room, _ in rows]
        assert len(rooms) == len(set(rooms)) > 2
        for room, (_, files) in zip(rooms, rows):
            assert [f for f in FILE.findall(files) if not is_of(room, f)] == []


def test_the_figure_of_the_network_is_the_networks():
    svg = (HERE / "docs" / "mspn.svg").read_text().replace("\N{MULTIPLICATION SIGN}", "x")
    said = collections.Counter(re.findall(r">([^<>]+)</text>", svg))
    model, heatmap_hw = MSPN(2), (64, 48)
    params = variable_shapes(model, (256, 192))["params"]
    for layer, blocks in enumerate(model.blocks_per_unit):
        channels = params["stage0"][f"layer{layer + 1}_block{blocks - 1}"]["conv3"]["bias"].shape[0]
        size = "x".join(str(side // 2**layer) for side in heatmap_hw)
        unit = params["stage0"][f"unit{layer}_lateral"]["bias"].shape[0]
        assert said[f"layer {layer + 1}: {blocks} blocks"] == said[f"unit {layer}"] == 2
        assert said[f"{channels} x {size}"] >= 2 and said[f"{unit} x {size}"] >= 2
    levels = target_levels(2, NUM_UNITS, len(KERNEL_SIZES))
    expected = collections.Counter(f"level {level}" for stage in levels for level in stage)
    assert {name: n for name, n in said.items() if name.startswith("level")} == expected
    next_input = params["stage0"]["next_stage_input"]["bias"].shape[0]
    assert f"1x1 to {next_input} channels" in said


def test_the_figures_are_what_the_code_draws(tmp_path):
    subprocess.run(
        [sys.executable, HERE / "docs" / "figures.py", "--output", tmp_path],
        check=True,
        env=os.environ | {"PYTHONPATH": str(HERE)},
    )
    kept, drawn = (
        {p.name: p for p in (folder / "figures").iterdir()} for folder in (HERE / "docs", tmp_path)
    )
    assert kept.keys() == drawn.keys()
    for name, path in kept.items():
        one, other = (cv2.imread(str(p)).astype(float) for p in (path, drawn[name]))
        assert one.shape == other.shape, name
        assert np.abs(one - other).mean() < 1, f"{name}: python docs/figures.py draws it anew"


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings", reason="pip install -e '.[docs]'")
    pytest.importorskip("material", reason="pip install -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        capture_output=True,
        text=True,
        cwd=HERE,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "own_data" / "index.html").is_file()


@pytest.mark.parametrize("page", ["README.md", "docs/training.md"])
def test_who_looks_for_pmap_finds_what_took_its_place(page):
    text = (HERE / page).read_text()
    assert "`jax.pmap`" in text and "`jax.shard_map`" in text
