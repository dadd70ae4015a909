"""Patterns, against ``re.fullmatch`` and brute force over all texts of a small alphabet."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from charrnn_runtime import Engine, Request, Sampler, SamplingOptions, UsageError, Vocabulary, pattern
from charrnn_runtime.options import SamplingKwargs
from charrnn_runtime.pattern import PatternState, compile_pattern
from charrnn_runtime.pattern_syntax import category
from charrnn_runtime.sampling import UniformStream, sample_token
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.conftest import TinyModel, wait_ended

README = Path(__file__).parents[2] / "runtime" / "README.md"
ABC = Vocabulary.from_text("abc")
ABC_END = Vocabulary(symbols=(97, 98, -1, 99), special={"end": 2})
BYTES = Vocabulary.from_text("", kind="bytes")
steady = settings(derandomize=True, deadline=None, max_examples=100)

atoms = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", r"\w", r"[^\Wc]", "x", ""])
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{,2}", "{2,}", "*?", "{0}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)


def words(alphabet: str, least: int, most: int) -> Iterator[str]:
    for length in range(least, most + 1):
        yield from map("".join, itertools.product(alphabet, repeat=length))


def may_end(state: PatternState, vocabulary: Vocabulary) -> bool:
    """Whether the text may end here."""
    mask = state.mask()
    end = vocabulary.special.get("end")
    return state.open if end is None else mask is not None and mask[end] == 0


def language(state: PatternState, vocabulary: Vocabulary, text: str = "") -> Iterator[str]:
    """All texts that can be drawn; fails at a text that cannot end."""
    going = False
    for token, symbol in enumerate(vocabulary.symbols):
        after = state.copy()
        if symbol >= 0 and after.advance(token):
            going = True
            mask = state.mask()
            assert mask is None or mask[token] == 0
            yield from language(after, vocabulary, text + chr(symbol))
    if may_end(state, vocabulary):
        yield text
        assert state.complete == (not going and "end" not in vocabulary.special)
    else:
        assert going, f"{text!r} cannot go on and cannot end"


@pytest.mark.parametrize("vocabulary", [ABC, ABC_END], ids=["endless", "end"])
@steady
@given(text=patterns, length=st.integers(1, 5), min_length=st.integers(0, 3), allowed=st.sampled_from([None, "ab"]))
def test_exactly_the_texts_that_match_can_be_drawn(
    vocabulary: Vocabulary, text: str, length: int, min_length: int, allowed: str | None
) -> None:
    expected = {word for word in words(allowed or "abc", min_length, length) if re.fullmatch(text, word)}
    usable = None
    if allowed:
        usable = np.array([symbol >= 0 and chr(symbol) in allowed for symbol in vocabulary.symbols])
    state: PatternState | None
    try:
        state = compile_pattern(text, vocabulary, usable, min_length).start(length)
    except UsageError as error:
        said = str(error)
        state = None
    if state is None:
        assert expected <= {""}
        assert "matches" in said
        return
    assert set(language(state, vocabulary)) == expected


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@settings(steady, max_examples=600)
@given(st.text(r"ab01(?:|)*+{,}[]^-$.\dwsnbZAP<>=!#xuNU", max_size=9))
def test_no_text_is_a_pattern_unless_re_says_so_and_then_they_mean_the_same(text: str) -> None:
    try:
        automaton = compile_pattern(text, Vocabulary.from_text("ab01(-^\\\n {},<>"), None, 0)
    except UsageError as error:
        if "matches" in str(error) or "not supported" in str(error):
            return
        if "group name" in str(error) or "too large" in str(error) or "repetitions" in str(error):
            return
        with pytest.raises((re.error, OverflowError)):
            re.compile(text)
        return
    compiled = re.compile(text)
    vocabulary = Vocabulary.from_text("ab01(-^\\\n {},<>")
    for word in words("ab01(-^\\\n {},<>", 0, 2):
        assert accepts(automaton.start(10_000), vocabulary, word) == bool(compiled.fullmatch(word)), word


def accepts(state: PatternState, vocabulary: Vocabulary, text: str) -> bool:
    return all(state.advance(int(token)) for token in vocabulary.encode(text)) and may_end(state, vocabulary)


PLACES = "\0\n 09AZ_az\x7f\x80ª²³µßéÿĀſƀٱ०\u07ff\u0800‿漢\ud7ff\ue000\uffff\U00010000𝟘😀\U0010ffff\x1c\x85\u2028"


@pytest.mark.parametrize(
    "text",
    [".", r"\w", r"\W", r"\d", r"\D", r"\s", r"\S", r"[^a]", "[é-漢]", r"[\U00010000-\U0010ffff]", "[߿-ࠀ]", "😀"],
)
def test_sets_of_characters_in_utf8(text: str) -> None:
    """In a model of bytes, one character is accepted where ``re`` accepts it."""
    automaton = compile_pattern(text, BYTES, None, 0)
    rng = random.Random(1)
    places = [ord(p) + step for p in PLACES for step in (-1, 0, 1)] + [rng.randrange(0x110000) for _ in range(2000)]
    for place in places:
        if 0 <= place < 0x110000 and not 0xD800 <= place < 0xE000:
            expected = bool(re.fullmatch(text, chr(place)))
            assert accepts(automaton.start(4), BYTES, chr(place)) == expected, hex(place)
    for broken in (b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff"):
        state = automaton.start(9)
        assert not (all(map(state.advance, broken)) and state.open)


def test_classes_are_those_of_the_specification() -> None:
    """By general category, as a port without ``re`` finds them (``runtime/js/pattern.js``)."""
    white = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
    white += "".join(map(chr, range(0x2000, 0x200B)))
    wanted: dict[str, Callable[[str], bool]] = {
        "d": lambda c: unicodedata.category(c) == "Nd",
        "w": lambda c: unicodedata.category(c)[0] in "LN" or c == "_",
        "s": lambda c: c in white,
    }
    for letter, belongs in wanted.items():
        members = {place for first, last in category(letter) for place in range(first, last + 1)}
        assert members == {place for place in range(0x110000) if belongs(chr(place))}


@settings(steady, max_examples=60)
@given(patterns, st.text("abcé漢😀", max_size=4))
def test_patterns_of_bytes(text: str, word: str) -> None:
    text = text.replace("b", "é").replace("x", "[漢-😀]")
    try:
        state = compile_pattern(text, BYTES, None, 0).start(10_000)
    except UsageError:
        assert not word or not re.fullmatch(text, word)
        return
    assert accepts(state, BYTES, word) == bool(re.fullmatch(text, word))


def reference(sampler: Sampler, text: str, length: int, seed: int, options: dict[str, Any]) -> str:
    """The rules of the specification, with a list of all texts that match."""
    vocabulary, end = sampler.vocabulary, sampler.vocabulary.special.get("end")
    plain = [(i, chr(s)) for i, s in enumerate(vocabulary.symbols) if s >= 0]
    matching = {w for w in words("".join(c for _, c in plain), 0, length) if re.fullmatch(text, w)}
    drawn, uniforms, token = "", UniformStream(seed), sampler.info.start_token
    state = sampler.initial_state()
    while len(drawn) < length:
        continuing = {i for i, c in plain if any(w.startswith(drawn + c) for w in matching)}
        if end is None and drawn in matching and not continuing:
            break
        logits, state = sampler.step([token], state)
        adjusted = logits[0].astype(np.float64)
        for i in range(len(vocabulary)):
            keeps = i in continuing or (drawn in matching and end in (None, i))
            adjusted[i] = adjusted[i] if keeps else -np.inf
        token = sample_token(adjusted, SamplingOptions(**options), uniforms.next())
        if token not in continuing:
            break
        drawn += chr(vocabulary.symbols[token])
    return drawn


TEXTS = ["a*b", "(ab|ba)*", "[^a]{2,4}", "a|b.*c", "(a|b)+c?", "(?:..)*"]


@pytest.mark.parametrize("vocabulary", [ABC, ABC_END], ids=["endless", "end"])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.7}, {"top_k": 2}, {"temperature": 0}], ids=str)
def test_texts_are_drawn_as_specified(
    tiny_of: Callable[[Vocabulary], TinyModel], vocabulary: Vocabulary, options: dict[str, Any]
) -> None:
    sampler = Sampler(tiny_of(vocabulary).data())
    for number, text in enumerate(TEXTS):
        for seed in range(6):
            length = 4 + number % 2
            drawn = sampler.sample(length=length, seed=seed, pattern=text, **options)
            assert drawn == reference(sampler, text, length, seed, options), text
            assert re.fullmatch(text, drawn)


def test_one_text_everywhere(tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    """Alone, in a batch, as a stream, in an engine, in a conversation; with and without other options."""
    some: list[SamplingKwargs] = [
        {"pattern": r"[a-e]{2,}, ?\w+\."},
        {"pattern": r"[^.]+\.", "temperature": 0.7, "top_p": 0.9},
        {"pattern": r"\w+", "repetition_penalty": 1.3, "min_length": 3},
        {"pattern": r"(.\n?)*", "allowed": "abc\n,"},
        {"pattern": r"é?[^é]{3}漢?", "logit_bias": {"a": -np.inf, "b": 1.0}},
    ]
    letters = sorted(map(ord, "\n abcdefghij,.é漢"))
    for special in ({}, {"end": 5}):
        symbols = tuple(letters[:5] + [-1] * len(special) + letters[5:])
        sampler = Sampler(tiny_of(Vocabulary(symbols=symbols, special=special)).data())
        requests = [
            Request(prompt="bad"[: i % 4], length=8 + i % 9, seed=i, index=i % 3, options=some[i % len(some)])
            for i in range(30)
        ]
        alone = [sampler.generate(r.prompt, length=r.length, seed=r.seed, index=r.index, **r.options) for r in requests]
        assert {done.finish_reason for done in alone} == ({"end", "length"} if special else {"pattern", "length"})
        many = dict(sampler.generate_many(requests, batch=12))
        with Engine(sampler, batch=7) as engine:
            jobs = [engine.submit(request) for request in requests]
            for number, (request, done, job) in enumerate(zip(requests, alone, jobs, strict=True)):
                text = str(request.options["pattern"])
                assert re.fullmatch(text, done.text), (text, done.text)
                assert many[number].text == done.text
                assert many[number].tokens == done.tokens
                assert many[number].finish_reason == done.finish_reason
                assert "".join(sampler.stream_request(request)) == done.text
                wait_ended(job, 10)
                assert (job.take()[0], job.finish_reason) == (done.text, done.finish_reason)
                talk = sampler.start(request.prompt, seed=request.seed or 0, index=request.index, **request.options)
                assert (talk.sample(request.length), talk.finish_reason) == (done.text, done.finish_reason)


@pytest.mark.parametrize("special", [{}, {"end": 5}], ids=["endless", "end"])
def test_many_texts_of_many_patterns(tiny_of: Callable[[Vocabulary], TinyModel], special: dict[str, int]) -> None:
    """All match as a whole, and a text of a batch is the one that is drawn alone."""
    letters = sorted(map(ord, "\n abcdefghij,.é漢"))
    symbols = tuple(letters[:5] + [-1] * len(special) + letters[5:])
    sampler = Sampler(tiny_of(Vocabulary(symbols=symbols, special=special)).data())
    some = [
        *TEXTS, r"\w+", r"[a-e]{3}-?[f-j]{4}", r"[^\n]{5,9}", r".+ .+\.", r"(\w+, ){1,2}\w+\.", r"(a|ab|abc)*d?", ".*j",
        r"\W*\w+\W*", r"[\s\S]{3,8}", r"(?:b?a){2,}|é+", "[^bcd]*[bcd]", "a?b?c?d?e?f?g?h?", "(dad|bad) (face|.*)",
    ]  # fmt: skip
    for number, text in enumerate(some):
        drawn = sampler.sample_batch([""] * 40, length=12, seed=number, pattern=text)
        assert all(re.fullmatch(text, one) for one in drawn), text
        alone = [sampler.sample(length=12, seed=number, index=i, pattern=text) for i in range(0, 40, 7)]
        assert drawn[::7] == alone


def test_a_conversation_goes_on_after_a_match(sampler: Sampler) -> None:
    """The character that ended a match is not part of the text, so it is not fed."""
    talk = sampler.start("a", seed=3, pattern="[abc ]+")
    pieces = []
    for _ in range(6):
        pieces.append(talk.sample(30))
        assert re.fullmatch("[abc ]+", pieces[-1])
        talk.restore(talk.snapshot())
        talk.feed(".")
    assert any(len(piece) < 30 for piece in pieces)
    fed = sampler.start("a" + "".join(piece + "." for piece in pieces))
    np.testing.assert_array_equal(fed.snapshot().state[0], talk.snapshot().state[0])


def test_bytes(tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    sampler = Sampler(tiny_of(BYTES).data())
    for seed in range(5):
        for text in (r"\w{3}é", "[漢字]{2,5}", ".+"):
            done = sampler.generate(length=20, seed=seed, pattern=text)
            assert re.fullmatch(text, done.text), done.text
            assert "\ufffd" not in done.text or text == ".+"
            done.text.encode()


def test_states_that_are_made_anew(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """An automaton that forgets its states again and again draws the same texts."""
    text = r"[a-j]*[aeiou][a-j]{6} [a-j]*"
    before = sampler.sample_batch([""] * 20, length=60, seed=1, pattern=text)
    pattern._compile.cache_clear()
    monkeypatch.setattr(pattern, "_NODE_BYTES", 10_000)
    assert sampler.sample_batch([""] * 20, length=60, seed=1, pattern=text) == before
    pattern._compile.cache_clear()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("(?=a)b", "look-ahead is not supported, at position 0"),
        ("a(?!b)", "look-ahead"),
        ("(?<=a)b", "look-behind"),
        ("(?<!a)b", "look-behind"),
        (r"(a)\1", r"back-reference is not supported, at position 3"),
        ("(?P<x>a)(?P=x)", "back-reference"),
        ("(?P<x>a)(?P<x>a)", "group name"),
        ("(a)(?(1)b|c)", "conditional"),
        ("(?>a)", "atomic"),
        ("a++", "possessive"),
        (r"\ba", "word boundary"),
        ("a$b", r"an anchor \(\$\) inside"),
        ("(?i)a", "flag"),
        ("a(", "without"),
        ("a)", "without"),
        ("[a", "without"),
        ("*a", "nothing to repeat"),
        ("a**", "quantifier after a quantifier"),
        ("a{3,2}", "fewer"),
        ("[b-a]", "range"),
        (r"\q", "unknown escape"),
        (r"\x1", "incomplete"),
        (r"\U00110000", "no such character"),
        ("a{1000000}", "repetitions"),
        ("((a{100}){100}){100}", "too large: 1,0"),
        ("(a?){1000}", "too complex"),
        ("(" * 60 + "a" + ")" * 60, "nested"),
        ("a" * 10_001, "too many"),
        ("", "only the empty text"),
        ("()*", "only the empty text"),
        ("[^\\s\\S]", "no text matches"),
        ("xyz", "has never seen 'x', 'y', 'z'"),
        ("abcd" * 10, "shorter than the shortest text that matches the pattern: 40 tokens"),
        (3, "must be a string"),
        (b"a", "must be a string"),
        (re.compile("a"), "must be a string"),
    ],
)
def test_patterns_that_are_refused(sampler: Sampler, text: Any, problem: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(UsageError, match=problem) as refused:
        sampler.sample(length=30, pattern=text)
    assert time.perf_counter() - begin < 3
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("fill", "matching", "other"),
    [
        ("The ? of the ?", ["The King of the Hill", "The a of the b of the c"], ["The  of the", "The a of the ", "a"]),
        (r"?\? (?) \\.", ["So? (a+b) \\.", "ab? (?) \\."], ["So (a) \\.", "? (a) \\.", "a? (b) ."]),
        ("[a]*?\n", ["[a]*b\n"], ["ab\n", "[a]*\n\n", "[a]*b"]),
    ],
)
def test_gaps(fill: str, matching: list[str], other: list[str]) -> None:
    expression = SamplingOptions(fill=fill).expression
    assert expression is not None
    for text in matching + other:
        assert bool(re.fullmatch(expression, text)) == (text in matching)
        state = compile_pattern(expression, BYTES, None, 0).start(99)
        assert accepts(state, BYTES, text) == (text in matching)


def test_gaps_are_filled(sampler: Sampler) -> None:
    filled = sampler.sample(length=30, seed=2, fill="bad ?, ?.")
    assert re.fullmatch(r"bad .+, .+\.", filled)
    assert filled == sampler.sample(length=30, seed=2, pattern=r"bad .+, .+\.")
    assert sampler.sample(length=30, seed=2, fill="bad ?, ?.", particles=9) != ""
    for wrong, problem in (({"fill": "bad"}, "has no gap"), ({"fill": r"bad\?"}, "no gap"), ({"fill": 3}, "a string")):
        with pytest.raises(UsageError, match=problem):
            sampler.sample(length=30, **wrong)
    with pytest.raises(UsageError, match="not both"):
        sampler.sample(length=30, fill="?", pattern="a")
    with pytest.raises(UsageError, match=r"shorter than the shortest.*8 tokens"):
        sampler.sample(length=7, fill="bad ?, ?")


def test_min_length_beyond_length(sampler: Sampler) -> None:
    with pytest.raises(UsageError, match=r"shorter than the shortest.*min_length=9"):
        sampler.sample(length=8, pattern="a*", min_length=9)
    with pytest.raises(UsageError, match="too large for min_length"):
        sampler.sample(length=10**7, pattern="(ab)*", min_length=9_999_999)
    with pytest.raises(UsageError, match="no text matches"):
        sampler.sample(length=8, pattern="a{2}", min_length=3)


def test_no_pattern_takes_exponential_time(sampler: Sampler) -> None:
    """A complete deterministic automaton of the first one has a million states."""
    for text in (r"[a-j]*a[a-j]{20}", r"(([a-j]+)+ ?)+\.", r"\w{1,2000}", r"((a|b)*c){40}.*"):
        begin = time.perf_counter()
        drawn = sampler.sample(length=300, seed=1, pattern=text)
        assert re.fullmatch(text, drawn)
        assert time.perf_counter() - begin < 5


def test_vectors() -> None:
    """The vectors of the specification, and that they are what ``re`` and brute force say."""
    (block,) = re.findall(r"```json\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    for case in json.loads(block)["patterns"]:
        special = {"end": len(case["tokens"])} if case["end"] else {}
        symbols = tuple(map(ord, case["tokens"])) + (-1,) * len(special)
        vocabulary = Vocabulary(symbols=symbols, special=special)
        least, length, drawn = case["min_length"], case["length"], case["drawn"]
        matching = [w for w in words(case["tokens"], least, length) if re.fullmatch(case["pattern"], w)]
        continuing = [c for c in case["tokens"] if any(w.startswith(drawn + c) for w in matching)]
        assert (case["continuing"], case["matches"]) == ("".join(continuing), drawn in matching)
        state = compile_pattern(case["pattern"], vocabulary, None, least).start(length)
        assert all(state.advance(int(token)) for token in vocabulary.encode(drawn))
        assert may_end(state, vocabulary) == case["matches"]
        for token, character in enumerate(case["tokens"]):
            assert state.copy().advance(token) == (character in continuing)
