"""DeepLabCut's labels: labeled-data/VIDEO/CollectedData_SCORER.csv. Its .h5 holds the same."""

import csv
import pathlib
from typing import Any

from mspn_jax.annotation_tools import parsing
from mspn_jax.annotation_tools.finding import PictureIndex
from mspn_jax.annotation_tools.labelled import Dataset, Instance, LabelledPicture
from mspn_jax.errors import DataError

_HEADS = ("scorer", "individuals", "bodyparts", "coords")
_INDEX = 3  # columns of a path in parts: labeled-data, video, picture


def is_file(path: pathlib.Path) -> bool:
    """Whether a file is such a csv."""
    return path.suffix == ".csv" and parsing.read_text(path).startswith("scorer,")


def read(files: list[pathlib.Path], index: PictureIndex) -> Dataset:
    """Reads csv files of one or several animals. Limbs are those of the project's config.yaml."""
    dataset = Dataset("DeepLabCut", "animal", (), [])
    names: dict[str, None] = {}
    for file in files:
        rows = _rows(file)
        heads = {row[0]: row for row in rows[:4] if row[0] in _HEADS}
        if not {"bodyparts", "coords"} <= heads.keys():
            raise DataError(f"{file}: no rows bodyparts and coords: not DeepLabCut's csv")
        columns = _columns(heads)
        names |= dict.fromkeys(bodypart for _, bodypart in columns)
        for number, row in enumerate(rows[len(heads) :], len(heads) + 1):
            where = f"{file}, line {number}"
            dataset.pictures.append(_picture(row, columns, index, where))
    dataset.keypoint_names = tuple(names)
    dataset.limbs = _limbs(files, names)
    return dataset


def _rows(file: pathlib.Path) -> list[list[str]]:
    try:
        rows = list(csv.reader(parsing.read_text(file).splitlines()))
    except csv.Error as error:
        raise DataError(f"{file}: not csv ({error})") from None
    return [row for row in rows if row]


def _columns(heads: dict[str, list[str]]) -> dict[tuple[str, str], list[int]]:
    """(individual, bodypart) -> the columns of x and y."""
    columns: dict[tuple[str, str], list[int]] = {}
    for k, axis in enumerate(heads["coords"]):
        if k and axis in ("x", "y") and k < len(heads["bodyparts"]):
            individuals = heads.get("individuals", [])
            individual = individuals[k] if k < len(individuals) else ""
            columns.setdefault((individual, heads["bodyparts"][k]), []).append(k)
    return columns


def _picture(
    row: list[str],
    columns: dict[tuple[str, str], list[int]],
    index: PictureIndex,
    where: str,
) -> LabelledPicture:
    first = min((k for ks in columns.values() for k in ks), default=_INDEX)
    reference = "/".join(part for part in row[: min(first, _INDEX)] if part)
    path, _ = index.find(parsing.text(reference, where), where)
    instances: dict[str, Instance] = {}
    for (individual, bodypart), ks in columns.items():
        cells = [row[k].strip() if k < len(row) else "" for k in ks]
        if len(cells) != 2 or any(cell.lower() in ("", "nan") for cell in cells):
            continue
        x, y = parsing.numbers(cells, f"{where}: {bodypart}")
        keypoints = instances.setdefault(individual, Instance({})).keypoints
        keypoints[bodypart] = (x, y, 2)
    name = f"{path.parent.name}/{path.name}"  # the folder is the video's
    return LabelledPicture(name, path, list(instances.values()), source=where)


def _limbs(files: list[pathlib.Path], names: dict[str, None]) -> tuple[tuple[str, str], ...]:
    """`skeleton` of the project's config.yaml, three folders up, if it is there."""
    for folder in files[0].absolute().parents[:3]:
        config = folder / "config.yaml"
        if config.is_file():
            pairs: Any = parsing.read_yaml(config).get("skeleton")
            pairs = pairs if isinstance(pairs, list) else []
            return tuple(
                (pair[0], pair[1])
                for pair in pairs
                if isinstance(pair, list)
                and len(pair) == 2
                and all(isinstance(p, str) and p in names for p in pair)
            )
    return ()
