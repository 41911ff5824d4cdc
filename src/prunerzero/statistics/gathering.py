"""One pass over the calibration windows that gathers every statistic a recipe asks for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunerzero.errors import InputError
from prunerzero.models.compute import Compute
from prunerzero.models.matrices import Matrix
from prunerzero.models.passes import run_base, run_whole
from prunerzero.models.watching import watch_inputs
from prunerzero.progress import Advance, silent
from prunerzero.statistics.collectors import (
    ACTIVATION,
    BACKWARD,
    GRAM,
    INPUT,
    INSIDE,
    ROUTED,
    TOKEN_SUMS,
    TOKENS,
    forward,
)
from prunerzero.statistics.gradients import GradientSums
from prunerzero.statistics.regional import gather_regional

RawStatistics = dict[str, dict[str, Tensor]]

CACHED = 1 << 15  # numbers; torch's elementwise functions use more threads from here on


class ActivationSums:
    """Sums over all tokens seen, in float32: what takes no gradients.

    Layers that share one input (query, key and value) are given one reduction, and one Gram matrix
    between them. An expert's tokens are those that are routed to it.

    Args:
        matrices: the matrices to watch.
        wanted: which sums; those of gradients are left out.
    """

    def __init__(self, matrices: Iterable[Matrix], wanted: frozenset[str]) -> None:
        self._matrices = list(matrices)
        self._wanted = forward(wanted)
        self._sums: RawStatistics = {matrix.name: {} for matrix in self._matrices}
        self._last: tuple[Tensor, dict[str, Tensor]] | None = None
        self._readers: list[str] = []  # the matrices that have met the last input
        self._grams: dict[tuple[str, ...], Tensor] = {}  # by the matrices that met an input
        self._handles = watch_inputs(self._matrices, self._add)

    def _add(self, matrix: Matrix, inputs: Tensor, gates: Tensor | None) -> None:
        # The input tensor itself is kept so that its identity cannot be reused by another.
        if self._last is None or self._last[0] is not inputs:
            self._add_gram()
            self._last = (inputs, self._reduced(matrix, inputs.detach(), gates))
        self._readers.append(matrix.name)
        sums = self._sums[matrix.name]
        for name, value in self._last[1].items():
            sums[name] = _combined(name, sums[name], value) if name in sums else value.clone()

    def _reduced(self, matrix: Matrix, inputs: Tensor, gates: Tensor | None) -> dict[str, Tensor]:
        flat = inputs.reshape(-1, inputs.shape[-1])
        found = {}
        if ACTIVATION in self._wanted:
            found[ACTIVATION] = _square_sum(flat)
        if INPUT in self._wanted:
            found[INPUT] = flat.float().sum(0, keepdim=True)
        if TOKENS in self._wanted or GRAM in self._wanted:
            found[TOKENS] = flat.new_full((1, 1), len(flat), dtype=torch.float32)
        if ROUTED in self._wanted:
            if matrix.siblings and gates is None:
                raise InputError(
                    f"terminal R: this model does not show the router's weights for {matrix.name}"
                )
            found[ROUTED] = _square_sum(flat, gates)
        with torch.autocast(flat.device.type, enabled=False):
            for name in self._wanted & TOKEN_SUMS.keys():
                found[name] = TOKEN_SUMS[name].reduce(flat.float())
        return found

    def _add_gram(self) -> None:
        """Adds the last input's Gram matrix, now that it is known who has met that input."""
        if self._last is not None and GRAM in self._wanted:
            inputs, readers = self._last[0].detach(), tuple(self._readers)
            flat = inputs.reshape(-1, inputs.shape[-1]).float()
            with torch.autocast(flat.device.type, enabled=False):
                if readers in self._grams:
                    self._grams[readers].addmm_(flat.T, flat)
                else:
                    self._grams[readers] = flat.T @ flat
        self._last, self._readers = None, []

    def close(self) -> None:
        """Detaches from the model."""
        self._add_gram()
        for handle in self._handles:
            handle.remove()

    def sums(self) -> RawStatistics:
        """The sums; zeros for experts that no token met, and for layers that were not called.

        Matrices whose inputs were always the same are given the same Gram matrix, as one tensor.
        """
        found: RawStatistics = {}
        totals: dict[tuple[tuple[str, ...], ...], Tensor] = {}
        for matrix in self._matrices:
            sums = self._sums[matrix.name] or self._nothing(matrix)
            met = tuple(readers for readers in self._grams if matrix.name in readers)
            if met:
                if met not in totals:
                    first, *others = (self._grams[readers] for readers in met)
                    totals[met] = sum(others, start=first)
                sums = sums | {GRAM: totals[met]}
            found[matrix.name] = {name: sums[name] for name in self._wanted}
        return found

    def _nothing(self, matrix: Matrix) -> dict[str, Tensor]:
        columns = matrix.shape.columns
        zeros = torch.zeros(1, columns, device=matrix.parameter.device)
        sums = {ACTIVATION: zeros, ROUTED: zeros, INPUT: zeros, TOKENS: zeros[:, :1]}
        sums |= dict.fromkeys(TOKEN_SUMS, zeros)
        return sums | ({GRAM: zeros.new_zeros(columns, columns)} if GRAM in self._wanted else {})


def _combined(name: str, first: Tensor, second: Tensor) -> Tensor:
    own = TOKEN_SUMS.get(name)
    return own.combine(first, second) if own else first + second


def _square_sum(flat: Tensor, gates: Tensor | None = None) -> Tensor:
    """Sums ``(gate * input)^2`` over tokens in float32: ``[1, in]``.

    On a CPU a cacheful of rows at a time, few enough that torch does not share them among threads:
    `torch.linalg.vector_norm` along the first dimension takes ten times as long, more than the
    block's largest product.
    """
    size = CACHED if flat.device.type == "cpu" else flat.numel()
    rows = max(1, size // flat.shape[1])
    total = torch.zeros(1, flat.shape[1], device=flat.device)
    for start in range(0, len(flat), rows):
        part = flat[start : start + rows].float()
        if gates is not None:
            part = part * gates[start : start + rows, None].float()
        total += part.square().sum(0)
    return total


def fill_unreached(raw: RawStatistics, matrices: Iterable[Matrix]) -> list[str]:
    """Gives matrices that no token met statistics that can rank their weights.

    Experts are given the pooled statistics of the same block's other experts: activation sums and
    token counts are added up, so that they see their siblings' mean token; sums of gradients are
    averaged over the experts that were reached. Where there is nothing to pool (a layer that the
    model holds but does not call) all inputs and gradients count as equal, and inputs as unrelated.

    Args:
        raw: raw sums by matrix, changed in place.
        matrices: the matrices they belong to.

    Returns:
        Names of the matrices filled, in order.
    """
    stacks: dict[str, list[Matrix]] = defaultdict(list)
    for matrix in matrices:
        stacks[matrix.siblings or matrix.name].append(matrix)
    filled = set()
    for stack in stacks.values():
        for kind in raw[stack[0].name]:
            missing = [matrix for matrix in stack if not raw[matrix.name][kind].any()]
            if not missing:
                continue
            pooled = _pooled([raw[m.name][kind] for m in stack if m not in missing], kind)
            for matrix in missing:
                zeros = raw[matrix.name][kind]
                raw[matrix.name][kind] = _alike(zeros, kind) if pooled is None else pooled
                filled.add(matrix.name)
    return [matrix.name for stack in stacks.values() for matrix in stack if matrix.name in filled]


def _alike(zeros: Tensor, kind: str) -> Tensor:
    return torch.ones_like(zeros) if kind != GRAM else torch.ones_like(zeros).diag().diag()


def _pooled(reached: list[Tensor], kind: str) -> Tensor | None:
    if not reached:
        return None
    total = reduce(partial(_combined, kind), reached)
    return total / len(reached) if kind in BACKWARD | INSIDE else total


def gather_raw(
    model: nn.Module,
    matrices: list[Matrix],
    tokens: Tensor,
    wanted: frozenset[str],
    compute: Compute,
    advance: Advance = silent,
) -> RawStatistics:
    """Gathers raw sums from the dense model, in evaluation mode, one window at a time.

    With gradients wanted, activations are read off the forward half of the same pass. Regional
    gradients take a pass of their own.

    Args:
        model: the dense causal LM.
        matrices: the matrices to gather for.
        tokens: calibration token ids ``[windows, length]``.
        wanted: raw sums, see `prunerzero.statistics.collectors`.
        compute: device and precision.
        advance: called with the number of windows done.

    Returns:
        ``{matrix name: {raw sum: tensor}}`` on the model's device.
    """
    found: RawStatistics = {matrix.name: {} for matrix in matrices}
    if wanted & INSIDE:
        found = gather_regional(model, matrices, tokens, compute, advance)
        wanted = wanted - INSIDE
        if not wanted:
            return found
    activations = ActivationSums(matrices, wanted) if forward(wanted) else None
    gradients = GradientSums(model, matrices, wanted) if wanted & BACKWARD else None
    try:
        for done, window in enumerate(tokens.to(compute.device).split(1), start=1):
            if gradients is None:
                with torch.no_grad():
                    run_base(model, window, compute)
            else:
                with torch.enable_grad(), compute.autocast():
                    logits = run_whole(model, window)
                    loss = F.cross_entropy(logits[0, :-1].float(), window[0, 1:])
                loss.backward()
            advance(done)
    finally:
        if activations is not None:
            activations.close()
        if gradients is not None:
            gradients.close()
    if activations is not None:
        for name, sums in activations.sums().items():
            found[name] |= sums
    if gradients is not None:
        for matrix in matrices:
            found[matrix.name] |= gradients.of(matrix)
    return found
