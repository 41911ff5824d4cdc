"""A user's own terminal: tried before it is accepted, then gathered like any other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_models import make_model, make_tokens

from prunerzero import Metric, Pattern, prune
from prunerzero.errors import InputError
from prunerzero.metric import TERMINALS, Shape, Sign, Terminal
from prunerzero.models.blocks import prunable_matrices
from prunerzero.models.compute import compute_for
from prunerzero.models.watching import watch_inputs
from prunerzero.statistics import TokenSum, register
from prunerzero.statistics.cache import gather_statistics
from prunerzero.statistics.collectors import ACTIVATION, COLLECTORS, GRADIENT, TOKEN_SUMS, TOKENS

PEAK = Terminal("Peak", Shape.COLUMN, Sign.NON_NEGATIVE, "largest |input|", "free", "activation")
MAX = TokenSum("peak", lambda x: x.abs().amax(0, keepdim=True), torch.maximum)


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    registries = (TERMINALS, COLLECTORS, TOKEN_SUMS)
    before = [dict(registry) for registry in registries]
    yield
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)


def test_a_terminal_with_a_sum_of_its_own(own_cache: object) -> None:
    register(PEAK, lambda raw, _: raw["peak"], [MAX])
    model, tokens = make_model("llama"), make_tokens(3)
    matrices = prunable_matrices(model)
    seen: dict[str, list[torch.Tensor]] = {matrix.name: [] for matrix in matrices}
    handles = watch_inputs(matrices, lambda m, given, _: seen[m.name].append(given.flatten(0, -2)))
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    compute = compute_for(model, "float32")
    found = gather_statistics(model, matrices, tokens, frozenset({"Peak", "A"}), compute)
    for matrix in matrices:
        expected = torch.cat(seen[matrix.name]).abs().amax(0, keepdim=True)
        torch.testing.assert_close(found.of(matrix, frozenset({"Peak"}))["Peak"], expected)
    result = prune(model, None, Metric.parse("W * Peak"), Pattern.parse("50%"), calibration=tokens)
    assert result.sparsity == pytest.approx(0.5, abs=0.01)


def test_a_changed_function_is_not_served_from_the_cache(own_cache: object) -> None:
    model, tokens = make_model("llama"), make_tokens(2)
    matrices, compute = prunable_matrices(model), compute_for(model, "float32")

    def gathered() -> torch.Tensor:
        wanted = frozenset({"Peak"})
        return gather_statistics(model, matrices, tokens, wanted, compute).of(matrices[0], wanted)[
            "Peak"
        ]

    register(PEAK, lambda raw, _: raw["peak"], [MAX])
    first = gathered()
    TOKEN_SUMS["peak"] = TokenSum("peak", lambda x: 2 * MAX.reduce(x), torch.maximum)
    assert torch.equal(gathered(), 2 * first)


def test_a_terminal_of_sums_that_are_there() -> None:
    mean_square = Terminal("P", Shape.COLUMN, Sign.NON_NEGATIVE, "", "", "activation")
    register(mean_square, lambda raw, _: raw[ACTIVATION] / raw[TOKENS], [ACTIVATION, TOKENS])
    gradient = Terminal("Q", Shape.FULL, Sign.NON_NEGATIVE, "", "", "gradient")
    register(gradient, lambda raw, sample: raw[GRADIENT] / sample.sequences, [GRADIENT])
    model, tokens = make_model("llama"), make_tokens(2)
    metric = Metric.parse("W * P ** 0.5 * Q")
    assert prune(model, None, metric, Pattern.parse("2:4"), calibration=tokens).sparsity == 0.5


def terminal(**changes: object) -> Terminal:
    values = {
        "name": "Mine",
        "shape": Shape.COLUMN,
        "sign": Sign.NON_NEGATIVE,
        "description": "",
        "scale": "",
        "needs": "activation",
    }
    return Terminal(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("declared", "finish", "sums", "line"),
    [
        ({}, lambda raw, _: 1 / raw[ACTIVATION], [ACTIVATION], "not finite on zeros"),
        ({}, lambda raw, _: raw[ACTIVATION].log(), [ACTIVATION], "not finite on zeros|negative on"),
        ({}, lambda raw, _: raw["activation_sum"], ["activation_sum"], "is negative on"),
        ({}, lambda raw, _: raw[ACTIVATION] ** 4, [ACTIVATION], "not finite on huge values"),
        ({}, lambda raw, _: raw[ACTIVATION].sqrt_(), [ACTIVATION], "in place"),
        ({}, lambda r, _: r[ACTIVATION].double(), [ACTIVATION], r"must be torch.float32"),
        ({}, lambda r, _: r["peak"], [TokenSum("peak", lambda x: x.amax(0))], "'peak' returned"),
        ({}, lambda r, _: r["peak"], [TokenSum("peak", lambda x: x.nothing())], "raised on"),
        ({}, lambda r, _: r["m"], [TokenSum("m", lambda x: x.mean(0)[None])], "that of both"),
        ({}, lambda r, _: r["m"], [TokenSum("m", MAX.reduce, lambda a, b: a / 0)], "'m' combined"),
        ({}, lambda raw, _: raw["none"], ["none"], "unknown sum 'none'"),
        ({}, lambda raw, _: raw[TOKENS], [TokenSum(TOKENS, MAX.reduce)], "there already"),
        ({"needs": "gradient"}, lambda r, _: r[ACTIVATION], [ACTIVATION], "does not fit its sums"),
        ({"shape": Shape.ROW}, lambda raw, _: raw[ACTIVATION], [ACTIVATION], "column or full"),
        ({"name": "W"}, lambda raw, _: raw[ACTIVATION], [ACTIVATION], "already taken"),
    ],
)  # fmt: skip
def test_unusable_terminals(declared, finish, sums, line) -> None:
    before = dict(TERMINALS), dict(COLLECTORS), dict(TOKEN_SUMS)
    with pytest.raises(InputError, match=line):
        register(terminal(**declared), finish, sums)
    assert before == (TERMINALS, COLLECTORS, TOKEN_SUMS)
