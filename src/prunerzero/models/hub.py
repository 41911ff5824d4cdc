"""Asking the Hugging Face hub for a model, once and quickly."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from prunerzero.errors import InputError
from prunerzero.models.names import ALIASES, is_hub_id
from prunerzero.suggestions import did_you_mean

# Seconds. The loaders of transformers retry for 23 s before they say that there is no network.
TIMEOUT = 5.0


def reachable(name: str) -> bool:
    """Whether the hub has this model and answers now.

    Args:
        name: a hub id that is no directory and no alias.

    Returns:
        True to load from the hub; False to load from its local cache, where the model is.

    Raises:
        InputError: if the hub knows no such model or keeps it closed, or cannot be asked and the
            model is not in the cache.
    """
    hint = did_you_mean(name, ALIASES)
    prefix = f"model '{name}': not a directory, not an alias ({', '.join(ALIASES)}), and the hub"
    try:
        HfApi().model_info(name, timeout=TIMEOUT)
    except GatedRepoError:
        raise InputError(
            f"{prefix} says it is gated: ask for access, then `hf auth login`{hint}"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(f"{prefix} says there is no such model, or it is private{hint}") from None
    except HfHubHTTPError as error:
        if not _cached(name):
            raise InputError(f"{prefix} says: {str(error).partition(chr(10))[0]}") from None
        return False
    except Exception:  # offline mode, no network, no name resolution, a proxy: none of them ours
        if not _cached(name):
            raise InputError(
                f"{prefix} cannot be reached (no internet, or offline mode){hint}"
            ) from None
        return False
    return True


def local_files(name: str) -> Path | None:
    """The directory of a model's files on this machine, where there is one.

    Args:
        name: a checkpoint directory, or a hub id whose files were downloaded; of other models
            (aliases, GGUF files) there is none that a checkpoint could be compared with.
    """
    if os.path.isdir(name):
        return Path(name)
    found = try_to_load_from_cache(name, "config.json") if is_hub_id(name) else None
    return Path(found).parent if isinstance(found, str) else None


def _cached(name: str) -> bool:
    return local_files(name) is not None


def first_use(name: str) -> str | None:
    """What loading this model for the first time downloads, in one line; None if nothing.

    Args:
        name: a hub id that is no directory and no alias.
    """
    if _cached(name):
        return None
    try:
        files = HfApi().model_info(name, timeout=TIMEOUT, files_metadata=True).siblings or []
    except Exception:  # `reachable` says what is wrong
        return None
    sizes = {file.rfilename: file.size or 0 for file in files}
    weights = sum(size for file, size in sizes.items() if file.endswith(".safetensors"))
    return (
        f"first use of {name}: {weights / 1e9:.2f} GB of weights from the Hugging Face hub, "
        f"kept in {HF_HUB_CACHE} for the next time"
    )
