#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The NBD frontend against real clients: libnbd's tools, QEMU's and fio, over a unix socket.
#   memory_server_test.sh PROGRAM
set -euo pipefail

program=$1
directory=$(mktemp -d)
socket=$directory/nbd.sock
uri="nbd+unix:///memory?socket=$socket"
server=

start_server() {
  "$program" "$socket" --size 256M "$@" > "$directory/server.out" &
  server=$!
  for _ in $(seq 100); do
    [ -S "$socket" ] && return
    sleep 0.05
  done
  echo "the server did not listen on $socket" >&2
  exit 1
}
stop_server() {
  kill -TERM "$server"
  wait "$server"
  server=
}
clean_up() {
  if [ -n "$server" ]; then kill -KILL "$server" 2>/dev/null || true; fi
  rm -rf "$directory"
}
trap clean_up EXIT

fail() {
  echo "FAILED: $1" >&2
  exit 1
}
expect_line() { # FILE PATTERN
  grep -Eq "$2" "$1" || { cat "$1" >&2; fail "no line matches $2"; }
}

start_server

timeout 20 nbdinfo "$uri" > "$directory/info"
expect_line "$directory/info" 'newstyle-fixed without TLS, using structured packets'
expect_line "$directory/info" 'export-size: 268435456'
expect_line "$directory/info" 'can_multi_conn: true'
expect_line "$directory/info" 'can_fua: true'
expect_line "$directory/info" 'can_zero: true'
expect_line "$directory/info" 'can_cache: false'
expect_line "$directory/info" 'base:allocation'
expect_line "$directory/info" 'block_size_maximum: 33554432'
timeout 20 nbdinfo --list "nbd+unix:///?socket=$socket" > "$directory/list"
expect_line "$directory/list" 'export="memory"'
if timeout 20 nbdinfo "nbd+unix:///other?socket=$socket" > "$directory/other" 2>&1; then
  fail "an unknown export was served"
fi

# Round trip by several connections; the hole at the end stays one.
head -c 64M /dev/urandom > "$directory/disk"
truncate -s 256M "$directory/disk"
timeout 60 nbdcopy "$directory/disk" "$uri"
timeout 60 nbdcopy "$uri" "$directory/copy"
cmp "$directory/disk" "$directory/copy"
timeout 20 nbdinfo --map "$uri" > "$directory/map"
expect_line "$directory/map" '^ *0 +67108864 +0 +data$'
expect_line "$directory/map" '^ *67108864 +201326592 +3 +hole,zero$'

# QEMU, in both directions.
timeout 60 qemu-img convert -f raw -O qcow2 "$uri" "$directory/disk.qcow2"
timeout 60 qemu-img compare -f raw -F qcow2 "$directory/disk" "$directory/disk.qcow2"
timeout 60 qemu-img convert -n -f qcow2 -O raw "$directory/disk.qcow2" "$uri"
timeout 60 qemu-img compare -f raw -F raw "$directory/disk" "$uri"
timeout 60 qemu-io -f raw \
  -c 'write -P 0x5a 1234567 7654321' -c 'read -P 0x5a 1234567 7654321' \
  -c 'write -z 2M 3M' -c 'read -P 0 2M 3M' \
  -c 'discard 1M 1M' \
  -c 'write -f -P 1 0 32M' -c 'read -P 1 1 33554431' \
  -c 'flush' "$uri" > "$directory/qemu-io" 2>&1 || fail "qemu-io: $(cat "$directory/qemu-io")"
if grep -Eqi 'pattern verification failed|error' "$directory/qemu-io"; then
  fail "qemu-io: $(cat "$directory/qemu-io")"
fi

# Sizes and offsets of every kind, each block verified.
(cd "$directory" && timeout 100 fio --name=verify --ioengine=nbd --uri="$uri" --rw=randwrite \
  --bsrange=512-64k --bs_unaligned=1 --iodepth=32 --size=64M --verify=crc32c --verify_fatal=1 \
  --randrepeat=0 --output="$directory/fio.out") || fail "fio: $(cat "$directory/fio.out")"

# A client killed in the middle leaves the server able to serve the next.
timeout -s KILL 0.1 nbdcopy "$directory/disk" "$uri" 2>/dev/null || true
timeout 20 nbdinfo "$uri" > /dev/null
stop_server
expect_line "$directory/server.out" 'requests [0-9]+ failed 0 '

start_server --read-only
timeout 20 nbdinfo "$uri" > "$directory/info"
expect_line "$directory/info" 'is_read_only: true'
if timeout 20 qemu-io -f raw -c 'write 0 4096' "$uri" > "$directory/qemu-io" 2>&1; then
  grep -q 'wrote' "$directory/qemu-io" && fail "a read-only export was written"
fi
stop_server
echo "all clients are content"
