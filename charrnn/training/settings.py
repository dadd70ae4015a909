"""From what was given on the command line to the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.errors import CheckpointError

if TYPE_CHECKING:
    from charrnn_runtime import Vocabulary
    from torch import Tensor

    from charrnn.data.corpus import Corpus
    from charrnn.runs.checkpoint import Checkpoint

BUDGETS = {"time", "epochs", "steps"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A run's settings as they come together.

    Attributes:
        model, data, train: the configurations.
        model_given, data_given, train_given: what was given, by the user or a preset.
        checkpoint: the run to resume.
        origin: the model to begin with.
        weights: its weights, grown to the text's vocabulary.
        notes: what the user should be told.
    """

    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    model_given: Mapping[str, Any]
    data_given: Mapping[str, Any]
    train_given: Mapping[str, Any]
    checkpoint: Checkpoint | None = None
    origin: Checkpoint | None = None
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def given(
        cls, model: dict[str, Any], data: dict[str, Any], train: dict[str, Any], *, preset: str | None = None
    ) -> Self:
        """Defaults, under a preset's settings, under those that the user gave.

        Raises:
            ConfigError: a value cannot be used, or there is no such preset.
        """
        if preset is not None:
            from charrnn.training import presets

            recipe = presets.preset(preset)
            kept = {k: v for k, v in recipe.train.items() if k not in BUDGETS or not BUDGETS & set(train)}
            model, data, train = recipe.model | model, recipe.data | data, kept | train
        return cls(
            model=ModelConfig(**model),
            data=DataConfig(**data),
            train=TrainConfig(**train),
            model_given=model,
            data_given=data,
            train_given=train,
        )

    @property
    def arguments(self) -> list[str]:
        """What the resumed run was trained on."""
        return list(self.checkpoint.corpus["arguments"]) if self.checkpoint else []

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary to keep."""
        # A resumed run may itself have begun with another model's vocabulary.
        source = self.checkpoint or self.origin
        return source.vocabulary if source else None

    def resuming(self, checkpoint: Checkpoint) -> Self:
        """The run's own settings; a new budget or rate may be given, another architecture or text may not.

        Raises:
            CheckpointError: names the differences.
        """
        train = dict(self.train_given)
        fixed = {name: train[name] for name in ("batch_size", "optimizer", "init", "seed") if name in train}
        differences = [
            f"--{name.replace('_', '-')} {value} (the run has {getattr(config, name)})"
            for config, given in (
                (checkpoint.model_config, self.model_given),
                (checkpoint.data_config, self.data_given),
                (checkpoint.train_config, fixed),
            )
            for name, value in given.items()
            if getattr(config, name) != value
        ]
        if differences:
            raise CheckpointError(f"a run is resumed as it was begun; leave out {', '.join(differences)}")
        if BUDGETS & set(train):
            train = dict.fromkeys(BUDGETS) | train
        return replace(
            self,
            model=checkpoint.model_config,
            data=checkpoint.data_config,
            train=replace(checkpoint.train_config, **train),
            checkpoint=checkpoint,
        )

    def starting_from(self, origin: Checkpoint) -> Self:
        """The architecture and the kind of tokens of another model.

        Raises:
            CheckpointError: something else was given; names the differences.
        """
        from charrnn.training import finetune

        own = origin.data_config
        differences = [
            f"--{name} (it has {getattr(own, name)})"
            for name in ("bytes", "normalize")
            if name in self.data_given and self.data_given[name] != getattr(own, name)
        ]
        if differences:
            raise CheckpointError(f"--init-from keeps the model's kind of tokens; leave out {', '.join(differences)}")
        inherited = {name: getattr(own, name) for name in ("bytes", "normalize")}
        inherited |= {n: getattr(own, n) for n in ("newlines", "min_count") if n not in self.data_given}
        if not self.data.has_items:  # a model of items goes on with items
            inherited |= {n: getattr(own, n) for n in ("lines", "separator", "column")}
        return replace(
            self,
            model=finetune.architecture(origin, self.model_given),
            data=replace(self.data, **inherited),
            origin=origin,
        )

    def completed(self, corpus: Corpus) -> Self:
        """With the text known: weights for its vocabulary, and a choice of what nobody gave."""
        if self.checkpoint is not None:
            return self
        notes = list(self.notes)
        given = set(self.model_given) | set(self.train_given)
        weights = None
        if self.origin is not None:
            from charrnn.training import finetune

            weights = finetune.grown_weights(self.origin, corpus.vocabulary)
            if new := finetune.describe_new(self.origin.vocabulary, corpus.vocabulary):
                notes.append(new)
            given |= {"hidden_size", "lr_boost"}  # a boost is for a model that knows nothing yet
        from charrnn.training import defaults

        choice = defaults.choose_here(self.model, self.train.with_budget(), given=given, corpus=corpus, data=self.data)
        if choice.reason:
            notes.append(choice.reason)
        return replace(self, model=choice.model, train=choice.train, weights=weights, notes=tuple(notes))
