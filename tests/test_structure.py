"""Rules of the code's structure."""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

HERE = pathlib.Path(__file__).parents[1]
MODULES = sorted((HERE / "mspn_jax").rglob("*.py"))
VAGUE = {"utils", "util", "misc", "common", "core", "base", "helpers"}


def modules(text: str) -> set[str]:
    return {f"mspn_jax.{name}" for name in text.split()}


# Each module is in one room, and each name is a module, so that a rename must be made here too.
ROOMS = {
    "the method": modules(
        "convolution cpu devices folding heatmaps losses model optimizer pooling upsampling"
        " variables"
    ),
    "what needs no JAX": modules("allocator crops errors geometry onnx_session skeletons"),
    "the steps": modules("inference training"),
    "compiling": modules("compiled cost hardware"),
    "people in pictures": modules(
        "backends drawing finder following frame_boxes live_page one_call people people_files"
        " predictor smoothing tracking"
    ),
}
FOLDERS = modules(
    "annotation_tools commands data detector evaluation export reports serving storage synthetic"
    " weights"
)

INTERNAL_ERRORS = {"AbortError"}  # caught where they are raised


def imports(path: pathlib.Path) -> set[str]:
    """Returns the dotted names that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def name_of(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(HERE).with_suffix("").parts).removesuffix(".__init__")


def starts(names: set[str], *prefixes: str) -> set[str]:
    return {n for n in names if any(n == p or n.startswith(f"{p}.") for p in prefixes)}


def is_in(name: str, *rooms: str) -> bool:
    return bool(starts({name}, *(f"mspn_jax.{room}" for room in rooms)))


def test_every_module_is_in_a_room():
    names = {name_of(path) for path in MODULES} - {"mspn_jax", "mspn_jax.__main__"}
    alone = names - starts(names, *FOLDERS)
    assert alone == set().union(*ROOMS.values())
    assert names - alone >= FOLDERS


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_errors_that_a_user_can_meet_are_in_one_module(path):
    classes = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    ]
    raised = {each.name for each in classes if each.name.endswith("Error")} - INTERNAL_ERRORS
    assert not raised or name_of(path) == "mspn_jax.errors"


def test_no_two_names_differ_by_an_s():
    names = {name_of(path).rpartition(".")[2] for path in MODULES}
    assert not {name for name in names if f"{name}s" in names}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_data_and_pictures_need_no_jax(path):
    name = name_of(path)
    if (
        is_in(name, "annotation_tools", "data", "storage", "synthetic")
        or name in ROOMS["what needs no JAX"]
    ):
        assert not starts(imports(path), "jax", "flax", "optax", "orbax")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path):
    name, used = name_of(path), starts(imports(path), "mspn_jax")
    if name in ROOMS["the method"]:
        before = ROOMS["the method"] | ROOMS["what needs no JAX"]
        assert used == starts(used, *before)
    if is_in(name, "data"):
        assert used == starts(
            used, "mspn_jax.data", "mspn_jax.storage", *ROOMS["what needs no JAX"]
        )
    if is_in(name, "storage"):
        assert used == starts(used, "mspn_jax.storage", "mspn_jax.errors")
    if not is_in(name, "commands", "__main__"):
        assert not starts(used, "mspn_jax.commands")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_library_module_sees_a_config(path):
    if not is_in(name_of(path), "commands"):
        assert not starts(imports(path), "ml_collections", "absl.flags")


PRIVATE = ("orbax.checkpoint._src", "tensorboardX.proto", "tensorboardX.record_writer")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_private_names_of_libraries_are_in_one_place_each(path):
    if name_of(path) not in ("mspn_jax.weights.orbax_internals", "mspn_jax.reports.events"):
        assert not starts(imports(path), *PRIVATE)


def test_no_module_has_a_vague_name():
    assert not VAGUE & {path.stem for path in MODULES}


LONG = 60  # lines of a function; a command's main tells a story and may have more


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_function_is_long(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            is_story = is_in(name_of(path), "commands") and node.name == "main"
            assert is_story or node.end_lineno - node.lineno < LONG, node.name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrays_are_told_apart_as_numpys_and_jaxs(path):
    """The name `Array` would be ambiguous."""
    assert not [name for name in imports(path) if name.rpartition(".")[2] == "Array"]
    assert "\nArray = " not in path.read_text()


# Modules with tensors of a PyTorch file, columns, or arrays of any shape.
UNSHAPED = modules("data.validator storage.files weights.conversion weights.torch.state_dicts")


def annotations(path: pathlib.Path) -> Iterator[ast.expr]:
    """Yields the annotations of arguments, results, fields and variables."""
    for node in ast.walk(ast.parse(path.read_text())):
        annotation = getattr(node, "annotation", None) or getattr(node, "returns", None)
        if annotation is not None:
            yield annotation


def is_unshaped(annotation: ast.expr) -> bool:
    """Whether an annotation has an array that is not the first argument of a jaxtyping type."""
    text = ast.unparse(annotation)
    return bool(re.search(r"\b(np\.ndarray|jax\.Array)\b(?!, ['\"])", text))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_annotations_of_arrays_have_shapes(path):
    unshaped = [ast.unparse(each) for each in annotations(path) if is_unshaped(each)]
    assert bool(unshaped) == (name_of(path) in UNSHAPED), unshaped


MARK = "# fmt: " + "skip"


def test_code_is_formatted_by_ruff():
    """The mark is an exception: lower the number when one goes."""
    files = [*MODULES, *(HERE / "tests").rglob("*.py"), *(HERE / "benchmarks").rglob("*.py")]
    assert sum(path.read_text().count(MARK) for path in files) == 2
