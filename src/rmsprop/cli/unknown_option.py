"""What an unknown option may have meant: another library's name of a hyperparameter, or another command."""

from __future__ import annotations

from cyclopts import UnknownOptionError

from rmsprop.hyperparameters import ALIASES

_ALIASES = {name.replace("_", "-"): field.replace("_", "-") for name, field in ALIASES.items() if name != field}
_ALIASES |= {"rho": "decay", "beta2": "decay", "beta": "decay", "beta1": "momentum", "wd": "weight-decay"}
_MEANT = {
    "optimizer": "train uses RMSprop; to compare it with others: rmsprop compare TASK --optimizers Adam AdamW",
    "gpu": "did you mean --device cuda?",
    "cuda": "did you mean --device cuda?",
    "bf16": "did you mean --amp bfloat16?",
    "fp16": "did you mean --amp float16?",
    "betas": "--momentum is β₁ (with --first-moment), --decay is β₂",
}


def described(error: UnknownOptionError) -> str:
    """Return the error in a line, with what the option may have meant."""
    option = str(error.token.keyword or error.token.value).split("=")[0]
    name = option.lstrip("-").replace("_", "-").lower()
    if name in _MEANT:
        return f"unknown option {option}: {_MEANT[name]}"
    if name in _ALIASES:
        return f"unknown option {option}: it is called --{_ALIASES[name]} here"
    return str(error).strip().removesuffix(".")
