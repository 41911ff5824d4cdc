"""Runs that end at one of a study's writes, as a killed process does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from prunerzero.study import Study


class Killed(BaseException):
    """What no handler expects."""


class FatalWrites:
    """Ends a run before the `left`-th of these writes from now on, or after the one before it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: Iterable[str]) -> None:
        self.left = 0
        for name in names:
            monkeypatch.setattr(Study, name, self._fragile(getattr(Study, name)))

    def _fragile(self, whole: Callable[..., Any]) -> Callable[..., Any]:
        def write(study: Study, *arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise Killed
            result = whole(study, *arguments, **options)
            if self.left == -1:
                raise Killed
            return result

        return write
