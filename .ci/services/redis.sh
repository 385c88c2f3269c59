# Redis 6 or newer (or Valkey): what the machine has, else what Debian has. `redis-server` is the server.

redis_version() {
    printf '%s %s' "$(find_redis || true)" "$(fingerprint .ci/services/redis.sh)"
}

redis_install() {
    local server
    server=$(find_redis) || apt_install redis-tools
    server=$(find_redis) || fail "no Redis 6 or newer (Debian: apt-get install redis-server)"
    ln -s "$server" "$1/redis-server"
    "$1/redis-server" --version | grep -Eq '^(Redis|Valkey) server' || fail "$server is no Redis server"
}

# find_redis: the server's program. In Debian the server is one more name of the program that checks its files, which
# is in a package that starts nothing.
find_redis() {
    local program
    for program in redis-server valkey-server redis-check-rdb valkey-check-rdb; do
        command -v "$program" && return
    done
    return 1
}
