"""Speech of espeak-ng: bands of the spectrum, the cache, and what a missing or damaged synthesizer gives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rmsprop import InputError
from rmsprop.lab import load_task, speech
from rmsprop.lab.speech import BANDS, RATE, WINDOW, Utterance, log_mel, speak

SEVEN = Utterance("seven", "en-us", "m3", 160, 50)
NINE = SEVEN._replace(word="nine")
# Stands in for espeak-ng: a shell script with the commands for --version, for --voices=variant, and to speak.
SCRIPT = """#!/bin/sh
case "$1" in
  --version) {version} ;;
  --voices=variant) {voices} ;;
  *) while [ "$1" != -w ]; do shift; done; {speak} ;;
esac
"""


def standing_in(folder: Path, **commands: str) -> None:
    """Put a script in place of espeak-ng into `folder`."""
    program = folder / "espeak-ng"
    working = {
        "version": "echo 1.51",
        "voices": "echo '5 variant !v/m3'",
        "speak": 'echo something else than a sound > "$2"',
    }
    program.write_text(SCRIPT.format(**working | commands))
    program.chmod(0o755)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of the cache, which is empty. Without espeak-ng, the first on the path is `tmp_path`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rmsprop"


@pytest.fixture
def _espeak() -> None:
    if shutil.which("espeak-ng") is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)("no espeak-ng: sudo apt-get install espeak-ng")


# -- features ----------------------------------------------------------------------------------------------------------


def tone(hertz: float, seconds: float = 0.3) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE).astype(np.float32)


@pytest.mark.parametrize("hertz", [200.0, 1000.0, 4000.0])
def test_a_tone_is_in_the_band_of_its_frequency(hertz: float) -> None:
    # Bands are evenly spaced on the mel scale, 2595 log₁₀(1 + f/700); the ends of the scale are bands −1 and `BANDS`.
    lowest, here, highest = (2595 * np.log10(1 + f / 700) for f in (80, hertz, 8000))
    band = (here - lowest) / (highest - lowest) * (BANDS + 1) - 1
    frames = log_mel(tone(hertz))
    assert abs(frames.argmax(axis=1) - band).max() <= 0.6
    assert frames.dtype == np.float32


def test_bands_share_every_frequency_between_them() -> None:
    weights = speech.filters()
    frequencies = np.fft.rfftfreq(speech.FFT, 1 / RATE)
    inside = (frequencies > 200) & (frequencies < 7000)
    assert weights.shape == (BANDS, len(frequencies))
    assert np.allclose(weights[:, inside].sum(axis=0), 1)


def test_energies_are_those_of_the_windows() -> None:
    samples = np.random.default_rng(0).normal(size=2 * WINDOW).astype(np.float32)
    second = samples[speech.HOP : speech.HOP + WINDOW] * np.hanning(WINDOW)
    expected = speech.filters() @ np.abs(np.fft.rfft(second, speech.FFT)) ** 2 / WINDOW
    assert np.allclose(log_mel(samples)[1], np.log(expected + speech.FLOOR), rtol=1e-5)


def test_silence_at_both_ends_is_cut_off_and_not_within() -> None:
    silence = np.zeros(RATE // 2, dtype=np.float32)
    whole = np.concatenate([silence, tone(500), silence, tone(500), silence])
    inner = np.concatenate([tone(500), silence, tone(500)])
    assert len(log_mel(inner)) <= len(log_mel(whole)) <= len(log_mel(inner)) + 3
    assert len(log_mel(silence)) > 1  # nothing but silence stays as it is
    assert len(log_mel(silence[:10])) == 1


# -- the cache ---------------------------------------------------------------------------------------------------------


def unexpected(*_: object) -> None:
    raise AssertionError("the cache was not used")


@pytest.mark.usefixtures("_espeak")
def test_utterances_are_spoken_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = speak("test", [SEVEN, NINE])
    assert [each.shape[1] for each in frames] == [BANDS, BANDS]
    (file,) = cache.iterdir()
    assert speak("test", [SEVEN]) != []  # others have another file
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(speech, "_sound", unexpected)
    again = speak("test", [SEVEN, NINE])
    assert all(np.array_equal(a, b) for a, b in zip(frames, again, strict=True))
    assert file.name.startswith("test-")


@pytest.mark.usefixtures("_espeak")
@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-50]),
        lambda file: np.savez(file, frames=np.zeros((5, BANDS), np.float32), lengths=[2, 2]),
        lambda file: np.savez(file, frames=np.zeros((4, BANDS), np.float32), lengths=[4]),
        lambda file: np.savez(file, frames=np.full((4, BANDS), np.nan, np.float32), lengths=[2, 2]),
        lambda file: np.savez(file, frames=np.zeros((4, BANDS)), lengths=[2, 2]),
    ],
)
def test_a_damaged_cache_is_made_again(damage: Callable[[Path], object], cache: Path) -> None:
    frames = speak("test", [SEVEN, NINE])
    (file,) = cache.iterdir()
    damage(file)
    again = speak("test", [SEVEN, NINE])
    assert all(np.array_equal(a, b) for a, b in zip(frames, again, strict=True))
    with np.load(file) as content:
        assert content["lengths"].tolist() == [len(each) for each in frames]


@pytest.mark.usefixtures("_espeak")
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = speak("test", [SEVEN])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert np.array_equal(speak("test", [SEVEN])[0], frames[0])


def test_another_version_speaks_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    calls: list[Utterance] = []

    def sound(_: str, utterance: Utterance, __: Path) -> NDArray[np.float32]:
        calls.append(utterance)
        return tone(500)

    monkeypatch.setattr(speech, "_sound", sound)
    for version in ("1.51", "1.52", "1.51"):
        standing_in(tmp_path, version=f"echo {version}")
        speak("test", [SEVEN])
    assert len(calls) == len(list(cache.iterdir())) == 2


# -- a synthesizer that is missing or does not speak -------------------------------------------------------------------


def test_without_espeak_ng_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(InputError) as error:
        load_task("spoken-digits")
    assert str(error.value) == (
        "the task spoken-digits must be run with espeak-ng installed, got none; "
        "on Debian: sudo apt-get install espeak-ng"
    )


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        ({"version": "echo no data >&2; exit 1"}, "espeak-ng must be able to speak, got exit status 1: no data; "),
        ({"speak": "exit 3"}, "espeak-ng must be able to speak, got exit status 3: nothing; "),
        ({"voices": "echo '5 variant !v/m33'"}, "got none called m3; "),
        ({"speak": "true"}, ".wav must be one with samples of 16 bits at 22050 Hz, got FileNotFoundError: "),
        ({}, ".wav must be one with samples of 16 bits at 22050 Hz, got Error: file does not start with RIFF id; "),
    ],
)
def test_a_synthesizer_that_does_not_speak_gives_one_line(
    commands: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing_in(tmp_path, **commands)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(InputError) as error:
        speak("test", [SEVEN])
    assert words in str(error.value)
    assert str(error.value).endswith("; install it again: sudo apt-get install --reinstall espeak-ng espeak-ng-data")
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("_espeak")
def test_voices_that_sound_the_same_give_one_line(cache: Path) -> None:
    with pytest.raises(InputError) as error:
        speak("test", [SEVEN, SEVEN._replace(variant="f4"), SEVEN])
    assert str(error.value).startswith(
        "espeak-ng must be one whose voices differ, as those of version 1.51, got the same sound for "
        "seven by en-us+m3 and seven by en-us+m3; "
    )
    assert not list(cache.iterdir())


def test_a_synthesizer_that_hangs_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing_in(tmp_path, speak="exec sleep 30")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(speech, "_PATIENCE", 0.2)
    with pytest.raises(InputError, match=r"espeak-ng must be able to speak, got .* timed out after 0.2 seconds; "):
        speak("test", [SEVEN])
