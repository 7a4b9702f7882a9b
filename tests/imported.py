"""What training reads of an export after `mspn import`; the drawn pictures of the exports."""

import json
import pathlib

import numpy as np
import tool_exports as tools
from tool_exports import NAMES, Shot

from mspn_jax.annotation_tools import folder, sources
from mspn_jax.annotation_tools.labelled import LeftOut
from mspn_jax.commands import configured
from mspn_jax.configs import quickstart
from mspn_jax.data.annotations import Annotations
from mspn_jax.data.validator import read_annotations
from mspn_jax.skeletons import Skeleton
from mspn_jax.synthetic.animals import QUADRUPED

SHOTS = tools.drawn(9)


def imported(
    root: pathlib.Path, *exports: pathlib.Path, copy: bool = False, box_margin: float = 0.1, **given
) -> tuple[Annotations, Skeleton, LeftOut]:
    """What training reads of an export after `mspn import`."""
    output = root / "imported"
    with sources.unpacked(list(map(str, exports))) as places:
        dataset = sources.read(places, **given)
        folder.write(dataset, output, box_margin=box_margin, copy=copy)
    config = quickstart.get_config()
    config.skeleton, config.data.root, config.data.train_split = "", str(output), folder.ALL
    skeleton = configured.skeleton_of(config)
    assert not (output / "skeleton.json").exists()  # it would repeat the json
    read = read_annotations(root=output, split=folder.ALL, skeleton=skeleton)
    return read, skeleton, dataset.left_out


def check_same(
    read: Annotations,
    skeleton: Skeleton,
    shots: list[Shot],
    *,
    boxes: bool,
    hidden: bool = True,
    name=lambda shot: shot.name,
) -> None:
    """Every keypoint within 1e-6 of a pixel, with its name, picture and visibility."""
    order = [skeleton.keypoint_names.index(n) for n in NAMES]
    assert set(skeleton.keypoint_names) == set(NAMES)
    mirrored = [NAMES[k] for k in QUADRUPED.flip_permutation]
    flips = skeleton.flip_permutation[order]
    assert [skeleton.keypoint_names[k] for k in flips] == mirrored
    by_name = {picture.file_name: picture for picture in read.pictures()}
    assert by_name.keys() == {name(shot) for shot in shots}
    for shot in shots:
        picture = by_name[name(shot)]
        assert picture.image_hw == shot.size[::-1]
        assert (read.file.parents[1] / "images" / name(shot)).read_bytes() == shot.jpeg
        assert len(picture.boxes_xywh) == len(shot.triples)
        rows = read.image_rows == read.file_names.index(name(shot))
        for n, (xyv, box) in enumerate(zip(shot.triples, shot.boxes)):
            found = read.keypoints_image_xy[rows][n, order]
            visibility = read.visibility[rows][n, order]
            expected = xyv[:, 2] if hidden else 2 * (xyv[:, 2] > 0)
            np.testing.assert_array_equal(visibility, expected)
            is_labelled = xyv[:, 2] > 0
            np.testing.assert_allclose(found[is_labelled], xyv[is_labelled, :2], atol=1e-6)
            if boxes:
                np.testing.assert_allclose(read.boxes_xywh[rows][n], box, atol=1e-6)


def changed(path: pathlib.Path, change) -> pathlib.Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path.parent
