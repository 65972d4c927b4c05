"""Parameter names without the parts that wrappers add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

# torch.compile, FSDP, activation checkpointing.
_INNER = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def plain_name(name: str) -> str:
    """Return a parameter's name without the parts that torch.compile, FSDP, activation checkpointing and DDP add.

    DDP and DataParallel call their model `module`. Only a leading `module` is removed: a model may use the name itself.

    >>> plain_name("module._orig_mod.encoder._checkpoint_wrapped_module.weight")
    'encoder.weight'
    """
    parts = [part for part in name.split(".") if part not in _INNER]
    while len(parts) > 1 and parts[0] == "module":
        del parts[0]
    return ".".join(parts)


def plain_names(names: Iterable[str]) -> list[str]:
    """Return `plain_name` of each name. Names that would become equal stay unchanged."""
    names = list(names)
    plain = [plain_name(name) for name in names]
    uses, distinct = Counter(plain), Counter(names)
    return [new if uses[new] == distinct[old] else old for new, old in zip(plain, names, strict=True)]
