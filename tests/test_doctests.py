"""The examples in the docstrings of the public API hold."""

from __future__ import annotations

import doctest
import inspect
from importlib import import_module

import pytest

import prunerzero

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
MODULES = sorted(
    {getattr(prunerzero, name).__module__ for name in prunerzero.__all__}
    | {"prunerzero.metric.operators", "prunerzero.statistics.own"}
)


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str) -> None:
    assert doctest.testmod(import_module(module), optionflags=FLAGS).failed == 0


@pytest.mark.parametrize("name", sorted(prunerzero.__all__))
def test_the_public_api_is_typed_and_documented(name: str) -> None:
    found = getattr(prunerzero, name)
    assert inspect.getdoc(found)
    members = vars(found).items() if inspect.isclass(found) else [(name, found)]
    for member, value in members:
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if member.startswith("_") or not inspect.isfunction(function):
            continue
        assert inspect.getdoc(function), f"{name}.{member} has no docstring"
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, f"{name}.{member}"
        for argument in list(signature.parameters.values()):
            if argument.name not in ("self", "cls"):
                assert argument.annotation is not inspect.Parameter.empty, f"{name}.{member}"
