// x402-express sells /report: `node x402_v1_server.mjs '{"port", "facilitator", "payTo"}'`.
import express from 'express'
import { paymentMiddleware } from 'x402-express'

const given = JSON.parse(process.argv[2])
const config = { description: 'The report', mimeType: 'application/json' }
const route = { price: '$0.50', network: 'base-sepolia', config }
let served = 0

const app = express()
app.use(paymentMiddleware(given.payTo, { 'GET /report': route }, { url: given.facilitator }))
app.get('/report', (request, response) => response.json({ n: (served += 1) }))
app.listen(given.port, '127.0.0.1')
