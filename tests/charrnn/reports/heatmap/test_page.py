"""The page: values within a step of colour, and no text that becomes HTML."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from charrnn.reports.heatmap.analysis import Analysis, Unit
from charrnn.reports.heatmap.page import heatmap_page, quantised

EVIL = "</script><img src=x onerror=alert(1)><!-- & ' \" \u2028"


def test_quantised_values_are_within_a_step() -> None:
    values = np.random.default_rng(1).normal(size=5000).astype(np.float32)
    low, high, levels = quantised(values)
    back = low + levels / 254 * (high - low)
    np.testing.assert_allclose(back, np.clip(values, low, high), atol=(high - low) / 254)


def evil_analysis() -> Analysis:
    shown = EVIL * 3
    n = len(shown)
    return Analysis(
        shown=shown,
        bits=np.linspace(0, 9, n, dtype=np.float32),
        guesses=np.tile(np.arange(5, dtype=np.int32), (n, 1)),
        probabilities=np.full((n, 5), 0.2, np.float32),
        labels=("</script>", "<", "&", "'", "<img src=x onerror=alert(1)>"),
        units=(Unit(state="</script>", index=1, correlations={EVIL: 0.5}, values=np.arange(n, dtype=np.float32)),),
    )


def test_no_text_gets_out_of_its_data_block() -> None:
    page = heatmap_page(evil_analysis(), title=EVIL, facts={EVIL: EVIL})
    assert "<img" not in page
    assert "<!-- " not in page
    assert page.count("</script>") == page.count("<script") == 7
    about: dict[str, Any] = json.loads(re.findall(r'id="data-about">(.*?)</script>', page)[0])
    assert about["title"] == EVIL
    assert "".join(map(chr, about["symbols"])) == "".join(sorted(set(EVIL)))
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "default-src 'none'" in page
