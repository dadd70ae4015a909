"""Starting from another model's weights (``--init-from``)."""

from __future__ import annotations

import torch
from charrnn_runtime import Vocabulary
from torch import Tensor

from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import Checkpoint


def grown_weights(checkpoint: Checkpoint, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """The checkpoint's weights, with more rows for the new characters at the end of ``vocabulary``.

    A new character begins as the mean of all known ones, and as unlikely as
    the least likely of them.
    """
    known, size = len(checkpoint.vocabulary), len(vocabulary)
    assert vocabulary.symbols[:known] == checkpoint.vocabulary.symbols
    weights = dict(checkpoint.weights)
    new = size - known
    if not new:
        return weights
    head, bias = weights["head.weight"], weights["head.bias"]
    weights["head.weight"] = torch.cat([head, head.mean(0, keepdim=True).expand(new, -1)])
    weights["head.bias"] = torch.cat([bias, bias.min().expand(new)])
    if checkpoint.model_config.embedding_size:
        embedding = weights["embedding.weight"]
        weights["embedding.weight"] = torch.cat([embedding, embedding.mean(0, keepdim=True).expand(new, -1)])
    else:
        weights["embedding.weight"] = torch.eye(size)
        with torch.device("meta"):
            grown = CharRNN(checkpoint.model_config, size).state_dict()
        for name, weight in weights.items():
            if name.startswith("layers.") and weight.shape != grown[name].shape:  # its columns are characters
                weights[name] = torch.cat([weight, weight.mean(1, keepdim=True).expand(-1, new)], dim=1)
    return weights


def describe_new(old: Vocabulary, new: Vocabulary) -> str:
    """A sentence on the characters that the model has not seen before; empty if there are none."""
    symbols = [s for s in new.symbols[len(old) :] if s >= 0]
    if not symbols:
        return ""
    shown = " ".join(repr(chr(s)) for s in symbols[:40]) + (
        f" and {len(symbols) - 40} more" if len(symbols) > 40 else ""
    )
    return f"{len(symbols)} characters are new to the model and get rows of their own: {shown}"
