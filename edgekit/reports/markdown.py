"""Draws a page as Markdown, as GitHub reads it; what others wrote stays text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from edgekit.errors import printable
from edgekit.reports.page import Cell, Code, Heading, Item, Line, Page, Span, Table, spans, visible
from edgekit.reports.plain import plain

_MARKS = (("[", "\\["), ("|", "\\|"), ("://", "&#58;//"), ("www.", "www&#46;"))
"""Marks of Markdown, and of the links that it makes by itself, with what shows them as they are."""
_EMPHASIS = re.compile(r"[*_`~@]|(?<!&)#")
"""What makes text bold, code, a heading, or names a person or an issue."""


def markdown(page: Page, title: str) -> str:
    """``page`` under ``title``; what a table cannot hold of a picture is left out."""
    blocks = [f"# {_text(title)}", *(block for item in page for block in _blocks(item))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _blocks(item: Item) -> Iterator[str]:
    if isinstance(item, Heading):
        yield f"## {_text(item.text)}"
    elif isinstance(item, Code):
        yield _text(item.title)
        yield fenced(item.text)
    elif isinstance(item, Line):
        if item.when != "brief":
            yield _text(item.content)
    elif isinstance(item, Table):
        yield from _table(item)
    else:
        for each in plain(item):
            yield from _blocks(each)


def _table(table: Table) -> Iterator[str]:
    if table.title:
        yield f"**{_text(table.title)}**"
    if not table.columns:
        return
    head = f"| {' | '.join(_text(column.heading) for column in table.columns)} |"
    rule = "|" + "".join("---:|" if column.number else "---|" for column in table.columns)
    yield "\n".join([head, rule, *(f"| {' | '.join(map(_text, row))} |" for row in table.rows)])


def _text(content: Cell) -> str:
    """A cell in one line; what is bad, and what is bold, stands out."""
    return " ".join("".join(map(_span, spans(content))).split())


def _span(span: Span) -> str:
    shown = _EMPHASIS.sub(lambda mark: f"&#{ord(mark[0])};", plain_text(printable(span.text)))
    if span.tone not in ("bad", "bold") or not shown.strip():
        return shown
    return shown.replace(shown.strip(), f"**{shown.strip()}**")


def plain_text(text: str) -> str:
    """Somebody's text as prose: no HTML, no link or picture, nothing that a terminal would obey, all in one line."""
    escaped = html.escape(visible(text).replace("\n", " "), quote=False).replace("\\", "\\\\")
    for mark, shown in _MARKS:
        escaped = escaped.replace(mark, shown)
    return escaped


def code(text: str) -> str:
    """Somebody's text between backticks, which it cannot leave."""
    return "`" + visible(text).replace("\n", " ").replace("`", "'").replace("|", "\\|") + "`"


def fenced(text: str) -> str:
    """Lines of code between fences that are longer than any in them."""
    shown = visible(printable(text)).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{fence}\n{shown}\n{fence}"
