# btcd, btcctl, lnd and lncli, compiled from the modules that .ci/lightning/go.mod names.

lightning_tags="invoicesrpc routerrpc signrpc walletrpc chainrpc"

lightning_version() {
    fingerprint .ci/lightning/go.mod .ci/lightning/go.sum .ci/services/lightning.sh
}

lightning_install() {
    local go
    go=$(find_go .ci/lightning)
    say "compiling with $go; without a build cache this takes some minutes"
    CGO_ENABLED=0 GOWORK=off quietly "$go" -C .ci/lightning build -mod=readonly -buildvcs=false -trimpath \
        -ldflags='-s -w' -tags="$lightning_tags" -o "$1/" tool
}

# find_go MODULE: a Go, on PATH or where it is usually installed, that is new enough for the module.
find_go() {
    local candidate
    for candidate in "$(command -v go || true)" /usr/local/go/bin/go /usr/lib/go/bin/go /usr/lib/go-1.*/bin/go \
        /opt/go/bin/go /opt/homebrew/bin/go /snap/bin/go "$HOME"/go/bin/go "$HOME"/.local/go/bin/go "$HOME"/sdk/go*/bin/go; do
        # With GOTOOLCHAIN=auto an older Go fetches the one that the module asks for.
        if [[ -x $candidate ]] && "$candidate" -C "$1" list -m >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Go that can build $1/go.mod ($(grep '^go ' "$1/go.mod")) on PATH or at the usual places: see https://go.dev/dl"
}
