"""Names of federations, and text from elsewhere, where they become paths, settings and lines of a terminal."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from oneflower.cli import screen
from oneflower.cli.steps import Steps, step
from oneflower.cloud.names import check_name, file_name
from oneflower.cloud.superlink import connection
from oneflower.events import Step
from oneflower.printable import in_a_line, of_console, printable
from oneflower_appliance.errors import ExitCode, OneflowerError

ODD = [
    "../../x",
    "",
    "..",
    ".",
    "a/b",
    "lab\nevil = 1",
    "x" * 300,
    "Ünï",
    "a b",
    '"]',
    "a\\b",
    "-x",
    "\x00",
    "\u202eabc",
]


@pytest.mark.parametrize("name", [*ODD, "x" * 65, "7", ".hidden", "lab\n"])
def test_a_name_that_is_no_good_is_refused(name):
    with pytest.raises(OneflowerError, match="cannot be the name of a federation") as caught:
        check_name(name)
    assert caught.value.code is ExitCode.INVALID_INPUT
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("name", ["lab", "Lab-2.b_c", "7up", "x" * 64, "demo-3f1a"])
def test_ordinary_names_are_names_and_stay_as_they_are_in_paths(name):
    assert check_name(name) == name == file_name(name)


def test_any_name_becomes_one_part_of_a_path_and_different_ones_different_parts():
    found = [file_name(name) for name in ODD]
    for part in found:
        assert Path("save") / part != Path("save")
        assert (Path("save") / part).resolve().parent == Path("save").resolve()
        assert part.isascii()
        assert part.isprintable()
        assert len(part) < 64
    assert len(set(found)) == len(ODD)


@pytest.mark.parametrize("name", [*ODD, "a.b", "lab"])
def test_the_connection_for_flwr_is_toml_with_one_connection_whatever_the_name(name):
    read = tomllib.loads(connection(name, "127.0.0.1:9093", Path('/home/"me"/ca.crt')))
    assert read == {
        "superlink": {name: {"address": "127.0.0.1:9093", "root-certificates": '/home/"me"/ca.crt'}},
    }


ATTACKS = {
    "\x1b]0;owned\x07": "\\u001b]0;owned\\u0007",
    "\x1b[2J\x1b[1;1Hgone": "\\u001b[2J\\u001b[1;1Hgone",
    "\x9b31mred": "\\u009b31mred",
    "a\u202egpj.exe": "a\\u202egpj.exe",
    "\x1b[31mred\x1b[0m": "red",
    "50%\r100%": "50%\n100%",
    "tab\tand\nline": "tab\tand\nline",
    "\ud800": "\\ud800",
    "ü 学 ✓": "ü 学 ✓",
}


@pytest.mark.parametrize(("text", "shown"), ATTACKS.items())
def test_what_a_terminal_would_act_upon_is_written_out(text, shown, capsys):
    assert printable(text) == shown
    assert in_a_line(text) == " ".join(shown.split())
    for write, stream in ((screen.say, "err"), (screen.show, "out")):
        write(text)
        assert getattr(capsys.readouterr(), stream) == shown + "\n"


def test_a_console_is_shown_without_what_firmware_and_systemd_draw_with():
    written = [
        "\x1b[2J\x1b[01;01HWelcome to GRUB!",
        "",
        "\x1b(B\x1b[m",
        "\x1b[K[\x1b[0;32m  OK  \x1b[0m] Started ssh. \x1bM",
    ]
    assert of_console(written) == ["Welcome to GRUB!", "[  OK  ] Started ssh."]


def test_a_cell_of_a_table_cannot_be_a_row(capsys):
    screen.show_table(("NAME", "ERROR"), [("supernode_0", "bad\nsupernode_1  ready\x1b[1A")])
    screen.show_line("Note: bad\nsuperlink_0 | ready")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)


def test_steps_take_no_markup_and_no_escapes_from_a_name(capsys):
    with Steps() as steps:
        steps.notify(Step("submitting [red]x[/red] to \x1b]0;owned\x07"))
    with step("removing [bold]lab"):
        pass
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "[red]x[/red]" in said
    assert "[bold]lab" in said
