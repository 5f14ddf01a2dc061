"""The command `avatar-runtime`: it can be stopped while its modules are imported."""

from __future__ import annotations

from avatar_contracts import early_stop


def main() -> int:
    """Run the command line; return the exit status."""
    early_stop.exit_on_sigterm()
    from avatar_runtime.__main__ import main as run

    return run()
