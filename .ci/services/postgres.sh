# PostgreSQL 13 or newer: what the machine has, else what Debian has. `bin` points to its programs.

postgres_version() {
    printf '%s %s' "$(find_postgres || true)" "$(fingerprint .ci/services/postgres.sh)"
}

postgres_install() {
    local programs
    programs=$(find_postgres) || install_postgres
    programs=$(find_postgres) || fail "no PostgreSQL 13 or newer (Debian: apt-get install postgresql)"
    ln -s "$programs" "$1/bin"
    quietly "$1/bin/postgres" --version
}

# find_postgres: the folder of the newest PostgreSQL that is new enough, with all that it takes to start one.
find_postgres() {
    local folder major
    for folder in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort --version-sort --reverse) \
        "$(pg_config --bindir 2>/dev/null || true)" "$(dirname "$(command -v postgres || true)")" \
        /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/pgsql/bin; do
        [[ -x $folder/postgres && -x $folder/initdb ]] || continue
        major=$("$folder/postgres" --version 2>/dev/null | sed -E 's/[^0-9]*([0-9]+).*/\1/')
        if ((${major:-0} >= 13)); then
            printf '%s\n' "$folder"
            return
        fi
    done
    return 1
}

install_postgres() {
    apt_install postgresql-common
    # The tests start servers of their own; the machine gets none.
    sed -i -E 's/^#?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
    apt_install postgresql
}
