"""Words spoken by the synthesizer espeak-ng, as frames of log-mel energies."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import wave
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmsprop.environment import cores
from rmsprop.errors import InputError, Received
from rmsprop.files import write_atomically
from rmsprop.lab.data_files import cache_file, check, reading

RATE = 22_050  # samples a second, as espeak-ng writes them
WINDOW, HOP, FFT = 551, 331, 1024  # samples: frames of 25 ms, one every 15 ms
BANDS, LOWEST, HIGHEST = 24, 80.0, 8000.0  # bands of the spectrum, and the range of all in Hz
QUIET = 1e-4  # a frame is silent if it has less than this share of the loudest frame's energy
FLOOR = 1e-6  # added to an energy before its logarithm
_AGAIN = "install it again: sudo apt-get install --reinstall espeak-ng espeak-ng-data"
_PATIENCE = 60  # seconds after which a call of espeak-ng counts as hanging


class Utterance(NamedTuple):
    """A word, and how espeak-ng says it: accent, variant of its voice, words a minute, and pitch from 0 to 99."""

    word: str
    accent: str
    variant: str
    speed: int
    pitch: int


def speak(task: str, utterances: Sequence[Utterance]) -> list[NDArray[np.float32]]:
    """Return the frames of each utterance (frames × `BANDS`), without the silence at both ends.

    They are kept in the user's cache directory, one file for all. Its name depends on the utterances, the version of
    espeak-ng and the features. A missing or damaged file is made again.

    Raises
    ------
    InputError
        If espeak-ng is not installed, or fails.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        remedy = "on Debian: sudo apt-get install espeak-ng"
        raise InputError(f"the task {task}", "run with espeak-ng installed", Received("none"), remedy)
    version = _output([program, "--version"])
    features = RATE, WINDOW, HOP, FFT, BANDS, LOWEST, HIGHEST, QUIET, FLOOR
    made_of = json.dumps([version, features, utterances])
    file = cache_file(f"{task}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.npz")
    frames = None if file is None else _read(file, len(utterances))
    if frames is None:
        _check_variants(program, {each.variant for each in utterances})
        with TemporaryDirectory() as folder, ThreadPoolExecutor(cores()) as threads:
            sounds = [Path(folder, f"{number}.wav") for number in range(len(utterances))]
            frames = list(threads.map(lambda *each: log_mel(_sound(program, *each)), utterances, sounds))
        _check_differ(utterances, frames)
        if file is not None:
            _write(file, frames)
    return frames


def _check_variants(program: str, variants: set[str]) -> None:
    """Raise InputError if a variant is missing: espeak-ng would speak without it, and say nothing."""
    known = set(re.findall(r"!v/(\S+)", _output([program, "--voices=variant"])))
    if missing := sorted(variants - known):
        found = Received(f"none called {', '.join(missing)}")
        raise InputError("espeak-ng", "one with the voices of version 1.51", found, _AGAIN)


def _check_differ(utterances: Sequence[Utterance], frames: list[NDArray[np.float32]]) -> None:
    """Raise InputError if two utterances sound the same: some versions of espeak-ng ignore variants of some accents."""
    numbers: dict[bytes, int] = {}
    for number, sound in enumerate(frames):
        other = numbers.setdefault(sound.tobytes(), number)
        if other != number:
            a, b = (f"{each.word} by {each.accent}+{each.variant}" for each in (utterances[other], utterances[number]))
            found = Received(f"the same sound for {a} and {b}")
            raise InputError("espeak-ng", "one whose voices differ, as those of version 1.51", found, _AGAIN)


def _sound(program: str, utterance: Utterance, file: Path) -> NDArray[np.float32]:
    """Let espeak-ng write an utterance to `file`; return its samples, from −1 to 1."""
    voice = f"{utterance.accent}+{utterance.variant}"
    manner = "-s", str(utterance.speed), "-p", str(utterance.pitch)
    _output([program, "-v", voice, *manner, "-w", str(file), utterance.word])
    with reading(file, f"samples of 16 bits at {RATE} Hz", _AGAIN), wave.open(str(file)) as sound:
        check(sound.getframerate() == RATE, f"a rate of {sound.getframerate()} Hz")
        check((sound.getnchannels(), sound.getsampwidth()) == (1, 2), "samples of another form")
        check(sound.getnframes() > 0, "no sample")
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.float32)
    return samples / np.float32(2**15)


def _output(command: list[str]) -> str:
    """Run espeak-ng and return its output."""
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, timeout=_PATIENCE, check=False, text=True, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError("espeak-ng", "able to speak", Received(" ".join(str(error).split())), _AGAIN) from error
    if done.returncode:
        words = " ".join(done.stderr.split()) or "nothing"
        raise InputError("espeak-ng", "able to speak", Received(f"exit status {done.returncode}: {words}"), _AGAIN)
    return done.stdout


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logarithm of the energies in bands of the mel scale (frames × `BANDS`), of at least one frame.

    Silent frames at both ends are cut off.
    """
    padded = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    spectrum = np.abs(np.fft.rfft(windows * np.hanning(WINDOW), FFT)) ** 2
    energies = spectrum @ filters().T / WINDOW
    whole = energies.sum(axis=1)
    loud = np.flatnonzero(whole >= QUIET * whole.max())
    return np.log(energies[loud[0] : loud[-1] + 1] + FLOOR).astype(np.float32)


def filters() -> NDArray[np.float64]:
    """Return the weights of the frequencies in each band (`BANDS` × frequencies): triangles, evenly spaced in mels."""
    lowest, highest = (2595 * np.log10(1 + hertz / 700) for hertz in (LOWEST, HIGHEST))
    mels = np.linspace(lowest, highest, BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequencies = np.fft.rfftfreq(FFT, 1 / RATE)
    rise = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    weights: NDArray[np.float64] = np.minimum(rise, fall).clip(min=0)
    return weights


def _write(file: Path, frames: list[NDArray[np.float32]]) -> None:
    """Write frames to the cache. A cache that cannot be written to is none."""
    content = io.BytesIO()
    np.savez_compressed(content, frames=np.concatenate(frames), lengths=[len(each) for each in frames])
    try:
        write_atomically(file, content.getvalue())
    except OSError:
        return


def _read(file: Path, count: int) -> list[NDArray[np.float32]] | None:
    """Return the frames of `count` utterances from the cache; None if it does not hold them."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as content:  # np.load leaves a file open
            frames, lengths = content["frames"], content["lengths"]
    except Exception:  # a damaged file may raise anything
        return None
    fits = lengths.shape == (count,) and frames.shape == (lengths.sum(), BANDS) and lengths.min() > 0
    if not fits or frames.dtype != np.float32 or not np.isfinite(frames).all():
        return None
    return np.split(frames, np.cumsum(lengths)[:-1])
