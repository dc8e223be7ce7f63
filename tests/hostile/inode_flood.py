"""Makes empty files until none can be made."""

import os

made = 0
try:
    while made < 200_000:
        os.close(os.open(f"{made}", os.O_CREAT | os.O_WRONLY))
        made += 1
    print("ESCAPED: made", made)
except OSError:
    pass
