// @x402/fetch or @x402/axios pays once and shows the payment again:
// `node x402_client.mjs '{"url", "library", "key", "body", "id"}'`.
// With an id it gives that name to the payment, and in the end to another payment.
import axios from 'axios'
import { registerExactEvmScheme } from '@x402/evm/exact/client'
import * as forAxios from '@x402/axios'
import { appendPaymentIdentifierToExtensions } from '@x402/extensions'
import * as forFetch from '@x402/fetch'
import { privateKeyToAccount } from 'viem/accounts'

const given = JSON.parse(process.argv[2])
const data = given.body && JSON.stringify(given.body)
const json = { 'Content-Type': 'application/json' }
const init = data ? { method: 'POST', body: data, headers: json } : { method: 'GET' }
const payments = []

function wallet({ x402Client }) {
  const client = new x402Client()
  registerExactEvmScheme(client, { signer: privateKeyToAccount(given.key) })
  if (given.id) {
    client.onBeforePaymentCreation(async ({ paymentRequired }) => {
      appendPaymentIdentifierToExtensions(paymentRequired.extensions, given.id)
    })
  }
  return client.onAfterPaymentCreation(async ({ paymentPayload }) => void payments.push(paymentPayload))
}

async function withFetch() {
  const { x402HTTPClient, wrapFetchWithPayment } = forFetch
  const http = new x402HTTPClient(wallet(forFetch))
  const response = await wrapFetchWithPayment(fetch, http)(given.url, init)
  const settled = http.getPaymentSettleResponse((name) => response.headers.get(name))
  const headers = { ...init.headers, ...http.encodePaymentSignatureHeader(payments[0]) }
  const again = await fetch(given.url, { ...init, headers })
  const other = given.id && (await wrapFetchWithPayment(fetch, http)(given.url, init)).status
  const answers = [response, again].map(async (each) => ({ status: each.status, body: await each.json() }))
  return [...(await Promise.all(answers)), settled, other]
}

async function withAxios() {
  const { x402HTTPClient, wrapAxiosWithPayment } = forAxios
  const client = wallet(forAxios)
  const http = new x402HTTPClient(client)
  const { method, headers: own } = init
  const request = { url: given.url, method, headers: own, data, validateStatus: (status) => status !== 402 }
  const response = await wrapAxiosWithPayment(axios.create(), client).request(request)
  const settled = http.getPaymentSettleResponse((name) => response.headers[name.toLowerCase()])
  const headers = { ...own, ...http.encodePaymentSignatureHeader(payments[0]) }
  const again = await axios.request({ ...request, headers, validateStatus: null })
  return [{ status: response.status, body: response.data }, { status: again.status, body: again.data }, settled]
}

const [first, again, settled, other] = await { fetch: withFetch, axios: withAxios }[given.library]()
console.log(JSON.stringify({ ...first, again, settled, other, payments: payments.length }))
