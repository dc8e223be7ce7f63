"""Visible text of HTML against Python's own parser, which BigCode's filter uses through BeautifulSoup."""

from __future__ import annotations

from html.parser import HTMLParser

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codemill.pipeline.visible_text import visible_characters


class Text(HTMLParser):
    """Counts the characters outside tags, scripts and style sheets."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.hidden, self.count = False, 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden = tag in ("script", "style")

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        self.count += 0 if self.hidden else len(data)


def by_parser(html: str) -> int:
    parser = Text()
    parser.feed(html)
    parser.close()
    return parser.count


def counted(*texts: str) -> list[int]:
    return visible_characters(pa.array(texts, pa.large_string())).tolist()


PIECES = st.sampled_from(
    [
        "text ", "\u5b57", "\n", "a < b", "&amp;", "&#955;", "&#x1F600;", "&", ";", "R&D ", "<p>", "</p>", "<br/>",
        '<a title="x > y" href=z>', "<a title='<p>'>", "<!-- <p> > -->", "<!-- a\n-- -->", "<!DOCTYPE html>",
        "<?php echo 1 ?>", "<script>if (a < b && '</p>') {}</script>", "<SCRIPT src=a>x</SCRIPT >",
        "<style>p > a {}</style>", "<script/>", "<scripted>", "</ >", "<>", "<1",
    ]
)  # fmt: skip


@given(st.lists(st.lists(PIECES, max_size=12).map("".join), max_size=4))
@settings(deadline=None, max_examples=300)
def test_visible_characters_equal_those_of_pythons_parser(texts: list[str]) -> None:
    assert counted(*texts) == [by_parser(text) for text in texts]


@pytest.mark.parametrize("text", ["<p", "<p a='", "<!--", "<!-- -", "<script>", "<script>a</scrip", "<", "&", "</"])
def test_markup_that_does_not_end_is_counted_without_harm(text: str) -> None:
    assert counted(text + "a" * 10)[0] <= 12 + len(text)
    assert counted("b" + text)[0] <= 1 + len(text)


def test_time_is_linear_in_the_text() -> None:
    assert counted("<p a='" * 200_000, "<!-" * 400_000, "&" * 1_000_000, "<script>" * 200_000)[2] == 1_000_000
