# SPDX-License-Identifier: Apache-2.0
"""How `holdfast attach` waits for a volume that another host has: against a stand-in for holdfastd,
which answers as told. The real thing, with two daemons, is in the tests of shared pools."""

import http.server
import json
import os
import pty
import shutil
import signal
import socketserver
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

from support import programs
from support.daemon import test_root

MESSAGE = "volume 'vms/web' belongs to host 'kvm2', which is live; detach it there"


def held(state, take_over_in_seconds=None):
    details = {"host": "kvm2", "host_id": 2, "state": state,
               "take_over_in_seconds": take_over_in_seconds}
    return 409, {"error": {"code": "lease-held", "message": MESSAGE, "details": details}}


ATTACHED = 200, {"pool": "vms", "volume": "web", "protocol": "nbd", "read_only": False,
                 "socket": "/run/x.sock", "uri": "nbd+unix:///web?socket=/run/x.sock",
                 "warning": None}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((time.monotonic(), self.path, body))
        answers = self.server.answers
        status, answer = answers.pop(0) if len(answers) > 1 else answers[0]
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def address_string(self):
        return "a client"

    def log_message(self, *_):
        pass


class StandIn(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class AttachWait(unittest.TestCase):
    def setUp(self):
        self.directory = Path(tempfile.mkdtemp(prefix="holdfast-", dir=test_root()))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.server = StandIn(str(self.directory / "api.sock"), Handler)
        self.server.asked = []
        self.addCleanup(self.server.server_close)
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        self.addCleanup(self.server.shutdown)

    def command(self, *arguments):
        return [programs.binary_directory() / "holdfast", "--runtime-dir", self.directory,
                "attach", "vms/web", *arguments]

    def attach(self, answers, *arguments, status):
        self.server.answers = list(answers)
        return programs.run(*self.command(*arguments), status=status)

    def asked_at(self):
        return [at for at, _, _ in self.server.asked]

    def test_a_dead_holder_is_waited_for_until_the_take_over_whatever_the_patience(self):
        answers = [held("unknown"), held("failing", 1.2), held("failing", 0.6), held("dead", 0),
                   ATTACHED]
        done = self.attach(answers, "--wait", "0", status=0)
        self.assertEqual(done.stdout.splitlines()[0], "/run/x.sock")
        self.assertEqual(done.stderr, "", "no progress where there is no terminal")
        times = self.asked_at()
        self.assertEqual(len(times), 5)
        for before, after in zip(times, times[1:]):
            self.assertGreater(after - before, 0.4, "it asks too often")

    def test_a_live_holder_is_waited_for_as_long_as_asked_for(self):
        done = self.attach([held("live")], "--wait", "1.8", status=1)
        self.assertEqual(done.stdout, "")
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn(MESSAGE, done.stderr)
        self.assertRegex(done.stderr, r"\(waited for [\d.]+ s\)$")
        times = self.asked_at()
        self.assertGreaterEqual(times[-1] - times[0], 1.8)
        self.assertGreaterEqual(len(times), 2)

    def test_a_holder_that_may_just_have_died_is_waited_for_until_that_is_known(self):
        def silent(seconds_ago):
            status, answer = held("live")
            answer["error"]["details"]["last_renewal_seconds_ago"] = seconds_ago
            return status, answer

        answers = [silent(1), silent(1.6), silent(2.2), silent(2.8), held("failing", 0.5), ATTACHED]
        done = self.attach(answers, "--wait", "0.6", status=0)
        self.assertEqual(done.stdout.splitlines()[0], "/run/x.sock")
        self.attach([silent(1), silent(1.6), silent(0.2)], "--wait", "0.6", status=1)

    def test_without_patience_it_asks_once(self):
        done = self.attach([held("live")], "--wait", "0", status=1)
        self.assertEqual(done.stderr.strip(), f"holdfast: {MESSAGE}")
        self.assertEqual(len(self.server.asked), 1)

    def test_a_volume_that_becomes_free_meanwhile_is_attached(self):
        done = self.attach([held("live"), held("free"), ATTACHED], status=0)
        self.assertEqual(done.stdout.splitlines()[0], "/run/x.sock")

    def test_any_other_refusal_ends_it_at_once(self):
        refusal = 404, {"error": {"code": "not-found", "message": "no volume 'vms/web'"}}
        done = self.attach([held("failing", 5), refusal], status=1)
        self.assertEqual(done.stderr.strip(), "holdfast: no volume 'vms/web'")
        self.assertEqual(len(self.server.asked), 2)

    def test_json_has_the_details(self):
        done = self.attach([held("live", None)], "--wait", "0", "--json", status=1)
        error = json.loads(done.stdout)["error"]
        self.assertEqual(error["code"], "lease-held")
        self.assertEqual(error["details"], {"host": "kvm2", "host_id": 2, "state": "live",
                                            "take_over_in_seconds": None})

    def test_the_modes_are_asked_for(self):
        flags = ("incoming", "shared_writable", "shared_read_only")
        for option, flag in (("--incoming", "incoming"), ("--shared-writable", "shared_writable"),
                             ("--shared", "shared_read_only"), (None, None)):
            with self.subTest(option=option):
                self.server.asked.clear()
                self.attach([ATTACHED], *([option] if option else []), status=0)
                _, path, body = self.server.asked[0]
                self.assertEqual(path, "/v1/pools/vms/volumes/web/attach")
                self.assertEqual({name: body[name] for name in flags},
                                 {name: name == flag for name in flags})

    def start_on_terminal(self, *arguments):
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        process = programs.start(self.command(*arguments), stdout=subprocess.DEVNULL,
                                 stderr=theirs)
        self.addCleanup(programs.stop, process)
        os.close(theirs)
        return process, ours

    def read_until(self, terminal, wanted):
        text = ""
        deadline = time.monotonic() + 30
        while wanted not in text:
            self.assertLess(time.monotonic(), deadline, text)
            text += os.read(terminal, 4096).decode()
        return text

    def test_a_terminal_shows_what_is_waited_for_and_control_c_ends_it(self):
        self.server.answers = [held("failing", 23.2)]
        process, terminal = self.start_on_terminal()
        self.read_until(terminal, "waits for host kvm2 (failing): may be taken over in 23 s")
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=30), -signal.SIGINT)
        count = len(self.server.asked)
        time.sleep(0.8)
        self.assertEqual(len(self.server.asked), count)

    def test_a_terminal_shows_how_long_it_still_waits_for_a_live_holder(self):
        self.server.answers = [held("live")]
        process, terminal = self.start_on_terminal("--wait", "20")
        self.read_until(terminal, "waits for host kvm2 (live) for another 20 s")
        self.server.answers = [ATTACHED]
        self.assertEqual(process.wait(timeout=30), 0)


if __name__ == "__main__":
    unittest.main()
