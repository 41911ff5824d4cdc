"""Two models on the same windows, position by position: what they predict and how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunerzero.evaluation.batches import log_normaliser, next_token_logits, target_losses
from prunerzero.evaluation.perplexity import Estimate, TextLoss, mean_estimate
from prunerzero.models.compute import Compute
from prunerzero.progress import Advance, silent


@dataclass(frozen=True)
class TokenReadings:
    """What two models say at each predicted position; all tensors ``[windows, length - 1]``.

    Attributes:
        targets: ids of the tokens that are there.
        kl: KL(dense || model) over the whole vocabulary, nats.
        agrees: whether both models hold the same next token for the most likely.
        losses: the model's negative log-likelihood of the target, nats.
        dense_losses: the dense model's.
    """

    targets: Tensor
    kl: Tensor
    agrees: Tensor
    losses: Tensor
    dense_losses: Tensor

    @classmethod
    def join(cls, parts: Sequence[TokenReadings]) -> TokenReadings:
        """Readings of the windows of all parts, in order."""
        return cls(
            *(
                torch.cat([getattr(part, field) for part in parts])
                for field in cls.__dataclass_fields__
            )
        )

    def loss(self) -> TextLoss:
        """The model's loss by window."""
        return _text_loss(self.losses)

    def dense_loss(self) -> TextLoss:
        """The dense model's loss by window."""
        return _text_loss(self.dense_losses)

    def mean_kl(self, seed: int) -> Estimate:
        """Divergence a token, nats."""
        return _mean(self.kl, seed)

    def agreement(self, seed: int) -> Estimate:
        """Share of positions where both models would write the same token."""
        return _mean(self.agrees, seed)


def compare_predictions(
    model: nn.Module,
    dense: nn.Module,
    tokens: Tensor,
    compute: Compute,
    dense_compute: Compute,
    advance: Advance = silent,
) -> TokenReadings:
    """Runs both models over token windows.

    Args:
        model: the model of interest.
        dense: the model it is measured against, of the same vocabulary.
        tokens: ids ``[windows, length]``.
        compute: device and precision of ``model``.
        dense_compute: those of ``dense``.
        advance: called with the number of windows done.
    """
    parts = []
    passes = zip(
        next_token_logits(dense, tokens, dense_compute),
        next_token_logits(model, tokens, compute, advance),
        strict=True,
    )
    for (dense_logits, dense_targets), (logits, targets) in passes:
        normaliser, dense_normaliser = log_normaliser(logits), log_normaliser(dense_logits)
        logits_there = logits.to(dense_logits.device)
        normaliser_there = normaliser.to(dense_logits.device)
        parts.append(
            TokenReadings(
                targets=targets.cpu(),
                kl=full_kl(dense_logits, dense_normaliser, logits_there, normaliser_there).cpu(),
                agrees=(dense_logits.argmax(-1) == logits_there.argmax(-1)).cpu(),
                losses=target_losses(logits, normaliser, targets).cpu(),
                dense_losses=target_losses(dense_logits, dense_normaliser, dense_targets).cpu(),
            )
        )
    return TokenReadings.join(parts)


def full_kl(
    dense_logits: Tensor, dense_normaliser: Tensor, logits: Tensor, normaliser: Tensor
) -> Tensor:
    """KL(dense || model) over the whole vocabulary, window by window to save memory.

    Args:
        dense_logits: ``[windows, positions, vocabulary]``, of any precision.
        dense_normaliser: their logsumexp ``[windows, positions]``.
        logits: the model's, same shape.
        normaliser: their logsumexp.

    Returns:
        ``sum_v p_v (log p_v - log q_v)``, ``[windows, positions]``, never negative.
    """
    found = []
    for dense_row, dense_norm, row, norm in zip(
        dense_logits, dense_normaliser, logits, normaliser, strict=True
    ):
        log_p = dense_row.float() - dense_norm[:, None]
        log_q = row.float() - norm[:, None]
        found.append(F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1))
    # Rounding can leave a hair less than nothing.
    return torch.stack(found).clamp(min=0.0)


def _text_loss(losses: Tensor) -> TextLoss:
    return TextLoss(tuple(losses.mean(1).tolist()), losses.numel())


def _mean(values: Tensor, seed: int) -> Estimate:
    positions = [float(values.shape[1])] * len(values)
    return mean_estimate(values.double().sum(1).tolist(), positions, seed=seed)
