// @x402/express sells /report, and /named to payments with a name, which it prints:
// `node x402_server.mjs '{"port", "facilitator", "payTo"}'`.
import express from 'express'
import { HTTPFacilitatorClient } from '@x402/core/server'
import { registerExactEvmScheme } from '@x402/evm/exact/server'
import { declarePaymentIdentifierExtension, extractPaymentIdentifier, PAYMENT_IDENTIFIER } from '@x402/extensions'
import { paymentMiddleware, x402ResourceServer } from '@x402/express'

const given = JSON.parse(process.argv[2])
const network = 'eip155:84532'
const server = new x402ResourceServer(new HTTPFacilitatorClient({ url: given.facilitator }))
registerExactEvmScheme(server, { networks: [network] })
server.onAfterVerify(async ({ paymentPayload }) => console.log('named:', extractPaymentIdentifier(paymentPayload)))
const accepts = { scheme: 'exact', network, payTo: given.payTo, price: '$0.50' }
const routes = {
  'GET /report': { accepts, description: 'The report', mimeType: 'application/json' },
  'GET /named': { accepts, extensions: { [PAYMENT_IDENTIFIER]: declarePaymentIdentifierExtension(true) } },
}
let served = 0

const app = express()
app.use(paymentMiddleware(routes, server))
app.get(['/report', '/named'], (request, response) => response.json({ n: (served += 1) }))
app.listen(given.port, '127.0.0.1')
