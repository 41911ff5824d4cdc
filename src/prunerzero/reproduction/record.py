"""One record of how a reproduction was made: settings, versions, hardware, data, seeds."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prunerzero import __version__
from prunerzero.errors import InputError
from prunerzero.files import read_json, write_json
from prunerzero.reproduction.ground import Ground
from prunerzero.reproduction.names import RECORD

FORMAT = 1
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "lm_eval", "matplotlib")


class Record:
    """The record of a directory; each run adds a session, and each cell names its own.

    Args:
        directory: the reproduction's.
        model: the model's name.

    Raises:
        InputError: the directory holds another model's reproduction, or no record of this kind.
    """

    def __init__(self, directory: Path, model: str) -> None:
        self._path = directory / RECORD
        self._document: dict[str, Any] = {"format": FORMAT, "model": model, "sessions": []}
        if self._path.exists():
            self._document = _checked(read_json(self._path, "record"), self._path)
        if self._document["model"] != model:
            raise InputError(
                f"output {directory}: holds a reproduction of '{self._document['model']}'; "
                "name another directory"
            )
        self._began = time.monotonic()

    @property
    def session(self) -> int:
        """Number of this run's session, from 0."""
        return len(self._document["sessions"]) - 1

    @property
    def document(self) -> Mapping[str, Any]:
        """The record."""
        return self._document

    def begin(self, ground: Ground, budget: float | None, command: str) -> None:
        """Adds this run's session, on disk too."""
        options = ground.options
        self._document |= {
            "settings": asdict(options),
            "seeds": list(options.all_seeds),
            "conditions": ground.conditions(),
            "windows": {
                "heldout": ground.heldout.hash,
                "calibration": {
                    str(seed): ground.calibration(options.samples, seed).hash
                    for seed in options.all_seeds
                },
                "selection": {str(seed): ground.selection(seed).hash for seed in options.all_seeds},
            },
        }
        self._document["sessions"].append(
            {
                "began": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": command,
                "budget_seconds": budget,
                "settings": asdict(options),
                "versions": versions(),
                "hardware": hardware(ground),
                "cells": 0,
                "seconds": 0.0,
            }
        )
        write_json(self._path, self._document)

    def add_cell(self) -> None:
        """Notes that this session has finished a cell."""
        session = self._document["sessions"][-1]
        session["cells"] += 1
        session["seconds"] = time.monotonic() - self._began
        write_json(self._path, self._document)


def versions() -> dict[str, str | None]:
    """Versions of what the numbers depend on; None for what is not installed."""
    found: dict[str, str | None] = {"prunerzero": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def hardware(ground: Ground) -> dict[str, Any]:
    """What the numbers were computed on."""
    import torch

    device = ground.model.compute.device
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "compute": str(ground.model.compute),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    """The processor's name as Linux tells it; elsewhere what Python knows."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _checked(document: Any, path: Path) -> dict[str, Any]:
    if (
        not isinstance(document, dict)
        or document.get("format") != FORMAT
        or not isinstance(document.get("model"), str)
        or not isinstance(document.get("sessions"), list)
    ):
        raise InputError(f"record {path}: not the record of a reproduction; name another directory")
    return document
