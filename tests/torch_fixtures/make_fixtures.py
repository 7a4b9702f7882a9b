"""Writes the files beside it: `python make_fixtures.py`, with torch 2.13.0 and safetensors.

torch reads every file back into `expected.npz`, under "file:name" (the bits of bfloat16 under
"file:name:bfloat16"), so the tests need no torch.
"""

import datetime
import functools
import io
import pathlib
import pickle
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import safetensors.torch
import torch

HERE = pathlib.Path(__file__).parent


def tensors() -> OrderedDict:
    """Every dtype, and every way for tensors to share or skip numbers."""
    torch.manual_seed(0)
    base = torch.randn(5, 7)
    floats = torch.tensor([0.0, -0.0, 1.5, -2.75, float("inf"), float("nan"), 1e-7])
    tied = torch.randn(3, 2)
    parameter = torch.nn.Parameter(torch.randn(2, 2))
    parameter.note = "a parameter with state"
    return OrderedDict(
        float64=floats.double() / 3,
        float32=floats,
        float16=floats.half(),
        bfloat16=floats.bfloat16(),
        int64=torch.tensor([-(2**62), -1, 0, 2**62]),
        int32=torch.tensor([-(2**31), 7]).int(),
        int16=torch.tensor([-32768, 7]).short(),
        int8=torch.tensor([-128, 127], dtype=torch.int8),
        uint8=torch.tensor([0, 255], dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
        uint16=torch.tensor([[1, 2, 3], [4, 5, 65535]], dtype=torch.uint16).T,
        uint32=torch.tensor([2**32 - 1], dtype=torch.uint32),
        uint64=torch.tensor([2**63 + 1], dtype=torch.uint64),
        base=base,
        transposed=base.T,
        sliced=base[1:4, 2::3],
        row=base[3],
        flipped=base.flip(0),
        tied_a=tied,
        tied_b=tied,
        expanded=torch.tensor([[1.0], [2.0]]).expand(2, 3),
        channels_last=torch.randn(1, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        half_sliced=torch.arange(12).half().reshape(3, 4)[:, 1:3].T,
        scalar=torch.tensor(3.25),
        count=torch.tensor(12),
        empty=torch.zeros(0),
        empty_2d=torch.zeros(3, 0, 2),
        empty_view=base[2:2],
        parameter=torch.nn.Parameter(torch.randn(2, 3)),
        parameter_view=parameter[0].detach(),
        parameter_state=parameter,
    )


def mmcv() -> dict:
    """As mmcv and mmengine save: logs and configs of their own classes beside the weights."""
    module = types.ModuleType("mmengine.logging")
    exec(
        "class HistoryBuffer:\n    pass\nclass ConfigDict(dict):\n    pass\n"
        "class Names(list):\n    pass\ndef rate(*args): pass",
        module.__dict__,
    )
    sys.modules["mmengine"], sys.modules["mmengine.logging"] = types.ModuleType("mmengine"), module
    buffer = module.HistoryBuffer()
    buffer.history, buffer.rate = np.arange(4.0), functools.partial(module.rate, 0.1)
    buffer.itself = buffer
    config = module.ConfigDict(type="MSPN")
    config.nested = module.ConfigDict(size=(192, 256))
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    torch.manual_seed(1)
    for value in network.state_dict().values():
        value.copy_(torch.randint(0, 9, value.shape))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    state = network.state_dict()
    return {
        "meta": {
            "mmpose_version": "0.11.0",
            "epoch": 210,
            "lr": 5e-3,
            "hook_msgs": {},
            "CLASSES": None,
            "time": datetime.datetime(2020, 11, 23, 4, 5),
            "log": buffer,
            "cfg": config,
            "path": pathlib.PurePosixPath("work_dirs/mspn"),
            "score": np.float32(0.723),
            "names": module.Names(["nose", "eye"]),
            "counts": defaultdict(int, {"a": 1}),
            "set": {1, 2},
            "frozen": frozenset([3]),
            "bytes": b"\x00\xff",
            "big": 1 << 70,
            "dtype": torch.float16,
            "device": torch.device("cpu"),
            "size": torch.Size([1, 2]),
            "range": range(3),
            "complex": 1j,
            "by_number": {0: "a", (1, 2): "b"},
            "function": torch.nn.functional.relu,
            "layout": torch.strided,
            "generator": np.random.default_rng(0),
        },
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
    }


def big_endian(source: bytes) -> bytes:
    """The same zip as written by a big-endian machine."""
    itemsize = 4
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(source)) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if "/data/" in name:
                data = np.frombuffer(data, f"u{itemsize}").byteswap().tobytes()
            new.writestr(name, b"big" if name.endswith("/byteorder") else data)
    return target.getvalue()


def storage_views() -> bytes:
    """A storage that is a part of another one, as before torch 0.4, and Python 2's OrderedDict."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return obj.pid if isinstance(obj, Storage) else None

        def reducer_override(self, obj: object) -> object:
            if isinstance(obj, OrderedDict):
                return OrderedDict, ([[name, value] for name, value in obj.items()],)
            if isinstance(obj, View):
                return torch._utils._rebuild_tensor, obj.args
            return NotImplemented

    class Storage:
        def __init__(self, *pid: object) -> None:
            self.pid = pid

    class View:
        def __init__(self, *args: object) -> None:
            self.args = args

    file = io.BytesIO()
    for header in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}):
        pickle.dump(header, file, protocol=2)
    whole = ("storage", torch.FloatStorage, "1", "cpu", 6)
    Pickler(file, protocol=2).dump(
        OrderedDict(
            whole=View(Storage(*whole, None), 0, (6,), (1,)),
            part=View(Storage(*whole, ("2", 2, 3)), 1, (2,), (1,)),
        )
    )
    pickle.dump(["1"], file, protocol=2)
    file.write((6).to_bytes(8, "little") + np.arange(6, dtype="<f4").tobytes())
    return file.getvalue()


def saved(obj: object, **options: object) -> bytes:
    file = io.BytesIO()
    torch.save(obj, file, **options)
    return file.getvalue()


class Network(torch.nn.Module):
    """A network saved whole."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))


def main() -> None:
    # The legacy layout has no storage class for some dtypes.
    everything = tensors()
    legacy = OrderedDict(
        (name, value)
        for name, value in everything.items()
        if not name.startswith("uint") or name == "uint8"
    )
    few = OrderedDict(weight=torch.arange(6.0).reshape(2, 3).T, bias=torch.tensor([1.5, -2.5]))
    training = mmcv()
    old = {"_use_new_zipfile_serialization": False}
    (HERE / "plain_zip.pth").write_bytes(saved(everything))
    (HERE / "plain_legacy.pth").write_bytes(saved(legacy, **old))
    (HERE / "mmcv_zip.pth").write_bytes(saved(training))
    (HERE / "mmcv_legacy.pth").write_bytes(saved(training, **old))
    (HERE / "authors_legacy.pth").write_bytes(
        saved(
            {"model": {f"module.{name}": value for name, value in few.items()}, "iteration": 9},
            **old,
        )
    )
    (HERE / "protocol5_zip.pt").write_bytes(saved({"model": few}, pickle_protocol=5))
    (HERE / "protocol1_legacy.pt").write_bytes(saved(few, pickle_protocol=1, **old))
    (HERE / "big_endian_zip.pth").write_bytes(big_endian(saved(few)))
    (HERE / "storage_views_legacy.pth").write_bytes(storage_views())
    torch.serialization.set_crc32_options(False)
    (HERE / "without_sums_zip.pth").write_bytes(saved(few))
    torch.serialization.set_crc32_options(True)
    safetensors.torch.save_file(
        {name: value.detach().clone().contiguous() for name, value in everything.items()},
        HERE / "plain.safetensors",
        metadata={"format": "pt"},
    )
    (HERE / "plain.safetensors").chmod(0o644)

    expected = {}
    for path in sorted(HERE.glob("*.*t*")):
        if path.name.startswith("refused"):
            continue
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        elif path.suffix in (".pth", ".pt"):
            state = torch.load(path, weights_only=False)
            state = state.get("state_dict", state.get("model", state))
        else:
            continue
        for name, value in state.items():
            key, value = f"{path.name}:{name.removeprefix('module.')}", value.detach()
            if value.dtype == torch.bfloat16:
                key, value = f"{key}:bfloat16", value.contiguous().view(torch.int16)
            expected[key] = value.numpy()
    np.savez_compressed(HERE / "expected.npz", **expected)

    # To be refused: not a state dict, or holding more than plain tensors.
    (HERE / "refused_model_legacy.pth").write_bytes(saved(Network(), **old))
    (HERE / "refused_negated_zip.pth").write_bytes(saved({"x": torch._neg_view(torch.ones(3))}))
    (HERE / "refused_float8_zip.pth").write_bytes(
        saved({"x": torch.ones(3).to(torch.float8_e4m3fn)})
    )
    (HERE / "refused_sparse_zip.pth").write_bytes(saved({"x": torch.eye(2).to_sparse()}))


if __name__ == "__main__":
    main()
