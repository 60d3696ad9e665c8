"""Every command: help with examples and named positionals, ``--json``, and bad input answered in words."""

import json
import subprocess
import sys

import pytest
import toy

import mmvicreg as mm
from mmvicreg.cli.main import COMMANDS, main

POSITIONALS = {
    "check": "SHARDS",
    "pack": "SOURCE OUT",
    "look": "SHARDS",
    "new": "RECIPE",
    "evaluate": "MODEL",
    "compare": "RUN RUN [RUN ...]",
    "report": "RUN [RUN ...]",
    "classify": "MODEL",
    "finetune": "MODEL OUT",
    "segment": "MODEL",
    "embed": "MODEL SHARDS OUT",
    "search": "MODEL SHARDS QUERY",
    "explore": "RUN [RUN]",
    "solve": "MODEL OUT",
    "diagnose": "RUN",
    "export": "MODEL OUT",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished toy run and its shards."""
    folder = tmp_path_factory.mktemp("commands")
    shards = toy.write_shards(folder / "data")
    mm.train(toy.Config(train=shards, out=str(folder / "run"), epochs=1.0), toy.objective)
    return folder / "run", shards


def status_of(arguments):
    """The exit status, also where the parser of options ends the program."""
    try:
        return main(arguments)
    except SystemExit as stopped:
        return stopped.code


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_examples_and_names_every_positional(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"mmvicreg {name} " in shown and "Examples" in shown
    for word in POSITIONALS[name].split():
        assert word.strip("[].") in shown
    assert " STR " not in shown.split("positional")[-1].split("options")[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_arguments_or_unknown_options_are_usage_errors(name, capsys):
    for arguments in ([], ["--no-such-option"]):
        assert status_of([name, *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err and "Traceback" not in captured.err


BAD = [
    ["evaluate", "{folder}/none", "--data", "{shards}"],
    ["evaluate", "{run}", "--recipe", "{toy}", "--data", "{folder}/none-*.tar"],
    ["evaluate", "{run}", "--recipe", "{folder}/none.py", "--data", "{shards}"],
    ["evaluate", "{run}", "--data", "{shards}"],
    ["evaluate", "{run}", "--recipe", "{toy}", "--data", "{shards}", "--step", "999"],
    ["evaluate", "{run}", "--recipe", "{toy}", "--data", "{shards}", "--step", "best"],
    ["evaluate", "{run}", "--recipe", "{toy}", "--data", "{shards}", "--average"],
    ["evaluate", "{run}", "--recipe", "{toy}", "--data", "{shards}", "--device", "cuda"],
    ["evaluate", "{run}", "--recipe", "{toy}", "--data", "{shards}", "--device", "teapot"],
    ["evaluate", "{run}", "--recipe", "{toy}", "--data", "{shards}", "--caption", "txt"],
    ["evaluate", "{shards}", "--data", "{shards}"],
    ["compare", "{run}", "{folder}/none"],
    ["report", "{folder}/none"],
    ["report", "{run}", "--recipe", "{toy}", "--data", "{folder}/none.tar"],
    ["embed", "{folder}/none", "{shards}", "{folder}/rows.npz"],
    ["embed", "{run}", "pipe:cat x.tar", "{folder}/rows.npz", "--recipe", "{toy}"],
    ["explore", "{folder}/none", "--data", "{shards}"],
    ["search", "{run}", "{shards}", "a word", "--recipe", "{toy}"],
    ["search", "{run}", "{shards}", "a word", "--recipe", "{toy}", "--among", "sound"],
    ["classify", "{run}", "--recipe", "{toy}", "--test", "{shards}", "--branch", "sound"],
    ["classify", "{run}", "--recipe", "{toy}", "--test", "{folder}"],
    ["classify", "{run}", "--recipe", "{toy}", "--test", "{shards}", "--names", "{folder}/none.txt"],
    [
        "finetune",
        "{run}",
        "{folder}/out",
        "--recipe",
        "{toy}",
        "--train",
        "{shards}",
        "--test",
        "{folder}/none",
    ],
    ["segment", "{run}", "--recipe", "{toy}", "--train", "{shards}", "--test", "{shards}"],
    ["export", "{run}", "{folder}/a.onnx", "--format", "onnx", "--branch", "sound", "--recipe", "{toy}"],
    ["export", "{run}", "{folder}/data", "--format", "onnx", "--recipe", "{toy}"],
    ["export", "{folder}/none", "{folder}/exported"],
    ["solve", "{folder}/none", "{folder}/solved", "--train", "{shards}"],
    ["diagnose", "{folder}/none", "--data", "{shards}"],
    ["check", "{folder}/none-*.tar"],
    ["check", "{folder}"],
    ["check", "{shards}", "--report", "{folder}/no/report.json"],
    ["check", "{shards}", "--report", "{folder}/" + "n" * 300 + ".json"],
    ["look", "{folder}/none-*.tar"],
    ["look", "{shards}", "--run", "{folder}/none"],
    ["new", "{toy}", "--train", "{shards}", "--validation", "{shards}"],
    ["new", "{folder}/a.py", "--train", "{shards}", "--validation", "{shards}", "--image", "jpg"],
    ["pack", "{folder}/none", "{folder}/packed"],
    ["pack", "{toy}", "{folder}/packed"],
    ["pack", "{folder}/run", "{folder}/packed"],
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_input_is_one_message_and_status_1(arguments, trained, tmp_path, capsys):
    run, shards = trained
    known = {"run": run, "shards": shards, "folder": run.parent, "toy": toy.__file__}
    status = main([each.format(**known) for each in arguments])
    captured = capsys.readouterr()
    assert status == 1
    message = captured.err.splitlines()[-1] if captured.err.startswith("checking: ") else captured.err
    assert message.startswith(f"mmvicreg {arguments[0]}: ") and len(message) > 40
    assert "Traceback" not in captured.err and not captured.out


def test_both_statuses_are_tried_on_every_command():
    assert {each[0] for each in BAD} == set(COMMANDS)
    assert {each.split()[0] for each, _ in WRONG} == set(COMMANDS)


WRONG = [
    ("embed {run} {shards} {folder}/rows.npz --threads -1", "--threads is -1; expected a number at least 1"),
    ("evaluate {run} --data {shards} --threads 0", "--threads is 0"),
    ("evaluate {run} --data {shards} --folds -2", "--folds is -2"),
    ("report {run} --samples -1", "--samples is -1; expected a number at least 0"),
    ("search {run} {shards} word --k 0", "--k is 0"),
    ("classify {run} --test {shards} --k -5", "--k is -5"),
    ("check {shards} --processes -1", "--processes is -1"),
    ("check {shards} --max-pixels 0", "--max-pixels is 0"),
    ("pack {folder} {folder}/packed --processes -2", "--processes is -2"),
    ("finetune {run} {folder}/o --train {shards} --test {shards} --epochs 0", "--epochs is 0"),
    ("finetune {run} {folder}/o --train {shards} --test {shards} --fraction 0", "--fraction is 0.0; expected a number "
     "above 0 and at most 1"),
    ("finetune {run} {folder}/o --train {shards} --test {shards} --fraction nan", "--fraction is nan"),
    ("finetune {run} {folder}/o --train {shards} --test {shards} --encoder-rate -1", "--encoder-rate is -1.0"),
    ("segment {run} --train {shards} --test {shards} --batch-size 0", "--batch-size is 0"),
    ("compare {run} {run} --out {folder}/curves.html", "expected a picture, .png, .svg or .pdf"),
    ("compare", "found 0, expected two runs or more"),
    ("compare {run}", "found 1, expected two runs or more"),
    ("report", "no run to report on"),
    ("report {run} --data x={shards} x={shards}", "two splits are called 'x'"),
    ("evaluate {run} --data", "no shards to evaluate on"),
    ("evaluate {run} --data x={shards} x={shards}", "two splits are called 'x'"),
    ("evaluate {run}", "--data"),
    ("diagnose {run}", "--data"),
    ("diagnose {run} --data {shards} --ridge 0", "--ridge is 0.0; expected a number above 0"),
    ("diagnose {run} --data {shards} --out {folder}/a.txt", "expected a picture"),
    ("solve {run} {folder}/solved", "--train"),
    ("solve {run} {folder}/solved --train {shards} --landmarks 0", "--landmarks is 0"),
    ("embed {run} {shards} {folder}/rows.csv", "rows.csv: expected a name in .safetensors"),
    ("explore {run}", "--data"),
    ("explore --data {shards}", "0 runs; expected one or two"),
    ("explore {run} {run} {run} --data {shards}", "3 runs; expected one or two"),
    ("explore {run} --data {shards} --port 70000", "--port is 70000"),
    ("explore {run} --data {shards} --embeddings {folder}/a.npz", "expected a name that ends in .parquet"),
    ("search {run} {shards}", "no query"),
    ("look {shards} --samples 0", "--samples is 0"),
    ("new {folder}/recipe.txt --train {shards} --validation {shards}", "a recipe is a Python file"),
    ("export {run} {folder}/a.onnx --format onnx --push a/b", "--push uploads --format hub"),
    ("pack {folder} {folder}/packed --quality 0", "--quality 0"),
    ("pack {folder} {folder}/packed --divide.test 1", "with a sum below 1"),
    ("pack {folder} {folder}/packed --prefix test --divide.test 0.5", "name of a part that is held out"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[each for each, _ in WRONG])
def test_wrong_options_are_status_2_before_anything_is_read(arguments, words, trained, capsys):
    run, shards = trained
    known = {"run": run, "shards": shards, "folder": run.parent}
    before = sorted(run.parent.rglob("*"))
    assert status_of(arguments.format(**known).split()) == 2
    captured = capsys.readouterr()
    assert words in captured.err and "Traceback" not in captured.err and not captured.out
    assert sorted(run.parent.rglob("*")) == before


@pytest.mark.parametrize("command", ["check {tars}", "embed {run} {tars} {folder}/rows.npz"])
def test_a_pattern_that_the_shell_expanded_gets_a_hint(command, trained, capsys):
    run, shards = trained
    tars = " ".join(sorted(map(str, (run.parent / "data").glob("*.tar"))))
    with pytest.raises(SystemExit, match="2"):
        main(command.format(run=run, tars=tars, folder=run.parent).split())
    shown = " ".join(capsys.readouterr().err.split())
    assert "3 shards were given where one pattern is expected" in shown
    assert shards.replace("train-*", "*") in shown.replace(" ", "")


@pytest.mark.slow
def test_json_is_one_object_on_standard_output(trained, tmp_path, capsys):
    run, shards = map(str, trained)
    calls = {
        "check": [shards],
        "evaluate": [
            run,
            "--recipe",
            toy.__file__,
            "--data",
            f"test={shards}",
            "--out",
            f"{tmp_path}/e.json",
        ],
        "compare": [run, run, "--out", ""],
        "report": [run, "--recipe", toy.__file__, "--out", f"{tmp_path}/report.html"],
        "embed": [run, shards, f"{tmp_path}/rows.npz", "--recipe", toy.__file__],
    }
    found = {}
    for name, arguments in calls.items():
        assert main([name, *arguments, "--json"]) == 0, name
        found[name] = json.loads(capsys.readouterr().out)
    assert found["check"]["samples"] == 96 and found["embed"]["items"]["a"] == 96
    assert 0 <= found["evaluate"]["scores"]["test.a_to_b.recall_at_1"] <= 1
    assert found["compare"]["differences"] == {}
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_a_report_of_two_runs_shows_both_and_what_was_trained_on(trained, tmp_path):
    run, shards = map(str, trained)
    options = ["--recipe", toy.__file__, "--data", f"test={shards}", "--out", f"{tmp_path}/two.html"]
    assert main(["report", run, run, *options]) == 0
    page = (tmp_path / "two.html").read_text()
    assert page.count("<article") == 2 and "Scores side by side" in page and "Training data" in page


@pytest.mark.slow
def test_without_a_terminal_there_are_no_colours(trained):
    run = str(trained[0])
    command = [sys.executable, "-m", "mmvicreg.cli.main", "compare", run, run, "--out", ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr and "scores" in done.stdout
