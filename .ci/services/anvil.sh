# An EVM chain on this machine, and what the tests pay with on it: a token, and a wallet that is a contract.

anvil_version() {
    fingerprint .ci/anvil/{.npmrc,package.json,package-lock.json,compile.js,UsdcLike.sol,SmartWallet.sol} .ci/services/anvil.sh
}

anvil_install() {
    local -a programs
    command -v npm >/dev/null || fail "no npm on PATH: the EVM chain is an npm package (Debian: apt-get install nodejs npm)"
    cp .ci/anvil/{.npmrc,package.json,package-lock.json,compile.js,UsdcLike.sol,SmartWallet.sol} "$1"
    (
        cd "$1"
        # Not `npm ci`: of the packages with programs the lock names only those that the machine that wrote it uses.
        quietly npm install
        programs=(node_modules/@foundry-rs/anvil-*/bin/anvil)
        ln -s "${programs[0]}" anvil
        quietly ./anvil --version
        quietly node compile.js UsdcLike.sol token.json
        quietly node compile.js SmartWallet.sol wallet.json
    )
}
