"""Exit statuses of the commands that Jobs run, as `sysexits.h` numbers them."""

from __future__ import annotations

from typing import Final

USAGE: Final = 2
"""Wrong arguments, as argparse reports them."""
WRONG_INPUT: Final = 65  # EX_DATAERR
"""An input is wrong or was refused: the same command fails again."""
TEMPORARY: Final = 75  # EX_TEMPFAIL
"""The network, the disk or the machine failed: the same command may succeed later."""

PERMANENT: Final = (USAGE, WRONG_INPUT)
"""Statuses after which another attempt does not help."""
