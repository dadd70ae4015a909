"""Heat maps: features and correlations against plain definitions, what the model computes, and a safe page."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from charrnn_runtime import CharrnnError, Sampler, UsageError, Vocabulary

from charrnn.reports.heatmap.analysis import Analysis, Unit, analyse, correlations, read_text, token_labels
from charrnn.reports.heatmap.features import text_features
from charrnn.reports.heatmap.page import heatmap_page, quantised

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run

EVIL = "</script><img src=x onerror=alert(1)><!-- & ' \" \u2028"


def marks(text: str, name: str) -> str:
    return "".join(str(int(v)) for v in text_features(text)[name])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("inside quotes", "a \"b\" 'c'", "001100110"),
        ('inside "…"', 'x"\\""y', "011100"),
        ("inside '…'", "don't 'go'", "0000001110"),
        ("inside '…'", "x = r'ab'\n", "0000011100"),
        ("inside '…'", "'a\nb'c", "110011"),
        ("inside triple quotes", "'''a'b\n'''c", "00111111100"),
        ("comment", "a # b\nc '#'", "00111000000"),
        ("bracket depth", "a([b])c)(", "012210001"),
        ("bracket depth", "((\n\na", "12200"),
        ("inside ( )", "(a[b]c)d", "11111100"),
        ("inside [ ]", "(a[b]c)d", "00110000"),
        ("inside < >", "a<b>c<d\ne", "011001100"),
        ("position in line", "ab\ncd", "12012"),
        ("position in word", "ab_1 c", "123401"),
        ("position in sentence", "ab. c\n\nd", "12012301"),
        ("indentation", "  a b\n\tc", "12222044"),
        ("leading blanks", "  a b\n c", "11000110"),
        ("line with a capital first", " Ab\nc", "01100"),
        ("capital letter", "aBc", "010"),
        ("digit", "a1b", "010"),
    ],
)
def test_features(name: str, text: str, expected: str) -> None:
    assert marks(text, name) == expected


def test_features_that_do_not_vary_are_left_out() -> None:
    assert "digit" not in text_features("abc def")
    assert text_features("") == {}
    assert all(len(v) == 7 for v in text_features("abc def").values())


def test_correlations_are_numpys() -> None:
    draw = np.random.default_rng(3)
    activations = draw.normal(3.0, 2.0, (20_000, 5))
    activations[:, 4] = 7.0
    features = np.stack([activations[:, 0] + draw.normal(size=20_000), -activations[:, 1]])
    got = correlations(activations, features)
    expected = np.corrcoef(activations[:, :4].T, features)[:4, 4:]
    np.testing.assert_allclose(got[:4], expected, atol=1e-9)
    assert got[4].tolist() == [0.0, 0.0]


def test_analysis_is_what_the_sampler_computes(run: Run) -> None:
    sampler = Sampler(run.model)
    text = run.text.read_text()[:700]
    found = analyse(sampler, read_text(sampler.vocabulary, text), units=6, names=["c_0[5]"])
    assert found.shown == text
    np.testing.assert_allclose(found.bits, -sampler.score(text).log_probs / math.log(2), rtol=1e-5, atol=1e-6)
    state = sampler.initial_state()
    logits, state = sampler.step([sampler.info.start_token], state)
    names = [s.input for s in sampler.info.states]
    for i, token in enumerate(sampler.vocabulary.encode(text[:50])):
        logits, state = sampler.step([token], state)
        for unit in found.units:
            assert unit.values[i] == pytest.approx(state[names.index(unit.state)][0, unit.index], abs=2e-3, rel=2e-3)
        row = logits[0].astype(np.float64)
        probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        order = np.argsort(-probabilities, kind="stable")[:5]
        assert found.guesses[i].tolist() == order.tolist()
        np.testing.assert_allclose(found.probabilities[i], probabilities[order], rtol=1e-4)
    assert len(found.units) == 7
    assert "c_0[5]" in [c.name for c in found.units]
    assert {c.state for c in found.units} == {"c_0"}
    strengths = [abs(c.best[1]) for c in found.units]
    assert strengths == sorted(strengths, reverse=True)
    best = found.units[0]
    plain = np.corrcoef(best.values, text_features(text)[best.best[0]])[0, 1]
    assert best.best[1] == pytest.approx(plain, abs=1e-6)


def test_bytes_are_shown_as_characters() -> None:
    vocabulary = Vocabulary.from_text("", kind="bytes")
    read = read_text(vocabulary, "aé€".encode() + b"\xff")
    assert read.shown == "aé€\N{REPLACEMENT CHARACTER}"
    assert read.ends.tolist() == [0, 2, 5, 6]
    assert token_labels(vocabulary)[0xE9] == "\\xe9"
    assert all(token_labels(vocabulary))


@pytest.mark.parametrize(("names", "states"), [(["c_0[32]"], []), (["c_9[0]"], []), (["c_0"], []), ([], ["x_0"])])
def test_unknown_cells_and_states_are_named(run: Run, names: list[str], states: list[str]) -> None:
    sampler = Sampler(run.model)
    with pytest.raises(UsageError, match=re.escape((names or states)[0])):
        analyse(sampler, read_text(sampler.vocabulary, "the cat"), names=names, states=states)


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


def test_command(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = charrnn("heatmap", run.model, "--text", run.text, "--length", 2000, "--units", 3, "-o", page)
    assert done.code == 0, done.err
    assert "2,000 characters" in done.out
    assert "left out" in done.out
    again = tmp_path / "again.html"
    assert charrnn("heatmap", run.folder, "--sample", "--length", 200, "--seed", 3, "-o", again).code == 0
    assert "<!doctype html>" in again.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "--sample"),
        (["--sample", "--text", "x"], 2, "one of them"),
        (["--text", "missing.txt"], 1, "missing.txt"),
        (["--sample", "--units", 0], 2, "units"),
        (["--sample", "--length", 0], 2, "length"),
        (["--text", "{text}", "--length", 400_000], 2, "300,000"),
        (["--sample", "--out", "/missing/page.html"], 1, "/missing/page.html"),
    ],
)
def test_bad_input(run: Run, charrnn: Charrnn, tmp_path: Path, arguments: list[object], code: int, words: str) -> None:
    given = [str(a).format(text=run.text) for a in arguments]
    done = charrnn("heatmap", run.model, "-o", tmp_path / "p.html", *given)
    assert (done.code, words in done.err) == (code, True), done.err


def test_an_empty_text_and_unknown_characters_are_told(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    for text, options, code in (("", [], 1), ("the €", [], 2), ("€", ["--unknown", "skip"], 1)):
        path.write_text(text, encoding="utf-8")
        assert charrnn("heatmap", run.model, "--text", path, "-o", tmp_path / "p.html", *options).code == code
    path.write_text("the €cat", encoding="utf-8")
    out = tmp_path / "p.html"
    assert charrnn("heatmap", run.model, "--text", path, "--unknown", "skip", "-o", out).code == 0


def test_an_exported_model_needs_no_torch(run: Run, tmp_path: Path) -> None:
    code = (
        "import sys; from charrnn.cli import main\n"
        f"sys.argv = ['charrnn', 'heatmap', {str(run.model)!r}, '--sample', '--length', '50', "
        f"'-o', {str(tmp_path / 'p.html')!r}]\n"
        "try: main()\nexcept SystemExit as e: assert not e.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert issubclass(UsageError, CharrnnError)
