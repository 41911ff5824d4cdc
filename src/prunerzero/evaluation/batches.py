"""Forward passes over token windows, and what the next-token distribution says there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from prunerzero.models.compute import Compute
from prunerzero.models.passes import run_whole
from prunerzero.progress import Advance, silent
from prunerzero.timelimit import check_time

# Tokens a forward pass: large enough for full matrix speed, small enough that the logits over a
# vocabulary of 50 thousand stay near 200 MB.
BATCH_TOKENS = 1024
# Logits whose exponentials are taken at a time on a CPU: 2 MiB of float32 stay in cache, where the
# temporaries of a whole batch (200 MB) would go through memory.
CACHED_LOGITS = 1 << 19


def batches(tokens: Tensor, batch_tokens: int = BATCH_TOKENS) -> tuple[Tensor, ...]:
    """Splits windows ``[count, length]`` into batches of about ``batch_tokens`` tokens."""
    return tokens.split(max(1, batch_tokens // tokens.shape[1]))


def next_token_logits(
    model: nn.Module,
    tokens: Tensor,
    compute: Compute,
    advance: Advance = silent,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields, a batch at a time, the logits that predict each window's tokens but the first.

    Yields:
        ``(logits [batch, length - 1, vocabulary], targets [batch, length - 1])``. The logits are
        in the precision of the pass (`log_normaliser` and `target_losses` compute in float32) and
        may be an inference tensor: read only.

    Raises:
        TooSlow: a time limit was over before a batch.
    """
    done = 0
    for batch in batches(tokens, batch_tokens):
        check_time()
        ids = batch.to(compute.device)
        with torch.inference_mode(), compute.autocast():
            logits = run_whole(model, ids)
        done += len(batch)
        advance(done)
        yield logits[:, :-1], ids[:, 1:]


def log_normaliser(logits: Tensor) -> Tensor:
    """Logsumexp over the vocabulary in float32, a few positions at a time.

    Args:
        logits: ``[batch, positions, vocabulary]``.

    Returns:
        ``[batch, positions]``; not for gradients, whose backward pass wants one operation.
    """
    if logits.device.type != "cpu":
        return torch.logsumexp(logits.float(), -1)
    positions = max(1, CACHED_LOGITS // logits.shape[-1])
    found = torch.empty(logits.shape[:-1])
    for window, row in zip(logits, found, strict=True):
        for part, place in zip(window.split(positions), row.split(positions), strict=True):
            torch.logsumexp(part.float(), -1, out=place)
    return found


def target_losses(logits: Tensor, log_normaliser: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target: ``logsumexp(z) - z[target]``.

    Args:
        logits: ``[..., vocabulary]``, of any precision.
        log_normaliser: ``[...]``, the logits' logsumexp.
        targets: ``[...]`` token ids.

    Returns:
        ``[...]`` in nats.
    """
    return log_normaliser - logits.gather(-1, targets[..., None]).squeeze(-1).float()
