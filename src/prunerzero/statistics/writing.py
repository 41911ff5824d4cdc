"""Text that a model writes, to gather its statistics on: sampled once, then kept on disk.

What a model was trained on is seldom known; what it writes is distributed like it (Ji et al.,
"Beware of Calibration Data for Pruning Large Language Models", arXiv 2410.17711, find such text
best). A document begins with a token drawn uniformly from the vocabulary, as in LLM-QAT (arXiv
2305.17888), and goes on with tokens drawn from the model's own predictions.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from prunerzero.data.splits import SHARES, Split
from prunerzero.files import cache_dir, read_json, write_json
from prunerzero.models.compute import Compute
from prunerzero.models.loading import context_limit
from prunerzero.progress import Report, silent
from prunerzero.statistics.cache import model_hash

VERSION = 1
LENGTH = 512  # tokens a document
BATCH = 32  # documents written at once
TEMPERATURE = 1.0
TOP_P = 0.9
SLACK = 1.25  # tokens written for a token wanted: read again, a text has fewer


def documents_for(samples: int, sequence_length: int, length: int) -> int:
    """Documents, in whole batches, whose calibration split holds so many windows."""
    tokens = samples * sequence_length / float(SHARES[Split.CALIBRATION])
    return BATCH * math.ceil(SLACK * tokens / length / BATCH)


def written_texts(
    model: nn.Module,
    tokenizer: Any,
    samples: int,
    sequence_length: int,
    compute: Compute,
    seed: int = 0,
    report: Report = silent,
) -> list[str]:
    """Texts that the model writes; from the cache what it has written before.

    Args:
        model: a dense causal LM.
        tokenizer: its tokenizer.
        samples: windows that their calibration split is to hold.
        sequence_length: tokens in each.
        compute: device and precision.
        seed: of all draws.
        report: called with a step's name, the tokens of a document done, and of all documents.

    Returns:
        One text a document; more are asked for only add to the fewer.
    """
    length = min(LENGTH, context_limit(model) or LENGTH)
    batches = documents_for(samples, sequence_length, length) // BATCH
    settings = [VERSION, model_hash(model), length, BATCH, TEMPERATURE, TOP_P, seed, str(compute)]
    identity = hashlib.sha256(repr(settings).encode()).hexdigest()[:24]
    texts: list[str] = []
    for batch in range(batches):
        path = cache_dir() / "written" / f"{identity}-{batch}.json"
        if not path.exists():
            done = _Progress(report, batch, batches, length)
            tokens = _write(model, tokenizer, length, compute, (seed, batch), done)
            write_json(path, tokenizer.batch_decode(tokens, skip_special_tokens=True))
        texts += read_json(path, "cached text")
    return texts


@torch.random.fork_rng()
def _write(
    model: Any,
    tokenizer: Any,
    length: int,
    compute: Compute,
    seed: tuple[int, int],
    progress: StoppingCriteria,
) -> Tensor:
    """Token ids ``[BATCH, length]``; no document ends before."""
    digest = hashlib.sha256(repr(seed).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    special = sorted(set(tokenizer.all_special_ids))
    vocabulary = min(len(tokenizer), model.get_input_embeddings().num_embeddings)
    usual = torch.ones(vocabulary)
    usual[[token for token in special if token < vocabulary]] = 0
    first = torch.multinomial(usual, BATCH, replacement=vocabulary < 2 * BATCH)[:, None]
    first = first.to(compute.device)
    own = model.generation_config
    # In its place, not beside it: what a given configuration leaves open, generate takes from the
    # model's own.
    model.generation_config = GenerationConfig(
        max_new_tokens=length - 1,
        do_sample=True,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        top_k=0,
        suppress_tokens=special,
        pad_token_id=special[0] if special else 0,
    )
    try:
        with torch.inference_mode(), compute.autocast():
            found: Tensor = model.generate(
                first,
                attention_mask=torch.ones_like(first),
                stopping_criteria=StoppingCriteriaList([progress]),
            )
    finally:
        model.generation_config = own
    return found.cpu()


class _Progress(StoppingCriteria):
    """Tells how far the writing is; never stops it."""

    def __init__(self, report: Report, batch: int, batches: int, length: int) -> None:
        self._report = report
        self._before = batch * length
        self._total = batches * length

    def __call__(self, input_ids: Any, *_: Any, **__: Any) -> Any:
        self._report("writing calibration text", self._before + input_ids.shape[1], self._total)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
