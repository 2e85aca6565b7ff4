"""The documentation is true: generated parts are fresh, links lead somewhere, every command and variable is in it."""

from __future__ import annotations

import ast
import io
import re
import shlex
import subprocess
import sys
import tokenize
from contextlib import suppress
from pathlib import Path

import click
import pytest
import typer

from oneflower.cli.app import app
from oneflower.opennebula import text as opennebula_text
from oneflower_appliance.approvals import APPROVED
from oneflower_appliance.attributes import ATTRIBUTES
from oneflower_appliance.errors import ExitCode
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.removed import REMOVED

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_the_generated_pages_are_fresh():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/generate_docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_variable_and_exit_code_is_documented():
    reference = (ROOT / "docs/parameters.md").read_text()
    for name in PARAMETERS:
        assert f"`{name}`" in reference
    codes = (ROOT / "docs/exit-codes.md").read_text()
    for code in ExitCode:
        assert f"| {int(code)} | {code.name} |" in codes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_module_of_the_picture_exists():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in re.findall(r"`((?:src|appliance|tests|docs|scripts)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_everything_that_contributing_names_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = [str(path) for folder in ("src", "appliance", "tests", "docs") for path in (ROOT / folder).rglob("*")]
    named = re.findall(r"`([\w./-]+\.(?:py|md|toml))`", text)
    assert len(named) > 30
    at_the_top = {path.name for path in ROOT.iterdir()}
    assert [name for name in named if name not in at_the_top and not any(f.endswith("/" + name) for f in files)] == []
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = re.findall(r"`(test_\w+)`", text)
    assert [name for name in names if f"def {name}(" not in tests] == []
    targets = re.findall(r"^\$ make ([\w-]+)", text, re.MULTILINE)
    assert [target for target in targets if f"\n{target}:" not in (ROOT / "Makefile").read_text()] == []


def test_every_variable_that_a_page_names_exists():
    known = set(PARAMETERS) | set(ATTRIBUTES) | {"FL_RUN", "FL_CHECKPOINT", APPROVED}  # of FL_RUN_* and FL_CHECKPOINT_*
    for page in PAGES:
        gone = set(REMOVED) if page.name in ("CHANGELOG.md", "parameters.md") else set()
        assert set(re.findall(r"\bFL_[A-Z_]*[A-Z]\b", page.read_text())) <= known | gone, page.name


def commands_of(page):
    """Return the command lines of a page: those of its examples, and those within sentences."""
    text = page.read_text().replace("\\\n", " ")
    shown = re.findall(r"^\$ (?:\w+=\S+ )*oneflower (.*)$", text, re.MULTILINE)
    named = re.findall(r"`oneflower ([^`\n]+)`", text)
    # Reading these options does what they say: it prints, installs or ends.
    return [line for line in shown + named if not re.search(r"--(help|version|install-completion)\b", line)]


def parse(words, command, name="oneflower", parent=None):
    """Parse a command line as the program does, without running it. Raises what click raises."""
    context = command.make_context(name, words, parent=parent)
    if isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        parse(words, command, name, context)


@pytest.fixture(scope="module")
def command():
    return typer.main.get_command(app)


def parameters(command):
    yield from command.params
    for other in getattr(command, "commands", {}).values():
        yield from parameters(other)


def test_the_help_says_what_each_argument_and_option_is(command):
    """A release of click took the help from the arguments of the typer that Flower pins."""
    found = list(parameters(command))
    assert sum(isinstance(one, click.Argument) for one in found) > 10
    assert [one.name for one in found if not one.help] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_is_one(page, command):
    for line in commands_of(page):
        with suppress(click.MissingParameter):  # a sentence may name a command without its arguments
            parse(shlex.split(line, comments=True), command)


def test_every_sentence_of_the_troubleshooting_is_one_that_the_program_prints():
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "appliance/src").rglob("*.py")]
    # Sentences are put together from several string literals, with what differs in braces.
    text = re.sub(r"\{[^{}\n]*\}", "…", "".join(path.read_text() for path in sources))
    text = re.sub(r"\"\s*\n\s*f?\"", "", text)
    page = (ROOT / "docs/troubleshooting.md").read_text()
    sentences = [
        cell for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for cell in re.findall(r"`([^`]+)`", row)
    ]
    theirs = {"Not authorized to perform", "quota"}  # OpenNebula's own words
    assert len(sentences) > 30
    for sentence in sentences:
        for part in re.split(r"…|\b\d{3}\b", sentence):
            assert part.strip(" ,:.") in text or part.strip(" ,:.") in theirs, sentence


def test_every_cannot_of_the_security_page_names_tests_that_exist():
    page = (ROOT / "SECURITY.md").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 40
    assert [name for name in named if f"def {name}(" not in tests] == []
    rows = [
        line
        for line in page.splitlines()
        if line.startswith("| ") and "---" not in line and not line.endswith("| test |")
    ]
    assert [line for line in rows if "`test_" not in line] == []


def test_the_architecture_names_every_room_and_every_module_that_it_names_exists():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    appliance, operator = ROOT / "appliance/src/oneflower_appliance", ROOT / "src/oneflower"
    rooms = {
        str(path.parent.relative_to(base)) + "/"
        for base in (appliance, operator)
        for path in base.rglob("__init__.py")
        if path.parent != base
        and "apps" not in path.relative_to(base).parts[1:-1]
        and path.parent.parent.name != "apps"
    }
    rooms = {room for room in rooms if not room.startswith("apps/") or room == "apps/"}
    assert [room for room in rooms if f"`{room}`" not in page] == []
    tables = page.split("\n## ")
    for base, title in ((appliance, "Rooms of the appliance"), (operator, "Rooms of the operator's side")):
        [table] = [table for table in tables if table.startswith(f"{title}\n")]
        cells = re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)
        listed = [name for cell in cells for name in re.findall(r"`(\w+\.py)`", cell)]
        assert sorted(listed) == sorted(path.name for path in base.glob("*.py") if path.stem != "__init__")
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", page + (ROOT / "docs/how-it-works.md").read_text())
    paths = [str(path) for base in (appliance, operator) for path in base.rglob("*.py")]
    assert [name for name in named if not any(path.endswith("/" + name) for path in paths)] == []


# Words that a native reader stumbles over. CONTRIBUTING says how to write instead.
ODD = re.compile(
    r"\b(?:mend(?:s|ed|ing)?|anew|for ever|confess\w*|shall|whoever|tells of|told of|goes on|if need be|for want of"
    r"|(?:is|are) let in|let (?:it|them) in|can(?:not| not)? be had|one a line|of one's own|feign\w*"
    r"|is no (?:valid|checksum|signature|address|number|key|base64))\b",
    re.IGNORECASE,
)


def prose_of(path):
    """Yield the texts of a page, or the docstrings, messages and comments of a module, each with the line on which it starts."""
    text = path.read_text()
    if path.suffix != ".py":
        for paragraph in re.finditer(r"(?:[^\n]+\n?)+", text):
            yield text.count("\n", 0, paragraph.start()) + 1, re.sub(r"^#", "", paragraph[0], flags=re.MULTILINE)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    after_a_hash = " ".join(line.partition("#")[2] for line in text.splitlines())
    if not ODD.search(" ".join(after_a_hash.split())):
        return  # to find the comments would take longer than all the rest
    comments, after = [], -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line, words = token.start[0], token.string.lstrip("#")
            if line == after + 1:
                comments[-1] = (comments[-1][0], f"{comments[-1][1]} {words}")
            else:
                comments.append((line, words))
            after = line
    yield from comments


def test_pages_docstrings_messages_and_comments_are_in_plain_english():
    folders = [ROOT / name for name in ("src", "appliance/src", "scripts", "tests")]
    modules = [path for folder in folders for path in sorted(folder.rglob("*.py")) if path != Path(__file__)]
    assert len(modules) > 200
    others = [ROOT / name for name in ("Makefile", "pyproject.toml", "scripts/uv", "scripts/need")]
    odd = [
        f"{path.relative_to(ROOT)}:{line}: {found[0]}"
        for path in PAGES + modules + others
        for line, text in prose_of(path)
        for found in ODD.finditer(" ".join(text.split()))
    ]
    assert odd == [], "\n".join(odd)


def test_every_vm_template_of_the_docs_is_one_that_opennebula_reads():
    fenced = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    blocks = [block for page in PAGES for kind, block in fenced.findall(page.read_text()) if not kind]
    templates = [opennebula_text.parse(block) for block in blocks if "CONTEXT = [" in block]
    assert any("ONEAPP_VNF_WG_ENABLED" in template["CONTEXT"] for template in templates)
