"""Remote shards: every network behaviour ends in the right bytes or in an error, in bounded time."""

import functools
import http.server
import io
import os
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
from photographs import Words, encoded, write_shards
from webdataset import TarWriter

from mmvicreg.cli.check import check as check_command
from mmvicreg.plan.plan import Plan
from mmvicreg.preparation.check import CheckConfig
from mmvicreg.shards.index import open_index
from mmvicreg.shards.shard_cache import Closed, RemoteError, ShardCache
from mmvicreg.shards.tar import BadShardError
from mmvicreg.stream.sequential import sequential_samples
from mmvicreg.stream.stream import Stream


def main(config: CheckConfig) -> int:
    """Show what the command gives, as the command line does; its exit status."""
    output = check_command(config)
    output.show(as_json=False)
    return output.status


@functools.cache
def body():
    buffer = io.BytesIO()
    with TarWriter(buffer) as writer:
        for i in range(40):
            writer.write({"__key__": f"{i:03d}", "jpg": encoded(i), "txt": b"x"})
    return buffer.getvalue()


def boundary():
    """Offset of the tenth header or so: where a cut leaves whole members."""
    from mmvicreg.shards.tar import members

    data = body()
    found = list(members(lambda n, at: data[at : at + n], len(data)))
    return found[20].offset - 512


class Server(http.server.BaseHTTPRequestHandler):
    """Misbehaves as the path says; ``count`` requests of each path so far are in ``seen``."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[dict[str, int]] = {}

    def log_message(self, *args):
        pass

    def send(self, status, data, *, headers=(), length=None, cut=None, pause=0.0):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if length is None:
            length = len(data)
        if length >= 0:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data if cut is None else data[:cut])
        self.wfile.flush()
        time.sleep(pause)
        self.close_connection = True

    def do_GET(self):
        how = self.path.strip("/").partition(".tar")[0]
        turn = Server.seen[how] = Server.seen.get(how, 0) + 1
        data, tag = body(), ("ETag", '"one"')
        start = int(self.headers["Range"].split("=")[1].rstrip("-")) if "Range" in self.headers else 0
        part = (206, data[start:]) if start else (200, data)
        first = turn == 1
        if how == "sound":
            self.send(*part, headers=[tag])
        elif how == "busy-twice":
            self.send(503, b"") if turn <= 2 else self.send(*part)
        elif how == "busy":
            self.send(503, b"")
        elif how == "missing":
            self.send(404, b"nothing here")
        elif how == "forbidden":
            self.send(403, b"no")
        elif how == "html":
            self.send(200, b"<html>sign in</html>" * 200)
        elif how == "cut-inside":
            self.send(*part, headers=[tag], cut=len(data) // 2 + 7 if first else None)
        elif how == "cut-between":
            self.send(*part, headers=[tag], cut=boundary() if first else None)
        elif how == "cut-often":
            self.send(*part, headers=[tag], cut=9000)
        elif how == "cut-no-ranges":
            self.send(200, data, headers=[tag], cut=boundary() if first else None)
        elif how == "cut-always":
            self.send(200, data, headers=[tag], cut=boundary())
        elif how == "no-length-cut-once":
            self.send(200, data, length=-1, cut=boundary() if first else None)
        elif how == "no-length-cut":
            self.send(200, data, length=-1, cut=boundary())
        elif how == "no-length":
            self.send(200, data, length=-1)
        elif how == "stall-once":
            self.send(*part, headers=[tag], cut=5000 if first else None, pause=1.5 if first else 0)
        elif how == "stall":
            self.send(200, data, cut=0, pause=1.5)
        elif how == "changed":
            self.send(*part, headers=[tag if first else ("ETag", '"two"')], cut=5000 if first else None)
        elif how == "too-long":
            self.send(200, data, length=len(data) + 5000)
        elif how == "empty":
            self.send(200, b"")
        elif how == "dropped":
            self.close_connection = True
        elif how == "garbage":
            self.wfile.write(b"\0\1\2 not http at all\r\n\r\n")
            self.close_connection = True
        elif how == "drip":
            self.send(200, data, headers=[tag], cut=3000, pause=0.3)
        elif how == "twice":
            self.send(200, data + data)
        else:
            raise AssertionError(how)


@pytest.fixture(scope="module")
def server():
    body()  # made before anyone waits for it: the shard_cache under test waits 0.4 s only
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.fixture
def shard_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))
    Server.seen.clear()
    return ShardCache(str(tmp_path / "shard_cache"), stall=0.4, attempts=4, backoff=0.01)


WHOLE = [
    "sound", "busy-twice", "cut-inside", "cut-between", "cut-often", "cut-no-ranges", "no-length",
    "no-length-cut-once", "stall-once", "changed",
]  # fmt: skip
REFUSED = {
    "busy": (RemoteError, r"in 4 attempts; the last: _?Transient: HTTP 503"),
    "missing": (RemoteError, "HTTP 404"),
    "forbidden": (RemoteError, "HTTP 403"),
    "html": (BadShardError, "not a tar"),
    "cut-always": (RemoteError, "cut at"),
    "no-length-cut": (RemoteError, "the tar is not whole"),
    "stall": (RemoteError, "timed out"),
    "too-long": (RemoteError, "cut at"),
    "empty": (RemoteError, "the tar is not whole"),
    "dropped": (RemoteError, "in 4 attempts"),
    "garbage": (RemoteError, "in 4 attempts"),
    "twice": (BadShardError, "data after the end"),
}


@pytest.mark.parametrize("how", WHOLE)
def test_what_time_heals_ends_in_the_right_bytes(server, shard_cache, how):
    assert Path(shard_cache.get(f"{server}/{how}.tar")).read_bytes() == body()
    turns = Server.seen[how]
    assert Path(shard_cache.get(f"{server}/{how}.tar")).read_bytes() == body() and Server.seen[how] == turns


@pytest.mark.parametrize("how", REFUSED)
def test_what_does_not_heal_is_an_error_and_leaves_nothing(server, shard_cache, how):
    error, text = REFUSED[how]
    begun = time.monotonic()
    with pytest.raises(error, match=text):
        shard_cache.get(f"{server}/{how}.tar")
    assert time.monotonic() - begun < 20
    assert not [name for name in os.listdir(shard_cache.folder) if not name.endswith(".lock")]


def test_a_download_that_nobody_waits_for_any_more_ends(server, shard_cache):
    asked = iter([False] * 3 + [True] * 99)
    with pytest.raises(Closed, match="closed while it was read"):
        shard_cache.get(f"{server}/drip.tar", closed=lambda: next(asked))
    assert not [name for name in os.listdir(shard_cache.folder) if not name.endswith(".lock")]


def test_shards_beyond_the_last_step_are_not_downloaded(server, shard_cache):
    names = [f"{how}.tar?{n}" for n in range(8) for how in ("sound",)]
    index = open_index([f"{server}/{name}" for name in names], shard_cache=shard_cache)
    for path in Path(shard_cache.folder).glob("*.tar"):
        path.unlink()
    plan = Plan(index.counts, seed=0, global_batch=4, lanes=1, window=40)
    wanted = {int(shard) for step in range(3) for shard in plan.locate(step, range(4)).shard}
    list(Stream(index, plan, readers={"text": Words()}, stop=3, shard_cache=shard_cache))
    time.sleep(0.1)
    assert len(list(Path(shard_cache.folder).glob("*.tar"))) == len(wanted) < 8


def test_nobody_there(shard_cache):
    with pytest.raises(RemoteError, match="in 4 attempts"):
        shard_cache.get("http://127.0.0.1:9/x.tar")


def test_a_resumed_download_asks_only_for_the_rest(server, shard_cache):
    shard_cache.get(f"{server}/cut-often.tar")
    assert Server.seen["cut-often"] == -(-len(body()) // 9000)


def test_oldest_shards_are_evicted(server, tmp_path):
    shard_cache = ShardCache(str(tmp_path / "shard_cache"), limit=2 * len(body()))
    first = shard_cache.get(f"{server}/sound.tar")
    os.utime(first, (1, 1))
    second, third = shard_cache.get(f"{server}/no-length.tar"), shard_cache.get(f"{server}/cut-inside.tar")
    assert [os.path.exists(path) for path in (first, second, third)] == [False, True, True]


def test_a_remote_data_set_is_indexed_and_streamed_like_a_local_one(server, shard_cache, tmp_path):
    names = ["sound", "cut-inside", "busy-twice"]
    for name in names:
        (tmp_path / f"{name}.tar").write_bytes(body())
    remote = open_index(f"{server}/{{{','.join(names)}}}.tar", shard_cache=shard_cache)
    local = open_index([str(tmp_path / f"{name}.tar") for name in names])
    assert remote.counts.tolist() == local.counts.tolist() and remote.fingerprint == local.fingerprint
    for path in Path(shard_cache.folder).glob("*.tar"):
        path.unlink()  # evicted between indexing and training
    plan = Plan(remote.counts, seed=0, global_batch=24)
    batches = [
        list(Stream(index, plan, readers={"text": Words()}, stop=6, shard_cache=shard_cache)) for index in (remote, local)
    ]
    assert [b.keys for b in batches[0]] == [b.keys for b in batches[1]]
    assert open_index(f"{server}/{{{','.join(names)}}}.tar", shard_cache=shard_cache).fingerprint == remote.fingerprint


def test_a_remote_shard_that_changed_is_refused(server, shard_cache):
    path = shard_cache.get(f"{server}/sound.tar")
    with pytest.raises(BadShardError, match="changed after it was indexed"):
        shard_cache.get(f"{server}/sound.tar", size=os.path.getsize(path) + 1)


def test_a_remote_shard_of_the_same_size_with_other_members_is_refused(server, shard_cache):
    index = open_index(f"{server}/sound.tar", shard_cache=shard_cache)
    (entry,) = (shard.entry for shard in index.shards)
    for path in Path(shard_cache.folder).glob("*.tar"):
        path.unlink()
    shard_cache.get(f"{server}/sound.tar", size=entry.bytes, digest=entry.digest)
    for path in Path(shard_cache.folder).glob("*.tar"):
        path.unlink()
    with pytest.raises(
        BadShardError, match=r"changed after it was indexed.*mmvicreg check .*sound.tar --again"
    ):
        shard_cache.get(f"{server}/sound.tar", size=entry.bytes, digest=entry.digest[::-1])


def test_a_spooled_copy_of_the_same_size_with_other_members_is_not_used(server, shard_cache):
    index = open_index(f"{server}/sound.tar", shard_cache=shard_cache)
    (entry,) = (shard.entry for shard in index.shards)
    (copy,) = Path(shard_cache.folder).glob("*.tar")
    sound, turns = copy.read_bytes(), Server.seen["sound"]
    copy.write_bytes(bytes(entry.bytes))
    copy.with_suffix(".members").write_text("what another index said")
    path = shard_cache.get(f"{server}/sound.tar", size=entry.bytes, digest=entry.digest)
    assert Path(path).read_bytes() == sound and Server.seen["sound"] == turns + 1
    shard_cache.get(f"{server}/sound.tar", size=entry.bytes, digest=entry.digest)
    assert Server.seen["sound"] == turns + 1  # and the right one is


def test_remote_shards_are_checked_too(server, shard_cache, capsys):
    assert main(CheckConfig(f"{server}/{{sound,cut-inside}}.tar", require=("jpg", "txt"), processes=1)) == 0
    assert "2 shards, 80 samples" in capsys.readouterr().out
    assert main(CheckConfig(f"{server}/{{missing,html}}.tar", processes=1)) == 1
    out = capsys.readouterr().out
    assert "missing file at download" in out and "HTTP 404" in out and "not a tar at download" in out


def test_sequential_mode_reads_pipes_and_notices_every_cut(tmp_path, caplog):
    paths = write_shards(tmp_path, [5, 4])

    def opened(data):
        return [("pipe", io.BytesIO(data))]

    whole = [s for path in paths for s in sequential_samples(opened(Path(path).read_bytes()))]
    assert [s.key for s in whole] == [f"{i:06d}" for i in range(9)] and set(whole[0].members) == {
        "jpg",
        "txt",
    }
    assert "cannot be resumed" in caplog.text
    data = Path(paths[0]).read_bytes()
    end = len(data.rstrip(b"\0"))
    for cut in [1, 100, 512, 700, *range(1024, end, 1024), end // 2]:
        with pytest.raises(BadShardError, match="truncated|not a tar"):
            list(sequential_samples(opened(data[:cut])))
    with pytest.raises(BadShardError, match="data after the end"):
        list(sequential_samples(opened(data + data)))
