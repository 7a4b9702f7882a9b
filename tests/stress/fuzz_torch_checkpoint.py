"""Reads damaged and hostile checkpoints, and counts the outcomes.

    python tests/stress/fuzz_torch_checkpoint.py [--files 100000] [--seed 0] [--first 0]

Each file is a mutation of a file of tests/torch_fixtures. Its seed is (seed, number): `--first N
--files 1` reproduces file N. Half of the mutations change the pickle inside and correct checksums
and lengths, so that they pass the outer layers. The reader must return arrays or raise
TorchFileError. All else is a crash: another exception, excessive memory, and any audit event of
Python other than reading the file.
"""

import argparse
import faulthandler
import io
import pickletools
import random
import re
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mspn_jax.errors import TorchFileError
from mspn_jax.weights.torch import layouts, state_dicts

MEMORY_BYTES = 256 << 20
NUMBERS = [0, 1, 2, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40]
NUMBERS += [2**62 - 1, 2**62, 2**63 - 1]
OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
INTEGERS = (b"K", b"M", b"J", b"\x8a")
# Calls, some complete:
HOSTILE = [
    b"cos\nsystem\nX\x04\0\0\0true\x85R", b"cbuiltins\neval\n(X\x03\0\0\x001+1tR",
    b"cbuiltins\n__import__\n", b"csubprocess\nPopen\n)\x81}b", b"(X\x04\0\0\0trueios\nsystem\n",
    b"cmspn_jax.weights.torch.unpickling\nTensor\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_tensor_v3\n", b"ctorch._utils\n_rebuild_parameter\n",
    b"ccollections\nOrderedDict\n]\x85R", b"ctorch\nFloatStorage\n", b"R", b"Q", b"P1\n", b"\x93",
    b"}b", b")\x81", b"h\0R", b"h\x01b",
    # Nesting and doubling:
    b")" + b"\x85" * 2000 + b"Ns", b")" + b"2\x86" * 60, b"]" * 3000, b"(" * 3000,
    # Numbers and lengths without data:
    b"r\xff\xff\xff\xff", b"r\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"X\xff\xff\xff\xff",
    b"\x8d\xff\xff\xff\xff\0\0\0\0", b"\x8e\xff\xff\xff\xff\xff\xff\0\0",
    b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8b\0\x08\0\0" + b"\x7f" * 2048, b"I" + b"9" * 5000 + b"\n",
    # Other opcodes:
    b"\x82\x01", b"\x84\x01\0\0\0", b"\x97", b"\x98", b"\x8f(K\x01\x90", b"\x94", b"0", b"1", b"2",
    b"N", b"K\0", b"J\xff\xff\xff\xff",
]  # fmt: skip


def flipped(data: bytes, rng: random.Random) -> bytes:
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def spliced(data: bytes, rng: random.Random) -> bytes:
    """Removes, doubles or replaces bytes; replacements come from any fixture."""
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    donor = rng.choice([b"", data, *SOURCES.values()])
    first = rng.randrange(len(donor) + 1)
    return data[:start] + donor[first : first + rng.choice([1, 8, 64, 4096])] + data[stop:]


def numbered(data: bytes, rng: random.Random) -> bytes:
    """Sets a field of 1 to 8 bytes to an unusual number."""
    width = rng.choice([1, 2, 4, 8])
    number = rng.choice([*NUMBERS, len(data), len(data) + 1, rng.getrandbits(64)])
    at = rng.randrange(len(data))
    return data[:at] + (number % 256**width).to_bytes(width, "little") + data[at + width :]


def reprogrammed(pickle: bytes, rng: random.Random) -> bytes:
    """Removes, doubles, swaps, alters or adds instructions of a pickle."""
    starts = [at for _, _, at in pickletools.genops(pickle)]
    code = [pickle[a:b] for a, b in zip(starts, [*starts[1:], len(pickle)], strict=True)]
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at, other = rng.randrange(len(code)), rng.randrange(len(code))
        match rng.randrange(9):
            case 0:
                code[at] = b""
            case 1:
                code[at] *= rng.choice([2, 2, 1000])
            case 2:
                code[at], code[other] = code[other], code[at]
            case 3:
                code[at] = rng.choice(OPCODES) + code[at][1:]
            case 4:
                code[at] = code[other]
            case 5 | 8:
                integers = [i for i, piece in enumerate(code) if piece.startswith(INTEGERS)]
                number = rng.choice([*NUMBERS, rng.getrandbits(16), -1])
                code[rng.choice(integers or [at])] = b"\x8a\x09" + number.to_bytes(
                    9, "little", signed=True
                )
            case 6 | 7:
                code[at] = rng.choice(HOSTILE) + code[at]
    return b"".join(code)


def in_zip(data: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """Changes one record, mostly the pickle, and corrects checksum and lengths."""
    records = layouts.zip_records(data)
    pickle = next(name for name in records if name.endswith("/data.pkl"))
    changed = pickle if rng.random() < 0.9 else rng.choice(list(records))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as new:
        for name, where in records.items():
            content = data[where.start : where.stop]
            if name == changed:
                content = change(content) if name == pickle else numbered(content + b"\0", rng)
            new.writestr(name, content)
    return target.getvalue()


def in_legacy(data: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """Changes one of the five pickles, mostly the object's."""
    stream, ends = io.BytesIO(data), [0]
    for _ in range(5):
        for _ in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    which = 3 if rng.random() < 0.9 else rng.randrange(5)
    start, stop = ends[which : which + 2]
    return data[:start] + change(data[start:stop]) + data[stop:]


def in_safetensors(data: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """Swaps words of the header, and corrects its length."""
    (length,) = struct.unpack_from("<Q", data)
    words = re.split(rb'([\[\]{}:,]|"[^"]*")', data[8 : 8 + length])
    for _ in range(rng.choice([1, 1, 2, 5])):
        number = str(rng.choice([*NUMBERS, -1, 1.5, 10**30, "1e999", "[" * 5000])).encode()
        words[rng.randrange(len(words))] = rng.choice([number, rng.choice(words), b""])
    header = b"".join(words)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


SOURCES = {
    path.name: path.read_bytes()
    for path in sorted((ROOT / "tests" / "torch_fixtures").iterdir())
    if path.suffix in (".pth", ".pt", ".safetensors")
}


def mutated(seed: int, number: int) -> bytes:
    rng = random.Random(f"{seed} {number}")
    data = rng.choice(list(SOURCES.values()))
    if rng.random() < 0.5:
        layer = (
            in_zip if data.startswith(b"PK") else in_safetensors if data[8:9] == b"{" else in_legacy
        )
        rough = rng.choice([flipped, cut, spliced, numbered])
        change = rng.choice([reprogrammed, reprogrammed, reprogrammed, rough])
        return layer(data, lambda pickle: change(pickle, rng), rng)
    return rng.choice([flipped, cut, spliced, numbered])(data, rng)


class Escaped(BaseException):
    """Derives from BaseException, so that the reader cannot catch it."""


FILE = None
armed = False


def watch(event: str, arguments: tuple) -> None:
    """Audit hook: refuses all events but reading while a file is read."""
    reads = event == "open" and arguments[1] in ("r", "rb", None) and str(arguments[0]) == str(FILE)
    if armed and not reads and event != "mmap.__new__":
        raise Escaped(f"{event} {arguments!s:.200}")


def prepare() -> None:
    """Reads all fixtures, which imports modules, then limits memory and sets the hook."""
    for name, data in SOURCES.items():
        FILE.write_bytes(data)
        try:
            state_dicts.read(FILE)
        except TorchFileError:
            assert name.startswith("refused"), name
    "".encode("raw-unicode-escape")  # pickletools needs the codec, and Python imports it at use
    sys.addaudithook(watch)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, resource.RLIM_INFINITY))


def outcome_of(data: bytes) -> tuple[str, str]:
    """Returns ("read", ""), ("refused", reason) or ("crashes", description)."""
    global armed
    FILE.write_bytes(data)
    try:
        armed = True
        arrays = state_dicts.read(FILE)
        armed = False
        if sum(array.nbytes for array in arrays.values()) > 1 << 21:
            return "crashes", "arrays far larger than the file"
        return "read", ""
    except TorchFileError as error:
        armed = False
        if "memory" in str(error) or "\n" in str(error):
            return "crashes", str(error)
        reason = re.sub(r"'.*?'", "...", str(error).removeprefix(f"{FILE}: "))
        return "refused", reason.split(":")[0]
    except BaseException as error:
        armed = False
        if isinstance(error, KeyboardInterrupt):
            raise
        return "crashes", f"{type(error).__name__}: {error}"


def main() -> int:
    global FILE
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()

    faulthandler.enable()
    counts, reasons, slowest = Counter(), Counter(), (0.0, 0)
    with tempfile.TemporaryDirectory() as folder:
        FILE = Path(folder) / "fuzzed.pth"
        prepare()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.perf_counter()
        for number in range(options.first, options.first + options.files):
            data = mutated(options.seed, number)
            started = time.perf_counter()
            outcome, reason = outcome_of(data)
            slowest = max(slowest, (time.perf_counter() - started, number))
            counts[outcome] += 1
            if outcome == "refused":
                reasons[reason] += 1
            elif outcome == "crashes":
                print(f"file {number}: {reason}")
        seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{options.files} files in {seconds:.0f} s: {counts['read']} read, {counts['refused']} "
        f"refused, {counts['crashes']} crashes"
    )
    print(
        f"slowest {1e3 * slowest[0]:.0f} ms (file {slowest[1]}), peak memory {after / 1024:.0f} "
        f"MiB, {(after - before) / 1024:.0f} MiB of it while fuzzing"
    )
    for reason, count in reasons.most_common():
        print(f"{count:8d} {reason}")
    return counts["crashes"] > 0


if __name__ == "__main__":
    sys.exit(main())
