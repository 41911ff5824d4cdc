"""Terminals of a user's own: the declaration and its collector, tried before they are accepted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.metric import terminals
from prunerzero.metric.probing import COLUMNS, HUGE, ROWS, TINY
from prunerzero.metric.terminals import Terminal
from prunerzero.metric.types import Shape, Sign
from prunerzero.statistics.collectors import (
    ABSOLUTE_GRADIENT,
    ACTIVATION,
    COLLECTORS,
    GRADIENT,
    GRAM,
    INPUT,
    REGIONAL,
    ROUTED,
    SIGNED_GRADIENT,
    TOKEN_SUMS,
    TOKENS,
    Collector,
    Raw,
    Sample,
    TokenSum,
    forward,
)

BATCH = 6  # tokens


def register(
    terminal: Terminal,
    finish: Callable[[Raw, Sample], Tensor],
    sums: Iterable[str | TokenSum],
) -> Terminal:
    """Adds a terminal that every command, the search included, can gather.

    It is tried on inputs and gradients that are ordinary, zero, negative, huge and tiny: it must be
    finite float32, of the declared shape and sign.

    Example:
        >>> from prunerzero.metric import Shape, Sign, Terminal
        >>> mean = Terminal("M", Shape.COLUMN, Sign.ANY, "mean", "scale-free", "activation")
        >>> register(mean, lambda raw, _: raw[INPUT].log(), [INPUT])
        Traceback (most recent call last):
        prunerzero.errors.InputError: terminal 'M': its function is not finite on ...

    Args:
        terminal: its declaration: shape ``column`` or ``full``.
        finish: makes it from the sums, by name, and the `Sample` that they run over: ``[1, in]``
            for a column, ``[out, in]`` for a full one. It must not write to them.
        sums: what it is made from: names in `prunerzero.statistics.collectors` (`ACTIVATION`,
            `INPUT`, `GRAM`, `TOKENS`, `ROUTED`, `GRADIENT`, `SIGNED_GRADIENT`,
            `ABSOLUTE_GRADIENT`, `REGIONAL`), or a `TokenSum` of its own.

    Returns:
        The terminal.

    Raises:
        InputError: the declaration or a function is unusable; the line says how.
    """
    where = f"terminal {terminal.name!r}"
    if terminal.shape not in (Shape.COLUMN, Shape.FULL):
        raise InputError(f"{where}: its shape must be column or full, not {terminal.shape}")
    sums = list(sums)
    own = {one.name: one for one in sums if isinstance(one, TokenSum)}
    names = frozenset(one.name if isinstance(one, TokenSum) else one for one in sums)
    there = _built_in(torch.zeros(2 * BATCH, COLUMNS)).keys() | TOKEN_SUMS.keys()
    for name in sorted(names):
        if name in own and name in there:
            raise InputError(f"{where}: the sum {name!r} is there already; give it another name")
        if name not in own and name not in there:
            raise InputError(f"{where}: unknown sum {name!r}; there are {', '.join(sorted(there))}")
    if (terminal.needs == "activation") != (forward(names) == names) or terminal.needs == "weight":
        raise InputError(
            f"{where}: needs {terminal.needs!r} does not fit its sums ({', '.join(sorted(names))})"
        )
    for title, scale in _SCALES.items():
        raw = _raw(names, TOKEN_SUMS | own, where, title, scale)
        _check_result(terminal, finish, raw, f"{where}: its function", title)
    terminals.register(terminal)
    TOKEN_SUMS.update(own)
    COLLECTORS[terminal.name] = Collector(names, finish)
    return terminal


_SCALES = {
    "ordinary values": 1.0,
    "zeros": 0.0,
    "negatives": -1.0,
    f"huge values ({math.sqrt(HUGE):g})": math.sqrt(HUGE),  # the sums are of squares
    f"tiny values ({math.sqrt(TINY):g})": math.sqrt(TINY),
}


def _raw(
    names: frozenset[str], own: dict[str, TokenSum], where: str, title: str, scale: float
) -> dict[str, Tensor]:
    """Sums over two batches of made-up inputs, and over a few gradients made of them."""
    ramp = torch.linspace(0.1, 2.0, BATCH * COLUMNS).reshape(BATCH, COLUMNS)
    signs = 1.0 if scale < 0 else torch.ones(BATCH, COLUMNS).cumsum(1).remainder(2) * 2 - 1
    batches = [ramp * signs * scale, ramp.flip(0) * signs * scale]
    inputs = torch.cat(batches)
    found = _built_in(inputs)
    for name in names & own.keys():
        found[name] = _gathered(own[name], batches, f"{where}: sum {name!r}", title)
    return {name: found[name] for name in names}


def _gathered(own: TokenSum, batches: list[Tensor], what: str, title: str) -> Tensor:
    first, second, whole = (
        _called(own.reduce, (batch,), (1, COLUMNS), what, title)
        for batch in (*batches, torch.cat(batches))
    )
    total = _called(own.combine, (first, second), (1, COLUMNS), f"{what} combined", title)
    if not torch.allclose(total, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max())):
        raise InputError(f"{what} combined from two batches is not that of both, on {title}")
    return total


def _built_in(inputs: Tensor) -> dict[str, Tensor]:
    gradients = torch.stack(inputs.split(ROWS))
    squares = gradients.square().sum(0)
    return {
        ACTIVATION: inputs.square().sum(0, keepdim=True),
        ROUTED: inputs.square().sum(0, keepdim=True) / 2,
        INPUT: inputs.sum(0, keepdim=True),
        GRAM: inputs.T @ inputs,
        TOKENS: torch.full((1, 1), float(len(inputs))),
        GRADIENT: squares,
        SIGNED_GRADIENT: gradients.sum(0),
        ABSOLUTE_GRADIENT: gradients.abs().sum(0),
        REGIONAL: squares,
    }


def _check_result(
    terminal: Terminal,
    finish: Callable[[Raw, Sample], Tensor],
    raw: dict[str, Tensor],
    what: str,
    title: str,
) -> None:
    sample = Sample(sequences=2, tokens=2 * BATCH)
    given = {name: value.clone() for name, value in raw.items()}
    shape = (ROWS if terminal.shape is Shape.FULL else 1, COLUMNS)
    result = _called(finish, (given, sample), shape, what, title)
    if not all(torch.equal(given[name], raw[name]) for name in raw):
        raise InputError(f"{what} changes the sums in place")
    if terminal.sign is Sign.NON_NEGATIVE and (result < 0).any():
        raise InputError(f"{what} is negative on {title}, which the declaration rules out")


def _called(
    function: Callable[..., Any],
    given: tuple[Any, ...],
    shape: tuple[int, int],
    what: str,
    title: str,
) -> Tensor:
    """What a user's function gives, if that is a finite float32 tensor of this shape."""
    try:
        value = function(*given)
    except Exception as error:  # whatever it raises is its fault
        raise InputError(f"{what} raised on {title}: {error}") from error
    if not isinstance(value, Tensor):
        raise InputError(f"{what} returned {type(value).__name__}, no tensor")
    if tuple(value.shape) != shape or value.dtype != torch.float32:
        raise InputError(
            f"{what} returned {value.dtype} {tuple(value.shape)} on {title}, "
            f"must be torch.float32 {shape}"
        )
    if not value.isfinite().all():
        raise InputError(f"{what} is not finite on {title}; protect it, with .clamp(...) say")
    return value
