"""Shows a data set before training: python browse.py --config configs/X.py --output DIR

Writes DIR/browse.html: augmented crops from the training pipeline, with their keypoints and target
heatmaps. With --check it validates the annotations instead, and prints what they contain and what
is wrong or looks wrong. The exit status is 0 unless there are errors. With --sigmas it estimates
the skeleton's OKS sigmas from a second annotation of the same pictures.
"""

import dataclasses
import itertools

from absl import flags
from ml_collections import ConfigDict, config_flags

from mspn_jax.commands import configured
from mspn_jax.commands.training_data import data_sets, new_batches, open_training
from mspn_jax.data import check, mixture, sigmas, validator
from mspn_jax.data.check import Inspection
from mspn_jax.data.coco import annotation_file, parsed_once
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
_SPLIT = flags.DEFINE_string(
    "split", None, "split to show; by default all data sets of the training"
)
_PEOPLE = flags.DEFINE_integer(
    "people", 24, "number of crops to show", lower_bound=1, upper_bound=10_000
)
_STEP = flags.DEFINE_integer("step", 0, "the first training step to show", lower_bound=0)
flags.mark_flag_as_required("config")


def main() -> None:
    with parsed_once():
        if _SIGMAS.value is not None:
            estimate_sigmas(_SIGMAS.value)
        elif _CHECK.value:
            check_splits()
        else:
            browse()


def browse() -> None:
    if not _OUTPUT.value:
        raise UsageError("--output: name a folder to write the page to")
    config, skeleton = chosen()
    training = open_training(config, skeleton)
    batches = new_batches(config, training, skeleton, _STEP.value)
    about: dict[str, str | int] = {
        "variant": config.variant,
        "split": ", ".join([config.data.train_split, *config.data.also]),
        "people": int(training.records.num_people.sum()),
        "from step": _STEP.value,
        "seed": config.seed,
        "crop": f"{config.crop_hw[1]} x {config.crop_hw[0]} px",
    }
    with Mirror(_OUTPUT.value) as output:
        crops.write(output.local, batches, _PEOPLE.value, skeleton, about)
    batches.close()
    print(f"written: {output.folder / 'browse.html'}")


def check_splits() -> None:
    """Checks the split that is asked for, or else every data set of the training."""
    config, skeleton = chosen()
    sets, failed = data_sets(config, skeleton), []
    for number, (data_set, own) in enumerate(sets):
        inspection = check.inspect(
            root=data_set.root,
            split=data_set.split,
            skeleton=own,
            padding=config.padding,
            crop_hw=tuple(config.crop_hw),
        )
        text = lines(inspection)
        if number:
            text = ["", *text, "", f"it has {mixture.describe_match(own, skeleton)}"]
        print("\n".join(text))
        if inspection.num_errors:
            failed.append(f"{inspection.file}: {inspection.num_errors:,} errors")
        if _OUTPUT.value:
            name = f"check_{f'also{number}_' if number else ''}{data_set.split}.json"
            content = dataclasses.asdict(inspection) | {"file": str(inspection.file)}
            with Mirror(_OUTPUT.value) as output:
                write_json(output.local / name, content)
    if failed:
        raise DataError(f"{'; '.join(failed)}, listed above")
    for data_set, own in sets:
        mixture.check_shared(data_set, own, skeleton)


def chosen() -> tuple[ConfigDict, Skeleton]:
    """The config and its skeleton. With --split, that split is the only one."""
    config = _CONFIG.value
    skeleton = configured.skeleton_of(config)  # it may be that of the config's own train_split
    if _SPLIT.value:
        config.data.update(train_split=_SPLIT.value, also=())
    return config, skeleton


def estimate_sigmas(second_file: str) -> None:
    if _OUTPUT.value:
        raise UsageError("--output: --sigmas only prints; leave it out")
    config = _CONFIG.value
    skeleton = configured.skeleton_of(config)
    file = annotation_file(config.data.root, _SPLIT.value or config.data.train_split)
    first = validator.read(file, skeleton)
    found = sigmas.estimate(first, validator.read(paths.path(second_file), skeleton), skeleton)
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
