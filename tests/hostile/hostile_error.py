"""Raises an error that cannot be shown, and breaks what shows it."""

import sys
import traceback


class Hostile(BaseException):
    def __str__(self):
        raise Hostile

    __repr__ = __str__


def shown(*arguments):
    while True:
        pass


sys.excepthook = traceback.print_exception = traceback.print_exc = shown
raise Hostile
