"""Tar shards: what is in them, in what order, and what becomes of damaged, missing and changed
ones; on a disk, in memory, and over HTTP.
"""

import functools
import io
import json
import os
import pickle
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from taming.data import SegmentedImages, Shards
from taming.data import storage as storage_module
from taming.data.batches import SkippingBroken
from taming.data.reading import CorruptImage
from taming.data.shard_index import index_of
from taming.data.storage import expanded
from taming.data.tar import write_tar
from taming.errors import UserError
from taming.inference.shard import shard
from tests.conftest import full_disk, paint_pairs


def picture(value: int, size: tuple[int, int] = (24, 20)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(stream, "PNG")
    return stream.getvalue()


def mask(value: int, size: tuple[int, int] = (24, 20)) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, value).save(stream, "PNG")
    return stream.getvalue()


def write_shards(folder: Path, shards: int = 3, samples: int = 4, **extra) -> str:
    """Sample k of all is grey of value k. `extra`: ending (dots as _) -> function of k."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        entries = []
        for k in range(number * samples, (number + 1) * samples):
            files = {"png": picture(k)}
            files |= {name.replace("_", "."): content(k) for name, content in extra.items()}
            entries.append((f"{k:05d}", {name: data for name, data in files.items() if data}))
        write_tar(folder / f"{number:03d}.tar", entries)
    return str(folder / f"{{000..{shards - 1:03d}}}.tar")


def greys(dataset: Shards) -> list[int]:
    values = [dataset[index]["image"] for index in range(len(dataset))]
    return [round(float((value[0, 0, 0] + 1) * 127.5)) for value in values]


def test_a_sample_has_picture_mask_class_caption_and_name(tmp_path):
    files = write_shards(
        tmp_path,
        seg_png=lambda k: mask(k % 3),
        cls=lambda k: str(k % 5).encode(),
        txt=lambda k: f"lake {k}\n".encode(),
    )
    data = Shards(files, 16)
    assert len(data) == 12 and greys(data) == list(range(12))
    item = data[7]
    assert item["segmentation"].shape == (16, 16) and item["segmentation"].unique().tolist() == [1]
    assert (item["class"], item["caption"], item["name"]) == (2, "lake 7", "00007")
    assert Shards(files, 16, keys=["class"])[7].keys() == {"image", "name", "class"}
    with pytest.raises(UserError, match="keys: the shards hold no"):
        Shards(write_shards(tmp_path / "b"), 16, keys=["caption"])


def test_json_as_img2dataset_writes_it(tmp_path):
    files = write_shards(
        tmp_path,
        json=lambda k: json.dumps({"caption": f"lake {k}", "label": k, "url": "x"}).encode(),
    )
    item = Shards(files, 16)[3]
    assert (item["class"], item["caption"]) == (3, "lake 3") and "json" not in item


def test_captions_in_a_parquet_file_beside_each_shard(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    files = write_shards(tmp_path, shards=2, samples=3)
    for number in range(2):
        keys = [f"{k:05d}" for k in range(number * 3, number * 3 + 3 - number)]
        table = pyarrow.table(
            {"key": keys, "caption": [f"lake {key}" for key in keys], "url": keys}
        )
        parquet.write_table(table, tmp_path / f"{number:03d}.parquet")
    data = pickle.loads(pickle.dumps(Shards(files, 16, captions="parquet")))
    assert [data[k]["caption"] for k in (4, 0)] == ["lake 00004", "lake 00000"]
    with pytest.raises(CorruptImage, match="00005 has no caption in the parquet file"):
        data[5]
    (tmp_path / "000.parquet").write_bytes(b"x")
    with pytest.raises(UserError, match="000.parquet' is no parquet file with the columns key"):
        Shards(files, 16, captions="parquet")[0]


def test_the_index_is_made_once_and_goes_with_the_folder(tmp_path, monkeypatch):
    files = write_shards(tmp_path / "a")
    Shards(files, 16)
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.setattr("taming.data.shard_index.scan", None)
    assert len(Shards(str(tmp_path / "b" / "*.tar"), 16)) == 12


def test_a_folder_that_is_read_only_has_its_index_in_the_cache(tmp_path, monkeypatch):
    files = write_shards(tmp_path / "a")
    monkeypatch.setattr(os, "access", lambda *_: False)
    Shards(files, 16, cache=str(tmp_path / "cache"))
    assert not list((tmp_path / "a").glob(".shards*"))
    assert len(list((tmp_path / "cache").glob(".shards*.index"))) == 1


def test_a_damaged_index_is_made_anew(tmp_path, capsys):
    files = write_shards(tmp_path)
    path = Shards(files, 16).index.path
    for damage in (b"", b"x" * 50, path.read_bytes()[:-9]):
        path.write_bytes(damage)
        assert greys(Shards(files, 16)) == list(range(12))
        assert "made anew" in capsys.readouterr().err


def test_workers_and_processes_open_their_own_files(tmp_path):
    data = Shards(write_shards(tmp_path), 16)
    other = pickle.loads(pickle.dumps(data))
    assert torch.equal(other[5]["image"], data[5]["image"])
    loader = torch.utils.data.DataLoader(data, num_workers=2, batch_size=4)
    values = torch.cat([batch["image"][:, 0, 0, 0] for batch in loader])
    assert torch.equal(values, torch.stack([item["image"][0, 0, 0] for item in data]))


def test_archives_of_other_programs_long_names_and_foreign_members(tmp_path):
    """Pax and GNU headers, folders, names of 200 letters, order of members as it comes."""
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        folder = tmp_path / str(kind)
        folder.mkdir()
        with tarfile.open(folder / "0.tar", "w", format=kind) as archive:
            archive.addfile(_directory("x"))
            for name in ("./x/b.cls", "./x/b.png", f"x/{'n' * 200}.png", f"x/{'n' * 200}.cls"):
                data = picture(9) if name.endswith("png") else b"3"
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
            entry = tarfile.TarInfo("x/readme.md")
            archive.addfile(entry)
        data = Shards(str(folder / "0.tar"), 16)
        assert [data.name(index) for index in range(2)] == ["x/b", f"x/{'n' * 200}"]
        assert [item["class"] for item in data] == [3, 3]


def _directory(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.DIRTYPE
    return entry


# What can't be used


def test_a_sample_without_its_mask_is_broken_as_a_picture_is(tmp_path):
    files = write_shards(tmp_path, seg_png=lambda k: b"" if k == 5 else mask(1))
    data = Shards(files, 16)
    with pytest.raises(CorruptImage, match="01.tar: 00005' has no segmentation, as other samples"):
        data[5]
    item = SkippingBroken(data)[5]
    assert item["name"] == "00006" and len(item["skipped"]) == 1


def test_a_mask_of_another_size_and_a_class_that_is_no_number(tmp_path):
    data = Shards(write_shards(tmp_path / "a", seg_png=lambda k: mask(1, (20, 20))), 16)
    with pytest.raises(CorruptImage, match="20x20, but its picture is 24x20"):
        data[0]
    data = Shards(write_shards(tmp_path / "b", cls=lambda k: b"lake"), 16)
    with pytest.raises(CorruptImage, match="has class 'lake', no number"):
        data[0]


@pytest.mark.parametrize("damage", ["cut", "no end", "noise", "empty", "missing", "doubled"])
def test_a_shard_that_is_damaged_or_missing_is_named_and_the_others_are_read(tmp_path, damage):
    files = write_shards(tmp_path, shards=120, samples=2)
    path = tmp_path / "007.tar"
    data = path.read_bytes()
    cases = {"cut": data[:700], "no end": data[:-10240].rstrip(b"\0"), "noise": b"x" * 5000}
    if damage == "missing":
        path.unlink()
    elif damage == "doubled":
        write_tar(path, [("00014", {"png": picture(14)})] * 2 + [("00015", {"png": picture(15)})])
    else:
        path.write_bytes(cases.get(damage, b""))
    dataset = Shards(str(tmp_path / "*.tar") if damage != "missing" else files, 16)
    words = {
        "cut": "ends at byte 700",
        "no end": "ends at byte",
        "noise": "no header of a tar",
        "empty": "ends at byte 0|no samples",
        "missing": "No such file",
        "doubled": "holds '00014.png' twice",
    }
    (line,) = dataset.problems()
    assert "07.tar" in line and "\n" not in line
    assert any(word in line for word in words[damage].split("|"))
    assert len(dataset) >= 238 and dataset[len(dataset) - 1]["name"] == "00239"


def test_more_than_one_shard_in_a_hundred_missing_stops(tmp_path):
    files = write_shards(tmp_path, shards=20)
    (tmp_path / "003.tar").unlink()
    with pytest.raises(UserError, match="1 of 20 shards can't be used, more than 1 % .*03.tar"):
        Shards(files, 16)


def test_a_shard_that_went_after_its_index_was_made_is_passed_over_at_once(tmp_path, capsys):
    files = write_shards(tmp_path, shards=120, samples=2)
    data = Shards(files, 16)
    (tmp_path / "050.tar").unlink()
    item = SkippingBroken(data)[100]
    assert item["name"] == "00102" and item["skipped"][0].pictures == 2
    again = Shards(files, 16)
    assert "050.tar" in again.problems()[0] and SkippingBroken(again)[101]["name"] == "00102"


@pytest.mark.parametrize("change", ["longer", "other names", "shorter"])
def test_a_shard_that_changed_since_its_index_is_not_taken_for_what_it_was(tmp_path, change):
    files = write_shards(tmp_path, shards=120, samples=2)
    data = Shards(files, 16)
    names = {"longer": 20, "shorter": 1, "other names": 2}[change]
    first = 700 if change == "other names" else 100
    entries = [(f"{first + k:05d}", {"png": picture(9)}) for k in range(names)]
    write_tar(tmp_path / "050.tar", entries)
    if change != "shorter":
        with pytest.raises(CorruptImage, match="050.tar' changed since its index was made; remove"):
            Shards(files, 16)[100] if change == "longer" else data[100]
    else:
        with pytest.raises(CorruptImage, match="changed since"):
            data[101]


def test_nothing_that_a_pattern_may_be_ends_in_a_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for files in (
        "nowhere/*.tar",
        str(tmp_path),
        "/dev/null",
        "x.tar",
        "{3..1}.tar",
        "ftp9://x.tar",
        "{0..999999999}.tar",  # neither made nor looked for
        "{00000..99999}/{00000..99999}.tar",
        "{a,b}" * 64,
        f"{{0..{'9' * 5000}}}.tar",
    ):
        with pytest.raises(UserError) as error:
            Shards(files, 16, cache=str(tmp_path / "cache"))
        assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing is left behind"


def test_the_lock_of_an_index_goes_when_the_index_is_there(tmp_path):
    files = write_shards(tmp_path)
    Shards(files, 16)
    hidden = [path.name for path in tmp_path.glob(".*")]
    assert len(hidden) == 1 and hidden[0].endswith(".index")


def test_patterns():
    assert expanded("a/{008..010}.tar") == ["a/008.tar", "a/009.tar", "a/010.tar"]
    assert expanded("{9..11}") == ["9", "10", "11"]
    assert expanded("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]


# Storage elsewhere


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(storage_module, "PAUSE", 0.01)


def test_shards_in_another_storage(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    write_shards(tmp_path / "a")
    memory = fsspec.filesystem("memory")
    for path in (tmp_path / "a").glob("*.tar"):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    for files in ("memory://bucket/{000..002}.tar", "memory://bucket/*.tar"):
        assert greys(Shards(files, 16, cache=str(tmp_path / "c"))) == list(range(12))
    local = Shards(f"file://{tmp_path}/a/{{000..002}}.tar", 16, cache=str(tmp_path / "d"))
    assert greys(local) == list(range(12))


class Ranges(SimpleHTTPRequestHandler):
    """A web server that answers ranges, and fails as often as it is told to."""

    failures = 0

    def do_GET(self):
        kind = type(self)
        if kind.failures:
            kind.failures -= 1
            self.send_error(503)
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        asked = self.headers.get("Range")
        first, last = 0, len(data) - 1
        if asked:
            low, _, high = asked.removeprefix("bytes=").partition("-")
            first, last = int(low), min(int(high or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    handler = type("Handler", (Ranges,), {})
    web = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path / "web"))
    )
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}", handler
    web.shutdown()


def test_shards_over_http_also_where_it_stumbles(tmp_path, server, quick):
    pytest.importorskip("aiohttp")
    address, handler = server
    write_shards(tmp_path / "web")
    data = Shards(f"{address}/{{000..002}}.tar", 16, cache=str(tmp_path / "c"))
    assert greys(data) == list(range(12))
    handler.failures = 3
    assert round(float((data[4]["image"][0, 0, 0] + 1) * 127.5)) == 4
    handler.failures = 10**6
    with pytest.raises(CorruptImage, match="02.tar' does not answer .5 attempts.*start again"):
        data[9]


def test_a_storage_whose_package_is_missing_is_named(monkeypatch):
    import fsspec

    def missing(*_, **__):
        raise ImportError("Install s3fs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(UserError, match="needs the package s3fs; install it with: pip install"):
        expanded("s3://bucket/*.tar")


# taming shard


def test_a_data_set_comes_back_from_its_shards(tmp_path):
    root = paint_pairs(tmp_path / "pairs", count=7)
    line = shard(str(root), tmp_path / "shards", samples=3)
    assert line == f"7 samples in 3 shards in '{tmp_path / 'shards'}'"
    before = SegmentedImages(str(root), {"size": 16, "seed": 3})
    after = Shards(str(tmp_path / "shards" / "*.tar"), {"size": 16, "seed": 3})
    assert after.classes == before.classes
    for index in range(7):
        for view in (None, 0, 5):
            a, b = before[(index, view)], after[(index, view)]
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["segmentation"], b["segmentation"])
            assert a["name"] in b["name"]


def test_files_are_copied_not_encoded_again(tmp_path):
    (tmp_path / "p").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "p" / "a.b.jpg", quality=50)
    shard(str(tmp_path / "p"), tmp_path / "s")
    with tarfile.open(tmp_path / "s" / "00000.tar") as archive:
        (member,) = archive.getmembers()
        assert member.name == "000000000_a_b.jpg"
        assert archive.extractfile(member).read() == (tmp_path / "p" / "a.b.jpg").read_bytes()


def test_several_processes_write_the_shards_of_one(tmp_path):
    root = paint_pairs(tmp_path / "pairs", count=7)
    shard(str(root), tmp_path / "one", samples=2)
    for number in range(3):
        shard(str(root / "images"), tmp_path / "many", samples=2, share=f"{number}/3")
    names = sorted(path.name for path in (tmp_path / "one").glob("*.tar"))
    assert names == sorted(path.name for path in (tmp_path / "many").glob("*.tar"))
    with pytest.raises(UserError, match="is made of something else"):
        shard(str(root), tmp_path / "one", samples=3)


def test_a_full_disk_is_one_line_and_the_rest_is_made_later(tmp_path):
    root, out = paint_pairs(tmp_path / "pairs", count=4), tmp_path / "shards"
    for room, words in ((2000, "00000.tar' can't be written"), (100, "index' can't be written")):
        with full_disk(room), pytest.raises(UserError, match=words) as error:
            shard(str(root), out, samples=1) if room == 2000 else Shards(str(out / "*.tar"), 16)
        assert "\n" not in str(error.value)
        assert not list(out.glob(".*")), "neither temporary files, nor claims, nor a lock"
        assert shard(str(root), out, samples=1).startswith("4 samples in 4 shards")
        next(out.glob(".*.index")).unlink()


def test_an_index_of_many_shards_is_of_one_size_whatever_the_names(tmp_path):
    files = write_shards(tmp_path)
    index = index_of(expanded(files), tmp_path)
    assert [index.shard(i) for i in (0, 3, 4, 11)] == [0, 0, 1, 2] and index.first(2) == 8
