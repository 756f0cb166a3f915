"""Made-up history for trying things out: tasks of the built-in types, as eight days of a shop would leave them.

Nothing of it runs: all tasks have ended, but for a few that are scheduled for a time in a month or later. Their hosts
and addresses end in `.example`, which never resolves, and the table of their valuations is in no configuration, so that
a person who retries them reaches nobody and pays nothing.
"""
