# What the steps of .ci/run share.

export HOME="${HOME:-$(cd ~ && pwd)}" # Go and pip need it, and a bare container may lack it
export RAIL402_SERVICES="${RAIL402_SERVICES:-$HOME/.cache/rail402-services}"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

say() {
    printf '[%4d s] %s\n' "$SECONDS" "$*"
}

fail() {
    say "$*" >&2
    exit 1
}

# step TITLE COMMAND...: run the command and say how long it took.
step() {
    local title=$1 start=$SECONDS
    shift
    say "$title ..."
    "$@"
    say "$title: $((SECONDS - start)) s"
}

# quietly COMMAND...: run the program; show what it printed only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    if ((status)); then
        tail -n 60 "$log" >&2
        say "failed with status $status: $*" >&2
    fi
    rm -f "$log"
    return "$status"
}

# fingerprint FILE...: changes when one of the files does.
fingerprint() {
    cat "$@" | cksum
}

# provide SERVICE: install it, unless its marker says that this very version is there.
provide() {
    local name=$1 folder="$RAIL402_SERVICES/$1" version
    version=$("${name}_version")
    if [[ -f $folder/.installed && $(<"$folder/.installed") == "$version" ]]; then
        say "$name: installed"
        return
    fi
    rm -rf "$folder"
    mkdir -p "$folder"
    step "$name" "${name}_install" "$folder"
    printf '%s\n' "$version" >"$folder/.installed"
}

# find_python MINIMUM BELOW: the first Python on PATH in that range of 3.x versions which can make environments.
find_python() {
    local candidate
    for candidate in python3.12 python3.11 python3 python3.13 python3.10; do
        # Run it: a version manager's shim may stand for an interpreter that is not selected.
        "$candidate" - "$1" "$2" 2>/dev/null <<'EOF' && return
import ensurepip, sys, venv
if not int(sys.argv[1]) <= sys.version_info.minor < int(sys.argv[2]):
    sys.exit(1)
print(sys.executable)
EOF
    done
    fail "no Python >=3.$1,<3.$2 with venv and ensurepip on PATH (Debian: apt-get install python3 python3-venv)"
}

# The project and its development tools in .venv, as `make` has it.
python_environment() {
    local python
    python=$(find_python 11 14)
    quietly make .venv/.developing PYTHON="$python"
}

# apt_install PACKAGE...: install Debian packages where that is allowed.
apt_install() {
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || fail "root and apt-get are needed to install $*"
    quietly apt-get update
    DEBIAN_FRONTEND=noninteractive quietly apt-get install --yes --no-install-recommends "$@"
}
