"""Downloads published models and detectors: mspn download [NAME...]

Prints where each one is. Without names it lists them. They are kept in $MSPN_HOME, by default the
user's cache folder. $MSPN_MIRROR names a folder or an address that has the files.
"""

from mspn_jax.detector.published import DETECTORS
from mspn_jax.errors import UsageError
from mspn_jax.storage import download
from mspn_jax.weights import published
from mspn_jax.weights.origin import MODELS


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in MODELS and name not in DETECTORS]
    if unknown:
        raise UsageError(
            f"{unknown[0]}: neither a model ({', '.join(MODELS)}) nor a detector"
            f" ({', '.join(DETECTORS)})"
        )
    for name in names:
        if name in MODELS:
            print(f"{name}: {published.local(name)}")
        else:
            known = DETECTORS[name]
            print(f"{name}: {download.fetch(known.url, sha256=known.sha256, size=known.num_bytes)}")
    if not names:
        print(
            f"kept in {download.home()}; AP of keypoints, and of a detector's boxes of 80 classes\n"
        )
        print("\n".join(lines()))


def lines() -> list[str]:
    """A line for each model and detector: size, AP on COCO val2017, whether it is here, address."""
    rows = [
        (each.name, each.num_bytes, each.metrics["AP"], each.url, each.sha256)
        for each in MODELS.values()
    ] + [(each.name, each.num_bytes, each.ap, each.url, each.sha256) for each in DETECTORS.values()]
    return [
        f"{name:11} {num_bytes / 1e6:4.0f} MB  AP {ap:.3f}  {here(url, sha256):4}  {url}"
        for name, num_bytes, ap, url, sha256 in rows
    ]


def here(url: str, sha256: str) -> str:
    return "here" if download.place_of(url, sha256=sha256).is_file() else "-"
