"""Detectors known by name: the ONNX files that YOLOX's authors publish."""

import dataclasses

RELEASE = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"


@dataclasses.dataclass(frozen=True)
class PublishedDetector:
    """One file, trained on COCO's 80 classes.

    Attributes:
      num_bytes, sha256: of the file.
      input_hw: the size to which pictures are resized.
      ap: on COCO, over all classes, as the authors report it.
      layout: what the file returns, see `Detector`.
    """

    name: str
    num_bytes: int
    sha256: str
    input_hw: tuple[int, int]
    ap: float
    layout: str = "raw"

    @property
    def url(self) -> str:
        return f"{RELEASE}/{self.name}.onnx"


_SHA256 = {
    "yolox_nano": "c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d",
    "yolox_tiny": "427cc366d34e27ff7a03e2899b5e3671425c262ea2291f88bb942bc1cc70b0f7",
    "yolox_s": "c5c2d13e59ae883e6af3b45daea64af4833a4951c92d116ec270d9ddbe998063",
    "yolox_m": "21ff6cfdeb53b013bac2249599e55f00bff3cfdfdab37ed7a4620818c1d15b3f",
    "yolox_l": "7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
    "yolox_x": "c892d7aaf1c4746d8a4d675bec669a4db4f434b4ee1efb654bc9b353379c7c55",
}
DETECTORS = {
    name: PublishedDetector(name, num_bytes, _SHA256[name], (side, side), ap)
    for name, num_bytes, side, ap in (
        ("yolox_nano", 3_659_407, 416, 0.258),
        ("yolox_tiny", 20_219_662, 416, 0.328),
        ("yolox_s", 35_858_002, 640, 0.405),
        ("yolox_m", 101_259_744, 640, 0.472),
        ("yolox_l", 216_746_733, 640, 0.501),
        ("yolox_x", 396_142_663, 640, 0.515),
    )
}
