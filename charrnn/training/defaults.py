"""Defaults that depend on the text: chosen from its size, the budget and this machine's speed.

The rules follow from the table in benchmarks/README.md. They never change a setting that the user gave.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial

import torch

from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.data.corpus import Corpus
from charrnn.data.split import split_end
from charrnn.training.advice import MOST_DROPOUT
from charrnn.training.batch_choice import MOST_RATE, choose_batch, on_device
from charrnn.training.device import choose_device, choose_precision
from charrnn.training.memory import available_bytes, check_memory, needed_bytes, parameters
from charrnn.training.texts import fit_batch
from charrnn.training.threads import WAITING_SHARE, waiting_seconds

HIDDEN_SIZES = (32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1536, 2048)
# Recurrent weights are those of the layers, without the rows of characters in the embedding and the output layer.
# A model that reads C characters of an alphabet of V has at most so many times V ** 0.2 * sqrt(C) of them; a larger one
# does not learn in time. Each character of a larger alphabet carries more information. The model may have more weights
# where it reads the text several times, in proportion to the passes: it then has dropout, which needs a larger model.
WEIGHTS_PER_ROOT, ALPHABET_POWER = 72.0, 0.2
SEVERAL_PASSES = 1.6
# A larger model learns the text by heart, even with dropout.
WEIGHTS_PER_CHARACTER = 2.5  # recurrent weights for each character of training text
SMALL_MODEL = 400_000  # recurrent weights that are right for any text
# Passes over a text that lower the loss. Where there is time for more, a larger model makes better use of it.
USEFUL_PASSES = 20.0
# Dropout grows by so much each time that the product of passes and recurrent weights for each character doubles; and it
# is no more than it would be if it grew from two passes on by the second number with each doubling of the passes. It is
# at most MOST_DROPOUT.
DROPOUT_STEP, DROPOUT_STEP_OF_PASSES = 0.11, 0.25
NO_DROPOUT = 3.0  # up to this product, dropout is 0
NO_DROPOUT_OF_ITEMS = 10.0  # the same for items, which are learnt by heart later than running text
LEAST_DROPOUT_PASSES = 2.0
# Dropout of the recurrent weights grows with each doubling of the passes; below the second number it does harm.
WEIGHT_DROPOUT_STEP, LEAST_WEIGHT_DROPOUT_PASSES, MOST_WEIGHT_DROPOUT = 0.2, 9.0, 0.2
# Weight decay of long runs, and how many steps these have; a shorter run has less in proportion.
WEIGHT_DECAY, LONG_RUN = 0.035, 1500
LEAST_STEPS, LEAST_BATCH = 480, 8  # a short text is read in smaller batches, so that there are so many steps
# On a CPU, larger batches are read faster, since a step of Muon takes as long for them. They learn as much from each
# character if there are many steps, so twice the batch is for eight times the characters. But they learn a text by
# heart sooner: a text that takes dropout is read in batches of the usual size.
CHARACTERS_OF_LARGE_BATCH = 10  # times the third power of the batch size
LARGEST_BATCH, LEAST_GAIN = 256, 1.1  # the second is the factor on the speed for which a batch is doubled
MOST_MEMORY = 5  # times the estimate, which is low
# Models of a larger hidden size take a higher learning rate, in proportion to its square root.
USUAL_RATE_SIZE = 384
LR_BOOST = 3.0  # factor on the learning rate at the beginning
BOOSTED_WARMUP_STEPS = 5
# A character costs a third of the time where nothing is learnt, so that each validation takes 1 % of a budget's time.
VALIDATED_SHARE = 0.03  # of the characters that a budget reads, in each validation
LEAST_VALIDATED = 50_000  # characters
MEASURED_SIZES = (128, 512)  # hidden sizes whose speeds give those of all others
MEASURE_SECONDS = 0.4
LONGEST_SECONDS = 2.0  # of a measurement that has made but one or two steps


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The settings, and a sentence on why.

    Attributes:
        val_max: most characters that a validation should read, if the budget is known in characters.
        ends_after: seconds after which the run should end, if it reads its text as often as it may in less than its
            time.
    """

    model: ModelConfig
    train: TrainConfig
    val_max: int | None = None
    ends_after: float | None = None
    reason: str


def choose(
    model: ModelConfig,
    train: TrainConfig,
    *,
    given: Collection[str],
    vocab_size: int,
    train_characters: int,
    speed: Callable[[ModelConfig, TrainConfig], float],
    items: bool = False,
) -> Choice:
    """Chooses values for the settings that were not given.

    Args:
        model, train: the settings, defaults where nothing was given; ``train`` has a budget.
        given: names of the fields that the user or a preset has fixed; they are kept.
        vocab_size: V.
        train_characters: length of the training text.
        speed: training characters a second of a model on this machine, with a batch; asked
            only if the budget is a time.
        items: whether the text is a list of items, such as names.
    """
    # The boost, the rate of large models and the weight decay were measured with Muon and a cosine.
    usual_rate = not {"lr", "optimizer", "schedule"} & set(given)
    if usual_rate and "lr_boost" not in given:
        warmup = train.warmup_steps if "warmup_steps" in given else BOOSTED_WARMUP_STEPS
        train = replace(train, lr_boost=LR_BOOST, warmup_steps=warmup)
    # A schedule that counts epochs by itself may need more of them.
    if train.time is not None and "max_epochs" not in given and train.schedule == "cosine":
        train = replace(train, max_epochs=USEFUL_PASSES)
    decays = usual_rate and "weight_decay" not in given
    if {"hidden_size", "dropout"} <= set(given) and not decays:
        return Choice(model=model, train=_fitting_rate(train, model) if usual_rate else train, reason="")
    read = _reader(model, train, vocab_size, train_characters, speed, fixed="hidden_size" in given)
    most_read = (train.max_epochs or math.inf) * train_characters

    def passes(characters: float) -> float:
        return min(characters, most_read) / train_characters

    reasons = []
    if "hidden_size" not in given:
        largest = WEIGHTS_PER_CHARACTER * train_characters + SMALL_MODEL

        def fits(size: int) -> bool:
            sized = replace(model, hidden_size=size)
            epochs = passes(read(sized))
            root = math.pow(vocab_size, ALPHABET_POWER) * math.sqrt(epochs * train_characters)
            most = WEIGHTS_PER_ROOT * root * max(1.0, epochs / SEVERAL_PASSES)
            return recurrent_weights(sized, vocab_size) <= min(most, largest)

        model = replace(model, hidden_size=max(filter(fits, HIDDEN_SIZES), default=HIDDEN_SIZES[0]))
        if "embedding_size" not in given:
            model = replace(model, embedding_size=min(128, model.hidden_size))
        reasons.append(f"hidden size {model.hidden_size}")
    characters = read(model)
    weights = recurrent_weights(model, vocab_size) / train_characters  # for each character

    def dropout(characters: float) -> float:
        return fitting_dropout(passes(characters), weights, items=items)

    def with_dropout(characters: float) -> ModelConfig:
        if "dropout" in given:  # then no weight dropout is added either
            return model
        if "weight_dropout" in given:
            return replace(model, dropout=dropout(characters))
        return replace(model, dropout=dropout(characters), weight_dropout=fitting_weight_dropout(passes(characters)))

    if "hidden_size" not in given and train.epochs is train.steps is None and model.hidden_size > MEASURED_SIZES[1]:
        assert train.time is not None
        # Weights that do not fit into the processor's cache take longer than the line of two measurements says.
        characters = min(characters, train.time * speed(with_dropout(characters), train))
    usual_batch = train.batch_size
    if train.time is not None and not {"batch_size", "optimizer"} & set(given):
        train, characters = _larger_batch(
            train, characters, partial(speed, model), lambda more: more <= most_read and not dropout(more)
        )
        if train.batch_size > usual_batch:
            reasons.append(f"batch {train.batch_size}")
    ended = characters > most_read
    ends_after = train.time * most_read / characters if ended and train.time is not None else None
    characters = min(characters, most_read)
    model = with_dropout(characters)
    if "dropout" not in given:
        reasons.append(f"dropout {model.dropout:g}")
        if "weight_dropout" not in given and model.weight_dropout:
            reasons.append(f"weight dropout {model.weight_dropout:g}")
    if usual_rate:
        train = _fitting_rate(train, model, train.batch_size / usual_batch)
    if decays:
        train = replace(train, weight_decay=fitting_weight_decay(characters / (train.batch_size * train.seq_len)))
    if not reasons:
        return Choice(model=model, train=train, reason="")
    *others, last = reasons
    chosen = f"{', '.join(others)} and {last}" if others else last
    reason = (
        f"{chosen}, since the {'run' if ended else 'budget'} reads about {_rounded(characters)} characters "
        f"({characters / train_characters:.1f} times the text)"
    )
    if ended and "max_epochs" not in given:
        reason += "; more passes over a text of this size do not pay, so the run will end before its time is used up"
    validated = max(LEAST_VALIDATED, round(VALIDATED_SHARE * characters))
    return Choice(model=model, train=train, val_max=validated, ends_after=ends_after, reason=reason)


def _larger_batch(
    train: TrainConfig, characters: float, speed: Callable[[TrainConfig], float], suits: Callable[[float], bool]
) -> tuple[TrainConfig, float]:
    """The batch doubled while that pays, and the characters that the run reads then.

    Args:
        train: the settings; their budget is a time.
        characters: that the run reads with them.
        speed: characters a second.
        suits: whether a run that reads so many characters may have a larger batch.
    """
    seconds, measured = train.time, 0.0
    assert seconds is not None
    while suits(characters):
        larger = replace(train, batch_size=2 * train.batch_size)
        if larger.batch_size > LARGEST_BATCH or characters < CHARACTERS_OF_LARGE_BATCH * larger.batch_size**3:
            break
        measured, faster = measured or speed(train), speed(larger)
        if faster < LEAST_GAIN * measured or not suits(seconds * faster):
            break
        train, characters, measured = larger, seconds * faster, faster
    return train, characters


def recurrent_weights(model: ModelConfig, vocab_size: int) -> int:
    """Number of parameters without the rows of characters in the embedding and the output layer."""
    return parameters(model, vocab_size) - vocab_size * (model.embedding_size + model.hidden_size + 1)


def fitting_dropout(epochs: float, weights_per_character: float, *, items: bool = False) -> float:
    """Dropout for so many passes over a text; the more weights, the sooner a model learns it by heart."""
    least = NO_DROPOUT_OF_ITEMS if items else NO_DROPOUT
    grown = DROPOUT_STEP * math.log2(max(epochs * weights_per_character / least, 1.0))
    # A text that is read once or twice is not learnt by heart, whatever the model's size.
    few = DROPOUT_STEP_OF_PASSES * math.log2(max(epochs / LEAST_DROPOUT_PASSES, 1.0))
    return min(MOST_DROPOUT, round(min(grown, few) * 20) / 20)


def fitting_weight_dropout(epochs: float) -> float:
    """Dropout of the recurrent weights for so many passes over a text."""
    doublings = math.log2(max(epochs / LEAST_WEIGHT_DROPOUT_PASSES, 1.0))
    return min(MOST_WEIGHT_DROPOUT, round(WEIGHT_DROPOUT_STEP * doublings * 20) / 20)


def _fitting_rate(train: TrainConfig, model: ModelConfig, grown: float = 1.0) -> TrainConfig:
    """The rate for the model's size, and for a batch that is ``grown`` times the usual one."""
    by_size = math.sqrt(max(1.0, model.hidden_size / USUAL_RATE_SIZE))
    factor = max(by_size, min(by_size * math.sqrt(grown), MOST_RATE))
    return replace(train, lr=float(f"{train.lr * factor:.2g}"))


def fitting_weight_decay(steps: float) -> float:
    """Weight decay for a run of so many steps."""
    return float(f"{WEIGHT_DECAY * min(1.0, steps / LONG_RUN):.2g}")


def fitting_batch(train: TrainConfig, train_characters: int) -> int:
    """Batch size: that of ``train``, or a smaller one if a text is so short that there would be too few steps."""
    passes = train.epochs or USEFUL_PASSES
    batch = train.batch_size
    while batch // 2 >= LEAST_BATCH and passes * train_characters / (batch * train.seq_len) < LEAST_STEPS:
        batch //= 2
    return batch


def choose_here(
    model: ModelConfig,
    train: TrainConfig,
    *,
    given: Collection[str],
    corpus: Corpus,
    data: DataConfig,
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """``choose`` for this text and this machine.

    Args:
        model, train, given: see ``choose``.
        corpus, data: the text.
        clock: returns seconds, for measuring the speed.

    Raises:
        ConfigError: the device is not available, or a model with the given settings does not fit in its memory.
        CorpusError: the text is too short.
    """
    device = choose_device(train.device)
    precision = choose_precision(train.precision, device)
    vocab_size = len(corpus.vocabulary)
    characters = max(1, split_end(len(corpus.ids), data).train.length)
    if train.steps is None and "batch_size" not in given:
        train = replace(train, batch_size=fitting_batch(train, characters))

    def speed(model: ModelConfig, train: TrainConfig) -> float:
        return measure_speed(model, train, vocab_size, device, precision, clock=clock)

    scaled = ""
    if device.type == "cuda":
        readable = characters * (train.epochs or train.max_epochs or USEFUL_PASSES)
        train, scaled = choose_batch(train, given=given, readable=readable, speed=on_device(partial(speed, model)))
        given = {*given, "batch_size"}
    # For a short text the trainer makes the batch smaller, so that is the batch with which the budget is read.
    fitted = fit_batch(corpus, data, train, lambda _: None)
    smallest = model if "hidden_size" in given else replace(model, hidden_size=HIDDEN_SIZES[0])
    check_memory(smallest, fitted, vocab_size, device)

    def speed_in_memory(model: ModelConfig, train: TrainConfig) -> float:
        larger = train.batch_size > fitted.batch_size
        if larger and MOST_MEMORY * needed_bytes(model, train, vocab_size) > available_bytes(device):
            return 0.0  # then the batch stays as it is, instead of an error for a batch that was not asked for
        return speed(model, train)

    choice = choose(
        model,
        fitted,
        given=given,
        vocab_size=vocab_size,
        train_characters=characters,
        speed=speed_in_memory,
        items=data.has_items,
    )
    check_memory(choice.model, choice.train, vocab_size, device)
    reason = "; ".join(filter(None, [choice.reason, scaled]))
    chosen = replace(choice.train, seq_len=train.seq_len)
    if chosen.batch_size == fitted.batch_size:
        chosen = replace(chosen, batch_size=train.batch_size)
    return replace(choice, train=chosen, reason=reason)


def measure_speed(
    model: ModelConfig,
    train: TrainConfig,
    vocab_size: int,
    device: torch.device,
    precision: str,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Training characters a second: some steps on random tokens, on a model that is thrown away.

    If other programs used the cores meanwhile, the speed is also measured with one thread, and the higher speed
    counts: during training, the number of threads is chosen in the same way.
    """
    waited, began = waiting_seconds(), time.monotonic()
    speed = _measured(model, train, vocab_size, device, precision, clock)
    threads = torch.get_num_threads()
    if waited is None or threads == 1 or device.type != "cpu":
        return speed
    if (waiting_seconds() or 0.0) - waited < WAITING_SHARE * (time.monotonic() - began):
        return speed
    torch.set_num_threads(1)
    try:
        return max(speed, _measured(model, train, vocab_size, device, precision, clock))
    finally:
        torch.set_num_threads(threads)


def _measured(
    model: ModelConfig,
    train: TrainConfig,
    vocab_size: int,
    device: torch.device,
    precision: str,
    clock: Callable[[], float],
) -> float:
    from charrnn.model.char_rnn import CharRNN
    from charrnn.training.optim import Optimizers

    with torch.random.fork_rng():
        net = CharRNN(model, vocab_size).to(device)
        optimizers = Optimizers(net, train)
        tokens = torch.randint(vocab_size, (train.seq_len, train.batch_size), device=device)
        state = net.initial_state(train.batch_size)
        began, steps, warm = 0.0, 0, 2
        while True:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits, _ = net(tokens, state)
            torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]
            float(optimizers.step(0.0))  # waits for the device
            steps += 1
            if steps == warm:  # the first steps are slower: they allocate buffers
                began = clock()
                continue
            seconds = clock() - began
            if steps > warm and seconds > (MEASURE_SECONDS if steps > warm + 2 else LONGEST_SECONDS):
                return train.batch_size * train.seq_len * (steps - warm) / seconds


def _reader(
    model: ModelConfig,
    train: TrainConfig,
    vocab_size: int,
    train_characters: int,
    speed: Callable[[ModelConfig, TrainConfig], float],
    *,
    fixed: bool,
) -> Callable[[ModelConfig], float]:
    """How many characters the budget will read, by model; ``fixed`` if that is always ``model`` but for its dropout."""
    if train.epochs is not None:
        epochs = train.epochs
        return lambda _: epochs * train_characters
    if train.steps is not None:
        steps = train.steps
        return lambda _: float(steps * train.batch_size * train.seq_len)
    assert train.time is not None
    seconds = train.time
    if fixed:
        readable = seconds * speed(model, train)
        return lambda _: readable
    # The time of a step is taken to be linear in the number of parameters: two measurements give the line.
    small, large = (replace(model, hidden_size=size, dropout=0.0) for size in MEASURED_SIZES)
    cost_small, cost_large = 1 / speed(small, train), 1 / speed(large, train)
    p_small, p_large = parameters(small, vocab_size), parameters(large, vocab_size)
    slope = max(cost_large - cost_small, 0.0) / (p_large - p_small)
    return lambda m: seconds / max(cost_small + slope * (parameters(m, vocab_size) - p_small), 0.25 * cost_small)


def _rounded(count: float) -> str:
    for unit, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f}"
