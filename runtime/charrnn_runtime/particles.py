"""Texts of a pattern as likely as the model finds them: sequential Monte Carlo.

A pattern masks tokens step by step. That draws from another distribution than the model's texts that match: a text
may walk into a corner which the model finds improbable, and nothing takes it back. Here several copies of a text, the
particles, are drawn side by side. The weight of each is the product of the shares of probability that the masks have
left; when the weights become unequal, particles are drawn anew in proportion to them. In the end one particle is drawn.
With many particles its distribution is the model's own, restricted to the texts that match. "Particles" in
``runtime/README.md`` specifies every step.

Source: Lew et al. 2023, "Sequential Monte Carlo steering of large language models using probabilistic programs".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.generation import SequenceState, generate_alone, prefill
from charrnn_runtime.sampling import UniformStream, log_softmax
from charrnn_runtime.session import Cell, Logits

_PROMPT_BLOCK = 4096  # tokens of the prompt between two steps of an engine


def generate_one(cell: Cell, sequence: SequenceState) -> Iterator[str]:
    """Generates one text; yields its pieces. With particles they come together, at the end."""
    if sequence.particles > 1:
        return filter(None, generate_from_particles(cell, sequence))
    return generate_alone(cell, sequence)


def generate_from_particles(cell: Cell, sequence: SequenceState) -> Iterator[str]:
    """Generates one text; ``sequence`` then holds its tokens and how it ended.

    Yields:
        An empty string after each step, and at last the text.

    Raises:
        CharrnnError: a particle cannot be sampled.
    """
    count = sequence.particles
    runner = cell.runner(1)
    for begin in range(0, len(sequence.prompt) - 1, _PROMPT_BLOCK):
        runner = prefill(cell, runner, sequence.prompt[:-1][begin : begin + _PROMPT_BLOCK])
        yield ""
    runner = cell.runner(count, tuple(np.repeat(part, count, axis=0) for part in runner.state()))
    seed, index = sequence.uniforms.seed, sequence.uniforms.index
    draws, choices = UniformStream(seed, index, lane=1), UniformStream(seed, index, lane=2)
    particles = [sequence.copy() for _ in range(count)]
    texts = [""] * count
    weights = np.ones(count)
    tokens = np.full(count, sequence.prompt[-1])
    going = list(range(count))
    while going:
        logits = runner.step(tokens)
        uniforms = np.array(draws.peek(count))
        draws.skip(count)
        sampled, shares = _sample([particles[k] for k in going], logits[going], uniforms[going])
        tokens[going] = sampled
        weights[going] *= shares
        for k, token in zip(going, sampled.tolist(), strict=True):
            texts[k] += particles[k].append(token)
        largest = weights.max()
        weights = weights / largest if largest > 0 else np.ones(count)
        if weights.cumsum()[-1] ** 2 < count / 2 * (weights * weights).cumsum()[-1]:
            sums = weights.cumsum()
            points = (np.arange(count) + choices.next()) / count * sums[-1]
            chosen = np.minimum(sums.searchsorted(points, side="right"), count - 1)
            particles = [particles[k].copy() for k in chosen]
            texts = [texts[k] for k in chosen]
            tokens, weights = tokens[chosen], np.ones(count)
            runner = cell.runner(count, tuple(part[chosen] for part in runner.state()))
        going = [k for k in range(count) if particles[k].finish_reason is None]
        yield ""
    sums = weights.cumsum()
    last = min(int(sums.searchsorted(choices.next() * sums[-1], side="right")), count - 1)
    sequence.tokens, sequence.log_probs = particles[last].tokens, particles[last].log_probs
    sequence.num_generated = particles[last].num_generated
    sequence.finish_reason = particles[last].finish_reason
    yield texts[last]


def _sample(
    particles: Sequence[SequenceState], logits: Logits, uniforms: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A token for each particle ``[n]``, and the share of the probability that the masks have left ``[n]``."""
    sampler = particles[0].token_sampler
    if sampler.direct:
        masks = np.zeros(logits.shape)
        for row, particle in enumerate(particles):
            if particle.pattern is not None and (mask := particle.pattern.mask()) is not None:
                masks[row] = mask
        tokens, shares = sampler.sample_weighted_rows(logits, uniforms, masks)
    else:
        pairs = [
            sampler.sample_weighted(row, uniform, p.history, p.num_generated, p.pattern)
            for p, row, uniform in zip(particles, logits, uniforms.tolist(), strict=True)
        ]
        tokens, shares = np.array([token for token, _ in pairs]), np.array([share for _, share in pairs])
    if particles[0].wants_log_probs:
        for particle, log_probs, token in zip(particles, log_softmax(logits), tokens.tolist(), strict=True):
            particle.log_probs.append(float(log_probs[token]))
    return tokens, shares
