"""Comparing the settings of studies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def differences(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], first: str, second: str
) -> str:
    """What differs, such as ``seed 0 there, 1 here``; empty where nothing does.

    Args:
        stored: Settings as JSON values.
        wanted: Others.
        first: What to say after a value of ``stored``.
        second: What to say after one of ``wanted``.
    """
    return "; ".join(
        f"{name} {_show(stored, name)} {first}, {_show(wanted, name)} {second}"
        for name in dict.fromkeys([*stored, *wanted])
        if _show(stored, name) != _show(wanted, name)
    )


def _show(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], sort_keys=True) if name in settings else "absent"
