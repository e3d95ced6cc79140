# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor protocol: a client on a unix socket."""

import json
import socket

from support import programs


class QmpError(AssertionError):
    """QEMU refused a command."""


class Qmp:
    def __init__(self, path, timeout_seconds=30):
        """Waits for the socket: QEMU may still be starting."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_seconds)
        programs.wait_until(lambda: self._connects(path), timeout_seconds, f"QEMU to open {path}")
        self.lines = self.socket.makefile("r", encoding="utf-8")
        self.events = []
        assert "QMP" in self._receive(), "not a QMP server"
        self.execute("qmp_capabilities")

    def _connects(self, path):
        try:
            self.socket.connect(str(path))
            return True
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    def _receive(self):
        line = self.lines.readline()
        if not line:
            raise ConnectionError("QEMU closed its monitor")
        return json.loads(line)

    def close(self):
        self.lines.close()
        self.socket.close()

    def execute(self, command, **arguments):
        """Returns what the command returns; '_' in a name stands for '-'."""
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        request = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self._receive()
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpError(f"{command} {arguments}: {message['error']['desc']}")
            else:
                return message["return"]

    def wait_for_event(self, name, **expected):
        """The first event of that name (past ones count too) with the data expected; forgets it and
        what came before."""
        seen = 0
        while True:
            while seen < len(self.events):
                event = self.events[seen]
                seen += 1
                data = event.get("data", {})
                if event["event"] == name and expected.items() <= data.items():
                    del self.events[:seen]
                    return data
            message = self._receive()
            if "event" in message:
                self.events.append(message)
