#!/usr/bin/env bash
# Finding: pg_dump and pg_dumpall that write to their standard output end with 0 and without a word where the disk is full when the last buffer is written.
# Seen with: postgresql-client-15 and postgresql-15 of Debian 12 (15.20); November 2026.
# Input: pg_dump > FILE, as the manual's first example has it, plain and with -Fc, and pg_dumpall > FILE; FILE is /dev/full, where every write fails with ENOSPC as on a full disk (full(4)).
# Expected: exit status 1 and "No space left on device": pg_dump checks each write, and says so with -f FILE, as psql does for its standard output.
# Seen: exit status 0 and nothing on standard error. The writes go to a buffer, and whether its last part could be written when the program ends is not looked at. With more output than a buffer it is the end of the dump that is missing.
# Matters: pg_dump … > backup && rm old-backup loses both where the disk fills up at the end. Use -f, or pipe into a program that checks, with pipefail; look for the last line, "PostgreSQL database dump complete", before anything relies on it, and try a dump of -Fc by a restore.
set -euo pipefail

command -v apt-get >/dev/null && command -v dpkg >/dev/null || { echo "needs Debian's apt-get" >&2; exit 77; }
[ -c /dev/full ] || { echo "needs /dev/full" >&2; exit 77; }
folder=$(mktemp -d)
bin=$folder/root/usr/lib/postgresql/15/bin
# The server refuses to run as root.
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$folder")
stop() {
    [ ! -f "$folder/data/postmaster.pid" ] || "${as[@]}" "$bin/pg_ctl" -D "$folder/data" -m immediate -s stop || true
    rm -rf "$folder"
}
trap stop EXIT

mkdir "$folder/packages" "$folder/root"
chmod 777 "$folder/packages"
(cd "$folder/packages" && apt-get -qq download postgresql-15 postgresql-client-15 libpq5 2>/dev/null) \
    || { echo "needs Debian 12's package index" >&2; exit 77; }
for package in "$folder"/packages/*.deb; do dpkg -x "$package" "$folder/root"; done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libpq.so.5' | head -n 1)")
export LD_LIBRARY_PATH
chmod 755 "$folder"
[ "$(id -u)" != 0 ] || chown -R 65534:65534 "$folder"
[ ${#as[@]} = 0 ] || as+=(LD_LIBRARY_PATH="$LD_LIBRARY_PATH")

"${as[@]}" "$bin/initdb" -D "$folder/data" -U finder -A trust --no-sync >/dev/null
"${as[@]}" "$bin/pg_ctl" -D "$folder/data" -w -s -l "$folder/log" start -o "-p 5417 -k $folder -h '' -c fsync=off"
export PGHOST=$folder PGPORT=5417 PGUSER=finder PGDATABASE=postgres LC_ALL=C
"$bin/psql" -XAtqc 'CREATE TABLE ledger AS SELECT n FROM generate_series(1, 100) n'
"$bin/pg_dump" --version

# What a command says and ends with, its standard output where nothing can be written.
run() {
    local status=0
    "$@" >/dev/full 2>"$folder/said" || status=$?
    echo "$(basename "$1") ${*:2}: $status $(grep -o 'No space left on device' "$folder/said" | head -n 1)"
}
seen=$(
    run "$bin/pg_dump"
    run "$bin/pg_dump" -Fc
    run "$bin/pg_dumpall"
    # The controls.
    run "$bin/pg_dump" -f /dev/full
    run "$bin/psql" -Xc 'TABLE ledger'
)
echo "$seen"
[ "$seen" = "pg_dump : 0 
pg_dump -Fc: 0 
pg_dumpall : 0 
pg_dump -f /dev/full: 1 No space left on device
psql -Xc TABLE ledger: 1 No space left on device" ]
