"""Unix sockets within the cell: by path, abstract, and with a descriptor passed along."""

import array
import os
import socket


def exchange(address):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    child = os.fork()
    if child == 0:
        client = socket.socket(socket.AF_UNIX)
        client.connect(address)
        with open("/work/passed", "w+b") as file:
            file.write(b"passed along")
            file.flush()
            rights = array.array("i", [file.fileno()])
            client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os._exit(0)
    connection, _ = listener.accept()
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(4))
    (descriptor,) = array.array("i", ancillary[0][2][:4])
    assert os.pread(descriptor, 100, 0) == b"passed along"
    assert os.waitpid(child, 0)[1] == 0


exchange("/tmp/by-path")
exchange("\0abstract")
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
left.send(b"datagram")
assert right.recv(100) == b"datagram"
print("unbroken")
