"""Shows a data set before training: python browse.py --config configs/X.py --output DIR

Writes DIR/browse.html: augmented crops from the training pipeline, with their keypoints and target
heatmaps. With --check it validates the annotations instead, and prints what they contain and what
is wrong or looks wrong. The exit status is 0 unless there are errors. With --sigmas it estimates
the skeleton's OKS sigmas from a second annotation of the same pictures.
"""

import dataclasses
import itertools

from absl import flags
from ml_collections import config_flags

from mspn_jax.commands import configured, program
from mspn_jax.data import annotations, augment, check, pipeline, sigmas
from mspn_jax.data.check import Inspection
from mspn_jax.data.coco import annotation_file
from mspn_jax.data.records import open_records
from mspn_jax.data.schema import Finding
from mspn_jax.data.sigmas import Sigmas
from mspn_jax.errors import DataError, UsageError
from mspn_jax.reports import crops
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage import paths
from mspn_jax.storage.files import write_json
from mspn_jax.storage.mirror import Mirror

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/")
_OUTPUT = flags.DEFINE_string("output", None, "folder to write to; optional with --check")
_CHECK = flags.DEFINE_bool("check", False, "validate the annotations instead")
_SIGMAS = flags.DEFINE_string(
    "sigmas", None, "a second annotation of the split: estimate the skeleton's oks_sigmas instead"
)
_SPLIT = flags.DEFINE_string("split", None, "split to show; by default the config's train_split")
_PEOPLE = flags.DEFINE_integer("people", 24, "number of crops to show", lower_bound=1)
_STEP = flags.DEFINE_integer("step", 0, "the first training step to show", lower_bound=0)
flags.mark_flag_as_required("config")


def main() -> None:
    if _SIGMAS.value is not None:
        estimate_sigmas(_SIGMAS.value)
    elif _CHECK.value:
        check_split()
    else:
        browse_split()


def browse_split() -> None:
    config = _CONFIG.value
    if not _OUTPUT.value:
        raise UsageError("--output: name a folder to write the page to")
    skeleton = configured.skeleton_of(config)
    split = _SPLIT.value or config.data.train_split
    records = open_records(
        root=config.data.root,
        split=split,
        skeleton=skeleton,
        first_people=config.data.first_people,
        records_dir=config.data.records_dir,
        only_with_people=True,
    )
    batches = pipeline.training_batches(
        records,
        skeleton,
        crop_hw=tuple(config.crop_hw),
        batch_size=config.batch_size,
        first_step=_STEP.value,
        settings=augment.Settings(**config.augment),
        padding=config.padding,
        seed=config.seed,
        num_threads=config.data.num_threads,
    )
    about: dict[str, str | int] = {
        "variant": config.variant,
        "split": split,
        "people": int(records.num_people.sum()),
        "from step": _STEP.value,
        "seed": config.seed,
        "crop": f"{config.crop_hw[1]} x {config.crop_hw[0]} px",
    }
    with Mirror(_OUTPUT.value) as output:
        crops.write(output.local, batches, _PEOPLE.value, skeleton, about)
    batches.close()
    print(f"written: {output.folder / 'browse.html'}")


def check_split() -> None:
    config = _CONFIG.value
    split = _SPLIT.value or config.data.train_split
    inspection = check.inspect(
        root=config.data.root,
        split=split,
        skeleton=configured.skeleton_of(config),
        padding=config.padding,
        crop_hw=tuple(config.crop_hw),
    )
    print("\n".join(lines(inspection)))
    if _OUTPUT.value:
        with Mirror(_OUTPUT.value) as output:
            write_json(
                output.local / f"check_{split}.json",
                dataclasses.asdict(inspection) | {"file": str(inspection.file)},
            )
    if inspection.num_errors:
        raise DataError(f"{inspection.file}: {inspection.num_errors:,} errors, listed above")


def estimate_sigmas(second_file: str) -> None:
    if _OUTPUT.value:
        raise UsageError("--output: --sigmas only prints; leave it out")
    config = _CONFIG.value
    skeleton = configured.skeleton_of(config)
    file = annotation_file(config.data.root, _SPLIT.value or config.data.train_split)
    first = annotations.read(file, skeleton)
    found = sigmas.estimate(first, annotations.read(paths.path(second_file), skeleton), skeleton)
    print(f"{file}, {second_file}: {found.num_people:,} people are in both\n")
    print("\n".join(sigma_lines(found, skeleton)))


def sigma_lines(found: Sigmas, skeleton: Skeleton) -> list[str]:
    """The table, and the line of a skeleton file."""
    width = max(map(len, skeleton.keypoint_names))
    text = [f"{'':{width}}  labelled twice   sigma  by the median  farthest"]
    for k, name in enumerate(skeleton.keypoint_names):
        text.append(
            f"{name:{width}}  {found.counts[k]:14,}  {found.sigmas[k]:6.4f}"
            f"  {found.of_medians[k]:13.4f}  {found.farthest[k]:8.4f}"
            f" (annotation {found.farthest_ids[k]})"
        )
    return [*text, "", f'"oks_sigmas": {[round(sigma, 4) for sigma in found.sigmas.tolist()]}']


def lines(inspection: Inspection) -> list[str]:
    """The inspection as text."""
    counted = (f"{count:,} {what}" for what, count in inspection.counts.items())
    width = max(map(len, inspection.keypoints), default=0)
    text = [f"{inspection.file}", ", ".join(counted), ""]
    if inspection.keypoints:
        text += [f"{'':{width}}  not labelled   hidden  visible"]
        text += [
            f"{name:{width}}  {missing:12,} {hidden:8,} {visible:8,}"
            for name, (missing, hidden, visible) in inspection.keypoints.items()
        ]
    for level, findings in itertools.groupby(inspection.findings, lambda f: f.level):
        text += ["", f"{level}s:", *map(_line, findings)]
    return text if inspection.findings else [*text, "", "nothing looks wrong"]


def _line(finding: Finding) -> str:
    more = ", ..." if finding.count > len(finding.ids) else ""
    ids = f": {finding.of} {', '.join(map(str, finding.ids))}{more}" if finding.of else ""
    return f"{finding.count:8,}  {finding.what}{finding.remedy_text}{ids}"


def command() -> None:
    """What `mspn browse` runs."""
    program.run(main)
