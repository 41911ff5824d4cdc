"""Kullback-Leibler divergence of a pruned model from the dense one, from a compact record.

The dense model's distribution at each position is kept as its most likely tokens and the mass
of all others together. The divergence over that coarser partition bounds the full one from below
and needs 200 times less memory than full log-probabilities (SmolLM2's vocabulary: 49 thousand).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunerzero.evaluation.batches import (
    BATCH_TOKENS,
    batches,
    log_normaliser,
    next_token_logits,
    target_losses,
)
from prunerzero.models.compute import Compute
from prunerzero.progress import Advance, silent

KEPT_TOKENS = 256
# Bytes of a reference's tokens and log-probabilities. More windows than fit (a quarter of a million
# positions) are told apart by fewer tokens each: still a lower bound, only a looser one.
MOST_BYTES = 512 << 20
BYTES_PER_TOKEN = 8  # an int32 and a float32
# The tail's mass is computed as a difference; this keeps its logarithm finite in float32.
SMALLEST_TAIL = 1e-6


@dataclass(frozen=True)
class DenseBatch:
    """What is kept of the dense model for one batch of windows.

    Attributes:
        tokens: token ids ``[batch, length]``.
        top: ids of the most likely next tokens ``[batch, length - 1, kept]``, int32.
        log_top: their log-probabilities, same shape.
        log_tail: log of the mass of all other tokens ``[batch, length - 1]``.
        losses: negative log-likelihood of each actual next token ``[batch, length - 1]``.
    """

    tokens: Tensor
    top: Tensor
    log_top: Tensor
    log_tail: Tensor
    losses: Tensor


@dataclass(frozen=True)
class Divergence:
    """Per-window means of a pruned model's divergence and loss.

    Attributes:
        kl: mean KL(dense || pruned) of each window, nats a token.
        losses: mean negative log-likelihood of each window, nats a token.
    """

    kl: tuple[float, ...]
    losses: tuple[float, ...]

    def __add__(self, other: Divergence) -> Divergence:
        return Divergence(self.kl + other.kl, self.losses + other.losses)

    def first(self, windows: int) -> Divergence:
        """The readings of the first ``windows`` windows."""
        return Divergence(self.kl[:windows], self.losses[:windows])

    @property
    def mean_kl(self) -> float:
        """Mean over windows."""
        return math.fsum(self.kl) / len(self.kl)

    @property
    def mean_loss(self) -> float:
        """Mean over windows."""
        return math.fsum(self.losses) / len(self.losses)


class DenseReference:
    """The dense model's predictions on a set of windows.

    Args:
        model: the dense causal LM.
        tokens: windows ``[count, length]``.
        compute: device and precision.
        advance: called with the number of windows done.
        batch_tokens: tokens of a forward pass, here and when a model is measured.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: Tensor,
        compute: Compute,
        advance: Advance = silent,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self.compute = compute
        self.tokens = tokens
        self.batch_tokens = batch_tokens
        self.batches: list[DenseBatch] = []
        passes = next_token_logits(model, tokens, compute, advance, batch_tokens)
        for ids, (logits, targets) in zip(batches(tokens, batch_tokens), passes, strict=True):
            normaliser = log_normaliser(logits)
            top = logits.topk(_kept(tokens, logits.shape[-1]), -1)
            log_top = top.values.float() - normaliser[..., None]
            self.batches.append(
                DenseBatch(
                    tokens=ids,
                    top=top.indices.to(torch.int32),
                    log_top=log_top,
                    log_tail=_log_tail(log_top),
                    losses=target_losses(logits, normaliser, targets),
                )
            )

    def measure(self, model: nn.Module) -> Divergence:
        """Divergence and loss of ``model`` on the windows."""
        kl: list[float] = []
        losses: list[float] = []
        passes = next_token_logits(model, self.tokens, self.compute, batch_tokens=self.batch_tokens)
        for batch, (logits, targets) in zip(self.batches, passes, strict=True):
            normaliser = log_normaliser(logits)
            kl.extend(position_kl(logits, normaliser, batch).mean(1).tolist())
            losses.extend(target_losses(logits, normaliser, targets).mean(1).tolist())
        return Divergence(tuple(kl), tuple(losses))


def position_kl(logits: Tensor, normaliser: Tensor, dense: DenseBatch) -> Tensor:
    """KL(dense || model) at each position, over the dense model's top tokens and the tail.

    Args:
        logits: the model's, ``[batch, length - 1, vocabulary]``, of any precision.
        normaliser: their logsumexp, ``[batch, length - 1]``.
        dense: the dense model's record for the same windows.

    Returns:
        ``sum_k p_k (log p_k - log q_k)``, ``[batch, length - 1]``, never negative.
    """
    log_model = logits.gather(-1, dense.top.long()).float() - normaliser[..., None]
    kept = (dense.log_top.exp() * (dense.log_top - log_model)).sum(-1)
    tail = dense.log_tail.exp() * (dense.log_tail - _log_tail(log_model))
    # Rounding, and the floor under the tail's mass, can leave a hair less than nothing.
    return (kept + tail).clamp(min=0.0)


def _kept(tokens: Tensor, vocabulary: int) -> int:
    """How many next tokens to keep at each position of the windows, within `MOST_BYTES`."""
    affordable = MOST_BYTES // (BYTES_PER_TOKEN * tokens.numel())
    return max(1, min(KEPT_TOKENS, vocabulary - 1, affordable))


def _log_tail(log_top: Tensor) -> Tensor:
    return torch.log1p(-log_top.exp().sum(-1).clamp(max=1 - SMALLEST_TAIL))
