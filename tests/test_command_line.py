# SPDX-License-Identifier: Apache-2.0
"""The command line is a contract: what each command prints and how it ends."""

import json
import os
import re
import unittest

from support import programs
from support.daemon import GIB, MIB, HoldfastTest

UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


class Pools(HoldfastTest):
    def test_create_list_show_close_open(self):
        path = self.directory / "vms"
        made = self.daemon.call("pool", "create", "vms", f"dir:{path}")
        self.assertRegex(made["id"], UUID)
        self.assertEqual(made["name"], "vms")
        self.assertEqual(made["location"], f"dir:{path}")
        self.assertEqual(made["state"], "open")
        self.assertEqual(made["segment_bytes"], 32 * MIB)
        self.assertFalse(made["shared"])
        listed = self.daemon.call("pool", "list")["pools"]
        self.assertEqual([pool["id"] for pool in listed], [made["id"]])
        shown = self.daemon.call("pool", "show", "vms")
        self.assertEqual(shown["volume_count"], 0)
        self.assertGreater(shown["capacity_bytes"], 0)
        self.assertGreater(shown["available_bytes"], 0)
        self.assertTrue(self.daemon.call("pool", "close", "vms")["closed"])
        self.assertEqual(self.daemon.call("pool", "list")["pools"], [])
        again = self.daemon.call("pool", "open", "vms", f"dir:{path}")
        self.assertEqual(again["id"], made["id"])
        # The same once more is no error.
        self.assertEqual(self.daemon.call("pool", "open", "vms", f"dir:{path}")["id"], made["id"])

    def test_segment_size_is_taken(self):
        made = self.daemon.create_pool("small", segment_size="4M")
        self.assertEqual(made["segment_bytes"], 4 * MIB)

    def test_a_directory_that_is_a_pool_is_not_made_a_pool_again(self):
        self.daemon.create_pool("vms")
        path = self.directory / "vms"
        self.daemon.call("pool", "close", "vms")
        self.assert_refused("already-exists", "pool", "create", "again", f"dir:{path}")
        self.daemon.call("pool", "open", "vms", f"dir:{path}")

    def test_unknown_pool_suggests_a_near_name(self):
        self.daemon.create_pool("production")
        self.assert_refused("not-found", "pool", "show", "prodution", said=["production"])

    def test_opening_what_is_no_pool_says_so(self):
        empty = self.directory / "empty"
        empty.mkdir()
        self.assert_refused("not-found", "pool", "open", "vms", f"dir:{empty}", said=[str(empty)])
        self.assert_refused("not-found", "pool", "open", "vms", f"dir:{self.directory}/nowhere",
                            said=["nowhere"])

    def test_close_is_refused_while_a_volume_is_attached(self):
        self.daemon.create_pool()
        self.daemon.attach_new()
        self.assert_refused("busy", "pool", "close", "pool", said=["disk"])
        self.daemon.call("detach", "pool/disk")
        self.daemon.call("pool", "close", "pool")


class Volumes(HoldfastTest):
    def setUp(self):
        super().setUp()
        self.daemon.create_pool()

    def test_create_list_show_resize_rename_remove(self):
        made = self.daemon.call("volume", "create", "pool/disk", "--size", "20G")
        self.assertEqual(made["size_bytes"], 20 * GIB)
        self.assertEqual((made["pool"], made["name"]), ("pool", "disk"))
        self.assertEqual(made["state"], "detached")
        self.assertFalse(made["attached"])
        self.assertRegex(made["id"], UUID)
        for arguments in (["volume", "list"], ["volume", "list", "pool"]):
            volumes = self.daemon.call(*arguments)["volumes"]
            self.assertEqual([volume["name"] for volume in volumes], ["disk"])
        grown = self.daemon.call("volume", "resize", "pool/disk", "--size", "30G")
        self.assertEqual(grown["size_bytes"], 30 * GIB)
        renamed = self.daemon.call("volume", "rename", "pool/disk", "system")
        self.assertEqual((renamed["name"], renamed["id"]), ("system", made["id"]))
        self.assertEqual(self.daemon.volume("pool/system")["size_bytes"], 30 * GIB)
        self.assert_refused("not-found", "volume", "show", "pool/disk")
        removed = self.daemon.call("volume", "remove", "--now", "pool/system")
        self.assertTrue(removed["removed"])
        self.assertIsNone(removed["trashed"])
        self.assertEqual(self.daemon.call("volume", "list")["volumes"], [])

    def test_sizes(self):
        for text, size_bytes in (("1M", MIB), ("1536K", 1536 * 1024), ("2G", 2 * GIB),
                                 ("1T", 1024 * GIB), (str(5 * MIB), 5 * MIB)):
            with self.subTest(size=text):
                self.daemon.call("volume", "create", "pool/sized", "--size", text)
                self.assertEqual(self.daemon.volume("pool/sized")["size_bytes"], size_bytes)
                self.daemon.call("volume", "remove", "--now", "pool/sized")

    def test_sizes_that_are_nonsense_are_usage_errors(self):
        for text in ("20X", "", "-1", "G", "1..5G", "0x10", "1e9", "ten", "99999999999999999999T"):
            with self.subTest(size=text):
                done = self.daemon.run("volume", "create", "pool/bad", f"--size={text}")
                self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
                self.assertNotEqual(done.stderr.strip(), "")
        self.assertEqual(self.daemon.call("volume", "list")["volumes"], [])

    def test_sizes_that_no_disk_can_have_are_refused(self):
        for text in ("0", "1000", "1K", str(MIB + 100), "33T"):
            with self.subTest(size=text):
                self.assert_refused("invalid-argument", "volume", "create", "pool/bad",
                                    "--size", text)

    def test_names_that_could_leave_the_directory_are_refused(self):
        for name in ("..", ".", ".hidden", "a b", "a" * 64, "a\nb", "-dash", "ä", ""):
            with self.subTest(name=name):
                done = self.daemon.run("volume", "create", f"pool/{name}", "--size", "1M")
                self.assertIn(done.returncode, (1, 2), done.stdout + done.stderr)
        done = self.daemon.run("volume", "create", "pool/a/b", "--size", "1M")
        self.assertIn(done.returncode, (1, 2))
        self.assertEqual(self.daemon.call("volume", "list")["volumes"], [])

    def test_a_name_of_63_characters_works(self):
        name = "n" * 63
        self.daemon.call("volume", "create", f"pool/{name}", "--size", "1M")
        self.assertEqual(self.daemon.volume(f"pool/{name}")["name"], name)

    def test_a_taken_name_is_refused(self):
        self.daemon.call("volume", "create", "pool/disk", "--size", "1M")
        self.daemon.call("volume", "create", "pool/other", "--size", "1M")
        self.assert_refused("already-exists", "volume", "create", "pool/disk", "--size", "1M")
        self.assert_refused("already-exists", "volume", "rename", "pool/disk", "other")

    def test_unknown_names_suggest_near_ones(self):
        self.daemon.call("volume", "create", "pool/database", "--size", "1M")
        self.assert_refused("not-found", "attach", "pool/databse", said=["database"])
        self.assert_refused("not-found", "volume", "show", "pol/database", said=["pool"])

    def test_shrinking_needs_force(self):
        self.daemon.call("volume", "create", "pool/disk", "--size", "2G")
        message = self.assert_refused("invalid-argument", "volume", "resize", "pool/disk",
                                      "--size", "1G", said=["--force"])
        self.assertEqual(self.daemon.volume()["size_bytes"], 2 * GIB, message)
        self.daemon.call("volume", "resize", "pool/disk", "--size", "1G", "--force")
        self.assertEqual(self.daemon.volume()["size_bytes"], GIB)

    def test_an_attached_volume_is_not_removed_or_renamed(self):
        self.daemon.attach_new()
        self.assert_refused("busy", "volume", "remove", "pool/disk", said=["detach"])
        self.assert_refused("busy", "volume", "rename", "pool/disk", "other", said=["detach"])
        self.daemon.call("detach", "pool/disk")
        self.daemon.call("volume", "remove", "pool/disk")


class Attaching(HoldfastTest):
    def setUp(self):
        super().setUp()
        self.daemon.create_pool()
        self.daemon.call("volume", "create", "pool/disk", "--size", "64M")

    def test_attach_prints_the_socket_and_the_uri(self):
        done = self.daemon.run("attach", "pool/disk", status=0)
        path = str(self.daemon.runtime / "pool.disk.nbd.sock")
        self.assertEqual(done.stdout.splitlines(), [path, f"nbd+unix:///disk?socket={path}"])
        self.assertTrue(os.path.exists(path))

    def test_attach_is_idempotent_and_detach_ends_it(self):
        first = self.daemon.call("attach", "pool/disk")
        self.assertEqual(first["protocol"], "nbd")
        self.assertFalse(first["read_only"])
        self.assertEqual(self.daemon.call("attach", "pool/disk", "--nbd")["uri"], first["uri"])
        self.assert_refused("busy", "attach", "pool/disk", "--read-only")
        shown = self.daemon.volume()
        self.assertEqual(shown["state"], "serving")
        self.assertTrue(shown["attached"])
        self.assertEqual(shown["attachment"]["uri"], first["uri"])
        self.assertIsNone(shown["hold"])
        self.assertEqual(programs.run("nbdinfo", "--size", first["uri"]).stdout.strip(),
                         str(64 * MIB))
        self.assertTrue(self.daemon.call("detach", "pool/disk")["detached"])
        self.assertFalse(self.export_path().exists(), "the socket stays after detach")
        self.assert_refused("not-found", "detach", "pool/disk")
        self.assertEqual(self.daemon.volume()["state"], "detached")

    def test_attach_over_vhost_prints_the_socket_and_what_to_paste(self):
        done = self.daemon.run("attach", "pool/disk", "--vhost", status=0)
        path = str(self.daemon.runtime / "pool.disk.vhost.sock")
        lines = done.stdout.splitlines()
        self.assertEqual(lines[:2], [path, ""])
        self.assertIn("-device vhost-user-blk-pci", done.stdout)
        self.assertIn("<disk type='vhostuser'", done.stdout)
        attached = self.daemon.call("attach", "pool/disk", "--vhost")
        self.assertEqual((attached["protocol"], attached["socket"], attached["uri"]),
                         ("vhost", path, None))
        self.assertEqual(self.daemon.volume()["attachment"]["protocol"], "vhost")
        self.assert_refused("busy", "attach", "pool/disk", "--nbd")
        self.daemon.call("detach", "pool/disk")
        self.assertFalse(os.path.exists(path), "the socket stays after detach")

    def test_the_export_has_the_name_of_the_volume_and_is_listed(self):
        self.daemon.call("attach", "pool/disk")
        listed = json.loads(programs.run(
            "nbdinfo", "--json", "--list", f"nbd+unix://?socket={self.export_path()}").stdout)
        self.assertEqual([export["export-name"] for export in listed["exports"]], ["disk"])
        wrong = programs.run("nbdinfo", f"nbd+unix:///wrong?socket={self.export_path()}",
                             status=None)
        self.assertNotEqual(wrong.returncode, 0)

    def test_detach_while_a_client_is_connected_ends_the_client_not_the_daemon(self):
        uri = self.daemon.call("attach", "pool/disk")["uri"]
        client = programs.start(["qemu-io", "-f", "raw", uri, "-c", "sleep 20000"])
        self.addCleanup(programs.stop, client)
        programs.wait_until(lambda: self.daemon.volume()["attachment"]["clients"],
                            what="the client to be counted")
        self.daemon.call("detach", "pool/disk")
        self.assertEqual(self.daemon.volume()["state"], "detached")
        self.assertEqual(self.daemon.call("attach", "pool/disk")["uri"], uri)


class Leases(HoldfastTest):
    """What a local pool says; the rest is in the tests of shared ones."""

    def setUp(self):
        super().setUp()
        self.daemon.create_pool()
        self.daemon.call("volume", "create", "pool/disk", "--size", "64M")

    def test_a_local_pool_has_no_leases_and_says_so(self):
        for arguments in (["lease", "list", "pool"], ["lease", "show", "pool/disk"],
                          ["lease", "break", "pool/disk"], ["host", "list", "pool"],
                          ["handover", "pool/disk"]):
            with self.subTest(arguments=arguments):
                self.assert_refused("unsupported", *arguments, said=["pool 'pool' is local"])
        self.assertEqual(self.daemon.call("lease", "list"), {"leases": []})
        self.assertIn("only volumes of shared pools",
                      self.daemon.run("lease", "list", status=0).stdout)
        self.assert_refused("not-found", "host", "list", "poll", said=["did you mean 'pool'"])

    def test_a_volume_of_a_local_pool_is_not_shared_with_other_hosts(self):
        for option in ("--incoming", "--shared", "--shared-writable"):
            with self.subTest(option=option):
                self.assert_refused("unsupported", "attach", "pool/disk", option,
                                    said=["is local", option])
        self.assert_refused("invalid-argument", "attach", "pool/disk", "--shared-writable",
                            "--read-only", said=["--shared"])
        self.assertEqual(self.daemon.volume()["state"], "detached")
        attachment = self.daemon.call("attach", "pool/disk", "--wait", "0")
        self.assertEqual(attachment["protocol"], "nbd")
        attachment = self.daemon.volume()["attachment"]
        self.assertIsNone(attachment["mode"])
        self.assertIsNone(attachment["lease"])
        self.assertIsNone(self.daemon.call("pool", "show", "pool")["leases"])


class Status(HoldfastTest):
    def test_status_shows_daemon_limits_pools_and_attached_volumes(self):
        self.daemon.create_pool()
        self.daemon.attach_new("pool/disk", "1G")
        self.daemon.call("volume", "create", "pool/idle", "--size", "1G")
        status = self.daemon.call("status")
        self.assertEqual(status["daemon"]["pid"], self.daemon.pid)
        self.assertEqual(status["daemon"]["runtime_dir"], str(self.daemon.runtime))
        self.assertTrue(status["daemon"]["state_saved"])
        self.assertGreater(len(status["limits"]), 5)
        self.assertEqual([pool["name"] for pool in status["pools"]], ["pool"])
        self.assertEqual([volume["name"] for volume in status["volumes"]], ["disk"])
        human = self.daemon.run("status", status=0).stdout
        for word in ("pool", "disk"):
            self.assertIn(word, human)

    def test_statistics_count_what_a_client_does(self):
        self.daemon.create_pool()
        uri = self.daemon.attach_new()
        programs.run("qemu-io", "-f", "raw", uri, "-c", "write -P 1 0 1M", "-c", "flush",
                     "-c", "read -P 1 0 1M", "-c", "discard 0 64k")
        statistics = self.daemon.volume()["statistics"]
        self.assertGreaterEqual(statistics["writes"], 1)
        self.assertEqual(statistics["written_bytes"], MIB)
        self.assertGreaterEqual(statistics["read_bytes"], MIB)
        self.assertGreaterEqual(statistics["discards"], 1)
        self.assertGreaterEqual(statistics["flushes"], 1)
        self.assertEqual(statistics["errors"], 0)
        # What is live, and a few pages of the map.
        self.assertGreaterEqual(statistics["live_bytes"], MIB - 64 * 1024)
        self.assertLess(statistics["live_bytes"], MIB)


class Usage(HoldfastTest):
    def test_wrong_usage_ends_with_2_and_says_why(self):
        for arguments in (["bogus"], [], ["pool"], ["pool", "create"], ["pool", "create", "x"],
                          ["volume", "create", "pool/disk"], ["volume", "show", "noslash"],
                          ["attach"], ["attach", "pool/disk", "--bogus"],
                          ["volume", "create", "p/d", "--size"], ["lease"], ["lease", "show"],
                          ["lease", "show", "noslash"], ["host"], ["host", "list"],
                          ["host", "list", ""], ["handover"], ["handover", "noslash"],
                          ["attach", "pool/disk", "--wait", "-1"],
                          ["attach", "pool/disk", "--wait", "soon"],
                          ["attach", "pool/disk", "--shared", "--incoming"],
                          ["attach", "pool/disk", "--shared", "--shared-writable"],
                          ["attach", "pool/disk", "--incoming", "--shared-writable"],
                          ["pool", "create", "p", "dir:/nowhere", "--io-timeout", "5"],
                          ["pool", "create", "p", "dir:/nowhere", "--watchdog", "60"],
                          ["pool", "create", "p", "dir:/x", "--shared", "--io-timeout", "0"],
                          ["pool", "create", "p", "dir:/x", "--shared", "--io-timeout", "121"],
                          ["pool", "create", "p", "dir:/x", "--shared", "--watchdog", "3601"]):
            with self.subTest(arguments=arguments):
                done = self.daemon.run(*arguments)
                self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
                self.assertNotEqual(done.stderr.strip(), "")

    def test_help_ends_with_0_and_names_the_commands(self):
        for arguments in (["--help"], ["pool", "--help"], ["volume", "create", "--help"]):
            done = self.daemon.run(*arguments, status=0)
            self.assertGreater(len(done.stdout.splitlines()), 3, arguments)
        text = self.daemon.run("--help", status=0).stdout
        for word in ("pool", "volume", "attach", "detach", "handover", "lease", "host", "status",
                     "--json", "--runtime-dir"):
            self.assertIn(word, text)
        self.assertLessEqual(max(len(line) for line in text.splitlines()), 120)
        programs.run(programs.binary_directory() / "holdfastd", "--help")
        version = programs.run(programs.binary_directory() / "holdfastd", "--version").stdout
        self.assertRegex(version, r"\d+\.\d+\.\d+")

    def test_global_options_may_follow_the_command(self):
        done = programs.run(programs.binary_directory() / "holdfast", "pool", "list", "--json",
                            "--runtime-dir", self.daemon.runtime)
        self.assertEqual(json.loads(done.stdout), {"pools": []})
        done = programs.run(programs.binary_directory() / "holdfast", "pool", "list", "--json",
                            env=dict(os.environ, HOLDFAST_RUNTIME_DIR=str(self.daemon.runtime)))
        self.assertEqual(json.loads(done.stdout), {"pools": []})

    def test_a_daemon_that_does_not_run_is_named_in_one_line(self):
        self.daemon.stop()
        self.assert_refused("daemon-unreachable", "pool", "list", said=[str(self.daemon.runtime)])

    def test_bash_completion_is_valid_bash(self):
        script = self.daemon.run("completion", "bash", status=0).stdout
        self.assertIn("complete ", script)
        path = self.directory / "completion"
        path.write_text(script)
        programs.run("bash", "-n", path)
        offered = programs.run("bash", "-c", f"""
            source {path}
            COMP_WORDS=(holdfast vol); COMP_CWORD=1; COMP_LINE='holdfast vol'; COMP_POINT=12
            function=$(complete -p holdfast | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
            $function holdfast vol holdfast
            printf '%s\\n' "${{COMPREPLY[@]}}" """).stdout.split()
        self.assertIn("volume", offered)

    def test_the_name_of_a_host_is_checked(self):
        daemon = programs.binary_directory() / "holdfastd"
        for name in ("", "a b", "x" * 49, "ä"):
            with self.subTest(name=name):
                done = programs.run(daemon, "--check-config", "--runtime-dir", self.directory,
                                    "--host-name", name, status=None)
                self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
                self.assertIn("--host-name", done.stderr)
        programs.run(daemon, "--check-config", "--runtime-dir", self.directory,
                     "--host-name", "kvm1.example.org")


if __name__ == "__main__":
    unittest.main()
