#!/usr/bin/env bash
# Finding: through PgBouncer, target_session_attrs goes by what the server said when PgBouncer first connected, so after default_transaction_read_only has changed it chooses a read-only server, or refuses one that can be written to.
# Seen with: pgbouncer 1.18.0-1+deb12u1 and PostgreSQL 15 (Debian 12); November 2026.
# Input: a pool of one database; default_transaction_read_only switched by ALTER SYSTEM and a reload, as runbooks do for maintenance; psql with target_session_attrs=read-write and read-only (manual of libpq, Connection Parameter Key Words). Since PostgreSQL 14 the server reports that setting, and libpq decides by the report without asking.
# Expected: each new client is told what holds: PgBouncer's client is connected now, and the server has reported the change to every session that is there.
# Seen: PgBouncer answers clients with the reports of its first server connection. What the server reports later stays with that connection: until RECONNECT, or until the pool has no server connection left (server_lifetime, an hour) and makes another, "session is read-only" for a server that takes writes, and the other way round.
# Matters: multi-host connection strings behind a pooler go on to the wrong server, or to none, after a switch. After each change: RECONNECT on PgBouncer's console. SHOW transaction_read_only through the pool tells the truth.
set -euo pipefail

command -v apt-get >/dev/null && command -v dpkg >/dev/null || { echo "needs Debian's apt-get" >&2; exit 77; }
pooler=pgbouncer=1.18.0-1+deb12u1
folder=$(mktemp -d)
bin=$folder/root/usr/lib/postgresql/15/bin
# Neither server runs as root.
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$folder")
stop() {
    [ ! -f "$folder/pooler.pid" ] || kill "$(cat "$folder/pooler.pid")" 2>/dev/null || true
    [ ! -f "$folder/data/postmaster.pid" ] || "${as[@]}" "$bin/pg_ctl" -D "$folder/data" -m immediate -s stop || true
    rm -rf "$folder"
}
trap stop EXIT

mkdir "$folder/packages" "$folder/root"
chmod 777 "$folder/packages"
(cd "$folder/packages" && apt-get -qq download "$pooler" postgresql-15 postgresql-client-15 libpq5 libevent-2.1-7 libc-ares2 2>/dev/null) \
    || { echo "needs Debian 12's package index, with $pooler" >&2; exit 77; }
for package in "$folder"/packages/*.deb; do dpkg -x "$package" "$folder/root"; done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libpq.so.5' | head -n 1)")
export LD_LIBRARY_PATH
chmod 755 "$folder"
cat >"$folder/pooler.ini" <<INI
[databases]
pooled = host=$folder port=5416 dbname=postgres user=finder
[pgbouncer]
listen_addr =
unix_socket_dir = $folder
listen_port = 6416
auth_type = any
admin_users = finder
logfile = $folder/pooler.log
pidfile = $folder/pooler.pid
INI
[ "$(id -u)" != 0 ] || chown -R 65534:65534 "$folder"
[ ${#as[@]} = 0 ] || as+=(LD_LIBRARY_PATH="$LD_LIBRARY_PATH")

"${as[@]}" "$bin/initdb" -D "$folder/data" -U finder -A trust --no-sync >/dev/null
"${as[@]}" "$bin/pg_ctl" -D "$folder/data" -w -s -l "$folder/log" start -o "-p 5416 -k $folder -h '' -c fsync=off"
"${as[@]}" "$folder/root/usr/sbin/pgbouncer" -q -d "$folder/pooler.ini"
"$bin/postgres" --version
dpkg-deb --show "$folder"/packages/pgbouncer*.deb

direct="host=$folder port=5416 dbname=postgres user=finder"
pooled="host=$folder port=6416 dbname=pooled user=finder"
sql() { "$bin/psql" -XAtqd "$1" -c "$2"; }
for _ in $(seq 100); do sql "$pooled" 'SELECT 1' >/dev/null 2>&1 && break; sleep 0.1; done
switch() {
    sql "$direct" "ALTER SYSTEM SET default_transaction_read_only = $1"
    sql "$direct" 'SELECT pg_reload_conf()' >/dev/null
    # The pool's own connection has heard of it, too.
    for _ in $(seq 100); do [ "$(sql "$pooled" 'SHOW default_transaction_read_only')" = "$1" ] && return; sleep 0.1; done
    return 1
}
wish() {
    if sql "$1 target_session_attrs=$2" 'SELECT 1' >/dev/null 2>&1; then echo "$2: connected"; else echo "$2: refused"; fi
}
look() {
    echo "$1, direct: $(wish "$direct" read-write), $(wish "$direct" read-only)"
    echo "$1, pooled: $(wish "$pooled" read-write), $(wish "$pooled" read-only)"
}
seen=$(
    look off
    switch on
    look on
    sql "${pooled/dbname=pooled/dbname=pgbouncer}" 'RECONNECT'
    sql "$pooled" 'SELECT 1' >/dev/null
    look 'on, after RECONNECT'
    switch off
    look 'off again'
)
echo "$seen"
[ "$seen" = "off, direct: read-write: connected, read-only: refused
off, pooled: read-write: connected, read-only: refused
on, direct: read-write: refused, read-only: connected
on, pooled: read-write: connected, read-only: refused
on, after RECONNECT, direct: read-write: refused, read-only: connected
on, after RECONNECT, pooled: read-write: refused, read-only: connected
off again, direct: read-write: connected, read-only: refused
off again, pooled: read-write: refused, read-only: connected" ]
