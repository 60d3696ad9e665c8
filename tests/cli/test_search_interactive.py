"""Searching: several queries in one start, and results that say where they come from without escape sequences."""

import io
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

from mmvicreg.cli.main import main


def png(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


@pytest.mark.slow
def test_one_start_answers_several_queries_within_a_second_each(pictured_run):
    command = [
        sys.executable,
        "-m",
        "mmvicreg.cli.main",
        "search",
        str(pictured_run.folder),
        pictured_run.shards,
    ]
    process = subprocess.Popen(
        [*command, "--interactive", "--among", "text", "--k", "2"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    seconds, answers = [], []
    assert process.stdin and process.stdout
    for query in ("snowman", "nowhere.png", "snowman", "broom"):
        begun = time.monotonic()
        process.stdin.write(f"{query}\n")
        process.stdin.flush()
        lines = 1 if query == "nowhere.png" else 2
        answers.append([process.stdout.readline() for _ in range(lines)])
        seconds.append(time.monotonic() - begun)
    process.stdin.write("\n")
    assert process.communicate(timeout=60) == ("", None) and process.returncode == 0
    assert answers[1] == ["nowhere.png: no such file\n"] and answers[0] == answers[2]
    assert "snowman" in answers[0][0] + answers[0][1] and answers[0][0].startswith("1.0000")
    assert min(seconds[1:]) < 1  # the first one waits for the start


def test_results_name_file_row_and_caption_and_nothing_a_terminal_obeys(pictured_run, tmp_path, capsys):
    path = tmp_path / "hostile-000000.tar"
    with TarWriter(str(path)) as writer:
        about = {"file": "cats/\x1b[31mtom.png", "row": 7}
        writer.write({"__key__": "k\x1bey", "png": png(0), "txt": "a\x1b]0;title\x07 cat", "json": about})
    run = str(pictured_run.folder)
    assert main(["search", run, str(path), "snowman"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown
    assert "tom.png row 7" in shown and "cat" in shown and "k" in shown
    assert main(["search", run, str(path), "snowman", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["search"]["method"] == "exact" and output["search"]["recall"] == 1
    result = output["results"][0]
    assert result["source"] == "cats/\x1b[31mtom.png row 7" and result["keys"]
    assert result["text"].startswith("a")
