"""Draws the checks of reports as JUnit XML, which CI servers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

from edgekit.errors import printable
from edgekit.reports.base import Case
from edgekit.reports.page import visible


def junit(name: str, suites: Mapping[str, Sequence[Case]]) -> bytes:
    """A document of one suite for each command; what was not checked is skipped, with its reason."""
    every = [case for cases in suites.values() for case in cases]
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name={_quoted(name)} {_counts(every)}>'
    body = [
        f"  <testsuite name={_quoted(suite)} {_counts(cases)}>\n{''.join(_case(suite, case) for case in cases)}  </testsuite>"
        for suite, cases in suites.items()
    ]
    return "\n".join([head, *body, "</testsuites>\n"]).encode()


def _counts(cases: Sequence[Case]) -> str:
    outcomes = [case.passed for case in cases]
    return f'tests="{len(cases)}" failures="{outcomes.count(False)}" errors="0" skipped="{outcomes.count(None)}"'


def _case(suite: str, case: Case) -> str:
    inside = f"<testcase classname={_quoted(f'edgekit.{suite}')} name={_quoted(case.name)}"
    if case.passed:
        return f"    {inside}/>\n"
    element = "skipped" if case.passed is None else "failure"
    return f"    {inside}><{element} message={_quoted(case.text)}>{escape(_shown(case.text))}</{element}></testcase>\n"


def _quoted(text: str) -> str:
    return quoteattr(_shown(text))


def _shown(text: str) -> str:
    """``text`` in characters that XML can hold."""
    return "".join(letter if letter not in "\ufffe\uffff" else f"\\u{ord(letter):04x}" for letter in visible(printable(text)))
