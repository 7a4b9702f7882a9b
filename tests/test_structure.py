"""The rules of the house that a reader relies on."""

import ast
import pathlib

import pytest

HERE = pathlib.Path(__file__).parents[1]
MODULES = sorted((HERE / "mspn_jax").rglob("*.py"))
VAGUE = {"utils", "util", "misc", "common", "core", "base", "helpers"}
# What knows nothing of JAX, so that the data may use it
LEAVES = ("allocator", "geometry", "mirror", "skeletons", "storage")
ENTRY_POINTS_ONLY = {
    "program",
    "configured",
    "reports",
    "commands",
    "info",
    "compile",
}  # what only a program needs


def imports(path: pathlib.Path) -> set[str]:
    """Dotted names of what a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def name_of(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(HERE).with_suffix("").parts).removesuffix(".__init__")


def is_library(path: pathlib.Path) -> bool:
    return not ENTRY_POINTS_ONLY & {path.stem, path.parent.name}


def starts(names: set[str], *prefixes: str) -> set[str]:
    return {n for n in names if any(n == p or n.startswith(f"{p}.") for p in prefixes)}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_datas_source_imports_no_jax(path):
    if path.parent.name == "data" or path.stem in LEAVES:
        assert not starts(imports(path), "jax", "flax", "optax", "orbax")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path):
    name, used = name_of(path), imports(path)
    if name.removeprefix("mspn_jax.") in (
        "model",
        "convolution",
        "upsampling",
        "variables",
        "heatmaps",
        "losses",
        "optimizer",
    ):
        later = ("data", "training", "inference", "evaluation", "checkpoints")
        assert not starts(used, *(f"mspn_jax.{module}" for module in later))
    if name.startswith("mspn_jax.data."):
        leaves = tuple(f"mspn_jax.{name}" for name in LEAVES)
        allowed = starts(used, "mspn_jax.data", *leaves)
        assert starts(used, "mspn_jax") == allowed
    if is_library(path):
        assert not starts(used, *(f"mspn_jax.{module}" for module in ENTRY_POINTS_ONLY))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_library_module_sees_a_config(path):
    if is_library(path):
        assert not starts(imports(path), "ml_collections", "absl.flags")


def test_no_module_has_a_vague_name():
    assert not VAGUE & {path.stem for path in MODULES}
