# LNbits in an environment of its own: it pins other versions of what we use.

lnbits_requirements=('lnbits==1.6.2' 'bitstring<5') # bolt11, which it uses, breaks with bitstring 5

lnbits_version() {
    local python
    python=$(find_python 10 13)
    printf '%s %s' "$python" "$(fingerprint .ci/lnbits/constraints.txt .ci/services/lnbits.sh)"
}

lnbits_install() {
    local python
    python=$(find_python 10 13)
    quietly "$python" -m venv "$1"
    quietly "$1/bin/python" -m pip install --constraint .ci/lnbits/constraints.txt "${lnbits_requirements[@]}"
    # In its own folder: it writes a data folder into the working directory when it is imported.
    (cd "$1" && quietly bin/python -c 'import lnbits.wallets')
}
