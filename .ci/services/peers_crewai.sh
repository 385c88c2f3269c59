# CrewAI with its adapter for MCP, as its authors ship it. It is by far the largest of the peers: 1.1 GB.

peers_crewai_requirements=(crewai-tools mcpadapt mcp)

peers_crewai_version() {
    agents_version .ci/peers-crewai/constraints.txt .ci/services/peers_crewai.sh
}

peers_crewai_install() {
    agents_install .ci/peers-crewai/constraints.txt "$1" "${peers_crewai_requirements[@]}"
    quietly "$1/bin/python" -c 'import crewai_tools, mcpadapt.core'
}
