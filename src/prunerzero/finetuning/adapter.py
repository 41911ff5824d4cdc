"""LoRA whose update is masked, in training and at merge: W + M * (B A s).

(SparsePEFT's form: Munoz et al., arXiv 2410.03750.) The mask M is where the weight is not zero, so
the layer that is trained has the zeros of the pruned one, and is the layer that is merged. peft
brings configuration, initialisation and storage of the low-rank matrices; the product is ours.

The product B A costs as much as a few tokens, and masking it goes through all weights. Both are
done once a step: the step's effective weight is a leaf of autograd, all the step's windows pass
through it, and its gradient then gives those of A and B.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prunerzero.errors import InputError, MissingExtraError
from prunerzero.models.matrices import Matrix

try:
    import peft
    from peft.tuners.lora import Linear as LoraLinear
except ImportError:
    raise MissingExtraError("finetune", "fine-tuning") from None

ADAPTER = "default"


class MaskedLinear(LoraLinear):
    """A linear layer (or GPT-2's ``Conv1D``) with a low-rank update under a mask.

    Attributes:
        pruned: bool, shaped as the stored weight: what the update leaves alone; None for a dense
            model, whose update has no mask.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, **options: Any) -> None:
        """Called by peft."""
        super().__init__(base_layer, adapter_name, **options)
        self.fan_in_fan_out = isinstance(base_layer, Conv1D)  # read by get_delta_weight
        self.pruned: Tensor | None = None
        self._step: Tensor | None = None

    @torch.no_grad()
    def get_delta_weight(self, adapter: str) -> Tensor:
        """The masked update, float32, shaped as the stored weight."""
        delta: Tensor = super().get_delta_weight(adapter)
        return delta if self.pruned is None else delta.masked_fill_(self.pruned, 0.0)

    @torch.no_grad()
    def effective_weight(self) -> Tensor:
        """What the layer computes with, shaped and typed as the stored weight."""
        weight = self.get_base_layer().weight
        # In float32, so that an update far below the weight's precision is rounded once.
        updated = self.get_delta_weight(ADAPTER).add_(weight).to(weight.dtype)
        if self.pruned is None:
            return updated
        # Not even the sign of a zero changes, and none is added.
        return torch.where(self.pruned | (updated == 0), weight, updated)

    def begin_step(self, dtype: torch.dtype) -> None:
        """Fixes the effective weight for the passes of one step, in the passes' precision."""
        self._step = self.effective_weight().to(dtype).requires_grad_()

    @torch.no_grad()
    def end_step(self) -> None:
        """Turns the gradient of the effective weight into those of A and B."""
        assert self._step is not None
        gradient, self._step = self._step.grad, None
        assert gradient is not None
        if self.pruned is not None:
            gradient.masked_fill_(self.pruned, 0.0)
        if self.fan_in_fan_out:
            gradient = gradient.T
        a, b = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        scale = self.scaling[ADAPTER]
        a.grad = scale * (b.to(gradient.dtype).T @ gradient).to(a.dtype)
        b.grad = scale * (gradient @ a.to(gradient.dtype).T).to(b.dtype)

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """The layer's output ``[..., out]`` for inputs ``[..., in]``."""
        weight = self.effective_weight() if self._step is None else self._step
        bias = self.get_base_layer().bias
        if self.fan_in_fan_out:
            weight = weight.T
        return F.linear(x, weight, bias)

    @torch.no_grad()
    def merge_into_base(self) -> None:
        """Makes the update part of the stored weight."""
        base = self.get_base_layer()
        base.weight.copy_(self.effective_weight())


def attach(
    model: nn.Module,
    matrices: Iterable[Matrix],
    rank: int,
    alpha: float,
    *,
    seed: int,
    masked: bool,
) -> dict[str, MaskedLinear]:
    """Puts a trainable low-rank update on every matrix that is a layer of its own.

    Args:
        model: a causal LM without gradients; its layers are replaced in place.
        matrices: its prunable matrices. Experts in one 3-D parameter are left as they are.
        rank: columns of B and rows of A.
        alpha: the update's scale is ``alpha / sqrt(rank)`` (rank-stabilised).
        seed: of A; B begins at zero.
        masked: whether zeros stay zeros.

    Returns:
        The layers by their dotted names, in the order of the matrices.

    Raises:
        InputError: no matrix is a layer.
    """
    names = [matrix.name for matrix in matrices if matrix.expert is None]
    if not names:
        raise InputError("fine-tuning: all prunable matrices are experts in 3-D parameters")
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, use_rslora=True, target_modules=names, bias="none"
    )
    config._register_custom_module({nn.Linear: MaskedLinear, Conv1D: MaskedLinear})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model, ADAPTER)
    layers: dict[str, MaskedLinear] = {}
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, MaskedLinear)
        for part in (layer.lora_A, layer.lora_B):
            part[ADAPTER].float()  # peft takes the base's type, too coarse for small steps
        if masked:
            layer.pruned = layer.get_base_layer().weight == 0
        layers[name] = layer
    return layers


def detach(model: nn.Module, layers: dict[str, MaskedLinear]) -> None:
    """Merges all updates and gives the model its own layers back."""
    for name, layer in layers.items():
        layer.merge_into_base()
        model.set_submodule(name, layer.get_base_layer())
    model.requires_grad_(False)
