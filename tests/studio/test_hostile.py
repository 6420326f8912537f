"""Requests that nobody's page would send: one line each, and the server lives on."""

import http.client
import io
import json
import struct
import threading
import time

import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from taming.errors import UserError
from taming.studio.limits import LARGEST_SIDE, PENDING, UPLOAD_BYTES
from taming.studio.protocol import LENGTH, Frame, pack, unpack
from tests.studio.conftest import Client, layout, one


def get(studio, path="/", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in {"Host": f"127.0.0.1:{studio.port}", **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.read(), dict(response.getheaders())


def failure(frames):
    message = one(frames, "failed").header["message"]
    assert "\n" not in message and "Traceback" not in message and "bug of ours" not in message
    return message


# Who may talk to it


def test_the_page_keeps_others_out(studio):
    status, _, headers = get(studio)
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1"},
    ],
    ids=str,
)
def test_foreign_hosts_and_origins_are_refused(studio, headers):
    status, body, _ = get(studio, **headers)
    assert status == 403 and b"its own" in body


@pytest.mark.parametrize("token", ["", "wrong", "é", "a&token=b"])
def test_a_socket_needs_the_token(studio, token):
    with pytest.raises(InvalidStatus) as refusal:
        connect(f"ws://127.0.0.1:{studio.port}/socket?token={token}", proxy=None)
    assert refusal.value.response.status_code == 403


def test_a_socket_needs_its_own_origin(studio):
    with pytest.raises(InvalidStatus):
        Client(studio, Origin="http://evil.example")
    Client(studio, Origin=f"http://127.0.0.1:{studio.port}").close()


@pytest.mark.parametrize(
    "path",
    [
        "/page/../server.py",
        "/page/%2e%2e/server.py",
        "/page/..%2f..%2fserver.py",
        "/page//etc/passwd",
        "/etc/passwd",
        "/page/",
        "/page/server.py",
        "/page/index.html%00",
        "/socket",
    ],
)
def test_no_path_leads_out_of_the_table(studio, path):
    status, body, _ = get(studio, path)
    assert status in (404, 405) and len(body) < 100


# What it is asked for


def raw(header, tail=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return LENGTH.pack(len(text)) + text + tail


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\xff\xff\xff\xff",
        struct.pack("<I", 100) + b"{}",
        raw(b"no json"),
        raw(b"[" * 60000),
        raw(b"{\xff}"),
        raw([]),
        raw({"id": 1, "do": "draw", "blobs": {"a": -1}}),
        raw({"id": 1, "do": "draw", "blobs": {"a": 10**12}}),
        raw({"id": 1, "do": "draw", "blobs": {"a": 3}}, b"12"),
        raw({"id": 1, "do": "draw", "blobs": {str(i): 0 for i in range(99)}}),
        raw({"id": 1, "do": "draw", "blobs": [1]}),
        raw({"id": 1}, b"spare"),
        raw(b'{"id": NaN}'),
    ],
    ids=range(15),
)
def test_what_is_no_frame(client, content):
    with pytest.raises(UserError):
        unpack(content)
    client.socket.send(content)
    assert client.read().header["event"] == "failed"
    assert one(client.draw(layout()), "picture")  # it lives on


def test_a_frame_comes_back():
    frame = Frame({"do": "x", "id": 3}, {"a": b"12", "b": b""})
    assert unpack(pack(frame)) == frame


def test_text_instead_of_bytes(client):
    client.socket.send("hello")
    assert client.read().header["event"] == "failed"


WRONG = {
    "no such request": {"do": "../../etc/passwd"},
    "request is a list": {"do": ["draw"]},
    "request is missing": {"do": None},
    "no size": {"height": None},
    "size is text": {"height": "16"},
    "size is a fraction": {"height": 16.5},
    "size is true": {"height": True},
    "size 0": {"height": 0},
    "size beyond": {"width": LARGEST_SIDE + 1},
    "size huge": {"height": 10**9},
    "size that does not fit the layout": {"height": 32},
    "a path as checkpoint": {"checkpoint": "/etc/passwd"},
    "a path as setting": {"settings": {"classifier": "/etc/passwd"}},
    "an unknown setting": {"settings": {"temprature": 1}},
    "settings are a list": {"settings": [1]},
    "temperature is text": {"settings": {"temperature": "hot"}},
    "temperature below 0": {"settings": {"temperature": -1}},
    "temperature is an object": {"settings": {"temperature": {"target": "os.system"}}},
    "top_p above 1": {"settings": {"top_p": 2}},
    "top_k 0": {"settings": {"top_k": 0}},
    "hop beyond": {"settings": {"hop": 10**9}, "height": 32, "blobs": {"layout": bytes(512)}},
    "seed below 0": {"seed": -1},
    "seed huge": {"seed": 2**63},
    "seed is a fraction": {"seed": 0.5},
    "number below 0": {"number": -1},
    "too many variations": {"count": 1000},
    "too many candidates": {"candidates": 10**6},
    "strength beyond": {"strength": 2},
    "labels beyond": {"blobs": {"layout": bytes([10]) * 256}},
    "an empty layout": {"blobs": {"layout": b""}},
    "no layout": {"blobs": {}},
    "a spare blob": {"blobs": {"layout": bytes(256), "spare": b"1"}},
    "a picture that is none": {"blobs": {"layout": bytes(256), "picture": b"x", "region": b"x"}},
    "a style that is none": {"blobs": {"layout": bytes(256), "style": b"<svg/>"}},
    "a picture without its region": {"picture": True},
    "a region of another size": {"picture": True, "blobs": {"region": b"1"}},
    "nothing selected": {"picture": True, "blobs": {"region": bytes(256)}},
    "a seam beyond": {"picture": True, "blobs": {"region": bytes([1]) * 256}, "seam": 10**6},
    "a seam below 0": {"picture": True, "blobs": {"region": bytes([1]) * 256}, "seam": -1},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_one_line(client, name):
    header = {"do": "draw", "height": 16, "width": 16, **WRONG[name]}
    blobs = {"layout": layout().tobytes()}
    if header.pop("picture", False):
        blobs["picture"] = png(np.zeros((16, 16, 3), np.uint8))
        blobs |= header.pop("blobs", {})
    blobs = header.pop("blobs", blobs)
    do = header.pop("do")
    failure(client.ask(do, blobs, **header))
    assert one(client.draw(layout()), "picture")


def png(array, format="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=format)
    return buffer.getvalue()


def bomb():
    """A PNG of a few kilobytes with 400 million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (20000, 20000)).save(buffer, format="PNG")
    return buffer.getvalue()


UPLOADS = {
    "nothing": b"",
    "noise": bytes(range(256)),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
    "a cut PNG": png(np.zeros((64, 64), np.uint8))[:60],
    "a bomb": bomb(),
    "a GIF": png(np.zeros((8, 8), np.uint8), "GIF"),
    "a TIFF": png(np.zeros((8, 8), np.uint8), "TIFF"),
    "labels beyond": png(np.full((8, 8), 77, np.uint8)),
    "a JPEG": png(np.zeros((8, 8), np.uint8), "JPEG"),
    "foreign colours": png(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_uploads_that_are_no_layouts(client, name):
    message = failure(client.ask("layout", {"file": UPLOADS[name]}, height=16, width=16))
    assert "/tmp" not in message and len(message) < 300


def test_a_huge_upload_closes_its_own_socket_only(studio, client):
    other = Client(studio)
    with pytest.raises(ConnectionClosed):
        other.send("layout", {"file": bytes(UPLOAD_BYTES + 1)}, height=16, width=16)
        other.read()
    assert one(client.draw(layout()), "picture")


@pytest.mark.parametrize(
    "levels",
    [
        None,
        [],
        [1],
        [{"rows": 2, "columns": 2, "codes": [0]}],
        [{"rows": 2, "columns": 1, "codes": [0, 16]}],
        [{"rows": 1, "columns": 1, "codes": ["0"]}],
        [{"rows": -1, "columns": -1, "codes": [0]}],
        [{"rows": 10**6, "columns": 10**6, "codes": []}],
    ],
    ids=str,
)
def test_codes_that_are_none(client, levels):
    failure(client.ask("decode", levels=levels))


# Many at once


def test_a_hundred_tabs_are_served_in_turn(studio):
    clients = [Client(studio) for _ in range(100)]
    numbers = [
        client.send("mask", {"layout": bytes(256)}, height=16, width=16) for client in clients
    ]
    for client, number in zip(clients, numbers):
        assert client.until_the_end(number)[-1].header["event"] == "done"
    for client in clients:
        client.close()
    deadline = time.monotonic() + 10
    while len(studio.server.tabs) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(studio.server.tabs) <= 1  # nothing stays of them
    assert len(studio.server.worker.turns) <= 1


def test_too_many_requests_of_one_tab_are_refused(client):
    labels = layout(64, 64)
    blobs = {"layout": labels.tobytes()}
    numbers = [client.send("draw", blobs, height=64, width=64) for _ in range(PENDING + 5)]
    client.send("cancel")
    events = {}
    while len(events) < len(numbers):
        header = client.read().header
        if header["event"] in ("failed", "cancelled", "done"):
            events[header["id"]] = header["event"]
    assert list(events.values()).count("failed") >= 1
    assert list(events.values()).count("cancelled") >= PENDING - 1


def test_a_closed_tabs_work_is_dropped(studio, client):
    other = Client(studio)
    other.send("draw", {"layout": layout(128, 128).tobytes()}, height=128, width=128)
    time.sleep(0.2)
    other.close()
    start = time.monotonic()
    assert one(client.draw(layout()), "picture")
    assert time.monotonic() - start < 5


def test_previews_yield_to_pictures_and_the_next_stroke_ends_them(studio, client):
    blobs = {"layout": layout(16, 16).tobytes()}
    numbers = [client.send("preview", blobs, height=16, width=16) for _ in range(5)]
    ends = {}
    while len(ends) < 5:
        header = client.read().header
        if header["event"] in ("done", "cancelled", "failed"):
            ends[header["id"]] = header["event"]
    assert ends[numbers[-1]] == "done" and "failed" not in ends.values()


def test_a_stopped_server_stops_its_threads(checkpoints):
    from taming.studio.model import load_model
    from taming.studio.serve import Studio

    before = threading.active_count()
    server = Studio(load_model(str(checkpoints["class"])), port=0).start()
    client = Client(server)
    client.send("draw", height=128, width=128, **{"class": 1})
    time.sleep(0.1)
    server.stop()
    assert threading.active_count() <= before + 1
