"""Solutions of a question: the code in a model's replies, and the test that the model is shown.

Flows in: a reply. Flows out: Python that defines the function which the tests call, or the reason why it is none.
"""

from __future__ import annotations

import ast
import random
import re

from codemill.selfinstruct.store import key_of
from codemill.selfinstruct.tests_of import Refused, Suite, between, parsed

_TAGGED = re.compile(r"\[PYTHON\](.*?)(?:\[/PYTHON\]|\Z)", re.DOTALL)


def shown_test(tests: Suite, question_id: str, seed: int) -> str:
    """The one test of a question that a model is shown, so that it knows name and arguments; drawn by the seed."""
    return random.Random(key_of("shown", question_id, seed)).choice(tests.asserts)


def read_solution(reply: str, function: str) -> str | Refused:
    """The program in a reply, as it was written."""
    code = between(reply, _TAGGED, "[/PYTHON]")
    try:
        statements = parsed(code).body
    except SyntaxError as error:
        return Refused("solution_not_parsed", str(error.msg))
    defined = {each.name for each in statements if isinstance(each, ast.FunctionDef)}
    if function not in defined:
        return Refused("not_defined", f"there is no function {function}")
    return code + "\n"
