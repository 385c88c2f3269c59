# The released JavaScript clients and servers of x402, versions 1 and 2, that the interop tests run; x402.sh has those
# in Python. Of version 1 all is there but browser wallets, which its page for people would connect: package.json
# overrides the package that brings 500 MB of them.

peers_x402_version() {
    find_node
    printf '%s %s' "$(node --version)" \
        "$(fingerprint .ci/peers-x402/{.npmrc,package.json,package-lock.json} .ci/services/peers_x402.sh)"
}

peers_x402_install() {
    find_node
    cp .ci/peers-x402/{.npmrc,package.json,package-lock.json} "$1"
    (
        cd "$1"
        quietly npm ci --ignore-scripts --no-progress
        quietly node --input-type=module --eval 'import "@x402/axios"; import "@x402/fetch"; import "@x402/express"'
        quietly node --input-type=module --eval 'import "x402-fetch"; import "x402-express"'
    )
}
