"""Text in a page is text."""

from __future__ import annotations

from mrl.evaluation.markup import Markup, element, join


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = element("b", "a < b & 'c'")
    assert element("p", "<script>", inner) == "<p>&lt;script&gt;<b>a &lt; b &amp; &#x27;c&#x27;</b></p>"
    assert join("<", Markup("<br>")) == "&lt;<br>"


def test_attributes_are_escaped_renamed_shortened_and_left_out() -> None:
    text = element("line", x1=1 / 3, y1=2.0, rowspan=2, class_='a"><b', aria_label="<", id=None)
    assert text == '<line x1="0.33" y1="2" rowspan="2" class="a&quot;&gt;&lt;b" aria-label="&lt;"></line>'


def test_an_element_without_content_has_no_end() -> None:
    assert element("meta", name="viewport", charset="utf-8") == '<meta name="viewport" charset="utf-8">'


def test_bytes_that_are_no_text_are_shown_as_letters() -> None:
    assert element("p", "caf\udce9", title="\udce9") == '<p title="\\udce9">caf\\udce9</p>'
