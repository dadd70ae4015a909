"""``Sampler``: text from a model, and how likely a model finds a text."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.batching import generate_batch
from charrnn_runtime.classifying import Prior, log_posteriors, log_prior
from charrnn_runtime.completing import Completions, complete, next_tokens
from charrnn_runtime.conversation import Conversation, Snapshot
from charrnn_runtime.devices import device_name, log, warn_about_conflicting_wheels
from charrnn_runtime.draw_graph import MIN_OPSET
from charrnn_runtime.errors import ModelFileError, UsageError
from charrnn_runtime.generation import (
    Generation,
    Prompt,
    Request,
    SequenceState,
    check_request,
    encode_prompt,
    start_sequence,
    with_start_token,
)
from charrnn_runtime.generator import OnnxBlockDrawer
from charrnn_runtime.hub import download
from charrnn_runtime.model_file import ModelFile, ModelInfo, read_model_file
from charrnn_runtime.options import SamplingKwargs, SamplingOptions, check_choice, check_count, check_several, new_seed
from charrnn_runtime.particles import generate_one
from charrnn_runtime.sampling import TokenSampler, UniformStream
from charrnn_runtime.scoring import ItemScore, Score, StreamScorer, bounded, score_many
from charrnn_runtime.sequence import SequenceGraph
from charrnn_runtime.session import (
    Cell,
    Logits,
    OnnxCell,
    SequenceRunner,
    State,
    StepSequenceRunner,
    Tokens,
    open_session,
)
from charrnn_runtime.threads import Threads, choose_threads, expected_work, step_threads
from charrnn_runtime.vocab import UNKNOWN, DecodeErrors, Ids, Unknown, UnknownScore, Vocabulary

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_ITEMS_TOGETHER = 256  # items that are scored side by side
_CHARACTERS_TOGETHER = 1 << 20  # characters of items whose ids and scores are in memory together
_MAX_TOKEN_SAMPLERS = 1000  # sets of options whose tables generate_many keeps


class Sampler:
    """Samples from one model file, scores texts with it, or runs it step by step.

    One sampler may be used from many threads, and in forked children. It can be
    pickled and copied: the copy opens a session of its own on the same bytes.

    Args:
        model: path or bytes of a model file, what ``read_model_file`` returned for one, or an
            ``onnxruntime.InferenceSession`` made from one (then ``device`` and ``threads`` are the session's own).
        device: "cpu", "cuda", "cuda:N", "coreml", "directml", "migraphx", "openvino", "rocm",
            "tensorrt", "webgpu", ONNX Runtime's own name for a provider, or "auto": CUDA if
            it is available and faster for this size and ``expected_batch`` (``devices.AUTO_CUDA_BYTES``).
        threads: threads inside an operator, no more than the process has processors. "auto": as many as pay
            for this size and ``expected_batch``, within the process's cores, quota and ``OMP_NUM_THREADS``.
        expected_batch: how many texts are to be sampled at once; only "auto" looks at it.

    Raises:
        ModelFileError: the file is not a model file, or is damaged.
        DeviceError: the device cannot be used, or ONNX Runtime is missing.
        UsageError: an argument has a wrong type or value.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | ModelFile | InferenceSession,
        *,
        device: str = "cpu",
        threads: Threads = "auto",
        expected_batch: int = 1,
    ) -> None:
        if isinstance(model, (str, os.PathLike, bytes, ModelFile)):
            file = model if isinstance(model, ModelFile) else read_model_file(model)
            self._open(file, device=device, threads=threads, expected_batch=expected_batch)
        elif hasattr(model, "get_modelmeta"):
            self._file: ModelFile | None = None
            self.info: ModelInfo = ModelInfo.from_metadata(model.get_modelmeta().custom_metadata_map)
            self.cell: Cell = _cell(model, self.info, "<session>")
        else:
            raise UsageError(f"a model is a path, bytes or an InferenceSession, not {type(model).__name__}")

    def _open(self, file: ModelFile, *, device: str, threads: Threads, expected_batch: int) -> None:
        check_count("expected_batch", expected_batch, least=1)
        in_blocks = choose_threads(threads, expected_work(len(file.data), expected_batch))
        opened = partial(open_session, file.data, device=device, threads=step_threads(threads), batch=expected_batch)
        drawer = None
        if file.info.dtype != "float16" and file.info.opset >= MIN_OPSET:
            drawer = OnnxBlockDrawer(file.data, file.info, in_blocks)
        if drawer and device == "cpu":
            # Most programs only draw. Opening the session of blocks checks the file; that of steps is opened for
            # the first step, and takes its place if nothing was drawn till then.
            cell = _cell(file.data, file.info, file.name, reopen=partial(_in_place_of, drawer, opened))
            drawer.open()
        else:
            session = opened()
            cell = _cell(session, file.info, file.name, reopen=opened if device_name(session) == "cpu" else None)
        if cell.device == "cpu":
            cell.blocks = drawer
        cell.check_placement()
        warn_about_conflicting_wheels()
        if cell.device == "cpu" and file.info.dtype != "float16":
            cell.sequences = SequenceGraph(file.data, file.info, in_blocks)
        elif cell.device == "cpu":
            log.warning("%s: float16 weights are for CUDA; a CPU computes them slower than float32 ones", file.name)
        if not file.info.verified:
            log.warning("%s: not verified: when it was exported, it did not compute what was trained", file.name)
        self._file = file
        self._opened_with = {"device": device, "threads": threads, "expected_batch": expected_batch}
        self.cell = cell
        self.info = file.info

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies by the bytes of the file, which the other process need not have.

        Raises:
            UsageError: the sampler was made from a session.
        """
        if self._file is None:
            raise UsageError(
                "this Sampler was made from a session, which cannot be copied or sent to another process; "
                "make it from the model's path or bytes"
            )
        return _unpickled, (type(self), self._file, self._opened_with)

    @classmethod
    def from_cell(cls, cell: Cell, info: ModelInfo) -> Self:
        """A sampler over another implementation of the step (the trainer's, in torch)."""
        sampler = cls.__new__(cls)
        sampler._file = None
        sampler.cell = cell
        sampler.info = info
        return sampler

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        device: str = "cpu",
        threads: Threads = "auto",
        expected_batch: int = 1,
    ) -> Self:
        """A sampler for a model on the Hugging Face Hub: the file ``model.onnx`` of a repository.

        The file is kept in huggingface_hub's cache, and fetched again only if it has changed. It is checked as every
        model file is. Needs the extra ``hub``: ``pip install 'charrnn-runtime[hub]'``.

        Args:
            repo_id: name of the repository, such as "user/model".
            revision: branch, tag or commit; None for the newest. A commit always gives the same file.
            token: access token for a private repository; None takes the one of ``hf auth login`` or ``HF_TOKEN``,
                False none at all.
            cache_dir: folder of the cache; None for huggingface_hub's own.
            local_files_only: take the file from the cache and connect to nothing, as with ``HF_HUB_OFFLINE=1``.
            device: as for ``Sampler``, like ``threads`` and ``expected_batch``.

        Raises:
            HubError: the file cannot be had, or huggingface_hub is missing.
            ModelFileError, DeviceError, UsageError: as ``Sampler``.
        """
        path = download(repo_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        return cls(path, device=device, threads=threads, expected_batch=expected_batch)

    @property
    def device(self) -> str:
        """The device that is really used, such as "cpu" or "cuda:0"."""
        return self.cell.device

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's names of the providers that compute the operators, the busiest first.

        Empty for a cell that is not ONNX Runtime's. For a session of the caller's own these are
        the providers it was made with: which operators each of them computes is not known.
        """
        return self.cell.providers if isinstance(self.cell, OnnxCell) else ()

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens."""
        return self.info.vocabulary

    def sample(
        self,
        prompt: Prompt = "",
        *,
        length: int,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        index: int = 0,
        unknown: Unknown = "error",
        errors: DecodeErrors = "replace",
        label: str | None = None,
        **options: Unpack[SamplingKwargs],
    ) -> str:
        """Continues a prompt.

        Args:
            prompt: text to continue (for a model of bytes also bytes), or the ids of its tokens; empty to begin
                a text.
            length: how many tokens to generate at most, at least 1.
            stop: strings at which the text ends; they are not part of it.
            seed: 0 to 2**64 - 1; the same seed gives the same text. None chooses a new one
                (``generate`` reports it).
            index: which of the texts of this seed (item i of a batch is index i).
            unknown: "error", or "skip" to leave out prompt characters the model does not know.
            errors: what stands for bytes that are not UTF-8, from a model of bytes: "replace" is U+FFFD;
                with "surrogateescape" ``text.encode("utf-8", "surrogateescape")`` gives the exact bytes.
            label: one of ``vocabulary.labels``: what kind of text it is. Only for models trained with labels.
            options: temperature, top_k, top_p and more: see ``SamplingOptions``.

        Returns:
            The continuation, without the prompt.

        Raises:
            UnknownCharacterError: the prompt has a character the model has never seen.
            UsageError: an argument has a wrong type or is out of range.
            ModelOutputError: the model computes NaN.
        """
        pieces = self.stream(
            prompt,
            length=length,
            stop=stop,
            seed=seed,
            index=index,
            unknown=unknown,
            errors=errors,
            label=label,
            **options,
        )
        return "".join(pieces)

    def stream(
        self,
        prompt: Prompt = "",
        *,
        length: int,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        index: int = 0,
        unknown: Unknown = "error",
        errors: DecodeErrors = "replace",
        label: str | None = None,
        **options: Unpack[SamplingKwargs],
    ) -> Iterator[str]:
        """Like ``sample``, but yields the text in pieces as they are generated.

        Arguments are checked at the call, before the first piece is asked for.
        """
        request = Request(
            prompt=prompt,
            length=length,
            stop=stop,
            seed=seed,
            index=index,
            unknown=unknown,
            errors=errors,
            label=label,
            options=options,
        )
        return self.stream_request(request)

    def stream_request(self, request: Request) -> Iterator[str]:
        """``stream`` for a ``Request``."""
        check_request(request)
        return generate_one(self.cell, self._start_sequence(request))

    def generate(
        self,
        prompt: Prompt = "",
        *,
        length: int,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        index: int = 0,
        unknown: Unknown = "error",
        errors: DecodeErrors = "replace",
        log_probs: bool = False,
        label: str | None = None,
        **options: Unpack[SamplingKwargs],
    ) -> Generation:
        """Like ``sample``, but returns the text with its seed, the reason why it ended, and its tokens.

        Args:
            log_probs: whether the result holds the log-probability of every token.
        """
        request = Request(
            prompt=prompt,
            length=length,
            stop=stop,
            seed=seed,
            index=index,
            unknown=unknown,
            errors=errors,
            log_probs=log_probs,
            label=label,
            options=options,
        )
        sequence = self._start_sequence(request)
        sequence.keeps_tokens = True
        return sequence.result(list(generate_one(self.cell, sequence)))

    def sample_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        length: int,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        unknown: Unknown = "error",
        errors: DecodeErrors = "replace",
        batch: int = 64,
        label: str | None = None,
        **options: Unpack[SamplingKwargs],
    ) -> list[str]:
        """Continues several prompts at once, which is faster than one after the other.

        Item i is the text that ``sample(prompts[i], seed=seed, index=i)`` gives.
        At most ``batch`` of them are generated at a time. Arguments and errors are
        those of ``sample``.
        """
        if isinstance(prompts, (str, bytes)) or not isinstance(prompts, Sequence):
            raise UsageError("prompts must be a list of texts; for one text use sample()")
        check_count("length", length, least=1)
        seed = new_seed() if seed is None else seed
        requests = [
            Request(
                prompt=prompt,
                length=length,
                stop=stop,
                seed=seed,
                index=i,
                unknown=unknown,
                errors=errors,
                label=label,
                options=options,
            )
            for i, prompt in enumerate(prompts)
        ]
        # Every prompt is checked before anything is generated.
        SamplingOptions.from_kwargs(options)
        for prompt in prompts:
            with_start_token(encode_prompt(prompt, self.info, unknown), self.info, label)
        texts = [""] * len(prompts)
        for i, done in self.generate_many(requests, batch=batch):
            texts[i] = done.text
        return texts

    def generate_many(self, requests: Iterable[Request], *, batch: int = 64) -> Iterator[tuple[int, Generation]]:
        """Generates ``batch`` texts side by side, and takes a new request as soon as a text is finished.

        Requests are taken from the iterable only when there is room for them, so
        it may be endless, and may block. Each text is the one that ``generate``
        gives for its request alone.

        Yields:
            (number of the request, its text), in the order in which they finish.

        Raises:
            UsageError: a request cannot be served; the unfinished texts are lost.
        """
        groups = self.generate_groups(requests, batch=batch)
        return (finished for group in groups for finished in group)

    def generate_groups(
        self, requests: Iterable[Request], *, batch: int = 64
    ) -> Iterator[list[tuple[int, Generation]]]:
        """``generate_many``, with the texts that are finished at the same step in one list."""
        check_count("batch", batch, least=1)
        check_several("requests", requests, "Request objects")
        token_samplers: dict[int, tuple[SamplingKwargs, TokenSampler]] = {}

        def sequences() -> Iterator[SequenceState]:
            for request in requests:
                check_request(request)
                # One sampler for all requests with one options object: its buffers and tables are made once,
                # and their tokens are sampled together. The object is kept, so that its id stays its own.
                key = id(request.options)
                if key not in token_samplers:
                    if len(token_samplers) > _MAX_TOKEN_SAMPLERS:
                        token_samplers.clear()
                    token_samplers[key] = (request.options, self._token_sampler(request.options))
                sequence = start_sequence(request, self.info, token_samplers[key][1])
                sequence.keeps_tokens = True
                yield sequence

        return generate_batch(self.cell, self.info, sequences(), batch)

    def start(
        self,
        prompt: Prompt = "",
        *,
        seed: int | None = None,
        index: int = 0,
        unknown: Unknown = "error",
        label: str | None = None,
        **options: Unpack[SamplingKwargs],
    ) -> Conversation:
        """A text to which the caller and the model add in turn; see ``Conversation``. Arguments as of ``sample``."""
        token_sampler = self._token_sampler(options)
        uniforms = UniformStream(new_seed() if seed is None else seed, index)
        conversation = Conversation(self.cell, self.info, token_sampler, uniforms, label=label)
        conversation.feed(prompt, unknown=unknown)
        return conversation

    def resume(self, data: bytes, **options: Unpack[SamplingKwargs]) -> Conversation:
        """The conversation that ``Conversation.to_bytes`` has saved.

        Options are not saved; give them again. Nothing in the data is executed.

        Raises:
            SnapshotError: the data is not a saved conversation, is damaged, or is of another model.
        """
        token_sampler = self._token_sampler(options)
        snapshot = Snapshot.from_bytes(data, self.info)
        conversation = Conversation(self.cell, self.info, token_sampler, UniformStream(snapshot.seed, snapshot.index))
        conversation.restore(snapshot)
        return conversation

    def next(
        self, prompt: Prompt = "", *, unknown: Unknown = "error", label: str | None = None
    ) -> dict[str | bytes, float]:
        """The probabilities of what comes after a prompt, the most probable first.

        Args:
            prompt: text to continue, or the ids of its tokens; empty for the beginning of a text.
            unknown: "error", or "skip" to leave out prompt characters the model does not know.
            label: as for ``sample``.

        Returns:
            A probability for each character; the empty text stands for the model's end token. For a model of bytes
            the keys are bytes of length 1. Other special tokens are left out.

        Raises:
            UnknownCharacterError: the prompt has a character the model has never seen.
            UsageError: an argument has a wrong type or value.
        """
        return next_tokens(self.cell, self.info, prompt, unknown, label)

    def complete(
        self,
        prompt: Prompt = "",
        *,
        n: int = 5,
        until: str = " \n.,",
        max_length: int = 20,
        width: int = 64,
        unknown: Unknown = "error",
        label: str | None = None,
    ) -> Completions:
        """The most probable continuations of a prompt, for autocomplete.

        A continuation has at least one token. It ends before the first character of ``until``, or at the model's
        end token; after ``max_length`` tokens it is cut. So the probabilities of all continuations, and of those
        that end at once, make 1.

        Args:
            prompt: text to continue, or the ids of its tokens.
            n: how many continuations, at most 1,000.
            until: characters at which a continuation ends; for a model of bytes only ASCII. Those that the model
                does not know have no effect.
            max_length: how many tokens a continuation has at most; at most 1,000.
            width: how many beginnings are followed at a time, at most 4,096; more take longer.
            unknown: "error", or "skip" to leave out prompt characters the model does not know.
            label: as for ``sample``.

        Returns:
            Up to n continuations with their exact probabilities, the most probable first; ``exact`` says
            whether they are certainly the most probable ones. See ``completing``.

        Raises:
            UnknownCharacterError: the prompt has a character the model has never seen.
            UsageError: an argument has a wrong type or is out of range.
        """
        return complete(
            self.cell,
            self.info,
            prompt,
            n=n,
            until=until,
            max_length=max_length,
            width=width,
            unknown=unknown,
            label=label,
        )

    def classify(
        self, text: str | bytes, *, prior: Prior = "training", unknown: UnknownScore = "charge"
    ) -> dict[str, float]:
        """The probability of each label for a whole text, by Bayes' rule, the most probable first.

        Args:
            text: a string; for a model of bytes also bytes.
            prior: "training" takes the labels' shares of the training items, "uniform" equal ones.
            unknown: as for ``score``.

        Raises:
            UsageError: the model was trained without labels, or an argument has a wrong type or value.
            UnknownCharacterError: ``unknown`` is "error", and the text has a character the model has never seen.
        """
        return self.classify_batch([text], prior=prior, unknown=unknown)[0]

    def classify_batch(
        self, texts: Sequence[str | bytes], *, prior: Prior = "training", unknown: UnknownScore = "charge"
    ) -> list[dict[str, float]]:
        """``classify`` for several texts; texts and labels are scored side by side."""
        return [
            {label: math.exp(logs[label]) for label in sorted(logs, key=lambda name: -logs[name])}
            for logs in self.classify_logs(texts, prior=prior, unknown=unknown)
        ]

    def classify_logs(
        self, texts: Sequence[str | bytes], *, prior: Prior = "training", unknown: UnknownScore = "charge"
    ) -> list[dict[str, float]]:
        """``classify_batch`` with the natural logarithms of the probabilities, in the order of the labels' ids."""
        log_priors = log_prior(self.info, prior)
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
            raise UsageError("texts must be a list of texts; for one text use classify()")
        end = self.vocabulary.special.get("end")
        targets = [self.encode_targets(text, unknown) for text in texts]
        if end is not None:
            targets = [np.append(ids, end) for ids in targets]
        posteriors = log_posteriors(self.cell, self.info, targets, log_priors)
        return [dict(zip(self.vocabulary.labels, logs.tolist(), strict=True)) for logs in posteriors]

    def score(self, text: str | bytes, *, unknown: UnknownScore = "charge", label: str | None = None) -> Score:
        """How likely the model finds a text; the state is carried from its beginning to its end.

        Args:
            text: a string; for a model of bytes also bytes.
            unknown: what happens to a character outside the vocabulary: "charge" gives it the
                log-probability of the least likely known character at that place (see ``scoring``); "error".
            label: as for ``sample``.

        Raises:
            UnknownCharacterError: ``unknown`` is "error", and the text has a character the model has never seen.
            UsageError: an argument has a wrong type or value.
        """
        targets = self.encode_targets(text, unknown)
        return Score(self.score_ids(targets, label=label).log_probs, self._num_unknown(targets))

    def score_ids(self, targets: Ids, *, label: str | None = None) -> Score:
        """``score`` for token ids ``[n]``; -1 (``vocab.UNKNOWN``) stands for an unknown character."""
        targets = self.vocabulary.check_ids(targets, least=UNKNOWN)
        scorer = StreamScorer(self._sequence_runner(len(targets)), self.info, self.info.first_token(label))
        return Score(scorer.score(targets), int((targets == UNKNOWN).sum()))

    def score_stream(
        self, pieces: Iterable[str | bytes], *, unknown: UnknownScore = "charge"
    ) -> Iterator[NDArray[np.float64]]:
        """``score`` in constant memory, for a text that comes in pieces.

        Yields the log-probabilities of the tokens of each piece, float64 ``[n]``.
        Pieces are encoded one by one: a character that a normal form would join,
        and a CRLF that is to become LF, must not be cut in two.
        """
        check_several("pieces", pieces, "texts")
        return self.score_blocks(self.encode_targets(piece, unknown) for piece in pieces)

    def score_blocks(self, blocks: Iterable[Ids]) -> Iterator[NDArray[np.float64]]:
        """``score_stream`` for token ids, ``[n]`` each."""
        check_several("blocks", blocks, "sequences of token ids")
        scorer = StreamScorer(self._sequence_runner(None), self.info, self.info.start_token)
        for targets in blocks:
            yield scorer.score(self.vocabulary.check_ids(targets, least=UNKNOWN))

    def score_batch(
        self, texts: Sequence[str | bytes], *, unknown: UnknownScore = "charge", batch: int = 64
    ) -> list[Score]:
        """``score`` for each of several texts, ``batch`` of them side by side."""
        check_count("batch", batch, least=1)
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
            raise UsageError("texts must be a list of texts; for one text use score()")
        targets = [self.encode_targets(text, unknown) for text in texts]
        scores = self.score_many(targets, batch=batch)
        return [Score(score, self._num_unknown(ids)) for score, ids in zip(scores, targets, strict=True)]

    def score_many(self, targets: Sequence[Ids], *, batch: int = 64) -> list[NDArray[np.float64]]:
        """Log-probabilities of the tokens of each text of ids ``[n]``; an end token may be the last of them."""
        check_count("batch", batch, least=1)
        check_several("targets", targets, "sequences of token ids")
        return score_many(
            self.cell, self.info, [self.vocabulary.check_ids(ids, least=UNKNOWN) for ids in targets], batch
        )

    def encode_targets(self, text: str | bytes, unknown: UnknownScore) -> Ids:
        """Token ids of a text to score ``[n]``; with "charge", -1 (``vocab.UNKNOWN``) for an unknown character.

        Raises:
            UnknownCharacterError, UsageError: as ``score``.
        """
        check_choice("unknown", unknown, "charge", "error")
        return self.info.encode(text, unknown=unknown)

    def _num_unknown(self, targets: Ids) -> int:
        """How many of the tokens stand for characters outside the vocabulary."""
        return int((targets == self.vocabulary.special.get("unknown", UNKNOWN)).sum())

    def _sequence_runner(self, tokens: int | None) -> SequenceRunner:
        """A runner from the zero state for a text of so many tokens, or of unknown length."""
        return self.cell.sequence_runner(tokens) or StepSequenceRunner(self.cell.runner(1), len(self.vocabulary))

    def score_items(
        self,
        batches: Iterable[Sequence[str | bytes]],
        *,
        unknown: UnknownScore = "charge",
        labels: Iterable[Sequence[str]] = (),
    ) -> Iterator[ItemScore]:
        """Scores items one by one, each from the zero state and with its end, in their order.

        For a model that ends its texts itself, the end of an item is its end token; for a model
        of running text items are lines, and the end is the newline.

        Args:
            batches: lists of items. The items of a list are scored together, and before the next
                list is asked for: a caller that follows a growing text gets each score at once.
            unknown: as for ``score``.
            labels: if given, for each list the label of each item, which is then scored as a text with this label;
                empty for one without.

        Raises:
            UsageError: the model has neither an end token nor a newline, or lacks a label.
            UnknownCharacterError: ``unknown`` is "error", and an item has a character the model has never seen.
        """
        end = self.vocabulary.special.get("end", self.vocabulary.token("\n"))
        if end is None:
            raise UsageError("the model knows neither an end of items nor a newline; score the text as a whole")
        check_several("batches", batches, "lists of items")
        check_several("labels", labels, "lists of labels")
        return self._score_items(batches, end, unknown, iter(labels))

    def _score_items(
        self,
        batches: Iterable[Sequence[str | bytes]],
        end: int,
        unknown: UnknownScore,
        labels: Iterator[Sequence[str]],
    ) -> Iterator[ItemScore]:
        for batch in batches:
            check_several("an entry of batches", batch, "items")
            named = next(labels, None)
            named = [""] * len(batch) if named is None else named
            check_several("an entry of labels", named, "labels")
            if len(named) != len(batch):
                raise UsageError(f"{len(batch)} items have {len(named)} labels; give one for each, or an empty one")
            at = 0
            for items in bounded(batch, len, _CHARACTERS_TOGETHER):
                targets = [np.append(self.encode_targets(item, unknown), end) for item in items]
                own = named[at : at + len(items)]
                at += len(items)
                tokens = [self.info.first_token(label or None) for label in own]
                scores = score_many(self.cell, self.info, targets, _ITEMS_TOGETHER, first=np.array(tokens, np.int64))
                for item, ids, log_probs, label in zip(items, targets, scores, own, strict=True):
                    yield ItemScore(item, -float(log_probs.sum()), len(log_probs), self._num_unknown(ids), label)

    def score_windows(self, windows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log-probabilities ``[windows, n - 1]`` of all but the first token of each window ``[windows, n]``.

        Every window starts from the zero state, as a model with a limited context would score it;
        -1 (``vocab.UNKNOWN``) stands for an unknown character.
        """
        windows = np.asarray(windows)
        if windows.ndim != 2 or not windows.size or windows.dtype.kind not in "iu":
            shape = list(windows.shape)
            raise UsageError(f"windows must be whole numbers [windows, n], got {windows.dtype} {shape}")
        windows = self.vocabulary.check_ids(windows.ravel(), least=UNKNOWN).reshape(windows.shape)
        first = np.where(windows[:, 0] == UNKNOWN, self.info.start_token, windows[:, 0])
        return np.array(score_many(self.cell, self.info, list(windows[:, 1:]), len(windows), first=first))

    def initial_state(self, batch: int = 1) -> State:
        """The state before any text: zeros, one float32 ``[batch, size]`` for each state of the model."""
        check_count("batch", batch, least=1)
        return tuple(np.zeros((batch, s.size), np.float32) for s in self.info.states)

    def step(self, token_ids: Sequence[int] | Tokens, state: State) -> tuple[Logits, State]:
        """One step of the model: feeds one token to each stream.

        Args:
            token_ids: ``[batch]``.
            state: as ``initial_state`` or an earlier ``step`` gave it; it is not changed.

        Returns:
            Logits float32 ``[batch, vocab]`` and the new state.

        Raises:
            UsageError: an id outside the vocabulary, or shapes that do not fit.
        """
        tokens = np.asarray(token_ids)
        if tokens.ndim != 1 or not len(tokens) or not np.issubdtype(tokens.dtype, np.integer):
            raise UsageError(f"token_ids must be whole numbers [batch], got {tokens.dtype} {list(tokens.shape)}")
        if tokens.min() < 0 or tokens.max() >= len(self.vocabulary):
            raise UsageError(f"token ids must be from 0 to {len(self.vocabulary) - 1}")
        expected = [(len(tokens), s.size) for s in self.info.states]
        if not isinstance(state, Sequence) or [np.shape(s) for s in state] != expected:
            got = [np.shape(s) for s in state] if isinstance(state, Sequence) else type(state).__name__
            raise UsageError(f"the state must be arrays of the shapes {expected}, got {got}")
        runner = self.cell.runner(len(tokens), state)
        return runner.step(tokens.astype(np.int64)).copy(), runner.state()

    def steps(self, token_ids: Ids) -> Iterator[tuple[Logits, State]]:
        """What the model computes along one text, from the zero state on.

        Args:
            token_ids: ``[n]``; the start token is not added.

        Yields:
            For each token the logits ``[vocab]`` for the one that follows, valid
            until the next step, and a copy of the states, each ``[size]``.

        Raises:
            UsageError: an id outside the vocabulary.
        """
        runner = self.cell.runner(1)
        for token in self.vocabulary.check_ids(token_ids):
            yield runner.step(token)[0], tuple(s[0] for s in runner.state())

    def _token_sampler(self, options: SamplingKwargs) -> TokenSampler:
        return TokenSampler(SamplingOptions.from_kwargs(options), self.vocabulary)

    def _start_sequence(self, request: Request) -> SequenceState:
        return start_sequence(request, self.info, self._token_sampler(request.options))


def _cell(
    session: InferenceSession | bytes,
    info: ModelInfo,
    name: str,
    reopen: Callable[[], InferenceSession] | None = None,
) -> OnnxCell:
    try:
        return OnnxCell(session, info, reopen)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from error


def _in_place_of(drawer: OnnxBlockDrawer, opened: Callable[[], InferenceSession]) -> InferenceSession:
    """The session of steps. That of blocks is closed if it was not used."""
    drawer.forget_unused()
    return opened()


def _unpickled(cls: type[Sampler], file: ModelFile, opened_with: Mapping[str, Any]) -> Sampler:
    sampler = cls.__new__(cls)
    sampler._open(file, **opened_with)
    return sampler
