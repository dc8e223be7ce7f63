"""Writes into the kernel's files: core pattern, sysrq, its own score for lack of memory."""

for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/oom_score_adj", "/proc/self/uid_map",
             "/sys/kernel/uevent_helper", "/proc/self/mem", "/proc/sys/vm/drop_caches"):
    try:
        open(path, "r+b").write(b"0")
    except OSError:
        continue
    print("ESCAPED: wrote", path)
