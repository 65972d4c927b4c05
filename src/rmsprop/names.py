"""Names of parameters without what wrappers put into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

# torch.compile, FSDP, activation checkpointing.
_INNER = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def plain_name(name: str) -> str:
    """Return a parameter's name as it is without wrappers: torch.compile, FSDP, activation checkpointing, DDP.

    DDP and DataParallel call their model `module`, which is taken away at the beginning: further in, it may be the
    model's own word.

    >>> plain_name("module._orig_mod.encoder._checkpoint_wrapped_module.weight")
    'encoder.weight'
    """
    parts = [part for part in name.split(".") if part not in _INNER]
    while len(parts) > 1 and parts[0] == "module":
        del parts[0]
    return ".".join(parts)


def plain_names(names: Iterable[str]) -> list[str]:
    """Return `plain_name` of each name, but of those that are then no longer different, the names as they are."""
    names = list(names)
    plain = [plain_name(name) for name in names]
    uses, distinct = Counter(plain), Counter(names)
    return [new if uses[new] == distinct[old] else old for new, old in zip(plain, names, strict=True)]
