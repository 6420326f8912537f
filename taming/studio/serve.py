"""Starts the studio: a socket, the server on it, and the address that opens the page."""

import errno
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence

import uvicorn

from taming.errors import UserError
from taming.studio.guard import Guard, hosts_of
from taming.studio.limits import TABS, UPLOAD_BYTES
from taming.studio.model import StudioModel, load_model
from taming.studio.photograph import Eye, eye_for
from taming.studio.server import Server

PORT = 8765
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANYWHERE = ("0.0.0.0", "::", "")


class Studio:
    """A server that can be started in this thread or in another, and stopped.

    Args:
        model: what draws.
        eye: what finds the layout of a photograph.
        host: the address to listen on.
        port: 0: any that is free; None: the usual one, or any.

    Raises:
        UserError: the address is in use, or none of this machine's.
    """

    def __init__(
        self,
        model: StudioModel,
        eye: Eye | None = None,
        host: str = "127.0.0.1",
        port: int | None = None,
    ):
        self.socket = bound_socket(host, port)
        self.host, self.port = host, self.socket.getsockname()[1]
        self.guard = Guard(hosts_of(names_of(host), self.port))
        self.server = Server(model, self.guard, eye)
        config = uvicorn.Config(
            self.server.app(),
            ws="websockets-sansio",
            ws_max_size=UPLOAD_BYTES,
            ws_max_queue=4,
            ws_per_message_deflate=False,
            limit_concurrency=2 * TABS,
            log_level="warning",
            access_log=False,  # addresses hold the token
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        self.uvicorn = uvicorn.Server(config)

    @property
    def address(self) -> str:
        """What opens the page, token and all."""
        host = "127.0.0.1" if self.host in ANYWHERE else self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}/?token={self.guard.token}"

    def run(self) -> None:
        """Serves until it is interrupted or stopped."""
        try:
            self.uvicorn.run(sockets=[self.socket])
        finally:
            self.server.stop()
            self.socket.close()

    def start(self) -> "Studio":
        """In another thread, for notebooks and tests."""
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join(timeout=15)

    def _repr_html_(self) -> str:
        """The page inside a notebook."""
        return (
            f'<iframe src="{self.address}" width="100%" height="760" style="border:0"'
            ' title="taming studio"></iframe>'
        )


def bound_socket(host: str, port: int | None) -> socket.socket:
    """A listening one: who connects before the server runs waits for it. Raises UserError."""
    try:
        family = socket.getaddrinfo(host or None, None)[0][0]
    except (OSError, UnicodeError):
        raise UserError(f"--host {host!r} is no address of this machine") from None
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, PORT if port is None else port))
        bound.listen(128)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return bound_socket(host, 0)
        bound.close()
        cure = "choose another with --port" if error.errno == errno.EADDRINUSE else "choose another"
        raise UserError(
            f"{host}:{port or PORT} can't be served ({error.strerror}); {cure}"
        ) from None
    return bound


def names_of(host: str) -> Sequence[str]:
    """Under which a browser may reach what listens on `host`."""
    if host in LOOPBACK:
        return LOOPBACK
    if host not in ANYWHERE:
        return [host]
    names = {*LOOPBACK, socket.gethostname()}
    try:
        names |= {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:  # a machine that does not know its own name
        pass
    return sorted(names)


def start(
    checkpoint: str = "landscapes",
    config: str | None = None,
    segmenter: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    allow: Sequence[str] = (),
) -> Studio:
    """Loads what is needed and binds the address; see `Studio.run` and `Studio.start`.

    Args:
        checkpoint: whatever `taming.load` takes.
        config: the YAML that came with a published checkpoint.
        segmenter: a checkpoint of one that knows the model's labels; by default the shipped one,
            where it does.
        host: the address to listen on.
        port: 0: any that is free; None: the usual one, or any.
        allow: packages of one's own that the checkpoint may name.
    """
    model = load_model(checkpoint, config, allow)
    return Studio(model, eye_for(model, segmenter), host, port)


def announce(studio: Studio, browser: bool, say: Callable[[str], object] = print) -> None:
    """Prints the address, and opens it where there is a screen."""
    say(f"taming studio: {studio.address}")
    if studio.host not in LOOPBACK:
        say(
            f"listening on {studio.host or 'every address'}: whoever reaches this machine and has"
            " the token can draw on it, and what is sent is not encrypted; Ctrl-C ends it"
        )
    has_screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if browser and has_screen:
        webbrowser.open(studio.address)
