"""One worker and its queue: full pictures before previews, tabs in turn, nothing drawn that nobody
waits for.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from taming.errors import UserError
from taming.studio.limits import PENDING, PENDING_BYTES
from taming.studio.protocol import Frame


class Cancelled(Exception):
    """Nobody waits for the drawing any more."""


class Postponed(Exception):
    """A full picture is waiting; the preview is drawn after it."""


@dataclass(eq=False)
class Task:
    """One request of a tab.

    Args:
        tab: whose it is.
        id: the tab's number for it.
        work: does it; asks `checkpoint` often, and hands answers to `send`.
        send: takes answers, from any thread.
        is_preview: it yields to what is none, and to the next preview of its tab.
        size: bytes that wait with it.
    """

    tab: Any
    id: int
    work: Callable[["Task"], None]
    send: Callable[[Frame], None]
    is_preview: bool = False
    size: int = 0
    cancelled: bool = field(default=False, init=False)
    postponed: bool = field(default=False, init=False)

    def checkpoint(self, *_: Any) -> None:
        """Raises Cancelled or Postponed where the work should end here."""
        if self.cancelled:
            raise Cancelled
        if self.postponed:
            raise Postponed

    def answer(self, event: str, blobs: dict[str, bytes] | None = None, **header: Any) -> None:
        self.send(Frame({"event": event, "id": self.id, **header}, blobs or {}))


class Worker:
    """A thread that does tasks one after the other.

    Args:
        describe: an exception -> one line for the page, or None for a bug, which is `report`ed.
        report: a bug -> the log.
    """

    def __init__(
        self, describe: Callable[[Exception], str | None], report: Callable[[Exception], None]
    ):
        self.describe, self.report = describe, report
        self.condition = threading.Condition()
        self.waiting: deque[Task] = deque()
        self.running: Task | None = None
        self.turns: dict[Any, int] = {}  # when each tab was last served
        self.stopping = False
        self.thread = threading.Thread(target=self._run, name="studio", daemon=True)
        self.thread.start()

    def submit(self, task: Task) -> None:
        """Queues a task. Raises UserError where too many wait."""
        with self.condition:
            if task.is_preview:
                self._cancel(lambda other: other.tab is task.tab and other.is_preview)
            elif self.running is not None and self.running.is_preview:
                self.running.postponed = True
            mine = sum(other.tab is task.tab for other in self.waiting)
            size = sum(other.size for other in self.waiting) + task.size
            if mine >= PENDING or size > PENDING_BYTES:
                raise UserError(
                    f"{len(self.waiting)} requests are waiting; wait for them, or cancel some"
                )
            self.waiting.append(task)
            self.condition.notify()
        if self.position(task):
            task.answer("queued", position=self.position(task))

    def position(self, task: Task) -> int:
        """How many requests are before this one."""
        with self.condition:
            if task not in self.waiting:
                return 0
            ahead = list(self.waiting)[: list(self.waiting).index(task)]
            before = sum(task.is_preview or not other.is_preview for other in ahead)
            return before + (self.running is not None)

    def cancel(self, tab: Any, id: int | None = None) -> None:
        """A tab's request, or all of them."""
        with self.condition:
            self._cancel(lambda task: task.tab is tab and id in (None, task.id))

    def forget(self, tab: Any) -> None:
        """A tab that is closed."""
        with self.condition:
            self._cancel(lambda task: task.tab is tab)
            self.turns.pop(tab, None)

    def _cancel(self, is_meant: Callable[[Task], bool]) -> None:
        for task in [task for task in self.waiting if is_meant(task)]:
            self.waiting.remove(task)
            task.cancelled = True
            task.answer("cancelled")
        if self.running is not None and is_meant(self.running):
            self.running.cancelled = True

    def stop(self) -> None:
        """Ends what is running at its next checkpoint."""
        with self.condition:
            self.stopping = True
            self._cancel(lambda task: True)
            self.condition.notify()
        self.thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            with self.condition:
                while not self.waiting and not self.stopping:
                    self.condition.wait()
                if self.stopping:
                    return
                task = self.running = self._take()
            self._do(task)
            with self.condition:
                self.running = None
            del task  # its pictures should not wait for the next one

    def _take(self) -> Task:
        """Pictures before previews; of these, the tab that was served longest ago."""
        task = min(
            self.waiting, key=lambda task: (task.is_preview, self.turns.get(task.tab, 0))
        )  # the earliest of those that tie
        self.waiting.remove(task)
        self.turns[task.tab] = 1 + max(self.turns.values(), default=0)
        return task

    def _do(self, task: Task) -> None:
        try:
            task.work(task)
            task.answer("done")
        except Cancelled:
            task.answer("cancelled")
        except Postponed:
            with self.condition:
                task.postponed = False
                if not task.cancelled and not self.stopping:
                    self.waiting.appendleft(task)
                    return
            task.answer("cancelled")
        except Exception as error:
            message = self.describe(error)
            if message is None:
                self.report(error)
                message = "a bug of ours: its traceback stands where taming studio was started"
            task.answer("failed", message=message)
