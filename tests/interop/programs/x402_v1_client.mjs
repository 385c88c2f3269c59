// x402-fetch pays once and shows the payment again: `node x402_v1_client.mjs '{"url", "key", "body"}'`.
import { createSigner, decodeXPaymentResponse, wrapFetchWithPayment } from 'x402-fetch'

const given = JSON.parse(process.argv[2])
const data = given.body && JSON.stringify(given.body)
const json = { 'Content-Type': 'application/json' }
const init = data ? { method: 'POST', body: data, headers: json } : { method: 'GET' }
const payments = []

async function watched(input, init) {
  const headers = new Headers(init?.headers)
  if (headers.has('X-PAYMENT')) payments.push(headers)
  return await fetch(input, init)
}

const most = 1_000_000n // it would pay 0.10 USD at most
const signer = await createSigner('base-sepolia', given.key)
const response = await wrapFetchWithPayment(watched, signer, most)(given.url, init)
const settled = decodeXPaymentResponse(response.headers.get('X-PAYMENT-RESPONSE'))
const again = await fetch(given.url, { ...init, headers: payments[0] })
const answers = [response, again].map(async (each) => ({ status: each.status, body: await each.json() }))
const [bought, shown] = await Promise.all(answers)
console.log(JSON.stringify({ ...bought, again: shown, settled, payments: payments.length }))
