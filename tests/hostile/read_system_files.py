"""Reads what hosts keep: passwords, keys, logs, homes."""

for path in ("/etc/shadow", "/etc/passwd", "/etc/hostname", "/etc/machine-id", "/root/.bashrc", "/root/.ssh/id_rsa",
             "/var/log/dpkg.log", "/var/lib/dpkg/status", "/run/utmp", "/boot/grub/grub.cfg", "/etc/ssh/sshd_config"):
    try:
        open(path, "rb").read(1)
    except OSError:
        continue
    print("ESCAPED: read", path)
