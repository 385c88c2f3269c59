// mppx sells on /stripe and /evm: `node mppx_server.mjs '{"port", "bank", "profile", "recipient", "token", "mcp"}'`.
// With `mcp`, it sells the tool `stripe` over MCP; its evm method takes requests of HTTP only.
import { createServer } from 'node:http'
import { evm, Mppx, Request, stripe, Transport } from 'mppx/server'

const given = JSON.parse(process.argv[2])

/** Stripe's library, as far as mppx uses it; it talks to the bank. */
const client = {
  paymentIntents: {
    async create(params, { apiVersion, idempotencyKey }) {
      const body = new URLSearchParams()
      for (const [name, value] of Object.entries(params)) {
        if (typeof value === 'object') for (const [key, text] of Object.entries(value)) body.set(`${name}[${key}]`, text)
        else body.set(name, value)
      }
      const response = await fetch(`${given.bank}/v1/payment_intents`, {
        method: 'POST',
        headers: {
          Authorization: 'Bearer sk_test_peer',
          'Stripe-Version': apiVersion,
          'Idempotency-Key': idempotencyKey,
        },
        body,
      })
      const intent = await response.json()
      if (!response.ok) throw new Error(intent.error.message)
      return { ...intent, lastResponse: { headers: Object.fromEntries(response.headers) } }
    },
  },
}

async function settle({ payload }) {
  const response = await fetch(`${given.bank}/chain`, { method: 'POST', body: JSON.stringify(payload) })
  if (!response.ok) throw new Error(await response.text())
  return { reference: (await response.json()).transaction }
}

const settings = {
  methods: [
    stripe.charge({ client, networkId: given.profile, paymentMethodTypes: ['card'], currency: 'usd', decimals: 2 }),
    evm.charge({
      currency: given.token.address,
      chainId: given.token.chainId,
      decimals: given.token.decimals,
      authorization: { name: given.token.name, version: given.token.version },
      recipient: given.recipient,
      settle,
    }),
  ],
  realm: '127.0.0.1',
  secretKey: 'a secret of the interop tests, 32 bytes or more',
}
let served = 0

function routes() {
  const mppx = Mppx.create(settings)
  const sold = {
    '/stripe': mppx.stripe.charge({ amount: '0.50' }),
    '/evm': mppx.evm.charge({ amount: '0.003' }),
    '/evm/x402': mppx.evm.charge({ amount: '0.003' }),
  }
  return Request.toNodeListener(async (request) => {
    const result = await sold[new URL(request.url).pathname](request)
    if (result.status === 402) return result.challenge
    served += 1
    return result.withReceipt(Response.json({ n: served }))
  })
}

async function tools() {
  const { McpServer } = await import('@modelcontextprotocol/sdk/server/mcp.js')
  const { StreamableHTTPServerTransport } = await import('@modelcontextprotocol/sdk/server/streamableHttp.js')
  const mppx = Mppx.create({ ...settings, transport: Transport.mcpSdk() })
  const charge = mppx.stripe.charge({ amount: '0.50' })
  return async (request, response) => {
    const server = new McpServer({ name: 'peer', version: '1' })
    server.registerTool('stripe', {}, async (extra) => {
      const result = await charge(extra)
      if (result.status === 402) throw result.challenge
      served += 1
      return result.withReceipt({ content: [{ type: 'text', text: `report ${served}` }] })
    })
    const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined })
    await server.connect(transport)
    await transport.handleRequest(request, response)
  }
}

createServer(given.mcp ? await tools() : routes()).listen(given.port, '127.0.0.1')
