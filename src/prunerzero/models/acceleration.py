"""2:4 matrices as semi-structured sparse tensors, which NVIDIA GPUs multiply faster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.errors import InputError
from prunerzero.models.blocks import EVERYTHING, Matrix, Selection, prunable_matrices

PATTERN = "2:4"
# Both dimensions must be multiples of these for torch's kernels, whatever the half precision.
ROWS, COLUMNS = 32, 64
HALF = (torch.float16, torch.bfloat16)
# Tokens of the comparison with the dense model.
TOKENS = 512
REPEATS = 5
# Largest deviation of the logits, relative to their norm: another order of half-precision sums.
TOLERANCE = 2e-2


@dataclass(frozen=True)
class Acceleration:
    """What was made sparse, and what that changed.

    Attributes:
        converted: names of the matrices that are semi-structured tensors now.
        skipped: why the others are not, by name.
        deviation: norm of the change of the logits over their norm.
        speedup: seconds of a dense forward pass of `TOKENS` tokens over those of the sparse one.
    """

    converted: tuple[str, ...]
    skipped: Mapping[str, str]
    deviation: float
    speedup: float

    def __str__(self) -> str:
        total = len(self.converted) + len(self.skipped)
        return (
            f"{len(self.converted)} of {total} matrices semi-structured, {self.speedup:.2f} times "
            f"as fast as dense on {TOKENS} tokens, logits differ by {self.deviation:.1e}"
        )


def accelerate(model: nn.Module, selection: Selection = EVERYTHING) -> Acceleration:
    """Turns a model's 2:4 matrices into semi-structured tensors, in place.

    Args:
        model: a causal LM on a CUDA device, in half precision.
        selection: which matrices to look at.

    Raises:
        InputError: if the model is not on a GPU, nothing in it can be converted, or the sparse
            model predicts something else than the dense one.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        raise InputError(f"accelerate '{PATTERN}': needs a CUDA device, the model is on {device}")
    reasons = {m.name: (m, obstacle(m)) for m in prunable_matrices(model, selection)}
    skipped = {name: reason for name, (_, reason) in reasons.items() if reason}
    chosen = [matrix for matrix, reason in reasons.values() if not reason]
    if not chosen:
        name, reason = next(iter(skipped.items()))
        raise InputError(
            f"accelerate '{PATTERN}': no matrix can be converted ({name}: {reason}); prune with "
            f"--pattern {PATTERN} and load in bfloat16 or float16"
        )
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (1, TOKENS), generator=generator).to(device)
    before, dense_seconds = _predict(model, tokens)
    for matrix in chosen:
        sparse = torch.sparse.to_sparse_semi_structured(matrix.weight.contiguous())
        setattr(matrix.module, matrix.attribute, nn.Parameter(sparse, requires_grad=False))
    after, seconds = _predict(model, tokens)
    deviation = float((after - before).norm() / before.norm())
    if not deviation <= TOLERANCE:
        raise InputError(
            f"accelerate '{PATTERN}': logits of the sparse model differ by {deviation:.1e} from "
            f"the dense one's, more than {TOLERANCE:.0e}; load it dense"
        )
    names = tuple(matrix.name for matrix in chosen)
    return Acceleration(names, skipped, deviation, dense_seconds / seconds)


def obstacle(matrix: Matrix) -> str:
    """Why a matrix cannot be a semi-structured tensor; empty if it can."""
    weight = matrix.weight
    rows, columns = weight.shape
    if matrix.expert is not None or matrix.transposed:
        return "not stored as [out, in] in a layer of its own"
    if weight.dtype not in HALF:
        return f"{weight.dtype} is no half precision"
    if rows % ROWS or columns % COLUMNS:
        return f"{rows} x {columns}: must be multiples of {ROWS} and {COLUMNS}"
    if int((weight.reshape(-1, 4) != 0).sum(1).max()) > 2:
        return f"not {PATTERN}"
    return ""


@torch.inference_mode()
def _predict(model: nn.Module, tokens: Tensor) -> tuple[Tensor, float]:
    """Logits, and the seconds of one forward pass."""
    network: Any = model
    logits: Tensor = network(tokens, use_cache=False).logits.float()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(REPEATS):
        network(tokens, use_cache=False)
    torch.cuda.synchronize()
    return logits, (time.perf_counter() - began) / REPEATS
