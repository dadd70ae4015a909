"""Objects that a forked child must create again: ONNX Runtime's threads stay in the parent, and locks may be held."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Resettable(Protocol):
    """An object that has something to do in a forked child."""

    def after_fork(self) -> None:
        """Called in the child, before anything else uses the object."""


_objects: weakref.WeakSet[Resettable] = weakref.WeakSet()


def reset_after_fork(resettable: Resettable) -> None:
    """Registers an object: its ``after_fork`` is called in every child that is forked while the object exists."""
    _objects.add(resettable)


class PerProcess(Generic[T]):
    """A value that is created when it is first needed, once in each process. Safe to use from many threads.

    Args:
        make: makes the value.
        value: the value for this process, if it exists already.
    """

    def __init__(self, make: Callable[[], T], value: T | None = None) -> None:
        self._make = make
        self._value = value
        self._lock = threading.Lock()
        reset_after_fork(self)

    def get(self) -> T:
        """The value."""
        with self._lock:
            if self._value is None:
                self._value = self._make()
            return self._value

    def forget(self) -> None:
        """Forgets the value; it is made again when it is needed."""
        with self._lock:
            self._value = None

    def after_fork(self) -> None:
        """Forgets the parent's value."""
        if self._value is not None:
            # Never freed: destroying a session waits for its threads, which are not in this process.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._value))
        self._value = None
        self._lock = threading.Lock()


def _after_fork() -> None:
    for resettable in list(_objects):
        resettable.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
