"""The errors that codemill raises for what its user can mend.

    CodemillError                 base; `exit_code` is what the command ends with
    |-- ConfigError         2     the command line or the config file is wrong
    |-- DataError           1     an input or an output is wrong (damaged, missing, contradictory)
    |   `-- StoppedError    1     an input cannot be read, and its source says `on_error: stop`
    `-- RunError            1     the run could not go on (disk full, worker killed)

A message names the value received, the rule that it breaks, and the way out. Anything else that escapes is a bug
of codemill, and keeps its traceback.
"""

from __future__ import annotations


class CodemillError(Exception):
    """Base of every error that is the user's to mend; carries the exit code of the command."""

    exit_code = 1


class ConfigError(CodemillError):
    """The command line or the config file is wrong."""

    exit_code = 2


class DataError(CodemillError):
    """An input or an output is damaged, missing, or contradicts itself."""


class StoppedError(DataError):
    """An input cannot be read, and its source says `on_error: stop`."""


class RunError(CodemillError):
    """The run could not go on, though its config and data may be right."""
