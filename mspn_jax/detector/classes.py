"""COCO's 80 classes of objects, in the order of a detector's scores."""

import difflib

from mspn_jax.errors import DataError, UsageError

_NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow,
    elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee,
    skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
    tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple,
    sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch,
    potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone,
    microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
    hair drier, toothbrush
"""
COCO_CLASSES = tuple(name.strip() for name in _NAMES.split(","))


def class_index(name: str | int, num_classes: int | None = None) -> int:
    """The index, below the detector's `num_classes`, of a class given by its name or index."""
    if isinstance(name, str) and name not in COCO_CLASSES:
        close = difflib.get_close_matches(name, COCO_CLASSES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "give the index of another class"
        raise UsageError(f"class_name {name!r}: not one of COCO's 80 classes; {hint}")
    if isinstance(name, str) and num_classes not in (None, 1, len(COCO_CLASSES)):
        raise DataError(
            f"has {num_classes} classes, which are not COCO's: give class_name as an index"
        )
    index = COCO_CLASSES.index(name) if isinstance(name, str) else name
    if index < 0:
        raise UsageError(f"class_name {index}: an index cannot be negative")
    if num_classes is not None and index >= num_classes:
        raise DataError(f"has {num_classes} classes, so none with index {index} ({name})")
    return index
