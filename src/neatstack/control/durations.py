"""Durations as people write them: 90s, 10m, 1h, or a number of seconds."""

import math
import re

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)", re.ASCII)
LEAST, MOST = 1.0, 366 * 86400.0  # seconds


def seconds(value: object) -> float:
    """`value`, a number of seconds or a text such as `10m`, in seconds. Raises ValueError, which says what to write."""
    if isinstance(value, str):
        parts = FORM.fullmatch(value.strip())
        if parts is None:
            raise ValueError(f"{value!r} is no duration; write a number with s, m, h or d, such as 90s, 10m or 1h")
        found = float(parts[1]) * UNITS[parts[2] or "s"]
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        found = float(value)
    else:
        raise ValueError(f"{value!r} is no duration; write seconds, or a text such as 90s, 10m or 1h")
    if not LEAST <= found <= MOST:
        raise ValueError(f"{value} is not between 1 second and 366 days; choose a duration that is")
    return found


def text(duration: float) -> str:
    """For people, in the largest unit that is exact: 600 is `10m`."""
    for unit, length in reversed(UNITS.items()):
        if duration >= length and duration % length == 0:
            return f"{duration / length:.0f}{unit}"
    return f"{duration:g}s"
