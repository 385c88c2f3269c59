# OpenAI's client and LangChain, as their authors ship them, and what rail402 itself runs on: the programs that the interop
# tests run there find it in the sources.

peers_agents_requirements=(openai langchain httpx joserfc pydantic rfc8785 coincurve pycryptodome eth-account cryptography websockets)

peers_agents_version() {
    agents_version .ci/peers-agents/constraints.txt .ci/services/peers_agents.sh
}

peers_agents_install() {
    agents_install .ci/peers-agents/constraints.txt "$1" "${peers_agents_requirements[@]}"
    quietly "$1/bin/python" -c 'import openai, langchain.agents, langchain_core.tools'
}

# agents_version CONSTRAINTS SCRIPT: changes with both, and with the Python.
agents_version() {
    local python
    python=$(find_python 11 14)
    printf '%s %s' "$python" "$(fingerprint "$1" "$2" .ci/services/peers_agents.sh)"
}

# agents_install CONSTRAINTS FOLDER REQUIREMENT...: a Python environment in FOLDER, as the constraints have it.
agents_install() {
    local constraints=$1 folder=$2 python
    shift 2
    python=$(find_python 11 14)
    quietly "$python" -m venv "$folder"
    quietly "$folder/bin/python" -m pip install --constraint "$constraints" "$@"
}
