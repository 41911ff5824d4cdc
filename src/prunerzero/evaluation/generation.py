"""What two models write after the same prompts, always taking the likeliest token."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from prunerzero.models.compute import Compute


@dataclass(frozen=True)
class Continuation:
    """One prompt and what follows it.

    Attributes:
        source: name of the text that the prompt is from.
        prompt: the prompt.
        text: how the text itself goes on.
        dense: what the dense model writes.
        model: what the model writes.
        same_tokens: number of tokens after the prompt in which both models agree.
    """

    source: str
    prompt: str
    text: str
    dense: str
    model: str
    same_tokens: int

    def to_json(self) -> dict[str, str | int]:
        """The continuation as a JSON-serialisable dictionary."""
        return asdict(self)


def continue_greedily(
    model: Any,
    dense: Any,
    tokenizer: Any,
    source: str,
    window: Tensor,
    prompt_tokens: int,
    compute: Compute,
    dense_compute: Compute,
) -> Continuation:
    """Lets both models go on from the start of a window.

    Args:
        model: the model of interest.
        dense: the model it is measured against.
        tokenizer: the tokenizer of both.
        source: name of the text.
        window: token ids ``[length]``: the prompt, and how the text goes on. The models write as
            many tokens as the text has after the prompt, unless they end theirs before.
        prompt_tokens: length of the prompt.
        compute: device and precision of ``model``.
        dense_compute: those of ``dense``.
    """
    prompt, rest = window[:prompt_tokens], window[prompt_tokens:]
    written = _greedy(model, prompt, len(rest), compute)
    dense_written = _greedy(dense, prompt, len(rest), dense_compute)
    pairs = list(zip(written, dense_written, strict=False))
    same = next((place for place, (ours, other) in enumerate(pairs) if ours != other), len(pairs))
    return Continuation(
        source=source,
        prompt=tokenizer.decode(prompt),
        text=tokenizer.decode(rest),
        dense=tokenizer.decode(dense_written),
        model=tokenizer.decode(written),
        same_tokens=same,
    )


def _greedy(model: Any, prompt: Tensor, count: int, compute: Compute) -> list[int]:
    own = model.generation_config
    end = own.eos_token_id
    pad = own.pad_token_id if own.pad_token_id is not None else end
    ids = prompt[None].to(compute.device)
    # In its place, not beside it: what a given configuration leaves open, generate takes from the
    # model's own, and some of those repeat penalties, which is not greedy.
    model.generation_config = GenerationConfig(
        max_new_tokens=count,
        do_sample=False,
        bos_token_id=own.bos_token_id,
        eos_token_id=end,
        pad_token_id=pad[0] if isinstance(pad, list) else pad,
    )
    try:
        with torch.inference_mode(), compute.autocast():
            found = model.generate(ids, attention_mask=torch.ones_like(ids))
    finally:
        model.generation_config = own
    written: list[int] = found[0, len(prompt) :].tolist()
    return written
