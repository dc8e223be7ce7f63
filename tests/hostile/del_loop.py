"""Objects that make themselves anew when they are deleted."""

import gc


class Again:
    def __del__(self):
        Again()


Again()
gc.collect()
