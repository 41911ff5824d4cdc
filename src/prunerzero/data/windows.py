"""Token windows: what statistics are gathered on and what perplexity is measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunerzero.data.documents import DOCUMENT_SEPARATOR, Document, Split, common_split
from prunerzero.data.sources import load_documents
from prunerzero.data.splits import documents_of
from prunerzero.errors import InputError

__all__ = [
    "WindowSampler",
    "Windows",
    "check_length",
    "consecutive_windows",
    "encode",
    "sample_windows",
]


@dataclass(frozen=True, eq=False)
class Windows:
    """Token windows of one length, and what they may be used for.

    Attributes:
        tokens: LongTensor ``[count, length]`` of token ids.
        split: The split of the documents they were cut from; None where the user has given ids or
            a text of their own, which may be used for anything.
        source: The text source: a registered name, a path, or "token ids".
        documents: Hashes of the documents they were cut from.
    """

    tokens: Tensor
    split: Split | None = None
    source: str = "token ids"
    documents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        tokens = self.tokens
        if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64 or tokens.ndim != 2:
            found = (
                f"{str(tokens.dtype).removeprefix('torch.')} {list(tokens.shape)}"
                if isinstance(tokens, Tensor)
                else type(tokens).__name__
            )
            raise InputError(f"{self.source}: needs an int64 [windows, length], not {found}")
        if not tokens.numel():
            raise InputError(f"{self.source}: no tokens in windows of shape {list(tokens.shape)}")

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        """Tokens in a window."""
        return self.tokens.shape[1]

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that name the tokens, in their order and shape."""
        digest = hashlib.sha256(str(tuple(self.tokens.shape)).encode())
        digest.update(self.tokens.contiguous().cpu().numpy().astype("<i8", copy=False).tobytes())
        return digest.hexdigest()[:16]

    def subset(self, start: int, stop: int) -> Windows:
        """Returns windows ``start`` to ``stop`` (exclusive); ``documents`` stays a superset.

        Raises:
            InputError: There are no windows between the two.
        """
        return replace(self, tokens=self.tokens[start:stop])

    def require(self, *splits: Split) -> None:
        """Checks that these windows may be used for a purpose.

        Args:
            splits: The splits that may.

        Raises:
            InputError: The windows are of another split.
        """
        if self.split is not None and self.split not in splits:
            raise InputError(
                f"text {self.source}: these windows are for {self.split}, "
                f"not for {' or '.join(map(str, splits))}"
            )


class WindowSampler:
    """Draws fresh windows of one split again and again; tokenises the text once.

    The text is cut into *stretches*: a document of at least ``length`` tokens is one; shorter
    documents are joined in their order, a blank line between them, until a stretch has ``length``
    tokens (a remainder joins the last such stretch). A window never crosses stretches.

    Draws pass over the text in epochs. In each epoch every stretch is cut anew, at a random offset,
    into as many windows as fit; these are ordered so that any run of them holds about the same part
    of each stretch. A draw therefore spreads over as many documents as it can, in proportion to
    their tokens, and no two windows of an epoch overlap.
    """

    def __init__(
        self,
        source: str | Path | Sequence[Document],
        tokenizer: Any,
        split: Split | None,
        length: int,
        seed: int = 0,
    ) -> None:
        """Loads and tokenises the documents of the split.

        Args:
            source: A source's name or path, or documents.
            tokenizer: A Hugging Face tokenizer; it adds no special tokens here.
            split: Which documents to read; None for all of them.
            length: Tokens in a window.
            seed: Which windows are drawn, and in which order; never which documents are in a split.

        Raises:
            InputError: The source cannot be had or split, or has not one window of ``length``.
        """
        check_length(length)
        if isinstance(source, (str, Path)):
            source = load_documents(source)
        documents = documents_of(source, split)
        if not documents:
            raise InputError("no documents to draw windows from")
        self.source = "+".join(dict.fromkeys(document.source for document in documents))
        self.split = split
        self.length = length
        self.seed = seed
        self._stretches = _stretches(documents, tokenizer, length)
        self.capacity = sum(len(tokens) // length for tokens, _ in self._stretches)
        if not self.capacity:
            raise InputError(
                f"text {self.source}: less than one window of {length} tokens"
                + (f" in its {split} documents" if split else "")
            )
        self._epoch: tuple[int, Tensor, list[int]] | None = None

    def draw(self, index: int, count: int) -> Windows:
        """Returns draw number ``index`` of ``count`` windows.

        The same seed, index and count always give the same windows. Draws of one count share no
        window until the epoch is over, after ``capacity // count`` draws; then the text is cut at
        other offsets.

        Args:
            index: Number of the draw, from 0.
            count: Windows to draw, at most ``capacity``.

        Raises:
            InputError: The text has fewer windows than ``count``.
        """
        if count > self.capacity:
            raise InputError(
                f"text {self.source}: {count} windows of {self.length} tokens were asked for, "
                f"but its {f'{self.split} ' if self.split else ''}documents give {self.capacity}"
            )
        if count < 1 or index < 0:
            raise InputError(f"cannot draw {count} windows at index {index}")
        epoch, position = divmod(index, self.capacity // count)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, *self._cut(epoch))
        _, tokens, origins = self._epoch
        chosen = slice(position * count, (position + 1) * count)
        hashes = (self._stretches[origin][1] for origin in origins[chosen])
        return Windows(tokens[chosen].clone(), self.split, self.source, _unique(hashes))

    def _cut(self, epoch: int) -> tuple[Tensor, list[int]]:
        """Returns the windows ``[capacity, length]`` of an epoch and the stretch of each."""
        random = np.random.default_rng([self.seed, epoch])
        places: list[tuple[float, int, Tensor]] = []
        for number, (tokens, _) in enumerate(self._stretches):
            fit, rest = divmod(len(tokens), self.length)
            offset = int(random.integers(rest + 1))
            phase = random.random()
            # Systematic sampling: the windows of a stretch lie evenly spaced over the epoch.
            for place, nth in enumerate(random.permutation(fit)):
                start = offset + int(nth) * self.length
                window = tokens[start : start + self.length]
                places.append(((place + phase) / fit, number, window))
        places.sort(key=lambda place: place[:2])
        return torch.stack([window for *_, window in places]), [number for _, number, _ in places]


def sample_windows(
    source: str | Path | Sequence[Document],
    tokenizer: Any,
    split: Split | None,
    count: int,
    length: int,
    seed: int = 0,
) -> Windows:
    """Draws windows once: the first draw of a ``WindowSampler``.

    Args:
        source: A source's name or path, or documents of one source.
        tokenizer: A Hugging Face tokenizer; it adds no special tokens here.
        split: Which documents to read; None for all of them.
        count: Windows to draw.
        length: Tokens in a window.
        seed: Which windows are drawn.

    Returns:
        Windows ``[count, length]`` that do not overlap, spread over many documents.

    Raises:
        InputError: The source cannot be had or split, or has too few windows.
    """
    return WindowSampler(source, tokenizer, split, length, seed).draw(0, count)


def consecutive_windows(
    documents: Sequence[Document],
    tokenizer: Any,
    length: int,
    limit: int | None = None,
    *,
    separator: str = DOCUMENT_SEPARATOR,
    special_tokens: bool = False,
) -> Windows:
    """Cuts text as the pruning papers do for perplexity.

    The documents are joined, tokenised as one text and cut into consecutive windows; the tail that
    fills no window is dropped.

    Args:
        documents: Documents of one source, in their order (``evaluation_documents``).
        tokenizer: A Hugging Face tokenizer.
        length: Tokens in a window.
        limit: Keeps the first so many windows only.
        separator: Stands between the documents; a blank line by default.
        special_tokens: Whether the tokenizer adds its special tokens, once for the whole text.

    Returns:
        Windows ``[count, length]``; their split is that of the documents, None where these differ.

    Raises:
        InputError: The text is shorter than one window.
    """
    check_length(length)
    if not documents:
        raise InputError("no documents to cut windows from")
    text = separator.join(document.text for document in documents)
    tokens = encode(tokenizer, text, special_tokens)
    source = documents[0].source
    count = len(tokens) // length
    if not count:
        raise InputError(
            f"text {source}: its {len(tokens)} tokens are less than one window of {length}"
        )
    if limit is not None and limit < 1:
        raise InputError(f"text {source}: at least one window is needed, not {limit}")
    count = min(count, limit or count)
    hashes = _unique(document.hashes for document in documents)
    windows = tokens[: count * length].view(count, length)
    return Windows(windows.clone(), common_split(documents), source, hashes)


def check_length(length: int, limit: int | None = None) -> None:
    """Checks a sequence length.

    Args:
        length: Tokens in a window.
        limit: The longest sequence that the model can read, if it has a limit.

    Raises:
        InputError: The length is below 2 (nothing to predict) or above the limit.
    """
    if length < 2:
        raise InputError(f"sequence length {length} is too short: at least 2 tokens are needed")
    if limit is not None and length > limit:
        raise InputError(f"sequence length {length} is above the model's limit of {limit} tokens")


def encode(tokenizer: Any, text: str, special_tokens: bool = False) -> Tensor:
    """Returns the token ids of a text, LongTensor ``[tokens]``."""
    # verbose=False: texts are longer than the model's context on purpose, so no warning about it.
    ids = tokenizer(text, add_special_tokens=special_tokens, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.int64)


def _stretches(
    documents: Sequence[Document], tokenizer: Any, length: int
) -> list[tuple[Tensor, tuple[str, ...]]]:
    """Returns runs of tokens that windows may be cut from, with the hashes of their documents."""
    stretches: list[tuple[Tensor, tuple[str, ...]]] = []
    joined: int | None = None  # the last stretch that was joined from short documents
    short: list[Tensor] = []
    hashes: tuple[str, ...] = ()
    separator = encode(tokenizer, DOCUMENT_SEPARATOR)
    for document in documents:
        tokens = encode(tokenizer, document.text)
        if len(tokens) >= length:
            stretches.append((tokens, document.hashes))
            continue
        short += [separator, tokens] if short else [tokens]
        hashes += document.hashes
        if sum(map(len, short)) >= length:
            joined = len(stretches)
            stretches.append((torch.cat(short), hashes))
            short, hashes = [], ()
    if short and joined is not None:
        tokens, before = stretches[joined]
        stretches[joined] = (torch.cat([tokens, separator, *short]), before + hashes)
    return stretches


def _unique(hashes: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(hashes)))
