"""Advice at the end of a run."""

from __future__ import annotations

from charrnn.training import advice, defaults
from charrnn.training.advice import loss_advice


def test_advice_by_the_gap_between_training_and_validation_loss() -> None:
    assert "overfitting" in loss_advice(train_loss=0.6, val_loss=1.6, best_val_loss=1.5, dropout=0.0)
    assert "overfitting" in loss_advice(train_loss=1.42, val_loss=1.472, best_val_loss=1.46, dropout=0.0)
    assert "try --dropout 0.6" in loss_advice(train_loss=1.1, val_loss=1.75, best_val_loss=1.75, dropout=0.5)
    much = loss_advice(train_loss=1.1, val_loss=1.75, best_val_loss=1.75, dropout=0.6)
    assert "more text would" in much
    assert "try" not in much
    assert "underfitting" in loss_advice(train_loss=1.80, val_loss=1.82, best_val_loss=1.82, dropout=0.2)
    assert "healthy" in loss_advice(train_loss=1.3, val_loss=1.5, best_val_loss=1.5, dropout=0.2)


def test_the_advice_and_the_recipe_have_the_same_limit_of_dropout() -> None:
    assert defaults.fitting_dropout(1000.0, 100.0) == advice.MOST_DROPOUT
