#!/usr/bin/env bash
# Finding: cron.launch_active_jobs = off, the switch that pg_cron's page names to hold all jobs, is taken without a word by Debian 12's pg_cron, which has no such switch, and the jobs run.
# Seen with: postgresql-15-cron 1.4.2-2+b1 and PostgreSQL 15 (Debian 12); November 2026.
# Input: a server started with -c cron.launch_active_jobs=off, and a job for every minute, set by cron.schedule().
# Expected: the job waits until the switch is on; or, where the release has no such switch, a WARNING "invalid configuration parameter name", as PostgreSQL 15 gives where an extension keeps its prefix to itself (MarkGUCPrefixReserved), plpgsql for one.
# Seen: SHOW says off, the log says nothing of it, and the job runs within the minute. 1.4.2 does not keep the prefix cron, so that any name below it is a setting which nobody reads, as cron.no_such_setting is.
# Matters: a copy of a server that was started with the switch off, to look at a restored backup or to make another node of a replica, does its jobs a second time, on whatever they reach. See in pg_settings whether the setting is there (a name that nobody has defined is not), and else start the copy without pg_cron in shared_preload_libraries.
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
    -o "-p 5416 -k $folder -h '' -c fsync=off -c shared_preload_libraries=pg_cron -c cron.use_background_workers=on -c cron.launch_active_jobs=off -c cron.no_such_setting=off -c plpgsql.no_such_setting=off"
sql() { "$bin/psql" -h "$folder" -p 5416 -U finder -d postgres -XAtqc "$1"; }
"$bin/postgres" --version
dpkg-deb --show "$folder"/packages/*cron*.deb

sql 'CREATE EXTENSION pg_cron'
# The control: an extension that keeps its prefix to itself.
sql "DO 'BEGIN END'" 2>/dev/null
sql 'CREATE TABLE ran (at timestamptz DEFAULT now())'
sql "SELECT cron.schedule('* * * * *', 'INSERT INTO public.ran DEFAULT VALUES')" >/dev/null
ran=0
for _ in $(seq 1300); do
    ran=$(sql 'SELECT count(*) FROM ran')
    [ "$ran" = 0 ] || break
    sleep 0.1
done
seen=$(
    echo "launch_active_jobs: $(sql 'SHOW cron.launch_active_jobs'), no_such_setting: $(sql 'SHOW cron.no_such_setting')"
    echo "settings of that name: $(sql "SELECT count(*) FROM pg_settings WHERE name = 'cron.launch_active_jobs'")"
    echo "lines of the log about it: $(grep -c 'launch_active_jobs' "$folder/log" || true)"
    echo "of plpgsql's: $(grep -o 'invalid configuration parameter name "plpgsql.no_such_setting"' "$folder/log" | sort -u)"
    echo "the job has run: $([ "$ran" = 0 ] && echo no || echo yes)"
)
echo "$seen"
[ "$seen" = "launch_active_jobs: off, no_such_setting: off
settings of that name: 0
lines of the log about it: 0
of plpgsql's: invalid configuration parameter name \"plpgsql.no_such_setting\"
the job has run: yes" ]
