"""The page's server: a few files from a closed table, and one WebSocket for each tab."""

import asyncio
import sys
import traceback
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from taming.errors import UserError, first_line
from taming.studio.desk import Answer, Desk
from taming.studio.drawing import Painter
from taming.studio.guard import Guard, GuardedApp
from taming.studio.inspector import Inspector
from taming.studio.limits import OUTBOX, TABS, UPLOAD_BYTES
from taming.studio.model import StudioModel
from taming.studio.photograph import Eye, Photographs
from taming.studio.previews import Preview, Previewer
from taming.studio.protocol import Frame, pack, unpack
from taming.studio.requests import LARGEST_ID, read_drawing
from taming.studio.worker import Task, Worker

PAGE = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
BUSY, BEHIND, TOO_LARGE = 1013, 1008, 1009  # close codes of WebSockets


@dataclass(eq=False)
class Tab:
    """A page that is open.

    Args:
        loop: of its socket.
        outbox: answers on their way; None ends it.
        preview: the last one.
    """

    loop: asyncio.AbstractEventLoop
    outbox: asyncio.Queue = field(default_factory=asyncio.Queue)
    preview: Preview | None = None
    closed: bool = False

    def send(self, frame: Frame) -> None:
        """From any thread."""
        if self.closed:
            return
        try:
            self.loop.call_soon_threadsafe(self._put, frame)
        except RuntimeError:  # the loop has ended, and the page with it
            self.closed = True

    def _put(self, frame: Frame) -> None:
        if self.outbox.qsize() < OUTBOX:
            self.outbox.put_nowait(frame)
        elif frame.header.get("event") not in ("rows", "progress", "preview"):
            # It reads nothing: what is lost can't be made good
            self.closed = True
            self.outbox.put_nowait(None)


class Server:
    """The application for one model.

    Args:
        model: what draws.
        guard: who may talk to it.
        eye: what finds the layout of a photograph.
    """

    def __init__(self, model: StudioModel, guard: Guard, eye: Eye | None = None):
        self.model, self.guard = model, guard
        self.painter = Painter(model)
        self.previewer = Previewer(self.painter)
        inspector, desk, photographs = Inspector(model), Desk(model), Photographs(model, eye)
        self.worker, self.desk_worker = Worker(_line_of, _report), Worker(_line_of, _report)
        self.has_eye = eye is not None
        self.tabs: set[Tab] = set()
        self.drawn: dict[str, Answer] = {
            "draw": self._draw,
            "preview": self._preview,
            "photograph": photographs.layout,
            "encode": inspector.encode,
            "decode": inspector.decode,
            "code": inspector.code,
        }
        self.beside: dict[str, Answer] = {
            "sketch": desk.sketch,
            "layout": desk.layout,
            "mask": desk.mask,
        }
        self.files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.is_file()}

    def app(self) -> ASGIApp:
        routes = [
            Route("/", self._page),
            Route("/page/{name}", self._page),
            Route("/favicon.ico", self._nothing),
            WebSocketRoute("/socket", self._socket),
        ]
        return GuardedApp(Starlette(routes=routes), self.guard)

    def stop(self) -> None:
        self.worker.stop()
        self.desk_worker.stop()

    # Files

    async def _page(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        content = self.files.get(name)
        if content is None:
            return PlainTextResponse("there is no such page", 404)
        return Response(content, headers={"Content-Type": KINDS[Path(name).suffix]})

    async def _nothing(self, request: Request) -> Response:
        return Response(status_code=204)

    # Sockets

    async def _socket(self, socket: WebSocket) -> None:
        await socket.accept()
        if len(self.tabs) >= TABS:
            return await socket.close(BUSY, f"{TABS} pages are open already; close some")
        tab = Tab(asyncio.get_running_loop())
        self.tabs.add(tab)
        sending = asyncio.create_task(self._write(socket, tab))
        try:
            tab.send(Frame({"event": "welcome", "model": self.description()}))
            await self._read(socket, tab)
        finally:
            tab.closed = True
            self.tabs.discard(tab)
            self.worker.forget(tab)
            self.desk_worker.forget(tab)
            sending.cancel()

    def description(self) -> dict[str, Any]:
        return {
            **self.model.description(),
            "photographs": self.has_eye,
            "upload_bytes": UPLOAD_BYTES,
        }

    async def _read(self, socket: WebSocket, tab: Tab) -> None:
        while True:
            try:
                message = await socket.receive()
            except WebSocketDisconnect:
                return
            if message["type"] == "websocket.disconnect":
                return
            content = message.get("bytes")
            self._take(content if content is not None else b"", tab)

    def _take(self, content: bytes, tab: Tab) -> None:
        """Queues a request; what is wrong with it is one line on the page."""
        id = None
        try:
            frame = unpack(content)
            id = frame.header.get("id")
            if type(id) is not int or not 0 <= id <= LARGEST_ID:
                id = None
                raise UserError("a request should have an id, a whole number")
            self._queue(frame, id, tab)
        except UserError as error:
            tab.send(Frame({"event": "failed", "id": id, "message": str(error)}))

    def _queue(self, frame: Frame, id: int, tab: Tab) -> None:
        name = frame.header.get("do")
        if name == "cancel":
            of = frame.header.get("of")
            for worker in (self.worker, self.desk_worker):
                worker.cancel(tab, of if type(of) is int else None)
            return
        for worker, answers in ((self.worker, self.drawn), (self.desk_worker, self.beside)):
            if isinstance(name, str) and name in answers:
                work = partial(_answer, answers[name], frame)
                task = Task(tab, id, work, tab.send, name == "preview", frame.size)
                return worker.submit(task)
        raise UserError(f"there is no request '{str(name):.40}'")

    async def _write(self, socket: WebSocket, tab: Tab) -> None:
        while (frame := await tab.outbox.get()) is not None:
            await socket.send_bytes(pack(frame))
        await socket.close(BEHIND, "the page did not read what was sent to it")

    # Answers

    def _draw(self, task: Task, frame: Frame) -> None:
        self.painter.draw(task, read_drawing(frame, self.model))

    def _preview(self, task: Task, frame: Frame) -> None:
        if self.model.kind != "layout":
            raise UserError("previews are of layouts, and this model has none")
        drawing = read_drawing(frame, self.model)
        task.tab.preview = self.previewer.preview(task, drawing, task.tab.preview)


def _answer(answer: Answer, frame: Frame, task: Task) -> None:
    answer(task, frame)


def _line_of(error: Exception) -> str | None:
    """One line for the page; None for a bug of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "out of memory; take a smaller picture, or fewer at a time"
    if type(error).__name__ == "OutOfMemoryError":
        return "out of memory on the GPU; take a smaller picture, or fewer at a time"
    if isinstance(error, OSError):
        return f"the disk says: {error.strerror or first_line(error)}"
    return None


def _report(error: Exception) -> None:
    traceback.print_exception(error, file=sys.stderr)
