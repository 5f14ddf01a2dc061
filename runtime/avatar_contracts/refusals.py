"""What a client gets whose session is not continued: docs/wire-protocol.md, "Resume".

A gateway and a pod refuse in the same words, so that nobody learns which sessions exist.
"""

from __future__ import annotations

from typing import Final

RESUME_REFUSED: Final = "resume_refused"
"""The error code of a session or a token that is unknown, wrong or expired."""
RESUME_REFUSED_MESSAGE: Final = "no session can be resumed with this id and token"
RESUME_REFUSED_CLOSE: Final = 4411
"""Close code of a connection that cannot continue a session."""
RESUMABLE_CODES: Final = frozenset({1001, 1006, 1011, 1012})
"""Close codes of a client that may come back: it goes away for a while, its connection was lost,
its keepalive had no answer, or the gateway restarts."""
TRY_LATER_CLOSE: Final = 1013
"""Close code of a client that may try again: its session waits for it, or no slot is free."""
