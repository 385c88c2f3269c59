# stripe-mock, compiled from the module that .ci/stripe-mock/go.mod names, and the descriptions of the API in it: it checks
# names of parameters only where they are not nested, so the tests read them too.

stripe_mock_version() {
    fingerprint .ci/stripe-mock/go.mod .ci/stripe-mock/go.sum .ci/services/stripe_mock.sh
}

stripe_mock_install() {
    local go source
    go=$(find_go .ci/stripe-mock)
    CGO_ENABLED=0 GOWORK=off quietly "$go" -C .ci/stripe-mock build -mod=readonly -buildvcs=false -trimpath \
        -ldflags='-s -w' -o "$1/" tool
    source=$(GOWORK=off "$go" -C .ci/stripe-mock list -m -f '{{.Dir}}' github.com/stripe/stripe-mock)
    cp "$source/embedded/openapi/spec3.json" "$1/released.json"
    cp "$source/embedded/openapi/spec3.beta.sdk.json" "$1/preview.json"
    chmod u+w "$1"/*.json # files of Go's are read-only
}
