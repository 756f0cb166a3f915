"""The wall clock of a process that loads this file is off by CLOCK_OFF seconds."""

import datetime as dt
import os

import time_machine

# Not twice in a process that was forked from one whose clock is off.
if "CLOCK_OFF" in os.environ and not time_machine.escape_hatch.is_travelling():
    off = dt.timedelta(seconds=float(os.environ["CLOCK_OFF"]))
    time_machine.travel(dt.datetime.now(dt.UTC) + off, tick=True).start()
