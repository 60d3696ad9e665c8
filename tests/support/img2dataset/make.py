"""Makes the shards in this folder with img2dataset itself: its real output, which the tests read.

    python -m venv peer && peer/bin/pip install 'img2dataset==1.47.0'
    peer/bin/python tests/support/img2dataset/make.py --out tests/support/img2dataset

The pictures are the first of data/demo/train-000000.tar (licences: data/demo/LICENSES.md), served on loopback; one
address gives 404 and one gives a page instead of a picture, which img2dataset leaves out of its tars.
"""

from __future__ import annotations

import argparse
import csv
import http.server
import importlib
import json
import shutil
import tarfile
import tempfile
import threading
from pathlib import Path

DEMO = Path(__file__).resolve().parents[3] / "data" / "demo" / "train-000000.tar"
PICTURES, PER_SHARD = 10, 6


def pictures() -> dict[str, tuple[bytes, str]]:
    """{path: (bytes, caption)} of the first pictures of the demo."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(DEMO) as archive:
        for member in archive:
            key, _, suffix = member.name.partition(".")
            if key not in found and len(found) == PICTURES:
                break
            found.setdefault(key, {})[suffix] = archive.extractfile(member).read()  # type: ignore[union-attr]
    return {f"/{key}.webp": (m["webp"], json.loads(m["json"])["name"]) for key, m in found.items()}


def serve(pages: dict[str, tuple[bytes, str]]) -> http.server.ThreadingHTTPServer:
    """A server of ``pages``, running."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            body = pages[self.path][0] if self.path in pages else b"nothing here"
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    download = importlib.import_module("img2dataset").download

    pages = pictures()
    listed = [(path, caption) for path, (_, caption) in pages.items()]
    listed[3:3] = [("/gone.webp", "a picture that is not there any more")]
    listed[8:8] = [("/page.webp", "a page instead of a picture")]
    server = serve({**pages, "/page.webp": (b"<html>sign in</html>", "")})
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "list.csv")
        with open(table, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["url", "caption"])
            writer.writerows((f"http://127.0.0.1:{server.server_address[1]}{path}", c) for path, c in listed)
        download(
            url_list=str(table),
            input_format="csv",
            url_col="url",
            caption_col="caption",
            output_format="webdataset",
            output_folder=f"{folder}/out",
            number_sample_per_shard=PER_SHARD,
            processes_count=1,
            thread_count=4,
            image_size=64,
            resize_mode="keep_ratio",
            encode_quality=80,
            enable_wandb=False,
        )
        for path in sorted(Path(folder, "out").iterdir()):
            if path.is_file():
                shutil.copy(path, out / path.name)
                print(path.name, path.stat().st_size)
    server.shutdown()


if __name__ == "__main__":
    main()
