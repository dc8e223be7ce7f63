"""Opens a server of its own."""

import socket

server = socket.create_server(("", 0))
print("ESCAPED: listens", server.getsockname())
