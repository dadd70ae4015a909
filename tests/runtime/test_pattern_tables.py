"""Tables of a pattern's states, and the blocks that are drawn with them: the texts are those of single steps."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from charrnn_runtime import Engine, ModelOutputError, Request, Sampler, UsageError, Vocabulary, read_model_file
from charrnn_runtime import conversation as conversation_module
from charrnn_runtime import generation as generation_module
from charrnn_runtime import pattern as pattern_module
from charrnn_runtime.block_graph import block_graph, block_inputs, block_outputs
from charrnn_runtime.blocks import MAX_STEPS, matching_steps
from charrnn_runtime.generator import OnnxBlockDrawer
from charrnn_runtime.model_file import ModelFile
from charrnn_runtime.options import SamplingKwargs
from charrnn_runtime.pattern import Automaton, PatternState, compile_pattern
from charrnn_runtime.pattern_tables import FREE, UNKNOWN, PatternTables

from tests.runtime.conftest import TinyModel, stepping, wait_ended

FIXTURES = Path(__file__).parent.parent / "fixtures" / "0.1"
MODELS = ["lstm-text", "lstm-streams", "gru-items", "rnn-bytes-int8"]
PATTERNS = [
    r"(.|\n)*",
    r"([A-Za-zé]{1,9}( |\n)?){3,}",
    r"[A-Za-z ]{5,60}",
    r".{2}(a|e).{37}",
    r"(.*a.{3}|.{20}[^a]*)",
    r"((K|L|T)?[aeio][nrst]?){4,9}",
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 0},
    {"top_k": 3},
    {"top_p": 0.8, "min_p": 0.01},
    {"temperature": 1.3, "top_k": 9, "top_p": 0.95, "min_p": 0.02},
]
LENGTHS = [40, 41, 90]

Calls = list[int]


@pytest.fixture(scope="module", params=MODELS)
def file(request: pytest.FixtureRequest) -> ModelFile:
    return read_model_file(FIXTURES / f"{request.param}.onnx")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The steps of all blocks with patterns."""
    steps: Calls = []
    draw = OnnxBlockDrawer.draw_matching

    def counted(self: OnnxBlockDrawer, places: Any, *arguments: Any) -> Any:
        steps.append(len(places.left))
        return draw(self, places, *arguments)

    monkeypatch.setattr(OnnxBlockDrawer, "draw_matching", counted)
    return steps


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> Iterator[Callable[[], None]]:
    """Blocks of 17 steps wherever there can be one; a function that forgets all states of all patterns."""

    def forget() -> None:
        pattern_module._compile.cache_clear()

    def steps(pattern: PatternState, drawn: int, rows: int) -> int:
        return 17

    monkeypatch.setattr(generation_module, "matching_steps", steps)
    monkeypatch.setattr(conversation_module, "matching_steps", steps)
    forget()
    yield forget
    forget()
    assert calls


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_are_those_of_the_steps(file: ModelFile, eager: Callable[[], None], pattern: str) -> None:
    steps, blocks = stepping(file), Sampler(file)
    for number, options in enumerate(OPTIONS[PATTERNS.index(pattern) % 2 :: 2]):
        length = LENGTHS[number % 3]
        expected = [steps.generate(length=length, seed=s, pattern=pattern, **options) for s in range(2)]
        eager()  # the first text finds no state, the later ones some
        assert [blocks.generate(length=length, seed=s, pattern=pattern, **options) for s in range(2)] == expected
        assert "".join(blocks.stream(length=length, seed=0, pattern=pattern, **options)) == expected[0].text


def test_prompts_labels_stop_strings_and_least_lengths(file: ModelFile, eager: Callable[[], None]) -> None:
    steps, blocks = stepping(file), Sampler(file)
    reasons = set()
    same: dict[str, Any] = {"length": 50, "seed": 3, "pattern": r"([A-Za-zé]{1,5} ?){4,}", "unknown": "skip"}
    whole = steps.sample(**same)
    for prompt in ("", "T", "Te" * 300):
        for more in (
            {},
            {"stop": whole[2:4]},
            {"stop": ["ta", whole[3:4]]},
            {"min_length": 13},
            {"min_length": 13, "stop": whole[3:4]},
            {"length": 7},
        ):
            expected = steps.generate(prompt, **same | more)
            eager()
            assert blocks.generate(prompt, **same | more) == expected
            reasons.add(expected.finish_reason)
    assert "stop" in reasons
    assert reasons & {"pattern", "end"}


def test_labels(tiny_of: Callable[[Vocabulary], TinyModel], eager: Callable[[], None]) -> None:
    symbols = (*map(ord, " abcdef"), -1, -1, -1, -1)
    special = {"begin": 7, "end": 8, "label:x": 9, "label:y": 10}
    model = tiny_of(Vocabulary(symbols=symbols, special=special)).data()
    steps, blocks = stepping(model), Sampler(model)
    for label in ("x", "y"):
        expected = [
            steps.generate(length=60, seed=s, pattern="([a-f]{1,4} )*[a-c]{3,}", label=label) for s in range(20)
        ]
        eager()
        got = [blocks.generate(length=60, seed=s, pattern="([a-f]{1,4} )*[a-c]{3,}", label=label) for s in range(20)]
        assert got == expected
        assert {text.finish_reason for text in got} == {"end", "length"}


def test_batches(file: ModelFile, eager: Callable[[], None], calls: Calls) -> None:
    steps, blocks = stepping(file), Sampler(file)
    prompts = ["", "T", "Te", "", "", "a t" * 9, "", "", "", "t"]
    requests = [
        Request(
            prompt=prompt,
            length=30 + 7 * i,
            seed=5,
            index=i,
            unknown="skip",
            stop="ee" if i == 4 else (),
            options=cast(SamplingKwargs, OPTIONS[i % len(OPTIONS)] | ({"pattern": PATTERNS[i % 6]} if i % 4 else {})),
        )
        for i, prompt in enumerate(prompts)
    ]
    expected = [dict(steps.generate_many([request]))[0] for request in requests]
    for batch in (1, 3, 10):
        eager()
        for _ in range(2):
            texts = dict(blocks.generate_many(requests, batch=batch))
            assert [texts[i] for i in range(len(requests))] == expected
    alike = [steps.sample(length=80, seed=5, index=i, pattern=PATTERNS[1]) for i in range(12)]
    eager()
    calls.clear()
    assert blocks.sample_batch([""] * 12, length=80, seed=5, pattern=PATTERNS[1]) == alike
    assert calls


def test_the_engine_and_many_threads(file: ModelFile, eager: Callable[[], None]) -> None:
    steps, blocks = stepping(file), Sampler(file)
    arguments: list[dict[str, Any]] = [
        {"pattern": PATTERNS[i % len(PATTERNS)]} if i % 5 else {"temperature": 0.5} for i in range(20)
    ]
    expected = [steps.generate(length=70, seed=i, **arguments[i]) for i in range(20)]
    eager()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: blocks.generate(length=70, seed=i, **arguments[i]), range(20))) == expected
    eager()
    with Engine(blocks, batch=6) as engine:
        jobs = [engine.submit(Request(length=70, seed=i, options=arguments[i])) for i in range(20)]  # type: ignore[arg-type]
        for job in jobs:
            wait_ended(job)
        assert [job.take()[0] for job in jobs] == [text.text for text in expected]
        assert [job.finish_reason for job in jobs] == [text.finish_reason for text in expected]
        assert engine.tokens_generated == sum(len(text.tokens) for text in expected)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_conversations(file: ModelFile, eager: Callable[[], None], pattern: str) -> None:
    slow = stepping(file).start("Te", seed=9, pattern=pattern)
    stops = [(), (), (), "e", ()]
    turns = [(slow.sample(45, stop=stop), slow.finish_reason, slow.snapshot()) for stop in stops]
    eager()
    talk = Sampler(file).start("Te", seed=9, pattern=pattern)
    for stop, (text, reason, saved) in zip(stops, turns, strict=True):
        assert talk.sample(45, stop=stop) == text
        assert talk.finish_reason == reason
        here = talk.snapshot()
        for name in ("pending", "position", "history", "num_generated", "partial"):
            assert getattr(here, name) == getattr(saved, name)
        for got, want in zip(here.state, saved.state, strict=True):
            np.testing.assert_array_equal(got, want)


def test_blocks_are_used_where_they_pay(tiny: TinyModel, calls: Calls) -> None:
    pattern_module._compile.cache_clear()
    sampler, steps, pattern = Sampler(tiny.data()), stepping(tiny.data()), r"([a-j]{2,4}[ ,.]){250,}"
    for seed in range(3):  # the states are known from the first text on
        text = sampler.sample(length=1000, seed=seed, pattern=pattern)
        assert text == steps.sample(length=1000, seed=seed, pattern=pattern)
        if seed:
            assert sum(calls) > 0.8 * len(text)
            assert max(calls) > MAX_STEPS / 2
        calls.clear()


def test_single_steps_where_states_are_always_new(tiny: TinyModel, calls: Calls) -> None:
    pattern_module._compile.cache_clear()
    pattern = r"[a-j]*[a-e][a-j]{30}"
    sampler, steps = Sampler(tiny.data()), stepping(tiny.data())
    assert sampler.sample(length=500, seed=1, pattern=pattern) == steps.sample(length=500, seed=1, pattern=pattern)
    assert sum(calls) < 50
    state = sampler._token_sampler({"pattern": pattern}).start_pattern(500)
    assert state
    state.automaton.familiar = 4000
    assert matching_steps(state, 500, 1) == 62
    assert matching_steps(state, 500, 40) == 25
    assert matching_steps(state, 500, 80) == 0


def test_logits_that_cannot_be_drawn_from(tiny: TinyModel, eager: Callable[[], None]) -> None:
    """The errors are those of single steps."""
    for value, names, pattern, error, match in (
        (np.nan, "b", "[a-j]*", ModelOutputError, "NaN"),
        (np.nan, "b", "[ab]*", ModelOutputError, "NaN"),  # also where the mask hides it
        (np.inf, "b", "[ab]*", ModelOutputError, "infinite"),
        (-np.inf, "b", "[c]{9}", UsageError, "leave no character"),
    ):
        broken = copy.deepcopy(tiny)
        broken.weights[names][tiny.vocabulary.encode("c")[0]] = value
        for options in ({}, {"top_p": 0.9}, {"temperature": 0}):
            for sampler in (stepping(broken.data()), Sampler(broken.data())):
                with pytest.raises(error, match=match):
                    sampler.sample(length=20, seed=1, pattern=pattern, **options)
                with pytest.raises(error, match=match):
                    sampler.sample_batch(["", "a"], length=20, seed=1, pattern=pattern, **options)
                with pytest.raises(error, match=match):
                    sampler.start(seed=1, pattern=pattern, **options).sample(20)


def walk(automaton: Automaton, state: PatternState, rng: np.random.Generator) -> list[int]:
    """Tokens of a text, drawn at random."""
    tokens: list[int] = []
    while state.remaining:
        mask = state.mask()
        choices = np.arange(len(automaton.classes)) if mask is None else np.flatnonzero(mask == 0)
        tokens.append(int(rng.choice(choices)))
        if tokens[-1] == automaton.end or not state.advance(tokens[-1]) or state.complete:
            break
    return tokens


@pytest.mark.parametrize("special", [{}, {"end": 3}])
@pytest.mark.parametrize("pattern", ["(ab|c)+", "[^a]{2,30}?|a", "a|b.*", ".*a.{4}", "(a{1,3}b?){3,8}c"])
def test_the_tables_say_what_the_states_say(pattern: str, special: dict[str, int]) -> None:
    vocabulary = Vocabulary(symbols=(*map(ord, "abc"), *[-1] * len(special)), special=special)
    automaton = compile_pattern(pattern, vocabulary, None, 2)
    rng = np.random.default_rng(0)
    for _ in range(30):
        state = automaton.start(25)
        tokens = walk(automaton, state.copy(), rng)
        for token in tokens:
            arrays, row = state.arrays, state.row
            mask = np.where(arrays.needed[row] <= state.remaining, 0.0, -np.inf)
            expected = state.mask()
            np.testing.assert_array_equal(mask, np.zeros(len(mask)) if expected is None else expected)
            after = int(arrays.following[row, token])
            if token == automaton.end:
                assert after == FREE
            elif state.advance(token):
                assert after == state.row
            else:
                assert state.open
        followed = automaton.start(25)
        assert followed.follow(tokens) == len(tokens)
    for _ in range(100):
        automaton.note_text(10_000, 10_000)
    tables = automaton.tables
    assert UNKNOWN not in tables.arrays.following[tables.rows], "all states are known"


def test_a_length_without_bounds(tiny: TinyModel, eager: Callable[[], None]) -> None:
    for sampler in (stepping(tiny.data()), Sampler(tiny.data())):
        text = sampler.generate(length=2**40, seed=1, pattern="[a-j]{200,}")
        assert text.finish_reason == "pattern"
        assert len(text.text) >= 200
        assert set(text.text) <= set("abcdefghij")


def test_follow_ends_where_single_steps_end() -> None:
    vocabulary = Vocabulary.from_text("abc")
    automaton = compile_pattern("(ab|c){2,5}a?", vocabulary, None, 0)
    rng = np.random.default_rng(1)
    for length in (4, 7, 12):
        for _ in range(40):
            tokens = walk(automaton, automaton.start(length), rng)
            state = automaton.start(length)
            assert state.follow([*tokens, 0, 1, 2]) in (len(tokens), len(tokens) + 3 * (len(tokens) == length))
            assert state.remaining == length - len(tokens) + 1 or len(tokens) == length


def test_patterns_share_arrays_that_grow() -> None:
    vocab = 7919  # of no other test
    tables = [PatternTables(vocab), PatternTables(vocab)]
    leading = np.arange(vocab) % 3 > 0
    rows = [[table.add(10 * number, leading) for table in tables] for number in range(2, 40)]
    assert sorted(itertools.chain(*rows)) == list(range(2, 2 + 2 * 38))
    arrays = tables[0].arrays
    assert tables[1].arrays is arrays
    for side, table in enumerate(tables):
        assert table.rows == [pair[side] for pair in rows]
        for before, after in itertools.pairwise(table.rows):
            table.link(before, np.array([1, 4]), after)
    assert (arrays.needed[FREE] == 0).all()
    assert (arrays.following[FREE] == FREE).all()
    assert (arrays.following[UNKNOWN] == UNKNOWN).all()
    for number, pair in zip(range(2, 40), rows, strict=True):
        for side, row in enumerate(pair):
            assert (arrays.needed[row] == 10 * number).all()
            expected = leading.astype(int)
            if number < 39:
                expected[[1, 4]] = rows[number - 1][side]
            assert (arrays.following[row] == expected).all()


def test_rows_of_a_forgotten_pattern_are_used_again() -> None:
    vocab = 7907  # of no other test
    first, second = PatternTables(vocab), PatternTables(vocab)
    nothing = np.zeros(vocab, bool)
    taken = [[table.add(1, nothing) for table in (first, second)] for _ in range(5)]
    first.link(taken[0][0], np.arange(vocab), taken[1][0])
    del first
    again = [second.add(2, nothing) for _ in range(5)]
    assert sorted(again) == [pair[0] for pair in taken]
    assert (second.arrays.following[again] == FREE).all()
    assert second.add(3, nothing) == 12


def test_no_row_is_free_while_a_text_stands_there(tiny: TinyModel) -> None:
    """The states of a pattern are made anew when they take too much memory; a text may still be at an old one."""
    pattern_module._compile.cache_clear()
    state = pattern_state(tiny, Request(length=40, options={"pattern": "[a-j]{40}"}))
    automaton, rows = state.automaton, [*state.automaton.tables.rows]
    automaton.tables = PatternTables(len(automaton.classes))
    gc.collect()
    assert automaton.tables.add(0, np.zeros(len(automaton.classes), bool)) not in rows


def pattern_state(tiny: TinyModel, request: Request) -> PatternState:
    state = Sampler(tiny.data())._token_sampler(request.options).start_pattern(request.length)
    assert state
    return state


def test_texts_that_end_early_get_shorter_blocks() -> None:
    automaton = compile_pattern("[ab]*c?", Vocabulary.from_text("abc"), None, 0)
    state = automaton.start(1000)
    automaton.familiar = 10_000
    for _ in range(40):
        automaton.note_text(100, 100)  # as long as it could be
    assert matching_steps(state, 0, 1) == MAX_STEPS
    for _ in range(40):
        automaton.note_text(100, 1000)
    assert matching_steps(state, 0, 1) == 100 // 8


def test_states_are_made_anew_when_there_are_too_many(
    tiny: TinyModel, eager: Callable[[], None], monkeypatch: Any
) -> None:
    pattern = r"[a-j ]*[a-e][a-j ]{12}"
    expected = [stepping(tiny.data()).sample(length=200, seed=i, pattern=pattern) for i in range(4)]
    monkeypatch.setattr(pattern_module, "_NODE_BYTES", 20_000)
    eager()
    sampler = Sampler(tiny.data())
    assert [sampler.sample(length=200, seed=i, pattern=pattern) for i in range(4)] == expected
    state = sampler._token_sampler({"pattern": pattern}).start_pattern(200)
    assert state
    assert len(state.automaton.tables.rows) < 40


@pytest.mark.parametrize("filters", [False, True])
def test_the_graph_is_standard_onnx(file: ModelFile, filters: bool) -> None:
    model = onnx.load_from_string(block_graph(file.data, file.info, filters=filters, patterns=True))
    onnx.checker.check_model(model)
    inputs, outputs = {v.name for v in model.graph.input}, {v.name for v in model.graph.output}
    assert inputs == set(block_inputs(file.info, filters=filters, patterns=True))
    assert outputs == set(block_outputs(file.info, patterns=True))
