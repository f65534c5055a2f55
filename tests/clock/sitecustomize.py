"""The machine's clock for each Python process that has this folder on its path.

It is off by as many seconds as the file named in the environment says at the moment; monotonic
clocks are right, as they are when somebody sets the real one.
"""

import datetime
import os
import time

_REAL = time.time
_PLACE = os.environ.get("SHARDWRIGHT_TEST_CLOCK", "")


def _offset_s() -> float:
    try:
        with open(_PLACE) as file:
            return float(file.read() or 0)
    except OSError:
        return 0.0


class _Datetime(datetime.datetime):
    __slots__ = ()

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "_Datetime":
        return cls.fromtimestamp(time.time(), tz)


if _PLACE:
    time.time = lambda: _REAL() + _offset_s()
    datetime.datetime = _Datetime  # type: ignore[misc]
