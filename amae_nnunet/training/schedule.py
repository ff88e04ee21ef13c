"""The learning rate of the fine-tuning, an epoch at a time (the paper names no schedule).

nnU-Net's polynomial decay. With ``warmup_epochs`` W it starts after a linear rise, and with
``layer_decay`` each group of parameters has its own share of it::

    lr(e) = lr * (e + 1) / W                                   e < W
    lr(e) = lr * (1 - (e - W) / (num_epochs - W)) ** 0.9       e >= W

It is a function of the epoch alone, so a training that is continued goes on with the same rates.
"""

from __future__ import annotations

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim import Optimizer


class WarmUpPolyLR(PolyLRScheduler):
    """nnU-Net's scheduler after a warm-up, times the ``lr_scale`` of each group that has one."""

    def __init__(
        self, optimizer: Optimizer, initial_lr: float, num_epochs: int, warmup_epochs: int
    ) -> None:
        self.warmup_epochs = warmup_epochs
        super().__init__(optimizer, initial_lr, num_epochs - warmup_epochs)

    def step(self, current_step: int | None = None) -> None:
        """Set the rates of an epoch (the next one where none is given)."""
        if current_step is None or current_step == -1:
            current_step = self.ctr
            self.ctr += 1
        super().step(max(0, current_step - self.warmup_epochs))
        rise = min(1.0, (current_step + 1) / max(1, self.warmup_epochs))
        for group in self.optimizer.param_groups:
            group["lr"] *= rise * group.get("lr_scale", 1.0)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
