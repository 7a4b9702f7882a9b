"""Skeletons from files: their content, what follows from names, and each refusal."""

import json

import numpy as np
import pytest

from mspn_jax import skeletons
from mspn_jax.commands import configured
from mspn_jax.configs import default
from mspn_jax.data import augment
from mspn_jax.data.categories import described, find, limbs_of, new_skeleton
from mspn_jax.data.schema import Findings
from mspn_jax.errors import DataError, SkeletonError, UsageError
from mspn_jax.skeletons import COCO, Skeleton, mirror_name

CAT = {
    "name": "cat",
    "keypoint_names": ["nose", "paw_r", "paw_l", "tail"],
    "limbs": [["nose", "tail"], ["paw_l", "tail"]],
    "oks_sigmas": [0.03, 0.06, 0.05, 0.1],
    "upper_body": ["nose"],
}


@pytest.mark.parametrize(
    "name, mirrored",
    [
        ("left_ear", "right_ear"),
        ("ear_right", "ear_left"),
        ("front_left_paw", "front_right_paw"),
        ("l_eye", "r_eye"),
        ("L_F_Paw", "R_F_Paw"),
        ("Left-Hip", "Right-Hip"),
        ("left_eye_right_corner", "right_eye_left_corner"),
        ("nose", "nose"),
        ("upright", "upright"),
        ("tail", "tail"),
    ],
)
def test_a_mirrored_name_and_back(name, mirrored):
    assert mirror_name(name) == mirrored
    assert mirror_name(mirrored) == name


def test_a_file_is_read_as_it_says(tmp_path):
    (tmp_path / "cat.json").write_text(json.dumps(CAT))
    cat = skeletons.read(tmp_path / "cat.json")
    assert cat.num_keypoints == 4
    assert cat.limbs == ((0, 3), (2, 3))
    assert cat.oks_sigmas == (0.03, 0.06, 0.05, 0.1)
    assert cat.flip_permutation.tolist() == [0, 2, 1, 3]
    assert cat.is_upper_body.tolist() == [True, False, False, False]
    assert cat.sides == ("middle", "right", "left", "middle")
    assert Skeleton.from_json(json.loads(json.dumps(cat.to_json()))) == cat
    assert configured.skeleton_named(str(tmp_path / "cat.json")) == cat


def test_cocos_own_survives_the_way_through_json():
    assert Skeleton.from_json(json.loads(json.dumps(COCO.to_json()))) == COCO


FAULTS = {
    "lacks keypoint_names. It holds": lambda s: s.pop("keypoint_names"),
    r"needs 4 oks_sigmas, one a keypoint, from 0.0001 to 1, and has \[\]": lambda s: s.update(
        oks_sigmas=[]
    ),
    "does not know flip_pairs": lambda s: s.update(flip_pairs=[[1, 2]]),
    r"needs 4 oks_sigmas, .* and has \[0.03, 0.06, 0.05\]": lambda s: s["oks_sigmas"].pop(),
    **{
        rf"needs 4 oks_sigmas, .* has \[{shown}": lambda s, value=value: s[
            "oks_sigmas"
        ].__setitem__(0, value)
        for shown, value in {
            "0.0": 0,
            "nan": float("nan"),
            "inf": float("inf"),
            "-0.03": -0.03,
            "1e-300": 1e-300,
            "5.0": 5.0,
        }.items()
    },
    "oks_sigmas must be a list of numbers": lambda s: s.update(oks_sigmas=["0.05"] * 4),
    "oks_sigmas must be from 0.0001 to 1": lambda s: s["oks_sigmas"].__setitem__(0, 10**400),
    "upper_body must be a list of names": lambda s: s.update(upper_body=None),
    "limbs must be a list of pairs": lambda s: s.update(limbs=5),
    "name must be a string": lambda s: s.update(name=None),
    "limbs to ear, which": lambda s: s["limbs"].append(["nose", "ear"]),
    "limbs to 1, 4, which": lambda s: s["limbs"].append([1, 4]),
    r"limbs to \['nose'\], which": lambda s: s["limbs"].append([["nose"], "tail"]),
    "a limb is a pair": lambda s: s["limbs"].append(["nose", "tail", "paw_l"]),
    "lacks paw_l, the mirror image": lambda s: s.update(
        keypoint_names=["nose", "paw_r", "paw", "tail"], limbs=[]
    ),
    "names nose twice": lambda s: s["keypoint_names"].__setitem__(3, "nose") or s.update(limbs=[]),
    "has ear in upper_body": lambda s: s.update(upper_body=["ear"]),
    "needs a name of letters": lambda s: s.update(name="my/cat"),
    "must be a list of names": lambda s: s.update(keypoint_names=[1, 2]),
    "must be a list of numbers": lambda s: s.update(oks_sigmas=["a"]),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_skeleton_that_contradicts_itself_is_one_clear_line(tmp_path, message):
    content = json.loads(json.dumps(CAT))
    FAULTS[message](content)
    path = tmp_path / "cat.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SkeletonError, match=message) as error:
        skeletons.read(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_what_is_no_skeleton_file_at_all(tmp_path):
    with pytest.raises(UsageError, match=r"neither one of coco, mpii, crowdpose, nor a file"):
        configured.skeleton_named("dog")
    (tmp_path / "dog.json").write_text("[")
    with pytest.raises(SkeletonError, match=r"dog.json: not json"):
        skeletons.read(tmp_path / "dog.json")
    (tmp_path / "dog.json").write_text("[]")
    with pytest.raises(SkeletonError, match="a json object is needed"):
        skeletons.read(tmp_path / "dog.json")


def test_without_an_upper_body_there_are_no_halves():
    settings = augment.Settings(half_body_probability=1.0, half_body_min_keypoints=2)
    visibility, permutation = np.full(4, 2.0), np.arange(4)

    def halves(is_upper_body):
        return [
            augment.sample(
                np.random.default_rng(i), visibility, is_upper_body, permutation, settings
            )
            for i in range(9)
        ]

    assert all(not drawn.half_body.any() for drawn in halves(np.zeros(4, bool)))
    assert all(drawn.half_body.any() for drawn in halves(np.arange(4) < 2))


# -------------------------------------------------------------- the category with the keypoints

CATS = Skeleton.from_json(CAT)
PERSON_CATEGORY = {"id": 1, "name": "person", "keypoints": list(COCO.keypoint_names)}
CAT_CATEGORY = {"id": 17, "name": "cat", "keypoints": CAT["keypoint_names"]}


@pytest.mark.parametrize(
    "categories, expected",
    [
        ([CAT_CATEGORY], 17),
        ([PERSON_CATEGORY, CAT_CATEGORY], 17),
        ([{"id": 1, "name": "person"}, CAT_CATEGORY], 17),
        ([{"id": 5, "name": "cat"}], 5),  # it names no keypoints
        ([{"id": 3, "name": "car"}, {"id": 1, "name": "person"}], 1),  # COCO's test-dev
        ([], 1),
    ],
)
def test_the_category_is_the_one_with_the_skeletons_keypoints(categories, expected):
    findings = Findings()
    assert find(categories, CATS, findings) == expected
    assert not findings


@pytest.mark.parametrize(
    "category, message",
    [
        (
            CAT_CATEGORY | {"keypoints": ["nose", "paw_l", "paw_r", "tail"]},
            "category 17: its keypoints are those of skeleton 'cat' in another order: keypoint 1 is"
            " paw_l here and paw_r there. Give",
        ),
        (PERSON_CATEGORY, "category 1: it has 17 keypoints, and skeleton 'cat' has 4 others"),
        ({"name": "cat"}, "category at index 0: id is missing; expected a whole number"),
        (CAT_CATEGORY | {"id": "17"}, 'category at index 0: id is "17"; expected a whole number'),
        (
            CAT_CATEGORY | {"keypoints": "nose"},
            'category 17: keypoints is "nose"; expected a list',
        ),
        (CAT_CATEGORY | {"keypoints": [["nose"]]}, "category 17: keypoints is a list of 1 lists"),
        ("cat", 'category at index 0: "cat" is not a json object'),
    ],
)
def test_another_order_or_other_keypoints_are_refused(category, message):
    findings = Findings()
    find([category], CATS, findings)
    with pytest.raises(DataError) as error:
        findings.raise_error("a.json")
    assert str(error.value).startswith(f"a.json: {message}")


def of_category(**keys):
    return described({"categories": [{"id": 1, "name": "cat", **keys}]}, "a.json")


def test_a_category_describes_a_skeleton():
    names = ["nose", "paw_l", "paw_r"]
    cat = of_category(name="my cat", keypoints=names, skeleton=[[1, 2], [1, 3]])
    assert (cat.name, cat.keypoint_names) == ("my_cat", tuple(names))
    assert cat.limbs == ((0, 1), (0, 2)) and cat.oks_sigmas == (0.05,) * 3
    assert cat.flip_permutation.tolist() == [0, 2, 1] and cat.upper_body == ()


def test_cocos_category_describes_cocos_skeleton():
    limbs = [[a + 1, b + 1] for a, b in COCO.limbs]
    assert of_category(name="coco", keypoints=list(COCO.keypoint_names), skeleton=limbs) == COCO


@pytest.mark.parametrize(
    "pairs, limbs",
    [
        ([[1, 2], [2, 3]], [(0, 1), (1, 2)]),
        ([[0, 1], [1, 2]], [(0, 1), (1, 2)]),
        ([[1, 2]], [(0, 1)]),  # as COCO counts, where either would do
        ([], []),
    ],
)
def test_limbs_count_from_one_unless_there_is_a_zero(pairs, limbs):
    assert limbs_of(pairs, 3) == limbs


@pytest.mark.parametrize("pairs", [[[0, 3]], [[1, 4]], [[1]], "no", [["a", "b"]], [[-1, 2]]])
def test_limbs_that_are_none_are_refused(pairs):
    with pytest.raises(SkeletonError, match="must be a list of pairs"):
        limbs_of(pairs, 3)


@pytest.mark.parametrize(
    "categories, message",
    [
        ([], "no category lists any"),
        (None, "no category lists any"),
        ([{"id": 1, "name": "cat"}], "no category lists any"),
        ([{"id": 1, "keypoints": ["a"]}, {"id": 2, "keypoints": ["b"]}], "list different"),
        ([{"id": 1, "keypoints": ["left_ear"]}], "a.json: .* lacks right_ear"),
        ([{"id": 1, "keypoints": ["a"], "skeleton": [[1, 2]]}], "a.json: .* list of pairs"),
    ],
)
def test_categories_that_describe_no_skeleton(categories, message):
    with pytest.raises((DataError, SkeletonError), match=message):
        described({"categories": categories}, "a.json")


def test_sigmas_of_a_new_skeleton():
    assert new_skeleton("a", ["nose", "left_eye", "right_eye"]).oks_sigmas == (0.026, 0.025, 0.025)
    assert new_skeleton("a", ["nose", "tail"]).oks_sigmas == (0.05, 0.05)


def test_an_empty_skeleton_of_the_config_is_the_datas_own(tmp_path):
    config = default.get_config("tiny", 1)
    config.skeleton, config.data.root = "", str(tmp_path)
    (tmp_path / "annotations").mkdir()
    category = {"id": 3, "name": "cat", "keypoints": CAT["keypoint_names"]}
    path = tmp_path / "annotations" / "person_keypoints_train2017.json"
    path.write_text(json.dumps({"categories": [category]}))
    assert configured.skeleton_of(config).oks_sigmas == (0.05,) * 4
    (tmp_path / "skeleton.json").write_text(json.dumps(CAT))
    assert configured.skeleton_of(config).oks_sigmas == (0.03, 0.06, 0.05, 0.1)
    config.skeleton = "coco"
    assert configured.skeleton_of(config) == COCO
