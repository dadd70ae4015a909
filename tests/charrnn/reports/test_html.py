"""Pages: their content security policy lets their own script and style run and nothing else, and text stays text."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.reports.html import data_block, fill_page


@given(st.text() | st.sampled_from(["</script>", "<!--", "]]>", "\u2028"]))
def test_a_data_block_holds_any_text_and_ends_where_it_should(text: str) -> None:
    block = data_block("name", {"a": text})
    found = re.fullmatch(r'<script type="application/json" id="data-name">([^<>&]*)</script>', block)
    assert found is not None
    assert json.loads(found[1]) == {"a": text}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        data_block("name", value)


@pytest.mark.parametrize("template", ["report", "heatmap"])
def test_the_policy_names_the_page_s_own_style_and_script(template: str) -> None:
    page = fill_page(template, title="<b>&", data=data_block("about", 1))
    assert "<title>&lt;b&gt;&amp;</title>" in page
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0])
    assert "default-src 'none'" in policy
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == (template == "heatmap")
    for source in (style, *scripts):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_names_that_are_not_utf_8_are_escaped() -> None:
    page = fill_page("report", title="a\udcff", data=data_block("x", "\udcff"), body="\ud800")
    assert "a\\udcff" in page
    assert "\\ud800" in page
    page.encode("utf-8")
