// The npm package l402 pays once: `node l402_client.mjs '{"url", "node": {"url", "macaroon"}}'`.
import axios from 'axios'
import l402 from 'l402'
import { pay } from './lnd.mjs'

const given = JSON.parse(process.argv[2])

class Lnd extends l402.Wallet {
  async payInvoice(invoice) {
    return new l402.PaymentResult(await pay(given.node, invoice), true)
  }
}

const client = axios.create()
l402.setupL402Interceptor(client, new Lnd(), new l402.MemoryTokenStore())
const response = await client.get(given.url)
console.log(JSON.stringify({ status: response.status, body: response.data }))
