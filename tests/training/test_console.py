"""What a person reads while a run trains: terms, speed and the last score; then what to type next."""

import os
import sys
from pathlib import Path

import forked
import pytest

import mmvicreg as mm
from mmvicreg.runs.run import read_run

TRAIN = """
import sys
from dataclasses import replace
sys.path.insert(0, {support!r})
import mmvicreg as mm
from pictured_run import Config, objective
from mmvicreg.runs.run import read_run

if __name__ == "__main__":
    text = read_run({run!r}).modalities["text"]
    text = replace(text, vocabulary={words!r})
    validation = mm.ValidationConfig(data=Config().train, every=2, samples=60)
    print(mm.train(Config(out={out!r}, text=text, validation=validation, epochs=float(sys.argv[1])), objective))
"""


@pytest.fixture(scope="module")
def consoles(pictured_run, tmp_path_factory):
    """Standard output and error of a run of 3 steps, and of the same continued to 6."""
    folder = tmp_path_factory.mktemp("console")
    script = folder / "train.py"
    values = {
        "support": str(Path(__file__).parents[1] / "support"),
        "run": str(pictured_run.folder),
        "words": str(pictured_run.folder.parent / "words.json"),
        "out": str(folder / "run"),
    }
    script.write_text(TRAIN.format(**values))
    done = []
    for epochs in ("1", "2"):
        command = [sys.executable, str(script), epochs]
        if epochs == "2":
            script.write_text(script.read_text().replace("epochs=", "allow_change=('epochs',), epochs="))
        done.append(forked.run(command, cwd=folder, environment=os.environ))
    return folder / "run", done


@pytest.mark.slow
def test_a_line_has_every_term_the_last_score_and_the_speed(consoles):
    _, (first, _) = consoles
    assert first.returncode == 0, first.stderr
    line = next(line for line in first.stderr.splitlines() if line.startswith("step 3 of 3: loss "))
    for part in ("image/variance", "text/covariance", "image-text/invariance", "recall_at_1", "samples/s"):
        assert part in line
    assert "\x1b" not in first.stdout + first.stderr


@pytest.mark.slow
def test_the_end_says_what_to_type_next_and_where_the_report_will_be(consoles):
    run, (first, _) = consoles
    after = first.stderr[first.stderr.index("finished: 3 steps") :]
    for command in ("report", "explore", "export"):
        assert f"mmvicreg {command} {run} " in after
    assert f"{run}/report.html" in after


@pytest.mark.slow
def test_continuing_says_from_which_step(consoles):
    _, (_, second) = consoles
    assert second.returncode == 0, second.stderr
    assert "continues from the checkpoint of step 3 (3 of 6 steps)" in second.stderr


@pytest.mark.slow
def test_a_run_and_its_scores_are_one_line_each(consoles, pictured_run):
    run, (first, _) = consoles
    assert first.stdout.strip().startswith(f"Run('{run}', step 3, image: timm/test_resnet, text: gru)")
    scores = read_run(pictured_run.folder).evaluate({"held_out": pictured_run.shards})
    assert repr(scores["held_out"]).startswith("SplitScores(image_to_text R@1 ") and len(repr(scores)) < 300
    assert mm.Run is type(read_run(pictured_run.folder))
