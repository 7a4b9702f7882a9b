"""Exports as annotation tools write them, made of known pictures and keypoints.

Formats: CVAT's are those of its COCO Keypoints 1.0; Label Studio's JSON, JSON-MIN and COCO;
labelme 5; Ultralytics' data sets for pose; DeepLabCut's CSV.
"""

import base64
import dataclasses
import json
import pathlib
from typing import Any

import cv2
import numpy as np
import yaml

from mspn_jax.synthetic import animals
from mspn_jax.synthetic.animals import QUADRUPED

NAMES = QUADRUPED.keypoint_names


@dataclasses.dataclass
class Shot:
    """A picture as the tests know it: triples are (K, 3), boxes x, y, width, height."""

    name: str
    jpeg: bytes
    size: tuple[int, int]
    triples: list[np.ndarray]
    boxes: list[list[float]]


def drawn(count: int, start: int = 0, size: tuple[int, int] = (160, 120)) -> list[Shot]:
    """Pictures of animals whose keypoints have fractions of pixels, and which lack some."""
    shots = []
    for i in range(start, start + count):
        rng = np.random.default_rng((77, i))
        image, annotations = animals.draw_picture(rng, size[::-1])
        triples, boxes = [], []
        for each in annotations:
            xyv = np.reshape(each["keypoints"], (-1, 3)).astype(float)
            xyv[:, :2] += rng.uniform(0, 0.3, (len(xyv), 2)).round(3)
            xyv[xyv[:, 2] == 0] = 0
            if (xyv[:, 2] > 0).sum() > 2:
                triples.append(xyv)
                boxes.append(each["bbox"])
        jpeg = cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()
        shots.append(Shot(f"shot_{i:03d}.jpg", jpeg, size, triples, boxes))
    return shots


def extent(xyv: np.ndarray) -> list[float]:
    """The box that touches all labelled keypoints."""
    xy = xyv[xyv[:, 2] > 0, :2]
    (left, top), (right, bottom) = xy.min(0).tolist(), xy.max(0).tolist()
    return [left, top, right - left, bottom - top]


def put(folder: pathlib.Path, shots: list[Shot]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shot in shots:
        (folder / shot.name).write_bytes(shot.jpeg)


def write(path: pathlib.Path, content: Any) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def cvat(root: pathlib.Path, shots: list[Shot], subset: str = "default") -> pathlib.Path:
    put(root / "images" / subset, shots)
    images, annotations = [], []
    for i, shot in enumerate(shots, 1):
        w, h = shot.size
        images.append(
            {
                "id": i,
                "width": w,
                "height": h,
                "file_name": shot.name,
                "license": 0,
                "flickr_url": "",
                "coco_url": "",
                "date_captured": 0,
            }
        )
        for xyv in shot.triples:
            box = [round(side, 2) for side in extent(xyv)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": 1,
                    "segmentation": [],
                    "area": box[2] * box[3],
                    "bbox": box,
                    "iscrowd": 0,
                    "attributes": {"occluded": False},
                    "keypoints": xyv.ravel().tolist(),
                    "num_keypoints": int((xyv[:, 2] > 0).sum()),
                }
            )
    category = {
        "id": 1,
        "name": "quadruped",
        "supercategory": "",
        "keypoints": list(NAMES),
        "skeleton": [[a + 1, b + 1] for a, b in QUADRUPED.limbs],
    }
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "version": ""},
        "categories": [category],
        "images": images,
        "annotations": annotations,
    }
    write(root / "annotations" / f"person_keypoints_{subset}.json", content)
    return root


def _percent(shot: Shot, x: float, y: float) -> dict[str, float]:
    return {"x": 100 * x / shot.size[0], "y": 100 * y / shot.size[1]}


def label_studio(
    root: pathlib.Path, shots: list[Shot], *, parents: bool = True, local: bool = False
) -> pathlib.Path:
    """Its JSON, with the uploaded pictures in media/."""
    tasks = []
    put(root / "media", [dataclasses.replace(s, name=f"0a1b2c3d-{s.name}") for s in shots])
    for number, shot in enumerate(shots, 1):
        frame = {
            "original_width": shot.size[0],
            "original_height": shot.size[1],
            "image_rotation": 0,
            "to_name": "img",
            "origin": "manual",
        }
        result = []
        for n, (xyv, box) in enumerate(zip(shot.triples, shot.boxes)):
            owner = f"r{number}_{n}"
            value = _percent(shot, *box[:2]) | {
                "width": 100 * box[2] / shot.size[0],
                "height": 100 * box[3] / shot.size[1],
                "rotation": 0,
                "rectanglelabels": ["quadruped"],
            }
            result.append(
                frame | {"id": owner, "type": "rectanglelabels", "from_name": "box", "value": value}
            )
            for k, (x, y, v) in enumerate(xyv):
                if v:
                    point = frame | {"id": f"{owner}_{k}", "type": "keypointlabels"}
                    value = _percent(shot, x, y) | {"width": 0.5, "keypointlabels": [NAMES[k]]}
                    point |= {"from_name": "kp", "value": value}
                    result.append(point | ({"parentID": owner} if parents else {}))
                    if v == 1:
                        hidden = {"choices": ["occluded"]}
                        result.append({"id": f"{owner}_{k}", "type": "choices", "value": hidden})
        name = f"0a1b2c3d-{shot.name}"
        image = f"/data/local-files/?d=media/{name}" if local else f"/data/upload/1/{name}"
        tasks.append(
            {
                "id": number,
                "data": {"image": image},
                "predictions": [],
                "annotations": [{"id": number, "was_cancelled": False, "result": result}],
            }
        )
    write(root / "project-1.json", tasks)
    return root


def label_studio_min(root: pathlib.Path, shots: list[Shot]) -> pathlib.Path:
    """Its JSON-MIN."""
    label_studio(root, shots)
    path = root / "project-1.json"
    rows = []
    for task in json.loads(path.read_text()):
        row: dict[str, Any] = {"image": task["data"]["image"], "id": task["id"], "annotator": 1}
        for region in task["annotations"][0]["result"]:
            if region["type"] != "choices":
                sizes = {k: region[k] for k in ("original_width", "original_height")}
                row.setdefault(region["from_name"], []).append(region["value"] | sizes)
        rows.append(row)
    write(path, rows)
    return root


def labelme(root: pathlib.Path, shots: list[Shot], *, embedded: bool = False) -> pathlib.Path:
    root.mkdir(parents=True, exist_ok=True)
    if not embedded:
        put(root, shots)
    for shot in shots:
        shapes = []
        for n, (xyv, (x, y, w, h)) in enumerate(zip(shot.triples, shot.boxes)):
            shape = {"group_id": n, "description": "", "flags": {}, "mask": None}
            corners = [[x + w, y + h], [x, y]]  # as drawn from below
            shapes.append(
                shape | {"label": "quadruped", "points": corners, "shape_type": "rectangle"}
            )
            for k, (px, py, v) in enumerate(xyv):
                if v:
                    point = {"label": NAMES[k], "points": [[px, py]], "shape_type": "point"}
                    shapes.append(shape | point | ({"flags": {"occluded": True}} if v == 1 else {}))
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"..\\in\\{shot.name}",
            "imageData": base64.b64encode(shot.jpeg).decode() if embedded else None,
            "imageHeight": shot.size[1],
            "imageWidth": shot.size[0],
        }
        write((root / shot.name).with_suffix(".json"), content)
    return root


def yolo(
    root: pathlib.Path, subsets: dict[str, list[Shot]], *, dims: int = 3, **more: Any
) -> pathlib.Path:
    for subset, shots in subsets.items():
        put(root / "images" / subset, shots)
        (root / "labels" / subset).mkdir(parents=True)
        for shot in shots:
            rows = []
            for xyv, (x, y, w, h) in zip(shot.triples, shot.boxes):
                sides = np.array(shot.size)
                center = (np.array([x, y]) + np.array([w, h]) / 2) / sides
                shares = np.concatenate([xyv[:, :2] / sides, xyv[:, 2:]], 1)[:, :dims]
                row = [0, *center, *(np.array([w, h]) / sides), *shares.ravel()]
                rows.append(
                    " ".join(repr(float(value)) if i else "0" for i, value in enumerate(row))
                )
            path = root / "labels" / subset / shot.name
            path.with_suffix(".txt").write_text("\n".join(rows) + "\n")
    content = {
        "path": f"../datasets/{root.name}",
        "train": "images/train",
        "val": "images/val",
        "kpt_shape": [len(NAMES), dims],
        "flip_idx": QUADRUPED.flip_permutation.tolist(),
        "names": {0: "quadruped"},
        "kpt_names": {0: list(NAMES)},
    }
    (root / "data.yaml").write_text(yaml.safe_dump(content | more))
    return root


def deeplabcut(root: pathlib.Path, videos: dict[str, list[Shot]]) -> pathlib.Path:
    """A project of several animals, with its config.yaml."""
    animals_ = [f"animal{n}" for n in range(3)]
    pairs = [(a, name) for a in animals_ for name in NAMES]
    for video, shots in videos.items():
        folder = root / "labeled-data" / video
        put(folder, shots)
        heads = {"scorer": ["me"] * len(pairs), "individuals": [a for a, _ in pairs]}
        heads |= {"bodyparts": [n for _, n in pairs]}
        lines = [
            [head, "", ""] + [v for v in values for _ in "xy"] for head, values in heads.items()
        ]
        lines.append(["coords", "", ""] + ["x", "y"] * len(pairs))
        for shot in shots:
            cells = []
            for n in range(len(animals_)):
                xyv = shot.triples[n] if n < len(shot.triples) else np.zeros((len(NAMES), 3))
                cells += [repr(float(value)) if v else "" for *xy, v in xyv for value in xy]
            lines.append(["labeled-data", video, shot.name, *cells])
        (folder / "CollectedData_me.csv").write_text("\n".join(map(",".join, lines)) + "\n")
    limbs = [[NAMES[a], NAMES[b]] for a, b in QUADRUPED.limbs]
    (root / "config.yaml").write_text(yaml.safe_dump({"Task": "x", "skeleton": limbs}))
    return root
