"""A model in memory as lm-eval wants it. Imports lm-eval: import this module when it is needed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.models.compute import Compute
from prunerzero.models.passes import models_own_failures
from prunerzero.progress import Report


class LiveModel(HFLM):
    """A loaded causal LM that scores the choices of one task.

    Batches have a fixed number of choices, sorted by length, on every device: padding, and with it
    rounding, is the same everywhere.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer, which is left as it is.
        compute: device and precision; probabilities are always taken in float32.
        batch_size: choices scored at a time.
        task: the task's name, for progress and messages.
        report: called with the task's name, the choices done and their number.

    Attributes:
        truncated: choices whose context did not fit into the model and lost its beginning.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        compute: Compute,
        batch_size: int,
        task: str,
        report: Report,
    ) -> None:
        super().__init__(
            pretrained=model,
            backend="causal",
            tokenizer=copy.deepcopy(tokenizer),  # it may be given a padding token
            batch_size=batch_size,
            softmax_dtype="float32",
            mixed_precision_dtype=None if compute.dtype is torch.float32 else compute.dtype,
        )
        self.task = task
        self.report = report
        self.truncated = 0
        self._done = 0
        self._total = 0

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = True,  # noqa: ARG002  progress goes to `report`
        override_bs: int | None = None,
    ) -> Any:
        for _, context, choice in requests:
            if len(choice) > self.max_length:
                raise InputError(
                    f"task '{self.task}': a choice of {len(choice)} tokens is above the model's "
                    f"limit of {self.max_length}"
                )
            self.truncated += len(context) + len(choice) > self.max_length + 1
        self._total = len(requests)
        found = super()._loglikelihood_tokens(requests, True, override_bs)
        # Choices of one token after one context share a pass, so fewer have passed than there are.
        if self._done < self._total:
            self.report(self.task, self._total, self._total)
        return found

    def _model_call(self, inps: Tensor, attn_mask: Any = None, labels: Any = None) -> Tensor:
        with models_own_failures(self.model, inps):
            logits: Tensor = super()._model_call(inps, attn_mask, labels)
        self._done += len(inps)
        self.report(self.task, self._done, self._total)
        return logits
