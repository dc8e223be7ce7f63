"""A pattern that takes ages, inside of which no signal is looked at."""

import re

re.match(r"(a|a)*(a|a)*(a|a)*$", "a" * 5000 + "b")
