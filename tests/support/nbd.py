# SPDX-License-Identifier: Apache-2.0
"""A small NBD client on a raw socket, for saying what no decent client says."""

import socket
import struct

MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS, OPT_INFO, OPT_GO, OPT_STRUCTURED = (
    1, 2, 3, 5, 6, 7, 8)
OPT_LIST_META, OPT_SET_META = 9, 10
REP_ACK, REP_SERVER, REP_INFO = 1, 2, 3
REP_FLAG_ERROR = 1 << 31

CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH = 0, 1, 2, 3
CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS = 4, 5, 6, 7

EPERM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP = 1, 22, 28, 75, 95


class Client:
    """Fixed newstyle, simple replies only. Any step may be left out to be rude."""

    def __init__(self, path, timeout_seconds=20):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_seconds)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.size_bytes = None
        self.flags = None
        self.next_handle = 1

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.socket.sendall(data)

    def receive(self, count):
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError(f"the server closed after {len(data)} of {count} bytes")
            data += piece
        return bytes(data)

    def is_closed_by_server(self):
        """Reads to the end; True when the server hangs up, whatever it says before."""
        try:
            while self.socket.recv(65536):
                pass
            return True
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    # Handshake.

    def greet(self, client_flags=3):
        magic, option_magic, flags = struct.unpack(">QQH", self.receive(18))
        assert magic == MAGIC and option_magic == OPTION_MAGIC, "not a fixed newstyle server"
        self.send(struct.pack(">I", client_flags))
        return flags

    def send_option(self, option, data=b"", length=None, magic=OPTION_MAGIC):
        length = len(data) if length is None else length
        self.send(struct.pack(">QII", magic, option, length) + data)

    def receive_option_reply(self):
        magic, option, kind, length = struct.unpack(">QIII", self.receive(20))
        assert magic == REPLY_MAGIC, hex(magic)
        return option, kind, self.receive(length)

    def go(self, name, option=OPT_GO):
        """Returns the final reply's kind; fills in size and flags."""
        encoded = name.encode()
        self.send_option(option, struct.pack(">I", len(encoded)) + encoded + struct.pack(">H", 0))
        while True:
            _, kind, data = self.receive_option_reply()
            if kind == REP_INFO:
                if struct.unpack(">H", data[:2])[0] == 0:
                    self.size_bytes, self.flags = struct.unpack(">QH", data[2:12])
                continue
            return kind

    def connect(self, name):
        self.greet()
        kind = self.go(name)
        assert kind == REP_ACK, f"NBD_OPT_GO was answered with {kind:#x}"
        return self

    # Transmission.

    def send_request(self, command, offset=0, length=0, data=b"", flags=0, magic=REQUEST_MAGIC):
        handle = self.next_handle
        self.next_handle += 1
        self.send(struct.pack(">IHHQQI", magic, flags, command, handle, offset, length) + data)
        return handle

    def receive_reply(self, length=0):
        """(error, handle, data) of a simple reply; `length` bytes follow when there is no error."""
        magic, error, handle = struct.unpack(">IIQ", self.receive(16))
        assert magic == SIMPLE_REPLY_MAGIC, hex(magic)
        return error, handle, self.receive(length) if error == 0 and length else b""

    def command(self, command, offset=0, length=0, data=b"", flags=0):
        handle = self.send_request(command, offset, length, data, flags)
        error, answered, received = self.receive_reply(length if command == CMD_READ else 0)
        assert answered == handle, "a reply to another request"
        return error, received

    def read(self, offset, length):
        error, data = self.command(CMD_READ, offset, length)
        assert error == 0, f"read was answered with error {error}"
        return data

    def write(self, offset, data):
        error, _ = self.command(CMD_WRITE, offset, len(data), data)
        assert error == 0, f"write was answered with error {error}"

    def flush(self):
        error, _ = self.command(CMD_FLUSH)
        assert error == 0, f"flush was answered with error {error}"
