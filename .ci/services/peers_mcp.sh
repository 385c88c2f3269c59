# The released clients that pay for tools over MCP and that the interop tests run: mppx for Node, x402 and pympp for
# Python, each with its language's SDK of MCP. pympp wants version 1 of that, which x402 runs on as well.

peers_mcp_requirements=('x402[evm,mcp]' 'pympp[server,stripe,evm,mcp]')

peers_mcp_version() {
    peers_version .ci/peers-mcp .ci/services/peers_mcp.sh
}

peers_mcp_install() {
    peers_install .ci/peers-mcp "$1" "${peers_mcp_requirements[@]}"
    quietly "$1/python/bin/python" -c 'import mcp, mpp.extensions.mcp, x402.mcp'
    (cd "$1" && quietly node --input-type=module -e 'import "@modelcontextprotocol/sdk/client/index.js"; import "mppx/mcp/client"')
}
