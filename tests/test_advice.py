"""What a report suggests to do next."""

from mspn_jax.reports.advice import advice


def report(**shares: float) -> dict:
    kinds = dict.fromkeys(("good", "jitter", "inversion", "swap", "miss"), 0.0) | shares
    return {
        "errors": {kind: {"count": 1, "share": share} for kind, share in kinds.items()},
        "unmatched": [{"annotation_id": 7}],
        "worst": [{"annotation_id": 11}, {"annotation_id": 13}, {"annotation_id": 17}],
    }


def test_whether_a_longer_run_helps():
    assert (
        "longer run (config.num_epochs) may raise it"
        in advice(report(), best_step=40, last_step=40)[0]
    )
    (first, *_) = advice(report(), best_step=20, last_step=40)
    assert "best at step 20 of 40" in first and "a longer run will not" in first


def test_the_most_frequent_error_is_named():
    lines = advice(report(inversion=0.3, jitter=0.2), best_step=1, last_step=1)
    assert "30% of keypoints: left and right are confused" in lines[1]
    lines = advice(report(jitter=0.05), best_step=1, last_step=1)
    assert "most frequent error, 5% of keypoints: keypoints are near" in lines[1]
    lines = advice(report(inversion=0.049, jitter=0.03), best_step=1, last_step=1)
    assert not any("most frequent" in line for line in lines)


def test_the_worst_cases_are_named():
    (*_, last) = advice(report(), best_step=1, last_step=1)
    assert "annotations 7, 11, 13: are their labels right?" in last
    empty = report() | {"unmatched": [], "worst": []}
    empty["errors"]["miss"]["share"] = None  # nobody was matched
    assert len(advice(empty, best_step=1, last_step=1)) == 1
