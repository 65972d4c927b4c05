"""The command `rmsprop` as in `python -m rmsprop`, without figures in reports: python light_rmsprop.py train …"""

from __future__ import annotations

import sys

import lighter
import pytest

from rmsprop.__main__ import main

if __name__ == "__main__":
    lighter.without_figures(pytest.MonkeyPatch())
    sys.exit(main())
