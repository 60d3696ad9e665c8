"""Shards on S3 by s3fs, the client that users have, from a real server on loopback: right bytes or an error."""

import http.server
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

import pytest
import s3fs
from moto.server import ThreadedMotoServer
from photographs import Words, write_shards

from mmvicreg.plan.plan import Plan
from mmvicreg.shards.download import RemoteError
from mmvicreg.shards.index import open_index
from mmvicreg.shards.shard_cache import ShardCache
from mmvicreg.shards.tar import BadShardError
from mmvicreg.stream.stream import Stream


class Between(http.server.BaseHTTPRequestHandler):
    """Hands requests on to the server, but fails the first for every object as its name says."""

    protocol_version = "HTTP/1.1"
    target: ClassVar[str] = ""
    failed: ClassVar[set[str]] = set()

    def log_message(self, *args):
        pass

    def do_GET(self):
        name = self.path.partition("?")[0]
        first = name not in Between.failed and self.command == "GET"
        Between.failed.add(name) if self.command == "GET" else None
        if first and "busy" in name:
            return self.answer(503, {"Content-Length": "0"}, b"")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection",)}
        request = urllib.request.Request(Between.target + self.path, headers=headers, method=self.command)
        try:
            with urllib.request.urlopen(request) as found:
                status, headers, body = found.status, dict(found.headers), found.read()
        except urllib.error.HTTPError as error:
            status, headers, body = error.code, dict(error.headers), error.read()
        self.answer(status, headers, body[: len(body) // 2] if first and "cut" in name else body)

    do_HEAD = do_GET

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), [9, 7])


@pytest.fixture(scope="module")
def endpoint(shards):
    """A server with the bucket ``data``: the shards, twice under names that the way between fails."""
    running = ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    Between.target = f"http://{host}:{port}"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Between) as between:
        threading.Thread(target=between.serve_forever, daemon=True).start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", "testing")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{between.server_address[1]}")
            files = s3fs.S3FileSystem(endpoint_url=Between.target)
            files.mkdir("data")
            for number, path in enumerate(shards):
                for prefix in ("train", "busy", "cut"):
                    files.put(path, f"data/{prefix}-{number:06d}.tar")
            files.pipe("data/half.tar", Path(shards[0]).read_bytes()[:20_000])
            files.pipe("data/page.tar", b"<html>sign in</html>" * 100)
            yield files
        between.shutdown()
    running.stop()


@pytest.fixture
def shard_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))
    return ShardCache(str(tmp_path / "shard_cache"), stall=30, attempts=3, backoff=0.01)


@pytest.mark.parametrize("prefix", ["train", "busy", "cut"])
def test_a_data_set_on_s3_is_indexed_and_streamed_like_a_local_one(endpoint, shard_cache, shards, prefix):
    remote, local = (
        open_index(f"s3://data/{prefix}-{{000000..000001}}.tar", shard_cache=shard_cache),
        open_index(shards),
    )
    assert remote.counts.tolist() == local.counts.tolist() == [9, 7]
    for path in Path(shard_cache.folder).glob("*.tar"):
        path.unlink()  # evicted between indexing and training
    Between.failed.clear()
    plan = Plan(local.counts, seed=0, global_batch=8)
    batches = [
        list(Stream(index, plan, readers={"text": Words()}, stop=4, shard_cache=shard_cache))
        for index in (remote, local)
    ]
    assert [b.keys for b in batches[0]] == [b.keys for b in batches[1]]


@pytest.mark.parametrize(
    "name,error,text",
    [
        ("data/half.tar", RemoteError, "the tar is not whole"),
        ("data/page.tar", BadShardError, "not a tar"),
        ("data/none.tar", RemoteError, "s3://data/none.tar does not exist"),
        ("nowhere/train.tar", RemoteError, "does not exist"),
    ],
)
def test_what_is_not_a_shard_there_is_an_error_by_name(endpoint, shard_cache, name, error, text):
    with pytest.raises(error, match=text):
        shard_cache.get(f"s3://{name}")


def test_an_object_that_changed_after_indexing_is_refused(endpoint, shard_cache, shards):
    index = open_index("s3://data/train-000000.tar", shard_cache=shard_cache)
    for path in Path(shard_cache.folder).glob("*.tar"):
        path.unlink()
    endpoint.put(shards[1], "data/train-000000.tar")
    try:
        with pytest.raises(BadShardError, match="changed after it was indexed"):
            list(
                Stream(
                    index,
                    Plan(index.counts, seed=0, global_batch=3),
                    readers={"text": Words()},
                    stop=1,
                    shard_cache=shard_cache,
                )
            )
    finally:
        endpoint.put(shards[0], "data/train-000000.tar")


@pytest.mark.parametrize("silent", [True, False], ids=["no answer", "nobody there"])
def test_an_endpoint_that_does_not_answer_is_an_error_in_time(shard_cache, monkeypatch, silent):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        monkeypatch.setenv(
            "AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.getsockname()[1] if silent else 9}"
        )
        s3fs.S3FileSystem.clear_instance_cache()
        begun = time.monotonic()
        with pytest.raises(
            RemoteError, match="in 2 attempts; the last: .*" + ("no answer in 1.5 s" if silent else "")
        ):
            ShardCache(shard_cache.folder, stall=1.5, attempts=2, backoff=0.01).get(
                "s3://data/train-000000.tar"
            )
        assert time.monotonic() - begun < 20
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_error_of_the_driver_itself_is_an_error_by_name(shard_cache, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{shard_cache.folder}/none")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RemoteError, match="in 3 attempts; the last: .*NoCredentialsError"):
        shard_cache.get("s3://data/train-000000.tar")
    s3fs.S3FileSystem.clear_instance_cache()
