"""Blocks of tokens from one call: the texts are those of single steps."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from charrnn_runtime import Engine, ModelFileError, ModelOutputError, Request, Sampler, generator_file, read_model_file
from charrnn_runtime.block_graph import block_graph
from charrnn_runtime.blocks import MAX_STEPS, BlockSteps
from charrnn_runtime.generator import OnnxBlockDrawer
from charrnn_runtime.generator_graph import generator_graph
from charrnn_runtime.model_file import ModelFile
from charrnn_runtime.options import SamplingKwargs
from charrnn_runtime.sampling import UniformStream
from onnxruntime import InferenceSession

from tests.runtime.conftest import TinyModel, stepping, wait_ended

FIXTURES = Path(__file__).parent.parent / "fixtures" / "0.1"
MODELS = ["lstm-text", "lstm-text-int8", "lstm-streams", "gru-items", "rnn-bytes", "rnn-bytes-int8"]
OPTIONS: list[SamplingKwargs] = [
    {},
    {"temperature": 0.1},
    {"temperature": 2},
    {"temperature": 0},
    {"top_k": 3},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 1.3, "top_k": 9, "top_p": 0.95, "min_p": 0.02},
]


@pytest.fixture(scope="module", params=MODELS)
def file(request: pytest.FixtureRequest) -> ModelFile:
    return read_model_file(FIXTURES / f"{request.param}.onnx")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_texts_are_those_of_the_steps(file: ModelFile, options: SamplingKwargs) -> None:
    steps = stepping(file)
    for seed, threads in ((1, 1), (2**64 - 1, 2)):
        expected = steps.generate(length=200, seed=seed, index=3, **options)
        blocks = Sampler(file, threads=threads)
        assert isinstance(blocks.cell.blocks, OnnxBlockDrawer)
        blocks.cell.blocks.mean_length = 1000  # blocks for items too
        assert blocks.generate(length=200, seed=seed, index=3, **options) == expected
        assert "".join(blocks.stream(length=200, seed=seed, index=3, **options)) == expected.text


def test_batches_with_prompts_of_different_lengths(file: ModelFile) -> None:
    rng = np.random.default_rng(0)
    known = [i for i in range(len(file.info.vocabulary)) if i not in file.info.vocabulary.special.values()]
    prompts = [rng.choice(known, size).tolist() for size in (0, 1, 2, 70, 3, 200, 0, 0, 5, 9)]
    steps, blocks = stepping(file), Sampler(file)
    assert blocks.cell.blocks
    blocks.cell.blocks.mean_length = 1000
    expected = [steps.sample(prompt, length=90, seed=5, index=i) for i, prompt in enumerate(prompts)]
    for batch in (1, 4, 64):
        assert blocks.sample_batch(prompts, length=90, seed=5, batch=batch) == expected
    mixed = [
        Request(prompt=p, length=20 + 7 * i, seed=5, index=i, options=OPTIONS[i % len(OPTIONS)])
        for i, p in enumerate(prompts)
    ]
    texts = dict(blocks.generate_many(mixed, batch=5))
    for number, request in enumerate(mixed):
        assert texts[number] == dict(steps.generate_many([request]))[0]


def test_an_end_or_a_stop_string_in_the_middle_of_a_block(file: ModelFile) -> None:
    steps, blocks = stepping(file), Sampler(file)
    assert blocks.cell.blocks
    whole = steps.generate(length=300, seed=9)
    for at in (1, 2, 17, 63, 64, 65, 200):
        blocks.cell.blocks.mean_length = 1000
        stop = whole.text[at : at + 2]
        if len(stop) == 2:
            assert blocks.generate(length=300, seed=9, stop=stop) == steps.generate(length=300, seed=9, stop=stop)
    blocks.cell.blocks.mean_length = 1000
    talk, slow = blocks.start(seed=9), steps.start(seed=9)
    for part in range(6):
        stop = whole.text[20 * part + 3 : 20 * part + 4]
        assert talk.sample(25, stop=stop or ()) == slow.sample(25, stop=stop or ())
        assert talk.finish_reason == slow.finish_reason
        if part == 2:
            talk.feed([talk._info.start_token])
            slow.feed([slow._info.start_token])
        saved = talk.snapshot()
        assert (saved.pending, saved.position, saved.history) == (
            slow.snapshot().pending,
            slow.snapshot().position,
            slow.snapshot().history,
        )
        for got, want in zip(saved.state, slow.snapshot().state, strict=True):
            np.testing.assert_array_equal(got, want)


def test_many_threads_and_the_engine(file: ModelFile) -> None:
    steps, blocks = stepping(file), Sampler(file)
    expected = [steps.sample(length=100, seed=i) for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda i: blocks.sample(length=100, seed=i), range(16))) == expected
    with Engine(blocks, batch=8) as engine:
        jobs = [engine.submit(Request(length=100, seed=i)) for i in range(16)]
        texts = [""] * 16
        while not all(job.ended for job in jobs):
            texts = [text + job.take()[0] for text, job in zip(texts, jobs, strict=True)]
        assert [text + job.take()[0] for text, job in zip(texts, jobs, strict=True)] == expected


def test_first_pieces_are_short_and_blocks_grow(tiny: TinyModel) -> None:
    sampler = Sampler(tiny.data())
    sizes = [len(piece) for piece in sampler.stream(length=500, seed=1)]
    assert sizes[0] <= 8
    assert max(sizes) <= MAX_STEPS
    assert sizes[:4] == sorted(sizes[:4])


def test_short_items_are_drawn_in_steps(tiny: TinyModel) -> None:
    drawer = OnnxBlockDrawer(tiny.data(), tiny.info(), 1)
    assert BlockSteps(drawer, can_end=False).pay
    drawer.mean_length = 10
    assert not BlockSteps(drawer, can_end=True).pay
    assert BlockSteps(drawer, can_end=False).pay


def broken(tiny: TinyModel, value: float) -> TinyModel:
    """The same model with one wrong weight."""
    other = copy.deepcopy(tiny)
    other.weights["b"][2] = value
    return other


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"temperature": 0}], ids=str)
def test_logits_that_are_not_finite(tiny: TinyModel, value: float, options: SamplingKwargs) -> None:
    sampler = Sampler(broken(tiny, value).data())
    with pytest.raises(ModelOutputError, match="NaN"):
        sampler.sample(length=20, seed=1, **options)
    with pytest.raises(ModelOutputError, match="NaN"):
        sampler.sample_batch(["", "a"], length=20, seed=1, **options)
    with pytest.raises(ModelOutputError, match="NaN"):
        sampler.start(seed=1, **options).sample(20)
    with Engine(sampler) as engine:
        job = engine.submit(Request(length=20, seed=1, options=options))
        wait_ended(job)
    assert isinstance(job.error, ModelOutputError)


# The generator: the same draws for programs without this runtime.


class Host:
    """What a program in another language does with a generator."""

    def __init__(self, file: ModelFile, **options: Any) -> None:
        self.info = file.info
        graph = generator_graph(file.data, file.info, **options)
        self.session = InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.end = file.info.vocabulary.special.get("end", -1)

    def __call__(self, prompts: Sequence[Sequence[int]], length: int, **changed: Any) -> dict[str, Any]:
        batch, longest = len(prompts), max(map(len, prompts))
        prompt = np.full((longest, batch), -77, np.int64)
        for column, tokens in enumerate(prompts):
            prompt[: len(tokens), column] = tokens
        feeds = {
            "prompt": prompt,
            "prompt_lengths": np.array([len(p) for p in prompts], np.int64),
            "index": np.arange(batch),
            "position": np.zeros(batch, np.int64),
            "seed": np.array(7),
            "length": np.array(length),
            "end": np.array(self.end),
            "temperature": np.ones(batch),
            "top_k": np.zeros(batch, np.int64),
            "top_p": np.ones(batch),
            "min_p": np.zeros(batch),
        }
        feeds |= {s.input: np.zeros((batch, s.size), np.float32) for s in self.info.states} | changed
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, feeds), strict=True))

    def texts(self, result: dict[str, Any]) -> list[list[int]]:
        return [result["tokens"][:count, column].tolist() for column, count in enumerate(result["counts"])]


def fed(file: ModelFile, prompt: Sequence[int] = ()) -> list[int]:
    """A prompt as a host feeds it."""
    begin = file.info.vocabulary.special.get("begin")
    return [*([file.info.start_token] if begin is not None or not prompt else []), *prompt]


def tokens(sampler: Sampler, prompt: Sequence[int], length: int, index: int, **options: Any) -> list[int]:
    return list(sampler.generate(prompt, length=length, index=index, **options).tokens)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_generator_draws_what_the_sampler_draws(file: ModelFile, options: SamplingKwargs) -> None:
    host, sampler = Host(file), stepping(file)
    ids = [i for i in range(len(file.info.vocabulary)) if i not in file.info.vocabulary.special.values()]
    prompts = [[], ids[:1], ids[:5], ids[2:4], []]
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | options
    arrays = {name: np.full(5, value, np.int64 if name == "top_k" else np.float64) for name, value in values.items()}
    for length, seed in ((45, 2**64 - 1), (1, 7)):
        result = host([fed(file, p) for p in prompts], length, seed=np.array(seed, np.uint64).view(np.int64), **arrays)
        assert host.texts(result) == [
            tokens(sampler, prompt, length, index, seed=seed, **options) for index, prompt in enumerate(prompts)
        ]
        assert len(result["tokens"]) <= length


def test_a_generator_goes_on_from_its_states(file: ModelFile) -> None:
    host, sampler = Host(file, log_probs=True), stepping(file)
    host.end = -1
    first = host([fed(file)], 45)
    states = {s.input: first[s.output] for s in file.info.states}
    second = host([first["tokens"][-1:, 0].tolist()], 21, position=first["counts"], **states)
    both = [*first["tokens"][:, 0], *second["tokens"][:, 0]]
    if "end" in file.info.vocabulary.special:  # the runtime never goes on behind an end
        assert host([fed(file)], 66)["tokens"][:, 0].tolist() == both
        return
    expected = sampler.generate(length=66, seed=7, log_probs=True)
    assert both == list(expected.tokens)
    scores = np.concatenate([first["log_probs"][:, 0], second["log_probs"][:, 0]])
    assert expected.log_probs is not None
    np.testing.assert_allclose(scores, expected.log_probs, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", np.nan),
        ("temperature", -1.0),
        ("temperature", np.inf),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", np.nan),
        ("min_p", -0.1),
        ("min_p", np.nan),
        ("top_k", -1),
        ("prompt_lengths", 0),
        ("prompt_lengths", -3),
        ("prompt_lengths", 4),
        ("prompt", -1),
        ("prompt", 10**9),
    ],
)
def test_a_row_with_a_wrong_value_draws_nothing(tiny: TinyModel, name: str, value: float) -> None:
    file = read_model_file(tiny.data())
    host = Host(file)
    good = host([[1, 2, 3], [3, 2, 1], [2, 2, 2]], 40)
    changed = np.array(
        {
            "top_k": [0] * 3,
            "min_p": [0.0] * 3,
            "prompt_lengths": [3] * 3,
            "prompt": [[1, 3, 2], [2, 2, 2], [3, 1, 2]],
        }.get(name, [1.0] * 3)
    )
    changed[..., 1] = value
    result = host([[1, 2, 3], [3, 2, 1], [2, 2, 2]], 40, **{name: changed})
    assert result["counts"].tolist() == [40, 0, 40]
    assert (result["tokens"][:, 1] == -1).all()
    for row in (0, 2):
        np.testing.assert_array_equal(result["tokens"][:, row], good["tokens"][:, row])


def test_lengths_and_broken_weights_of_a_generator(tiny: TinyModel) -> None:
    for length in (0, -5):
        assert Host(read_model_file(tiny.data()))([[1]], length)["counts"].tolist() == [0]
    assert Host(read_model_file(broken(tiny, np.nan).data()))([[1]], 40)["counts"].tolist() == [0]


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (7, 3), (2**64 - 1, 2**64 - 1), (2**63, 2**32 - 1)])
@pytest.mark.parametrize("position", [0, 1, 2, 3, 1022, 2**40 + 1])
def test_the_random_numbers_of_a_generator(seed: int, index: int, position: int) -> None:
    """Read from the tokens of a model with 256 equally likely ones: the upper 8 bits of each number."""
    from charrnn_runtime import Vocabulary

    flat = TinyModel(Vocabulary(symbols=tuple(range(256)), kind="bytes"))
    for name, weight in flat.weights.items():
        flat.weights[name] = np.zeros_like(weight)
    stream = UniformStream(seed, index, position)
    expected = [int(256 * stream.next()) for _ in range(70)]
    numbers = {"index": np.array([index], np.uint64).view(np.int64), "position": np.array([position])}
    result = Host(read_model_file(flat.data()))([[0]], 70, seed=np.array(seed, np.uint64).view(np.int64), **numbers)
    assert result["tokens"][:, 0].tolist() == expected


@pytest.mark.parametrize(
    "make", [partial(block_graph, filters=False), partial(block_graph, filters=True), generator_graph]
)
def test_the_graphs_are_standard_onnx(file: ModelFile, make: Callable[..., bytes]) -> None:
    model = onnx.load_from_string(make(file.data, file.info))
    onnx.checker.check_model(model)
    assert {opset.domain for opset in model.opset_import} <= {"", "ai.onnx"}
    large = sorted(tensor.name for tensor in tensors(model.graph) if np.prod(tensor.dims, dtype=int) > 1000)
    original = onnx.load_from_string(file.data).graph.initializer
    assert large == sorted(tensor.name for tensor in original if np.prod(tensor.dims, dtype=int) > 1000), "once each"


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The initializers of a graph and of the bodies in it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from tensors(attribute.g)


def test_a_generator_file_is_as_specified(file: ModelFile) -> None:
    """Names, types and shapes are those of the tables in runtime/README.md."""
    data = generator_file(file, log_probs=True)
    assert data == generator_file(file, log_probs=True)
    model = onnx.load_from_string(data)
    readme = (Path(__file__).parents[2] / "runtime" / "README.md").read_text("utf-8")
    section = readme.split("# Generator 1\n")[1].split("\n# ")[0]
    names = {onnx.TensorProto.INT64: "int64", onnx.TensorProto.DOUBLE: "float64", onnx.TensorProto.FLOAT: "float32"}
    for title, values, states in (
        ("Inputs", model.graph.input, [state.input for state in file.info.states]),
        ("Outputs", model.graph.output, [state.output for state in file.info.states]),
    ):
        part = section.split(f"## {title}\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| `\[(.*?)\]` \|", part, re.MULTILINE)
        shapes = [", ".join(dim.dim_param for dim in value.type.tensor_type.shape.dim) for value in values]
        found = [(v.name, names[v.type.tensor_type.elem_type], s) for v, s in zip(values, shapes, strict=True)]
        assert found[: len(rows)] == rows
        assert [name for name, *_ in found[len(rows) :]] == states
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata.pop("charrnn.generator") == "1"
    assert metadata.pop("charrnn.model_sha256") == file.info.sha256
    assert metadata.pop("charrnn.sha256") not in ("", file.info.sha256)
    expected = {entry.key: entry.value for entry in onnx.load_from_string(file.data).metadata_props}
    del expected["charrnn.format"], expected["charrnn.sha256"]
    assert metadata == expected
    with pytest.raises(ModelFileError, match="is a generator"):
        read_model_file(data)


def test_the_states_of_a_generator_have_not_seen_the_last_token(file: ModelFile) -> None:
    host, sampler = Host(file), Sampler(file)
    host.end = -1
    result = host([fed(file)], 3)
    state = sampler.initial_state(batch=1)
    for token in (*fed(file), *result["tokens"][:-1, 0]):
        _, state = sampler.step([int(token)], state)
    for spec, value in zip(file.info.states, state, strict=True):
        np.testing.assert_array_equal(result[spec.output], value)
