// Alby's tools pay once: `node alby_client.mjs '{"url", "protocol", "node": {"url", "macaroon"}}'`.
import { fetchWithL402, fetchWithMpp, fetchWithX402 } from '@getalby/lightning-tools'
import { pay } from './lnd.mjs'

const given = JSON.parse(process.argv[2])
const wallet = { payInvoice: async ({ invoice }) => ({ preimage: await pay(given.node, invoice) }) }
const fetchers = { L402: fetchWithL402, MPP: fetchWithMpp, x402: fetchWithX402 }

const response = await fetchers[given.protocol](given.url, {}, { wallet })
const { paid, amountSat, credentials } = response.payment ?? {}
const shown = credentials && { header: credentials.header, scheme: credentials.value.split(' ')[0].slice(0, 8) }
console.log(JSON.stringify({ status: response.status, body: await response.json(), paid, amountSat, shown }))
