"""Ways in which a checkpoint can be damaged, and what is said of each."""

import json

import torch
from safetensors.torch import load_file, save_file


def configure(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def truncate(directory):
    path = sorted(directory.glob("model-*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-1])


def poison(tensors):
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan


def store_codes(tensors):
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.int8)


def poison_outside(tensors):
    tensors["model.norm.weight"][0] = torch.inf


# How a checkpoint is damaged, in how large shards it lies before, and what the line says.
DAMAGE = {
    "missing shard": (
        lambda d: sorted(d.glob("model-*.safetensors"))[1].unlink(),
        "30KB",
        r"model-00002-of-\d+.safetensors: missing",
    ),
    "truncated shard": (truncate, "30KB", "model-00002-of-.*truncated"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "5GB", "no model.safetensors"),
    "garbage": (
        lambda d: (d / "model.safetensors").write_bytes(b"x" * 500),
        "5GB",
        "model.safetensors: .*not a safetensors file",
    ),
    "empty config": (lambda d: (d / "config.json").write_text("{}"), "5GB", "cannot be loaded"),
    "no causal LM": (lambda d: configure(d, model_type="vit"), "5GB", "cannot be|no model"),
    "no config": (lambda d: (d / "config.json").unlink(), "5GB", "no config.json"),
    "bad config": (lambda d: (d / "config.json").write_text("{"), "5GB", "not valid JSON"),
    "unknown model": (lambda d: configure(d, model_type="nothing"), "5GB", "cannot be loaded"),
    "wrong width": (
        lambda d: configure(d, hidden_size=64),
        "5GB",
        r"'.*weight': is \[256, 32\].*config.json makes it \[256, 64\]",
    ),
    "wrong inner width": (
        lambda d: configure(d, intermediate_size=96),
        "5GB",
        "layers.0.mlp.*config.json makes it",
    ),
    "no blocks": (
        lambda d: configure(d, num_hidden_layers=0),
        "5GB",
        r"belongs to block 0, but config.json says that the model has 0|no list of decoder blocks",
    ),
    "codes without a word": (
        lambda d: rewrite(d, store_codes),
        "5GB",
        "'model.layers.1.mlp.up_proj.weight' is I8, so quantised",
    ),
    "too few blocks": (
        lambda d: configure(d, num_hidden_layers=2),
        "5GB",
        r"tensor 'model.layers.2.*belongs to block 2, but config.json says that the model has 2",
    ),
    "too many blocks": (
        lambda d: configure(d, num_hidden_layers=4),
        "5GB",
        "tensors of the configuration are not in the weight files, first model.layers.3",
    ),
    "missing tensor": (
        lambda d: rewrite(d, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        "5GB",
        r"model.layers.1.*mlp.up_proj.weight",
    ),
    "missing norm": (
        lambda d: rewrite(d, lambda t: t.pop("model.norm.weight")),
        "5GB",
        "not in the weight files, first model.norm.weight",
    ),
    "NaN": (lambda d: rewrite(d, poison), "5GB", "'model.layers.1.mlp.up_proj.weight' holds NaN"),
    "infinity": (lambda d: rewrite(d, poison_outside), "5GB", "'model.norm.weight' holds NaN or"),
    "quantised": (
        lambda d: configure(d, quantization_config={"quant_method": "gptq", "bits": 4}),
        "5GB",
        "quantised",
    ),
    "adapter": (lambda d: (d / "adapter_config.json").write_text("{}"), "5GB", "adapter"),
}
