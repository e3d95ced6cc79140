# SPDX-License-Identifier: Apache-2.0
"""Clients that break the protocol cannot crash the daemon, stall others or grow its memory."""

import random
import socket
import struct
import threading
import time
import unittest

from support import fio, nbd, programs
from support.daemon import MIB, HoldfastTest


class HostileClients(HoldfastTest):
    def setUp(self):
        super().setUp()
        self.daemon.create_pool(segment_size="8M")
        self.uri = self.daemon.attach_new("pool/disk", "256M")

    def client(self):
        client = nbd.Client(self.export_path())
        self.addCleanup(client.close)
        return client

    def connected(self):
        return self.client().connect("disk")

    def assert_serving(self):
        with nbd.Client(self.export_path()) as good:
            good.connect("disk")
            good.write(0, b"good" * 1024)
            self.assertEqual(good.read(0, 4096), b"good" * 1024)
        self.assertTrue(self.daemon.is_running())

    # The handshake.

    def test_garbage_instead_of_a_handshake(self):
        source = random.Random(1)
        for _ in range(50):
            client = self.client()
            try:
                client.send(source.randbytes(source.randrange(1, 5000)))
                client.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            self.assertTrue(client.is_closed_by_server())
        self.assert_serving()

    def test_unknown_client_flags_end_the_connection(self):
        client = self.client()
        client.greet(client_flags=0xFFFFFFFF)
        self.assertTrue(client.is_closed_by_server())
        self.assert_serving()

    def test_a_bad_option_magic_ends_the_connection(self):
        client = self.client()
        client.greet()
        client.send_option(nbd.OPT_LIST, magic=0x1122334455667788)
        self.assertTrue(client.is_closed_by_server())
        self.assert_serving()

    def test_an_option_of_4_gib_is_not_awaited(self):
        client = self.client()
        client.greet()
        client.send_option(nbd.OPT_GO, length=0xFFFFFFFF)
        self.assertTrue(client.is_closed_by_server())
        self.assert_serving()

    def test_unknown_options_are_answered_and_bounded(self):
        client = self.client()
        client.greet()
        answered = 0
        try:
            for number in range(10_000):
                client.send_option(1000 + number, b"data")
                _, kind, _ = client.receive_option_reply()
                self.assertTrue(kind & nbd.REP_FLAG_ERROR)
                answered += 1
        except (ConnectionError, BrokenPipeError):
            pass
        self.assertGreater(answered, 1)
        self.assertLess(answered, 10_000, "a handshake goes on for ever")
        self.assert_serving()

    def test_option_data_that_lies_about_its_lengths_is_refused(self):
        for data in (b"", b"\0", struct.pack(">I", 0xFFFFFFFF), struct.pack(">I", 100) + b"disk",
                     struct.pack(">I", 4) + b"disk", struct.pack(">I", 4) + b"disk" + b"\xff\xff",
                     struct.pack(">I", 4) + b"disk" + struct.pack(">H", 0) + b"more"):
            for option in (nbd.OPT_GO, nbd.OPT_INFO, nbd.OPT_LIST_META, nbd.OPT_SET_META):
                with self.subTest(option=option, data=data):
                    client = self.client()
                    client.greet()
                    client.send_option(option, data)
                    try:
                        _, kind, _ = client.receive_option_reply()
                        self.assertTrue(kind & nbd.REP_FLAG_ERROR, hex(kind))
                    except ConnectionError:
                        pass
        self.assert_serving()

    def test_an_unknown_export_is_an_error_reply_and_the_handshake_goes_on(self):
        client = self.client()
        client.greet()
        self.assertTrue(client.go("no-such-volume") & nbd.REP_FLAG_ERROR)
        self.assertEqual(client.go("disk"), nbd.REP_ACK)
        client.write(0, b"x")

    def test_export_name_works_and_an_unknown_one_ends_the_connection(self):
        client = self.client()
        client.greet(client_flags=1)  # without NO_ZEROES: 124 zero bytes follow
        client.send_option(nbd.OPT_EXPORT_NAME, b"disk")
        size_bytes, _ = struct.unpack(">QH", client.receive(10))
        self.assertEqual(size_bytes, 256 * MIB)
        self.assertEqual(client.receive(124), bytes(124))
        client.write(0, b"abc")
        wrong = self.client()
        wrong.greet()
        wrong.send_option(nbd.OPT_EXPORT_NAME, b"wrong")
        self.assertTrue(wrong.is_closed_by_server())

    # Requests.

    def test_a_bad_request_magic_ends_the_connection(self):
        client = self.connected()
        client.send_request(nbd.CMD_READ, 0, 4096, magic=0xDEADBEEF)
        self.assertTrue(client.is_closed_by_server())
        self.assert_serving()

    def test_ranges_outside_the_volume_are_errors_not_crashes(self):
        size = 256 * MIB
        client = self.connected()
        ranges = ((size, 1), (size - 1, 2), (1 << 63, 4096), ((1 << 64) - 4096, 4096),
                  ((1 << 64) - 1, 1), ((1 << 64) - 1, 4096), (size - 512, 0x7FFFF))
        for offset, length in ranges:
            for command in (nbd.CMD_READ, nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES):
                with self.subTest(offset=offset, length=length, command=command):
                    error, _ = client.command(command, offset, length)
                    self.assertIn(error, (nbd.EINVAL, nbd.ENOSPC))
            error, _ = client.command(nbd.CMD_WRITE, offset, length, bytes(length))
            self.assertIn(error, (nbd.EINVAL, nbd.ENOSPC))
        self.assert_serving()

    def test_unknown_commands_and_flags_are_refused(self):
        client = self.connected()
        for command in (nbd.CMD_CACHE, 8, 9, 100, 0xFFFF):
            error, _ = client.command(command, 0, 4096)
            self.assertIn(error, (nbd.EINVAL, nbd.ENOTSUP), f"command {command}")
        error, _ = client.command(nbd.CMD_READ, 0, 4096, flags=0x8000)
        self.assertEqual(error, nbd.EINVAL)
        # Block status without a negotiated context.
        error, _ = client.command(nbd.CMD_BLOCK_STATUS, 0, 4096)
        self.assertEqual(error, nbd.EINVAL)
        client.write(0, b"still here")

    def test_requests_over_32_mib_are_refused(self):
        client = self.connected()
        client.send_request(nbd.CMD_READ, 0, 64 * MIB)
        try:
            error, _, _ = client.receive_reply()
            self.assertIn(error, (nbd.EINVAL, nbd.EOVERFLOW))
        except ConnectionError:
            pass
        client = self.connected()
        client.send_request(nbd.CMD_WRITE, 0, 0xFFFFFFFF)
        try:
            client.socket.settimeout(5)
            sent = 0
            while sent < 128 * MIB:
                sent += client.socket.send(bytes(MIB))
        except OSError:
            pass
        client.close()
        self.assert_serving()

    def test_a_write_cut_off_in_its_payload_changes_nothing(self):
        good = self.connected()
        good.write(MIB, b"a" * MIB)
        for cut in (1, 511, 4096, MIB - 1):
            client = self.connected()
            client.send_request(nbd.CMD_WRITE, MIB, MIB, b"b" * cut)
            client.close()
        time.sleep(0.2)
        self.assertEqual(good.read(MIB, MIB), b"a" * MIB)

    def test_zero_length_requests_are_answered(self):
        client = self.connected()
        for command in (nbd.CMD_READ, nbd.CMD_WRITE, nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES):
            error, _ = client.command(command, 0, 0)
            self.assertIn(error, (0, nbd.EINVAL))
        client.write(0, b"fine")

    def test_random_requests_are_survived(self):
        source = random.Random(9)
        for _ in range(40):
            client = self.connected()
            try:
                for _ in range(30):
                    offset = source.choice([0, 4096, source.getrandbits(64), 256 * MIB - 100])
                    length = source.choice([0, 1, 4096, source.getrandbits(16)])
                    command = source.choice([*range(8), source.getrandbits(16)])
                    client.send_request(command, offset, length,
                                        source.randbytes(source.randrange(0, 64)),
                                        flags=source.choice([0, 1, 2, 4, source.getrandbits(16)]))
                client.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            self.assertTrue(client.is_closed_by_server())
        self.assert_serving()

    # Slow and greedy ones.

    def test_a_client_that_never_reads_its_replies_stalls_nobody_and_costs_little(self):
        self.connected().write(0, b"z" * (8 * MIB))
        before = programs.memory_bytes(self.daemon.pid, "VmRSS")
        greedy = [self.connected() for _ in range(4)]
        for client in greedy:
            client.socket.settimeout(1)
            try:
                for _ in range(2000):
                    client.send_request(nbd.CMD_READ, 0, MIB)
            except OSError:
                pass  # it stopped reading from us: that is the back-pressure wanted
        began = time.monotonic()
        for _ in range(20):
            self.assert_serving()
        self.assertLess(time.monotonic() - began, 10)
        grown = programs.memory_bytes(self.daemon.pid, "VmRSS") - before
        print(f"four clients that never read: {grown / MIB:.0f} MiB")
        if not programs.is_sanitized():
            self.assertLess(grown, 4 * 80 * MIB)
        for client in greedy:
            client.close()
        self.assert_serving()

    def test_half_open_clients_are_dropped_and_do_not_use_up_the_connections(self):
        silent = [self.client() for _ in range(60)]
        self.assert_serving()
        # The handshake has a time limit, so a silent one does not stay for ever.
        silent[0].socket.settimeout(30)
        self.assertTrue(silent[0].is_closed_by_server())

    def test_more_connections_than_the_bound_are_refused_and_places_come_free_again(self):
        limit = 64
        held = []
        refused = 0
        for _ in range(limit + 20):
            client = self.client()
            try:
                client.connect("disk")
                held.append(client)
            except (ConnectionError, AssertionError, OSError):
                refused += 1
        self.assertGreaterEqual(len(held), 16)
        self.assertGreater(refused, 0, "connections have no bound")
        for client in held:
            client.close()
        programs.wait_until(lambda: self.daemon.volume()["attachment"]["clients"] == 0,
                            what="the clients to be gone")
        self.assert_serving()

    def test_a_verifying_client_is_not_disturbed(self):
        """fio writes and verifies while others misbehave beside it on the same export."""
        over = threading.Event()

        def misbehave(seed):
            source = random.Random(seed)
            while not over.is_set():
                try:
                    with nbd.Client(self.export_path(), timeout_seconds=2) as client:
                        kind = source.randrange(4)
                        if kind == 0:
                            client.send(source.randbytes(300))
                            continue
                        client.connect("disk")
                        if kind == 1:
                            client.send_request(nbd.CMD_READ, 0, MIB)  # and goes without reading
                        elif kind == 2:
                            client.send_request(nbd.CMD_WRITE, 200 * MIB, MIB, b"x" * 1000)
                        else:
                            client.send_request(nbd.CMD_READ, 1 << 62, 4096)
                            client.send_request(77, 0, 0, magic=5)
                except (OSError, AssertionError, struct.error):
                    pass

        rude = [threading.Thread(target=misbehave, args=(seed,)) for seed in range(4)]
        for thread in rude:
            thread.start()
        try:
            fio.run_jobs(self.uri, [{"rw": "randwrite", "bs": "4k", "iodepth": 16, "size": "64M",
                                     "verify": "crc32c", "verify_fatal": 1}], self.directory)
        finally:
            over.set()
            for thread in rude:
                thread.join()
        self.assert_serving()


class HostileControlClients(HoldfastTest):
    """The same for the control interface."""

    def test_garbage_on_the_control_socket_is_survived(self):
        source = random.Random(2)
        requests = [b"", b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n", b"GET /" + b"a" * 100_000,
                    b"POST /v1/pools HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
                    b"POST /v1/pools HTTP/1.1\r\nContent-Length: 5\r\n\r\n{{{{{",
                    b"POST /v1/pools HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
        requests += [source.randbytes(500) for _ in range(20)]
        for request in requests:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(10)
                client.connect(str(self.daemon.runtime / "api.sock"))
                try:
                    client.sendall(request)
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):
                        pass
                except OSError:
                    pass
        self.assertEqual(self.daemon.call("pool", "list")["pools"], [])

    def test_silent_control_clients_do_not_keep_others_out(self):
        for _ in range(20):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.addCleanup(client.close)
            client.setblocking(False)
            try:
                client.connect(str(self.daemon.runtime / "api.sock"))
            except BlockingIOError:
                break  # as many as the daemon lets wait
        self.assertEqual(self.daemon.call("pool", "list", timeout=30)["pools"], [])


if __name__ == "__main__":
    unittest.main()
