"""Remote shards: every network behaviour ends in the right bytes or in an error, in bounded time."""

import functools
import http.server
import io
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from photographs import Words, encoded, write_shards
from webdataset import TarWriter

from mmvicreg.cli.check import check as check_command
from mmvicreg.plan.plan import Plan
from mmvicreg.preparation.check import CheckConfig
from mmvicreg.shards.download import Closed, RemoteError
from mmvicreg.shards.index import open_index
from mmvicreg.shards.index_file import only_one_process
from mmvicreg.shards.shard_cache import ShardCache
from mmvicreg.shards.tar import BadShardError
from mmvicreg.stream.fetcher import Fetcher
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


def old_body():
    """Another version of ``body``, of the same length and the same members."""
    return body()[:600] + bytes([body()[600] ^ 1]) + body()[601:]


def boundary():
    """Offset of the tenth header or so: where a cut leaves whole members."""
    from mmvicreg.shards.headers import members

    data = body()
    found = list(members(lambda n, at: data[at : at + n], len(data)))
    return found[20].offset - 512


class Server(http.server.BaseHTTPRequestHandler):
    """Misbehaves as the path says; ``count`` requests of each path so far are in ``seen``."""

    protocol_version = "HTTP/1.1"
    ranges = True
    login = ""
    seen: ClassVar[dict[str, int]] = {}

    def log_message(self, *args):
        pass

    def send(self, status, data, *, headers=(), length=None, cut=None, pause=0.0):
        self.send_response(status)
        if status == 206 and self.ranges:
            self.send_header(
                "Content-Range", f"bytes {len(body()) - len(data)}-{len(body()) - 1}/{len(body())}"
            )
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
        Server.login = self.headers.get("Authorization", "")
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
        elif how == "changed-content":
            data = old_body() if first else data
            tags = [("ETag", '"one"' if first else '"two"')]
            self.send(206 if start else 200, data[start:], headers=tags, cut=9000 if first else None)
        elif how == "changed-without-version":
            data = old_body() if first else data
            self.send(206 if start else 200, data[start:], cut=9000 if first else None)
        elif how == "cut-at-random-no-ranges":
            self.send(200, data, headers=[tag], cut=5000 + 37 * (turn % 5))
        elif how == "no-such-range":
            self.send(200, data, headers=[tag], cut=5000) if not start else self.send(416, b"")
        elif how == "wrong-range":
            self.ranges = False
            self.send(206 if start else 200, data, headers=[tag], cut=5000)
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
    "busy": (RemoteError, r"in 4 attempts; the last: TransientError: HTTP 503"),
    "missing": (RemoteError, "HTTP 404"),
    "forbidden": (RemoteError, "HTTP 403"),
    "html": (BadShardError, "not a tar"),
    "cut-always": (RemoteError, "cut at"),
    "no-length-cut": (RemoteError, "the tar is not whole"),
    "stall": (RemoteError, "timed out"),
    "cut-at-random-no-ranges": (RemoteError, "in 4 attempts"),
    "no-such-range": (RemoteError, "in 4 attempts"),
    "wrong-range": (RemoteError, "in 4 attempts"),
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
    assert time.monotonic() - begun < 20 and Server.seen[how] <= 8
    assert not [name for name in os.listdir(shard_cache.folder)]


def test_a_download_that_nobody_waits_for_any_more_ends(server, shard_cache):
    asked = iter([False] * 3 + [True] * 99)
    with pytest.raises(Closed, match="closed while it was read"):
        shard_cache.get(f"{server}/drip.tar", closed=lambda: next(asked))
    assert not [name for name in os.listdir(shard_cache.folder)]


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


@pytest.mark.parametrize("how", ["changed-content", "changed-without-version"])
def test_a_copy_is_never_made_of_two_versions(server, shard_cache, how):
    found = Path(shard_cache.get(f"{server}/{how}.tar")).read_bytes()
    assert found == body() != old_body() and Server.seen[how] > 1


def test_a_shard_under_a_new_signature_of_its_url_is_the_same_shard(server, shard_cache):
    urls = [f"{server}/sound.tar?X-Amz-Signature={n}&X-Amz-Expires=60" for n in range(2)]
    one, two = (open_index(url, shard_cache=shard_cache) for url in urls)
    assert one.fingerprint == two.fingerprint and Server.seen["sound"] == 1
    assert shard_cache.get(urls[0]) == shard_cache.get(urls[1])
    other = open_index(f"{server}/sound.tar?part=2", shard_cache=shard_cache)
    assert other.shards[0].name != one.shards[0].name and Server.seen["sound"] == 2
    with pytest.raises(ValueError, match="listed twice"):
        open_index(urls, shard_cache=shard_cache)


def test_secrets_of_urls_are_written_nowhere(server, shard_cache, tmp_path, caplog):
    host = server.removeprefix("http://")
    query = f"X-Amz-Signature=s3cret&token=s3cret&name={'n' * 300}"
    index = open_index(f"http://me:s3cret@{host}/busy-twice.tar?{query}", shard_cache=shard_cache)
    assert Server.login == "Basic bWU6czNjcmV0" and "busy-twice.tar" in caplog.text
    said = [caplog.text, index.shards[0].name]
    for name in ("missing", "html", "dropped"):
        with pytest.raises(ValueError if name == "html" else OSError) as raised:
            open_index(f"http://me:s3cret@{host}/{name}.tar?{query}", shard_cache=shard_cache)
        said.append(str(raised.value))
    said += [str(path) for path in tmp_path.rglob("*")]
    said += [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in said if "s3cret" in text]


def test_a_url_with_a_file_name_of_a_thousand_characters_is_indexed(server, shard_cache):
    urls = [f"{server}/sound.tar{'x' * 1000}{n}.tar" for n in "ab"]
    index = open_index(urls, shard_cache=shard_cache)
    assert len(index) == 80 and len({shard.name for shard in index.shards}) == 2
    assert Fetcher(index, shard_cache=shard_cache)(1, 0, {"txt"}).members == {"txt": b"x"}


def test_what_killed_downloads_left_is_removed_and_a_running_download_is_not(server, shard_cache):
    shard_cache.get(f"{server}/sound.tar")
    folder = Path(shard_cache.folder)
    for name in ("killed", "running"):
        (folder / f"{name}.part").write_bytes(b"part")
    with only_one_process(str(folder / "running.lock")):
        shard_cache.get(f"{server}/cut-inside.tar")
    assert [path.name for path in folder.glob("*.part")] == ["running.part"]


def test_unfinished_downloads_count_towards_the_limit(server, tmp_path):
    shard_cache = ShardCache(str(tmp_path / "copies"), limit=2 * len(body()))
    first = shard_cache.get(f"{server}/sound.tar")
    os.utime(first, (1, 1))
    (tmp_path / "copies/running.part").write_bytes(bytes(len(body())))
    with only_one_process(str(tmp_path / "copies/running.lock")):
        second = shard_cache.get(f"{server}/no-length.tar")
    assert [os.path.exists(path) for path in (first, second)] == [False, True]


def test_a_lock_file_that_is_a_symbolic_link_is_refused_and_its_target_kept(server, shard_cache, tmp_path):
    copy = Path(shard_cache.get(f"{server}/sound.tar"))
    (tmp_path / "precious").write_text("keep")
    copy.with_suffix(".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="symbolic link; delete it"):
        shard_cache.get(f"{server}/sound.tar")
    assert (tmp_path / "precious").read_text() == "keep"


def test_shards_with_local_paths_are_copied_where_asked(tmp_path):
    paths = write_shards(tmp_path, [5, 3])
    index = open_index(paths)
    shard_cache = ShardCache(str(tmp_path / "copies"), copy_local=True)
    plan = Plan(index.counts, seed=0, global_batch=4)
    direct, copied = (
        list(Stream(index, plan, readers={"text": Words()}, stop=2, shard_cache=cache))
        for cache in (ShardCache(str(tmp_path / "none")), shard_cache)
    )
    assert [b.keys for b in direct] == [b.keys for b in copied]
    assert len(list((tmp_path / "copies").glob("*.tar"))) == 2 and not (tmp_path / "none").exists()
    write_shards(tmp_path, [5, 4])
    with pytest.raises(BadShardError, match="changed after it was indexed"):
        list(
            Stream(
                index,
                plan,
                readers={"text": Words()},
                stop=2,
                shard_cache=replace(shard_cache, folder=str(tmp_path / "other")),
            )
        )


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
        list(Stream(index, plan, readers={"text": Words()}, stop=6, shard_cache=shard_cache))
        for index in (remote, local)
    ]
    assert [b.keys for b in batches[0]] == [b.keys for b in batches[1]]
    assert (
        open_index(f"{server}/{{{','.join(names)}}}.tar", shard_cache=shard_cache).fingerprint
        == remote.fingerprint
    )


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
