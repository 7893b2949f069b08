"""What a call's arguments look like without the numbers in their tensors, and the same arguments over other tensors."""
from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

from torch import Tensor

Value = TypeVar("Value")


def outline(value: object, tensors: dict[int, Tensor]) -> Hashable:
    """A key that two arguments share if work recorded for one is right for the other, given its tensors.

    Args:
        value: tensors, numbers, and dataclasses, tuples and lists of them.
        tensors: gets every tensor once, by id, in the order in which they come.

    Returns:
        kinds, shapes and dtypes; a tensor that comes twice is the same one in both places.
    """
    if isinstance(value, Tensor):
        tensors.setdefault(id(value), value)
        return list(tensors).index(id(value)), tuple(value.shape), value.dtype
    if is_dataclass(value):
        return type(value), *(outline(getattr(value, field.name), tensors) for field in fields(value))
    if isinstance(value, (tuple, list)):
        return type(value), *(outline(part, tensors) for part in value)
    return value


def over(value: Value, tensors: dict[int, Tensor]) -> Value:
    """The same arguments with other tensors: id of the old one -> the new one."""
    if isinstance(value, Tensor):
        return tensors[id(value)]
    if is_dataclass(value):
        changed = {}
        for field in fields(value):
            changed[field.name] = over(getattr(value, field.name), tensors)
        return replace(value, **changed)
    if isinstance(value, (tuple, list)):
        parts = [over(part, tensors) for part in value]
        if hasattr(value, "_fields"):  # a named tuple takes its parts one by one
            return type(value)(*parts)
        return type(value)(parts)
    return value
