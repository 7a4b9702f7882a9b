"""Ultralytics' YOLO-pose: a yaml, and a text file beside each picture with a row an instance."""

import pathlib
from typing import Any

from mspn_jax.annotation_tools import parsing
from mspn_jax.annotation_tools.labelled import Box, Dataset, Instance, Keypoint, LabelledPicture
from mspn_jax.data.pictures import PICTURE_ENDINGS
from mspn_jax.errors import DataError
from mspn_jax.skeletons import COCO, mirror_name

_SUBSETS = ("train", "val", "test")


def is_format(content: Any) -> bool:
    """Whether a yaml's content is a pose data set's."""
    return isinstance(content, dict) and "kpt_shape" in content


def read(file: pathlib.Path, category: str, names: tuple[str, ...]) -> Dataset:
    """Reads the data set of a yaml."""
    content = parsing.read_yaml(file)
    count, dims = _shape(content, file)
    classes = _classes(content, file)
    if category and category not in classes.values():
        there = ", ".join(classes.values())
        raise DataError(f"{file}: no class {category!r}; there are: {there}")
    dataset = Dataset("YOLO-pose", category, (), [])
    dataset.keypoint_names = names or _names(content, file, count, dataset)
    if len(dataset.keypoint_names) != count:
        raise DataError(
            f"{file}: kpt_shape has {count} keypoints, and {len(dataset.keypoint_names)} names are"
            " given"
        )
    dataset.labels = dict.fromkeys(classes.values())
    for subset in _SUBSETS:
        for picture, folder in _pictures(content.get(subset), content, file):
            rows = _label_file(picture)
            if not rows.is_file():
                what = f"pictures without a text file in {subset}, left out"
                dataset.left_out.add(what, str(picture))
                continue
            name = picture.relative_to(folder).as_posix()
            new = LabelledPicture(name, picture, [], None, subset, str(rows), in_shares=True)
            for number, row in enumerate(parsing.read_text(rows).splitlines(), 1):
                if row.strip():
                    label, instance = _instance(row, dims, dataset, f"{rows}, line {number}")
                    if category in ("", classes.get(label, "")):
                        new.instances.append(instance)
            dataset.pictures.append(new)
    return dataset


def _instance(row: str, dims: int, dataset: Dataset, where: str) -> tuple[int, Instance]:
    """Reads a row: the class, the box (center x, y, width, height), then each keypoint (x, y, and
    a visibility if `dims` is 3). Positions and sizes are, and stay, shares of the picture's sides.
    """
    count = len(dataset.keypoint_names)
    values = parsing.numbers(row.split(), where)
    if len(values) != 5 + count * dims:
        raise DataError(
            f"{where}: has {len(values)} numbers; expected {5 + count * dims}: class, box and"
            f" {dims} for each of {count} keypoints (kpt_shape)"
        )
    label, x, y, width, height = values[:5]
    keypoints: dict[str, Keypoint] = {}
    for k, name in enumerate(dataset.keypoint_names):
        at = values[5 + k * dims : 5 + (k + 1) * dims]
        if dims == 3 and at[2] not in (0, 1, 2):
            raise DataError(f"{where}: the visibility of {name} is {at[2]:g}; expected 0, 1 or 2")
        # Without a visibility, a keypoint at the corner, or beyond it, is not labelled.
        visibility = int(at[2]) if dims == 3 else 2 * (at[0] > 0 or at[1] > 0)
        if visibility:
            keypoints[name] = (at[0], at[1], visibility)
    box: Box = (x - width / 2, y - height / 2, width, height)
    return int(label), Instance(keypoints, box)


def _shape(content: dict[str, Any], file: pathlib.Path) -> tuple[int, int]:
    shape = parsing.items(content["kpt_shape"], f"{file}: kpt_shape")
    is_good = len(shape) == 2 and all(type(n) is int for n in shape) and shape[1] in (2, 3)
    if not is_good or not 1 <= shape[0] <= 10_000:
        raise DataError(f"{file}: kpt_shape must be [number of keypoints, 2 or 3]")
    return shape[0], shape[1]


def _classes(content: dict[str, Any], file: pathlib.Path) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    pairs = parsing.mapping(names if names else {0: "instance"}, f"{file}: names").items()
    return {k: str(name) for k, name in pairs if type(k) is int} or {0: "instance"}


def _names(
    content: dict[str, Any], file: pathlib.Path, count: int, dataset: Dataset
) -> tuple[str, ...]:
    """Names whose words left and right say what `flip_idx` says."""
    flip = parsing.items(content.get("flip_idx"), f"{file}: flip_idx")
    if flip and (
        not all(type(k) is int for k in flip)
        or sorted(flip) != list(range(count))
        or any(flip[flip[k]] != k for k in flip)
    ):
        raise DataError(
            f"{file}: flip_idx must have each of 0 to {count - 1} once, and exchange them in pairs"
        )
    given = content.get("kpt_names")
    if isinstance(given, dict):  # class -> names
        given = next(iter(given.values()), None)
    if given:
        names = [parsing.text(n, f"{file}: kpt_names") for n in parsing.items(given, f"{file}")]
    elif flip == COCO.flip_permutation.tolist():
        dataset.left_out.add("skeleton taken for COCO's, as flip_idx is COCO's", str(file))
        return COCO.keypoint_names
    else:
        names = [f"keypoint_{k}" for k in range(count)]
    if len(names) != count or not flip:
        return tuple(names)
    for k, other in enumerate(flip):
        mirror = mirror_name(names[k])
        if mirror == names[other]:
            continue
        if mirror != names[k]:
            raise DataError(
                f"{file}: flip_idx makes {names[other]} the mirror image of {names[k]}, and the"
                f" name says {mirror}; correct one of them"
            )
        what = "pairs of flip_idx named by the first of them with _left and _right"
        dataset.left_out.add(what, f"{names[k]}, {names[other]}")
        names[k], names[other] = f"{names[k]}_left", f"{names[k]}_right"
    return tuple(names)


def _pictures(
    entry: Any, content: dict[str, Any], file: pathlib.Path
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """The pictures of a subset, each with the folder its name starts from."""
    if entry is None or entry == "":
        return []
    found: list[tuple[pathlib.Path, pathlib.Path]] = []
    for each in entry if isinstance(entry, list) else [entry]:
        place = _place(parsing.text(each, f"{file}: a subset"), content, file)
        if place.is_file():
            lines = parsing.read_text(place).split("\n")
            paths = [place.parent / line.strip() for line in lines if line.strip()]
            missing = [path for path in paths if not path.is_file()]
            if missing:
                raise DataError(f"{place}: there is no picture {missing[0]}")
            found += [(path, path.parent) for path in paths]
            continue
        pictures = sorted(
            path
            for path in place.rglob("*")
            if path.suffix.lower() in PICTURE_ENDINGS and path.is_file()
        )
        found += [(path, place) for path in pictures]
    return found


def _place(entry: str, content: dict[str, Any], file: pathlib.Path) -> pathlib.Path:
    """A folder or list of pictures: `path` is often of another machine."""
    root = content.get("path")
    root = root if isinstance(root, str) else ""
    inside = entry.replace("\\", "/")
    while inside.startswith(("../", "./")):  # Roboflow's, which start from elsewhere
        inside = inside.partition("/")[2]
    tries = [
        file.parent / root / entry,
        file.parent / entry,
        file.parent / pathlib.PurePath(root).name / inside,
        file.parent / inside,
        file.parent.parent / inside,
    ]
    for place in tries:
        if place.exists():
            return place.absolute()
    raise DataError(
        f"{file}: there is no {entry!r}, neither in its path ({root or 'none given'}) nor beside"
        " the yaml; correct path to be the folder of the pictures"
    )


def _label_file(picture: pathlib.Path) -> pathlib.Path:
    """.../images/a/b.jpg -> .../labels/a/b.txt; beside the picture where no folder is images."""
    parts = list(picture.with_suffix(".txt").parts)
    for k in range(len(parts) - 2, -1, -1):
        if parts[k] == "images":
            parts[k] = "labels"
            break
    return pathlib.Path(*parts)
