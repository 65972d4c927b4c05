"""`rmsprop run`: run an unchanged script with this RMSprop in place of torch's, and say what its optimizers did."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import Parameter

from rmsprop.cli.common import Flag, ScriptEnded
from rmsprop.cli.terminal import stderr
from rmsprop.errors import InputError
from rmsprop.profiles import PROFILES
from rmsprop.profiles import profile as rule_of

if TYPE_CHECKING:
    from rmsprop.monitor.watch import Watch

_FLAGS = ("--module", "--watch", "--no-watch", "--fused", "--no-fused", "--timm", "--sb3", "--dry-run", "--help", "-h")


def run(
    script: str,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    module: Annotated[bool, Parameter(name=["--module", "-m"], negative="")] = False,
    watch: bool = True,
    every: int = 50,
    out: Path | None = None,
    profile: str | None = None,
    fused: bool | None = None,
    nonfinite: Literal["propagate", "skip", "zero"] | None = None,
    timm: Flag = False,
    sb3: Flag = False,
    dry_run: Flag = False,
) -> None:
    """Run SCRIPT with this RMSprop in place of torch.optim.RMSprop.

    The script needs no change. What follows SCRIPT are its own arguments.
    Exit status, tracebacks and signals are those of the script.

    Each RMSprop gets a monitor. The statistics are written to a directory,
    and what they show is printed to standard error at the end, after an
    error or Ctrl-C, too.

    Try:
      rmsprop run train.py --epochs 3
      rmsprop run --profile tf1 --nonfinite skip train.py
      rmsprop run -m my_package.train --lr 0.01
      torchrun --nproc-per-node 2 -m rmsprop run train.py

    Parameters
    ----------
    script
        A script, or with -m the name of a module.
    arguments
        Arguments of the script.
    module
        SCRIPT is the name of a module, as in python -m.
    watch
        Measure what each RMSprop does.
    every
        Steps from one record of the statistics to the next.
    out
        Directory of the statistics; runs/run-SCRIPT, numbered, if omitted.
    profile
        Whose RMSprop, for what the script does not set: torch, tf1, keras, ...; rmsprop explain --help lists them.
    fused
        Step with the native kernel or raise; with --no-fused step without it. Automatic if omitted.
    nonfinite
        What happens to gradients that are not finite; propagate if omitted.
    timm
        Replace timm's RMSpropTF, too.
    sb3
        Replace Stable-Baselines3's RMSpropTFLike, too.
    dry_run
        Print what would be replaced, and do not run the script.
    """
    from rmsprop.cli.script import Program

    program = Program(script, module, arguments)
    program.check()
    if every < 1:
        raise InputError("--every", "1 or more", every, "50 measures one step in fifty")
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError("--out", "a new or empty directory", str(out), "choose another --out")
    settings = _settings(profile, fused=fused, nonfinite=nonfinite, timm=timm, sb3=sb3)
    from rmsprop.monitor.watch import Watch
    from rmsprop.torch.install import install, replace, uninstall

    if dry_run:
        _, replaced = replace(**settings)
        uninstall()
        given = {name: value for name, value in settings.items() if name not in ("timm", "sb3")}
        words = f", with {', '.join(f'{name}={value!r}' for name, value in given.items())}" if given else ""
        print(f"rmsprop would replace {', '.join(replaced)}{words}")
        return
    install(**settings)
    if not watch or os.environ.get("RANK", "0") != "0":  # of several processes, the first says what it found
        _end(program.run(settings))
    with Watch(_folder(out, script, is_module=module), every) as watch_all:
        _say_on_sigterm(watch_all)
        status = program.run(settings)
        say(watch_all)
    _end(status)


def separated(words: list[str]) -> list[str]:
    """Return the words of a command line with "--" before the script: what follows are the script's own options."""
    for number, word in enumerate(words[1:], 1):
        takes_value = words[number - 1].startswith("--") and words[number - 1] not in _FLAGS
        if word == "--" or (not word.startswith("-") and not (takes_value and "=" not in words[number - 1])):
            return [*words[:number], "--", *words[number + (word == "--") :]]
    return words


def say(watch: Watch) -> None:
    """Print to standard error what each RMSprop of the script did."""
    from rmsprop.lab.report.sentences import describe_findings

    watch.end()
    if not _is_open(sys.stderr):  # closed by the script
        return
    if _is_open(sys.stdout):
        sys.stdout.flush()
    if not watch.watched:
        stderr.print("rmsprop: this process created no RMSprop, so nothing was watched", markup=False)
    for number, each in enumerate(watch.watched, 1):
        name = "RMSprop" if len(watch.watched) == 1 else f"RMSprop {number}"
        first, last = (each.records[i]["step"] if each.records else None for i in (0, -1))
        found = describe_findings([finding.to_dict() for finding in each.findings], each.count, first, last)
        stderr.print(f"rmsprop: {name}{f' ({each.path})' if each.path else ''}: {found}", markup=False)
        for what in (*each.findings, each.post_mortem):
            if what is not None:
                stderr.print(f"{what}", markup=False)


def _say_on_sigterm(watch: Watch) -> None:
    """Say what was found when SIGTERM ends the script, unless the script handles it."""
    own = os.getpid()

    def end(number: int, _frame: FrameType | None) -> None:
        if signal.getsignal(number) is not end:  # the script's handler also calls the one it found: there was none
            return
        if os.getpid() == own:  # not a forked worker, which has this handler, too
            say(watch)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)


def _end(status: int | None) -> NoReturn:
    """End with the script's exit status; None: by SIGINT, as Python ends after Ctrl-C."""
    if status is None and sys.platform != "win32":
        if _is_open(sys.stdout):
            sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    raise ScriptEnded(130 if status is None else status)


def _is_open(stream: object) -> bool:
    """Return whether a standard stream, which the script may have replaced, can be written."""
    return stream is not None and not getattr(stream, "closed", False)


def _folder(out: Path | None, script: str, *, is_module: bool) -> Callable[[], Path]:
    """Return what makes the directory of the statistics."""

    def folder() -> Path:
        name = script.rpartition(".")[2] if is_module else Path(script).resolve().stem
        from rmsprop.lab.runs.directory import new_path

        if out is None:
            return new_path("run", name, resume=False)
        out.mkdir(parents=True, exist_ok=True)
        return out

    return folder


def _settings(name: str | None, *, fused: bool | None, nonfinite: str | None, timm: bool, sb3: bool) -> dict[str, Any]:
    """Return the arguments of `rmsprop.torch.install`."""
    settings: dict[str, Any] = {"timm": timm, "sb3": sb3}
    if name is not None:
        if name not in PROFILES:
            raise InputError("--profile", f"one of {', '.join(PROFILES)}", name, "docs/conventions.md describes them")
        settings |= rule_of(name, lr=0.01).torch_kwargs()
    chosen = {"fused": fused, "nonfinite": nonfinite}
    return settings | {key: value for key, value in chosen.items() if value is not None}
