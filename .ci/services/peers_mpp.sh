# The released MPP clients and servers that the interop tests run: mppx for Node, pympp for Python.

peers_mpp_requirements=('pympp[server,stripe,evm]')

peers_mpp_version() {
    peers_version .ci/peers-mpp .ci/services/peers_mpp.sh
}

peers_mpp_install() {
    peers_install .ci/peers-mpp "$1" "${peers_mpp_requirements[@]}"
    quietly "$1/python/bin/python" -c 'import mpp.client, mpp.server, mpp.methods.stripe.client, mpp.methods.evm'
    quietly node "$1/node_modules/mppx/dist/bin.js" --version
}

# peers_version LOCKS SCRIPT: changes with the locks of a folder, the script, the Python and the Node.
peers_version() {
    local python
    python=$(find_python 11 13)
    find_node
    printf '%s %s %s' "$python" "$(node --version)" \
        "$(fingerprint "$1"/{.npmrc,package.json,package-lock.json,constraints.txt} "$2" .ci/services/peers_mpp.sh)"
}

# peers_install LOCKS FOLDER REQUIREMENT...: FOLDER/node_modules and FOLDER/python, both as the locks have it.
peers_install() {
    local locks=$1 folder=$2 python
    shift 2
    python=$(find_python 11 13)
    find_node
    cp "$locks"/{.npmrc,package.json,package-lock.json} "$folder"
    (cd "$folder" && quietly npm ci --ignore-scripts --no-progress)
    quietly "$python" -m venv "$folder/python"
    quietly "$folder/python/bin/python" -m pip install --constraint "$locks/constraints.txt" "$@"
}

# find_node: fails without a Node that the peers run on.
find_node() {
    local version
    version=$(node --version 2>/dev/null) && command -v npm >/dev/null ||
        fail "no node and npm on PATH: the JavaScript peers of the interop tests need Node 20 or newer"
    version=${version#v}
    ((${version%%.*} >= 20)) || fail "node $version is too old for the peers of the interop tests: they need 20 or newer"
}
