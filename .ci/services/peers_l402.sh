# The released L402 clients that the interop tests run, and pymacaroons, each as its authors ship it.

peers_l402_requirements=(l402-requests pymacaroons)

peers_l402_version() {
    peers_version .ci/peers-l402 .ci/services/peers_l402.sh
}

peers_l402_install() {
    peers_install .ci/peers-l402 "$1" "${peers_l402_requirements[@]}"
    quietly "$1/python/bin/python" -c 'import l402_requests, pymacaroons'
    (cd "$1" && quietly node --input-type=module -e 'import "@getalby/lightning-tools"; import "l402"')
}
