"""Shows the progress of the build: one updated line on a terminal, otherwise occasional lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from localcluster.controlplane.build import Step

QUIET_S: Final = 30.0
"""Without a terminal: the time after which a slow tool is reported again."""


def duration(seconds: float) -> str:
    """Return `8s` or `5m07s`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def render(step: Step) -> str:
    """Return the line for a step."""
    verb = "built" if step.done else "building"
    width = len(str(step.count))
    return (
        f"[{step.number:{width}}/{step.count}] {verb} {step.tool} "
        f"{duration(step.tool_s)}, {duration(step.total_s)} in all"
    )


class Screen:
    """Writes the progress of a build to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._moving = stream.isatty()
        self._last: tuple[int, float] | None = None

    def say(self, text: str) -> None:
        """Write one line."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def step(self, step: Step) -> None:
        """Show a step: in place on a terminal, otherwise when it starts, ends, or takes long."""
        if self._moving:
            self._stream.write("\r\x1b[K" + render(step) + ("\n" if step.done else ""))
            self._stream.flush()
        elif step.done or self._is_due(step):
            self._last = (step.number, step.tool_s)
            self.say(render(step))

    def _is_due(self, step: Step) -> bool:
        if self._last is None or self._last[0] != step.number:
            return True
        return step.tool_s - self._last[1] >= QUIET_S
