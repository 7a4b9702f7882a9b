"""Compiles a program, and reads its memory and traffic from the compiler."""

import math
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

# An array's type, sides and layout: not of a token. TPU: "bf16[8,64]{1,0:T(8,128)(2,1)S(1)}".
_ARRAY = re.compile(r"\b(?:pred|[a-z]+(\d+))\[([\d,]*)\](?:\{([\d,]*)(:[^}]*)?\})?")
_TILE = re.compile(r"T\(([\d,]*)\)")
_MEMORY_SPACE = re.compile(r"S\((\d+)\)")
_COMPUTATION = re.compile(r"^(ENTRY )?(%[\w.\-]+) \(.*\{$", re.MULTILINE)
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?(%[\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_NAME = re.compile(r"%[\w.\-]+")
_CALLED = re.compile(r"(?:calls|body)=(%[\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_OP_NAME = re.compile(r'op_name="([^"]+)"')
_ENTRY = "ENTRY"
_NOTHING_MOVES = {"parameter", "constant", "tuple", "bitcast", "get-tuple-element"}
COPIES = {"copy-start", "slice-start"}  # of a TPU, between its memories while it computes


class Program(NamedTuple):
    """A compiled program, and its cost on one device.

    Attributes:
      run: the compiled function.
      seconds: time of lowering and compiling.
      peak_bytes: arguments, results and temporaries, by the compiler's plan.
      bytes_moved: bytes of the device's memory that the kernels read and write, without caches.
    """

    run: Any
    seconds: float
    peak_bytes: int
    bytes_moved: float


def compiled(jitted: Any, *arguments: Any) -> Program:
    """Compiles a jitted function for arguments, given as arrays or as shapes with shardings."""
    start = time.perf_counter()
    run = jitted.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = run.memory_analysis()
    arguments_and_results = memory.argument_size_in_bytes + memory.output_size_in_bytes
    peak_bytes = arguments_and_results - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    return Program(run, seconds, peak_bytes, bytes_of_kernels(run.as_text()))


class Kernel(NamedTuple):
    """A kernel or a library call, which reads and writes the device's memory.

    Attributes:
      num_bytes: of its operands and results.
      opcodes: of what is fused in it; or its own alone.
      target: the library's function, or "".
      op_name: JAX's path of the operation.
    """

    num_bytes: int
    opcodes: frozenset[str]
    target: str
    op_name: str


def bytes_of_kernels(text: str) -> int:
    """The bytes of the device's memory that all kernels of a program read and write.

    XLA's own count (`cost_analysis`) is missing for NVIDIA. For a TPU it adds what stays in VMEM,
    the memory on the chip, to which the compiler copies arrays ahead: the sum is about three times
    the traffic that bounds the program.
    """
    return sum(kernel.num_bytes for kernel in kernels(text))


def kernels(text: str) -> list[Kernel]:
    """The kernels of a program's entry computation.

    If a kernel only slices an operand, the slices count. The body of a loop counts once per
    iteration.
    """
    computations = _computations(text)
    return list(_kernels_of(computations[_ENTRY], computations))


def _kernels_of(
    computation: list["_Instruction"], computations: dict[str, list["_Instruction"]]
) -> Iterator[Kernel]:
    sizes: dict[str, int] = {}
    for each in computation:
        sizes[each.name] = each.num_bytes
        if each.opcode in _NOTHING_MOVES or each.opcode.endswith("-done"):
            continue
        if each.opcode == "while":
            for kernel in _kernels_of(computations[each.calls], computations):
                yield kernel._replace(num_bytes=each.trips * kernel.num_bytes)
            continue
        called = computations.get(each.calls, [])
        slices = _bytes_of_sliced_parameters(called)
        read = sum(
            min(sizes.get(operand, 0), slices.get(i, sizes.get(operand, 0)))
            for i, operand in enumerate(each.operands)
        )
        opcodes = frozenset(inner.opcode for inner in called) or frozenset([each.opcode])
        yield Kernel(each.num_bytes + read, opcodes, each.target, each.op_name)


class _Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    num_bytes: int  # size of the result; of a copy, what it reads and writes
    opcode: str
    argument: str  # the text between its brackets
    operands: list[str]  # names of the instructions in `argument`; of a copy none
    calls: str  # the computation that it runs, or ""
    trips: int  # iterations of a loop; 1 for all other instructions
    target: str  # as in `Kernel`
    op_name: str


def _computations(text: str) -> dict[str, list[_Instruction]]:
    """Name -> instructions of each computation; the entry computation has the name "ENTRY"."""
    found: dict[str, list[_Instruction]] = {}
    instructions: list[_Instruction] = []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            instructions = found.setdefault(_ENTRY if match[1] else match[2], [])
        elif match := _INSTRUCTION.match(line):
            name, shape, opcode, rest = match.groups()
            end = _end_of_operands(rest)
            called, trips, target, op_name = (
                pattern.search(rest, end) for pattern in (_CALLED, _TRIPS, _TARGET, _OP_NAME)
            )
            is_copy = opcode in COPIES
            instructions.append(
                _Instruction(
                    name=name,
                    num_bytes=_bytes_of_copy(shape) if is_copy else _num_bytes(shape),
                    opcode=opcode,
                    argument=rest[:end],
                    operands=[] if is_copy else _NAME.findall(rest[:end]),
                    calls=called[1] if called else "",
                    trips=int(trips[1]) if trips else 1,
                    target=target[1] if target else "",
                    op_name=op_name[1] if op_name else "",
                )
            )
    return found


def _bytes_of_sliced_parameters(computation: list[_Instruction]) -> dict[int, int]:
    """Index of each parameter that is only sliced -> bytes of its slices."""
    users: dict[str, list[_Instruction]] = {}
    for each in computation:
        for operand in each.operands:
            users.setdefault(operand, []).append(each)

    def sliced(name: str) -> int | None:
        total = 0
        for user in users.get(name, []):
            if user.opcode == "slice":
                total += user.num_bytes
            elif user.opcode == "bitcast" and (inner := sliced(user.name)) is not None:
                total += inner
            else:
                return None
        return total

    parameters = {
        each.name: int(each.argument) for each in computation if each.opcode == "parameter"
    }
    found = {index: sliced(name) for name, index in parameters.items()}
    return {index: num_bytes for index, num_bytes in found.items() if num_bytes is not None}


def _num_bytes(shape: str) -> int:
    """The size in the device's memory of "f32[8,64]{1,0}", or of a tuple of such."""
    return sum(array.num_bytes for array in _arrays(shape) if not array.on_chip)


def _bytes_of_copy(shape: str) -> int:
    """What a copy reads and writes in the device's memory.

    The result has the source, or the operand of which it is a slice; the copy; and a handle.
    """
    ends = [array for array in _arrays(shape) if array.sides]
    copied = min(array.num_bytes for array in ends)
    return sum(copied for array in ends if not array.on_chip)


class _Array(NamedTuple):
    """An array in an instruction's result."""

    sides: list[int]  # before padding
    num_bytes: int  # padded to tiles, as a TPU stores it
    on_chip: bool  # whether it is in a TPU's VMEM


def _arrays(shape: str) -> list[_Array]:
    found = []
    for bits, sides, order, layout in _ARRAY.findall(shape):
        sides = [int(side) for side in sides.split(",") if side]
        padded = list(sides)
        if tile := _TILE.search(layout):
            minor_to_major = [int(axis) for axis in order.split(",") if axis]
            lengths = [int(length) for length in tile[1].split(",")]
            for axis, length in zip(minor_to_major, reversed(lengths), strict=False):
                padded[axis] = -(-padded[axis] // length) * length
        space = _MEMORY_SPACE.search(layout)
        num_bytes = math.ceil(int(bits or 8) / 8) * math.prod(padded)
        found.append(_Array(sides, num_bytes, on_chip=space is not None and space[1] != "0"))
    return found


def _end_of_operands(text: str) -> int:
    """The index of the bracket that closes the one open at the beginning."""
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return i
    return len(text)
