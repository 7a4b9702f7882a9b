"""A compiled program, and what its compiler says of it."""

import math
import re
import time
from typing import Any, NamedTuple

_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?(%[\w.\-]+) \(.*\{$", re.MULTILINE)
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?(%[\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_NAME = re.compile(r"%[\w.\-]+")
_CALLED = re.compile(r"(?:calls|body)=(%[\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_NOTHING_MOVES = {"parameter", "constant", "tuple", "bitcast", "get-tuple-element"}


class Program(NamedTuple):
    """For one device of those that it is mapped over.

    Attributes:
      run: the compiled program; takes what it was compiled for.
      seconds: of lowering and compiling.
      peak_bytes: arguments, results and temporaries together, by the compiler's plan.
      bytes_moved: what its kernels read and write; caches are not thought of.
    """

    run: Any
    seconds: float
    peak_bytes: int
    bytes_moved: float


def compiled(jitted: Any, *arguments: Any) -> Program:
    """Compiles a jitted function for arguments, or shapes with shardings, like these."""
    start = time.perf_counter()
    run = jitted.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory, cost = run.memory_analysis(), run.cost_analysis()
    peak_bytes = (
        memory.argument_size_in_bytes + memory.output_size_in_bytes
        - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    )  # fmt: skip
    # XLA's compiler for NVIDIA does not count them.
    moved = cost["bytes accessed"] if cost else bytes_of_kernels(run.as_text())
    return Program(run, seconds, peak_bytes, moved)


def bytes_of_kernels(text: str) -> int:
    """Operands plus results of every instruction of a compiled program's entry computation.

    Each of them is a kernel, or a call of a library, that reads and writes the device's memory. Of
    an operand of which a kernel only takes slices, the slices count. A loop counts as often as it
    runs.
    """
    computations = _computations(text)
    return _bytes_of(computations[_ENTRY], computations)


def _bytes_of(
    computation: list["_Instruction"], computations: dict[str, list["_Instruction"]]
) -> int:
    sizes: dict[str, int] = {}
    moved = 0
    for each in computation:
        sizes[each.name] = each.num_bytes
        if each.opcode in _NOTHING_MOVES or each.opcode.endswith("-done"):
            continue
        if each.opcode == "while":
            moved += each.trips * _bytes_of(computations[each.calls], computations)
            continue
        called = computations.get(each.calls, [])
        slices = _bytes_of_sliced_parameters(called)
        moved += each.num_bytes
        for i, operand in enumerate(each.operands):
            moved += min(sizes.get(operand, 0), slices.get(i, sizes.get(operand, 0)))
    return moved


class _Instruction(NamedTuple):
    name: str
    num_bytes: int
    opcode: str
    operands: list[str]
    calls: str
    argument: str
    trips: int


_ENTRY = "ENTRY"


def _computations(text: str) -> dict[str, list[_Instruction]]:
    """The instructions of each computation, by its name, the entry computation's as "ENTRY"."""
    found: dict[str, list[_Instruction]] = {}
    instructions: list[_Instruction] = []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            instructions = found.setdefault(_ENTRY if match[1] else match[2], [])
        elif match := _INSTRUCTION.match(line):
            name, shape, opcode, rest = match.groups()
            end = _end_of_operands(rest)
            called, trips = _CALLED.search(rest, end), _TRIPS.search(rest, end)
            instructions.append(
                _Instruction(
                    name, _num_bytes(shape), opcode, _NAME.findall(rest[:end]),
                    called[1] if called else "", rest[:end], int(trips[1]) if trips else 1,
                )
            )  # fmt: skip
    return found


def _bytes_of_sliced_parameters(computation: list[_Instruction]) -> dict[int, int]:
    """Index of each parameter that is only sliced -> the bytes of its slices."""
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
    """Of "f32[8,64]{1,0}", or of a tuple of such."""
    return sum(
        _BYTES.get(dtype, 0) * math.prod(int(side) for side in sides.split(",") if side)
        for dtype, sides in _SHAPE.findall(shape)
    )


def _end_of_operands(text: str) -> int:
    """Where the bracket closes that was open at the beginning."""
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return i
    return len(text)
