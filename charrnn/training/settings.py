"""The settings of a run: what the user gave, what a preset or an earlier run adds, and what is chosen for the rest."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from charrnn.config import BUDGETS, DROPOUTS, DataConfig, ModelConfig, TrainConfig, options
from charrnn.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from charrnn_runtime import Vocabulary
    from torch import Tensor

    from charrnn.data.corpus import Corpus
    from charrnn.runs.checkpoint import Checkpoint

CONFIGS = (ModelConfig, DataConfig, TrainConfig)
FIXED = ("batch_size", "optimizer", "init", "seed")  # fields of TrainConfig that a resumed run keeps


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run, and where they came from.

    Attributes:
        model, data, train: the configurations.
        given: the values that the user or a preset has set, by field name.
        checkpoint: the run to resume.
        origin: the model to begin with.
        weights: its weights, with rows for the characters of the text that are new to it.
        ends_after: seconds after which the run should end, if that is before its time is used up.
        notes: sentences for the user.
    """

    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    given: Mapping[str, Any]
    checkpoint: Checkpoint | None = None
    origin: Checkpoint | None = None
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)
    ends_after: float | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_options(cls, given: Mapping[str, Any], *, preset: str | None = None) -> Self:
        """The default values, replaced by those of a preset, replaced by those that the user gave.

        Args:
            given: values by field name; None means that it is not given.
            preset: the name of a preset.

        Raises:
            ConfigError: an option is unknown, a value cannot be used, or there is no such preset.
        """
        given = {name: value for name, value in given.items() if value is not None}
        check_names(given)
        if preset is not None:
            from charrnn.training import presets

            recipe = presets.preset(preset).options
            if given.keys() & set(BUDGETS):
                recipe = {name: value for name, value in recipe.items() if name not in BUDGETS}
            given = recipe | given

        def values_of(config: type) -> dict[str, Any]:
            return {option.name: given[option.name] for option in options(config) if option.name in given}

        model, data = ModelConfig(**values_of(ModelConfig)), DataConfig(**values_of(DataConfig))
        train = TrainConfig(**values_of(TrainConfig))
        values = model.to_json() | data.to_json() | train.to_json()
        return cls(model=model, data=data, train=train, given={name: values[name] for name in given})

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary that the run begins with."""
        # A resumed run may itself have begun with another model's vocabulary.
        source = self.checkpoint or self.origin
        return source.vocabulary if source else None

    def resuming(self, checkpoint: Checkpoint) -> Self:
        """The run's own settings. A new budget or rate may be given; another architecture or text may not.

        Raises:
            CheckpointError: other settings were given; names the differences.
        """
        train = {option.name: self.given[option.name] for option in options(TrainConfig) if option.name in self.given}
        own = checkpoint.model_config.to_json() | checkpoint.data_config.to_json()
        own |= {name: getattr(checkpoint.train_config, name) for name in FIXED}
        _check_same(self.given, own, "a run is resumed as it was begun", "the run has")
        if any(value != getattr(checkpoint.train_config, name) for name, value in train.items() if name in BUDGETS):
            # The limit of passes was chosen for the earlier budget.
            train = dict.fromkeys((*BUDGETS, "max_epochs")) | train
        return replace(
            self,
            model=checkpoint.model_config,
            data=checkpoint.data_config,
            train=replace(checkpoint.train_config, **train),
            checkpoint=checkpoint,
        )

    def starting_from(self, origin: Checkpoint) -> Self:
        """The architecture and the kind of tokens of another model; of the architecture, only the dropouts may differ.

        Raises:
            CheckpointError: other settings were given; names the differences.
        """
        model, own = origin.model_config, origin.data_config.to_json()
        fixed = {name: value for name, value in model.to_json().items() if name not in DROPOUTS}
        _check_same(self.given, fixed, "--init-from takes the weights as they are", "it has")
        inherited = {name: own[name] for name in ("bytes", "normalize")}
        _check_same(self.given, inherited, "--init-from keeps the model's kind of tokens", "it has")
        # test_frac: if the text is the same, its test part stays untouched.
        inherited |= {name: own[name] for name in ("newlines", "min_count", "test_frac") if name not in self.given}
        if not self.data.has_items:  # a model of items goes on with items
            inherited |= {name: own[name] for name in ("lines", "separator", "column", "delimiter", "label")}
        return replace(
            self,
            model=replace(model, **{name: self.given[name] for name in DROPOUTS if name in self.given}),
            data=replace(self.data, **inherited),
            origin=origin,
        )

    def completed(self, corpus: Corpus) -> Self:
        """With the text known: weights for its vocabulary, and values for what was not given."""
        if self.checkpoint is not None:
            return self
        notes = list(self.notes)
        given = set(self.given)
        weights = None
        if self.origin is not None:
            from charrnn.training import finetune

            weights = finetune.grown_weights(self.origin, corpus.vocabulary)
            if new := finetune.describe_new(self.origin.vocabulary, corpus.vocabulary):
                notes.append(new)
            given |= {"hidden_size", "lr_boost"}  # a boost helps only models that begin with random weights
        from charrnn.training import defaults

        choice = defaults.choose_here(self.model, self.train.with_budget(), given=given, corpus=corpus, data=self.data)
        if choice.reason:
            notes.append(choice.reason)
        data = self.data
        if choice.val_max is not None and "val_max" not in self.given:
            data = replace(data, val_max=min(data.val_max, choice.val_max))
        return replace(
            self,
            model=choice.model,
            data=data,
            train=choice.train,
            weights=weights,
            ends_after=choice.ends_after,
            notes=tuple(notes),
        )


def check_names(given: Mapping[str, Any]) -> None:
    """Raises ConfigError for an option that does not exist; names those that look like it."""
    known = [option.name for config in CONFIGS for option in options(config)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name.replace("-", "_"), known, cutoff=0.7)
            hint = f"did you mean {' or '.join(near)}?" if near else "charrnn train --help lists all options"
            raise ConfigError(f"there is no option {name!r}; {hint}")


def _check_same(given: Mapping[str, Any], own: Mapping[str, Any], rule: str, owner: str) -> None:
    """Raises CheckpointError for given values that are not those of an existing model."""
    differences = [
        f"--{name.replace('_', '-')} {value} ({owner} {own[name]})"
        for name, value in given.items()
        if name in own and own[name] != value
    ]
    if differences:
        raise CheckpointError(f"{rule}; leave out {', '.join(differences)}")
