"""rmsprop.jax on a mesh of devices: state and updates are sharded as the parameters, with the bits of one device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("sharded_jax.py")


@pytest.mark.slow
def test_state_is_sharded_as_the_parameters_and_the_numbers_do_not_depend_on_it() -> None:
    """Compiled as users compile: conftest.py's XLA_FLAGS are not passed on."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    code = [sys.executable, "-W", "error", str(CHECKS)]
    done = subprocess.run(code, capture_output=True, text=True, check=False, env=environment)
    assert (done.stdout, done.returncode) == ("same\n", 0), done.stderr
