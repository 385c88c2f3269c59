# x402's own library in an environment of its own, with what its clients and servers run on and the program that makes a
# facilitator of it.

# Its extensions import jsonschema; the extra that brings it wants an older eth-account too, for what is not used here.
x402_requirements=('x402[evm,fastapi,flask,httpx,requests]==2.25.0' jsonschema uvicorn)

x402_version() {
    local python
    python=$(find_python 11 14)
    printf '%s %s' "$python" "$(fingerprint .ci/x402/{constraints.txt,facilitator.py} .ci/services/x402.sh)"
}

x402_install() {
    local python
    python=$(find_python 11 14)
    quietly "$python" -m venv "$1"
    quietly "$1/bin/python" -m pip install --constraint .ci/x402/constraints.txt "${x402_requirements[@]}"
    cp .ci/x402/facilitator.py "$1"
    (cd "$1" && quietly bin/python -c 'import facilitator')
}
