"""A dense Hugging Face checkpoint: its tensors one at a time, and the files beside them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunerzero.errors import InputError
from prunerzero.files import read_json
from prunerzero.packing.encoding import Bits
from prunerzero.packing.index import INDEX
from prunerzero.packing.weightfile import TensorInfo, WeightFile

SINGLE = "model.safetensors"
SHARDED = "model.safetensors.index.json"

# Weights in any form; everything else in a checkpoint is copied.
_WEIGHTS = (
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".h5",
    ".msgpack",
)
_TEMPLATES = "additional_chat_templates"  # the one folder that tokenizers have


@dataclass(frozen=True)
class DenseCheckpoint:
    """The weights of a checkpoint directory.

    Attributes:
        tensors: every tensor and the file that holds it, in the order in which transformers sees
            them.
    """

    tensors: dict[TensorInfo, WeightFile]

    @classmethod
    def open(cls, directory: Path) -> DenseCheckpoint:
        """Reads the headers of a checkpoint's weight files.

        Raises:
            InputError: the directory is no unquantised safetensors checkpoint, or a file is
                missing or damaged.
        """
        refuse_others(directory)
        tensors: dict[TensorInfo, WeightFile] = {}
        names: dict[str, Path] = {}
        for file in _weight_files(directory):
            for name, tensor in file.tensors.items():
                if name in names:
                    raise InputError(f"{file.path}: tensor '{name}' is in {names[name].name} too")
                names[name] = file.path
                tensors[tensor] = file
        return cls(tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of the weight files."""
        return sum(path.stat().st_size for path in {file.path for file in self.tensors.values()})

    def refuse_codes(self) -> None:
        """Refuses weights that are no plain numbers, whatever the configuration says.

        Raises:
            InputError: a matrix is stored as integers or in eight bits, as quantised models are.
        """
        for tensor, file in self.tensors.items():
            plain = tensor.dtype in ("F64", "F32", "F16", "BF16")
            if tensor.name.endswith(".weight") and len(tensor.shape) > 1 and not plain:
                raise InputError(
                    f"{file.path}: tensor '{tensor.name}' is {tensor.dtype}, so quantised: codes "
                    "and no weights; give the unquantised checkpoint"
                )

    def read(self, tensor: TensorInfo) -> Bits:
        """The bits of one tensor.

        Raises:
            InputError: the file is gone or has become shorter.
        """
        return self.tensors[tensor].read(tensor.name)


def copy_others(source: Path, target: Path) -> None:
    """Copies what a checkpoint holds beside its weights: configuration, tokenizer, records."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != INDEX and not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, target / path.name)
    if (source / _TEMPLATES).is_dir():
        shutil.copytree(source / _TEMPLATES, target / _TEMPLATES)


def refuse_others(directory: Path) -> None:
    """Refuses a directory that is no checkpoint, or a quantised one.

    Raises:
        InputError: saying which.
    """
    if not directory.is_dir():
        raise InputError(f"checkpoint {directory}: no such directory")
    if not (directory / "config.json").is_file():
        raise InputError(f"checkpoint {directory}: the directory holds no config.json")
    config = read_json(directory / "config.json", "configuration")
    if not isinstance(config, dict):
        raise InputError(f"configuration {directory / 'config.json'}: not a JSON object")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if part.get("quantization_config"):
            raise InputError(
                f"checkpoint {directory}: quantised, so its files hold codes and no weights; give "
                "the unquantised checkpoint"
            )


def _weight_files(directory: Path) -> list[WeightFile]:
    if (directory / SINGLE).is_file():  # transformers prefers it too
        return [WeightFile.open(directory / SINGLE)]
    if (directory / SHARDED).is_file():
        return _shard_files(directory / SHARDED)
    others = [path.name for path in sorted(directory.iterdir()) if path.name.endswith(_WEIGHTS)]
    reason = f"its weights are in {others[0]}" if others else "it has no weight files"
    advice = "load it with transformers and save_pretrained it to get one"
    if any(name.startswith("pytorch_model") for name in others):
        advice = "pickle files can run code; if you trust their source, give --allow-pickle"
    raise InputError(f"checkpoint {directory}: no {SINGLE} ({reason}); {advice}")


def _shard_files(index: Path) -> list[WeightFile]:
    document = read_json(index, "weight index")
    weight_map: Any = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"weight index {index}: no weight_map of tensor names to files")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if Path(name).name != name:
            raise InputError(f"weight index {index}: '{name}' is no file name")
    files = [WeightFile.open(index.parent / name) for name in names]
    held = {name for file in files for name in file.tensors}
    for name, file in weight_map.items():
        if name not in held:
            raise InputError(f"weight index {index}: tensor '{name}' is not in {file}")
    return files
