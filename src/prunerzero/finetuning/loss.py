"""Next-token loss with a gradient that passes over the logits once, a few positions at a time.

Over a vocabulary of 50 thousand, the float32 copies that autograd makes of a batch's logits take
as long as a third of the model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunerzero.evaluation.batches import CACHED_LOGITS, log_normaliser, target_losses


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean negative log-likelihood of each window's tokens but its first, in nats.

    Args:
        logits: ``[windows, length, vocabulary]`` in the precision of the pass; overwritten by
            their gradient in the backward pass.
        ids: the windows' token ids ``[windows, length]``.
    """
    loss: Tensor = _NextTokenLoss.apply(logits, ids)
    return loss


class _NextTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        normaliser = log_normaliser(logits[:, :-1])
        ctx.save_for_backward(logits.detach(), ids, normaliser)
        return target_losses(logits[:, :-1], normaliser, ids[:, 1:]).mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, ids, normaliser = ctx.saved_tensors
        targets = ids[:, 1:]
        scale = gradient / targets.numel()
        positions = max(1, CACHED_LOGITS // logits.shape[-1])
        for window, expected, norms in zip(logits, targets, normaliser, strict=True):
            for start in range(0, len(expected), positions):
                place = slice(start, min(start + positions, len(expected)))
                likely = (window[place].float() - norms[place, None]).exp_()
                rows = torch.arange(likely.shape[0], device=likely.device)
                likely[rows, expected[place]] -= 1
                window[place] = likely.mul_(scale)
            window[-1] = 0  # predicts what follows the window
        return logits, None
