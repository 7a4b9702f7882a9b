"""Which tool wrote an export, and its pictures and labels by that tool's reader."""

import contextlib
import pathlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from mspn_jax.annotation_tools import (
    coco_export,
    deeplabcut,
    label_studio,
    labelme,
    mpii,
    parsing,
    yolo_pose,
)
from mspn_jax.annotation_tools.finding import PictureIndex
from mspn_jax.annotation_tools.labelled import Dataset, LabelledPicture
from mspn_jax.data.coco import load_json
from mspn_jax.errors import DataError
from mspn_jax.skeletons import COCO
from mspn_jax.storage import leaving

OF_JSON = {
    "coco": coco_export.is_format,
    "label_studio": label_studio.is_format,
    "labelme": labelme.is_format,
    "mpii": mpii.is_format,
}
FORMATS = (*OF_JSON, "yolo_pose", "deeplabcut")
_WRITTEN_BY = (
    "COCO's json with keypoints (CVAT, Roboflow), Label Studio's JSON or JSON-MIN, labelme's json"
    " files, MPII's json as HRNet keeps it, a YOLO-pose yaml, or DeepLabCut's CollectedData csv"
)


@contextlib.contextmanager
def unpacked(sources: Sequence[str]) -> Iterator[list[pathlib.Path]]:
    """Gives the sources, each zip as a temporary folder of what it holds.

    Raises:
      DataError: a source does not exist, or is a damaged zip.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for source in sources:
            path = pathlib.Path(source)
            if not path.exists():
                raise DataError(f"{source}: no such file or folder")
            if path.suffix.lower() == ".zip" and path.is_file():
                folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
                stack.enter_context(leaving.undone(lambda folder=folder: shutil.rmtree(folder)))
                try:
                    with zipfile.ZipFile(path) as file:
                        file.extractall(folder / path.stem)
                except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:
                    raise DataError(f"{source}: not a whole zip ({error})") from None
                except OSError as error:
                    raise DataError(
                        f"{source}: cannot be unpacked into {folder} ({error.strerror}): unpack it"
                        " by hand and name its folder, or let TMPDIR name another place"
                    ) from None
                path = folder / path.stem
            found.append(path)
        yield found


def read(
    sources: Sequence[pathlib.Path],
    *,
    format: str = "auto",
    pictures: Sequence[pathlib.Path] = (),
    category: str = "",
    keypoint_names: tuple[str, ...] = (),
) -> Dataset:
    """Reads one data set from files and folders.

    Args:
      format: one of FORMATS, or "auto": by what the files hold.
      pictures: folders to look for pictures in, besides the sources.
      category: which of several categories; "": the only one, or all of those with equal keypoints.
      keypoint_names: all names in their order; empty: those of the export.

    Returns:
      The data set, with all names in order.

    Raises:
      DataError: no tool's files are found, or a file is wrong; it is named.
    """
    datasets = []
    for source in sources:
        each = _read(source, format, pictures, category, keypoint_names)
        if len(sources) > 1:
            for picture in each.pictures:
                picture.subset = source.stem
        datasets.append(each)
    dataset = datasets[0]
    for source, other in zip(sources[1:], datasets[1:]):
        dataset.add(other, source, sources[0])
    if not dataset.pictures:
        raise DataError(f"{sources[0]}: there are no annotated pictures in it")
    if not dataset.category:
        dataset.category = next(iter(dataset.labels)) if len(dataset.labels) == 1 else "instance"
    if not dataset.keypoint_names:
        dataset.keypoint_names = keypoint_names or _names_in_use(dataset.pictures)
    if not dataset.keypoint_names:
        raise DataError(f"{sources[0]}: there are no keypoints in it")
    _check_known(dataset)
    return dataset


def _read(
    source: pathlib.Path,
    format: str,
    pictures: Sequence[pathlib.Path],
    category: str,
    names: tuple[str, ...],
) -> Dataset:
    kind, files = recognise(source, format)
    if kind == "yolo_pose":
        return yolo_pose.read(files[0], category, names)
    for folder in pictures:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of pictures")
    index = PictureIndex([*pictures, _picture_folder(source)])
    if not len(index) and kind != "labelme":
        where = ", ".join(map(str, index.folders))
        raise DataError(
            f"{source}: there are no pictures in {where}; --pictures names their folder"
        )
    if kind == "coco":
        return coco_export.read(files, index, category, names)
    if kind == "deeplabcut":
        return deeplabcut.read(files, index)
    if kind == "mpii":
        return mpii.read(files, index)
    reader = label_studio if kind == "label_studio" else labelme
    return reader.read(files, index, category)


def recognise(source: pathlib.Path, format: str = "auto") -> tuple[str, list[pathlib.Path]]:
    """One of FORMATS, and the files with the labels.

    Raises:
      DataError: the source holds no tool's files, or those of several tools.
    """
    found: dict[str, list[pathlib.Path]] = {}
    for path in _label_files(source):
        kind = _kind(path)
        if kind:
            found.setdefault(kind, []).append(path)
    if format != "auto":
        found = {kind: paths for kind, paths in found.items() if kind == format}
    if not found:
        kinds = _WRITTEN_BY if format == "auto" else f"files of format {format}"
        raise DataError(f"{source}: no known export; expected {kinds}")
    if len(found) > 1:
        raise DataError(f"{source}: holds files of {', '.join(sorted(found))}; --format names one")
    ((kind, paths),) = found.items()
    if kind == "yolo_pose" and len(paths) > 1:
        raise DataError(f"{source}: holds {len(paths)} yaml files; name one of them: {paths[0]}")
    if kind == "coco":
        ours = [path for path in paths if path.name.startswith("person_keypoints_")]
        paths = ours or [p for p in paths if not p.name.startswith(("captions_", "instances_"))]
    return kind, paths or found[kind]


def _label_files(source: pathlib.Path) -> list[pathlib.Path]:
    if source.is_file():
        return [source]
    found = sorted(source.glob("annotations/person_keypoints_*.json"))
    if found:  # COCO's other files take minutes
        return found
    for ending in ("json", "yaml", "yml", "csv"):
        found += [
            path
            for path in sorted(source.rglob(f"*.{ending}"))
            if not any(part.startswith(".") for part in path.relative_to(source).parts)
        ]
    return found


def _kind(path: pathlib.Path) -> str:
    """Whose file it is; "": nobody's that is known."""
    with contextlib.suppress(DataError):
        if path.suffix in (".yaml", ".yml") and yolo_pose.is_format(parsing.read_yaml(path)):
            return "yolo_pose"
        if path.suffix == ".csv" and deeplabcut.is_file(path):
            return "deeplabcut"
    if path.suffix in (".yaml", ".yml", ".csv"):
        return ""
    content: Any = load_json(path)
    return next((kind for kind, is_its in OF_JSON.items() if is_its(content)), "")


def _picture_folder(source: pathlib.Path) -> pathlib.Path:
    """The source's folder; for a json of annotations/ or MPII's annot/ the folder above."""
    if source.is_dir():
        return source
    is_below = source.parent.name in ("annotations", "annot")
    return source.parent.parent if is_below else source.parent


def _names_in_use(pictures: list[LabelledPicture]) -> tuple[str, ...]:
    """Names of keypoints in COCO's order, if all are COCO's, and else as they came."""
    names = {name: None for p in pictures for each in p.instances for name in each.keypoints}
    known = COCO.keypoint_names
    return tuple(n for n in known if n in names) if set(names) <= set(known) else tuple(names)


def _check_known(dataset: Dataset) -> None:
    known = set(dataset.keypoint_names)
    for picture in dataset.pictures:
        for instance in picture.instances:
            for name in instance.keypoints:
                if name not in known:
                    raise DataError(
                        f"{picture.source}: keypoint {name!r} is none of"
                        f" {', '.join(dataset.keypoint_names)}; correct it, or --keypoint_names"
                    )
