"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import inspect
import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from charrnn.config import TrainConfig
from charrnn.model.char_rnn import CharRNN
from charrnn.training.device import choose_precision

# Muon's learning rate over AdamW's. The size of an orthogonal update does not depend on the gradient's.
MUON_LR_RATIO = 5.0
LR_BOOST_STEPS = 100

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)
_WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def eager(kind: type[Kind]) -> type[Kind]:
    """A class of optimizers without torch's wrappers for ``torch.compile``, which is not used here.

    The first call of a wrapped method imports the compiler, which takes more time than anything else at the start of a
    training.
    """
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


@eager
class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): momentum whose update is made orthogonal, here gate by gate.

    The matrix of a recurrent layer is a stack of G gates, ``[G*H, I]``, and
    each gate is a linear map of its own. torch.optim.Muon makes the whole stack
    orthogonal; to make each gate orthogonal trains better.

    Args:
        params: stacked matrices ``[G*H, I]``, or groups of them, each with its own ``gates``.
        gates: G, for groups that do not have it.
        lr: step size in units of the update's spectral norm, about 1.
        momentum: decay of the gradient's running mean (Nesterov's form is used).
        weight_decay: decoupled, times lr.
    """

    def __init__(
        self, params: ParamsT, *, gates: int = 1, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "gates": gates})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Makes one update; ``closure`` is not used."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            # Matrices of one shape form a batch, since the iteration consists of many small products.
            for params in alike.values():
                self._update(params, group)

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        means = []
        for p in params:
            state = self.state[p]
            if "mean" not in state:
                state["mean"] = torch.zeros_like(p)
            means.append(state["mean"])
        torch._foreach_lerp_(means, grads, 1 - group["momentum"])
        stacked = torch.stack(torch._foreach_lerp(grads, means, group["momentum"]))
        updates = _orthogonal(stacked.view(len(params) * group["gates"], -1, stacked.shape[-1])).reshape(stacked.shape)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, updates.unbind(), alpha=-group["lr"])


def _orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest orthogonal matrices, ``[G, H, I]``; most singular values end up between 0.7 and 1.2.

    Five steps of a quintic Newton-Schulz iteration with the coefficients of
    Jordan et al. (2024). bfloat16 is exact enough for a direction, but only
    processors with instructions for it gain from it: on the others such a
    product takes 14 times as long as in float32. With four steps an update
    takes 8 % less time, and the trained model is 0.01 nats worse.
    """
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if choose_precision("auto", x.device) == "bf16":
        x = x.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    for _ in range(5):
        a = x @ x.mT
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return (x.mT if tall else x).to(matrices.dtype)


class Optimizers:
    """The optimizer that the configuration names. "muon" is two: Muon for recurrent matrices, AdamW for the rest."""

    def __init__(self, model: CharRNN, config: TrainConfig) -> None:
        hidden_size = model.config.hidden_size
        matrices: dict[int, list[Tensor]] = {}  # by number of gates
        if config.optimizer == "muon":
            for p in (p for layer in model.layers for p in layer.parameters()):
                if p.ndim == 2 and p.shape[0] % hidden_size == 0:
                    matrices.setdefault(p.shape[0] // hidden_size, []).append(p)
        ids = {id(p) for group in matrices.values() for p in group}
        rest = [p for p in model.parameters() if id(p) not in ids]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        first: torch.optim.Optimizer
        if config.optimizer == "rmsprop":
            first = eager(torch.optim.RMSprop)(groups, lr=config.lr, alpha=0.95)  # char-rnn's decay_rate
        elif config.optimizer == "adam":
            first = eager(torch.optim.Adam)(groups, lr=config.lr, fused=True)
        else:
            first = eager(torch.optim.AdamW)(groups, lr=config.lr, betas=(0.9, 0.99), fused=True)
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = [(first, config.lr)]
        if matrices:
            lr = config.lr * MUON_LR_RATIO
            stacked = [{"params": group, "gates": gates} for gates, group in matrices.items()]
            muon = Muon(stacked, lr=lr, weight_decay=config.weight_decay)
            self._optimizers.append((muon, lr))
        self._parameters = list(model.parameters())
        self._clip_norm = config.grad_clip or math.inf
        self._grad_clip_value = config.grad_clip_value

    def step(self, factor: float) -> Tensor:
        """Clips the gradients, updates the weights, and clears the gradients.

        Args:
            factor: the learning rate, as a part of its peak.

        Returns:
            The norm of the gradient before clipping, a scalar on the device.
        """
        if self._grad_clip_value:
            norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
            nn.utils.clip_grad_value_(self._parameters, self._grad_clip_value)
        else:
            norm = nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        for optimizer, peak in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> list[dict[str, Any]]:
        """The optimizers' states."""
        return [optimizer.state_dict() for optimizer, _ in self._optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Inverse of ``state_dict``."""
        for (optimizer, _), state in zip(self._optimizers, states, strict=True):
            settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(state)
            for group, ours in zip(optimizer.param_groups, settings, strict=True):
                group.update(ours)  # the settings of this run: a resumed run may have another weight decay


def schedule(config: TrainConfig, *, fraction: float, epoch: float, step: int) -> float:
    """The learning rate of a step, as a part of ``config.lr``.

    It rises linearly over the first ``warmup_steps`` steps. ``lr_boost``
    multiplies it at first, and falls to 1 over LR_BOOST_STEPS steps: a new
    model learns fastest with a rate that later would be too high.

    Args:
        config: the schedule. "cosine" falls to 0 over the budget, by half a cosine. "decay" multiplies the rate by
            ``lr_decay`` each time ``lr_decay_every`` epochs have ended, counted from ``lr_decay_after``.
        fraction: the part of the budget that is used up.
        epoch: number of passes over the training text so far.
        step: number of steps so far.
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    warm *= 1 + (config.lr_boost - 1) * max(0.0, 1 - step / LR_BOOST_STEPS)
    if config.schedule == "decay":
        # 1e-9: epochs are sums of fractions, and may end just below a whole number.
        ended = math.floor(max(0.0, epoch - config.lr_decay_after) / config.lr_decay_every + 1e-9)
        return warm * config.lr_decay**ended
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
