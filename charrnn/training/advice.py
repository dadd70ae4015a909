"""Advice on the size of a model for its text, after char-rnn's README."""

from __future__ import annotations

MOST_DROPOUT = 0.6  # that is suggested, and that the recipe takes


def size_advice(parameters: int, characters: int, dropout: float) -> str:
    """What the ratio of parameters to training characters suggests."""
    ratio = parameters / characters
    described = (
        f"{parameters:,} parameters for {characters:,} training characters ({ratio:.2f} a character)"
        if ratio < 10
        else f"{parameters:,} parameters for {characters:,} training characters ({ratio:.0f} a character)"
    )
    if ratio > 3:
        hint = "many more parameters than characters: it will learn the text by heart unless --dropout is high"
        return f"{described}: {hint}" + (" (0.3 to 0.5) or the model smaller" if dropout < 0.3 else "")
    if ratio > 0.3:
        return f"{described}: the same order of magnitude, as it should be" + (
            "; if the validation loss turns up, try --dropout 0.2" if dropout == 0 else ""
        )
    return f"{described}: plenty of text; with more time, a larger --hidden-size will reach a lower loss"


def loss_advice(*, train_loss: float, val_loss: float, best_val_loss: float, dropout: float) -> str:
    """What the losses at the end of a run suggest for the next one (nats per character)."""
    gap = val_loss - train_loss
    described = f"training {train_loss:.3f}, validation {val_loss:.3f}"
    if val_loss > best_val_loss + 0.01 or gap > max(0.35, 0.25 * val_loss):
        if dropout >= MOST_DROPOUT - 0.05:
            return f"{described}: overfitting, and more dropout than {dropout:g} rarely helps; more text would"
        more = min(MOST_DROPOUT, dropout + 0.2)
        return f"{described}: overfitting; try --dropout {more:.1f}, a smaller --hidden-size, or more text"
    if gap < 0.05 * val_loss:
        less = "; less --dropout," if dropout else ";"
        return f"{described}: underfitting{less} a larger --hidden-size or more time will lower both"
    return f"{described}: a healthy gap; more time, or a larger --hidden-size with more --dropout, may still help"
