"""Keys, captions and names of other people's files never reach a terminal as control sequences."""

import json

from rich.table import Table

from mmvicreg.cli.main import main
from mmvicreg.cli.output import Output

HOSTILE = "a \x1b]0;owned\x07\x1b[2J bird \x9b31m \u202egnp\u202c"


def test_lines_and_tables_show_escapes_as_text(capsys):
    table = Table("key \x1b[2J", "caption")
    table.add_row("k\x1b[31m", HOSTILE)
    Output({"caption": HOSTILE}, (HOSTILE, table)).show(as_json=False)
    printed = capsys.readouterr().out
    assert "\\x1b[2J" in printed and "bird" in printed
    assert not set(printed) & set("\x1b\x07\x9b\u202e")


def test_json_holds_the_caption_and_no_control_character(capsys):
    Output({"caption": HOSTILE}, ()).show(as_json=True)
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"caption": HOSTILE}
    assert not set(printed) & set("\x1b\x07\x9b\u202e")


def test_an_error_that_names_a_hostile_file_is_printed_as_text(capsys):
    assert main(["evaluate", "runs/\x1b[2Jrun", "--data", "x.tar"]) == 1
    printed = capsys.readouterr().err
    assert "\\x1b[2J" in printed and "\x1b" not in printed
