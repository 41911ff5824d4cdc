"""The training loop: windows in, updates of the low-rank matrices out, resumable at any step."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prunerzero.data.windows import WindowSampler
from prunerzero.files import atomic_path
from prunerzero.finetuning.adapter import ADAPTER, MaskedLinear
from prunerzero.finetuning.loss import next_token_loss
from prunerzero.finetuning.schedule import Rates
from prunerzero.models.compute import Compute
from prunerzero.models.passes import run_whole
from prunerzero.progress import Report, silent

PASS_TOKENS = 1024  # in one forward and backward pass
SAVE_EVERY = 60.0  # seconds
CLIP = 1.0  # norm of the gradient
BETAS = (0.9, 0.95)
RECENT = 20  # steps whose loss is shown


@dataclass
class Course:
    """How a training went so far.

    Attributes:
        rates: learning rate of every step.
        losses: training loss of every step, nats a token.
        seconds: time the steps took, in all runs together.
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def recent_loss(self) -> float:
        """Mean loss of the last steps."""
        last = self.losses[-RECENT:]
        return sum(last) / len(last)


class Training:
    """One model's training, from the start or from where it was interrupted.

    Attributes:
        course: how it went so far.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, MaskedLinear],
        sampler: WindowSampler,
        batch: int,
        compute: Compute,
        file: Path,
    ) -> None:
        """Takes over what ``file`` holds of an interrupted training.

        Args:
            model: a causal LM with `layers` attached.
            layers: its trainable layers by name.
            sampler: draws the windows; step n reads draw n.
            batch: windows a step.
            compute: device and precision of the passes.
            file: where the state is kept.
        """
        self.course = Course()
        self._model = model
        self._layers = layers
        self._sampler = sampler
        self._batch = batch
        self._compute = compute
        self._file = file
        self._parameters = {
            f"{name}.{part}": getattr(layer, f"lora_{part}")[ADAPTER].weight
            for name, layer in layers.items()
            for part in "AB"
        }
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), betas=BETAS, weight_decay=0.0, fused=True
        )
        if file.is_file():
            self._load()

    def run(self, rates: Rates, step_name: str, report: Report = silent) -> None:
        """Trains to the end; what is done is on disk then, and once a minute before.

        Args:
            rates: the learning rate of every step, and so their number.
            step_name: what progress reports call it.
            report: called with that, what is done, and of how much.
        """
        course = self.course
        saved = time.perf_counter()
        while (rate := rates.next(len(course.rates), course.seconds)) is not None:
            began = time.perf_counter()
            course.losses.append(self._step(rate))
            course.rates.append(rate)
            now = time.perf_counter()
            course.seconds += now - began
            if now - saved > SAVE_EVERY:
                self.save()
                saved = now
            done, total = rates.done(len(course.rates), course.seconds)
            report(step_name, min(done, total - 1), total)
        self.save()
        _, total = rates.done(len(course.rates), course.seconds)
        report(step_name, total, total)

    def _step(self, rate: float) -> float:
        tokens = self._sampler.draw(len(self.course.rates), self._batch).tokens
        passes = tokens.split(max(1, PASS_TOKENS // tokens.shape[1]))
        for layer in self._layers.values():
            layer.begin_step(self._compute.dtype)
        total = 0.0
        for windows in passes:
            ids = windows.to(self._compute.device)
            with self._compute.autocast():
                logits = run_whole(self._model, ids)
            share = len(ids) / self._batch
            loss = next_token_loss(logits, ids) * share
            loss.backward()
            total += loss.item()
        for layer in self._layers.values():
            layer.end_step()
        nn.utils.clip_grad_norm_(self._parameters.values(), CLIP)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        return total

    def save(self) -> None:
        """Writes everything that the next step depends on, atomically."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            tensors[name] = parameter.detach()
            for key, value in self._optimizer.state[parameter].items():
                tensors[f"{name}.{key}"] = value
        course = self.course
        facts = {"rates": course.rates, "losses": course.losses, "seconds": course.seconds}
        with atomic_path(self._file) as temporary:
            save_file(tensors, temporary, {"course": json.dumps(facts)})

    @torch.no_grad()
    def _load(self) -> None:
        with safe_open(self._file, framework="pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()["course"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.course = Course(**facts)
        for name, parameter in self._parameters.items():
            parameter.copy_(tensors.pop(name))
            self._optimizer.state[parameter] = {
                key: tensors.pop(f"{name}.{key}").to(parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
