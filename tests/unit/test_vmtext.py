"""Template text is read by the rules of oned's lexer, in time proportional to its length."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneflower.local.errors import CloudError
from oneflower.local.oned.vmtext import parse_template
from oneflower.local.onegate.attributes import escape
from tests.examples import examples

MEGABYTE, MUCH = 1_000_000, 50_000

# oned's rules as they stand in template_parser.l: in each state the longest match counts, of equals the first.
COMMENT, BLANK, VARIABLE = r"[ \t]*#[^\n]*\n", r"[ \t\n]+", r"[0-9A-Za-z_]+"
EQUAL, EQUAL_EMPTY, COMMA, CLOSE = r"[ \t]*=[ \t]*", r"[ \t]*=[ \t]*\n", r"[ \t\n]*,[ \t\n]*", r"[ \t\n]*\][ \t\n]*"
OPEN, CDATA, QUOTED, BARE = r"[ \t]*\[[ \t\n]*", r"[^\n]*\]\]>", r'"((?:\\"|[^"])*)"', r"[^=# \t\n,\[\]]+"


class RefusedError(Exception):
    pass


class ByTheBook:
    """The same, rule by rule, without regard to time."""

    def __init__(self, text):
        self.text, self.at = text, 0

    def take(self, *rules):
        matches = [(rule, match) for rule in rules if (match := re.compile(rule).match(self.text, self.at))]
        if not matches:
            return None, None
        rule, match = max(matches, key=lambda found: found[1].end())
        self.at = match.end()
        return rule, match

    def need(self, *rules):
        rule, match = self.take(*rules)
        if rule is None:
            raise RefusedError
        return rule, match

    def pass_over(self):
        while self.at < len(self.text):
            if self.take(COMMENT, BLANK)[0]:
                continue
            if any(re.compile(rule).match(self.text, self.at) for rule in (VARIABLE, EQUAL, COMMA, CLOSE)):
                return True
            self.at += 1
        return False

    def value(self):
        rule, match = self.need(QUOTED, BARE, CDATA)
        if rule is CDATA:
            raise RefusedError
        return (match[1] if rule is QUOTED else match[0]).replace('\\"', '"')

    def attribute(self):
        if self.need(EQUAL, EQUAL_EMPTY)[0] is EQUAL_EMPTY:
            return ""
        if not self.take(OPEN)[0]:
            return self.value().rstrip("\n")
        vector = {}
        if self.take(CLOSE)[0]:
            return vector
        while True:
            self.pass_over()
            name = self.need(VARIABLE)[1][0].upper()
            if self.need(EQUAL, EQUAL_EMPTY)[0] is EQUAL_EMPTY:
                # The next line's name is what bison gets instead of a value.
                raise RefusedError
            vector.setdefault(name, self.value())
            if self.take(CLOSE)[0]:
                return vector
            self.need(COMMA)

    def parse(self):
        found = {}
        while self.pass_over():
            name = self.need(VARIABLE)[1][0].upper()
            found.setdefault(name, []).append(self.attribute())
        return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


def outcome(parse, text):
    try:
        return parse(text)
    except (CloudError, RefusedError):
        return "refused"


PIECES = st.sampled_from([
    "A", "b_1", "=", " ", "\t", "\n", "#", ",", "[", "]", '"', '\\"', "\\", "x y", "é", "-", "]]>", "<", 'K="v"',
    'V=[A="1",B=2]', "=[", "K=", "\x00", "\r", "# comment\n", 'K="a\nb"', '"x"y',
])  # fmt: skip


@given(pieces=st.lists(PIECES, max_size=16))
@settings(max_examples=examples(1500))
def test_template_text_is_read_as_oned_reads_it(pieces):
    text = "".join(pieces)
    assert outcome(parse_template, text) == outcome(lambda given: ByTheBook(given).parse(), text)


@pytest.mark.parametrize(
    "unit",
    [
        "#",
        "# ",
        "#\n",
        "#A=1 ",
        "A=1\n",
        "A=[\n",
        "A=[B=1,C=2]\n",
        ",",
        "=",
        "\x01 ",
        "\x01#",
        " ",
        "[",
        "[]",
        "\\",
        '"',
        '\\"',
    ],
)
@pytest.mark.parametrize("before", ["", "A=[B=1,"])
def test_nothing_takes_longer_than_its_length_explains(before, unit):
    """The daemon has one thread: everybody waits for the update of one guest."""
    text = before + unit * (MUCH // len(unit))
    start = time.thread_time()
    outcome(parse_template, escape(text))
    outcome(parse_template, text)
    assert time.thread_time() - start < 2, "it takes a tenth of that; a quadratic one takes half a minute"


def test_a_megabyte_stops_nobody():
    for text in (
        "#" * MEGABYTE,
        "A=" + "x" * MEGABYTE,
        "A=[" + "B=1," * (MEGABYTE // 4) + "C=2]]>",
        'A="' + "\\" * MEGABYTE,
    ):
        start = time.thread_time()
        outcome(parse_template, text)
        assert time.thread_time() - start < 3
