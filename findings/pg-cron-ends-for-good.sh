#!/usr/bin/env bash
# Finding: pg_cron's launcher, once ended by pg_terminate_backend(), does not come back until the server is restarted, and no job runs.
# Seen with: postgresql-15-cron 1.4.2-2+b1 and PostgreSQL 15 (Debian 12); November 2026.
# Input: the statement with which sessions of a database are commonly cleared, SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid(), in the database that cron.database_name names. The manual (Server Signaling Functions) has the function for any session.
# Expected: the launcher is started anew, as it is after a crash (it is registered to be, after a second), and as the server's own logical replication launcher is after the same call.
# Seen: it says "pg_cron scheduler shutting down" and ends with exit code 0, which tells the server not to start it again: a minute's job never runs any more. Nothing is logged later.
# Matters: whoever ends all sessions of a database, to drop, rename or switch it, stops all jobs without a word. Leave out backend_type = 'pg_cron launcher', and look for it in pg_stat_activity afterwards; a restart of the server brings it back.
set -euo pipefail

command -v apt-get >/dev/null && command -v dpkg >/dev/null || { echo "needs Debian's apt-get" >&2; exit 77; }
cron=postgresql-15-cron=1.4.2-2+b1
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
(cd "$folder/packages" && apt-get -qq download "$cron" postgresql-15 postgresql-client-15 libpq5 2>/dev/null) \
    || { echo "needs Debian 12's package index, with $cron" >&2; exit 77; }
for package in "$folder"/packages/*.deb; do dpkg -x "$package" "$folder/root"; done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libpq.so.5' | head -n 1)")
export LD_LIBRARY_PATH
chmod 755 "$folder"
[ "$(id -u)" != 0 ] || chown -R 65534:65534 "$folder"
[ ${#as[@]} = 0 ] || as+=(LD_LIBRARY_PATH="$LD_LIBRARY_PATH")

"${as[@]}" "$bin/initdb" -D "$folder/data" -U finder -A trust --no-sync >/dev/null
"${as[@]}" "$bin/pg_ctl" -D "$folder/data" -w -s -l "$folder/log" start \
    -o "-p 5415 -k $folder -h '' -c fsync=off -c shared_preload_libraries=pg_cron -c cron.use_background_workers=on"
sql() { "$bin/psql" -h "$folder" -p 5415 -U finder -d postgres -XAtqc "$1"; }
"$bin/postgres" --version
dpkg-deb --show "$folder"/packages/*cron*.deb

launchers() { sql "SELECT count(*) FROM pg_stat_activity WHERE backend_type = '$1'"; }
until_there() {
    for _ in $(seq 100); do [ "$(launchers "$1")" = 1 ] && return; sleep 0.1; done
    return 1
}
until_there 'pg_cron launcher' && until_there 'logical replication launcher'
sql "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE (datname = current_database() AND pid <> pg_backend_pid())
         OR backend_type = 'logical replication launcher'" >/dev/null
for _ in $(seq 100); do [ "$(launchers 'pg_cron launcher')" = 0 ] && break; sleep 0.1; done
seen=$(
    # Its own is started anew after 5 s: by then that of pg_cron, which asks for 1 s, is long due.
    if until_there 'logical replication launcher'; then echo "the server's own launcher: back"; else echo "the server's own launcher: gone"; fi
    sleep 2
    [ "$(launchers 'pg_cron launcher')" = 0 ] && echo "pg_cron's launcher: gone"
    grep -o 'pg_cron scheduler shutting down' "$folder/log"
    "${as[@]}" "$bin/pg_ctl" -D "$folder/data" -w -s -l "$folder/log" -m fast restart
    if until_there 'pg_cron launcher'; then echo "after a restart: back"; fi
)
echo "$seen"
[ "$seen" = "the server's own launcher: back
pg_cron's launcher: gone
pg_cron scheduler shutting down
after a restart: back" ]
