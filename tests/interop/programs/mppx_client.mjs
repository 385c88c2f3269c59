// mppx pays once: `node mppx_client.mjs '{"url", "bank", "method", "key", "token", "body"}'`.
// With a `tool`, it pays for that, over MCP, and shows the payment again.
import { createHmac, randomBytes } from 'node:crypto'
import { Credential, Method, Receipt, z } from 'mppx'
import { evm, Mppx, stripe } from 'mppx/client'
import { privateKeyToAccount } from 'viem/accounts'

const given = JSON.parse(process.argv[2])

async function createToken({ amount, currency, networkId, expiresAt, paymentMethod }) {
  const limits = { currency, max_amount: amount, expires_at: String(expiresAt) }
  const body = new URLSearchParams({ payment_method: paymentMethod, 'seller_details[network_id]': networkId })
  for (const [name, value] of Object.entries(limits)) body.set(`usage_limits[${name}]`, value)
  const response = await fetch(`${given.bank}/v1/test_helpers/shared_payment/granted_tokens`, {
    method: 'POST',
    headers: { Authorization: 'Bearer sk_test_peer' },
    body,
  })
  const token = await response.json()
  if (!response.ok) throw new Error(JSON.stringify(token))
  return token.id
}

// A method of our own, as a third party would write one: the payer signs the terms with a secret shared with its bank.
const custom = Method.toClient(
  Method.from({
    name: 'fake',
    intent: 'charge',
    schema: {
      request: z.looseObject({ amount: z.string(), currency: z.string(), recipient: z.string() }),
      credential: { payload: z.looseObject({ signature: z.string() }) },
    },
  }),
  {
    async createCredential({ challenge }) {
      const { amount, currency, recipient } = challenge.request
      const validBefore = Math.floor(Date.parse(challenge.expires) / 1000)
      const nonce = randomBytes(32).toString('hex')
      const terms = { payer: 'mppx', payee: recipient, network: 'fake:fake', asset: currency, amount, nonce }
      const text = [...Object.values(terms), String(validBefore)].join('\n')
      const signature = createHmac('sha256', given.key).update(text).digest('hex')
      return Credential.serialize({ challenge, payload: { ...terms, valid_before: validBefore, signature } })
    },
  },
)

const methods = {
  stripe: () => stripe.charge({ createToken, paymentMethod: 'pm_card_visa' }),
  evm: () =>
    evm.charge({
      account: privateKeyToAccount(given.key),
      authorization: { name: given.token.name, version: given.token.version },
      networks: [given.token.chainId],
    }),
  fake: () => custom,
}

async function callTool() {
  const { Client } = await import('@modelcontextprotocol/sdk/client/index.js')
  const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js')
  const { McpClient } = await import('mppx/mcp/client')
  const client = new Client({ name: 'peer', version: '1' })
  await client.connect(new StreamableHTTPClientTransport(new URL(given.url)))
  const plain = client.callTool.bind(client)
  const paid = []
  const progress = []
  client.callTool = (params, ...rest) => {
    if (params._meta?.['org.paymentauth/credential']) paid.push(params)
    return plain(params, ...rest)
  }
  McpClient.wrap(client, { methods: [methods[given.method]()] })
  const onprogress = (each) => progress.push([each.progress, each.total, each.message])
  const answer = await client.callTool({ name: given.tool, arguments: { n: 1 } }, undefined, { onprogress })
  const again = await plain(paid[0])
  await client.close()
  return { content: answer.content, receipt: answer.receipt, again, payments: paid.length, progress }
}

async function fetchOnce() {
  const mppx = Mppx.create({ methods: [methods[given.method]()], polyfill: false })
  const request = given.body
    ? { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(given.body) }
    : {}
  const response = await mppx.fetch(given.url, request)
  const receipt = response.headers.get('payment-receipt')
  return {
    status: response.status,
    body: await response.json(),
    receipt: receipt ? Receipt.deserialize(receipt) : null,
  }
}

console.log(JSON.stringify(await (given.tool ? callTool() : fetchOnce())))
