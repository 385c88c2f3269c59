// mppx sells on /stripe and /evm: `node mppx_server.mjs '{"port", "bank", "profile", "recipient", "token"}'`.
import { createServer } from 'node:http'
import { evm, Mppx, Request, stripe } from 'mppx/server'

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

const mppx = Mppx.create({
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
})

const routes = {
  '/stripe': mppx.stripe.charge({ amount: '0.50' }),
  '/evm': mppx.evm.charge({ amount: '0.003' }),
  '/evm/x402': mppx.evm.charge({ amount: '0.003' }),
}
let served = 0

async function answer(request) {
  const result = await routes[new URL(request.url).pathname](request)
  if (result.status === 402) return result.challenge
  served += 1
  return result.withReceipt(Response.json({ n: served }))
}

createServer(Request.toNodeListener(answer)).listen(given.port, '127.0.0.1')
