"""Reads the pickle in a PyTorch checkpoint as data: nothing in it is imported or called.

A pickle is a program for a stack machine (Python's `pickletools` documents the opcodes). Python's
own machine is unsafe for untrusted programs, even if no class can be looked up: nested tuples as a
dict's key overflow the C stack, and ten bytes with a large memo number allocate gigabytes. So
`unpickle` interprets the program itself. torch's names come from `torch/_utils.py`, the persistent
ids from `torch/serialization.py`.
"""

import io
import mmap
import pickletools
from typing import Any, NamedTuple

from mspn_jax.errors import TorchFileError

# About five times what a training checkpoint of the largest model needs. It bounds the memory and
# time that a hostile file can take.
_MAX_OPCODES = 2_000_000
AGAIN = "download it again"


def require(holds: object, otherwise: str) -> None:
    """Raises TorchFileError with the message `otherwise`; the reader adds the file's name."""
    if not holds:
        raise TorchFileError(otherwise)


class Foreign(NamedTuple):
    """Stands for a class or function that a pickle names, and for what it would return."""

    module: str
    name: str


class Storage(NamedTuple):
    """`numel` numbers stored outside the pickle, and the part of them that is used."""

    kind: str
    key: str
    numel: int
    first: int
    length: int  # from `first` on


class Tensor(NamedTuple):
    """A strided window into a storage, counted in elements of `kind`."""

    storage: Storage
    kind: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def unpickle(stream: io.BytesIO | mmap.mmap) -> tuple[Any, dict[str, Storage]]:
    """The pickled object at the stream's position, and the storages that it names, by key.

    Builds lists, tuples, dicts, strings, numbers, `Storage` and `Tensor`. Everything else becomes a
    `Foreign`, and operations on a `Foreign` are skipped. Only strings are hashed, and no
    instruction costs more than the bytes and instructions before it. A damaged pickle raises
    exceptions of any kind.
    """
    stack, marks, memo, storages = [], [], {}, {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        require(count < _MAX_OPCODES, "holds far more than weights: save the state dict only")
        name = opcode.name
        if name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "GLOBAL":
            stack.append(Foreign(*argument.split(" ", 1)))
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _PUSHED:
            popped = []
            if _POPS_TO_MARK[name]:
                start = marks.pop()
                popped = [stack[start:]]
                del stack[start:]
            start = len(stack) - _NUM_POPPED[name]
            popped[:0] = stack[start:]
            del stack[start:]
            stack.append(_PUSHED[name](*popped))
            if isinstance(stack[-1], Storage):
                storages.setdefault(stack[-1].key, stack[-1])
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            del stack[marks.pop() :]
        else:
            require(
                name in ("PROTO", "FRAME", "STOP"),
                f"uses {name}, which torch never does: distrust it",
            )
    return stack[-1], storages


def _extended(target: object, items: list) -> object:
    if isinstance(target, list):
        target.extend(items)
    return target


def _filled(target: object, items: list | tuple) -> object:
    """Keeps only strings as keys: hashing anything else can be slow or crash."""
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key if isinstance(key, str) else object()] = value
    return target


def _named(module: object, name: object) -> Foreign:
    require(isinstance(module, str) and isinstance(name, str), f"is damaged: {AGAIN}")
    return Foreign(module, name)


def _persistent(pid: object) -> Storage | Foreign:
    """What stands for an object stored outside the pickle."""
    match pid:
        case "storage", Foreign(name=kind), str(key), _, int(numel):
            return Storage(kind, key, numel, 0, numel)
        case "storage", Foreign(name=kind), str(key), _, int(numel), view:
            _, first, length = view or (key, 0, numel)
            return Storage(kind, key, numel, first, length)
        case "module", Foreign() as network, _, _:  # in a network saved whole
            return network
    return Foreign("an", "object")


def _called(function: object, arguments: object) -> object:
    """What stands for the result of `function(*arguments)`, which is not called."""
    match function, arguments:
        case Foreign("collections", "OrderedDict"), ():
            return {}
        case Foreign("collections", "OrderedDict"), (list(pairs),):  # written by Python 2
            items = [part for key, value in pairs for part in (key, value)]
            pairs.clear()  # else building from it again and again takes quadratic time
            return _filled({}, items)
        case Foreign("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2"), (
            (Storage() as storage, offset, size, stride)
            | (Storage() as storage, offset, size, stride, _, _)
        ):
            return Tensor(storage, storage.kind, offset, size, stride)
        case Foreign("torch._utils", "_rebuild_tensor_v3"), (
            (Storage() as storage, offset, size, stride, _, _, Foreign("torch", kind))
        ):
            return Tensor(storage, kind, offset, size, stride)
        case Foreign("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"), (
            data,
            *_,
        ):
            return data
    return function if isinstance(function, Foreign) else Foreign("an", "object")


_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
# Opcode -> function from what it pops to what it pushes. The items above the last mark are one
# list.
_PUSHED = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Foreign("builtins", "set"),
    "EMPTY_TUPLE": tuple,
    "TUPLE": tuple,
    "TUPLE1": lambda *items: items,
    "TUPLE2": lambda *items: items,
    "TUPLE3": lambda *items: items,
    "FROZENSET": lambda items: Foreign("builtins", "frozenset"),
    "APPEND": lambda target, item: _extended(target, [item]),
    "APPENDS": _extended,
    "ADDITEMS": lambda target, items: target,
    "SETITEM": lambda target, *items: _filled(target, items),
    "SETITEMS": _filled,
    "BUILD": lambda target, state: target,
    "STACK_GLOBAL": _named,
    "REDUCE": _called,
    "NEWOBJ": _called,
    "NEWOBJ_EX": lambda function, arguments, keywords: _called(function, arguments),
    "BINPERSID": _persistent,
}
_POPS_TO_MARK = {
    opcode.name: pickletools.markobject in opcode.stack_before for opcode in pickletools.opcodes
}
# Items popped besides that list and its mark.
_NUM_POPPED = {
    opcode.name: len(opcode.stack_before) - 2 * _POPS_TO_MARK[opcode.name]
    for opcode in pickletools.opcodes
}
