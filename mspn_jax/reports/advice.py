"""What an evaluation suggests to do next, in a few lines."""

from typing import Any

MANY = 0.05  # share of the judged keypoints from which a kind of error is worth a line
_REMEDIES = {
    "inversion": "left and right are confused; look at the report's cases for annotations whose"
    " sides are exchanged. If they are right, more people and more steps tell sides apart",
    "swap": "keypoints are put on a neighbour; boxes that hold one person each help, and so do more"
    " training pictures of groups",
    "miss": "keypoints are far from all annotated ones; look at the report's worst cases for"
    " annotations that are wrong. If they are right, train longer or on more people",
    "jitter": "keypoints are near but not exact; a larger config.crop_hw or a longer run helps",
}
_SHOWN = 3  # cases


def advice(metrics: dict[str, Any], *, best_step: int, last_step: int) -> list[str]:
    """What to do next, in lines, by the metrics of `reports.evaluation.write` at the best step."""
    lines = [
        "AP was best at the last evaluation: a longer run (config.num_epochs) may raise it"
        if best_step == last_step
        else f"AP was best at step {best_step} of {last_step}, and then fell: more people or"
        " stronger augmentation may help, a longer run will not"
    ]
    shares = {kind: metrics["errors"][kind]["share"] or 0 for kind in _REMEDIES}
    kind = max(shares, key=lambda kind: shares[kind])
    if shares[kind] >= MANY:
        lines.append(f"most frequent error, {shares[kind]:.0%} of keypoints: {_REMEDIES[kind]}")
    cases = [*metrics["unmatched"], *metrics["worst"]][:_SHOWN]
    if cases:
        names = ", ".join(str(case["annotation_id"]) for case in cases)
        lines.append(f"the worst cases are annotations {names}: are their labels right?")
    return lines
