"""Jobs in a line: several at once, each of which may wait for all before it.

Owns the threads and what becomes of errors: that of the first job in the line is raised, as if
they had been done one after the other. It must not know what the jobs are.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from cache.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
AT_ONCE = 3  # as many as are fetched side by side


class Turn:
    """A job's place in the line."""

    __slots__ = ("_line", "number")

    def __init__(self, line: Line[T], number: int) -> None:
        """Stand behind `number` others."""
        self._line = line
        self.number = number

    def wait(self) -> None:
        """Return when all jobs before this one are done.

        Raises:
            StoreError: one of them failed.
        """
        self._line.wait(self.number)

    def check(self) -> None:
        """Go on only while none of the jobs before this one has failed.

        Raises:
            StoreError: one has.
        """
        self._line.check(self.number)


class Line(Generic[T]):
    """The jobs of one `run`."""

    def __init__(self, job: Callable[[Turn], T], count: int) -> None:
        """Do `job` for every number below `count`."""
        self._job = job
        self._count = count
        self._news = threading.Condition()
        self._next = 0
        self._done: dict[int, T] = {}
        self._errors: dict[int, BaseException] = {}

    def run(self, at_once: int = AT_ONCE) -> list[T]:
        """Do them all; what each gave, in order."""
        helpers = [
            threading.Thread(target=self._work, name="in line", daemon=True)
            for _ in range(min(at_once, self._count) - 1)
        ]
        try:
            for helper in helpers:
                helper.start()
            self._work()
        finally:
            for helper in helpers:
                helper.join()
        if self._errors:
            raise self._errors[min(self._errors)]
        return [self._done[number] for number in range(self._count)]

    def wait(self, number: int) -> None:
        """See Turn."""
        with self._news:
            while any(before not in self._done for before in range(number)):
                self.check(number)
                self._news.wait()

    def check(self, number: int) -> None:
        """See Turn."""
        if self._errors and min(self._errors) < number:
            raise StoreError("what this stands on could not be made")

    def _work(self) -> None:
        while True:
            with self._news:
                number = self._next
                if number >= self._count or self._errors:
                    return
                self._next += 1
            try:
                done = self._job(Turn(self, number))
            except BaseException as error:  # noqa: BLE001 - raised again by `run`
                with self._news:
                    self._errors[number] = error
                    self._news.notify_all()
            else:
                with self._news:
                    self._done[number] = done
                    self._news.notify_all()
