"""Fixtures of the monitor's tests: the small night of the engine's tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "execution"))
