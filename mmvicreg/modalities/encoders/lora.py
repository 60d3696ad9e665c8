"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) in the linear layers of a tower, by the library peft."""

from __future__ import annotations

from torch import nn

from mmvicreg.errors import InvalidValueError, MissingFileError


def add_adapters(tower: nn.Module, *, rank: int, targets: tuple[str, ...] = (), frozen: bool = False) -> None:
    """Give ``tower`` an adapter of ``rank`` beside its linear layers; of its parameters only the adapters are trained.

    ``targets`` are ends of layer names, such as ``attn.qkv``; empty for every linear layer that is reached through its
    own forward pass (those inside torch's attention module are not). At first the tower gives what it gave: the second
    factor of an adapter is zero. Raises ValueError for a rank below 1, a frozen tower and targets that it lacks, and
    FileNotFoundError without peft.
    """
    if rank < 1:
        raise InvalidValueError(f"LoRA rank is {rank}; expected 1 or more, or 0 for none")
    if frozen:
        raise InvalidValueError("frozen and LoRA: a frozen encoder trains nothing; leave one of the two out")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise MissingFileError("LoRA is done by the library peft: pip install 'mmvicreg[lora]'") from None
    found = [
        name
        for name, module in tower.named_modules()
        if type(module) is nn.Linear
        and name
        and module.weight.requires_grad  # others do not reach the output
    ]
    chosen = [name for name in found if not targets or name.endswith(targets)]
    if not chosen:
        raise InvalidValueError(
            f"LoRA targets {', '.join(targets) or 'of every kind'}: no such linear layer in {type(tower).__name__}, "
            f"which has {', '.join(found[:8]) or 'none'}"
        )
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=chosen)
    inject_adapter_in_model(config, tower)


def check_without_adapters(tower: nn.Module, *, library: str) -> None:
    """Raise ValueError for a tower with adapters, which ``library`` has no names for."""
    if any("lora_" in name for name, _ in tower.named_parameters()):
        raise InvalidValueError(
            f"this tower has LoRA adapters, which {library} cannot load; export it with save_pretrained"
        )
