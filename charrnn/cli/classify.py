"""``charrnn classify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def classify(
    model: Annotated[Path, typer.Argument(help="A model file (.onnx), a checkpoint (.pt) or a run folder.")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts, or names of files with one text a line; - for standard input, the default."),
    ] = None,
    prior: Annotated[
        Literal["training", "uniform"],
        typer.Option(help="How probable the labels are beforehand: their shares in training, or all the same."),
    ] = "training",
    unknown: Annotated[
        Literal["charge", "error"],
        typer.Option(help="Characters that the model has never seen: score them as the least likely one, or refuse."),
    ] = "charge",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with the probability of every label.")] = False,
) -> None:
    """Which label a text has, of a model trained with --label: the most probable one, its probability, the text."""
    from charrnn_runtime.classifying import log_prior
    from charrnn_runtime.text_io import TextOutput, write_json
    from charrnn_runtime.text_scores import TextInput, check_known, stripped_lines

    from charrnn.inference.models import open_sampler

    sampler = open_sampler(model, device=device, expected_batch=64)
    log_prior(sampler.info, prior)  # a model without labels is refused before a text is read
    vocabulary = sampler.vocabulary
    inputs = [
        TextInput(text) if text == "-" or _is_file(text) else TextInput.of_argument(text, vocabulary)
        for text in texts or ["-"]
    ]
    output = TextOutput(vocabulary)
    for lines in stripped_lines(inputs, vocabulary):
        if unknown == "error":
            for line in lines:
                check_known(line, sampler.info)
        found = sampler.classify_batch([line.text for line in lines], prior=prior, unknown=unknown)
        for line, probabilities in zip(lines, found, strict=True):
            label = next(iter(probabilities))
            if as_json:
                text = line.text if isinstance(line.text, str) else line.text.decode("utf-8", "replace")
                write_json({"text": text, "label": label, "probabilities": probabilities})
                continue
            output.write(f"{label}\t{probabilities[label]:.4f}\t")
            output.write_given(line.text)
            output.write("\n")
        output.flush()


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a zero character
        return False
