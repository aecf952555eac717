"""A pickle followed on plain values alone: no class in it is imported, and nothing in it is called.

PyTorch's reader of mere data refuses a file with one foreign object in it, and its other reader runs whatever the file
says. Here a tensor becomes the numbers that describe it, a class a name, and any other object a :class:`Foreign`.
"""

from __future__ import annotations

import pickletools
from typing import IO, Any, NamedTuple

import torch

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}
_TENSORS = tuple(f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3"))
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"
# What PyTorch's reader of data knows beside these.
_PLAIN = (
    "_codecs.encode",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.set",
    "collections.Counter",
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
)
_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_MARK = object()


class Foreign(dict[Any, Any]):
    """In the place of an object: the items it was given, where it is a kind of dict."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Name(str):
    """A class or function by its whole name."""

    __slots__ = ()


class Storage(NamedTuple):
    """Numbers that lie elsewhere in the file, under a key."""

    key: str
    dtype: torch.dtype


class Described(NamedTuple):
    """A tensor whose numbers are not read yet."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Pickle:
    """One pickle, from a file that stands at its start and is left behind its end.

    Attributes:
        value: what it holds: plain values, :class:`Described` tensors, and :class:`Foreign` and :class:`Name`.
        foreign: the names of the classes and functions that are neither of plain values nor of tensors.
        storages: what its tensors refer to, by key.

    A damaged pickle raises whatever it leads to: ``ValueError``, ``TypeError``, ``LookupError``, ...
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.foreign: set[str] = set()
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        for instruction, argument, _ in pickletools.genops(file):
            self._follow(instruction.name, argument)
        (self.value,) = self._stack

    def _follow(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                stack.append(_MARK)
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._from_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._last(int(name[-1]))))
            case "TUPLE" | "FROZENSET":
                stack.append(tuple(self._from_mark()))
            case "LIST":
                stack.append(self._from_mark())
            case "DICT":
                items = self._from_mark()
                stack.append(dict(zip(items[::2], items[1::2], strict=True)))
            case "APPEND":
                self._extend(self._last(1))
            case "APPENDS" | "ADDITEMS":
                self._extend(self._from_mark())
            case "SETITEM":
                self._update(self._last(2))
            case "SETITEMS":
                self._update(self._from_mark())
            case "GLOBAL":
                stack.append(self._name(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                stack.append(self._name(".".join(self._last(2))))
            case "INST":
                self._from_mark()
                self._name(argument.replace(" ", "."))
                stack.append(Foreign())
            case "OBJ":
                self._from_mark()
                stack.append(Foreign())
            case "REDUCE" | "NEWOBJ":
                stack.append(self._made(*self._last(2)))
            case "NEWOBJ_EX":
                self._last(3)
                stack.append(Foreign())
            case "BUILD":
                stack.pop()
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "PERSID" | "EXT1" | "EXT2" | "EXT4" | "NEXT_BUFFER" | "READONLY_BUFFER":
                raise ValueError(name)
            case _:
                stack.append(argument)

    def _last(self, count: int) -> list[Any]:
        """The topmost values, taken off."""
        if len(self._stack) < count:
            raise ValueError("too few values")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _from_mark(self) -> list[Any]:
        """The values above the last mark, taken off with it."""
        count = 0
        while self._stack[-1 - count] is not _MARK:
            count += 1
        values = self._last(count) if count else []
        self._stack.pop()
        return values

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(values)

    def _update(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], dict):
            self._stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _name(self, name: str) -> Name:
        # As Python 2, and hence the protocol that torch.save uses, calls it.
        name = name.replace("__builtin__.", "builtins.", 1)
        known = name in (*_TENSORS, *_PARAMETERS, _WITH_ATTRIBUTES, *_PLAIN, *_DTYPES)
        if not known and not (name.startswith("torch.") and name.rpartition(".")[2] in _STORAGES):
            self.foreign.add(name)
        return Name(name)

    def _made(self, function: Any, arguments: Any) -> Any:
        """What a call would make of its arguments, if it makes a tensor or a dict of them."""
        if function in _TENSORS:
            storage, offset, size, stride, *others = arguments
            dtype = _DTYPES[others[2]] if function == _TENSORS[2] else storage.dtype
            return Described(storage, dtype, offset, size, stride)
        if function in _PARAMETERS:
            return arguments[0]
        if function == _WITH_ATTRIBUTES:
            return self._made(arguments[0], arguments[2])
        if function == "collections.OrderedDict":
            return dict(*arguments)
        return Foreign()

    def _storage(self, reference: Any) -> Storage:
        kind, storage, key, *_ = reference
        if kind != "storage":
            raise ValueError(kind)
        found = Storage(key, _STORAGES[storage.rpartition(".")[2]])
        return self.storages.setdefault(key, found)
